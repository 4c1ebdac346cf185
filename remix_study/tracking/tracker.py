"""What a run tells its tracker; only rank 0 has a real one"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from remix_study.errors import RunPruned, StudyStopped, cause_of

if TYPE_CHECKING:  # `remix-study status` reads run folders, and must not wait for torch
    from matplotlib.figure import Figure
    from torch import nn

    from remix_study.sample import Batch

Status = Literal["FINISHED", "FAILED", "KILLED"]

# Tags by which a reviewer filters. MLflow has no word for pruned, and says FINISHED of a run that was.
STATE = "remix_study.state"  # running, complete, pruned, stopped, failed
REASON = "remix_study.reason"  # why the pruner ended it
FAILURE_REASON, FAILURE_CAUSE = "failure_reason", "failure_cause"  # in words; one of `errors.CAUSES`
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunInfo:
    """What is known of a run before its first step.

    `dataset_digest` is the store's fingerprint, `dataset_profile` its card (counts, preset, licence); `config_yaml` is
    the fully resolved configuration, which the parameters (cut at MLflow's length limit) only summarise; empty: none.
    """

    name: str
    tags: Mapping[str, str]
    params: Mapping[str, str | int | float | bool]
    config_yaml: str
    dataset_name: str
    dataset_digest: str
    dataset_source: str
    dataset_profile: Mapping[str, Any]
    parent_run_id: str | None = None


class Tracker(Protocol):
    """Only `start` may raise (TrackingError): once training goes, tracking must not stop it."""

    @property
    def run_id(self) -> str | None: ...

    def start(self, info: RunInfo, resume_run_id: str | None = None) -> str | None:
        """Open a run, or open `resume_run_id` again; returns its id."""
        ...

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """One value per name and step (the epoch), written once: later values for the same step are ignored."""
        ...

    def set_tags(self, tags: Mapping[str, str]) -> None: ...

    def log_text(self, text: str, name: str) -> None: ...

    def log_figure(self, figure: "Figure", name: str) -> None: ...

    def log_model(self, model: "nn.Module", example: "Batch") -> None:
        """`model(batch).logits_BC` are the scores; `example` has all rows of every modality."""
        ...

    def finish(self, status: Status, reason: str | None = None) -> None: ...


class NullTracker:
    """Forgets everything: ranks other than 0, and runs that nobody asks about."""

    @property
    def run_id(self) -> str | None:
        return None

    def start(self, info: RunInfo, resume_run_id: str | None = None) -> str | None:  # noqa: ARG002
        return None

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None: ...

    def set_tags(self, tags: Mapping[str, str]) -> None: ...

    def log_text(self, text: str, name: str) -> None: ...

    def log_figure(self, figure: "Figure", name: str) -> None: ...

    def log_model(self, model: "nn.Module", example: "Batch") -> None: ...

    def finish(self, status: Status, reason: str | None = None) -> None: ...


@dataclass
class RecordingTracker:
    """Remembers everything, for tests; keeps the rule that a metric has one value per step."""

    run_id: str | None = None
    info: RunInfo | None = None
    metrics: dict[int, dict[str, float]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    figures: "dict[str, Figure]" = field(default_factory=dict)
    models: "list[nn.Module]" = field(default_factory=list)
    status: Status | None = None
    reason: str | None = None

    def start(self, info: RunInfo, resume_run_id: str | None = None) -> str | None:
        self.info, self.run_id = info, resume_run_id or "recorded"
        self.status = self.reason = None
        self.tags.update(info.tags)
        return self.run_id

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        self.metrics[step] = {**metrics, **self.metrics.get(step, {})}

    def set_tags(self, tags: Mapping[str, str]) -> None:
        self.tags.update(tags)

    def log_text(self, text: str, name: str) -> None:
        self.texts[name] = text

    def log_figure(self, figure: "Figure", name: str) -> None:
        self.figures[name] = figure

    def log_model(self, model: "nn.Module", example: "Batch") -> None:  # noqa: ARG002
        self.models.append(model)

    def finish(self, status: Status, reason: str | None = None) -> None:
        self.status, self.reason = status, reason


@contextmanager
def finishing(tracker: Tracker) -> Iterator[None]:
    """Ends the run whatever happens, as what it was, and lets every exception go on.

    complete  FINISHED
    pruned    FINISHED: nothing went wrong (RunPruned)
    stopped   KILLED: somebody asked for it
    failed    FAILED, with the error's words and its cause
    """
    try:
        yield
    except RunPruned as pruned:
        _end(tracker, {STATE: "pruned", REASON: str(pruned)}, "FINISHED")
        raise
    except (KeyboardInterrupt, SystemExit, StudyStopped) as stop:
        _end(tracker, {STATE: "stopped"}, "KILLED", type(stop).__name__ + (f": {stop}" if str(stop) else ""))
        raise
    except BaseException as error:
        tags = {STATE: "failed", FAILURE_CAUSE: cause_of(error)}
        _end(tracker, tags, "FAILED", f"{type(error).__name__}: {error}")
        raise
    tracker.set_tags({STATE: "complete"})
    tracker.finish("FINISHED")


def _end(tracker: Tracker, tags: Mapping[str, str], status: Status, reason: str | None = None) -> None:
    try:
        tracker.set_tags(tags)
        tracker.finish(status, reason)
    except OSError as error:
        # A full disk, say. What ended the run must go on and not be hidden by what cannot be written about it.
        _log.warning("it is not recorded that the run ended as %s: %s", tags[STATE], error)
