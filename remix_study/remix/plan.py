"""Epoch plans: the schedule of every epoch

`RemixPlan` implements Data Remixing: after the warm-up it scores, filters and assigns every `rescore_every` epochs, and
reassembles batches in every epoch. `ConstantPlan` keeps one assignment, for joint or unimodal training.
"""

# N training samples, M modalities, C classes

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from remix_study.epoch import Passes, PlannedEpoch, Schedule, ScoreFunction, ScoringPass, SplitStatistics, Statistic
from remix_study.errors import TrainingError
from remix_study.remix.assignment import Assignment, everything_joint, mean_margin
from remix_study.remix.blocks import BlockLosses
from remix_study.remix.course import Course
from remix_study.remix.filtering import Filter, MaxShare
from remix_study.remix.rotation import Rotation
from remix_study.remix.rules import ByCost, History
from remix_study.remix.schedule import Reassembly, reassemble
from remix_study.remix.separability import ScoreName, score
from remix_study.remix.share import LOSS, ShareInputs, ShareRule
from remix_study.seeds import stream


@dataclass(frozen=True)
class ConstantPlan:
    """The same assignment in every epoch; only batches are reshuffled."""

    assignment: Assignment
    how: Reassembly
    seed: int

    def plan(
        self,
        epoch: int,
        run_scoring_pass: Callable[[ScoreFunction], ScoringPass],  # noqa: ARG002 - required by EpochPlan
    ) -> PlannedEpoch:
        return PlannedEpoch(
            require_steps(reassemble(self.assignment, self.how, stream(self.seed, "reassemble", epoch)), epoch)
        )

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """There is no state to restore."""


@dataclass(frozen=True)
class RemixSettings:
    """Settings of `RemixPlan`.

    Args:
        warmup: epochs of joint training before the first assignment.
        score: the separability score.
        filter: the filtering rule.
        how: how batches are formed.
        share: rule for the share of samples per modality; None: no constraint.
        joint_share: fraction of the samples, in [0, 1), drawn at random to train jointly after the warm-up.
        rescore_every: epochs between two assignments.
        course: of another run, to assign as many samples as it did, at random; `filter`, `share` and `joint_share` have
            no effect then.
        joint: all samples train all modalities, as in the warm-up.
        only: the modalities that train, if not all.
    """

    warmup: int
    score: ScoreName
    filter: Filter
    how: Reassembly
    share: ShareRule | None = None
    joint_share: float = 0.0
    rescore_every: int = 1
    course: Course | None = None
    joint: bool = False
    only: tuple[str, ...] | None = None


class Timetable(Protocol):
    """Settings that change over the epochs after the warm-up. They depend on the epoch only, and on `order`.

    `order`: all modalities, weakest first, if it `ranks` them; else empty.
    """

    @property
    def ranks(self) -> bool:
        """Whether it needs the order of the modalities, which the first scoring pass finds."""
        ...

    def at(self, epoch: int, order: tuple[str, ...]) -> RemixSettings:
        """The settings of an epoch after the warm-up."""
        ...

    def begins(self, epoch: int) -> bool:
        """Whether a phase begins with this epoch, so that samples are assigned again."""
        ...

    def planned(self, epoch: int, order: tuple[str, ...]) -> dict[str, float]:
        """The values that change, as metrics of an epoch after the warm-up."""
        ...


class RemixPlan:
    """Data Remixing as a plan; see `remix_study.remix` for the method.

    Columns of scores and assignments follow `modalities`; ties go to the first modality in training order
    (`settings.how.columns`). All random numbers are derived from (seed, epoch), so all ranks compute the same plan, and
    so does a resumed run.

    A share that reads the control samples needs `inform` before `plan`, where `due` says so; one that reads the loss
    after each block also needs `observe` (`PlannedEpoch.observed_at`).

    Args:
        settings: see `RemixSettings`.
        modalities: names of the M columns.
        labels_N: class of each training sample, in 0..classes-1.
        classes: number of classes.
        seed: seed of the run.
        timetable: how the settings change over the epochs; None: they do not.

    Attributes:
        settings: those of the current epoch.
    """

    def __init__(
        self,
        settings: RemixSettings,
        modalities: Sequence[str],
        labels_N: NDArray[np.int64],
        classes: int,
        seed: int,
        timetable: Timetable | None = None,
    ) -> None:
        self.settings = settings
        self._timetable = timetable
        self._order: tuple[str, ...] = ()  # of the timetable
        self._modalities = tuple(modalities)
        self._labels_N = labels_N
        self._classes = classes
        self._seed = seed
        self._assignment: Assignment | None = None
        self._last_pass: ScoringPass | None = None
        self._shares_M = np.full(len(self._modalities), 1 / len(self._modalities))
        none_PNM = np.empty((0, len(labels_N), len(self._modalities)), np.float32)
        self._history = History(self._modalities, labels_N, classes, none_PNM)
        rotates = isinstance(settings.filter, Rotation)
        self._seen_NM = np.zeros((len(labels_N), len(self._modalities)), np.int64) if rotates else None
        self._kept: dict[str, NDArray[np.float64]] = {}  # of the share rule
        self._block_losses = BlockLosses(settings.how.columns)
        self._passes: Passes | None = None  # of the epoch that is planned next

    @property
    def needs(self) -> frozenset[Statistic]:
        return frozenset()

    @property
    def needs_of_control(self) -> frozenset[Statistic]:
        share = self.settings.share
        return frozenset() if share is None or share.of_control is None else share.of_control

    @property
    def observes(self) -> frozenset[Statistic]:
        return frozenset(("fused",))

    def scoring_needs(self, epoch: int) -> frozenset[Statistic]:
        """Further statistics that the rule reads in a scoring pass before this epoch."""
        self._enter(epoch)
        rule = self.settings.filter
        return rule.rule.needs if isinstance(rule, ByCost) else frozenset()

    @property
    def assignment(self) -> Assignment | None:
        """The current assignment; None during the warm-up."""
        return self._assignment

    @property
    def last_scoring_pass(self) -> ScoringPass | None:
        """The last scoring pass; None if there was none."""
        return self._last_pass

    @property
    def look(self) -> ScoringPass | None:
        """Deprecated name of `last_scoring_pass`; removed in 0.3."""
        warnings.warn("`RemixPlan.look` is now `last_scoring_pass`", DeprecationWarning, stacklevel=2)
        return self._last_pass

    def due(self, epoch: int) -> bool:
        self._enter(epoch)
        share, after_warmup = self.settings.share, epoch - self.settings.warmup
        if share is None or share.of_control is None or after_warmup < 0:
            return False
        return share.after_blocks or self._assigns(epoch)

    def inform(self, passes: Passes) -> None:
        self._passes = passes
        if self._watches():
            self._block_losses.finish(_fused_loss(passes.control()))

    def observe(self, found: SplitStatistics) -> None:
        self._block_losses.observe(_fused_loss(found))

    def plan(self, epoch: int, run_scoring_pass: Callable[[ScoreFunction], ScoringPass]) -> PlannedEpoch:
        passes, self._passes = self._passes, None
        after_warmup = epoch - self.settings.warmup
        if after_warmup < 0:
            warmup = everything_joint(len(self._labels_N), len(self._modalities))
            return PlannedEpoch(self._reassemble(warmup, epoch), {"remix/joint_share": 1.0})
        scored = self._rank(run_scoring_pass)
        metrics = self._enter(epoch)
        other_rule, other_modalities = self._changes_share(epoch)
        if other_rule or other_modalities:
            self._kept = {}
        if other_modalities:
            self._shares_M = np.full(len(self._modalities), 1 / len(self._modalities))
        if self._assigns(epoch):
            before = self._assignment
            if self._needs_scoring():
                scored = True
                self._last_pass = run_scoring_pass(partial(score, self.settings.score))
                if isinstance(self.settings.filter, ByCost):
                    self._history = self._history.after(self._last_pass, self.settings.filter.rule.passes)
                metrics |= self._score_metrics()
            metrics |= self._update_shares(epoch, self._last_pass if scored else None, passes)
            self._assignment = self._assign(epoch)
            if before is not None:
                metrics["remix/churn"] = self._assignment.churn(before)
        assignment = self._assignment
        assert assignment is not None  # else the epoch would assign samples
        schedule = self._reassemble(assignment, epoch)
        metrics |= self._assignment_metrics(assignment)
        observed_at: tuple[int, ...] = ()
        if self._watches() and passes is not None:
            observed_at = self._block_losses.begin(_fused_loss(passes.control()), schedule)
        return PlannedEpoch(schedule, metrics, self._warnings(assignment), scored, observed_at=observed_at)

    def state(self) -> dict[str, Any]:
        keeps = isinstance(self.settings.filter, ByCost) or len(self._history.losses_PNM)  # also for a later phase
        return {
            "assigned_NM": None if self._assignment is None else self._assignment.assigned_NM,
            "joint_N": None if self._assignment is None else self._assignment.joint_N,
            "scores_NM": None if self._last_pass is None else self._last_pass.scores_NM,
            "cross_entropy_NM": None if self._last_pass is None else self._last_pass.cross_entropy_NM,
            "shares_M": self._shares_M,
            **({"losses_PNM": self._history.losses_PNM} if keeps else {}),
            **({} if self._seen_NM is None else {"seen_NM": self._seen_NM}),
            "kept": list(self._kept),
            **{f"share/{name}": value for name, value in self._kept.items()},
            **{f"block_losses/{name}": value for name, value in self._block_losses.state().items() if self._watches()},
            **({"order_M": np.asarray([self._modalities.index(m) for m in self._order])} if self._order else {}),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        assigned_NM, scores_NM = state["assigned_NM"], state["scores_NM"]
        self._assignment = None if assigned_NM is None else Assignment(assigned_NM, state["joint_N"])
        self._last_pass = None if scores_NM is None else ScoringPass(scores_NM, state["cross_entropy_NM"])
        self._shares_M = state["shares_M"]
        # Statistics of the last pass are read in its own epoch only.
        if "losses_PNM" in state:
            self._history = replace(self._history, losses_PNM=state["losses_PNM"], found=None)
        self._seen_NM = state.get("seen_NM")  # checkpoints of earlier versions lack it
        self._order = tuple(self._modalities[m] for m in state.get("order_M", ()))
        self._kept = _part_of(state, "share/")
        if "kept" not in state and self._last_pass is not None:  # saved by a version that kept this loss only
            self._kept = {LOSS: self._last_pass.cross_entropy_NM.mean(axis=0)}
        self._block_losses.restore(_part_of(state, "block_losses/"))

    def _rank(self, run_scoring_pass: Callable[[ScoreFunction], ScoringPass]) -> bool:
        """Find the order of the modalities, if the timetable needs it; return whether this took the scoring pass.

        The weakest has the highest mean training cross-entropy; of equal ones, the first in training order.
        """
        if self._timetable is None or not self._timetable.ranks or self._order:
            return False
        self._last_pass = run_scoring_pass(partial(score, self.settings.score))
        loss_M = self._last_pass.cross_entropy_NM.mean(axis=0)
        columns = sorted(self.settings.how.columns, key=lambda m: -loss_M[m])
        self._order = tuple(self._modalities[m] for m in columns)
        return True

    def _enter(self, epoch: int) -> dict[str, float]:
        """Set the settings of an epoch; return what the timetable planned, as metrics."""
        if self._timetable is None or epoch < self.settings.warmup:
            return {}
        self.settings = self._timetable.at(epoch, self._order)
        if isinstance(self.settings.filter, Rotation) and self._seen_NM is None:
            self._seen_NM = np.zeros((len(self._labels_N), len(self._modalities)), np.int64)
        return self._timetable.planned(epoch, self._order)

    def _changes_share(self, epoch: int) -> tuple[bool, bool]:
        """Whether the share follows another rule, and whether other modalities train, than in the epoch before."""
        if self._timetable is None or epoch == self.settings.warmup or not self._timetable.begins(epoch):
            return False, False
        before, now = self._timetable.at(epoch - 1, self._order), self.settings
        return type(before.share) is not type(now.share), set(before.only or ()) != set(now.only or ())

    def _trained(self) -> list[int]:
        """The columns of the modalities that train."""
        only = self.settings.only
        return [m for m, name in enumerate(self._modalities) if only is None or name in only]

    def _assigns(self, epoch: int) -> bool:
        """Whether samples are assigned before this epoch, which is after the warm-up."""
        due = (epoch - self.settings.warmup) % self.settings.rescore_every == 0
        begins = self._timetable is not None and self._timetable.begins(epoch)
        replayed = self.settings.course is not None and self.settings.course.changes(epoch)
        return due or self._assignment is None or begins or replayed

    def _watches(self) -> bool:
        return self.settings.share is not None and self.settings.share.after_blocks

    def _needs_scoring(self) -> bool:
        share, only = self.settings.share, self.settings.only
        if self.settings.course is not None or self.settings.joint or (only is not None and len(only) == 1):
            return False
        return self.settings.filter.needs_scores or (share is not None and share.needs_scoring)

    def _update_shares(self, epoch: int, scored: ScoringPass | None, passes: Passes | None) -> dict[str, float]:
        """Set the shares of the next assignment; return what the rule read, as metrics."""
        if self.settings.share is None:
            return {}
        seen = ShareInputs(
            epoch, self._shares_M, self._kept, self.settings.how.columns, scored,
            self._block_losses.take() if self._watches() else None,
        )  # fmt: skip
        trained = self._trained()
        seen = seen if passes is None else replace(seen, control=passes.control)
        step = self.settings.share.next(seen.among(trained))
        # An exponent is fitted, so its last digits may depend on the processor; those of other shares do not.
        shares_M = step.shares_M if passes is None else passes.agreed(step.shares_M)
        self._shares_M = self._shares_M.copy()
        self._shares_M[trained] = shares_M * (len(trained) / len(self._modalities))
        self._kept = dict(step.kept)
        return {
            f"remix/{name}/{self._modalities[m]}": float(value)
            for name, value_M in step.read.items()
            for m, value in zip(trained, value_M, strict=True)
        }

    def _assign(self, epoch: int) -> Assignment:
        settings = self.settings
        if settings.course is not None:
            return settings.course.draw(epoch, stream(self._seed, "filter", epoch))
        samples = len(self._labels_N)
        if settings.joint:
            return everything_joint(samples, len(self._modalities))
        trained = self._trained()
        columns = [m for m in settings.how.columns if m in trained]
        assigned_NM = np.zeros((samples, len(self._modalities)), np.bool_)
        if len(columns) == 1:
            assigned_NM[:, columns] = True
            return Assignment(assigned_NM, np.zeros(samples, np.bool_))
        last = self._last_pass
        scores_NM = np.zeros(assigned_NM.shape) if last is None else last.scores_NM
        shares_M = None if settings.share is None else self._shares_M[columns]
        rule = settings.filter
        if isinstance(rule, Rotation) and self._seen_NM is not None:
            rule = Rotation(self._seen_NM[:, columns])
        if isinstance(rule, ByCost):
            known = rule.knows_enough(self._history)
            rule, scores_NM = (rule, rule.rule.costs(self._history)) if known else (rule.at_random, scores_NM)
        ordered = rule(scores_NM[:, columns], shares_M, stream(self._seed, "filter", epoch))
        assigned_NM[:, columns] = ordered.assigned_NM
        joint_N = ordered.joint_N
        if settings.joint_share > 0:
            drawn_N = stream(self._seed, "joint", epoch).random(len(joint_N)) < settings.joint_share
            joint_N = joint_N | drawn_N
            assigned_NM &= ~drawn_N[:, None]
        if self._seen_NM is not None:
            self._seen_NM = self._seen_NM + assigned_NM
        return Assignment(assigned_NM, joint_N)

    def _reassemble(self, assignment: Assignment, epoch: int) -> Schedule:
        return require_steps(reassemble(assignment, self.settings.how, stream(self._seed, "reassemble", epoch)), epoch)

    def _assignment_metrics(self, assignment: Assignment) -> dict[str, float]:
        metrics = {
            "remix/joint_share": assignment.joint_share(),
            "remix/resting_share": assignment.resting_share(),
            "remix/entropy": assignment.entropy(),
        }
        by_class_CM = assignment.shares_by_class(self._labels_N, self._classes)
        for m, name in enumerate(self._modalities):
            metrics[f"remix/share/{name}"] = float(assignment.shares_M()[m])
            metrics |= {
                f"remix/share_class_{c}/{name}": float(value)
                for c, value in enumerate(by_class_CM[:, m])
                if self._classes <= MOST_CLASSES_LOGGED and np.isfinite(value)
            }
        return metrics

    def _score_metrics(self) -> dict[str, float]:
        assert self._last_pass is not None
        scores_NM = self._last_pass.scores_NM
        metrics = {"remix/margin": mean_margin(scores_NM)}
        for m, name in enumerate(self._modalities):
            q10, q50, q90 = np.quantile(scores_NM[:, m], [0.1, 0.5, 0.9])
            metrics[f"remix/score_mean/{name}"] = float(scores_NM[:, m].mean())
            metrics |= {f"remix/score_q10/{name}": q10, f"remix/score_q50/{name}": q50, f"remix/score_q90/{name}": q90}
            metrics[f"remix/train_cross_entropy/{name}"] = float(self._last_pass.cross_entropy_NM[:, m].mean())
        rule = self.settings.filter
        if isinstance(rule, ByCost) and rule.knows_enough(self._history):
            for what, value_M in rule.rule.metrics(self._history).items():
                metrics |= {f"remix/{what}/{m}": float(v) for m, v in zip(self._modalities, value_M, strict=True)}
        return metrics

    def _warnings(self, assignment: Assignment) -> tuple[str, ...]:
        count_M = assignment.assigned_NM.sum(axis=0)
        settings = self.settings
        if settings.share is not None:
            helps = "a larger part of it in `share` or a smaller `global_batch` keeps"
        elif isinstance(settings.filter, MaxShare):
            helps = "a smaller `filter.share` or a `share` keeps"
        else:
            helps = "a `share`, `max_share` or smaller thresholds keep"
        return tuple(
            f"only {count} of {len(self._labels_N)} samples train {name} alone, less than one batch of "
            f"{settings.how.batch}; {helps} a modality from starving"
            for name, count in zip(self._modalities, count_M, strict=True)
            if count < settings.how.batch
            and assignment.joint_share() < 1.0
            and (settings.only is None or name in settings.only)
        )


def _fused_loss(found: SplitStatistics) -> float:
    """The mean cross-entropy of the fused head, in nats."""
    assert found.fused_cross_entropy_N is not None
    return float(found.fused_cross_entropy_N.mean())


def _part_of(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def require_steps(schedule: Schedule, epoch: int) -> Schedule:
    """Return the schedule of an epoch.

    Raises:
        TrainingError: it has no steps.
    """
    if schedule.steps == 0:
        raise TrainingError(
            f"epoch {epoch}: an epoch must train on some samples, but filter and batches left none. "
            "Use wider thresholds, `otherwise: joint`, a smaller batch, or `incomplete: keep`."
        )
    return schedule


MOST_CLASSES_LOGGED = 50  # shares per class; more series slow MLflow's page down
