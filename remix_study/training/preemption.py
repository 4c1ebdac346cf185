"""Preemption: a run saves a checkpoint after its current step, and resumes from there

In every step, all ranks share whether any of them got the notice, so that they stop after the same step. The flags are
part of an all-reduce that the step needs anyway. In the evaluation and the scoring pass, ranks take different numbers
of batches: a single rank stops at once, several ranks finish the pass first. Rank 0 saves a trained epoch as soon as
it gets the notice during the evaluation.
"""

from collections.abc import Callable

import torch

from remix_study.errors import RunPreempted
from remix_study.media.integrity import IntegrityCheck
from remix_study.training.checkpoint import STEP
from remix_study.training.partial_epoch import PartialEpoch, pack_partial
from remix_study.training.run import Run, now
from remix_study.training.step import SharedFlags


def any_rank_preempted(run: Run, check: IntegrityCheck) -> tuple[bool, bool]:
    """Whether any rank got the notice of a preemption, and whether all found the store intact; equal on every rank."""
    answers = torch.tensor([float(run.preempted()), float(not check.passed)])
    run.collectives.sum_(answers)
    preempted, unchecked = answers.tolist()
    return preempted > 0, unchecked == 0


def preemption_at(epoch: int, step: int) -> RunPreempted:
    """The end of a preempted run, and where it resumes; `epoch` is past the last one in the final evaluation."""
    return RunPreempted(f"preempted; checkpoint at epoch {epoch}, step {step}")


def save_part(run: Run, part: PartialEpoch) -> None:
    """Save the epoch so far, unless the store may be damaged. Every rank must call it, unless all steps are trained."""
    if not part.intact:
        return
    part.saved = part.step
    ranks = [] if part.record is not None else run.collectives.gather_bytes(part.state_of_rank(run.model))
    if run.collectives.world.leads:
        run.checkpoints.save(STEP, pack_partial(part, ranks, run.model, run.optimizer, run.method, run.settings.digest))


def save_when_preempted(run: Run, part: PartialEpoch) -> Callable[[], None]:
    """Return a function to call between batches of the evaluation: rank 0 saves the trained epoch at the notice.

    It raises RunPreempted if there is no other rank, which would wait for this one.
    """
    saved = False

    def between_batches() -> None:
        nonlocal saved
        if saved or not run.collectives.world.leads or not run.preempted():
            return
        save_part(run, part)
        saved = True
        if run.collectives.world.size == 1:
            raise preemption_at(part.epoch, part.saved)

    return between_batches


def stop_when_preempted(run: Run, epoch: int) -> Callable[[], None]:
    """Return a function to call between batches of a pass before `epoch`, whose `last.pt` is all there is to save.

    It raises RunPreempted at the notice if there is no other rank, which would wait for this one.
    """

    def between_batches() -> None:
        if run.collectives.world.size == 1 and run.preempted():
            raise preemption_at(epoch, 0)

    return between_batches


def stop_if_preempted(run: Run, part: PartialEpoch, flags: SharedFlags, started: float) -> None:
    """Save the epoch so far and end the run, if any rank got the notice of a preemption. Every rank must call it.

    Args:
        flags: whether a rank got the notice, and whether it has not yet found the store intact, as of the last step.
        started: when this start of the run began to train the epoch, as of `now`.

    Raises:
        RunPreempted: on all ranks.
    """
    noticed, unchecked = flags.counts
    part.intact = unchecked == 0
    if noticed:
        part.train_s += now(run) - started
        save_part(run, part)
        run.collectives.barrier()  # a rank that ends first would let Ray Train end the others
        raise preemption_at(part.epoch, part.saved)
