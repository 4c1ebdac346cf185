"""Errors that the user can fix

Every message says what failed, why, and what to do. The command line prints it without a traceback.
"""

import errno
from pathlib import Path

INTERRUPTED = "Interrupted. Rerun the command to resume from the last checkpoint."


class RemixStudyError(Exception):
    """Base class of all errors that are raised on purpose, with a message for the user.

    Attributes:
        retry_helps: whether the same command may succeed later, without a change to its files and options.
    """

    retry_helps = True


class ConfigError(RemixStudyError):
    """An invalid configuration; the message lists all problems."""

    retry_helps = False


class ManifestError(RemixStudyError):
    """An invalid manifest (list of clips)."""

    retry_helps = False


class MediaError(RemixStudyError):
    """A clip that cannot be converted to arrays.

    Attributes:
        stage: the step that failed.
        path: the file that cannot be used, if it is known.
    """

    def __init__(self, message: str, *, stage: str = "decode") -> None:
        super().__init__(message)
        self.stage = stage
        self.path: Path | None = None


class SourceError(RemixStudyError):
    """A folder or URL that cannot be reached or refuses access."""


class StoreError(RemixStudyError):
    """A clip store that is missing, damaged or of another manifest; or a folder that cannot be written."""


class DamagedStoreError(StoreError):
    """A clip store whose files are not what its manifest says."""


class TrackingError(RemixStudyError):
    """A tracking server or database that cannot be used."""


class TrainingError(RemixStudyError):
    """A run that cannot continue, for example because no samples are left to train on."""


class NotANumberError(TrainingError):
    """A loss or a prediction is infinite or NaN: the run has diverged."""


class StudyError(RemixStudyError):
    """A study that cannot start or resume."""

    retry_helps = False


class UnavailableError(StudyError):
    """A study that cannot start or resume now: a service or node does not answer, or another process runs it."""

    retry_helps = True


class StudyStopped(RemixStudyError):  # noqa: N818 - a stop that the user requested is not an error
    """A study that was stopped on request; rerun the command to resume it."""


class RunPruned(RemixStudyError):  # noqa: N818 - pruning is not an error
    """A run that the study's pruner ended early."""


class RunPreempted(RemixStudyError):  # noqa: N818 - a preemption is not an error of the run
    """A run whose node or process is preempted; it has saved a checkpoint and resumes from it."""


_SQLITE_FULL = "database or disk is full"
# Categories of failures, for counting.
CAUSES = (
    "not a number", "out of memory", "lost worker", "bad configuration", "disk full", "damaged corpus", "import error",
    "needed run", "other",
)  # fmt: skip


def cause_of(error: BaseException) -> str:
    """The category (one of `CAUSES`) of an error, or of the first error in its chain of causes that has one."""
    current: BaseException | None = error
    while current is not None:
        found = _cause(current)
        if found is not None:
            return found
        current = current.__cause__ or current.__context__
    return "other"


def _cause(error: BaseException) -> str | None:
    words = str(error).lower()
    # By its words, too: an error of a worker process arrives as text.
    if isinstance(error, DamagedStoreError) or ("the store " in words and " is damaged: " in words):
        return "damaged corpus"
    if isinstance(error, NotANumberError) or "must be a number" in words or "must be numbers" in words:
        return "not a number"
    if isinstance(error, MemoryError) or "out of memory" in words or "cannot allocate memory" in words:
        return "out of memory"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "disk full"
    if any(phrase in words for phrase in ("the disk is probably full", "no space left on device", _SQLITE_FULL)):
        return "disk full"
    if isinstance(error, ImportError) or "no module named " in words:
        return "import error"
    if isinstance(error, ConfigError | ManifestError):
        return "bad configuration"
    return None
