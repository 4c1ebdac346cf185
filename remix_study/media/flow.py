"""Optical flow as a modality: how far each point moves from one frame to the next, in two channels (u right, v down)

Computed: dense inverse search (Kroeger, Timofte, Dai, Van Gool; ECCV 2016, arXiv 1603.03590), OpenCV's preset MEDIUM,
between the middle frame of each segment and the frame after it, both at the stored size. Stored as bytes: 128 is no
motion, 1 and 255 are -bound and bound pixels.

Given: grey pictures of flow, two for each pair of frames, as two-stream networks keep them. They lie in one folder for
a clip (`flow_x_00001.jpg` and `flow_y_00001.jpg`; also `x_`, `y_` or `u_`, `v_`), or in two of the same name below `u`
and `v` (`u/CLIP/frame000001.jpg`), of which a manifest names the one below `u`. Grey 128 is no motion in them, too; how
many pixels a level is, of the pictures' own size, is up to who made them: levels are stored as they are.
"""

# T chosen frames of H x W pixels

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from remix_study.errors import MediaError, StoreError
from remix_study.media import video
from remix_study.media.checks import Checks, check_frames, check_length
from remix_study.media.container import Container
from remix_study.media.decoders import Decoder
from remix_study.media.images import frame_files, read_image
from remix_study.media.presets import FlowPreset, VideoPreset
from remix_study.modality import VIDEO
from remix_study.sample import Clip

SMALLEST = 16  # pixels; OpenCV 5 reads outside of smaller pictures
_ACROSS = re.compile(r"^(flow_)?(x|u)_?\d+\.")
_DOWN = re.compile(r"^(flow_)?(y|v)_?\d+\.")


def flow_row(
    clip: Clip,
    path: Path,
    container: Container | None,
    preset: FlowPreset,
    decoder: Decoder,
    checks: Checks,
    meta: dict[str, float | int],
) -> NDArray[np.uint8]:
    """uint8 (T, H, W, 2).

    Raises:
        MediaError: the clip is not whole; stage `flow` where pictures of the two directions do not belong together, or
            the stored size is below `SMALLEST`.
        StoreError: OpenCV is not installed.
    """
    if preset.source == "given" or container is None:
        return _given(path, preset, meta)
    if min(preset.height, preset.width) < SMALLEST:
        size = f"{preset.height} x {preset.width}"
        raise MediaError(f"flow is computed at {SMALLEST} x {SMALLEST} pixels or more, not at {size}", stage="flow")
    if container.frame_times_F is None:
        raise MediaError("it has no video track", stage="video")
    check_length(VIDEO, container.video_end_s, container.duration_s, checks)
    first, count = video.frames_within(container.frame_times_F, clip.start, clip.end)
    if count < preset.frames + 1:
        raise MediaError(f"it can show {count} frames where {preset.frames + 1} are needed", stage="frames")
    # Of all but the last, so that each has a frame after it.
    wanted = video.middle_frames(first, count - 1, preset.frames)
    looked_at = sorted({first, *wanted, *(number + 1 for number in wanted)})
    seen = dict(zip(looked_at, decoder.frames(path, looked_at, first + count), strict=True))
    check_frames(list(seen.values()), checks)
    meta["frames"] = count
    return np.stack([quantised(_computed(seen[n], seen[n + 1], preset), preset.bound) for n in wanted])


def quantised(flow_HW2: NDArray[np.float32], bound: float) -> NDArray[np.uint8]:
    """Pixels per frame to bytes; what exceeds the bound is cut to it."""
    scaled = np.clip(flow_HW2 / bound, -1, 1) * 127 + 128
    result: NDArray[np.uint8] = np.rint(np.nan_to_num(scaled, nan=128.0)).astype(np.uint8)
    return result


def opencv_version() -> str:
    """
    Raises:
        StoreError: OpenCV is not installed.
    """
    return str(_opencv().__version__)


def _computed(frame: NDArray[np.uint8], after: NDArray[np.uint8], preset: FlowPreset) -> NDArray[np.float32]:
    cv2 = _opencv()
    grey = [cv2.cvtColor(video.resize(each, _size(preset)), cv2.COLOR_RGB2GRAY) for each in (frame, after)]
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flow: NDArray[np.float32] = search.calc(grey[0], grey[1], None)
    return flow


def _size(preset: FlowPreset) -> VideoPreset:
    return VideoPreset(1, preset.height, preset.width, "bilinear")


def _opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise StoreError(
            "optical flow needs OpenCV, but it is not installed. Run `pip install 'remix-study[flow]'`, or use flow "
            "that is given (`--flow given`)."
        ) from error
    cv2.setNumThreads(1)  # cores are shared out by process; and sums are taken in one order
    return cv2


def _given(folder: Path, preset: FlowPreset, meta: dict[str, float | int]) -> NDArray[np.uint8]:
    pairs = _pairs(folder)
    wanted = video.middle_frames(0, len(pairs), preset.frames)
    meta["flow_pictures"] = len(pairs)
    return np.stack(
        [np.stack([video.resize(read_image(path), _size(preset))[..., 0] for path in pairs[n]], -1) for n in wanted]
    )


def _pairs(folder: Path) -> list[tuple[Path, Path]]:
    """Pictures of motion across and down, by number."""
    if not folder.is_dir():
        raise MediaError("there is no such folder of flow", stage="missing")
    if folder.parent.name == "u":
        below = folder.parent.parent / "v" / folder.name
        if not below.is_dir():
            raise MediaError(f"beside it there must be v/{folder.name}, but there is no such folder", stage="missing")
        across, down = frame_files(folder), frame_files(below)
    else:
        files = frame_files(folder)
        across = [path for path in files if _ACROSS.match(path.name)]
        down = [path for path in files if _DOWN.match(path.name)]
    if not across or [_number(path) for path in across] != [_number(path) for path in down]:
        raise MediaError(
            f"each picture of motion across (flow_x, u) must have one of motion down (flow_y, v) with its number, but "
            f"there are {len(across)} and {len(down)}, or their numbers differ",
            stage="flow",
        )
    return list(zip(across, down, strict=True))


def _number(path: Path) -> str:
    return re.sub(r"\D", "", path.stem)
