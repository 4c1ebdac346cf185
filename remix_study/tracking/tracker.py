"""The Tracker protocol, which a run reports to; only rank 0 reports to a real one"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from remix_study.errors import RunPreempted, RunPruned, StudyStopped, cause_of

if TYPE_CHECKING:  # `remix-study status` imports this module and must start without torch
    from matplotlib.figure import Figure
    from torch import nn

    from remix_study.sample import Batch

Status = Literal["FINISHED", "FAILED", "KILLED"]

# Tags to filter by. MLflow has no status for pruned runs; they are FINISHED.
STATE = "remix_study.state"  # running, complete, pruned, stopped, preempted, failed
REASON = "remix_study.reason"  # why the pruner ended the run
FAILURE_REASON, FAILURE_CAUSE = "failure_reason", "failure_cause"  # a message; one of `errors.CAUSES`
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunInfo:
    """What is known about a run before its first step.

    Args:
        params: the configuration, flattened; values are cut at MLflow's length limit.
        config_yaml: the complete resolved configuration; empty: none.
        dataset_digest: the fingerprint of the clip store.
        dataset_profile: the card of the clip store (counts, preset, licence).
        parent_run_id: the MLflow run id of the study.
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
    """Receives the tracking data of a run. Only `start` may raise (TrackingError): tracking never stops training."""

    @property
    def run_id(self) -> str | None: ...

    def start(self, info: RunInfo, resume_run_id: str | None = None) -> str | None:
        """Start a run, or resume the run `resume_run_id`, and return its id (None if it is not known yet)."""
        ...

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record one value per name and step (the epoch). Later values for the same step are ignored."""
        ...

    def set_tags(self, tags: Mapping[str, str]) -> None: ...

    def log_text(self, text: str, name: str) -> None: ...

    def log_figure(self, figure: "Figure", name: str) -> None: ...

    def log_model(self, model: "nn.Module", example: "Batch", exponents: Mapping[str, float] | None = None) -> None:
        """Record the model.

        Args:
            model: `model(batch).logits_BC` must be the class logits.
            example: a batch with all rows of every modality.
            exponents: modality -> exponent in the calibrated late product, if its unimodal heads are trained.
        """
        ...

    def finish(self, status: Status, reason: str | None = None) -> None:
        """End the run."""
        ...


class NullTracker:
    """Records nothing: for ranks other than 0, and for runs that are not tracked."""

    @property
    def run_id(self) -> str | None:
        return None

    def start(self, info: RunInfo, resume_run_id: str | None = None) -> str | None:  # noqa: ARG002 - protocol
        return None

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None: ...

    def set_tags(self, tags: Mapping[str, str]) -> None: ...

    def log_text(self, text: str, name: str) -> None: ...

    def log_figure(self, figure: "Figure", name: str) -> None: ...

    def log_model(self, model: "nn.Module", example: "Batch", exponents: Mapping[str, float] | None = None) -> None: ...

    def finish(self, status: Status, reason: str | None = None) -> None: ...


@dataclass
class RecordingTracker:
    """Keeps all tracking data in memory, for tests. Like MLflow's sender, keeps one value per metric and step."""

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

    def log_model(
        self,
        model: "nn.Module",
        example: "Batch",  # noqa: ARG002 - protocol
        exponents: Mapping[str, float] | None = None,  # noqa: ARG002 - protocol
    ) -> None:
        self.models.append(model)

    def finish(self, status: Status, reason: str | None = None) -> None:
        self.status, self.reason = status, reason


@contextmanager
def finishing(tracker: Tracker) -> Iterator[None]:
    """End the run with the status that fits how the block ends, and re-raise its exception.

    complete  FINISHED: no exception
    pruned    FINISHED: RunPruned
    stopped   KILLED: KeyboardInterrupt, SystemExit or StudyStopped
    preempted KILLED: RunPreempted
    failed    FAILED: any other exception; its message and cause become tags
    """
    try:
        yield
    except RunPruned as pruned:
        _end(tracker, {STATE: "pruned", REASON: str(pruned)}, "FINISHED")
        raise
    except (KeyboardInterrupt, SystemExit, StudyStopped) as stop:
        _end(tracker, {STATE: "stopped"}, "KILLED", type(stop).__name__ + (f": {stop}" if str(stop) else ""))
        raise
    except RunPreempted as preempted:
        _end(tracker, {STATE: "preempted"}, "KILLED", f"{type(preempted).__name__}: {preempted}")
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
        # Such as a full disk. Do not hide the exception that ended the run.
        _log.warning("Cannot record that the run ended as %s: %s", tags[STATE], error)
