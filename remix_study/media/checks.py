"""A clip that decodes is not yet a clip that is whole

Every decoder "succeeds" on about half of all damaged files (docs/platform.md), so what came out is compared
with what the container promised. Each refusal is a `MediaError` whose `stage` is the reason in the quarantine report.
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
    """What is accepted; a track may miss its promised length by the larger of the two tolerances."""

    tolerance_s: float = 0.25
    tolerance_fraction: float = 0.05
    allow_static: bool = False  # all chosen frames are the same
    allow_silent: bool = False  # every audio sample is zero


def check_file(path: Path) -> None:
    """Refuse what cannot be media before a decoder gives a cryptic reason, or waits at a pipe for ever.

    Raises:
        MediaError: stage `missing`, `not-a-file` (a folder, a pipe, a device), `empty`, `unreadable` or `lfs-pointer`.
    """
    try:
        kept = path.stat()
        if not stat.S_ISREG(kept.st_mode):
            raise MediaError("it is not a file, but a folder, a pipe or a device", stage="not-a-file")
        if kept.st_size == 0:
            raise MediaError("the file has no bytes", stage="empty")
        with path.open("rb") as file:
            head = file.read(len(_LFS))
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: a name with a NUL byte
        raise MediaError("there is no such file", stage="missing") from error
    except OSError as error:
        gone = error.errno in (errno.ELOOP, errno.ENAMETOOLONG)
        raise MediaError(
            f"the file cannot be read ({error.strerror})", stage="missing" if gone else "unreadable"
        ) from error
    if head == _LFS:
        raise MediaError(
            "the file is a Git LFS pointer, not the media; fetch it with `git lfs pull`", stage="lfs-pointer"
        )


def check_length(track: str, decoded_s: float, promised_s: float | None, checks: Checks) -> None:
    """
    Raises:
        MediaError: stage `duration`; the track's end lies too far from the container's.
    """
    if decoded_s <= 0:
        raise MediaError(f"its {track} track is empty", stage="duration")
    if promised_s is None:  # a raw stream promises nothing
        return
    tolerance = max(checks.tolerance_s, checks.tolerance_fraction * promised_s)
    if abs(decoded_s - promised_s) > tolerance:
        raise MediaError(
            f"its {track} track lasts {decoded_s:.2f} s, but the file says {promised_s:.2f} s "
            f"(tolerance {tolerance:.2f} s)",
            stage="duration",
        )


def check_frames(frames: Sequence[NDArray[np.uint8]], checks: Checks) -> None:
    """
    Raises:
        MediaError: stage `static`; all chosen frames are the same.
    """
    if len(frames) < 2 or checks.allow_static:
        return
    if all(np.array_equal(frames[0], other) for other in frames[1:]):
        raise MediaError(f"all {len(frames)} chosen frames are identical", stage="static")


def check_wave(wave: NDArray[np.floating[Any]], checks: Checks) -> None:
    """
    Raises:
        MediaError: stage `not-finite` or `silent`.
    """
    if not np.isfinite(wave).all():
        raise MediaError("its audio holds values that are not numbers", stage="not-finite")
    if not checks.allow_silent and not wave.any():
        raise MediaError("every sample of its audio is zero", stage="silent")
