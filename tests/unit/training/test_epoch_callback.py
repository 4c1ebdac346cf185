"""An epoch callback ends a run early. All ranks end in the same epoch, with a complete checkpoint"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from remix_study.config.run import RunConfig
from remix_study.errors import RunPruned, StudyStopped
from remix_study.training.checkpoint import LAST
from remix_study.training.loop import train
from remix_study.training.run import Run
from remix_study.training.state import Record
from remix_study.world import Collectives

Recipe = Callable[..., RunConfig]
Assembled = Callable[..., Run]


class EndAfter:
    """Raises `error` after `after` epochs, and records the number of epochs of every call."""

    def __init__(self, after: int, error: Exception) -> None:
        self.after, self.error = after, error
        self.calls: list[int] = []

    def __call__(self, history: Sequence[Record]) -> None:
        self.calls.append(len(history))
        if len(history) == self.after:
            raise self.error


def kept_epochs(run: Run) -> int:
    content = run.checkpoints.load(LAST)
    assert content is not None
    return len(json.loads(content["history"]))


@pytest.mark.parametrize("error", [RunPruned("no promise"), StudyStopped("asked to")])
def test_the_callback_ends_a_run(recipe: Recipe, assembled: Assembled, error: Exception) -> None:
    callback = EndAfter(2, error)
    run = replace(assembled(recipe({"epochs": 5})), callback=callback)
    with pytest.raises(type(error), match=str(error)):
        train(run)
    assert callback.calls == [1, 2]
    assert kept_epochs(run) == 2


def test_a_stopped_run_resumes_and_a_pruned_run_is_pruned_again(recipe: Recipe, assembled: Assembled) -> None:
    """A run may be killed between checkpoint and callback, so a resumed run calls it again before training."""
    config = recipe({"epochs": 3})
    with pytest.raises(StudyStopped):
        train(replace(assembled(config), callback=EndAfter(1, StudyStopped("asked to"))))
    pruning = EndAfter(1, RunPruned("no promise"))
    with pytest.raises(RunPruned):
        train(replace(assembled(config), callback=pruning))
    assert pruning.calls == [1]
    callback = EndAfter(99, RunPruned("never"))
    result = train(replace(assembled(config), callback=callback))
    assert callback.calls == [1, 2, 3]
    assert len(result.history) == 3


def test_all_ranks_end_with_rank_0(
    recipe: Recipe, assembled: Assembled, run_on_ranks: Callable[..., list[Any]]
) -> None:
    callbacks = [EndAfter(1, RunPruned("no promise")), EndAfter(99, RunPruned("never asked"))]

    def rank(collectives: Collectives) -> str:
        number = collectives.world.rank
        run = replace(
            assembled(recipe({"epochs": 3}), folder="shared", collectives=collectives), callback=callbacks[number]
        )
        try:
            train(run)
        except RunPruned:
            return "pruned"
        return "complete"

    assert run_on_ranks(2, rank) == ["pruned", "pruned"]
    assert callbacks[1].calls == []  # only rank 0 calls its callback
