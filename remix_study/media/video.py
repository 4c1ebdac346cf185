"""Which frames of a video, and at what size

A clip is cut into as many equal segments as there are frames to see, and the middle of each is seen. OGM-GE's programs
first keep one frame a second, and take the middle of each segment of those: for ten seconds and three frames theirs
are seconds 1, 4 and 7 of nine or ten, ours 1.67, 5 and 8.33. Training may draw another frame of the segment, of
those that the store has (`candidates`).
"""

# F frames that can be shown, T chosen frames of H x W pixels

import numpy as np
import torch
from numpy.typing import NDArray

from remix_study.errors import MediaError
from remix_study.media.presets import VideoPreset


def middle_frames(first: int, count: int, wanted: int) -> list[int]:
    """The middle frame of each of `wanted` equal segments of frames first..first+count-1.

    Raises:
        MediaError: stage `frames`; fewer frames than segments.
    """
    if count < wanted:
        raise MediaError(f"it can show {count} frames where {wanted} are needed", stage="frames")
    return [first + (2 * segment + 1) * count // (2 * wanted) for segment in range(wanted)]


def candidate_frames(first: int, count: int, preset: VideoPreset) -> list[int]:
    """`preset.candidates` frames of each segment, ascending, the segment's middle frame in their middle.

    A candidate is the middle of its part of the segment. Where the clip has fewer frames than that, some repeat.

    Raises:
        MediaError: stage `frames`; fewer frames than segments.
    """
    middle_frames(first, count, preset.frames)
    parts = preset.frames * preset.candidates
    return [first + (2 * part + 1) * count // (2 * parts) for part in range(parts)]


def frames_within(times_F: NDArray[np.float64], start_s: float | None, end_s: float | None) -> tuple[int, int]:
    """First frame and number of frames shown in [start, end); a little slack for times rounded to milliseconds."""
    slack = 5e-4
    first = 0 if start_s is None else int(np.searchsorted(times_F, start_s - slack))
    stop = len(times_F) if end_s is None else int(np.searchsorted(times_F, end_s - slack))
    return first, max(stop - first, 0)


def resize(frame_HW3: NDArray[np.uint8], preset: VideoPreset) -> NDArray[np.uint8]:
    """To (height, width, 3), rounded: `area` averages what a pixel covers, `bilinear` is antialiased like PIL's."""
    image = torch.from_numpy(frame_HW3).permute(2, 0, 1)[None].float()
    size = (preset.height, preset.width)
    if preset.resize == "area":
        small = torch.nn.functional.interpolate(image, size=size, mode="area")
    else:
        small = torch.nn.functional.interpolate(image, size=size, mode="bilinear", antialias=True, align_corners=False)
    result: NDArray[np.uint8] = small[0].permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8).contiguous().numpy()
    return result
