"""The training loop of a run

Every epoch is planned, trained, evaluated, recorded and checkpointed. After the last epoch, the best one gets a final
evaluation. All ranks execute the same code; only rank 0 writes.

A run that is preempted saves a checkpoint after its current step, and resumes from there. In every step, all ranks
share whether any of them got the notice, so that they stop after the same step. The flags are part of an all-reduce
that the step needs anyway. In the evaluation and the scoring pass, ranks take different numbers of batches: a single
rank stops at once, several ranks finish the pass first. Rank 0 saves a trained epoch as soon as it gets the notice
during the evaluation.
"""

# N training samples, M modalities

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from remix_study.augment import Augmentation, Draws
from remix_study.balancing import EpochStart, Method, Step
from remix_study.datasets.clips import ClipReader
from remix_study.epoch import InformedPlan, ObservingPlan, PlannedEpoch, ScoredPlan, SplitStatistics
from remix_study.errors import NotANumberError, RunPreempted, RunPruned, StudyStopped, TrainingError
from remix_study.files import operations
from remix_study.files.disk import write_atomically
from remix_study.media.integrity import IntegrityCheck
from remix_study.metrics import modality_interference, objective_conflict
from remix_study.models import MultimodalModel, dropout_from
from remix_study.remix.sampler import RankBatch, rank_batches
from remix_study.sample import Batch
from remix_study.seeds import device_stream
from remix_study.tracking.tracker import Tracker
from remix_study.training.accumulate import Accumulation
from remix_study.training.checkpoint import LAST, STEP, Checkpoints
from remix_study.training.copies import averaged, undone
from remix_study.training.evaluate import Evaluation, evaluate, inference_s
from remix_study.training.final_evaluation import Predictions, Selection, evaluate_finished
from remix_study.training.learning_rate import RateFactor
from remix_study.training.multiply_adds import BACKWARD, central_multiply_adds, forward_multiply_adds
from remix_study.training.partial_epoch import PartialEpoch, fits, pack_partial, planned_of, restore_partial
from remix_study.training.scoring import SplitPasses, split_pass
from remix_study.training.state import Progress, Record, pack, unpack
from remix_study.training.step import SharedFlags, train_step
from remix_study.world import Collectives

log = logging.getLogger(__name__)

# Called with the metrics of all epochs so far, after every epoch; raises RunPruned or StudyStopped to end the run.
EpochCallback = Callable[[Sequence[Record]], None]
_CONTINUE, _PRUNED, _STOPPED = 0.0, 1.0, 2.0


@dataclass(frozen=True)
class LoopSettings:
    """Plain values of a run.

    `evaluation_batch` and `micro_batch` are per rank, `clash_every` counts steps (0: never), `masking` is that of
    `RunConfig`, `select_by` is the validation metric that chooses the best epoch, `select` the epoch whose weights the
    final evaluation uses.
    """

    digest: str
    epochs: int
    seed: int
    learning_rate: float
    evaluation_batch: int = 256
    clash_every: int = 0
    clip_norm: float | None = None
    micro_batch: int | None = None
    autocast: bool = False
    masking: str = "skip_encoder"
    test: bool = False
    probe: bool = True
    ceilings: Mapping[str, float] | None = None
    select_by: str = "accuracy"
    select: Selection = "best"


@dataclass(frozen=True)
class Run:
    """All parts of one run; built by `assemble.py`."""

    settings: LoopSettings
    method: Method
    model: MultimodalModel
    optimizer: torch.optim.Optimizer
    rate: RateFactor
    reader: ClipReader
    rows: Mapping[str, NDArray[np.int64]]  # split -> rows of the clip store; `control` is no part of `train`
    augmentation: Augmentation
    collectives: Collectives
    checkpoints: Checkpoints
    tracker: Tracker
    history_file: Path
    callback: EpochCallback | None = None  # called on rank 0 only
    preempted: Callable[[], bool] = lambda: False  # whether this rank's node or process is about to be preempted
    # Of an epoch: modality -> a factor of its encoder's learning rate; and the values of schedules, as metrics.
    encoder_rates: Callable[[int], Mapping[str, float]] = lambda _: {}
    scheduled: Callable[[int], Mapping[str, float]] = lambda _: {}


@dataclass(frozen=True)
class RunResult:
    """Results of a finished run.

    `history[e]`: metrics of epoch e. `summary`: metrics of the run, such as `best/...` and `test/...`. `predictions`:
    split -> predictions of the selected epoch, if the test split was evaluated; `predicted`: `best` or `last` -> class
    that the fused head of that epoch predicts for each test clip.
    """

    history: list[Record]
    summary: Record
    predictions: dict[str, Predictions]
    predicted: dict[Selection, NDArray[np.int64]]


def train(run: Run, *, checked: bool = True) -> RunResult:
    """Train a run to its end, from its last checkpoint if there is one.

    Args:
        checked: compare the checksums of the clip store, in a thread beside the first epoch if it is large. An epoch is
            recorded only after that. False: for a run whose results are not kept.

    Raises:
        DamagedStoreError: a file of the clip store is damaged.
        TrainingError: the loss is not finite, an epoch has no samples, or the checkpoint belongs to another run.
        RunPruned, StudyStopped: raised by the callback; the checkpoint of the last epoch is kept.
        RunPreempted: a rank got the notice of a preemption; the run resumes from the step that the message names.
    """
    check = run.reader.store.begin_check() if checked else IntegrityCheck()
    try:
        return _train(run, check)
    except NotANumberError:  # damaged clips are the likelier reason
        if checked:
            check.require_intact()
        else:
            run.reader.store.require_intact()
        raise


def _train(run: Run, check: IntegrityCheck) -> RunResult:
    progress = _resume(run)
    part = _resume_epoch(run, progress.next_epoch)
    cost_m = forward_multiply_adds(run.model, run.reader.sample_shapes())
    central = central_multiply_adds(run.model)
    if progress.history:
        _run_callback(run, progress)  # the run may have been killed between checkpoint and callback
    for epoch in range(progress.next_epoch, run.settings.epochs):
        preempted, intact = _any_rank_preempted(run, check)
        if preempted:
            raise _preempted(epoch, 0 if part is None else part.saved)
        part = _begin_epoch(run, epoch) if part is None else part
        part.intact = intact
        if part.record is None:
            _train_epoch(run, part, check)
        started = _now(run)
        found = evaluate(
            run.model, run.reader, run.rows["val"], run.collectives, batch=run.settings.evaluation_batch,
            autocast=run.settings.autocast, between_batches=_save_when_preempted(run, part),
        )  # fmt: skip
        _require_numbers(found, epoch)
        record = _record_of_epoch(run, part, found, cost_m, central, evaluate_s=_now(run) - started)
        check.require_intact()
        part = None
        better = progress.add(record)
        _save(run, progress, better)
        _run_callback(run, progress)
    check.require_intact()
    return _finish(run, progress)


def _record_of_epoch(
    run: Run, part: PartialEpoch, found: Evaluation, cost_m: Mapping[str, int], central: int, evaluate_s: float
) -> Record:
    """The metrics of a trained and evaluated epoch.

    Args:
        found: the evaluation on the validation split.
        cost_m: modality -> multiply-adds of the forward pass of one sample.
        central: the same of a network between the encoders.
    """
    planned = part.planned
    samples = float(planned.schedule.counts_T.sum())
    return {
        **(part.record or {}),
        **planned.metrics,
        **run.scheduled(part.epoch),
        **found.metrics("val", run.method.trains_heads),
        **_training_of_encoders(run, part.epoch, planned, cost_m, central),
        "train/steps": float(planned.schedule.steps),
        "train/samples": samples,
        "time/score_s": part.score_s,
        "time/train_s": part.train_s,
        "time/evaluate_s": evaluate_s,
        "time/samples_per_s": samples / max(part.train_s, 1e-9),
    }


def _any_rank_preempted(run: Run, check: IntegrityCheck) -> tuple[bool, bool]:
    """Whether any rank got the notice of a preemption, and whether all found the store intact; equal on every rank."""
    answers = torch.tensor([float(run.preempted()), float(not check.passed)])
    run.collectives.sum_(answers)
    preempted, unchecked = answers.tolist()
    return preempted > 0, unchecked == 0


def _preempted(epoch: int, step: int) -> RunPreempted:
    """The end of a preempted run, and where it resumes; `epoch` is past the last one in the final evaluation."""
    return RunPreempted(f"preempted; checkpoint at epoch {epoch}, step {step}")


def _save_part(run: Run, part: PartialEpoch) -> None:
    """Save the epoch so far, unless the store may be damaged. Every rank must call it, unless all steps are trained."""
    if not part.intact:
        return
    part.saved = part.step
    ranks = [] if part.record is not None else run.collectives.gather_bytes(part.state_of_rank(run.model))
    if run.collectives.world.leads:
        run.checkpoints.save(STEP, pack_partial(part, ranks, run.model, run.optimizer, run.method, run.settings.digest))


def _save_when_preempted(run: Run, part: PartialEpoch) -> Callable[[], None]:
    """Return a function to call between batches of the evaluation: rank 0 saves the trained epoch at the notice.

    It raises RunPreempted if there is no other rank, which would wait for this one.
    """
    saved = False

    def between_batches() -> None:
        nonlocal saved
        if saved or not run.collectives.world.leads or not run.preempted():
            return
        _save_part(run, part)
        saved = True
        if run.collectives.world.size == 1:
            raise _preempted(part.epoch, part.saved)

    return between_batches


def _stop_when_preempted(run: Run, epoch: int) -> Callable[[], None]:
    """Return a function to call between batches of a pass before `epoch`, whose `last.pt` is all there is to save.

    It raises RunPreempted at the notice if there is no other rank, which would wait for this one.
    """

    def between_batches() -> None:
        if run.collectives.world.size == 1 and run.preempted():
            raise _preempted(epoch, 0)

    return between_batches


def _run_callback(run: Run, progress: Progress) -> None:
    """Run the callback on rank 0 and share its decision, so that all ranks end in the same epoch."""
    decision = torch.full((1,), _CONTINUE)
    reason = ""
    if run.collectives.world.leads and run.callback is not None:
        try:
            run.callback(progress.history)
        except RunPruned as pruned:
            decision[0], reason = _PRUNED, str(pruned)
        except StudyStopped as stopped:
            decision[0], reason = _STOPPED, str(stopped)
    run.collectives.sum_(decision)
    if decision[0] == _PRUNED:
        raise RunPruned(reason)
    if decision[0] == _STOPPED:
        raise StudyStopped(reason)


def _require_numbers(found: Evaluation, epoch: int) -> None:
    """Raise if predictions are not finite: the last step of an epoch may diverge after the last loss was checked."""
    broken = [view for view, loss in found.cross_entropies.items() if not math.isfinite(loss)]
    if broken:
        raise NotANumberError(
            f"after epoch {epoch}, predictions must be numbers, but those of {', '.join(broken)} are not. Lower "
            "`optimizer.learning_rate`, or set `clip_norm`, e.g. 1.0."
        )


def _resume(run: Run) -> Progress:
    content = run.checkpoints.load(LAST)
    progress = Progress(run.settings.select_by)
    if content is not None:
        if content["digest"] != run.settings.digest:
            raise TrainingError(
                f"the checkpoints in {run.history_file.parent} must be of this configuration "
                f"({run.settings.digest}), but are of another ({content['digest']}). Use another --name."
            )
        progress = unpack(content, run.model, run.optimizer, run.method, run.settings.select_by)
    if run.collectives.world.leads:
        # Drop epochs after the last checkpoint: they are trained and recorded again.
        write_atomically(run.history_file, "".join(_line(e, record) for e, record in enumerate(progress.history)))
        if progress.history:  # the run may have been killed after the checkpoint; the tracker skips known epochs
            run.tracker.log_metrics(progress.history[-1], len(progress.history) - 1)
    return progress


def _resume_epoch(run: Run, epoch: int) -> PartialEpoch | None:
    """The epoch that a preempted run has begun, restored with model, optimizer and plan; None if there is none."""
    content = run.checkpoints.load_step(run.settings.digest, epoch)
    if content is None:
        return None
    if not fits(content, run.collectives.world.size):
        if run.collectives.world.leads:
            log.warning(
                "Restarting epoch %d: its checkpoint was saved by %d workers, and this run has %d.",
                epoch, len(content["ranks"]), run.collectives.world.size,
            )  # fmt: skip
        return None
    part = _part(run, epoch, planned_of(content))
    restore_partial(content, part, run.collectives.world.rank, run.model, run.optimizer, run.method)
    if run.collectives.world.leads:
        log.info("Resuming at epoch %d, step %d", epoch, part.step)
    return part


def _begin_epoch(run: Run, epoch: int) -> PartialEpoch:
    """An epoch that is planned, and of which nothing is trained."""
    started = _now(run)
    passes = SplitPasses(run.model, run.reader, run.rows, run.collectives, run.settings.evaluation_batch,
                         run.settings.autocast, _stop_when_preempted(run, epoch),
                         heads=run.method.trains_heads)  # fmt: skip
    due = [rule for rule in run.method.epochs if rule.due(epoch)]
    plan = run.method.plan
    informed = plan if isinstance(plan, InformedPlan) and plan.due(epoch) else None
    passes.wanted = frozenset(chain.from_iterable(rule.needs for rule in due))
    if informed is not None:
        passes.wanted |= informed.needs
        passes.wanted_of_control = informed.needs_of_control
    if isinstance(plan, ScoredPlan):
        passes.wanted |= plan.scoring_needs(epoch)
    trained_M = np.zeros(len(run.reader.modalities), np.int64)
    start = EpochStart(epoch, run.model, run.optimizer, passes, passes.agreed,
                       partial(_train_copy, run, epoch, passes, trained_M),
                       partial(_copy_losses, run, epoch, passes, trained_M))  # fmt: skip
    if informed is not None:
        informed.inform(passes)
    for rule in due:
        if rule.changes_model:
            rule.begin(start)
            passes.forget()
    planned = plan.plan(epoch, passes.score)
    for rule in due:
        if not rule.changes_model:
            rule.begin(start)
    within = len(planned.observed_at) * len(run.rows["control"]) if planned.observed_at else 0
    planned = replace(planned, evaluated=passes.evaluated + within, trained_M=tuple(trained_M.tolist()))
    for warning in planned.warnings:
        if run.collectives.world.leads:
            log.warning("epoch %d: %s", epoch, warning)
    part = _part(run, epoch, planned)
    part.score_s = _now(run) - started if planned.evaluated or due else 0.0
    return part


def _part(run: Run, epoch: int, planned: PlannedEpoch) -> PartialEpoch:
    """A planned epoch without any trained step."""
    accumulation = None
    if planned.schedule.update_TB is not None:
        accumulation = Accumulation(run.model, run.reader.modalities, planned.schedule)
    loss = torch.zeros((), dtype=torch.float64, device=run.reader.device)  # summed there: no sync per step
    return PartialEpoch(epoch, planned, loss, accumulation)


def _train_epoch(run: Run, part: PartialEpoch, check: IntegrityCheck) -> None:
    """Train the steps of an epoch that are left, and set `part.record`.

    Raises:
        RunPreempted: a rank got the notice of a preemption; the epoch so far is saved.
    """
    started = _now(run)
    epoch, schedule = part.epoch, part.planned.schedule
    rate = _set_rates(run, run.method, epoch)
    run.model.train()
    flags = SharedFlags(lambda: (run.preempted(), not check.passed))
    for mine in rank_batches(schedule, run.collectives.world, part.step):
        if mine.step in part.planned.observed_at:  # a resumed run begins before it, too: no step is observed twice
            started = _observe(run, part, started)
        if part.accumulation is not None:
            part.accumulation.begin(mine)
        measured = run.settings.clash_every and mine.step % run.settings.clash_every == 0
        part.loss += _step(run, run.method, epoch, mine, flags, part.accumulation, part.clashes if measured else None)
        part.step = mine.step + 1
        if part.step < schedule.steps:  # after the last step, the ranks first combine what they trained
            _stop_if_preempted(run, part, flags, started)
    run.collectives.sum_(part.loss)
    _average_statistics(run)
    part.record = _record_of_training(part, rate, run.method)
    _stop_if_preempted(run, part, flags, started)
    part.train_s += _now(run) - started


def _observe(run: Run, part: PartialEpoch, started: float) -> float:
    """Let the plan see the control samples within an epoch; return `started`, later by the time that this takes.

    Args:
        started: as in `_stop_if_preempted`.

    Raises:
        RunPreempted: the only rank got the notice of a preemption; the epoch so far is saved.
    """
    plan, paused = run.method.plan, _now(run)
    assert isinstance(plan, ObservingPlan)

    def between_batches() -> None:
        if run.collectives.world.size == 1 and run.preempted():
            part.train_s += paused - started
            _save_part(run, part)
            raise _preempted(part.epoch, part.saved)

    with averaged(run.model, run.collectives):
        _, found = split_pass(
            run.model, run.reader, run.rows["control"], run.collectives, None, plan.observes,
            batch=run.settings.evaluation_batch, autocast=run.settings.autocast, between_batches=between_batches,
            heads=run.method.trains_heads,
        )  # fmt: skip
    plan.observe(found)
    taken_s = _now(run) - paused
    part.score_s += taken_s
    return started + taken_s


def _set_rates(run: Run, method: Method, epoch: int) -> float:
    """Set the learning rates of an epoch; return that of parameters without a factor."""
    rate = run.settings.learning_rate * run.rate(epoch)
    factors, scheduled = method.rate_factors(), run.encoder_rates(epoch)
    for group in run.optimizer.param_groups:
        m = group.get("modality", "")
        group["lr"] = rate * factors.get(m, 1.0) * scheduled.get(m, 1.0)
    return rate


def _step(
    run: Run,
    method: Method,
    epoch: int,
    mine: RankBatch,
    flags: SharedFlags,
    accumulation: Accumulation | None = None,
    clashes: dict[str, list[float]] | None = None,
) -> torch.Tensor:
    """Train this rank's part of a step; see `train_step`.

    Args:
        clashes: where the gradient conflicts of this step are recorded; None: they are not measured.
    """
    first, *others = mine.split(run.settings.micro_batch)
    batch = _read(run, first, epoch)
    with dropout_from(run.model.fusion, partial(_dropout_stream, run, epoch, mine.step)):
        if clashes is not None:
            _measure_clash(run, batch, clashes)
        return train_step(
            run.model,
            method,
            chain([batch], (_read(run, other, epoch) for other in others)) if others else batch,
            mine.global_count,
            run.optimizer,
            run.collectives,
            at=Step(epoch, mine.step, mine.multimodal, mine.global_count, mine.steps),
            autocast=run.settings.autocast,
            clip_norm=run.settings.clip_norm,
            accumulation=accumulation,
            flags=flags,
        )


def _train_copy(
    run: Run, first: int, passes: SplitPasses, trained_M: NDArray[np.int64], method: Method, epochs: int
) -> tuple[SplitStatistics, SplitStatistics]:
    """Train a copy of the model before epoch `first`; see `EpochStart.train_copy`.

    Args:
        passes: counts what is evaluated.
        trained_M: counts the samples on which each encoder is trained.

    Raises:
        RunPreempted: a rank got the notice of a preemption. The run resumes before the epoch.
    """
    with undone(run.model, run.optimizer):
        for _ in _epochs_of_copy(run, first, passes, trained_M, method, epochs):
            pass
        return passes.afresh()


def _copy_losses(
    run: Run,
    first: int,
    passes: SplitPasses,
    trained_M: NDArray[np.int64],
    method: Method,
    epochs: int,
    samples: NDArray[np.int64],
) -> list[NDArray[np.float64]]:
    """As `_train_copy`; see `EpochStart.copy_losses`."""
    with undone(run.model, run.optimizer):
        copied = _epochs_of_copy(run, first, passes, trained_M, method, epochs)
        return [passes.losses_afresh(samples) for _ in copied]


def _epochs_of_copy(
    run: Run, first: int, passes: SplitPasses, trained_M: NDArray[np.int64], method: Method, epochs: int
) -> Iterator[None]:
    """Train the epochs of a copy, and stop after each."""
    flags = SharedFlags(lambda: (run.preempted(),))
    for epoch in range(first, min(first + epochs, run.settings.epochs)):
        schedule = method.plan.plan(epoch, passes.score).schedule
        _set_rates(run, method, epoch)
        run.model.train()
        for mine in rank_batches(schedule, run.collectives.world):
            _step(run, method, epoch, mine, flags)
            if flags.counts[0]:
                run.collectives.barrier()
                raise _preempted(first, 0)
        _average_statistics(run)
        trained_M += schedule.active_TBM.sum(axis=(0, 1))
        yield


def _stop_if_preempted(run: Run, part: PartialEpoch, flags: SharedFlags, started: float) -> None:
    """Save the epoch so far and end the run, if any rank got the notice of a preemption. Every rank must call it.

    Args:
        flags: whether a rank got the notice, and whether it has not yet found the store intact, as of the last step.
        started: when this start of the run began to train the epoch, as of `_now`.

    Raises:
        RunPreempted: on all ranks.
    """
    noticed, unchecked = flags.counts
    part.intact = unchecked == 0
    if noticed:
        part.train_s += _now(run) - started
        _save_part(run, part)
        run.collectives.barrier()  # a rank that ends first would let Ray Train end the others
        raise _preempted(part.epoch, part.saved)


def _record_of_training(part: PartialEpoch, rate: float, method: Method) -> Record:
    """The metrics of the steps of an epoch, whose loss is summed over the ranks."""
    samples = int(part.planned.schedule.counts_T.sum())
    record = {"train/loss": float(part.loss) / max(1, samples), "train/learning_rate": rate}
    for name, cosines in part.clashes.items():
        measure, m = name.split("/")
        record[f"clash/{measure}/{m}"] = float(np.mean(cosines))
        record[f"clash/{measure}_negative/{m}"] = float(np.mean(np.asarray(cosines) < 0))
    for rule in method.recorded:
        record |= rule.metrics()
    return record


def _training_of_encoders(
    run: Run, epoch: int, planned: PlannedEpoch, cost_m: Mapping[str, int], central: int
) -> Record:
    """Optimizer steps, samples and multiply-adds of the encoders, and of teachers, in an epoch.

    Args:
        cost_m: modality -> multiply-adds of the forward pass of one sample.
        central: the same of a network between the encoders.
    """
    schedule = planned.schedule
    sample_M = schedule.active_TBM.sum(axis=(0, 1))
    update_M, encoded_M = schedule.updates_M, sample_M
    if run.settings.masking in ("zero_feature", "zero_input"):
        # The optimizer moves an inactive encoder that runs, even if its gradients are zero.
        update_M = np.full(len(sample_M), schedule.steps)
    if run.settings.masking == "zero_feature":
        encoded_M = np.full(len(sample_M), schedule.counts_T.sum())
    if run.settings.masking == "zero_input":  # of all inactive samples of a step, one is encoded
        encoded_M = sample_M + (schedule.active_TBM.sum(axis=1) < schedule.counts_T[:, None]).sum(axis=0)
    # The central network runs for every training sample, and in a pass without heads once for every modality.
    central_passes = (1 + BACKWARD) * int(schedule.counts_T.sum())
    central_passes += 0 if run.method.trains_heads else planned.evaluated * len(sample_M)
    cost_M = np.asarray([cost_m[m] for m in run.reader.modalities], dtype=np.float64)
    if planned.trained_M:
        encoded_M = encoded_M + np.asarray(planned.trained_M)
    passes_M = (1 + BACKWARD) * encoded_M + run.method.further_passes(epoch) * sample_M + planned.evaluated
    return {
        "train/multiply_adds": float(cost_M @ passes_M + central * central_passes),
    } | {
        f"train/{name}/{m}": float(count)
        for name, count_M in (("updates", update_M), ("samples", sample_M))
        for m, count in zip(run.reader.modalities, count_M, strict=True)
    }


def _dropout_stream(run: Run, epoch: int, step: int) -> torch.Generator:
    """Of this rank: the samples of ranks differ, and so does what is dropped from them."""
    return device_stream(run.reader.device, run.settings.seed, "dropout", epoch, step, run.collectives.world.rank)


def _read(run: Run, part: RankBatch, epoch: int) -> Batch:
    rows_N = run.rows["train"]
    draws = None
    if run.augmentation:
        draws = Draws(run.augmentation, run.settings.seed, epoch, len(rows_N), part.samples_b)
    zero_feature = run.settings.masking == "zero_feature"
    return run.reader.read(rows_N[part.samples_b], part.active_bM, read_inactive=zero_feature, draws=draws)


def _measure_clash(run: Run, batch: Batch, clashes: dict[str, list[float]]) -> None:
    measures = [("c2", modality_interference)]
    if run.method.trains_heads:  # C1 needs a trained head
        measures.insert(0, ("c1", objective_conflict))
    for measure, of in measures:
        for m, cosine in of(run.model, batch, run.collectives.sum_).items():
            clashes.setdefault(f"{measure}/{m}", []).append(cosine)


def _average_statistics(run: Run) -> None:
    """Average statistics of the samples over ranks, since each rank updates them from its own batches.

    They are BatchNorm's running statistics, and the means of `masking: mean_feature`.
    """
    size = run.collectives.world.size
    for buffer in run.model.buffers() if size > 1 else ():
        if buffer.is_floating_point():
            run.collectives.sum_(buffer)
            buffer.div_(size)
    run.model.end_epoch()


def _save(run: Run, progress: Progress, better: bool) -> None:
    if run.collectives.world.leads:
        content = pack(progress, run.model, run.optimizer, run.method, run.settings.digest)
        epoch = len(progress.history) - 1
        if better:
            run.checkpoints.save_best(epoch, {"digest": run.settings.digest, "model": content["model"]})
        run.checkpoints.save(LAST, content)
        run.checkpoints.keep_best(progress.best_epoch)
        run.checkpoints.delete_step()
        with operations.extend(run.history_file) as file:
            file.write(_line(epoch, progress.history[-1]).encode())
        run.tracker.log_metrics(progress.history[-1], epoch)
    run.collectives.barrier()


def _finish(run: Run, progress: Progress) -> RunResult:
    settings = run.settings
    started = _now(run)
    memory = {}
    if run.reader.device.type == "cuda":
        memory["memory/peak_bytes"] = float(torch.cuda.max_memory_allocated(run.reader.device))
    if run.collectives.world.leads:
        run.checkpoints.finish(progress.best_epoch)
    run.collectives.barrier()
    found = evaluate_finished(
        run.model,
        run.reader,
        run.rows,
        run.collectives,
        run.checkpoints.load_best(progress.best_epoch),
        batch=settings.evaluation_batch,
        autocast=settings.autocast,
        test=settings.test,
        probe=settings.probe,
        ceilings=settings.ceilings,
        seed=settings.seed,
        heads=run.method.trains_heads,
        select=settings.select,
        between_batches=_stop_when_preempted(run, settings.epochs),
    )
    best = progress.history[progress.best_epoch]
    kept = {key: value for key, value in best.items() if key.startswith(("val/", "balance/"))}
    alone = {f"best/{key.replace('/', '_', 1)}": value for key, value in kept.items()}
    parts = ("train_s", "score_s", "evaluate_s")
    times = {f"time/total_{part}": sum(r[f"time/{part}"] for r in progress.history) for part in parts}
    summed = ["multiply_adds", *(f"{name}/{m}" for name in ("updates", "samples") for m in run.reader.modalities)]
    totals = {
        f"train/total_{name}": sum(r[f"train/{name}"] for r in progress.history)
        for name in summed
        if all(f"train/{name}" in r for r in progress.history)  # not so if an older version began the run
    }
    shapes = run.reader.sample_shapes()
    times["time/inference_s"] = inference_s(run.model, shapes, run.reader.device, settings.autocast)
    times["time/evidence_s"] = _now(run) - started
    summary = {
        "best/epoch": float(progress.best_epoch),
        # Of a model that knows nothing, the cross-entropy is ln C.
        "train/loss_growth": max(r["train/loss"] for r in progress.history) / math.log(len(run.reader.store.classes)),
        "last/val_accuracy": progress.history[-1]["val/accuracy"],
        **alone,
        **_own_best(run, progress),
        **_sizes(run),
        **totals,
        **times,
        **memory,
        **found.metrics,
    }
    return RunResult(progress.history, summary, found.predictions, found.predicted)


def _own_best(run: Run, progress: Progress) -> Record:
    """Validation accuracy of every unimodal head in its own best epoch."""
    if not run.method.trains_heads:
        return {}
    keys = {m: f"val/accuracy_uni/{m}" for m in run.model.modalities}
    return {f"best/own_epoch_accuracy_uni/{m}": max(r[key] for r in progress.history) for m, key in keys.items()}


def _sizes(run: Run) -> Record:
    """The number of clips on which the run trains, and of its control clips, if it has a control split."""
    if "control" not in run.rows:
        return {}
    return {"train/clips": float(len(run.rows["train"])), "train/control_clips": float(len(run.rows["control"]))}


def _now(run: Run) -> float:
    if run.reader.device.type == "cuda":
        torch.cuda.synchronize(run.reader.device)
    return time.perf_counter()


def _line(epoch: int, record: Record) -> str:
    return json.dumps({"epoch": epoch, **record}) + "\n"
