"""Channels of audio: opposite channels, silence, and which channel is kept"""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from remix_study.errors import ConfigError, MediaError
from remix_study.media.card import in_words
from remix_study.media.checks import Checks
from remix_study.media.clip import DecodedClip, decode_clip
from remix_study.media.decoders import DECODERS, DecoderName, decoder_named
from remix_study.media.presets import AUDIO_FRONT_ENDS, PRESETS, Channel, Preset, preset_named, with_channel
from remix_study.media.source import source_at
from remix_study.sample import Clip, SampleId

RATE = 16000
SOUND = Preset("sound", {"audio": AUDIO_FRONT_ENDS["tiny"]})
CODECS = {"wav": "pcm_s16le", "mp4": "aac", "mka": "libopus", "mp3": "libmp3lame", "flac": "flac"}


def speech(seconds: float = 1.0, seed: int = 0) -> NDArray[np.float64]:
    """Harmonics of 150 Hz with pauses, over a little noise."""
    times = np.arange(round(RATE * seconds)) / RATE
    voiced = sum(0.3 / k * np.sin(2 * np.pi * 150 * k * times + k) for k in range(1, 20))
    pauses = np.clip(np.sin(2 * np.pi * 3 * times + seed), 0, 1)
    return 0.5 * pauses * voiced + 0.003 * np.random.default_rng(seed).standard_normal(len(times))


def write_channels(path: Path, *channels: NDArray[np.float64], codec: str | None = None, layout: str = "") -> Path:
    layout = layout or {1: "mono", 2: "stereo", 6: "5.1"}[len(channels)]
    rate = 48000 if path.suffix == ".mka" else RATE
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec or CODECS[path.suffix[1:]], rate=rate, layout=layout)
        stream.codec_context.open()
        block = av.AudioFrame.from_ndarray(np.stack(channels).astype(np.float32), format="fltp", layout=layout)
        block.sample_rate, block.time_base, block.pts = RATE, Fraction(1, RATE), 0
        fit = av.AudioResampler(format=stream.format, layout=layout, rate=rate, frame_size=stream.frame_size or 1024)
        for each in [*fit.resample(block), *fit.resample(None)]:
            file.mux(stream.encode(each))
        file.mux(stream.encode(None))
    return path


def decoded(
    path: Path,
    channel: Channel = "mix",
    decoder: DecoderName = "pyav",
    *,
    checks: Checks | None = None,
    start: float | None = None,
    end: float | None = None,
) -> DecodedClip:
    clip = Clip(SampleId("a"), {"audio": path.name}, "x", "train", start=start, end=end)
    preset = with_channel(SOUND, channel)
    return decode_clip(clip, source_at(path.parent), preset, decoder_named(decoder), checks or Checks())


def stage_of(path: Path, channel: Channel = "mix", decoder: DecoderName = "pyav", **window: float) -> str | None:
    try:
        decoded(path, channel, decoder, **window)  # type: ignore[arg-type]  # only `start` and `end`
    except MediaError as error:
        return error.stage
    return None


@pytest.mark.slow
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("suffix", CODECS)
def test_channels_that_cancel_are_not_mixed_and_each_can_be_kept(
    tmp_path: Path, suffix: str, decoder: DecoderName
) -> None:
    path = write_channels(tmp_path / f"a.{suffix}", speech(), -speech())
    with pytest.raises(MediaError, match=r"their mix is .* keep one of them") as refused:
        decoded(path, decoder=decoder)
    assert refused.value.stage == "opposite-channels"
    alone = decoded(write_channels(tmp_path / f"b.{suffix}", speech()), decoder=decoder).rows["audio"]
    for channel in ("left", "right", "loudest"):
        kept = decoded(path, channel, decoder).rows["audio"]
        loud = alone > alone.max() - np.log(1e3)
        assert np.abs(kept - alone)[loud].mean() < (1e-3 if suffix in ("wav", "flac") else 0.3)


@pytest.mark.parametrize("suffix", ["wav", "mp4"])
def test_channels_that_do_not_cancel_are_mixed(tmp_path: Path, suffix: str) -> None:
    for balance in (1, 0, -0.7):
        assert stage_of(write_channels(tmp_path / f"a.{suffix}", speech(), balance * speech())) is None
    assert stage_of(write_channels(tmp_path / f"b.{suffix}", speech(), speech(seed=1))) is None


def test_only_the_part_of_the_clip_is_judged(tmp_path: Path) -> None:
    sound = speech(2.0)
    other = np.where(np.arange(len(sound)) < RATE, sound, -sound)
    path = write_channels(tmp_path / "a.wav", sound, other)
    assert stage_of(path, end=0.9) is None
    assert stage_of(path, start=1.1) == "opposite-channels"
    assert stage_of(path) is None


def test_the_loudest_channel_is_that_of_the_part_of_the_clip(tmp_path: Path) -> None:
    early = np.arange(2 * RATE) < RATE
    path = write_channels(tmp_path / "a.wav", speech(2.0) * np.where(early, 1, 0.1), speech(2.0) * ~early)
    first, second = decoded(path, "loudest", end=0.9), decoded(path, "loudest", start=1.1)
    assert (first.meta["audio_channel"], second.meta["audio_channel"]) == (0, 1)
    np.testing.assert_array_equal(second.rows["audio"], decoded(path, "right", start=1.1).rows["audio"])


def test_an_offset_is_not_loud(tmp_path: Path) -> None:
    path = write_channels(tmp_path / "a.wav", np.full(RATE, 0.9), speech())
    assert decoded(path, "loudest").meta["audio_channel"] == 1
    assert stage_of(path, "left") == "silent"


@pytest.mark.parametrize("channel", ["left", "right", "loudest"])
def test_one_channel_is_every_channel(tmp_path: Path, channel: Channel) -> None:
    path = write_channels(tmp_path / "a.wav", speech())
    kept = decoded(path, channel)
    np.testing.assert_array_equal(kept.rows["audio"], decoded(path).rows["audio"])
    assert kept.meta == decoded(path).meta


def test_left_and_right_are_named_channels_of_any_layout(tmp_path: Path) -> None:
    quiet = [0.01 * speech(seed=n) for n in range(6)]
    path = write_channels(tmp_path / "a.wav", quiet[0], speech(), *quiet[2:])
    assert decoded(path, "loudest").meta["audio_channel"] == 1
    np.testing.assert_array_equal(decoded(path, "loudest").rows["audio"], decoded(path, "right").rows["audio"])
    assert np.abs(decoded(path, "left").rows["audio"] - decoded(path, "right").rows["audio"]).max() > 1


@pytest.mark.parametrize("codec", ["pcm_alaw", "pcm_mulaw", "pcm_u8", "pcm_s16le", "adpcm_ima_wav"])
@pytest.mark.parametrize(
    "channel", ["mix", pytest.param("left", marks=pytest.mark.slow), pytest.param("loudest", marks=pytest.mark.slow)]
)
def test_the_noise_of_a_codec_is_silence(tmp_path: Path, codec: str, channel: Channel) -> None:
    dither = np.random.default_rng(0).integers(-1, 2, (2, RATE)) / 32768
    for name, noise in (("zeros", 0 * dither), ("dither", dither), ("opposite", np.stack([dither[0], -dither[0]]))):
        assert stage_of(write_channels(tmp_path / f"{name}.wav", *noise, codec=codec), channel) == "silent"
    quiet = write_channels(tmp_path / "quiet.wav", 0.01 * speech(), 0.01 * speech(), codec="pcm_s16le")
    assert stage_of(quiet, channel) is None


def test_a_silent_channel_is_silent_only_where_it_is_kept(tmp_path: Path) -> None:
    path = write_channels(tmp_path / "a.wav", np.zeros(RATE), speech())
    assert [stage_of(path, channel) for channel in ("mix", "left", "right", "loudest")] == [None, "silent", None, None]
    with pytest.raises(MediaError, match="the left channel of its audio is silent"):
        decoded(path, "left")


def test_opposite_channels_are_accepted_where_silence_is(tmp_path: Path) -> None:
    path = write_channels(tmp_path / "a.wav", speech(), -speech())
    assert decoded(path, checks=Checks(allow_silent=True)).rows["audio"].max() < 0


def test_the_mix_keeps_the_digest_of_older_presets_and_other_channels_have_their_own() -> None:
    for channel in ("left", "right", "loudest"):
        preset = with_channel(PRESETS["ogm"], channel)
        assert Preset.from_plain(preset.plain()) == preset
        assert preset.plain()["parts"]["audio"]["channel"] == channel
        assert in_words(preset.parts["audio"]).endswith(f", {channel} channel")
    assert with_channel(PRESETS["ogm"], "mix") == PRESETS["ogm"]
    assert "channel" not in PRESETS["ogm"].plain()["parts"]["audio"]


def test_a_channel_of_a_corpus_without_audio_is_refused() -> None:
    with pytest.raises(ConfigError, match="applies to audio that is decoded"):
        with_channel(preset_named("none+1x224"), "left")
