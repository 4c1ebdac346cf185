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
# What a file begins with, and FFmpeg's name of its reader. FFmpeg is told which one: by its own choice a name such as
# `frame%03d.jpg` is a pattern that opens other files, and a playlist or a film named .jpg is one.
_READERS = {
    b"\xff\xd8\xff": "jpeg_pipe",
    b"\x89PNG\r\n\x1a\n": "png_pipe",
    b"BM": "bmp_pipe",
    b"RIFF": "webp_pipe",
    b"II*\0": "tiff_pipe",
    b"MM\0*": "tiff_pipe",
}


# FFmpeg fills what is missing of a JPEG with grey. After the last scan begins there must be an end: the one of a
# thumbnail lies before. In the scan itself a byte of ones is followed by 00 or by the number of a restart.
_JPEG_SCAN, _JPEG_END = b"\xff\xda", b"\xff\xd9"


def is_image(path: str | Path) -> bool:
    """By its name."""
    return Path(path).suffix.lower() in SUFFIXES


def frame_files(folder: Path) -> list[Path]:
    """The pictures of a folder, numbers in their names by value: frame9 before frame10.

    Raises:
        MediaError: stage `frames`, there is none; or `unreadable`.
    """
    try:
        # Names that begin with a point are notes of file managers, macOS's `._frame1.jpg` among them.
        found = [path for path in folder.iterdir() if is_image(path) and path.name[0] != "." and path.is_file()]
    except OSError as error:
        raise MediaError(f"the folder of frames cannot be read ({error.strerror})", stage="unreadable") from error
    if not found:
        raise MediaError("the folder of frames has no pictures", stage="frames")
    return sorted(found, key=lambda path: (_by_value(path.name), path.name))


def _by_value(name: str) -> list[str | int]:
    # Text and numbers take turns, so that keys compare; 0-9 alone, for other digits (²) need not be numbers.
    return [int(part) if place % 2 else part for place, part in enumerate(re.split(r"([0-9]+)", name))]


def read_image(path: Path) -> NDArray[np.uint8]:
    """RGB (H, W, 3), as the file has it: a turn that EXIF asks for is not made, as the field's loaders make none.

    Raises:
        MediaError: stages of `check_file`; `format`: by its content it is no picture; `video`: a damaged one.
    """
    check_file(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise MediaError(f"the picture cannot be read ({error.strerror})", stage="unreadable") from error
    reader = next((name for start, name in _READERS.items() if content.startswith(start)), None)
    if reader is None:
        raise MediaError("it must be a picture (JPEG, PNG, BMP, WebP, TIFF), but its content is none", stage="format")
    if reader == "jpeg_pipe" and content.find(_JPEG_END, content.rfind(_JPEG_SCAN)) < 0:
        raise MediaError("the picture is cut short: it has no end", stage="video")
    try:
        options = {"protocol_whitelist": "file", "err_detect": "explode"}
        with av.open(f"file:{path}", format=reader, options=options) as file:
            frame = next(file.decode(video=0))
            if frame.is_corrupt:
                raise MediaError("the picture is damaged", stage="video")
            pixels: NDArray[np.uint8] = frame.to_ndarray(format="rgb24", threads=1)
    except (av.FFmpegError, StopIteration, ValueError, LookupError, OSError, MemoryError) as error:
        raise MediaError(f"it is not a picture that can be read ({type(error).__name__})", stage="video") from error
    return pixels
