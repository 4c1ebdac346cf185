"""The training loop of a run

Every epoch is planned, trained, evaluated, recorded and checkpointed. After the last epoch, the best one gets a final
evaluation. All ranks execute the same code; only rank 0 writes.
"""

# N training samples, M modalities

import json
import logging
import math
from dataclasses import replace
from functools import partial
from itertools import chain

import numpy as np
import torch

from remix_study.balancing import EpochStart
from remix_study.epoch import InformedPlan, ObservingPlan, PlannedEpoch, Schedule, ScoredPlan
from remix_study.errors import NotANumberError, RunPruned, StudyStopped, TrainingError
from remix_study.files import operations
from remix_study.files.disk import write_atomically
from remix_study.media.integrity import IntegrityCheck
from remix_study.remix.sampler import rank_batches
from remix_study.training.accumulate import Accumulation
from remix_study.training.checkpoint import LAST
from remix_study.training.copies import averaged, copy_losses, train_copy
from remix_study.training.evaluate import Evaluation, evaluate, inference_s
from remix_study.training.final_evaluation import evaluate_finished
from remix_study.training.multiply_adds import central_multiply_adds, forward_multiply_adds
from remix_study.training.partial_epoch import PartialEpoch, fits, planned_of, restore_partial
from remix_study.training.preemption import (
    any_rank_preempted,
    preemption_at,
    save_part,
    save_when_preempted,
    stop_if_preempted,
    stop_when_preempted,
)
from remix_study.training.records import record_of_epoch, record_of_training, summary_of_epochs
from remix_study.training.run import Run, RunResult, now
from remix_study.training.scoring import KeptFeatures, SplitPasses, split_pass
from remix_study.training.state import Progress, Record, pack, unpack
from remix_study.training.step import SharedFlags
from remix_study.training.steps import average_statistics, run_step, set_rates

log = logging.getLogger(__name__)

_CONTINUE, _PRUNED, _STOPPED = 0.0, 1.0, 2.0


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
    # A pass over the control samples runs only the encoders that were trained since the last one.
    kept = KeptFeatures() if isinstance(run.method.plan, ObservingPlan) else None
    for epoch in range(progress.next_epoch, run.settings.epochs):
        preempted, intact = any_rank_preempted(run, check)
        if preempted:
            raise preemption_at(epoch, 0 if part is None else part.saved)
        part = _begin_epoch(run, epoch, kept) if part is None else part
        part.intact = intact
        if part.record is None:
            _train_epoch(run, part, check, kept)
        started = now(run)
        found = evaluate(
            run.model, run.reader, run.rows["val"], run.collectives, batch=run.settings.evaluation_batch,
            autocast=run.settings.autocast, between_batches=save_when_preempted(run, part),
        )  # fmt: skip
        _require_numbers(found, epoch)
        record = record_of_epoch(run, part, found, cost_m, central, evaluate_s=now(run) - started)
        check.require_intact()
        part = None
        better = progress.add(record)
        _save(run, progress, better)
        _run_callback(run, progress)
    check.require_intact()
    return _finish(run, progress)


def _begin_epoch(run: Run, epoch: int, kept: KeptFeatures | None) -> PartialEpoch:
    """An epoch that is planned, and of which nothing is trained."""
    started = now(run)
    passes = SplitPasses(run.model, run.reader, run.rows, run.collectives, run.settings.evaluation_batch,
                         run.settings.autocast, stop_when_preempted(run, epoch),
                         heads=run.method.trains_heads, kept=kept)  # fmt: skip
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
                       partial(train_copy, run, epoch, passes, trained_M),
                       partial(copy_losses, run, epoch, passes, trained_M))  # fmt: skip
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
    part.score_s = now(run) - started if planned.evaluated or due else 0.0
    return part


def _part(run: Run, epoch: int, planned: PlannedEpoch) -> PartialEpoch:
    """A planned epoch without any trained step."""
    accumulation = None
    if planned.schedule.update_TB is not None:
        accumulation = Accumulation(run.model, run.reader.modalities, planned.schedule)
    loss = torch.zeros((), dtype=torch.float64, device=run.reader.device)  # summed there: no sync per step
    return PartialEpoch(epoch, planned, loss, accumulation)


def _train_epoch(run: Run, part: PartialEpoch, check: IntegrityCheck, kept: KeptFeatures | None) -> None:
    """Train the steps of an epoch that are left, and set `part.record`.

    Raises:
        RunPreempted: a rank got the notice of a preemption; the epoch so far is saved.
    """
    started = now(run)
    epoch, schedule = part.epoch, part.planned.schedule
    rate = set_rates(run, run.method, epoch)
    run.model.train()
    flags = SharedFlags(lambda: (run.preempted(), not check.passed))
    seen = part.step  # all features that are kept are of the weights before this step
    for mine in rank_batches(schedule, run.collectives.world, part.step):
        if mine.step in part.planned.observed_at:  # a resumed run begins before it, too: no step is observed twice
            if kept is not None:
                kept.forget(_changed(run, schedule, seen, mine.step))
            started, seen = _observe(run, part, started, kept), mine.step
        if part.accumulation is not None:
            part.accumulation.begin(mine)
        measured = run.settings.clash_every and mine.step % run.settings.clash_every == 0
        part.loss += run_step(
            run, run.method, epoch, mine, flags, part.accumulation, part.clashes if measured else None
        )
        part.step = mine.step + 1
        if part.step < schedule.steps:  # after the last step, the ranks first combine what they trained
            stop_if_preempted(run, part, flags, started)
    if kept is not None:
        kept.forget(_changed(run, schedule, seen, schedule.steps))
    run.collectives.sum_(part.loss)
    average_statistics(run)
    part.record = record_of_training(part, rate, run.method)
    stop_if_preempted(run, part, flags, started)
    part.train_s += now(run) - started


def _changed(run: Run, schedule: Schedule, first: int, end: int) -> list[str]:
    """The modalities whose encoders the steps from `first` to `end` may have changed."""
    if schedule.update_TB is not None or run.settings.masking != "skip_encoder":
        # An accumulated update may follow its samples by some steps; an encoder that runs may change though inactive.
        return list(run.reader.modalities)
    return [run.reader.modalities[m] for m in np.flatnonzero(schedule.modalities_TM[first:end].any(axis=0))]


def _observe(run: Run, part: PartialEpoch, started: float, kept: KeptFeatures | None) -> float:
    """Let the plan see the control samples within an epoch; return `started`, later by the time that this takes.

    Args:
        started: as in `stop_if_preempted`.

    Raises:
        RunPreempted: the only rank got the notice of a preemption; the epoch so far is saved.
    """
    plan, paused = run.method.plan, now(run)
    assert isinstance(plan, ObservingPlan)

    def between_batches() -> None:
        if run.collectives.world.size == 1 and run.preempted():
            part.train_s += paused - started
            save_part(run, part)
            raise preemption_at(part.epoch, part.saved)

    with averaged(run.model, run.collectives):
        _, found = split_pass(
            run.model, run.reader, run.rows["control"], run.collectives, None, plan.observes,
            batch=run.settings.evaluation_batch, autocast=run.settings.autocast, between_batches=between_batches,
            heads=run.method.trains_heads, kept=kept,
        )  # fmt: skip
    plan.observe(found)
    taken_s = now(run) - paused
    part.score_s += taken_s
    return started + taken_s


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
    started = now(run)
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
        between_batches=stop_when_preempted(run, settings.epochs),
    )
    times = {
        "time/inference_s": inference_s(run.model, run.reader.sample_shapes(), run.reader.device, settings.autocast),
        "time/evidence_s": now(run) - started,
    }
    summary = {**summary_of_epochs(run, progress), **times, **memory, **found.metrics}
    return RunResult(progress.history, summary, found.predictions, found.predicted)


def _line(epoch: int, record: Record) -> str:
    return json.dumps({"epoch": epoch, **record}) + "\n"
