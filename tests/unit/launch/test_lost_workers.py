"""Runs whose workers are lost repeatedly"""

from collections.abc import Iterator

import pytest
from ray.exceptions import ActorDiedError
from ray.train import WorkerGroupError

from remix_study.errors import RemixStudyError, RunPreempted
from remix_study.launch.run import fit_with_restarts

LOST = WorkerGroupError("rank 1", {1: ActorDiedError()})
OURS = WorkerGroupError("rank 0", {0: ValueError("loss is not a number")})


class Trainers:
    """Fake trainers. Each `fit` completes the epochs, and raises the error (if any), of the next item of `ends`."""

    def __init__(self, *ends: tuple[int, Exception | None]) -> None:
        self._ends: Iterator[tuple[int, Exception | None]] = iter(ends)
        self.reached = 0
        self.fits = 0

    def __call__(self) -> "Trainers":
        return self

    def fit(self) -> None:
        self.fits += 1
        self.reached, error = next(self._ends)
        if error is not None:
            raise error

    def epochs(self) -> int:
        return self.reached


def test_lost_workers_are_restarted_while_the_run_makes_progress() -> None:
    trainers = Trainers((3, LOST), (5, LOST), (6, LOST), (10, None))
    fit_with_restarts(trainers, trainers.epochs)
    assert trainers.fits == 4


def test_preempted_workers_are_restarted_without_progress() -> None:
    trainers = Trainers(*[(0, None)] * 9)
    left = iter([RunPreempted("preempted; checkpoint at epoch 0, step 1")] * 8)
    fit_with_restarts(trainers, trainers.epochs, lambda: next(left, None))
    assert trainers.fits == 9


@pytest.mark.parametrize("ends", [((3, LOST), (3, LOST)), ((0, LOST),), ((3, OURS),)])
def test_losses_without_progress_and_exceptions_end_the_run(ends: tuple[tuple[int, Exception], ...]) -> None:
    trainers = Trainers(*ends)
    with pytest.raises(RemixStudyError, match="Rerun the command to resume from the last checkpoint"):
        fit_with_restarts(trainers, trainers.epochs)
    assert trainers.fits == len(ends)
