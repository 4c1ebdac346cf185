"""What can go wrong in ways a person can mend

Every message says what must hold, what is, and what helps. The command line prints it without a traceback.
"""


class RemixStudyError(Exception):
    """The family: anything raised on purpose, with a message meant for the person at the terminal."""


class ConfigError(RemixStudyError):
    """A configuration that cannot be run: all its mistakes at once."""


class ManifestError(RemixStudyError):
    """A manifest (list of clips) that does not say what it must."""


class MediaError(RemixStudyError):
    """A clip that cannot be turned into arrays; `stage` says how far it came."""

    def __init__(self, message: str, *, stage: str = "decode") -> None:
        super().__init__(message)
        self.stage = stage


class StoreError(RemixStudyError):
    """A clip store that is missing, unfinished, damaged, or not of this manifest."""


class TrackingError(RemixStudyError):
    """A tracking server or database that cannot be used."""


class TrainingError(RemixStudyError):
    """A run that must not go on, such as one whose loss is not a number."""


class StudyError(RemixStudyError):
    """A study that cannot start or go on."""


class StudyStopped(RemixStudyError):  # noqa: N818 - a stop that was asked for is not an error
    """A study that ended early because a person asked it to: no fault, and the same command goes on."""
