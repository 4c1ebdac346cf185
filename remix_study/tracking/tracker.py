"""What a run tells its tracker; only rank 0 has a real one"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from matplotlib.figure import Figure
from torch import nn

from remix_study.errors import StudyStopped
from remix_study.sample import Batch

Status = Literal["FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True)
class RunInfo:
    """What is known of a run before its first step.

    `dataset_digest` is the store's fingerprint, `dataset_profile` its card (counts, preset, licence); `config_yaml` is
    the fully resolved configuration, which the parameters (cut at MLflow's length limit) only summarise.
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

    def log_figure(self, figure: Figure, name: str) -> None: ...

    def log_model(self, model: nn.Module, example: Batch) -> None:
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

    def log_figure(self, figure: Figure, name: str) -> None: ...

    def log_model(self, model: nn.Module, example: Batch) -> None: ...

    def finish(self, status: Status, reason: str | None = None) -> None: ...


@dataclass
class RecordingTracker:
    """Remembers everything, for tests; keeps the rule that a metric has one value per step."""

    run_id: str | None = None
    info: RunInfo | None = None
    metrics: dict[int, dict[str, float]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)
    models: list[nn.Module] = field(default_factory=list)
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

    def log_figure(self, figure: Figure, name: str) -> None:
        self.figures[name] = figure

    def log_model(self, model: nn.Module, example: Batch) -> None:  # noqa: ARG002
        self.models.append(model)

    def finish(self, status: Status, reason: str | None = None) -> None:
        self.status, self.reason = status, reason


@contextmanager
def finishing(tracker: Tracker) -> Iterator[None]:
    """Ends the run whatever happens: FINISHED, KILLED (asked to stop) or FAILED with the error's words."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, StudyStopped) as stop:
        tracker.finish("KILLED", type(stop).__name__)
        raise
    except BaseException as error:
        tracker.finish("FAILED", f"{type(error).__name__}: {error}")
        raise
    tracker.finish("FINISHED")
