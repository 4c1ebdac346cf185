"""Lengths that the headers of WAV, W64, CAF and ASF files state

Where such a file is truncated, FFmpeg reports only how long the rest lasts. Ogg files state the length of each page.
The other containers are read by FFmpeg.
"""

import os
import struct
from pathlib import Path
from typing import BinaryIO

from remix_study.errors import MediaError

_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")  # of ASF
_W64_DATA = b"data" + bytes.fromhex("f3acd3118cd100c04f8edb8a")
_UNKNOWN, _UNKNOWN_LONG = 2**31 - 2**16, 2**62  # programs that write to a pipe state about the largest number
_HEADER_BYTES = 2**16
_LARGEST_PAGE = 27 + 255 + 255 * 255  # of Ogg
_CHUNKS = 10_000  # before the samples; an absurd header must not take long


def stated_s(path: Path, container: str, duration_s: float | None, end_s: float) -> float | None:
    """The duration that a file states, in seconds, also where the file is truncated.

    Args:
        container: FFmpeg's name of the container.
        duration_s: the duration that FFmpeg reports; None if it reports none.
        end_s: where the last packet ends.

    Raises:
        MediaError: stage `duration`; the last page of an Ogg file is incomplete.
    """
    with path.open("rb") as file:
        if container == "ogg":
            _require_last_page(file)
        if container == "asf":
            return _asf_s(file, duration_s)
        data = {"wav": _wav_data, "w64": _w64_data, "caf": _caf_data}.get(container)
        if data is None or duration_s is None or (stated := data(file)) is None:
            return duration_s
        held = os.fstat(file.fileno()).st_size - file.tell()
    return max(duration_s, end_s * stated / held) if 0 < held < stated < _UNKNOWN_LONG else duration_s


def _wav_data(file: BinaryIO) -> int | None:
    """Go to the samples. Returns how many bytes of them the header states; None if it does not."""
    head = file.read(12)
    order = ">" if head[:4] == b"RIFX" else "<"
    long_size = None  # of RF64 files, beyond 4 GiB
    for _ in range(_CHUNKS):
        if len(head := file.read(8)) < 8:
            break
        kind, (size,) = head[:4], struct.unpack(f"{order}I", head[4:])
        if kind == b"data":
            return long_size if long_size is not None else size if 0 < size < _UNKNOWN else None
        content = file.tell()
        if kind == b"ds64" and len(sizes := file.read(16)) == 16:
            long_size = struct.unpack_from("<Q", sizes, 8)[0]
        file.seek(content + size + size % 2)
    return None


def _w64_data(file: BinaryIO) -> int | None:
    file.seek(40)  # the GUIDs `riff` and `wave`, with a size between them
    for _ in range(_CHUNKS):
        if len(head := file.read(24)) < 24:
            break
        (size,) = struct.unpack("<Q", head[16:])
        if head[:16] == _W64_DATA:
            return int(size) - 24
        if not 24 <= size < _UNKNOWN:
            return None
        file.seek((size + 7) // 8 * 8 - 24, os.SEEK_CUR)
    return None


def _caf_data(file: BinaryIO) -> int | None:
    file.seek(8)
    for _ in range(_CHUNKS):
        if len(head := file.read(12)) < 12:
            break
        (size,) = struct.unpack(">q", head[4:])
        if not 0 <= size < _UNKNOWN_LONG:  # -1: unknown
            return None
        if head[:4] == b"data":
            return int(size)
        file.seek(size, os.SEEK_CUR)
    return None


def _asf_s(file: BinaryIO, duration_s: float | None) -> float | None:
    head = file.read(_HEADER_BYTES)
    at = head.find(_FILE_PROPERTIES)
    if at < 0 or len(head) < at + 92:
        return duration_s
    (file_bytes,) = struct.unpack_from("<Q", head, at + 40)
    played, _sent, preroll_ms, flags = struct.unpack_from("<QQQI", head, at + 64)
    is_broadcast = flags & 1  # then the other fields are not valid
    if is_broadcast or os.fstat(file.fileno()).st_size >= file_bytes:
        return duration_s
    return max(float(played) / 1e7 - float(preroll_ms) / 1e3, duration_s or 0.0)


def _require_last_page(file: BinaryIO) -> None:
    size = os.fstat(file.fileno()).st_size
    file.seek(max(size - _LARGEST_PAGE, 0))
    tail = file.read()
    page = tail[max(tail.rfind(b"OggS"), 0) :]
    segments = page[27 : 27 + page[26]] if len(page) > 26 else b""
    if len(page) < 27 or len(page) < 27 + page[26] + sum(segments):
        raise MediaError("its last page is incomplete, so the file is truncated", stage="duration")
