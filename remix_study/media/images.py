"""Images as video: one image per clip, or a folder with its frames, ordered by the numbers in their names"""

# H x W pixels

import re
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from remix_study.errors import MediaError
from remix_study.media.checks import check_file
from remix_study.media.pixels import to_rgb

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
# First bytes of a file -> FFmpeg's name of its demuxer. Naming the demuxer keeps FFmpeg from reading `frame%03d.jpg` as
# a pattern for other files, or a playlist or video that is named .jpg.
_READERS = {
    b"\xff\xd8\xff": "jpeg_pipe",
    b"\x89PNG\r\n\x1a\n": "png_pipe",
    b"BM": "bmp_pipe",
    b"RIFF": "webp_pipe",
    b"II*\0": "tiff_pipe",
    b"MM\0*": "tiff_pipe",
}


# FFmpeg fills the missing part of a truncated JPEG with grey, so look for an end marker after the last scan starts. A
# thumbnail's end marker precedes it, and within a scan 0xff is followed by 00 or by a restart marker.
_JPEG_SCAN, _JPEG_END = b"\xff\xda", b"\xff\xd9"


def is_image(path: str | Path) -> bool:
    """Whether the file's name ends like an image's."""
    return Path(path).suffix.lower() in SUFFIXES


def frame_files(folder: Path) -> list[Path]:
    """The images of a folder, sorted by the numbers in their names: frame9 before frame10.

    Raises:
        MediaError: stage `frames` (there are none) or `unreadable`.
    """
    try:
        # Names with a leading dot are metadata of file managers, such as macOS's `._frame1.jpg`.
        found = [path for path in folder.iterdir() if is_image(path) and path.name[0] != "." and path.is_file()]
    except OSError as error:
        raise MediaError(f"the folder of frames cannot be read ({error.strerror})", stage="unreadable") from error
    if not found:
        raise MediaError("the folder has no images; give each video a line of its own", stage="frames")
    return sorted(found, key=lambda path: (_by_value(path.name), path.name))


def _by_value(name: str) -> list[str | int]:
    # Text and numbers alternate, so that keys are comparable. Only 0-9, because `int` rejects digits such as ².
    return [int(part) if place % 2 else part for place, part in enumerate(re.split(r"([0-9]+)", name))]


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read an image as RGB (H, W, 3). An EXIF rotation is ignored, as common data loaders do.

    Raises:
        MediaError: stages of `check_file`; `format`: its content is not an image; `video`: the image is damaged. Its
            `path` is that of the image.
    """
    try:
        return _read_image(path)
    except MediaError as error:
        error.path = path
        raise


def _read_image(path: Path) -> NDArray[np.uint8]:
    check_file(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise MediaError(f"the image cannot be read ({error.strerror})", stage="unreadable") from error
    reader = next((name for start, name in _READERS.items() if content.startswith(start)), None)
    if reader is None:
        raise MediaError("its content is not an image (JPEG, PNG, BMP, WebP or TIFF)", stage="format")
    if reader == "jpeg_pipe" and content.find(_JPEG_END, content.rfind(_JPEG_SCAN)) < 0:
        raise MediaError("the image is truncated: it has no end marker", stage="video")
    try:
        options = {"protocol_whitelist": "file", "err_detect": "explode"}
        with av.open(f"file:{path}", format=reader, options=options) as file:
            frame = next(file.decode(video=0))
            if frame.is_corrupt:
                raise MediaError("the image is damaged", stage="video")
            return to_rgb(frame)
    except (av.FFmpegError, StopIteration, ValueError, LookupError, OSError, MemoryError) as error:
        raise MediaError(f"the image cannot be decoded ({type(error).__name__})", stage="video") from error
