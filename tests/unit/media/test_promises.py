"""Truncated files are noticed wherever their container states how long they are"""

from pathlib import Path

import pytest

from remix_study.errors import MediaError
from remix_study.media.checks import Checks
from remix_study.media.clip import decode_clip
from remix_study.media.decoders import DecoderName, decoder_named
from remix_study.media.presets import Preset
from remix_study.media.source import source_at
from remix_study.sample import Clip, SampleId
from tests.decoders import installed
from tests.timed_media import RATE, Kind, audio_preset, video_preset, write_timed

SECONDS = 6.0
QUICK = (
    Kind("wav", None, "pcm_s16le"),
    Kind("w64", None, "pcm_s16le"),
    Kind("caf", None, "pcm_s16le"),
    Kind("au", None, "pcm_s16be"),
    Kind("wma", None, "wmav2", 44100),
    Kind("ogg", None, "flac"),
    Kind("avi", None, "pcm_s16le"),
)
KINDS = (
    *QUICK,
    Kind("aiff", None, "pcm_s16be"),
    Kind("wav", None, "adpcm_ms"),
    Kind("flac", None, "flac"),
    Kind("mp3", None, "libmp3lame", 44100),
    Kind("m4a", None, "aac"),
    Kind("ogg", None, "libopus", 48000),
    Kind("wv", None, "wavpack"),
    Kind("tta", None, "tta"),
    Kind("mka", None, "libopus", 48000),
    Kind("mka", None, "pcm_s16le"),
    Kind("mov", None, "pcm_s16le"),
    Kind("avi", None, "libmp3lame", 44100),
    Kind("flv", None, "libmp3lame", 22050),
    Kind("nut", None, "pcm_s16le"),
    Kind("mp4", "mpeg4", None),
    Kind("mkv", "mpeg4", None),
    Kind("webm", "libvpx", None),
    Kind("avi", "mpeg4", None),
    Kind("flv", "flv", None),
    Kind("nut", "mpeg4", None),
    Kind("wmv", "wmv2", None),
    Kind("ivf", "libvpx", None),
    Kind("mxf", "mpeg2video", None),
    Kind("mkv", "mpeg4", "pcm_s16le"),
    Kind("avi", "mpeg4", "libmp3lame", 44100),
)


def take(path: Path, decoder: DecoderName, modality: str) -> float:
    """Decode one track. Returns its seconds."""
    part = audio_preset(3.0) if modality == "audio" else video_preset(3)
    clip = Clip(SampleId("a"), {modality: path.name}, "x", "train")
    preset = Preset("p", {modality: part})
    return decode_clip(clip, source_at(path.parent), preset, decoder_named(decoder), Checks()).meta[f"{modality}_s"]


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, id=kind.id, marks=() if kind in QUICK else pytest.mark.slow) for kind in KINDS]
)
def test_a_truncated_file_raises_the_same_reason_with_each_decoder(kind: Kind, tmp_path: Path) -> None:
    options = {"movflags": "faststart"} if kind.suffix in ("mp4", "m4a", "mov") else {}
    path = write_timed(tmp_path / f"a.{kind.suffix}", kind, SECONDS, options=options)
    whole = path.read_bytes()
    tracks = [m for m, codec in (("audio", kind.sound), ("video", kind.picture)) if codec is not None]
    for m in tracks:
        assert take(path, "pyav", m) == pytest.approx(SECONDS, abs=0.15)
    for fraction in (0.02, 0.3, 0.7):
        path.write_bytes(whole[: int(len(whole) * fraction)])
        reasons: dict[str, set[str]] = {m: set() for m in tracks}
        for decoder in installed():
            for m in tracks:
                with pytest.raises(MediaError) as refused:
                    take(path, decoder, m)
                reasons[m].add(refused.value.stage)
        assert all(len(words) == 1 for words in reasons.values()), (fraction, reasons)


@pytest.mark.parametrize(
    ("suffix", "at", "stated"),
    [
        *(("wav", 4, size.to_bytes(4, "little")) for size in (0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFFFDB, 0x80000000)),
        ("caf", 4, b"\xff" * 8),
    ],
)
def test_a_file_that_was_written_to_a_pipe_is_taken(suffix: str, at: int, stated: bytes, tmp_path: Path) -> None:
    path = write_timed(tmp_path / f"a.{suffix}", Kind(suffix, None, "pcm_s16le"), 1.0)
    content = path.read_bytes()
    at += content.index(b"data")
    path.write_bytes(content[:at] + stated + content[at + len(stated) :])
    assert take(path, "pyav", "audio") == pytest.approx(1.0)


@pytest.mark.parametrize("head", [b"RIFF", b"RF64"])
def test_a_wav_states_its_length_in_every_form_of_the_header(head: bytes, tmp_path: Path) -> None:
    """RF64 has its sizes in a chunk of its own."""
    rf64 = {"rf64": "always" if head == b"RF64" else "never"}
    path = write_timed(tmp_path / "a.wav", Kind("wav", None, "pcm_s16le"), SECONDS, options=rf64)
    assert path.read_bytes()[:4] == head
    assert take(path, "pyav", "audio") == pytest.approx(SECONDS)
    path.write_bytes(path.read_bytes()[: RATE * 2])
    with pytest.raises(MediaError, match=r"lasts 1\.00 s, but the file states 6\.\d+ s"):
        take(path, "pyav", "audio")
