"""Choosing and resizing the frames of a video

A clip is divided into equal segments, one per frame to keep, and the middle frame of each segment is kept. OGM-GE's
programs first keep one frame per second, and then the middle of each segment of those: of ten seconds and three frames
they keep seconds 1, 4 and 7, and this module 1.67, 5 and 8.33. With `candidates` the store holds several frames of each
segment, of which training may draw one. Where the frame rate varies, segments are equal in time, and the frame that is
shown at the middle of each is kept.
"""

# F frames that can be shown, T chosen frames of H x W pixels

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from remix_study.errors import MediaError
from remix_study.media.container import Container
from remix_study.media.presets import VideoPreset

_SLACK_S = 5e-4  # manifests may round times to milliseconds
_ROUNDED_S = 0.002  # containers such as Matroska round the times of frames to milliseconds


class Span(NamedTuple):
    """When frames are shown, for choosing them by time.

    Attributes:
        times_F: presentation times of the frames, ascending, in seconds.
        end_s: when the last frame is no longer shown.
    """

    times_F: NDArray[np.float64]
    end_s: float

    @property
    def is_constant(self) -> bool:
        """Whether the frames follow each other at one rate, except for one dropped frame and for rounded times."""
        numbers = np.arange(len(self.times_F))
        if len(numbers) < 3:
            return True
        step_s = (self.times_F[-1] - self.times_F[0]) / numbers[-1]
        return bool(np.abs(self.times_F - self.times_F[0] - step_s * numbers).max() <= step_s + _ROUNDED_S)


def span_of(container: Container, first: int, count: int, end_s: float | None) -> Span:
    """When frames first..first+count-1 of a video track are shown, up to `end_s` (None: the end of the file)."""
    times_F = container.frame_times_F
    assert times_F is not None
    last_s = float(times_F[first + count]) if first + count < len(times_F) else container.video_end_s
    return Span(times_F[first : first + count], last_s if end_s is None else min(last_s, end_s))


def middle_frames(first: int, count: int, wanted: int, span: Span | None = None) -> list[int]:
    """The middle frame of each of `wanted` equal segments of frames first..first+count-1.

    Args:
        span: when these frames are shown. If their rate varies, segments are equal in time instead of in frames.

    Raises:
        MediaError: stage `frames`; fewer frames than segments.
    """
    if count < wanted:
        raise MediaError(f"it has {count} frames, but {wanted} are needed", stage="frames")
    if span is None or span.is_constant:
        return [first + (2 * segment + 1) * count // (2 * wanted) for segment in range(wanted)]
    return _shown_at_middles(first, wanted, span)


def candidate_frames(first: int, count: int, preset: VideoPreset, span: Span | None = None) -> list[int]:
    """The numbers of `preset.candidates` frames of each segment, ascending.

    A segment is divided into as many equal parts as it has candidates, and the middle frame of each part is taken. The
    middle candidate is the segment's middle frame. If the clip has too few frames, some repeat.

    Args:
        span: as in `middle_frames`.

    Raises:
        MediaError: stage `frames`; fewer frames than segments.
    """
    middle_frames(first, count, preset.frames)
    parts = preset.frames * preset.candidates
    if span is None or span.is_constant:
        return [first + (2 * part + 1) * count // (2 * parts) for part in range(parts)]
    return _shown_at_middles(first, parts, span)


def _shown_at_middles(first: int, parts: int, span: Span) -> list[int]:
    """The frames that are shown at the middles of equal parts of a span."""
    begin_s = span.times_F[0]
    middles_s = begin_s + (np.arange(parts) + 0.5) / parts * (span.end_s - begin_s)
    return [first + int(after) - 1 for after in np.searchsorted(span.times_F, middles_s + _SLACK_S, side="right")]


def frames_within(times_F: NDArray[np.float64], start_s: float | None, end_s: float | None) -> tuple[int, int]:
    """First frame and number of frames in [start_s, end_s); None means the start and the end of the file."""
    first = 0 if start_s is None else int(np.searchsorted(times_F, start_s - _SLACK_S))
    stop = len(times_F) if end_s is None else int(np.searchsorted(times_F, end_s - _SLACK_S))
    return first, max(stop - first, 0)


def resize(frame_HW3: NDArray[np.uint8], preset: VideoPreset) -> NDArray[np.uint8]:
    """Resize to uint8 (height, width, 3).

    `area` averages the pixels that a new pixel covers; `bilinear` is antialiased, as in PIL.
    """
    image = torch.from_numpy(frame_HW3).permute(2, 0, 1)[None].float()
    size = (preset.height, preset.width)
    if preset.resize == "area":
        small = torch.nn.functional.interpolate(image, size=size, mode="area")
    else:
        small = torch.nn.functional.interpolate(image, size=size, mode="bilinear", antialias=True, align_corners=False)
    result: NDArray[np.uint8] = small[0].permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8).contiguous().numpy()
    return result
