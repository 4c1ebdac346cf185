"""What a media file says it holds, found by reading its packets without decoding them

`len(VideoReader)` counts packets, also those that a cut file tells players not to show; so the frames that can be shown
are counted here, for both backends: packets that are not marked as discarded, by presentation time.
"""

# F frames that can be shown, in presentation order

from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from remix_study.errors import MediaError
from remix_study.media.checks import check_file


@dataclass(frozen=True, slots=True)
class Container:
    """`duration_s` is None when the file does not say; times count from the start of the file."""

    duration_s: float | None
    frame_times_F: NDArray[np.float64] | None  # seconds; None: no video track
    frame_s: float  # how long the last frame is shown
    audio_rate: int | None  # Hz; None: no audio track
    audio_start_s: float
    audio_tracks: int

    @property
    def video_end_s(self) -> float:
        if self.frame_times_F is None or not len(self.frame_times_F):
            return 0.0
        return float(self.frame_times_F[-1]) + self.frame_s


def probe(path: Path) -> Container:
    """
    Raises:
        MediaError: the file is missing, empty, an LFS pointer (stages of `check_file`) or no media (stage `open`).
    """
    check_file(path)
    try:
        with av.open(str(path)) as file:
            return _read(file)
    except (av.FFmpegError, UnicodeDecodeError) as error:
        raise MediaError(f"it is not a media file that can be opened ({type(error).__name__})", stage="open") from error


def _read(file: av.container.InputContainer) -> Container:
    video = file.streams.best("video")
    audio = file.streams.best("audio")
    start_s = max((file.start_time or 0) / av.time_base, 0.0)
    shown: list[int | None] = []
    first_audio: float | None = None
    for packet in file.demux([stream for stream in (video, audio) if stream is not None]):
        if packet.size == 0 or packet.is_discard:
            continue
        if video is not None and packet.stream_index == video.index:
            shown.append(packet.pts)
        elif first_audio is None and packet.pts is not None:
            first_audio = float(packet.pts * packet.time_base)
    frame_s = float(1 / video.average_rate) if video is not None and video.average_rate else 0.04
    times: NDArray[np.float64] | None = None
    if video is not None:
        known = sorted(pts for pts in shown if pts is not None)
        if len(known) == len(shown):
            times = np.array([float(pts * video.time_base) - start_s for pts in known])
        else:  # AVI may carry no times: frames follow each other at the file's rate
            times = np.arange(len(shown), dtype=np.float64) * frame_s
    return Container(
        duration_s=file.duration / av.time_base if file.duration else None,
        frame_times_F=times,
        frame_s=frame_s,
        audio_rate=int(audio.rate) if audio is not None else None,
        audio_start_s=max((first_audio or 0.0) - start_s, 0.0),
        audio_tracks=len(file.streams.audio),
    )
