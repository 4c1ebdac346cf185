"""Corrupt clips, with every fault that was found in real corpora, and randomly damaged clips

`FAULTS` maps each fault to a function that writes the clip, and to the expected outcome. `write_clip` encodes a clip;
its parameters cover the faults that an encoder can produce. The other functions modify an encoded file.
"""

import contextlib
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

FRAMES, RATE, SECONDS = 20, 10, 2.0
CHANNELS = {"mono": 1, "stereo": 2, "5.1": 6}


@dataclass(frozen=True)
class Picture:
    """A video track of `frames` different frames. `times` are their timestamps in units of 1 / 100 s."""

    codec: str = "libx264"
    frames: int = FRAMES
    size: tuple[int, int] = (64, 48)
    pixels: str = "yuv420p"
    b_frames: int = 0
    times: Sequence[int] | None = None
    options: dict[str, str] = field(default_factory=dict)
    still: bool = False
    shade: int = 0  # distinguishes two tracks of a file


@dataclass(frozen=True)
class Sound:
    codec: str = "aac"
    rate: int = 16000
    layout: str = "mono"
    seconds: float = SECONDS
    late_s: float = 0.0
    loud: float = 0.2


def picture_of(number: int, track: Picture) -> NDArray[np.uint8]:
    """Return RGB (H, W, 3): a moving bar over a gradient, with a white upper left corner for detecting rotations."""
    width, height = track.size
    shown = 0 if track.still else number
    across, down = np.meshgrid(np.arange(width), np.arange(height))
    picture = np.stack([across * 255 // width, down * 255 // height, (across + 9 * shown) % 256], axis=-1) // 2
    bar = shown % FRAMES * width // FRAMES
    picture[:, bar : bar + width // 16] = 180 + track.shade
    picture[: height // 4, : width // 4] = 250
    return picture.astype(np.uint8)


def write_clip(
    path: Path,
    pictures: Sequence[Picture] = (Picture(),),
    sounds: Sequence[Sound] = (Sound(),),
    *,
    format: str | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Encode a file with these video and audio tracks. The muxer interleaves them."""
    with _same_priority(), av.open(str(path), "w", format=format, options=options or {}) as file:
        streams = [(_video_stream(file, track), track) for track in pictures]
        heard = [(file.add_stream(track.codec, rate=track.rate, layout=track.layout), track) for track in sounds]
        for stream, track in streams:
            for number in range(track.frames):
                frame = av.VideoFrame.from_ndarray(picture_of(number, track), format="rgb24").reformat(
                    format=track.pixels
                )
                if track.times is not None:
                    frame.pts, frame.time_base = track.times[number], Fraction(1, 100)
                file.mux(stream.encode(frame))
            file.mux(stream.encode(None))
        for index, (voice, sound) in enumerate(heard):
            for block in _blocks(sound, index):
                file.mux(voice.encode(block))
            file.mux(voice.encode(None))
    return path


@contextlib.contextmanager
def _same_priority() -> Iterator[None]:
    """Undo what SVT-AV1 does as root: it gives the whole process a real-time priority, which starves all others."""
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        if os.sched_getscheduler(0) != policy:
            for thread in Path("/proc/self/task").iterdir():
                with contextlib.suppress(ProcessLookupError):  # it has just ended
                    os.sched_setscheduler(int(thread.name), policy, parameters)


def _video_stream(file: Any, track: Picture) -> Any:
    stream = file.add_stream(track.codec, rate=RATE)
    stream.width, stream.height = track.size
    stream.pix_fmt = track.pixels
    if track.codec in ("mpeg4", "flv", "mpeg2video", "mjpeg"):
        stream.bit_rate = 40 * track.size[0] * track.size[1]  # enough to keep the frames distinguishable
    stream.codec_context.max_b_frames = track.b_frames
    stream.codec_context.options = track.options
    if track.times is not None:
        stream.codec_context.time_base = Fraction(1, 100)
    return stream


def waves(track: Sound, index: int = 0) -> NDArray[np.float64]:
    """Return a tone with noise, (channels, samples), which differs between channels and tracks."""
    count = round(track.rate * (track.seconds - track.late_s))
    channels = CHANNELS[track.layout]
    seconds = np.arange(count) / track.rate
    tones = np.stack([np.sin(2 * np.pi * (300 + 110 * (index + c)) * seconds) for c in range(channels)])
    noise = np.random.default_rng(index).standard_normal((channels, count))
    given: NDArray[np.float64] = track.loud * np.clip(0.7 * tones + 0.3 * noise, -1, 1)
    return given


def sound_of(track: Sound) -> NDArray[np.float64]:
    """Return the sum of all channels, from the first video frame on."""
    return np.concatenate([np.zeros(round(track.rate * track.late_s)), waves(track).sum(axis=0)])


def _blocks(track: Sound, index: int) -> list[Any]:
    wave, blocks = waves(track, index), []
    for first in range(0, wave.shape[1], 1024):
        part = np.ascontiguousarray(wave[:, first : first + 1024])
        if track.codec.startswith("pcm"):
            packed = np.ascontiguousarray((part * 32767).astype(np.int16).T.reshape(1, -1))
            block = av.AudioFrame.from_ndarray(packed, format="s16", layout=track.layout)
        else:
            block = av.AudioFrame.from_ndarray(part.astype(np.float32), format="fltp", layout=track.layout)
        block.sample_rate, block.time_base = track.rate, Fraction(1, track.rate)
        block.pts = first + round(track.late_s * track.rate)
        blocks.append(block)
    return blocks


def truncated(path: Path, fraction: float) -> Path:
    """Truncate a file to a fraction of its size."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * fraction)])
    return path


def rotated(path: Path, how: str) -> Path:
    """Set the display matrix of an MP4 to a clockwise rotation by 90, 180 or 270 degrees, or to a mirroring."""
    one = 1 << 16
    matrix = {
        "90": (0, one, -one, 0),
        "180": (-one, 0, 0, -one),
        "270": (0, -one, one, 0),
        "mirror": (-one, 0, 0, one),
    }[how]
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 44  # after version, times, number, duration, layer, group and volume
    a, b, c, d = matrix
    content[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return path


def edited(path: Path, skipped: int) -> Path:
    """Hide the first `skipped` frames of an MP4 with an edit list, as when cutting without encoding."""
    content = bytearray(path.read_bytes())
    at = content.index(b"elst") + 8  # after version and flags
    (entries,) = struct.unpack_from(">I", content, at)
    assert entries == 1
    length, first = struct.unpack_from(">Ii", content, at + 4)
    scale_at = content.index(b"mdhd") + 16
    (scale,) = struct.unpack_from(">I", content, scale_at)
    (movie_scale,) = struct.unpack_from(">I", content, content.index(b"mvhd") + 16)
    struct.pack_into(">Ii", content, at + 4, length - skipped * movie_scale // RATE, first + skipped * scale // RATE)
    path.write_bytes(content)
    return path


def cut_without_encoding(source: Path, target: Path, start_s: float) -> Path:
    """Cut like `ffmpeg -ss START -i SOURCE -c copy TARGET`: from the previous key frame on, hiding negative times."""
    with av.open(str(source)) as read, av.open(str(target), "w") as written:
        streams = {stream.index: written.add_stream_from_template(stream) for stream in read.streams}
        read.seek(round(start_s * av.time_base))
        for packet in read.demux():
            if packet.dts is None:
                continue
            late = round(start_s / packet.time_base)
            packet.pts, packet.dts = packet.pts - late, packet.dts - late
            packet.stream = streams[packet.stream.index]
            written.mux(packet)
    return target


def box(kind: bytes, *content: bytes) -> bytes:
    inside = b"".join(content)
    return struct.pack(">I", 8 + len(inside)) + kind + inside


def jpeg(size: tuple[int, int] = (600, 600)) -> bytes:
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = *size, "yuvj420p", Fraction(1, 1)
    frame = av.VideoFrame.from_ndarray(picture_of(3, Picture(size=size)), format="rgb24").reformat(format="yuvj420p")
    frame.pts = 0
    return b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])


def with_cover(path: Path) -> Path:
    """Add a cover picture, larger than the video, to the metadata of an MP4, like music stores."""
    content = path.read_bytes()
    at = content.index(b"moov") - 4
    (length,) = struct.unpack_from(">I", content, at)
    assert at + length == len(content)  # otherwise the offsets of later boxes would change
    handler = box(b"hdlr", bytes(8), b"mdirappl", bytes(9))
    cover = box(b"covr", box(b"data", struct.pack(">II", 13, 0), jpeg()))
    tail = box(b"udta", box(b"meta", bytes(4), handler, box(b"ilst", cover)))
    moov = content[at + 8 :].replace(b"udta", b"free")
    path.write_bytes(content[:at] + struct.pack(">I", length + len(tail)) + b"moov" + moov + tail)
    return path


def tagged(path: Path) -> Path:
    """Add a cover picture to the start of an MP3."""
    picture = b"\0image/jpeg\0\x03\0" + jpeg()
    frame = b"APIC" + struct.pack(">I", len(picture)) + bytes(2) + picture
    size = len(frame)
    head = b"ID3\x03\0\0" + bytes((size >> shift) & 0x7F for shift in (21, 14, 7, 0))
    path.write_bytes(head + frame + path.read_bytes())
    return path


def with_box_size(path: Path, kind: bytes, size: int) -> Path:
    """Set the stated size of a box of an MP4."""
    content = bytearray(path.read_bytes())
    struct.pack_into(">I", content, content.index(kind) - 4, size)
    path.write_bytes(content)
    return path


def with_sample_of(path: Path, size: int) -> Path:
    """Set the stated size in bytes of the fourth sample of an MP4."""
    content = bytearray(path.read_bytes())
    struct.pack_into(">I", content, content.index(b"stsz") + 16 + 3 * 4, size)
    path.write_bytes(content)
    return path


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def zeros(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)  # a sparse file
    return path


def renamed(path: Path, name: str) -> Path:
    return path.rename(path.with_name(name))


def linked(path: Path, to: str) -> Path:
    path.symlink_to(to)
    return path


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def folder(path: Path) -> Path:
    path.mkdir()
    return path


@dataclass(frozen=True)
class Fault:
    """A kind of clip and its expected outcome.

    Attributes:
        make: writes the clip into a folder.
        reason: the reason of its quarantine; None if it can be decoded. Then it has the frames of `picture` from number
            `first` on, rotated by `turn`, and the audio of `sound`.
        late_s: delay that an MP3 encoder adds, and that the container does not state.
    """

    make: Callable[[Path], Path]
    reason: str | None = None
    picture: Picture = Picture()
    sound: Sound | None = Sound()
    first: int = 0
    turn: str = ""
    late_s: float = 0.0


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
_UNEVEN = (0, 10, 20, 25, 30, 35, 40, 60, 80, 100, 105, 110, 115, 120, 130, 140, 150, 160, 180, 190)
_LONG, _HEARD_LONG = Picture(frames=60), Sound(rate=44100, seconds=6)


def _clip(
    name: str,
    picture: Picture | None = None,
    sound: Sound | None = None,
    change: Callable[[Path], Path] | None = None,
    options: dict[str, str] | None = None,
    **expected: Any,
) -> Fault:
    seen, heard = picture or Picture(), sound or Sound()

    def make(folder: Path) -> Path:
        path = write_clip(folder / name, [seen], [heard], options=options)
        return path if change is None else change(path)

    return Fault(make, picture=seen, sound=heard, **expected)


def _bad(name: str, reason: str, make: Callable[[Path], Path]) -> Fault:
    return Fault(lambda folder: make(folder / name), reason)


def _part(name: str, reason: str, fraction: float, codec: str = "libx264", sound: str = "aac", **options: str) -> Fault:
    def make(folder: Path) -> Path:
        heard = Sound(sound, rate=44100, seconds=6)
        return truncated(write_clip(folder / name, [Picture(codec, frames=60)], [heard], options=options), fraction)

    return Fault(make, reason)


def _cut_copy(folder: Path) -> Path:
    source = write_clip(folder / "source.mp4", [Picture(b_frames=2, options={"g": "10"})])
    return cut_without_encoding(source, folder / "a.mp4", 0.7)


FAULTS: dict[str, Fault] = {
    # Missing, or not media
    "missing": _bad("a.mp4", "missing", lambda path: path),
    "broken link": _bad("a.mp4", "missing", lambda path: linked(path, "nowhere.mp4")),
    "link to itself": _bad("a.mp4", "missing", lambda path: linked(path, path.name)),
    "name too long": _bad("a" * 300, "missing", lambda path: path),
    "folder": _bad("a.mp4", "not-a-file", folder),
    "pipe": _bad("a.mp4", "not-a-file", pipe),
    "no bytes": _bad("a.mp4", "empty", lambda path: written(path, b"")),
    "LFS pointer": _bad("a.flv", "lfs-pointer", lambda path: written(path, LFS)),
    "web page": _bad("a.mp4", "open", lambda path: written(path, b"<html><body>404 not found</body></html>" * 20)),
    "text": _bad("a.mp4", "open", lambda path: written(path, b"nothing to see\n" * 100)),
    "subtitles": _bad("a.mp4", "format", lambda path: written(path, b"1\n00:00:01,000 --> 00:00:04,000\nhello\n\n")),
    "playlist": _bad("a.mp4", "format", lambda path: written(path, b"ffconcat version 1.0\nfile 'b.mp4'\n")),
    "picture": _bad("a.mp4", "format", lambda path: written(path, jpeg())),
    "zeros": _bad("a.mp4", "open", lambda path: zeros(path, 10 * 2**30)),
    "noise": _bad("a.mp4", "open", lambda path: written(path, np.random.default_rng(0).bytes(20000))),
    # Truncated
    "mp4 without its index": _part("a.mp4", "open", 0.7),
    "mp4 cut, index first": _part("a.mp4", "duration", 0.7, movflags="faststart"),
    "mp4 cut at the very end, index first": _part("a.mp4", "audio", 0.985, movflags="faststart"),
    "mkv cut": _part("a.mkv", "duration", 0.7),
    "flv cut": _part("a.flv", "duration", 0.7, "flv", "libmp3lame"),
    "avi cut": _part("a.avi", "duration", 0.7, "mpeg4", "libmp3lame"),
    "mkv without its first key frame": Fault(
        lambda folder: cut_without_encoding(
            write_clip(folder / "source.mkv", [Picture(b_frames=2, options={"g": "10"})]), folder / "a.mkv", 0.65
        ),
        "video",
    ),
    # Incomplete
    "silent": _clip("a.mp4", sound=Sound(loud=0.0), reason="silent"),
    "still": _clip("a.mkv", Picture("ffv1", still=True), reason="static"),
    "no sound": Fault(lambda folder: write_clip(folder / "a.mp4", sounds=[]), "audio"),
    "no picture": Fault(lambda folder: write_clip(folder / "a.mp4", []), "video"),
    "song with a cover": Fault(
        lambda folder: tagged(write_clip(folder / "a.mp3", [], [Sound("libmp3lame", rate=44100)])), "video"
    ),
    "mp4 song with a cover": Fault(lambda folder: with_cover(write_clip(folder / "a.mp4", [])), "video"),
    "one frame": _clip("a.mp4", Picture(frames=1), reason="duration"),
    "sound too short": _clip("a.mp4", sound=Sound(seconds=1.0), reason="duration"),
    # False sizes
    "a sample of 2 GB": _clip("a.mp4", change=lambda path: with_sample_of(path, 2 * 10**9), reason="duration"),
    "a box of 4 GB": _clip("a.mp4", change=lambda path: with_box_size(path, b"mdat", 2**32 - 9), reason="open"),
    # Unusual but complete
    "plain": _clip("a.mp4"),
    "mp4 named avi": _clip("a.mp4", change=lambda path: renamed(path, "a.avi")),
    "avi named mp4": _clip("a.avi", Picture("mpeg4"), Sound("pcm_s16le"), lambda path: renamed(path, "b.mp4")),
    "strange name": _clip("a.mp4", change=lambda path: renamed(path, "http:__%03d é#1?.mp4")),
    "mkv": _clip("a.mkv", sound=Sound("libopus", rate=48000)),
    "webm": _clip("a.webm", Picture("libvpx-vp9"), Sound("libopus", rate=48000)),
    "vp8 with hidden frames": _clip(
        "a.webm",
        Picture("libvpx", options={"auto-alt-ref": "1", "lag-in-frames": "16", "arnr-maxframes": "7"}),
        Sound("libopus", rate=48000),
    ),
    "flv": _clip("a.flv", Picture("flv"), Sound("libmp3lame", rate=22050)),
    "avi": _clip("a.avi", Picture("mpeg4"), Sound("libmp3lame", rate=44100), late_s=1105 / 44100),
    "avi without times": _clip("a.avi", Picture("mpeg4", b_frames=2), Sound("pcm_s16le")),
    "h264 in avi": _clip("a.avi", Picture(b_frames=2), Sound("pcm_s16le")),
    "mpeg-ts": _clip("a.ts", Picture(b_frames=2)),
    "mpeg-ps": _clip("a.mpg", Picture("mpeg2video", b_frames=2), Sound("ac3", rate=48000)),
    "fragmented": _clip("a.mp4", Picture(options={"g": "10"}), options={"movflags": "frag_keyframe+delay_moov"}),
    "b-frames": _clip("a.mp4", Picture(b_frames=3)),
    "hevc, open groups": _clip(
        "a.mp4",
        Picture("libx265", options={"x265-params": "keyint=6:min-keyint=2:bframes=4:open-gop=1:log-level=none"}),
    ),
    "av1": _clip("a.mkv", Picture("libsvtav1", size=(64, 64)), Sound("libopus", rate=48000)),
    "cut without encoding": Fault(_cut_copy, picture=Picture(b_frames=2), sound=None, first=7),
    "uneven frame times": _clip("a.mp4", Picture(times=_UNEVEN)),
    "uneven frame times in mkv": _clip("a.mkv", Picture(times=_UNEVEN)),
    **{
        f"turned: {how}": _clip("a.mp4", change=lambda path, how=how: rotated(path, how), turn=how)  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        for how in ("90", "180", "270", "mirror")
    },
    "two tracks of each": Fault(
        lambda folder: write_clip(
            folder / "a.mp4",
            [Picture(), Picture(size=(96, 64), shade=60)],
            [Sound(rate=8000, loud=0.1), Sound(layout="stereo")],
        ),
        sound=Sound(rate=8000, loud=0.1),  # FFmpeg prefers the default track, here the first
    ),
    "video with a cover": _clip("a.mp4", change=with_cover),
    "stereo": _clip("a.mp4", sound=Sound(layout="stereo")),
    "5.1": _clip("a.mp4", sound=Sound(rate=48000, layout="5.1")),
    **{f"{rate} Hz": _clip("a.mp4", sound=Sound(rate=rate)) for rate in (8000, 11025, 22050, 96000)},
    "sound starts late": _clip("a.mkv", sound=Sound("pcm_s16le", late_s=0.5)),
    "sound starts late in mp4": _clip("a.mp4", sound=Sound(late_s=0.5)),
    "odd size": _clip("a.avi", Picture("mpeg4", size=(63, 47)), Sound("pcm_s16le")),
    "odd size, full colour": _clip("a.mp4", Picture(size=(63, 47), pixels="yuv444p")),
    "large": _clip("a.mp4", Picture("mpeg4", frames=2, size=(3840, 2160), times=(0, 180))),
    "ten bits": _clip("a.mp4", Picture(pixels="yuv420p10le")),
    "grey": _clip("a.mp4", Picture(pixels="gray")),
    "alpha": _clip("a.mov", Picture("qtrle", pixels="argb"), Sound("pcm_s16le")),
    "alpha, ten bits": _clip("a.mov", Picture("prores_ks", pixels="yuva444p10le"), Sound("pcm_s16le")),
    "interlaced": _clip("a.mp4", Picture(options={"x264-params": "interlaced=1:tff=1"})),
    "motion jpeg": _clip("a.avi", Picture("mjpeg", pixels="yuvj420p"), Sound("pcm_s16le")),
    "lossless rgb": _clip("a.mkv", Picture("ffv1", pixels="bgr0"), Sound("flac")),
}


ORIGINALS: dict[str, tuple[Picture, Sound, dict[str, str]]] = {
    "index last.mp4": (Picture(b_frames=2, options={"g": "8"}), Sound(), {}),
    "index first.mp4": (Picture(options={"g": "8"}), Sound(rate=44100), {"movflags": "faststart"}),
    "mpeg4.mp4": (Picture("mpeg4"), Sound(), {"movflags": "faststart"}),
    "h264.mkv": (Picture(options={"g": "8"}), Sound("libopus", rate=48000), {}),
    "vp9.webm": (Picture("libvpx-vp9"), Sound("libopus", rate=48000), {}),
    "h263.flv": (Picture("flv"), Sound("libmp3lame", rate=22050), {}),
    "mpeg4.avi": (Picture("mpeg4"), Sound("libmp3lame", rate=44100), {}),
    "mpeg2.ts": (Picture("mpeg2video"), Sound(), {}),
}


def originals(folder: Path) -> list[Path]:
    return [
        write_clip(folder / name, [picture], [sound], options=options)
        for name, (picture, sound, options) in ORIGINALS.items()
    ]


def mutated(content: bytes, other: bytes, number: int) -> bytes:
    """Damage a file in one of eight ways, determined by `number`. `other` is a file of another container."""
    draw = np.random.default_rng(number)
    changed, size = bytearray(content), len(content)
    length = int(draw.choice([1, 4, 16, 256, 2048]))
    start = int(draw.integers(0, max(1, size - length)))
    match number % 8:
        case 0:  # bits flipped
            for at in draw.integers(0, size, int(draw.choice([1, 3, 10, 50]))):
                changed[at] ^= 1 << int(draw.integers(8))
        case 1:  # bits flipped in the header
            for at in draw.integers(0, min(size, 1500), int(draw.choice([1, 3, 10]))):
                changed[at] ^= 1 << int(draw.integers(8))
        case 2:
            changed[start : start + length] = bytes(length)
        case 3:
            changed[start : start + length] = draw.bytes(length)
        case 4:
            del changed[int(draw.integers(1, size)) :]
        case 5:  # a part is missing
            del changed[start : start + length]
        case 6:  # the beginning of another container
            head = int(draw.choice([8, 64, 512]))
            changed[:head] = other[:head]
        case _:  # an inserted box with a false length
            kind = [b"moov", b"trak", b"stsz", b"elst", b"mdat", b"free", b"uuid", b"avc1"][int(draw.integers(8))]
            claimed = int(draw.choice([0, 1, 8, 40, 2**20, 2**31 - 1, 2**32 - 1]))
            changed[start:start] = struct.pack(">I", claimed) + kind + draw.bytes(int(draw.integers(0, 64)))
    return bytes(changed)
