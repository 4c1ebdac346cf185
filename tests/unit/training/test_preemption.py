"""A run that is preempted within an epoch and resumed equals the uninterrupted run bit for bit"""

import itertools
import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from typing import Any, cast

import pytest
import torch

from remix_study.config.run import RunConfig
from remix_study.errors import RunPreempted
from remix_study.media.integrity import IntegrityCheck
from remix_study.training import loop, steps
from remix_study.training.checkpoint import LAST, STEP
from remix_study.training.loop import train
from remix_study.training.partial_epoch import fits
from remix_study.training.run import Run, RunResult
from remix_study.training.step import train_step
from remix_study.world import Collectives, Solo, World
from tests.ranks import run_on_ranks
from tests.unit.training.recipes import EVERY_STATE

Recipe = Callable[..., RunConfig]
Assembled = Callable[..., Run]
REMIX = {**EVERY_STATE, "epochs": 4, "evaluation.clash_every": 2}
METHODS: dict[str, dict[str, Any]] = {
    "remix": REMIX,
    "accumulated": {**REMIX, "method.order": "mixed", "method.accumulate": True, "micro_batch": 9},
    "scheduled": {"epochs": 4, "learning_rate_factor": {"audio": {"from": 1, "to": 0.1}, "video": 1}, "method": {
        "name": "remix", "warmup": 1, "filter": {"rule": "tempered", "temperature": {"from": 3, "to": 0}},
        "weight": {"from": 1, "to": 0}, "phases": [{"until": 0.5, "share": {"audio": 0.3, "video": "rest"}}, {}]}},
    "joint": {"method": {"name": "joint"}, "epochs": 3, "precision": "bfloat16",
              "model.fusion": {"name": "attention", "dropout": 0.3}},
    "unimodal": {"method": {"name": "unimodal", "modality": "audio"}, "epochs": 3, "optimizer": {
        "name": "sgd", "learning_rate": 0.05, "momentum": 0.9}},
    "agm": {"method": {"name": "joint_unimodal", "with": ["agm", "inforeg"]}, "epochs": 3, "micro_batch": 9},
    "umt": {"method": {"name": "remix", "warmup": 1, "with": ["umt"]}, "epochs": 3, "micro_batch": 9},
    "zero_feature": {**REMIX, "masking": "zero_feature", "epochs": 3,
                     "model.fusion": {"name": "mmtm", "greedy": {"steps": 2}}},
    "rotation": {**REMIX, "method.filter": {"rule": "rotation"}, "epochs": 3},
    "mean_feature": {**REMIX, "masking": "mean_feature", "epochs": 3},
    "calibrated": {**REMIX, "method.share": {"kind": "calibrated_progress"}, "control_fraction": 0.2, "epochs": 3},
    "block_gain": {**REMIX, "method.share": {"kind": "block_gain"}, "method.order": "blocks", "control_fraction": 0.2},
    "abstain": {**REMIX, "targets": {"of": "held_out", "begin": 0, "every": 2}, "epochs": 3},
}  # fmt: skip


class Notice:
    """A notice that comes at call number `at`, and is True from then on; None: never."""

    def __init__(self, at: int | None) -> None:
        self.at, self.calls = at, 0

    def __call__(self) -> bool:
        self.calls += 1
        return self.at is not None and self.calls >= self.at


def without_times(record: dict[str, float]) -> dict[str, float]:
    return {key: value for key, value in record.items() if "time/" not in key}


def bits(value: Any) -> Any:
    """Return nested content with tensors as bytes, and without times."""
    if isinstance(value, torch.Tensor):
        return value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes(), value.shape, value.dtype
    if isinstance(value, dict):
        return {key: bits([without_times(r) for r in json.loads(each)] if key == "history" else each)
                for key, each in value.items()}  # fmt: skip
    return [bits(each) for each in value] if isinstance(value, list | tuple) else value


class Workplace:
    """Trains one configuration on some ranks; each call is a new process that resumes in the same folder."""

    def __init__(self, assembled: Assembled, config: RunConfig, folder: str, ranks: int) -> None:
        self._assembled, self._config, self._folder, self._ranks = assembled, config, folder, ranks
        self.runs: list[Run] = []
        self.polls = 0

    def train(self, at: int | None = None, rank: int = 0) -> list[RunResult] | str:
        """Train until rank `rank` gets a notice at its call number `at`: the results, or how the run was preempted."""
        notices = [Notice(at if number == rank else None) for number in range(self._ranks)]
        self.runs = []

        def work(collectives: Collectives) -> RunResult | str:
            number = collectives.world.rank
            run = replace(self._assembled(self._config, self._folder, None, collectives), preempted=notices[number])
            self.runs.append(run)
            try:
                return train(run)
            except RunPreempted as early:
                return str(early)

        found = [work(Solo())] if self._ranks == 1 else run_on_ranks(self._ranks, work)
        self.polls = notices[rank].calls
        words = {each for each in found if isinstance(each, str)}
        if not words:
            return [each for each in found if not isinstance(each, str)]
        assert len(words) == 1  # all ranks stop after the same step
        assert all(isinstance(each, str) for each in found)
        return words.pop()

    def content(self) -> Any:
        """All that is on disk, without times, and the state of each rank."""
        run = self.runs[0]
        lines = [json.loads(line) for line in run.history_file.read_text().splitlines()]
        return bits(run.checkpoints.load(LAST)), [without_times(line) for line in lines]


def summaries(results: list[RunResult] | str) -> list[Any]:
    assert not isinstance(results, str)
    return [[without_times(r.summary), *(without_times(record) for record in r.history)] for r in results]


@pytest.fixture
def workplace(recipe: Recipe, assembled: Assembled) -> Callable[..., Workplace]:
    def make(method: str, folder: str, ranks: int = 1, **changes: Any) -> Workplace:
        return Workplace(assembled, recipe(deepcopy(METHODS[method]) | changes), folder, ranks)

    return make


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.slow
def test_a_run_that_is_preempted_again_and_again_equals_an_uninterrupted_one(
    workplace: Callable[..., Workplace], method: str, ranks: int
) -> None:
    whole, cut = workplace(method, "whole", ranks), workplace(method, "cut", ranks)
    expected = whole.train()
    stops = []
    moments: Iterator[int] = itertools.cycle((2, 3, 4, 3))
    for rank in itertools.cycle(range(ranks)):  # any rank may get the notice
        got = cut.train(next(moments), rank)
        if not isinstance(got, str):
            break
        stops.append(got)
    assert len({words for words in stops if not words.endswith("step 0")}) >= 4
    assert summaries(got) == summaries(expected)
    assert cut.content() == whole.content()
    assert cut.runs[0].checkpoints.load(STEP) is None


@pytest.mark.slow
def test_a_notice_at_any_moment_leaves_a_checkpoint_of_that_step(workplace: Callable[..., Workplace]) -> None:
    whole = workplace("accumulated", "whole", epochs=2)
    expected = whole.train()
    assert not isinstance(expected, str)
    moments, steps = whole.polls, set()
    for at in range(1, moments + 1):
        cut = workplace("accumulated", f"cut-{at}", epochs=2)
        stopped = cut.train(at)
        assert isinstance(stopped, str)
        steps.add(stopped)
        assert summaries(cut.train()) == summaries(expected)
        assert cut.content() == whole.content()
    trained = sum(int(record["train/steps"]) for record in expected[0].history)
    assert len(steps) == trained + 2 + 1  # after each step, before each epoch, in the final evaluation


@pytest.mark.parametrize("ranks", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_run_resumes_after_the_step_at_which_it_was_preempted(
    workplace: Callable[..., Workplace], ranks: int
) -> None:
    whole, cut = workplace("joint", "whole", ranks), workplace("joint", "cut", ranks)
    expected = whole.train()
    assert cut.train(3, rank=ranks - 1) == "preempted; checkpoint at epoch 0, step 2"
    assert summaries(cut.train()) == summaries(expected)
    assert cut.content() == whole.content()


def test_ranks_agree_on_a_notice_without_an_all_reduce_of_its_own(
    recipe: Recipe, assembled: Assembled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step sums the flags of all ranks, then the gradients."""
    calls: list[str] = []

    class Counted:
        """Collective operations of one of two ranks, of which the other agrees with it."""

        world = World(0, 2)

        def sum_(self, tensor: torch.Tensor) -> None:
            tensor.mul_(2)
            calls.append("sum")

        def barrier(self) -> None: ...

    def recorded(*args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append("step")
        return train_step(*args, **kwargs)

    monkeypatch.setattr(steps, "train_step", recorded)
    run = assembled(recipe(deepcopy(METHODS["joint"])), collectives=cast(Collectives, Counted()))
    part = loop._begin_epoch(run, 0, None)
    loop._train_epoch(run, part, IntegrityCheck(), None)
    between = " ".join(calls).split("step")
    assert [each.split() for each in between[:-1]] == [[], *[["sum"] * 2] * (part.planned.schedule.steps - 1)]


def test_without_a_complete_step_the_last_epoch_is_the_checkpoint(workplace: Callable[..., Workplace]) -> None:
    cut = workplace("joint", "cut")
    assert cut.train(1) == "preempted; checkpoint at epoch 0, step 0"
    assert cut.runs[0].checkpoints.load(STEP) is None


def test_a_notice_before_the_resumed_run_continues_keeps_its_checkpoint(workplace: Callable[..., Workplace]) -> None:
    cut = workplace("joint", "cut")
    words = [cut.train(3), cut.train(1), cut.train(1)]
    assert words == ["preempted; checkpoint at epoch 0, step 2"] * 3
    assert cut.runs[0].checkpoints.load(STEP) is not None


def test_a_trained_epoch_is_kept_when_its_evaluation_is_interrupted(workplace: Callable[..., Workplace]) -> None:
    whole, cut = workplace("joint", "whole"), workplace("joint", "cut")
    expected = whole.train()
    assert cut.train(5) == "preempted; checkpoint at epoch 0, step 3"  # the fifth moment is a batch of validation
    assert summaries(cut.train()) == summaries(expected)
    assert cut.content() == whole.content()


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["corrupt", "another epoch", "another digest", "other ranks"])
def test_a_checkpoint_that_does_not_fit_is_not_resumed_from(
    workplace: Callable[..., Workplace], damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole, cut = workplace("joint", "whole"), workplace("joint", "cut")
    expected = whole.train()
    cut.train(3)
    checkpoints = cut.runs[0].checkpoints
    content = checkpoints.load(STEP)
    assert content is not None
    match damage:
        case "corrupt":
            (cut.runs[0].history_file.parent / "checkpoints" / STEP).write_bytes(b"PK\3\4 not a checkpoint")
        case "another epoch":
            checkpoints.save(STEP, {**content, "epoch": 1})
        case "another digest":
            checkpoints.save(STEP, {**content, "digest": "0"})
        case _:
            checkpoints.save(STEP, {**content, "ranks": content["ranks"] * 2})
    assert summaries(cut.train()) == summaries(expected)
    assert cut.content() == whole.content()
    assert any("corrupt" in r.message or "saved by 2 workers" in r.message for r in caplog.records) == (
        damage in ("corrupt", "other ranks")
    )


@pytest.mark.parametrize("at", [3, 5])
def test_steps_are_not_saved_while_the_store_may_be_damaged(
    workplace: Callable[..., Workplace], monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    monkeypatch.setattr(IntegrityCheck, "passed", False)
    cut = workplace("joint", "cut")
    assert cut.train(at) == "preempted; checkpoint at epoch 0, step 0"
    assert cut.runs[0].checkpoints.load(STEP) is None


def test_any_number_of_ranks_resumes_from_a_trained_epoch() -> None:
    assert fits({"record": "{}", "ranks": []}, 3)
    assert not fits({"record": None, "ranks": [b""]}, 3)
