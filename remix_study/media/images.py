"""Pictures as video: one image for a clip, or a folder with its frames, which are shown in the order of their names"""

# H x W pixels

import re
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from remix_study.errors import MediaError
from remix_study.media.checks import check_file

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
# FFmpeg's names of what reads single pictures: no playlist, no pattern that names other files.
_READERS = "jpeg_pipe,png_pipe,bmp_pipe,webp_pipe,tiff_pipe,mjpeg"


def is_image(path: str | Path) -> bool:
    """By its name."""
    return Path(path).suffix.lower() in SUFFIXES


def frame_files(folder: Path) -> list[Path]:
    """The pictures of a folder, numbers in their names by value: frame9 before frame10.

    Raises:
        MediaError: stage `frames`; there is none.
    """
    found = [path for path in folder.iterdir() if path.is_file() and is_image(path)]
    if not found:
        raise MediaError("the folder of frames has no pictures", stage="frames")
    return sorted(found, key=lambda path: [int(part) if part.isdigit() else part for part in _parts(path.name)])


def _parts(name: str) -> list[str]:
    return re.split(r"(\d+)", name)  # text and numbers take turns, so that keys compare


def read_image(path: Path) -> NDArray[np.uint8]:
    """RGB (H, W, 3).

    Raises:
        MediaError: stages of `check_file`; `video`: it is no picture, or a damaged one.
    """
    check_file(path)
    try:
        with av.open(f"file:{path}", options={"format_whitelist": _READERS, "protocol_whitelist": "file"}) as file:
            frame = next(file.decode(video=0))
            if frame.is_corrupt:
                raise MediaError("the picture is damaged", stage="video")
            pixels: NDArray[np.uint8] = frame.to_ndarray(format="rgb24")
    except (av.FFmpegError, StopIteration, ValueError, LookupError, OSError) as error:
        raise MediaError(f"it is not a picture that can be read ({type(error).__name__})", stage="video") from error
    return pixels
