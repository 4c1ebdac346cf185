"""What can go wrong in ways a person can mend

Every message says what must hold, what is, and what helps. The command line prints it without a traceback.
"""

import errno


class RemixStudyError(Exception):
    """The family: anything raised on purpose, with a message meant for the person at the terminal."""


class ConfigError(RemixStudyError):
    """A configuration that cannot be run: all its problems at once."""


class ManifestError(RemixStudyError):
    """A manifest (list of clips) that does not say what it must."""


class MediaError(RemixStudyError):
    """A clip that cannot be turned into arrays; `stage` says how far it came."""

    def __init__(self, message: str, *, stage: str = "decode") -> None:
        super().__init__(message)
        self.stage = stage


class SourceError(RemixStudyError):
    """A folder or URL of files that cannot be reached, or does not let us in."""


class StoreError(RemixStudyError):
    """A clip store that is missing, unfinished, damaged, or not of this manifest."""


class TrackingError(RemixStudyError):
    """A tracking server or database that cannot be used."""


class TrainingError(RemixStudyError):
    """A run that must not go on, such as one with nothing left to train."""


class NotANumberError(TrainingError):
    """A loss or a prediction is infinite or not a number: the run has diverged."""


class StudyError(RemixStudyError):
    """A study that cannot start or go on."""


class StudyStopped(RemixStudyError):  # noqa: N818 - a stop that was asked for is not an error
    """A study that ended early because a person asked it to: no fault, and the same command goes on."""


class RunPruned(RemixStudyError):  # noqa: N818 - an early end that the study's pruner decided is not an error
    """A run that ended early because its study's pruner saw no promise in it."""


_SQLITE_FULL = "database or disk is full"
# Why a run failed, in a word that can be counted.
CAUSES = ("not a number", "out of memory", "lost worker", "bad configuration", "disk full", "other")


def cause_of(error: BaseException) -> str:
    """One of `CAUSES`; of an error and of what it was raised from, the first that is known."""
    seen: BaseException | None = error
    while seen is not None:
        found = _cause(seen)
        if found is not None:
            return found
        seen = seen.__cause__ or seen.__context__
    return "other"


def _cause(error: BaseException) -> str | None:
    words = str(error).lower()
    if isinstance(error, NotANumberError) or "must be a number" in words or "must be numbers" in words:
        return "not a number"
    if isinstance(error, MemoryError) or "out of memory" in words or "cannot allocate memory" in words:
        return "out of memory"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "disk full"
    if any(said in words for said in ("the disk is probably full", "no space left on device", _SQLITE_FULL)):
        return "disk full"
    if isinstance(error, ConfigError | ManifestError):
        return "bad configuration"
    return None
