"""What a media file says it holds, found by reading its packets without decoding them

`len(VideoReader)` counts packets, also those that a cut file tells players not to show; so the frames that can be shown
are counted here, for both backends: packets that are not marked as discarded, by presentation time.

A file of a corpus is untrusted. It is opened only if its content, whatever its name, is one of the containers listed
here: FFmpeg also reads playlists, which name other files and addresses, and texts and pictures, which "decode" too.
"""

# F frames that can be shown, in presentation order

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from remix_study.errors import MediaError
from remix_study.media.checks import check_file

# FFmpeg's names of demuxers; `mov` is MP4 too, `matroska` WebM, `asf` WMV, `mpeg` VOB.
_CONTAINERS = (
    "mov", "matroska", "avi", "flv", "mpegts", "mpeg", "asf", "ogg", "nut", "mxf", "dv", "ivf", "rm", "gif",
    "wav", "w64", "aiff", "caf", "au", "flac", "mp3", "aac", "ac3", "amr", "wv", "tta", "ape",
    "h264", "hevc", "m4v", "mpegvideo",
)  # fmt: skip
# Without a header that says how long they are; FFmpeg then guesses from the bit rate of the first packets.
_RAW = {"aac", "ac3", "h264", "hevc", "m4v", "mpegvideo"}


@dataclass(frozen=True, slots=True)
class Container:
    """`duration_s` is None when the file does not say; times count from the start of the file."""

    duration_s: float | None
    frame_times_F: NDArray[np.float64] | None  # seconds; None: no video track
    frame_s: float  # how long the last frame is shown
    audio_rate: int | None  # Hz; None: no audio track
    audio_start_s: float
    audio_end_s: float
    audio_tracks: int

    @property
    def video_end_s(self) -> float:
        if self.frame_times_F is None or not len(self.frame_times_F):
            return 0.0
        return float(self.frame_times_F[-1]) + self.frame_s


def probe(path: Path) -> Container:
    """
    Raises:
        MediaError: the file is missing, not a file, empty, unreadable, an LFS pointer (stages of `check_file`), no
            media (`open`), of another kind, such as a picture or a playlist (`format`), or of an unknown codec
            (`codec`).
    """
    check_file(path)
    try:
        with open_media(path) as file:
            return _read(file)
    except (av.FFmpegError, UnicodeDecodeError) as error:
        stage = "memory" if isinstance(error, MemoryError) else "open"
        raise MediaError(f"it is not a media file that can be opened ({type(error).__name__})", stage=stage) from error
    except IndexError as error:  # PyAV numbers the tracks once, when it opens the file
        raise MediaError("one of its tracks is not announced at its beginning", stage="open") from error


def open_media(path: Path) -> Any:
    """An `av` input container, to be used in a `with` block. Nothing but this file is opened, whatever it says.

    Raises:
        MediaError: stage `format`; its content is not one of the containers above.
        av.FFmpegError: it cannot be opened.
    """
    # `file:` so that no name is taken for an address.
    try:
        return av.open(
            f"file:{path}", options={"format_whitelist": ",".join(_CONTAINERS), "protocol_whitelist": "file"}
        )
    except av.ArgumentError as error:
        if error.errno != errno.EINVAL:
            raise
        raise MediaError(
            "its content is not sound or video, whatever its name says, but of another kind (a picture, a text or a "
            "playlist)",
            stage="format",
        ) from error


def video_track(file: Any) -> Any | None:
    """The track that FFmpeg holds for the best; never a cover picture.

    Raises:
        MediaError: stage `codec`; there is no decoder for it.
    """
    best = file.streams.best("video")
    if best is not None and is_cover(best):  # then there is no other: FFmpeg prefers any
        return None
    return _decodable(best, "video")


def audio_track(file: Any) -> Any | None:
    """The track that FFmpeg holds for the best.

    Raises:
        MediaError: stage `codec`; there is no decoder for it.
    """
    return _decodable(file.streams.best("audio"), "audio")


def is_cover(track: Any) -> bool:
    return bool(track.disposition & av.stream.Disposition.attached_pic)


def _decodable(track: Any | None, kind: str) -> Any | None:
    if track is not None and track.codec_context is None:
        raise MediaError(f"there is no decoder for the codec of its {kind} track", stage="codec")
    return track


def _read(file: Any) -> Container:
    video, audio = video_track(file), audio_track(file)
    # AVI has one time per frame, in the order of decoding: what FFmpeg derives for showing is late where order differs.
    one_rate = file.format.name == "avi"
    start_s = 0.0 if one_rate else max((file.start_time or 0) / av.time_base, 0.0)
    shown: list[int | None] = []
    last, last_lasts = -1, 0
    first_audio: float | None = None
    last_audio = 0  # where its last packet ends
    for packet in _packets(file, video, audio):
        if video is not None and packet.stream_index == video.index:
            shown.append(packet.dts if one_rate else packet.pts)
            if packet.pts is not None and packet.pts > last:
                last, last_lasts = packet.pts, packet.duration or 0
        elif packet.pts is not None:
            first_audio = float(packet.pts * packet.time_base) if first_audio is None else first_audio
            last_audio = max(last_audio, packet.pts + (packet.duration or 0))
    frame_s = float(1 / video.average_rate) if video is not None and video.average_rate else 0.04
    last_s = float(last_lasts * video.time_base) if video is not None and last_lasts > 0 else frame_s
    times: NDArray[np.float64] | None = None
    if video is not None:
        known = sorted(pts for pts in shown if pts is not None)
        if len(known) == len(shown):
            times = np.array([float(pts * video.time_base) - start_s for pts in known])
        else:  # no times at all: frames follow each other at the file's rate
            times = np.arange(len(shown), dtype=np.float64) * frame_s
    duration_s = file.duration / av.time_base if file.duration and file.format.name not in _RAW else None
    if one_rate and video is not None and video.frames:  # of a cut AVI, FFmpeg only says what is left
        duration_s = max(duration_s or 0.0, video.frames * frame_s)
    return Container(
        duration_s=duration_s,
        frame_times_F=times,
        frame_s=last_s,
        audio_rate=int(audio.rate) if audio is not None else None,
        audio_start_s=max((first_audio or 0.0) - start_s, 0.0),
        audio_end_s=max(float(last_audio * audio.time_base) - start_s, 0.0) if audio is not None else 0.0,
        audio_tracks=len(file.streams.audio),
    )


def _packets(file: Any, *tracks: Any | None) -> Iterator[Any]:
    """Of these tracks, those that are shown or heard."""
    wanted = [track for track in tracks if track is not None]
    if not wanted:  # `demux()` of none would give all
        return
    for packet in file.demux(wanted):
        if packet.size and not packet.is_discard:
            yield packet
