"""Checks that a file can be media and that a decoded clip is complete

Decoders report success on about half of all damaged files (docs/platform.md). Therefore the decoded length is compared
with the length that the container states. Each check raises a `MediaError`, whose `stage` is the reason given in the
quarantine report.
"""

import errno
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from remix_study.errors import MediaError

_LFS = b"version https://git-lfs.github.com/spec/"


@dataclass(frozen=True, slots=True)
class Checks:
    """What to accept.

    Args:
        tolerance_s, tolerance_fraction: a track's length may differ from the stated duration by the larger of
            `tolerance_s` seconds and this fraction of the duration.
        allow_static: accept clips whose chosen frames are all identical.
        allow_silent: accept clips whose audio samples are all zero.
    """

    tolerance_s: float = 0.25
    tolerance_fraction: float = 0.05
    allow_static: bool = False
    allow_silent: bool = False


def check_file(path: Path) -> None:
    """Check that a file can be media, before a decoder raises an unclear error or blocks on a pipe.

    Raises:
        MediaError: stage `missing`, `not-a-file` (a folder, a pipe, a device), `empty`, `unreadable` or `lfs-pointer`.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise MediaError("it is not a file, but a folder, a pipe or a device", stage="not-a-file")
        if found.st_size == 0:
            raise MediaError("the file is empty", stage="empty")
        with path.open("rb") as file:
            head = file.read(len(_LFS))
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: a name with a NUL byte
        raise MediaError("there is no such file", stage="missing") from error
    except OSError as error:
        missing = error.errno in (errno.ELOOP, errno.ENAMETOOLONG)
        raise MediaError(
            f"the file cannot be read ({error.strerror})", stage="missing" if missing else "unreadable"
        ) from error
    if head == _LFS:
        raise MediaError(
            "the file is a Git LFS pointer, not the media; fetch it with `git lfs pull`", stage="lfs-pointer"
        )


def check_length(track: str, decoded_s: float, stated_s: float | None, checks: Checks) -> None:
    """Check that a track is as long as its file states.

    Args:
        track: `audio` or `video`.
        decoded_s: where the decoded track ends.
        stated_s: duration that the container states; None if it states none, as in raw streams.

    Raises:
        MediaError: stage `duration`; the track is empty, or the difference exceeds the tolerance.
    """
    if decoded_s <= 0:
        raise MediaError(f"its {track} track is empty", stage="duration")
    if stated_s is None:
        return
    tolerance = max(checks.tolerance_s, checks.tolerance_fraction * stated_s)
    if abs(decoded_s - stated_s) > tolerance:
        raise MediaError(
            f"its {track} track lasts {decoded_s:.2f} s, but the file states {stated_s:.2f} s "
            f"(tolerance {tolerance:.2f} s)",
            stage="duration",
        )


def check_frames(frames: Sequence[NDArray[np.uint8]], checks: Checks) -> None:
    """Check that the chosen frames differ.

    Raises:
        MediaError: stage `static`; all chosen frames are identical.
    """
    if len(frames) < 2 or checks.allow_static:
        return
    if all(np.array_equal(frames[0], other) for other in frames[1:]):
        raise MediaError(f"all {len(frames)} chosen frames are identical", stage="static")


def check_wave(wave: NDArray[np.floating[Any]], checks: Checks) -> None:
    """Check that a waveform is finite and not silent.

    Raises:
        MediaError: stage `not-finite` or `silent`.
    """
    if not np.isfinite(wave).all():
        raise MediaError("its audio holds infinite values or values that are not numbers", stage="not-finite")
    if not checks.allow_silent and not wave.any():
        raise MediaError("every sample of its audio is zero", stage="silent")
