"""Copies of a model that are trained before an epoch: what they learn, what they leave alone, what they cost"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import repeat
from typing import Any

import pytest
import torch
from torch import nn

from remix_study.balancing import EpochStart, FusedLoss, Method
from remix_study.config.run import RunConfig
from remix_study.epoch import SplitStatistics, Statistic
from remix_study.errors import RunPreempted
from remix_study.training.copies import undone
from remix_study.training.loop import train
from remix_study.training.multiply_adds import BACKWARD, forward_multiply_adds
from remix_study.training.run import Run
from remix_study.training.scoring import split_pass

Recipe = Callable[..., RunConfig]
Assembled = Callable[..., Run]
JOINT: dict[str, Any] = {"method": {"name": "joint"}, "control_fraction": 0.2, "epochs": 2}


class CopyOnly:
    """Trains a copy before the first epoch, and does nothing else."""

    name = "copy_only"
    needs: frozenset[Statistic] = frozenset(("fused",))
    changes_model = False

    def __init__(self, method: Method, epochs: int) -> None:
        self._method, self._epochs = method, epochs
        self.found: tuple[SplitStatistics, SplitStatistics] | None = None

    def due(self, epoch: int) -> bool:
        return epoch == 0

    def begin(self, start: EpochStart) -> None:
        self.found = start.train_copy(self._method, self._epochs)

    def metrics(self) -> dict[str, float]:
        return {}

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Any) -> None: ...


def with_copy(run: Run, epochs: int) -> tuple[Run, CopyOnly]:
    rule = CopyOnly(Method("joint", run.method.plan, (FusedLoss(),), trains_heads=False), epochs)
    return replace(run, method=replace(run.method, rules=(*run.method.rules, rule))), rule


def weights(run: Run) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in run.model.state_dict().items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("make", [
    lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9), lambda ps: torch.optim.Adam(ps, lr=0.1)
], ids=["sgd", "adam"])  # fmt: skip
def test_what_a_block_does_is_undone_bit_by_bit(
    make: Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer],
) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer = make(model.parameters())

    def step() -> None:
        optimizer.zero_grad()
        torch.autograd.backward((model(torch.randn(5, 3)) * torch.randn(5, 4)).sum())
        optimizer.step()

    step()
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    with undone(model, optimizer):
        assert not optimizer.state
        step()
        optimizer.param_groups[0]["lr"] = 7.0
        assert not torch.equal(model.state_dict()["0.weight"], before[0]["0.weight"])
    assert equal(model.state_dict(), before[0])
    found = optimizer.state_dict()
    assert found["param_groups"] == before[1]["param_groups"]
    for number, state in before[1]["state"].items():
        assert all(
            torch.equal(torch.as_tensor(v), torch.as_tensor(found["state"][number][k])) for k, v in state.items()
        )


def test_a_copy_is_a_run_of_its_method_and_leaves_the_model_as_it_is(recipe: Recipe, assembled: Assembled) -> None:
    plain = assembled(recipe(JOINT), "plain")
    plain_history = train(plain).history
    run, rule = with_copy(assembled(recipe(JOINT), "copy"), 2)
    history = train(run).history
    assert equal(weights(run), weights(plain))
    assert rule.found is not None
    last = plain.checkpoints.load("last.pt")
    assert last is not None
    plain.model.load_state_dict(last["model"])
    for split, found in zip(("train", "control"), rule.found, strict=True):
        _, expected = split_pass(plain.model, plain.reader, plain.rows[split], plain.collectives, None, rule.needs,
                                 batch=256, autocast=False)  # fmt: skip
        assert found.fused_cross_entropy_N is not None
        assert expected.fused_cross_entropy_N is not None
        assert found.fused_cross_entropy_N.tolist() == expected.fused_cross_entropy_N.tolist()
    cost = sum(forward_multiply_adds(run.model, run.reader.sample_shapes()).values())
    samples = {split: len(run.rows[split]) for split in ("train", "control")}
    further = cost * ((1 + BACKWARD) * 2 * samples["train"] + sum(samples.values()))
    assert history[0]["train/multiply_adds"] - plain_history[0]["train/multiply_adds"] == further
    assert history[1]["train/multiply_adds"] == plain_history[1]["train/multiply_adds"]


@pytest.mark.slow
def test_a_copy_ends_with_the_run(recipe: Recipe, assembled: Assembled) -> None:
    found = []
    for epochs in (2, 9):
        run, rule = with_copy(assembled(recipe(JOINT), str(epochs)), epochs)
        train(run)
        assert rule.found is not None
        found.append(rule.found[0].cross_entropy_NM.tolist())
    assert found[0] == found[1]


@pytest.mark.slow
def test_a_run_that_is_preempted_while_a_copy_is_trained_resumes_exactly(recipe: Recipe, assembled: Assembled) -> None:
    method = {"name": "gblend", "every": 1}
    whole = assembled(recipe({**JOINT, "method": method}), "whole")
    train(whole)
    stopped = assembled(recipe({**JOINT, "method": method}), "stopped")
    notices = iter([*repeat(False, 12), True])
    with pytest.raises(RunPreempted, match=r"checkpoint at epoch \d, step 0"):
        train(replace(stopped, preempted=lambda: next(notices)))
    resumed = assembled(recipe({**JOINT, "method": method}), "stopped")
    train(resumed)
    assert equal(weights(resumed), weights(whole))
