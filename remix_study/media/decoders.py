"""Decoders that read video frames and the audio waveform of a file: the protocol and its three backends

All backends return the same frames bit for bit, and the same waveform up to the last bits of a lossy codec
(tests/contracts). None uses random access: on trimmed files and reordered key frames, seeking returns wrong frames
without an error (docs/platform.md).
"""

# T chosen frames of H x W pixels

import importlib.metadata
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import av
import av.sidedata.sidedata
import numpy as np
from numpy.typing import NDArray

from remix_study.errors import MediaError, StoreError
from remix_study.media.checks import ChannelLevel
from remix_study.media.container import (
    Container,
    Rational,
    audio_track,
    is_long,
    leading_frames,
    open_media,
    seconds,
    video_track,
)
from remix_study.media.pixels import to_rgb

DecoderName = Literal["pyav", "torchcodec", "decord"]
OneChannel = Literal["mix", "left", "right"] | int
DECODERS: tuple[DecoderName, ...] = ("pyav", "torchcodec", "decord")


class Decoder(Protocol):
    """A backend that decodes one file at a time."""

    @property
    def name(self) -> str: ...

    def frames(self, path: Path, wanted_T: Sequence[int], count: int) -> list[NDArray[np.uint8]]:
        """Decode the wanted frames, rotated as the file's metadata asks.

        Args:
            wanted_T: ascending frame numbers, below `count`.
            count: how many frames to read, so that damage between the wanted frames is found.

        Returns:
            T RGB frames, uint8 (H, W, 3).

        Raises:
            MediaError: stage `video`; the track is missing or damaged, or ends before the last wanted frame.
        """
        ...

    def wave(self, path: Path, container: Container, channel: OneChannel = "mix") -> NDArray[np.float32]:
        """Decode the whole audio track to mono.

        The mix is FFmpeg's, which keeps the power of independent channels: (left + right) / sqrt 2 for stereo.

        Args:
            channel: `mix`, or the number or name of one channel. A track with one channel has only that.

        Returns:
            float32 (S,) at the file's own sample rate, without the silence before a late start. Values may exceed 1.

        Raises:
            MediaError: stage `audio`; the track is missing or damaged.
        """
        ...


class DecordDecoder:
    """The decord2 backend. decord is imported on first use, because its import maps every CUDA library.

    decord repeats frames that it cannot decode, hides damage in frames and audio, can hang while it repeats frames, and
    returns other pixels than PyAV for some kinds of video (docs/faults.md). Therefore PyAV first reads each track
    without converting it and raises on damage. Where decord is known to be wrong or raises an error, as for files that
    do not state their duration, PyAV also decodes.
    """

    name = "decord"

    def frames(self, path: Path, wanted_T: Sequence[int], count: int) -> list[NDArray[np.uint8]]:
        if not _decord_is_reliable(path, count):
            return PyAVDecoder().frames(path, wanted_T, count)
        import decord

        wanted = set(wanted_T)
        chosen: list[NDArray[np.uint8]] = []
        try:
            # The smallest tolerance above 0, which means any: the first frame that decord makes up is an error.
            reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1, fault_tol=1e-9)
            for number in range(count):
                frame = reader.next()
                if number in wanted:
                    chosen.append(frame.asnumpy())
        except (Exception, StopIteration):  # RuntimeError or DECORDError, which is no RuntimeError
            return PyAVDecoder().frames(path, wanted_T, count)
        return chosen

    def wave(self, path: Path, container: Container, channel: OneChannel = "mix") -> NDArray[np.float32]:
        if channel != "mix":  # old versions of decord return uninitialised memory as single channels
            return PyAVDecoder().wave(path, container, channel)
        samples = _audio_samples(path)
        if container.audio_tracks > 1 or samples is None:  # decord does not say which track it reads
            return PyAVDecoder().wave(path, container)
        import decord

        try:
            # Avoid decord's resampling (0.6 adds a delay), mono=False (uninitialised memory in old versions) and
            # add_padding (`[:]` then loses as many samples at the end as were added in front).
            reader = decord.AudioReader(str(path), ctx=decord.cpu(0), sample_rate=-1, mono=True)
            wave: NDArray[np.float32] = reader[:].asnumpy()[0].astype(np.float32)
        except Exception:  # DECORDError, RuntimeError or others; PyAV then decides whether the file is damaged
            return PyAVDecoder().wave(path, container)
        return wave if len(wave) == samples else PyAVDecoder().wave(path, container)


class TorchcodecDecoder:
    """The torchcodec backend, which needs FFmpeg's libraries on the machine. It is imported on first use.

    torchcodec conceals damage as FFmpeg does, and numbers frames by a scan of the packets, which fails on some AVI and
    MPEG-TS files (docs/faults.md). Therefore PyAV first reads each track without converting it and raises on damage.
    Each frame must have the time that PyAV found. Otherwise, or after an error, PyAV also decodes.
    """

    name = "torchcodec"

    def frames(self, path: Path, wanted_T: Sequence[int], count: int) -> list[NDArray[np.uint8]]:
        decoders = _torchcodec()
        times_F = _upright_times(path, count)
        frames = None if times_F is None else _torchcodec_frames(decoders, path, wanted_T, times_F)
        return PyAVDecoder().frames(path, wanted_T, count) if frames is None else frames

    def wave(self, path: Path, container: Container, channel: OneChannel = "mix") -> NDArray[np.float32]:
        decoders = _torchcodec()
        if channel != "mix":  # torchcodec does not name the channels
            return PyAVDecoder().wave(path, container, channel)
        samples = _audio_samples(path)
        if container.audio_tracks > 1 or samples is None:
            return PyAVDecoder().wave(path, container)
        try:
            decoded = decoders.AudioDecoder(str(path), num_channels=1).get_all_samples()
            wave: NDArray[np.float32] = decoded.data[0].numpy()
        except Exception:  # RuntimeError or ValueError; PyAV then decides whether the file is damaged
            return PyAVDecoder().wave(path, container)
        same = len(wave) == samples and decoded.sample_rate == container.audio_rate
        return wave if same else PyAVDecoder().wave(path, container)


class PyAVDecoder:
    """The PyAV backend, on one thread. It raises on damage that FFmpeg conceals, and on missing frames or audio."""

    name = "pyav"

    def frames(self, path: Path, wanted_T: Sequence[int], count: int) -> list[NDArray[np.uint8]]:
        wanted = set(wanted_T)
        try:
            chosen = [_upright(frame) for number, frame in enumerate(_video_frames(path, count)) if number in wanted]
        except _FAILURES as error:
            raise _failure("video", error, path) from error
        return _require_all(chosen, wanted_T)

    def wave(
        self,
        path: Path,
        container: Container,  # noqa: ARG002 - part of the protocol
        channel: OneChannel = "mix",
    ) -> NDArray[np.float32]:
        parts: list[NDArray[np.float32]] = []
        convert: Any = None
        number = 0
        try:
            for rate, frame in _audio_frames(path):
                if convert is None:
                    layout = "mono" if channel == "mix" else frame.layout
                    convert = av.AudioResampler(format="fltp", layout=layout, rate=rate)
                    number = _number_of(channel, [each.name for each in frame.layout.channels])
                parts += [part.to_ndarray()[number].copy() for part in convert.resample(frame)]
            if convert is not None:
                parts += [part.to_ndarray()[number].copy() for part in convert.resample(None)]
        except _FAILURES as error:
            raise _failure("audio", error, path) from error
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)


# LookupError: PyAV numbers the tracks when it opens a file, and a damaged file can announce more of them later.
_FAILURES = (av.FFmpegError, OSError, ValueError, LookupError, MemoryError)
_SAME_S = 1e-4  # more than the rounding of times, less than the distance of any two frames
_NO_FFMPEG = (
    "Cannot use the decoder `torchcodec`: it finds no FFmpeg libraries that it can load. Install FFmpeg 4 to 9 "
    "(`apt-get install ffmpeg`), or use the decoder `pyav`."
)
_GAP_S = 0.1  # longer than rounding errors of timestamps, shorter than a gap that a listener overlooks
_DECORD_PIXELS = {"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "bgr0", "rgb24", "bgr24", "gray"}
_REORDERED = 64  # packets at the start of a file, at least as many as codecs reorder
_DECORD_CONTAINERS = ("mov", "matroska", "avi", "flv")


def _video_frames(path: Path, count: int) -> Iterator[Any]:
    """Yield the first `count` frames that can be shown, as PyAV frames in presentation order.

    Raises:
        MediaError: stage `video`; one of them is damaged or missing.
    """
    number = 0
    packet_times: list[int | None] = []
    frame_times: list[int | None] = []
    first_key: int | None = None
    time_base = None
    try:
        with open_media(path) as file:
            track = video_track(file)
            if track is None:
                raise MediaError("it has no video track", stage="video")
            track.codec_context.thread_count = 1
            timed = file.format.name != "avi"  # presentation times of an AVI are guessed by FFmpeg
            time_base = track.time_base
            for packet in file.demux(track):
                first_key = packet.pts if first_key is None and packet.is_keyframe else first_key
                if packet.size and not packet.is_discard:
                    packet_times.append(packet.pts)
                for frame in packet.decode():
                    if number == count:
                        break
                    if frame.is_corrupt:
                        raise MediaError(f"frame {number} of its video track is damaged", stage="video")
                    frame_times.append(frame.pts)
                    yield frame
                    number += 1
                if number == count:
                    break
    except _FAILURES as error:
        raise _failure("video", error, path) from error
    known = sorted(pts for pts in packet_times if pts is not None)
    complete = timed and len(known) == len(packet_times)
    if complete and known and frame_times and frame_times[0] is not None:
        known = known[_leading(known, first_key, frame_times[0], time_base) :]
    if number < count:
        raise MediaError(f"its video track ends after {number} of {count} frames", stage="video")
    # A frame that FFmpeg skips shifts all frames after it. Its packet's time is then missing from the frame times.
    if complete and None not in frame_times and known[:count] != frame_times:
        raise MediaError("frames of its video track are missing, or have other times than their packets", stage="video")


def _leading(times: Sequence[int], first_key: int | None, first_frame: int, time_base: Rational | None) -> int:
    """As `leading_frames`.

    Raises:
        MediaError: stage `video`; they last too long.
    """
    leading = leading_frames(times, first_key, first_frame)
    if leading and is_long(times, leading, time_base):
        raise MediaError(
            f"the first {seconds(times[leading] - times[0], time_base):.2f} s of its video track need frames before "
            "the start of the file; cut it at a key frame, or encode it again (`ffmpeg -i FILE FILE.mkv`)",
            stage="video",
        )
    return leading


def _decord_is_reliable(path: Path, count: int) -> bool:
    """Whether decord is known to decode this kind of video correctly.

    Raises:
        MediaError: as `_video_frames`.
    """
    sizes, supported, first_pts = set(), True, 0
    for number, frame in enumerate(_video_frames(path, count)):
        sizes.add((frame.width, frame.height))
        first_pts = (frame.pts or 0) if number == 0 else first_pts
        supported = supported and frame.format.name in _DECORD_PIXELS and not frame.interlaced_frame
        supported = supported and (number > 0 or _rotation(frame) is None)
        supported = supported and frame.pts is not None and frame.pts >= 0  # decord skips to a key frame after 0
    with open_media(path) as file:
        known = file.format.name.split(",")[0] in _DECORD_CONTAINERS and len(file.streams.video) == 1
        # decord counts frames that it drops at the start.
        packets = (packet for packet in file.demux(video_track(file)) if packet.size and not packet.is_discard)
        times = [packet.pts for packet in itertools.islice(packets, _REORDERED) if packet.pts is not None]
        known = known and bool(times) and min(times) >= first_pts
    return supported and known and len(sizes) == 1 and all(width % 2 == height % 2 == 0 for width, height in sizes)


def _upright_times(path: Path, count: int) -> list[float] | None:
    """Seconds of the first `count` frames, as the track states them; None if they lack times, are rotated or differ in
    size.

    Raises:
        MediaError: as `_video_frames`.
    """
    sizes, times_F, plain = set(), [], True
    for number, frame in enumerate(_video_frames(path, count)):
        sizes.add((frame.width, frame.height))
        plain = plain and frame.pts is not None and (number > 0 or _rotation(frame) is None)
        times_F.append(seconds(frame.pts or 0, frame.time_base))
    return times_F if plain and len(sizes) == 1 else None


def _torchcodec_frames(
    decoders: Any, path: Path, wanted_T: Sequence[int], times_F: Sequence[float]
) -> list[NDArray[np.uint8]] | None:
    """The wanted frames as torchcodec decodes them; None if it raises an error, or returns a frame of another time."""
    with open_media(path) as file:
        track = video_track(file).index  # type: ignore[union-attr]  # its frames have been read
    wanted, chosen = set(wanted_T), []
    try:
        reader = decoders.VideoDecoder(str(path), stream_index=track, dimension_order="NHWC", num_ffmpeg_threads=1)
        for number in range(max(wanted) + 1):  # one after the other, so that it never seeks
            frame = reader.get_frame_at(number)
            if abs(frame.pts_seconds - times_F[number]) > _SAME_S:
                return None
            if number in wanted:
                chosen.append(frame.data.numpy())
    except Exception:  # RuntimeError, ValueError or IndexError
        return None
    return chosen


def _torchcodec() -> Any:
    """The module `torchcodec.decoders`.

    Raises:
        StoreError: torchcodec is not installed, or cannot load FFmpeg's libraries.
    """
    try:
        import torchcodec
    except ImportError as error:
        raise StoreError(
            "Cannot use the decoder `torchcodec`: it is not installed. Run `pip install 'remix-study[torchcodec]'`, or "
            "use the decoder `pyav`."
        ) from error
    except (RuntimeError, OSError) as error:  # older versions raise where they find no FFmpeg
        raise StoreError(_NO_FFMPEG) from error
    if torchcodec.ffmpeg_major_version is None:
        raise StoreError(_NO_FFMPEG)
    import torchcodec.decoders

    return torchcodec.decoders


def _audio_frames(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the track's sample rate in Hz with each block of audio, as a PyAV frame.

    Raises:
        MediaError: stage `audio`; audio is damaged or missing, or the sample rate, layout or format changes.
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
                    now_s = seconds(frame.pts, frame.time_base) - samples / frame.sample_rate
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


def channel_levels(path: Path, first: int, stop: int) -> list[ChannelLevel]:
    """The level of each channel in samples first..stop-1 of the audio track, decoded block by block.

    Empty for a track with one channel, which is not decoded to its end.

    Args:
        first, stop: may lie beyond the track, where every sample is zero.

    Raises:
        MediaError: as `_audio_frames`.
    """
    at, totals_C, squares_C, lowest_C, highest_C = 0, np.zeros(1), np.zeros(1), np.array([np.inf]), np.array([-np.inf])
    to_float: Any = None
    for _, frame in _audio_frames(path):
        if frame.layout.nb_channels < 2:
            return []
        to_float = to_float or av.AudioResampler(format="fltp", layout=frame.layout, rate=frame.sample_rate)
        for part in to_float.resample(frame):
            block_CS = part.to_ndarray()[:, max(first - at, 0) : max(stop - at, 0)]
            at += part.samples
            if block_CS.size:
                totals_C = totals_C + block_CS.sum(axis=1, dtype=np.float64)
                squares_C = squares_C + np.square(block_CS, dtype=np.float64).sum(axis=1)
                lowest_C = np.minimum(lowest_C, block_CS.min(axis=1))
                highest_C = np.maximum(highest_C, block_CS.max(axis=1))
    count = max(stop - first, 1)
    if first < 0 or stop > at:  # zeros before and after the track
        lowest_C, highest_C = np.minimum(lowest_C, 0), np.maximum(highest_C, 0)
    deviations_C = np.sqrt(np.maximum(squares_C / count - np.square(totals_C / count), 0))
    return [ChannelLevel(*map(float, each)) for each in zip(lowest_C, highest_C, deviations_C, strict=True)]


def _number_of(channel: OneChannel, names: Sequence[str]) -> int:
    """The number of a channel among those with these names, which are FFmpeg's, such as FL and FR."""
    match channel:
        case "mix":
            return 0  # of the single channel of the mix
        case "left":
            return names.index("FL") if "FL" in names else 0
        case "right":
            return names.index("FR") if "FR" in names else min(1, len(names) - 1)
        case number:
            return number


def _audio_samples(path: Path) -> int | None:
    """Number of samples of the track; None if its decoded sample rate is not the one that the container states.

    Raises:
        MediaError: as `_audio_frames`.
    """
    samples = 0
    for rate, frame in _audio_frames(path):
        if frame.sample_rate != rate:
            return None
        samples += frame.samples
    return samples


def _rotation(frame: Any) -> NDArray[np.int32] | None:
    """Signs of the upper left 2 x 2 of the display matrix; None without a rotation or mirroring by right angles."""
    given = frame.side_data.get(av.sidedata.sidedata.Type.DISPLAYMATRIX)
    if given is None:
        return None
    matrix = np.sign(np.frombuffer(bytes(given), np.int32)[[0, 1, 3, 4]]).reshape(2, 2)
    right_angles = np.count_nonzero(matrix) == 2 and bool((matrix != 0).any(axis=0).all())
    return matrix if right_angles and not np.array_equal(matrix, np.eye(2)) else None


def _upright(frame: Any) -> NDArray[np.uint8]:
    """RGB (H, W, 3), rotated and mirrored by the display matrix, which FFmpeg leaves to the player."""
    picture = to_rgb(frame)
    if (matrix := _rotation(frame)) is not None:
        # x' = matrix[0, 0] x + matrix[1, 0] y and y' = matrix[0, 1] x + matrix[1, 1] y; negative axes are flipped.
        picture = picture if matrix[0, 0] else picture.swapaxes(0, 1)
        picture = picture[:, ::-1] if matrix[:, 0].sum() < 0 else picture
        picture = picture[::-1] if matrix[:, 1].sum() < 0 else picture
    return np.ascontiguousarray(picture)


def decoder_named(name: DecoderName) -> Decoder:
    """The backend of this name."""
    match name:
        case "decord":
            return DecordDecoder()
        case "pyav":
            return PyAVDecoder()
        case "torchcodec":
            return TorchcodecDecoder()


def decoder_version(name: DecoderName) -> str:
    """A backend's distribution and version. It is part of a store's fingerprint.

    PyAV and decord bring FFmpeg's libraries and are not imported. torchcodec is, to find those of the machine.

    Raises:
        StoreError: the backend is not installed or cannot be imported, or both decord and decord2 are.
    """
    if name == "pyav":
        return f"av {importlib.metadata.version('av')}"
    if name == "torchcodec":
        _torchcodec()
        import torchcodec

        return f"torchcodec {_version('torchcodec')}, FFmpeg {torchcodec.ffmpeg_major_version}"
    found = {dist: version for dist in ("decord", "decord2") if (version := _version(dist)) is not None}
    if len(found) == 2:
        raise StoreError(
            "Cannot use the decoder `decord`: both `decord` and `decord2` are installed, and they overwrite each "
            "other's files. Run `pip uninstall decord decord2` and then `pip install decord2`."
        )
    if not found:
        raise StoreError("The decoder `decord` is not installed. Run `pip install decord2`, or use the decoder `pyav`.")
    ((dist, version),) = found.items()
    return f"{dist} {version}"


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _require_all(chosen: list[NDArray[np.uint8]], wanted_T: Sequence[int]) -> list[NDArray[np.uint8]]:
    if len(chosen) < len(wanted_T):
        raise MediaError(f"its video track ends before frame {wanted_T[len(chosen)]}", stage="video")
    return chosen


def _failure(track: str, error: BaseException, path: Path) -> MediaError:
    if isinstance(error, MediaError):
        return error
    stage = "memory" if isinstance(error, MemoryError) else track
    return MediaError(f"its {track} track cannot be decoded ({_short(error, path)})", stage=stage)


def _short(error: BaseException, path: Path) -> str:
    # Two builds must write the same report, but decord's messages hold clock times and thread addresses, and PyAV's
    # the last line that FFmpeg logged, possibly for another file.
    text = getattr(error, "strerror", None) or (str(error).splitlines()[0] if str(error) else "")
    text = re.sub(r"\[\d\d:\d\d:\d\d\]\s*|\S*/project/src/|; last error log:.*", "", text.replace(str(path), path.name))
    return f"{type(error).__name__}: {text[:120]}".rstrip(": ")
