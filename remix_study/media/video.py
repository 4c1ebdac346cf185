"""Choosing and resizing the frames of a video

A clip is divided into equal segments, one per frame to keep, and the middle frame of each segment is kept. OGM-GE's
programs first keep one frame per second, and then the middle of each segment of those: of ten seconds and three frames
they keep seconds 1, 4 and 7, and this module 1.67, 5 and 8.33. With `candidates` the store holds several frames of each
segment, of which training may draw one.
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
        raise MediaError(f"it has {count} frames, but {wanted} are needed", stage="frames")
    return [first + (2 * segment + 1) * count // (2 * wanted) for segment in range(wanted)]


def candidate_frames(first: int, count: int, preset: VideoPreset) -> list[int]:
    """The numbers of `preset.candidates` frames of each segment, ascending.

    A segment is divided into as many equal parts as it has candidates, and the middle frame of each part is taken. The
    middle candidate is the segment's middle frame. If the clip has too few frames, some repeat.

    Raises:
        MediaError: stage `frames`; fewer frames than segments.
    """
    middle_frames(first, count, preset.frames)
    parts = preset.frames * preset.candidates
    return [first + (2 * part + 1) * count // (2 * parts) for part in range(parts)]


def frames_within(times_F: NDArray[np.float64], start_s: float | None, end_s: float | None) -> tuple[int, int]:
    """First frame and number of frames in [start_s, end_s); None means the start and the end of the file."""
    slack = 5e-4  # manifests may round times to milliseconds
    first = 0 if start_s is None else int(np.searchsorted(times_F, start_s - slack))
    stop = len(times_F) if end_s is None else int(np.searchsorted(times_F, end_s - slack))
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
