"""Durations, frame times and tracks of a media file, read from its packets without decoding them

`len(VideoReader)` counts all packets, including those that a trimmed file marks as not to be shown. This module counts
the frames that can be shown, for every decoder: packets that are not marked as discarded, by presentation time.

Files of a corpus are untrusted. A file is opened only if its content, whatever its name, is one of the containers
listed here: FFmpeg also reads playlists, which name other files and addresses, as well as texts and pictures.

Works with PyAV 18, whose times are `fractions.Fraction`, and with PyAV 19, whose times are `av.AVRational`.
"""

# F frames that can be shown, in presentation order

import bisect
import errno
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np
from numpy.typing import NDArray

from remix_study.errors import MediaError
from remix_study.media.checks import check_file
from remix_study.media.headers import stated_s

# FFmpeg's names of demuxers. `mov` also reads MP4, `matroska` WebM, `asf` WMV, `mpeg` VOB.
_CONTAINERS = (
    "mov", "matroska", "avi", "flv", "mpegts", "mpeg", "asf", "ogg", "nut", "mxf", "dv", "ivf", "rm", "gif",
    "wav", "w64", "aiff", "caf", "au", "flac", "mp3", "aac", "ac3", "amr", "wv", "tta", "ape", "nistsphere",
    "h264", "hevc", "m4v", "mpegvideo",
)  # fmt: skip
# Raw streams have no header with their duration; FFmpeg guesses it from the bit rate of the first packets.
_RAW = {"aac", "ac3", "h264", "hevc", "m4v", "mpegvideo"}
_NEVER = -(2**63)  # before every timestamp
_HOLE_S, _HOLE_FRAMES = 1.0, 10  # shorter ones occur where a camera or a screen recorder drops frames
_DEFAULT_FRAME_S = 0.04  # 25 frames per second, for a video track without a frame rate
_LEADING_S = 0.5  # open groups of frames need less; more is a part of the clip
_PLACED = 8  # blocks of audio whose times place a track
_ROUNDED_S = 0.003  # Matroska, FLV and ASF round the times of blocks to milliseconds


class Rational(Protocol):
    """A ratio of two integers: `fractions.Fraction` in PyAV 18, `av.AVRational` in PyAV 19."""

    @property
    def numerator(self) -> int: ...

    @property
    def denominator(self) -> int: ...


def seconds(pts: int, time_base: Rational | None) -> float:
    """Convert a timestamp to seconds: pts * time_base, correctly rounded.

    Args:
        pts: a timestamp, in units of `time_base`.
        time_base: seconds per unit. PyAV 18 gives None where it is unknown, PyAV 19 gives 0/1 or a denominator of 0.

    Raises:
        MediaError: stage `open`; the time base is unknown.
    """
    if time_base is None or not time_base.numerator or not time_base.denominator:
        raise MediaError("one of its tracks has timestamps but no time base", stage="open")
    return pts * time_base.numerator / time_base.denominator


def _frame_seconds(rate: Rational | None) -> float:
    """Seconds per frame at a rate in frames per second; unknown rates (None, 0/1, n/0) count as 25 per second."""
    if rate is None or not rate.numerator or not rate.denominator:
        return _DEFAULT_FRAME_S
    return rate.denominator / rate.numerator


@dataclass(frozen=True, slots=True)
class Container:
    """What a file says about its tracks. Times are in seconds from the start of the file, where `ffmpeg -ss 0` begins:
    the earliest timestamp of any track, which can be negative.

    Attributes:
        duration_s: None if the file does not state its duration.
        frame_times_F: presentation time of each frame, ascending; None without a video track.
        frame_s: how long the last frame is shown.
        holes: beginning and length of each time without new frames and without audio, if it exceeds a second and ten
            frames. A still picture is not a hole while its sound continues.
        audio_rate: in Hz; None without an audio track.
        audio_start_s: time of the first decoded sample. The first packets of some codecs decode to nothing.
        audio_end_s: end of the last audio packet; 0 without an audio track, or if its packets have no timestamps.
        audio_tracks: number of audio tracks.
    """

    duration_s: float | None
    frame_times_F: NDArray[np.float64] | None
    frame_s: float
    holes: tuple[tuple[float, float], ...]
    audio_rate: int | None
    audio_start_s: float
    audio_end_s: float
    audio_tracks: int

    @property
    def video_end_s(self) -> float:
        """When the last frame ends; 0 without frames."""
        if self.frame_times_F is None or not len(self.frame_times_F):
            return 0.0
        return float(self.frame_times_F[-1]) + self.frame_s


def probe(path: Path) -> Container:
    """Read a file's durations, frame times and tracks.

    Raises:
        MediaError: `check_file` refuses the file (its stages), it cannot be opened (`open`), its content is of another
            kind, such as a picture or a playlist (`format`), there is no decoder for its codec (`codec`), or it is a
            truncated Ogg file (`duration`).
    """
    check_file(path)
    try:
        with open_media(path) as file:
            return _read(file, path)
    except (av.FFmpegError, UnicodeDecodeError) as error:
        stage = "memory" if isinstance(error, MemoryError) else "open"
        raise MediaError(
            f"it is not a media file, or lacks its header or index, as a truncated copy may ({type(error).__name__})",
            stage=stage,
        ) from error
    except IndexError as error:  # PyAV numbers the tracks once, when it opens the file
        raise MediaError("its header does not list all of its tracks", stage="open") from error


def open_media(path: Path) -> Any:
    """Open a PyAV input container, for use in a `with` block. FFmpeg may open no other file or address.

    Raises:
        MediaError: stage `format`; the content is not one of the containers above.
        av.FFmpegError: the file cannot be opened.
    """
    # `file:` keeps FFmpeg from reading a file name as an address.
    try:
        return av.open(
            f"file:{path}", options={"format_whitelist": ",".join(_CONTAINERS), "protocol_whitelist": "file"}
        )
    except av.ArgumentError as error:
        if error.errno != errno.EINVAL:
            raise
        raise MediaError(
            "its content, whatever its name says, is in none of the containers that are read: it is a picture, a text "
            "or a playlist, or audio or video to convert first (`ffmpeg -i FILE FILE.mkv`, or `FILE.flac` for audio)",
            stage="format",
        ) from error


def video_track(file: Any) -> Any | None:
    """The video track that FFmpeg ranks best, or None. Cover pictures do not count.

    Raises:
        MediaError: stage `codec`; there is no decoder for it.
    """
    best = file.streams.best("video")
    if best is not None and is_cover(best):  # FFmpeg prefers every other video track to a cover
        return None
    return _decodable(best, "video")


def audio_track(file: Any) -> Any | None:
    """The audio track that FFmpeg ranks best, or None.

    Raises:
        MediaError: stage `codec`; there is no decoder for it.
    """
    return _decodable(file.streams.best("audio"), "audio")


def is_cover(track: Any) -> bool:
    """Whether a video track is a cover picture."""
    return bool(track.disposition & av.stream.Disposition.attached_pic)


def _decodable(track: Any | None, kind: str) -> Any | None:
    if track is not None and track.codec_context is None:
        raise MediaError(f"there is no decoder for the codec of its {kind} track; convert the file", stage="codec")
    return track


def _read(file: Any, path: Path) -> Container:
    video, audio = video_track(file), audio_track(file)
    # AVI stores one time per frame, in decoding order. FFmpeg's derived presentation times are late after reordering.
    is_avi = file.format.name == "avi"
    start_s = 0.0 if is_avi else (file.start_time or 0) / av.time_base
    pictures, sound = _VideoPackets(is_avi), _AudioPackets(start_s)
    for packet in _packets(file, video, audio):
        (pictures if video is not None and packet.stream_index == video.index else sound).add(packet)
    if pictures.has_leading:
        pictures.drop_leading(_first_frame(path), video.time_base)  # type: ignore[union-attr]  # it has packets
    frame_s = _frame_seconds(video.average_rate if video is not None else None)
    times = _frame_times(pictures.shown, video, start_s, frame_s) if video is not None else None
    last_s = (
        seconds(pictures.last_duration, video.time_base) if video is not None and pictures.last_duration else frame_s
    )
    video_end_s = float(times[-1]) + last_s if times is not None and len(times) else 0.0
    return Container(
        duration_s=_duration_s(file, path, start_s, max(sound.end_s, video_end_s)),
        frame_times_F=times,
        frame_s=last_s,
        holes=_holes(times, sound.heard_s),
        audio_rate=int(audio.rate) if audio is not None else None,
        audio_start_s=sound.first_s,
        audio_end_s=sound.end_s,
        audio_tracks=len(file.streams.audio),
    )


class _VideoPackets:
    """What the packets of a video track tell about its frames.

    Attributes:
        shown: timestamps of the frames that can be shown, in the order of decoding, in units of the track's time base.
        last_duration: duration of the frame that is shown last, in the same units; 0 if it is not stated.
    """

    def __init__(self, is_avi: bool) -> None:
        self._is_avi, self._last = is_avi, _NEVER
        self._first_key: int | None = None
        self.shown: list[int | None] = []
        self.last_duration = 0

    @property
    def has_leading(self) -> bool:
        """Whether there may be frames that `leading_frames` counts."""
        key = self._first_key
        return not self._is_avi and key is not None and any(pts is not None and pts < key for pts in self.shown)

    def drop_leading(self, first_frame: int | None, time_base: Rational | None) -> None:
        """Drop the frames that `leading_frames` counts, unless they last too long."""
        known = sorted(pts for pts in self.shown if pts is not None)
        leading = 0 if first_frame is None else leading_frames(known, self._first_key, first_frame)
        if leading and len(known) == len(self.shown) and not is_long(known, leading, time_base):
            self.shown = [*known[leading:]]

    def add(self, packet: Any) -> None:
        if packet.is_keyframe and self._first_key is None:
            self._first_key = packet.pts
        if packet.is_discard:
            return
        self.shown.append(packet.dts if self._is_avi else packet.pts)
        if packet.pts is not None and packet.pts > self._last:
            self._last, self.last_duration = packet.pts, max(packet.duration or 0, 0)


class _AudioPackets:
    """What the packets of an audio track tell about its samples. Times are in seconds from the start of the file.

    Attributes:
        heard_s: times of the packets.
        end_s: end of the last packet; 0 if they have no timestamps.
    """

    def __init__(self, start_s: float) -> None:
        self._start_s = start_s
        self._samples = 0  # decoded so far
        self._begins_s: list[float] = []  # when the track begins, according to each decoded block
        self.heard_s: list[float] = []
        self.end_s = 0.0

    def add(self, packet: Any) -> None:
        if len(self._begins_s) < _PLACED:  # packets that are marked as discarded prepare the decoder
            self._decode(packet)
        if packet.pts is not None and not packet.is_discard:
            self.heard_s.append(seconds(packet.pts, packet.time_base) - self._start_s)
            end_s = seconds(packet.pts + (packet.duration or 0), packet.time_base) - self._start_s
            self.end_s = max(self.end_s, end_s)

    @property
    def first_s(self) -> float:
        """Time of the first decoded sample; 0 if it is not known.

        In MP4 without edit lists, as in many fragmented files, the first block lasts until the video begins, which is
        longer than its samples. The samples after it must be in sync, so most of the first blocks decide.
        """
        if not self._begins_s:
            return max(self.heard_s[0], 0.0) if self.heard_s else 0.0
        first_s, most_s = self._begins_s[0], float(np.median(self._begins_s))
        return max((most_s if abs(most_s - first_s) > _ROUNDED_S else first_s) - self._start_s, 0.0)

    def _decode(self, packet: Any) -> None:
        try:
            for block in packet.decode():
                if block.pts is not None:
                    begins_s = seconds(block.pts, block.time_base) - self._samples / block.sample_rate
                    self._begins_s.append(begins_s)
                self._samples += block.samples
        except av.FFmpegError:  # damage is reported when the track is decoded
            pass


def leading_frames(times: Sequence[int], first_key: int | None, first_frame: int) -> int:
    """The number of frames at the start of a file that need frames before it, so that decoders drop them.

    A file that was cut without encoding can have such frames before its first key frame, and after an open group of
    frames was cut in front of them.

    Args:
        times: timestamps of the packets, ascending.
        first_key: that of the first key frame in the order of decoding; None if it is not known.
        first_frame: that of the first decoded frame.
    """
    return 0 if first_key is None else bisect.bisect_left(times, min(first_key, first_frame, times[-1]))


def is_long(times: Sequence[int], leading: int, time_base: Rational | None) -> bool:
    """Whether so many frames at the start of a file are a part of the clip that must not be missing."""
    return seconds(times[leading] - times[0], time_base) > _LEADING_S


def _first_frame(path: Path) -> int | None:
    """Timestamp of the first frame that a video track decodes to; None if there is none."""
    try:
        with open_media(path) as file:
            for frame in file.decode(video_track(file)):
                return None if frame.pts is None else int(frame.pts)
    except (av.FFmpegError, LookupError):  # damage is reported when the track is decoded
        pass
    return None


def _duration_s(file: Any, path: Path, start_s: float, end_s: float) -> float | None:
    """The duration that a file states, in seconds; None if it states none.

    Args:
        start_s: the file's first timestamp.
        end_s: where the last packet ends, counted from there.

    Raises:
        MediaError: stage `duration`; it is an Ogg file that is truncated.
    """
    container = file.format.name.split(",")[0]
    duration_s = stated_s(path, container, file.duration / av.time_base if file.duration else None, end_s)
    if container in _RAW:
        return None
    if container == "mpeg":  # FFmpeg guesses from the last of the few timestamps
        return end_s or None
    if container == "avi":  # of a truncated AVI, FFmpeg reports only what is left
        video, audio = video_track(file), audio_track(file)
        pictures_s = video.frames * _frame_seconds(video.average_rate) if video is not None else 0.0
        sound_s = seconds(audio.frames, audio.time_base) if audio is not None and audio.frames else 0.0
        return max(duration_s or 0.0, pictures_s, sound_s) or None
    if duration_s is not None and start_s and container in ("matroska", "nut"):
        # FFmpeg states where the last track ends, MKVToolNix how long the tracks last.
        return min(duration_s, duration_s - start_s, key=lambda length_s: abs(length_s - end_s))
    return duration_s


def _frame_times(shown: list[int | None], video: Any, start_s: float, frame_s: float) -> NDArray[np.float64]:
    """Times of the frames, ascending, in seconds from the start of the file.

    Args:
        shown: the timestamps of the packets, in the order of decoding.
        frame_s: seconds per frame at the average rate.
    """
    known = sorted(pts for pts in shown if pts is not None)
    lacking = len(shown) - len(known)
    times = np.array([seconds(pts, video.time_base) - start_s for pts in known])
    if not lacking:
        return times
    if known and all(pts is None for pts in shown[:lacking]):  # FFmpeg does not read negative timestamps of Matroska
        return np.concatenate([times[0] - np.arange(lacking, 0, -1) * frame_s, times])
    return np.arange(len(shown), dtype=np.float64) * frame_s  # frames follow each other at the file's rate


def _holes(times_F: NDArray[np.float64] | None, heard_s: list[float]) -> tuple[tuple[float, float], ...]:
    """`Container.holes`, from the times of the frames and of the audio packets."""
    if times_F is None or len(times_F) < 2:
        return ()
    steps_s = np.diff(times_F)
    long = np.flatnonzero(steps_s > max(_HOLE_S, _HOLE_FRAMES * float(np.median(steps_s))))
    heard = np.sort(np.array(heard_s))
    # A packet at each edge belongs to what is before or after the hole.
    inside = np.searchsorted(heard, times_F[long + 1] - _HOLE_S / 2) - np.searchsorted(
        heard, times_F[long] + _HOLE_S / 2
    )
    return tuple((float(times_F[at]), float(steps_s[at])) for at in long[inside <= 0])


def _packets(file: Any, *tracks: Any | None) -> Iterator[Any]:
    """The packets of these tracks that are not empty."""
    wanted = [track for track in tracks if track is not None]
    if not wanted:  # `demux([])` would give the packets of all tracks
        return
    for packet in file.demux(wanted):
        if packet.size:
            yield packet
