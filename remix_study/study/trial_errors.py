"""Why a process of Tune ended without an outcome: preempted, lost, out of memory, or unable to import the code"""

import re
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ray import cloudpickle
from ray.exceptions import RayActorError, RayTaskError
from ray.tune.schedulers import FIFOScheduler

from remix_study.errors import RunPreempted
from remix_study.launch.dependencies import INSTALL
from remix_study.launch.nodes import SEND_CODE

# In messages of Ray: of ray/_private/function_manager.py, ray/exceptions.py and its memory monitor.
_NOT_IMPORTED = "failed to import on the worker"
_NOT_CREATED = "raised in its creation task"
_LOW_ON_MEMORY = "low on memory"
_NODE = re.compile(r"\bip=([\w.:]+)")
_EXCEPTION = re.compile(r"^[\w.]+(?:Error|Exception)\b", re.MULTILINE)
_MOST_CHARACTERS = 300


class Loss(NamedTuple):
    """Why a process ended.

    Args:
        kind: `preempted`, or one of `errors.CAUSES`.
        words: the reason as text.
    """

    kind: Literal["preempted", "import error", "out of memory", "lost worker"]
    words: str


class TrialErrors(FIFOScheduler):
    """Errors of trials. Tune passes them to its scheduler, but not to its searcher.

    Attributes:
        losses: trial id -> why its process ended.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Ray's gap
        self.losses: dict[str, Loss] = {}

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:  # noqa: ARG002 - Tune's signature
        self.losses[trial.trial_id] = loss_of(_error_of(trial), _text_of(trial))


def _error_of(trial: Any) -> BaseException | None:
    """Return the error of a trial, which Tune has just pickled to a file of this process; None if it cannot be read."""
    try:
        error = cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    except Exception:  # such as no file, or an error whose class this process cannot import
        return None
    return error if isinstance(error, BaseException) else None


def _text_of(trial: Any) -> str:
    """Return the text of all errors of a trial; `get_error` returns None until Tune has uploaded the file."""
    try:
        return Path(trial.error_file).read_text(encoding="utf-8", errors="replace")
    except (OSError, TypeError):
        return ""


def loss_of(error: BaseException | None, text: str) -> Loss:
    """Return why a process ended.

    Args:
        error: as Ray raised it; None if it could not be read.
        text: the error as text.
    """
    cause = getattr(error, "cause", None)
    if isinstance(cause, RunPreempted):
        return Loss("preempted", str(cause))
    if isinstance(error, RayActorError) and error.preempted:
        return Loss("preempted", "preempted with its node")  # drained and then lost, before a checkpoint
    if _NOT_IMPORTED in text:
        node = found.group(1) if (found := _NODE.search(text)) else "of the worker"
        return Loss("import error", f"node {node} cannot import the code of the study: {_last_exception(text)}")
    if _LOW_ON_MEMORY in text:
        return Loss("out of memory", "Ray ended it because its node ran low on memory")
    raised = isinstance(error, RayTaskError) or _NOT_CREATED in text
    return Loss("lost worker", _last_exception(text) if raised else "killed")


def import_remedy(words: str) -> str:
    """Return what helps after an import error: installing the dependencies, or sending our code to the node."""
    return SEND_CODE if "No module named 'remix_study" in words else INSTALL


def _last_exception(text: str) -> str:
    """Return the last exception of a traceback, with its message, in one line."""
    starts = [match.start() for match in _EXCEPTION.finditer(text)]
    return " ".join(text[starts[-1] if starts else 0 :].split())[:_MOST_CHARACTERS].rstrip(".")
