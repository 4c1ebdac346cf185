"""Frames and wave out of a file: what a backend must do, and the two that do it

Both give the same frames bit for bit and the same wave up to the last bits of a lossy codec (tests/contracts). Neither
uses random access: on cut files and on re-ordered key frames it gives wrong frames without a word (docs/platform.md).
"""

# T chosen frames of H x W pixels

import importlib.metadata
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import av
import av.sidedata.sidedata
import numpy as np
from numpy.typing import NDArray

from remix_study.errors import MediaError, StoreError
from remix_study.media.container import Container, audio_track, open_media, video_track

DecoderName = Literal["decord", "pyav"]
DECODERS: tuple[DecoderName, ...] = ("decord", "pyav")


class Decoder(Protocol):
    @property
    def name(self) -> str: ...

    def frames(self, path: Path, wanted_T: Sequence[int], count: int) -> list[NDArray[np.uint8]]:
        """Frames (H, W, 3) RGB by ascending number, upright, reading `count` frames through so that damage shows.

        Raises:
            MediaError: stage `video`; the track is absent or damaged, or ends before the last wanted frame.
        """
        ...

    def wave(self, path: Path, container: Container) -> NDArray[np.float32]:
        """The whole audio track, mono, at the file's own rate, without the silence before a late start.

        Mono is FFmpeg's own mix, which keeps the power of independent channels: (left + right) / sqrt 2 for stereo. It
        may exceed 1.

        Raises:
            MediaError: stage `audio`; the track is absent or damaged.
        """
        ...


class DecordDecoder:
    """decord2, imported on first use: its import maps every CUDA library into the process.

    decord repeats frames that it could not decode, hides damage within frames and in sound, can hang on what it
    repeats, and gives other pixels than PyAV for some kinds of video (docs/faults.md). So PyAV reads each track first,
    without converting it, refuses what is damaged, and does the work itself where decord is known to be wrong.
    """

    name = "decord"

    def frames(self, path: Path, wanted_T: Sequence[int], count: int) -> list[NDArray[np.uint8]]:
        if not _decord_can_show(path, count):
            return PyAVDecoder().frames(path, wanted_T, count)
        import decord

        wanted = set(wanted_T)
        chosen: list[NDArray[np.uint8]] = []
        try:
            # With the least tolerance that is not "any": the first frame that decord makes up is an error.
            reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1, fault_tol=1e-9)
            for number in range(count):
                frame = reader.next()
                if number in wanted:
                    chosen.append(frame.asnumpy())
        except (Exception, StopIteration) as error:  # RuntimeError or DECORDError, which is no RuntimeError
            raise _failure("video", error, path) from error
        return _all_of(chosen, wanted_T)

    def wave(self, path: Path, container: Container) -> NDArray[np.float32]:
        samples = _samples_heard(path)
        if container.audio_tracks > 1 or samples is None:  # decord does not say which track it reads
            return PyAVDecoder().wave(path, container)
        import decord

        try:
            # Neither decord's resampling (a delay in 0.6) nor mono=False (uninitialised memory in old versions); and
            # not its add_padding, after which `[:]` loses as many samples at the end as were added in front.
            reader = decord.AudioReader(str(path), ctx=decord.cpu(0), sample_rate=-1, mono=True)
            wave: NDArray[np.float32] = reader[:].asnumpy()[0].astype(np.float32)
        except Exception as error:
            raise _failure("audio", error, path) from error
        return wave if len(wave) == samples else PyAVDecoder().wave(path, container)


class PyAVDecoder:
    """PyAV, one thread; refuses damage that FFmpeg conceals, and frames and sounds that are missing."""

    name = "pyav"

    def frames(self, path: Path, wanted_T: Sequence[int], count: int) -> list[NDArray[np.uint8]]:
        wanted = set(wanted_T)
        try:
            chosen = [_upright(frame) for number, frame in enumerate(_shown(path, count)) if number in wanted]
        except _FAILURES as error:
            raise _failure("video", error, path) from error
        return _all_of(chosen, wanted_T)

    def wave(self, path: Path, container: Container) -> NDArray[np.float32]:  # noqa: ARG002  # the seam's shape
        parts: list[NDArray[np.float32]] = []
        to_mono: Any = None
        try:
            for rate, frame in _heard(path):
                to_mono = to_mono or av.AudioResampler(format="fltp", layout="mono", rate=rate)
                parts += [mixed.to_ndarray()[0] for mixed in to_mono.resample(frame)]
            if to_mono is not None:
                parts += [mixed.to_ndarray()[0] for mixed in to_mono.resample(None)]
        except _FAILURES as error:
            raise _failure("audio", error, path) from error
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)


# LookupError: PyAV numbers the tracks when it opens a file, and a damaged one can have more of them later.
_FAILURES = (av.FFmpegError, OSError, ValueError, LookupError, MemoryError)
_GAP_S = 0.1  # more than any rounding of times; less than a listener misses
_DECORD_PIXELS = {"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "bgr0", "rgb24", "bgr24", "gray"}
_DECORD_CONTAINERS = ("mov", "matroska", "avi", "flv")


def _shown(path: Path, count: int) -> Iterator[Any]:
    """The first `count` frames that can be shown, as PyAV's frames, each in its place.

    Raises:
        MediaError: stage `video`; one of them is damaged or missing.
    """
    number = 0
    promised: list[int | None] = []
    seen: list[int | None] = []
    try:
        with open_media(path) as file:
            track = video_track(file)
            if track is None:
                raise MediaError("it has no video track", stage="video")
            track.codec_context.thread_count = 1
            timed = file.format.name != "avi"  # whose times for showing are FFmpeg's guess
            for packet in file.demux(track):
                if packet.size and not packet.is_discard:
                    promised.append(packet.pts)
                for frame in packet.decode():
                    if number == count:
                        break
                    if frame.is_corrupt:
                        raise MediaError(f"frame {number} of its video track is damaged", stage="video")
                    seen.append(frame.pts)
                    yield frame
                    number += 1
                if number == count:
                    break
    except _FAILURES as error:
        raise _failure("video", error, path) from error
    if number < count:
        raise MediaError(f"its video track ends after {number} of {count} frames", stage="video")
    # A frame that FFmpeg left out shifts all that follow it; its time is then missing in what was shown.
    known = sorted(pts for pts in promised if pts is not None)
    if timed and len(known) == len(promised) and None not in seen and known[:count] != seen:
        raise MediaError("frames of its video track are missing, or shown at other times than it says", stage="video")


def _decord_can_show(path: Path, count: int) -> bool:
    """Whether decord gives these frames as they are: of a kind of video for which it was seen to be right.

    Raises:
        MediaError: as `_shown`.
    """
    sizes, can = set(), True
    for number, frame in enumerate(_shown(path, count)):
        sizes.add((frame.width, frame.height))
        can = can and frame.format.name in _DECORD_PIXELS and not frame.interlaced_frame
        can = can and (number > 0 or _turn(frame) is None)
    with open_media(path) as file:
        known = file.format.name.split(",")[0] in _DECORD_CONTAINERS and len(file.streams.video) == 1
    return can and known and len(sizes) == 1 and all(width % 2 == height % 2 == 0 for width, height in sizes)


def _heard(path: Path) -> Iterator[tuple[int, Any]]:
    """The track's rate in Hz, and each block of its sound as a PyAV frame.

    Raises:
        MediaError: stage `audio`; sound is damaged or missing, or changes its kind on the way.
    """
    kinds = set()
    first_s, samples = None, 0
    try:
        with open_media(path) as file:
            track = audio_track(file)
            if track is None:
                raise MediaError("it has no audio track", stage="audio")
            track.codec_context.thread_count = 1
            for frame in file.decode(track):
                kinds.add((frame.sample_rate, frame.layout.name, frame.format.name))
                if frame.is_corrupt or len(kinds) > 1:
                    raise MediaError("its audio track is damaged, or changes its rate or channels", stage="audio")
                if frame.pts is not None:
                    now_s = float(frame.pts * frame.time_base) - samples / frame.sample_rate
                    first_s = now_s if first_s is None else first_s
                    if abs(now_s - first_s) > _GAP_S:
                        raise MediaError(
                            f"its audio track has a gap of {now_s - first_s:.2f} s after "
                            f"{samples / frame.sample_rate:.2f} s",
                            stage="audio",
                        )
                samples += frame.samples
                yield int(track.rate), frame
    except _FAILURES as error:
        raise _failure("audio", error, path) from error


def _samples_heard(path: Path) -> int | None:
    """Samples of the track at its rate; None if it is decoded at another rate than the container says.

    Raises:
        MediaError: as `_heard`.
    """
    samples = 0
    for rate, frame in _heard(path):
        if frame.sample_rate != rate:
            return None
        samples += frame.samples
    return samples


def _turn(frame: Any) -> NDArray[np.int32] | None:
    """How a player turns it: the upper left 2 x 2 of a display matrix, if that says anything and is of right angles."""
    given = frame.side_data.get(av.sidedata.sidedata.Type.DISPLAYMATRIX)
    if given is None:
        return None
    matrix = np.sign(np.frombuffer(bytes(given), np.int32)[[0, 1, 3, 4]]).reshape(2, 2)
    right_angles = np.count_nonzero(matrix) == 2 and bool((matrix != 0).any(axis=0).all())
    return matrix if right_angles and not np.array_equal(matrix, np.eye(2)) else None


def _upright(frame: Any) -> NDArray[np.uint8]:
    """RGB (H, W, 3), turned and mirrored as the file says: FFmpeg leaves that to the player."""
    # One thread: FFmpeg's own choice is a dozen, which cost more than they help, and cores are shared out by process.
    picture: NDArray[np.uint8] = frame.to_ndarray(format="rgb24", threads=1)
    if (turn := _turn(frame)) is not None:
        # x' = turn[0, 0] x + turn[1, 0] y and y' = turn[0, 1] x + turn[1, 1] y; a negative one runs backwards.
        picture = picture if turn[0, 0] else picture.swapaxes(0, 1)
        picture = picture[:, ::-1] if turn[:, 0].sum() < 0 else picture
        picture = picture[::-1] if turn[:, 1].sum() < 0 else picture
    return np.ascontiguousarray(picture)


def decoder_named(name: DecoderName) -> Decoder:
    match name:
        case "decord":
            return DecordDecoder()
        case "pyav":
            return PyAVDecoder()


def decoder_version(name: DecoderName) -> str:
    """Distribution and version, without importing it; part of a store's fingerprint.

    Raises:
        StoreError: the backend is not installed, or decord and decord2 overwrite each other's files.
    """
    if name == "pyav":
        return f"av {importlib.metadata.version('av')}"
    found = {dist: version for dist in ("decord", "decord2") if (version := _version(dist)) is not None}
    if len(found) == 2:
        raise StoreError(
            "`decord` and `decord2` share one import name, so only one may be installed, but both are. "
            "Run `pip uninstall decord decord2` and then `pip install decord2`."
        )
    if not found:
        raise StoreError("the decoder `decord` is not installed. Run `pip install decord2`, or use the decoder `pyav`.")
    ((dist, version),) = found.items()
    return f"{dist} {version}"


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _all_of(chosen: list[NDArray[np.uint8]], wanted_T: Sequence[int]) -> list[NDArray[np.uint8]]:
    if len(chosen) < len(wanted_T):
        raise MediaError(f"its video track ends before frame {wanted_T[len(chosen)]}", stage="video")
    return chosen


def _failure(track: str, error: BaseException, path: Path) -> MediaError:
    if isinstance(error, MediaError):
        return error
    stage = "memory" if isinstance(error, MemoryError) else track
    return MediaError(f"its {track} track cannot be decoded ({_short(error, path)})", stage=stage)


def _short(error: BaseException, path: Path) -> str:
    # decord puts clock times and thread addresses in its messages, PyAV the last line that FFmpeg logged, maybe of
    # another file; a report must be the same in two builds.
    text = getattr(error, "strerror", None) or (str(error).splitlines()[0] if str(error) else "")
    text = re.sub(r"\[\d\d:\d\d:\d\d\]\s*|\S*/project/src/|; last error log:.*", "", text.replace(str(path), path.name))
    return f"{type(error).__name__}: {text[:120]}".rstrip(": ")
