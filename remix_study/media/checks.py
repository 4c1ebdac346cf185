"""Checks that a file can be media and that a decoded clip is complete

Decoders report success on about half of all damaged files (docs/platform.md). Therefore the decoded length is compared
with the length that the container states. Each check raises a `MediaError`, whose `stage` is the reason given in the
quarantine report.
"""

import errno
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from remix_study.errors import MediaError

# Half of the largest difference of two samples, of full scale. A-law has no step below 2.4e-4, which a mix of two
# channels makes 3.5e-4; MP3, AAC, AC-3 and Opus turn silence and dither of 16 bits into at most 2.2e-4.
SILENT_PEAK = 4e-4
# Standard deviation of a mix, divided by that of its loudest channel. Opposite channels of speech and music leave
# 0.00 to 0.06 in AAC, Opus, MP2 and ADPCM of 32 to 192 kbit/s; independent channels give 0.7 to 1.4.
CANCELLED = 0.1
# Standard deviation of full scale above which a mix is no residue of channels that cancel. Theirs is at most 0.004 in
# the codecs above, and 0.02 for the loudest channels. Most clips are louder, so that their audio is decoded only once.
RESIDUE = 0.03
_LATE_S = 0.5  # a file that was cut between key frames begins up to so late
_PATTERN = re.compile(r"[*?]|\[.+\]|\{.+\}|%0?\d*d")
_LFS = b"version https://git-lfs.github.com/spec/"


class ChannelLevel(NamedTuple):
    """The samples of one channel: the lowest, the highest and their standard deviation."""

    lowest: float
    highest: float
    deviation: float


@dataclass(frozen=True, slots=True)
class Checks:
    """What to accept.

    Args:
        tolerance_s, tolerance_fraction: a track's length may differ from the stated duration by the larger of
            `tolerance_s` seconds and this fraction of the duration.
        allow_static: accept clips whose chosen frames are all identical.
        allow_silent: accept clips whose audio, or its mix, is silent.
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
            raise MediaError(_not_a_file(found.st_mode), stage="not-a-file")
        if found.st_size == 0:
            raise MediaError("the file is empty", stage="empty")
        with path.open("rb") as file:
            head = file.read(len(_LFS))
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: a name with a NUL byte
        raise MediaError(f"there is no such file{_pattern(path)}", stage="missing") from error
    except OSError as error:
        missing = error.errno in (errno.ELOOP, errno.ENAMETOOLONG)
        raise MediaError(
            f"the file cannot be read ({error.strerror})", stage="missing" if missing else "unreadable"
        ) from error
    if head == _LFS:
        raise MediaError(
            "the file is a Git LFS pointer, not the media; fetch it with `git lfs pull`", stage="lfs-pointer"
        )


def _not_a_file(mode: int) -> str:
    if not stat.S_ISDIR(mode):
        return "it is not a file, but a pipe or a device"
    return (
        "it is a folder, but must be one file with this track; give each of its files a line of its own (only `video` "
        "and `flow` can be folders, of numbered images)"
    )


def _pattern(path: Path) -> str:
    if not any(_PATTERN.search(part) for part in path.parts[-2:]):  # not the folders that hold the corpus
        return ""
    return "; patterns are not expanded, so give each file a line of its own, or name a folder of numbered images"


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


def check_window(
    track: str,
    start_s: float | None,
    end_s: float | None,
    track_end_s: float,
    checks: Checks,
    track_start_s: float = 0.0,
) -> None:
    """Check that a track covers a clip's window. Without `start` and `end`, it may begin and end at any time.

    Args:
        track: `audio` or `video`.
        start_s, end_s: the clip's `start` and `end`; None means the start and the end of the file.
        track_end_s: where the track ends.
        track_start_s: where it begins.

    Raises:
        MediaError: stage `duration`; the track ends before `start`, or before `end` by more than the tolerance or a
            quarter of the window, or begins after `start` by more than half a second, the fraction of the tolerance or
            a quarter of the window.
    """
    first_s = start_s or 0.0
    if first_s >= track_end_s and start_s is not None:
        raise MediaError(
            f"its {track} track ends at {track_end_s:.2f} s, before `start` ({start_s:g} s)", stage="duration"
        )
    if start_s is None and end_s is None:
        return
    window_s = (track_end_s if end_s is None else end_s) - first_s
    share_s = checks.tolerance_fraction * window_s
    if track_start_s - first_s > min(max(_LATE_S, share_s), window_s / 4):
        raise MediaError(
            f"its {track} track begins at {track_start_s:.2f} s, {track_start_s - first_s:.2f} s after the start of "
            f"the clip ({first_s:g} s)",
            stage="duration",
        )
    if end_s is not None and end_s - track_end_s > min(max(checks.tolerance_s, share_s), window_s / 4):
        raise MediaError(
            f"its {track} track ends at {track_end_s:.2f} s and holds {track_end_s - first_s:.2f} s of the "
            f"{window_s:.2f} s from `start` to `end` ({end_s:g} s)",
            stage="duration",
        )


def check_least(found_s: float, least_s: float) -> None:
    """Check that a clip's audio is long enough for its preset.

    Raises:
        MediaError: stage `duration`; it is shorter than `least_s`.
    """
    if found_s < least_s - 1e-3:  # manifests may round times to milliseconds
        raise MediaError(
            f"it has {found_s:.2f} s of audio, but the preset needs at least {least_s:g} s", stage="duration"
        )


def check_holes(holes: Sequence[tuple[float, float]], end_s: float | None) -> None:
    """Check that a video track has no hole before the end of a clip.

    Args:
        holes: beginning and length of each, in seconds.
        end_s: the clip's `end`; None means the end of the file.

    Raises:
        MediaError: stage `video`; there is a hole.
    """
    for begins_s, lasts_s in holes:
        if end_s is None or begins_s < end_s:
            raise MediaError(f"its video track has a gap of {lasts_s:.2f} s after {begins_s:.2f} s", stage="video")


def check_frames(frames: Sequence[NDArray[np.uint8]], checks: Checks) -> None:
    """Check that the chosen frames differ.

    Raises:
        MediaError: stage `static`; all chosen frames are identical.
    """
    if len(frames) < 2 or checks.allow_static:
        return
    if all(np.array_equal(frames[0], other) for other in frames[1:]):
        raise MediaError(f"all {len(frames)} chosen frames are identical", stage="static")


def is_silent(lowest: float, highest: float) -> bool:
    """Whether samples between these two are the noise of a codec, apart from a constant offset."""
    return (highest - lowest) / 2 <= SILENT_PEAK


def check_wave(wave: NDArray[np.floating[Any]], checks: Checks, name: str = "its audio") -> None:
    """Check that a waveform is finite and not silent.

    Args:
        wave: what is kept of the audio track: the mix, or one channel.
        checks: what to accept.
        name: `wave` in the error message.

    Raises:
        MediaError: stage `not-finite` or `silent`.
    """
    lowest, highest = float(wave.min()), float(wave.max())
    if not np.isfinite([lowest, highest]).all():
        raise MediaError("its audio holds infinite values or values that are not numbers", stage="not-finite")
    if not checks.allow_silent and is_silent(lowest, highest):
        why = f"no sample differs from the others by more than {2 * SILENT_PEAK:g}, the noise of a codec"
        raise MediaError(f"{name} is silent ({why if highest > lowest else 'all samples are equal'})", stage="silent")


def check_mix(mix: NDArray[np.floating[Any]], channels: Sequence[ChannelLevel], checks: Checks) -> None:
    """Check that the channels of a track do not cancel each other in their mix.

    Args:
        mix: the mix of all channels.
        channels: the levels of the channels, in the same part of the track; empty if there is only one.
        checks: what to accept.

    Raises:
        MediaError: stage `opposite-channels`.
    """
    heard = [channel.deviation for channel in channels if not is_silent(channel.lowest, channel.highest)]
    if checks.allow_silent or not heard:
        return
    if (left := float(mix.std())) < CANCELLED * max(heard):
        quieter = f"{20 * np.log10(max(heard) / left):.0f} dB quieter" if left > 0 else "silent"
        raise MediaError(
            f"its channels cancel each other: their mix is {quieter}{' than the loudest of them' if left > 0 else ''}; "
            "keep one of them (`--channel left`, `right` or `loudest`)",
            stage="opposite-channels",
        )
