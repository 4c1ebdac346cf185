"""Runs with abstaining targets: ranks, micro-batches, neutral settings, and what detectors may read"""

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from remix_study.balancing.abstain import Abstain
from remix_study.balancing.uninformative import Detector
from remix_study.config.run import RunConfig
from remix_study.epoch import SplitStatistics, Statistic
from remix_study.training.loop import train
from remix_study.training.run import Run
from remix_study.world import Collectives

Recipe = Callable[..., RunConfig]
Assembled = Callable[..., Run]
OnRanks = Callable[[int, Callable[[Collectives], Any]], list[Any]]
METHODS: list[dict[str, Any]] = [
    {"name": "joint_unimodal"},
    {"name": "remix", "warmup": 1, "filter": {"rule": "random"}, "joint_share": 0.3},
    {"name": "joint_unimodal", "with": {"gblend": {"every": 1}}},
]
SHORT: dict[str, Any] = {
    "optimizer": {"name": "sgd", "learning_rate": 0.05, "momentum": 0.9},
    "epochs": 2,
    "global_batch": 28,
    "smallest_batch": 3,
    "workers": 2,
    "control_fraction": 0.1,
}


class Lowest:
    """A detector: the eighth of the samples with the highest cross-entropy."""

    needs: frozenset[Statistic] = frozenset()
    reads_control = True

    def judge(self, train: SplitStatistics, control: SplitStatistics | None) -> np.ndarray:
        assert control is not None
        return np.asarray(train.cross_entropy_NM >= np.quantile(train.cross_entropy_NM, 0.875, axis=0))

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None: ...


def weights(run: Run) -> dict[str, torch.Tensor]:
    train(run)
    return {name: p.detach().clone() for name, p in run.model.named_parameters()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS, ids=lambda method: "-".join(map(str, method.values()))[:30])
def test_two_ranks_equal_one_and_micro_batches_equal_whole_batches(
    recipe: Recipe, without_batchnorm: Assembled, run_on_ranks: OnRanks, method: dict[str, Any]
) -> None:
    settings = {**SHORT, "method": method, "targets": {"of": "truth", "weight": 0.7}}
    config = recipe(settings)
    alone = weights(without_batchnorm(config, "alone"))
    labels = {key: value for key, value in settings.items() if key != "targets"}
    assert not equal(alone, weights(without_batchnorm(recipe(labels), "labels")))
    both = run_on_ranks(2, lambda ranks: weights(without_batchnorm(config, "ranks", collectives=ranks)))
    assert equal(both[0], both[1])
    micro = weights(without_batchnorm(recipe({**settings, "micro_batch": 5}), "micro"))
    for found in (both[0], micro):
        for key, expected in alone.items():
            torch.testing.assert_close(found[key], expected, rtol=0, atol=2e-5)


@pytest.mark.slow
def test_ranks_agree_on_a_judgement_and_record_it(recipe: Recipe, assembled: Assembled, run_on_ranks: OnRanks) -> None:
    config = recipe({**SHORT, "method": {"name": "joint_unimodal"}, "targets": {"of": "held_out", "begin": 0}})

    def judged(folder: str, **options: Any) -> tuple[dict[str, torch.Tensor], np.ndarray]:
        run = assembled(config, folder, **options)
        (targets,) = (rule for rule in run.method.rules if isinstance(rule, Abstain))
        targets._detector = Lowest()
        found = weights(run)
        return found, targets._judged_NM

    both = run_on_ranks(2, lambda ranks: judged("ranks", collectives=ranks))
    assert equal(both[0][0], both[1][0])
    assert both[0][1].tolist() == both[1][1].tolist()
    assert 0 < both[0][1].mean() < 0.2


@pytest.mark.slow
def test_where_no_sample_is_judged_the_run_is_the_one_with_labels(recipe: Recipe, assembled: Assembled) -> None:
    """A detector finds nothing in the first epoch, when no modality knows anything."""
    settings = {**SHORT, "method": METHODS[1]}
    plain = weights(assembled(recipe(settings), "plain"))
    run = assembled(recipe({**settings, "targets": {"of": "history", "begin": 0}}), "history")
    assert equal(weights(run), plain)
    first, *_ = (json.loads(line) for line in run.history_file.read_text().splitlines())
    shares = {key: value for key, value in first.items() if key.startswith("targets/uninformative")}
    assert shares == {"targets/uninformative/audio": 0, "targets/uninformative/video": 0}


@pytest.mark.slow
def test_a_unimodal_run_abstains(recipe: Recipe, assembled: Assembled) -> None:
    settings = {**SHORT, "method": {"name": "unimodal", "modality": "audio"}}
    plain, abstaining = (
        weights(assembled(recipe({**settings, **more}), folder))
        for folder, more in (("plain", {}), ("truth", {"targets": {"of": "truth"}}))
    )
    assert not equal(plain, abstaining)


class Spy:
    """Passes what a detector is given on to it, and remembers which splits it read."""

    def __init__(self, detector: Detector) -> None:
        self.detector, self.read = detector, list[bool]()
        self.needs, self.reads_control = detector.needs, detector.reads_control

    def judge(self, train: SplitStatistics, control: SplitStatistics | None) -> np.ndarray:
        self.read.append(control is not None)
        return self.detector.judge(train, control)

    def state(self) -> dict[str, Any]:
        return self.detector.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        self.detector.restore(state)


@pytest.mark.slow
@pytest.mark.parametrize("of", ["history", "held_out"])
def test_a_detector_reads_control_clips_only_if_it_says_so(recipe: Recipe, assembled: Assembled, of: str) -> None:
    run = assembled(recipe({**SHORT, "method": {"name": "joint_unimodal"}, "targets": {"of": of, "begin": 0}}))
    (targets,) = (rule for rule in run.method.rules if isinstance(rule, Abstain))
    assert targets._detector is not None
    spy = targets._detector = Spy(targets._detector)
    train(run)
    assert spy.read == [of == "held_out"] * 2
