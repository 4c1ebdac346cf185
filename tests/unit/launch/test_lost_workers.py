"""Workers of one run that vanish again and again"""

from collections.abc import Iterator

import pytest
from ray.exceptions import ActorDiedError
from ray.train import WorkerGroupError

from remix_study.errors import RemixStudyError
from remix_study.launch.run import _fit_workers

LOST = WorkerGroupError("rank 1", {1: ActorDiedError()})
OURS = WorkerGroupError("rank 0", {0: ValueError("loss is not a number")})


class Trainers:
    """Each `fit` ends as the next of `ends` says; epochs are those that the run has come to by then."""

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


def test_a_run_goes_on_as_often_as_machines_are_taken_away_as_long_as_it_comes_further() -> None:
    trainers = Trainers((3, LOST), (5, LOST), (6, LOST), (10, None))
    _fit_workers(trainers, trainers.epochs)
    assert trainers.fits == 4


@pytest.mark.parametrize("ends", [((3, LOST), (3, LOST)), ((0, LOST),), ((3, OURS),)])
def test_a_run_that_kills_its_workers_or_fails_by_itself_ends(ends: tuple[tuple[int, Exception], ...]) -> None:
    trainers = Trainers(*ends)
    with pytest.raises(RemixStudyError, match="last checkpoint is kept"):
        _fit_workers(trainers, trainers.epochs)
    assert trainers.fits == len(ends)
