"""The contract of a decoder backend, on media files encoded here"""

import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from remix_study.errors import MediaError, StoreError
from remix_study.media.audio import cut
from remix_study.media.container import probe
from remix_study.media.decoders import (
    DECODERS,
    DecoderName,
    PyAVDecoder,
    TorchcodecDecoder,
    decoder_named,
    decoder_version,
)

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(
        name: str, codec: str, sound: str, *, layout: str = "mono", late_s: float = 0.0, b_frames: int = 0
    ) -> Path:
        draw = np.random.default_rng(3)
        path = tmp_path / name
        with av.open(str(path), "w") as file:
            video = file.add_stream(codec, rate=10)
            video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
            video.codec_context.max_b_frames = b_frames
            audio = file.add_stream(sound, rate=16000, layout=layout)
            for number in range(20):
                picture = draw.integers(0, 255, (48, 64, 3)).astype(np.uint8)
                picture[:, : 3 * number] = 12 * number
                file.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            channels = {"mono": 1, "stereo": 2}[layout]
            wave = 0.2 * draw.standard_normal((channels, round(16000 * (2 - late_s))))
            planar = (
                (wave * 32767).clip(-32767, 32767).astype(np.int16) if sound == "pcm_s16le" else wave.astype(np.float32)
            )
            packed = planar.T.reshape(1, -1) if sound == "pcm_s16le" else planar
            block = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(packed), format="s16" if sound == "pcm_s16le" else "fltp", layout=layout
            )
            block.sample_rate, block.time_base, block.pts = 16000, Fraction(1, 16000), round(late_s * 16000)
            file.mux(audio.encode(block))
            file.mux(audio.encode(None))
            file.mux(video.encode(None))
        return path

    return write


@pytest.mark.parametrize("name", DECODERS)
class TestDecoderContract:
    def test_wanted_frames_match_sequential_reading(self, name: DecoderName, write: Write) -> None:
        path = write("a.mp4", "mpeg4", "aac", b_frames=2)
        decoder = decoder_named(name)
        everything = decoder.frames(path, range(20), 20)
        assert everything[0].shape == (48, 64, 3)
        for left, right in zip(
            decoder.frames(path, [3, 10, 16], 20), [everything[k] for k in (3, 10, 16)], strict=True
        ):
            np.testing.assert_array_equal(left, right)

    def test_a_track_that_ends_early_raises(self, name: DecoderName, write: Write) -> None:
        with pytest.raises(MediaError, match="ends after 20 of 30 frames"):
            decoder_named(name).frames(write("a.mp4", "mpeg4", "aac"), [5, 25], 30)

    def test_files_that_are_not_media_raise(self, name: DecoderName, tmp_path: Path) -> None:
        path = tmp_path / "a.mp4"
        path.write_bytes(b"<html>" + bytes(3000))
        with pytest.raises(MediaError, match="video track"):
            decoder_named(name).frames(path, [0], 1)

    def test_a_late_track_starts_at_its_time(self, name: DecoderName, write: Write) -> None:
        path = write("late.mkv", "mpeg4", "pcm_s16le", late_s=0.5)
        container = probe(path)
        assert container.audio_rate == 16000
        wave = cut(decoder_named(name).wave(path, container), 16000, container.audio_start_s, None, None)
        assert len(wave) == pytest.approx(32000, abs=20)
        assert np.abs(wave[:7990]).max() == 0
        assert np.abs(wave[8010:9000]).max() > 0.1

    def test_stereo_keeps_the_power_of_independent_channels(self, name: DecoderName, write: Write) -> None:
        path = write("a.mov", "mpeg4", "pcm_s16le", layout="stereo")
        wave = decoder_named(name).wave(path, probe(path))
        assert wave.std() == pytest.approx(0.2, rel=0.03)


@pytest.mark.parametrize(
    ("file", "codec", "sound", "layout"),
    [
        ("a.mp4", "mpeg4", "aac", "mono"),
        ("b.mp4", "libx264", "aac", "stereo"),
        ("c.avi", "mpeg4", "pcm_s16le", "stereo"),
        ("d.mov", "libx264", "pcm_s16le", "mono"),
    ],
)
@pytest.mark.parametrize("name", [name for name in DECODERS if name != "pyav"])
def test_backends_agree(write: Write, name: DecoderName, file: str, codec: str, sound: str, layout: str) -> None:
    path = write(file, codec, sound, layout=layout)
    container = probe(path)
    assert container.frame_times_F is not None
    count = len(container.frame_times_F)
    assert count == 20
    decoder = decoder_named(name)
    left_frames, right_frames = (each.frames(path, range(count), count) for each in (decoder, PyAVDecoder()))
    for left, right in zip(left_frames, right_frames, strict=True):
        np.testing.assert_array_equal(left, right)
    left_wave, right_wave = decoder.wave(path, container), PyAVDecoder().wave(path, container)
    assert len(left_wave) == len(right_wave)
    np.testing.assert_allclose(left_wave, right_wave, atol=1e-5)


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        (None, r"not installed. Run `pip install 'remix-study\[torchcodec\]'`"),
        ("ffmpeg_major_version = None", "finds no FFmpeg libraries.*apt-get install ffmpeg"),
        ("raise RuntimeError('Could not load libtorchcodec')", "finds no FFmpeg libraries"),
    ],
    ids=["no package", "no FFmpeg", "no FFmpeg, older version"],
)
def test_torchcodec_that_cannot_be_used_is_refused_with_the_remedy(
    content: str | None, remedy: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for module in [name for name in sys.modules if name.partition(".")[0] == "torchcodec"]:
        monkeypatch.delitem(sys.modules, module)
    if content is None:
        monkeypatch.setitem(sys.modules, "torchcodec", None)
    else:
        (tmp_path / "torchcodec").mkdir()
        (tmp_path / "torchcodec/__init__.py").write_text(content)
        monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(StoreError, match=remedy):
        decoder_version("torchcodec")
    with pytest.raises(StoreError, match=remedy):
        TorchcodecDecoder().frames(tmp_path / "a.mp4", [0], 1)
    sys.modules.pop("torchcodec", None)


@pytest.mark.parametrize("name", [name for name in DECODERS if name != "pyav"])
def test_a_plain_clip_is_decoded_by_the_backend_itself(
    name: DecoderName, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write("a.mp4", "libx264", "aac", layout="stereo")
    container = probe(path)
    monkeypatch.delattr(PyAVDecoder, "frames")
    monkeypatch.delattr(PyAVDecoder, "wave")
    assert len(decoder_named(name).frames(path, [3, 7], 20)) == 2
    assert len(decoder_named(name).wave(path, container)) >= 32000
