"""Which source time is stored, of pictures and of sound, for containers, codecs, decoders and windows"""

import dataclasses
import struct
from pathlib import Path

import av
import numpy as np
import pytest

from remix_study.errors import MediaError
from remix_study.media.checks import Checks
from remix_study.media.clip import decode_clip
from remix_study.media.container import probe
from remix_study.media.decoders import DecoderName, decoder_named
from remix_study.media.presets import Preset
from remix_study.media.source import source_at
from remix_study.sample import Clip, SampleId
from tests.decoders import installed
from tests.timed_media import (
    FPS,
    Kind,
    audio_preset,
    begins_s,
    copied,
    origin_s,
    picture_times,
    sound_shift,
    video_preset,
    write_timed,
)

SECONDS = 4.0
WINDOWS = ((None, None), (1.0, 2.5), (0.52, 2.0), (1.5, None))
QUICK = (Kind("mp4", "mpeg4", "libmp3lame"), Kind("ts", "mpeg2video", "mp2", 48000))
MKV = Kind("mkv", "mpeg4", "pcm_s16le")
KINDS = (
    *QUICK,
    MKV,
    Kind("mp4", "libx264", "aac", b_frames=2),
    Kind("mp4", "libx264", "libopus", 48000),
    Kind("mov", "mpeg4", "pcm_s16le"),
    Kind("3gp", "mpeg4", "aac"),
    Kind("mkv", "libx264", "libopus", 48000, 2),
    Kind("mkv", "libx264", "aac"),
    Kind("mkv", "libx264", "ac3", 48000),
    Kind("mkv", "libx264", "libmp3lame", 44100),
    Kind("mkv", "ffv1", "flac"),
    Kind("webm", "libvpx", "libopus", 48000),
    Kind("webm", "libvpx-vp9", "libopus", 48000),
    Kind("flv", "flv", "libmp3lame", 22050),
    Kind("flv", "libx264", "aac", 44100),
    Kind("avi", "mpeg4", "pcm_s16le"),
    Kind("avi", "libx264", "pcm_s16le", b_frames=2),
    Kind("ts", "libx264", "aac", b_frames=2),
    Kind("mpg", "mpeg2video", "ac3", 48000, 2),
    Kind("wmv", "wmv2", "wmav2", 44100),
    Kind("nut", "mpeg4", "pcm_s16le"),
    Kind("mxf", "mpeg2video", "pcm_s16le", 48000),
)
MOVABLE = ("mkv", "webm", "mp4", "mov", "nut", "flv")


def all_but(quick: tuple[Kind, ...], kinds: tuple[Kind, ...]) -> list[object]:
    """Parameters of which only `quick` are in the fast tier."""
    return [pytest.param(kind, id=kind.id, marks=() if kind in quick else pytest.mark.slow) for kind in kinds]


def require_source_times(
    path: Path, decoder: DecoderName, window: tuple[float | None, float | None], origin: float, seconds: float
) -> None:
    """Decode a window, and require pictures and sound of that time: `origin` is the source time of the file's start."""
    start, end = window
    length = (seconds if end is None else end) - (start or 0.0)
    preset = Preset("timed", {"audio": audio_preset(length), "video": video_preset(3)})
    clip = Clip(SampleId("a"), {"audio": path.name, "video": path.name}, "x", "train", start=start, end=end)
    rows = decode_clip(clip, source_at(path.parent), preset, decoder_named(decoder), Checks()).rows
    begins = origin + (start or 0.0)
    assert sound_shift(rows["audio"], length) == pytest.approx(begins, abs=0.012)
    middles = begins + length * (np.arange(3) + 0.5) / 3
    # A track that begins or ends within the window, by the delay of a codec, moves the middles of its parts.
    assert picture_times(rows["video"]) == pytest.approx(middles, abs=1.7 / FPS)


@pytest.mark.parametrize("kind", all_but(QUICK, KINDS))
def test_a_window_stores_its_source_time(kind: Kind, tmp_path: Path) -> None:
    path = write_timed(tmp_path / f"a.{kind.suffix}", kind, SECONDS)
    for decoder in installed():
        for window in WINDOWS[1:2] if kind in QUICK else WINDOWS:
            require_source_times(path, decoder, window, origin_s(path), SECONDS)


def moved() -> list[object]:
    """Every kind with each shift of its times that its container can hold; FLV and NUT have no negative times."""
    found: list[object] = []
    for shift_s in (-1.886, -2.5, 3.0):
        for kind in KINDS:
            if kind.suffix in MOVABLE and (shift_s > 0 or kind.suffix not in ("flv", "nut")):
                slow = [pytest.mark.slow] if kind is not MKV or shift_s == -2.5 else []
                found.append(pytest.param(kind, shift_s, marks=slow, id=f"{kind.id} {shift_s:g}"))
    return found


@pytest.mark.parametrize(("kind", "shift_s"), moved())
def test_times_count_from_the_earliest_timestamp(kind: Kind, shift_s: float, tmp_path: Path) -> None:
    """As with `ffmpeg -ss`, also where it is negative. MP4 hides what is before 0."""
    source = write_timed(tmp_path / f"source.{kind.suffix}", kind, SECONDS)
    options = {} if kind.suffix in ("mp4", "mov") else {"avoid_negative_ts": "disabled"}
    path = copied(source, tmp_path / f"a.{kind.suffix}", 1.0, shift_s, **options)
    origin = origin_s(source) - begins_s(source) + begins_s(path) - shift_s
    left = SECONDS - max(origin, 1.0)
    for decoder in installed():
        for window in [(None, None), (0.3, 1.3)]:
            require_source_times(path, decoder, window, origin, left)


@pytest.mark.parametrize("b_frames", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_sound_stays_in_sync_where_its_first_packet_lasts_longer_than_its_samples(
    b_frames: int, tmp_path: Path
) -> None:
    """Fragmented MP4: the delay of reordered pictures is added to the first packet of the sound."""
    kind = Kind("mp4", "libx264", "aac", 48000, b_frames)
    path = write_timed(
        tmp_path / "a.mp4", kind, SECONDS, options={"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    )
    for decoder in installed():
        require_source_times(path, decoder, (1.0, 2.5), origin_s(path), SECONDS)


OPEN = Kind("ts", "mpeg2video", "mp2", 48000, 2)


@pytest.mark.parametrize(("lost", "taken"), [(1, True), pytest.param(4, True, marks=pytest.mark.slow), (13, False)])
def test_a_file_that_begins_between_key_frames_begins_with_its_first_decoded_frame(
    lost: int, taken: bool, tmp_path: Path
) -> None:
    """Decoders drop frames that need others from before the start of the file. Up to half a second may be lost."""
    source = write_timed(tmp_path / "source.ts", OPEN, SECONDS)
    path = copied(source, tmp_path / "a.ts", 2.0 - lost / FPS, 0.0)
    with av.open(str(path)) as file:
        first = next(file.decode(video=0))
        (shown_s,) = picture_times(first.to_ndarray(format="rgb24")[None])
        origin = shown_s - (first.time - begins_s(path))
    for decoder in installed():
        if taken:
            require_source_times(path, decoder, (0.5, 1.7), origin, SECONDS)
            continue
        with pytest.raises(MediaError, match=r"the first 0\.\d\d s of its video track need frames before the start"):
            require_source_times(path, decoder, (0.5, 1.7), origin, SECONDS)


@pytest.mark.parametrize(
    "kind",
    all_but((MKV,), (MKV, Kind("mp4", "libx264", "aac"))),
)
def test_frames_are_chosen_by_time_where_the_rate_varies(kind: Kind, tmp_path: Path) -> None:
    """Most frames are in the first half."""
    times_s = [*np.arange(0, 2, 0.04), *np.arange(2, 4, 0.24)]
    path = write_timed(tmp_path / f"a.{kind.suffix}", kind, SECONDS, times_s=times_s)
    clip = Clip(SampleId("a"), {"video": path.name}, "x", "train")
    for decoder in installed():
        preset = Preset("timed", {"video": video_preset(4)})
        row = decode_clip(clip, source_at(tmp_path), preset, decoder_named(decoder), Checks()).rows["video"]
        assert picture_times(row) == pytest.approx([0.5, 1.5, 2.5, 3.5], abs=0.28)


JOINED = Kind("ts", "mpeg2video", "mp2", 48000)


@pytest.mark.parametrize("modality", ["audio", "video"])
def test_a_hole_in_a_track_raises(modality: str, tmp_path: Path) -> None:
    """Two transport streams joined by `cat`, of which the second begins 100 s later."""
    first = write_timed(tmp_path / "first.ts", JOINED, 2.0)
    later = copied(first, tmp_path / "later.ts", 0.0, 100.0)
    (tmp_path / "a.ts").write_bytes(first.read_bytes() + later.read_bytes())
    preset = Preset("timed", {modality: audio_preset(1.0) if modality == "audio" else video_preset(3)})
    clip = Clip(SampleId("a"), {modality: "a.ts"}, "x", "train")
    for decoder in installed():
        with pytest.raises(MediaError, match=r"has a gap of 9\d\.\d\d s after [12]\.\d\d s") as refused:
            decode_clip(clip, source_at(tmp_path), preset, decoder_named(decoder), Checks())
        assert refused.value.stage == modality
    if modality == "video":  # its clock is known before the hole
        clip = dataclasses.replace(clip, start=0.5, end=1.5)
        decode_clip(clip, source_at(tmp_path), preset, decoder_named("pyav"), Checks())


def test_a_still_picture_with_sound_is_no_hole(tmp_path: Path) -> None:
    times_s = [*np.arange(0, 1, 0.04), *np.arange(3, 4, 0.04)]
    write_timed(tmp_path / "a.mkv", MKV, SECONDS, times_s=times_s)
    write_timed(tmp_path / "mute.mkv", Kind("mkv", "mpeg4", None), SECONDS, times_s=times_s)
    assert probe(tmp_path / "a.mkv").holes == ()
    ((begins_s, lasts_s),) = probe(tmp_path / "mute.mkv").holes
    assert (begins_s, lasts_s) == pytest.approx((0.96, 2.04), abs=0.002)


LIVE = Kind("mkv", "ffv1", "flac")


@pytest.mark.parametrize(
    "kind", all_but((LIVE,), tuple(kind for kind in KINDS if kind.suffix in ("mkv", "webm") and kind != MKV))
)
def test_every_decoder_takes_a_file_without_a_stated_duration(kind: Kind, tmp_path: Path) -> None:
    path = write_timed(tmp_path / f"a.{kind.suffix}", kind, SECONDS, options={"live": "1"})
    assert probe(path).duration_s is None
    for decoder in installed():
        require_source_times(path, decoder, (1.0, 2.5), origin_s(path), SECONDS)


@pytest.mark.slow
@pytest.mark.parametrize(("stated_s", "taken"), [(SECONDS, True), (SECONDS + 3, True), (SECONDS + 6, False)])
def test_a_matroska_file_that_starts_late_states_its_end_or_its_length(
    stated_s: float, taken: bool, tmp_path: Path
) -> None:
    """FFmpeg states where the last track ends, MKVToolNix how long the tracks last."""
    source = write_timed(tmp_path / "source.mkv", MKV, SECONDS)
    path = copied(source, tmp_path / "a.mkv", 0.0, 3.0)
    content = path.read_bytes()
    at = content.index(b"\x44\x89\x88") + 3  # the element `Duration`, eight bytes
    path.write_bytes(content[:at] + struct.pack(">d", 1000 * stated_s) + content[at + 8 :])
    if taken:
        require_source_times(path, "pyav", (1.0, 2.5), 0.0, SECONDS)
        return
    with pytest.raises(MediaError, match=r"lasts 4\.00 s, but the file states 7\.00 s"):
        require_source_times(path, "pyav", (1.0, 2.5), 0.0, SECONDS)
