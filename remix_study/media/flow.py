"""Optical flow as a modality: the displacement of each pixel between two frames, in two channels (u right, v down)

Computed: dense inverse search (Kroeger, Timofte, Dai, Van Gool; ECCV 2016, arXiv 1603.03590) with OpenCV's preset
MEDIUM, between the middle frame of each segment and the next frame, both at the stored size. Stored as bytes: 128 is no
motion, 1 and 255 are -bound and bound pixels.

Given: grey images of flow, two for each pair of frames, as two-stream networks store them. Either one folder per clip
holds both directions (`flow_x_00001.jpg` and `flow_y_00001.jpg`; also `x_`, `y_` or `u_`, `v_`), or there are two
folders of the same name below `u` and `v` (`u/CLIP/frame000001.jpg`), of which a manifest names the one below `u`. Grey
128 is no motion here, too. The scale of the other levels depends on who made the images; they are stored unchanged.
"""

# T chosen frames of H x W pixels

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from remix_study.errors import MediaError, StoreError
from remix_study.media import video
from remix_study.media.checks import Checks, check_frames, check_holes, check_length, check_window
from remix_study.media.container import Container
from remix_study.media.decoders import Decoder
from remix_study.media.images import frame_files, read_image
from remix_study.media.presets import FlowPreset, Part, VideoPreset
from remix_study.modality import VIDEO
from remix_study.sample import Clip

SMALLEST = 16  # pixels; OpenCV 5 reads beyond the edges of smaller images
_HORIZONTAL = re.compile(r"^(flow_)?(x|u)_?\d+\.")
_VERTICAL = re.compile(r"^(flow_)?(y|v)_?\d+\.")


def sources_of(path: str, part: Part) -> tuple[str, ...]:
    """The files and folders that a part of a preset reads of a clip.

    They are its `path` in the manifest and, if this is a folder of given flow below `u`, the folder of the same name
    below `v`.
    """
    place = PurePosixPath(path)
    if isinstance(part, FlowPreset) and part.source == "given" and place.parent.name == "u":
        return path, str(place.parent.parent / "v" / place.name)
    return (path,)


def flow_row(
    clip: Clip,
    paths: Sequence[Path],
    container: Container | None,
    preset: FlowPreset,
    decoder: Decoder,
    checks: Checks,
    meta: dict[str, float | int],
) -> NDArray[np.uint8]:
    """The optical flow of one clip.

    Args:
        paths: a video, or the folders of flow images (`sources_of`), on this machine.
        container: of the video; None for a folder of flow images.
        meta: receives the number of frames or flow images.

    Returns:
        uint8 (T, H, W, 2).

    Raises:
        MediaError: the clip is missing, damaged or incomplete; stage `flow` if the images of the two directions do not
            match, or the stored size is below `SMALLEST`.
        StoreError: OpenCV is not installed.
    """
    if preset.source == "given" or container is None:
        return _read_given(paths, preset, meta)
    if min(preset.height, preset.width) < SMALLEST:
        size = f"{preset.height} x {preset.width}"
        raise MediaError(
            f"optical flow needs frames of at least {SMALLEST} x {SMALLEST} pixels, but the preset stores {size}",
            stage="flow",
        )
    if container.frame_times_F is None:
        raise MediaError("it has no video track", stage="video")
    check_length(VIDEO, container.video_end_s, container.duration_s, checks)
    check_window(VIDEO, clip.start, clip.end, container.video_end_s, checks, float(container.frame_times_F[0]))
    first, count = video.frames_within(container.frame_times_F, clip.start, clip.end)
    check_holes(container.holes, clip.end)
    if count < preset.frames + 1:
        raise MediaError(f"it has {count} frames, but {preset.frames + 1} are needed", stage="frames")
    # The last frame is left out, so that every chosen frame has a next one.
    span = video.span_of(container, first, count - 1, clip.end)
    wanted = video.middle_frames(first, count - 1, preset.frames, span)
    numbers = sorted({first, *wanted, *(number + 1 for number in wanted)})
    frames = dict(zip(numbers, decoder.frames(paths[0], numbers, first + count), strict=True))
    check_frames(list(frames.values()), checks)
    meta["frames"] = count
    return np.stack([quantise(_compute(frames[n], frames[n + 1], preset), preset.bound) for n in wanted])


def quantise(flow_HW2: NDArray[np.float32], bound: float) -> NDArray[np.uint8]:
    """Convert pixels per frame to bytes: -bound, 0 and bound become 1, 128 and 255. Larger values are clipped."""
    scaled = np.clip(flow_HW2 / bound, -1, 1) * 127 + 128
    result: NDArray[np.uint8] = np.rint(np.nan_to_num(scaled, nan=128.0)).astype(np.uint8)
    return result


def opencv_version() -> str:
    """The version of OpenCV.

    Raises:
        StoreError: OpenCV is not installed.
    """
    return str(_opencv().__version__)


def _compute(frame: NDArray[np.uint8], after: NDArray[np.uint8], preset: FlowPreset) -> NDArray[np.float32]:
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
            "Cannot compute optical flow: OpenCV is not installed. Run `pip install 'remix-study[flow]'`, or use "
            "precomputed flow (`--flow given`)."
        ) from error
    cv2.setNumThreads(1)  # each core already runs a process, and one thread fixes the order of sums
    return cv2


def _read_given(folders: Sequence[Path], preset: FlowPreset, meta: dict[str, float | int]) -> NDArray[np.uint8]:
    pairs = _pairs(folders)
    wanted = video.middle_frames(0, len(pairs), preset.frames)
    meta["flow_pictures"] = len(pairs)
    return np.stack(
        [np.stack([video.resize(read_image(path), _size(preset))[..., 0] for path in pairs[n]], -1) for n in wanted]
    )


def _pairs(folders: Sequence[Path]) -> list[tuple[Path, Path]]:
    """The images of horizontal and of vertical motion, in pairs, by number."""
    if not folders[0].is_dir():
        raise MediaError("there is no such folder of flow images", stage="missing")
    if len(folders) > 1:
        if not folders[1].is_dir():
            raise MediaError(f"the folder v/{folders[1].name} with its vertical motion is missing", stage="missing")
        horizontal, vertical = map(frame_files, folders)
    else:
        files = frame_files(folders[0])
        horizontal = [path for path in files if _HORIZONTAL.match(path.name)]
        vertical = [path for path in files if _VERTICAL.match(path.name)]
    if not horizontal or [_number(path) for path in horizontal] != [_number(path) for path in vertical]:
        raise MediaError(
            "each image of horizontal motion (flow_x, u) needs one of vertical motion (flow_y, v) with the same "
            f"number, but there are {len(horizontal)} and {len(vertical)}, or their numbers differ",
            stage="flow",
        )
    return list(zip(horizontal, vertical, strict=True))


def _number(path: Path) -> str:
    return re.sub(r"\D", "", path.stem)
