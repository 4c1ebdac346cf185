import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from remix_study.augment import Draws
from remix_study.balancing import Step
from remix_study.config.run import RunConfig
from remix_study.errors import TrainingError
from remix_study.models import MultimodalModel
from remix_study.remix import RemixPlan
from remix_study.sample import Batch
from remix_study.tracking.tracker import RecordingTracker
from remix_study.training import loop, steps
from remix_study.training.checkpoint import BEST, LAST
from remix_study.training.evaluate import evaluate
from remix_study.training.loop import train
from remix_study.training.run import Run
from remix_study.training.state import Progress
from remix_study.training.step import train_step
from remix_study.world import Solo
from tests.unit.training.recipes import EVERY_STATE

Recipe = Callable[..., RunConfig]
Assembled = Callable[..., Run]
HARD = {**EVERY_STATE, "epochs": 6}


class Interrupted(Exception):  # noqa: N818 - not an error
    """Raised instead of killing the process."""


class StoppingTracker(RecordingTracker):
    """Raises Interrupted when the metrics of epoch `at` are logged."""

    at: int = -1

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        if step == self.at:
            raise Interrupted
        super().log_metrics(metrics, step)


def without_times(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{key: value for key, value in record.items() if not key.startswith("time/")} for record in history]


def weights(run: Run, name: str) -> dict[str, torch.Tensor]:
    content = run.checkpoints.load(name)
    assert content is not None
    found: dict[str, torch.Tensor] = content["model"]
    return found


def assert_same_bits(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    assert one.keys() == other.keys()
    for key, value in one.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, other[key]), key
        elif isinstance(value, Mapping):
            assert_same_bits(value, other[key])
        elif key != "history":
            assert value == other[key], key


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    """Return a list to which (where, loss) of every training step is appended."""
    seen: list[tuple[str, float]] = []

    def recorded(*args: Any, at: Step, **kwargs: Any) -> torch.Tensor:
        loss = train_step(*args, at=at, **kwargs)
        seen.append((str(at), float(loss)))
        return loss

    monkeypatch.setattr(steps, "train_step", recorded)
    return seen


@pytest.mark.parametrize(
    ("moment", "change"),
    [
        *[
            (moment, {})
            for moment in ("before tracking", "mid-epoch", "while saving the best", "while saving the last")
        ],
        pytest.param(
            "mid-epoch",
            {"method.order": "mixed", "method.accumulate": True, "micro_batch": 9},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["before tracking", "mid-epoch", "while saving the best", "while saving the last", "accumulated"],
)
@pytest.mark.parametrize("epoch", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_a_killed_and_resumed_run_equals_the_uninterrupted_run_bit_for_bit(
    recipe: Recipe, assembled: Assembled, losses: list[tuple[str, float]], monkeypatch: pytest.MonkeyPatch,
    moment: str, change: dict[str, Any], epoch: int,
) -> None:  # fmt: skip
    config = recipe({**HARD, **change})
    whole = assembled(config, "whole", tracker=RecordingTracker())
    expected = train(whole)
    expected_losses = dict(losses)
    losses.clear()

    tracker = StoppingTracker()
    first = assembled(config, "resumed", tracker=tracker)
    with monkeypatch.context() as patch:
        if moment == "before tracking":
            tracker.at = epoch
        elif moment == "mid-epoch":
            recorded: Callable[..., torch.Tensor] = vars(steps)["train_step"]

            def interrupt_step(*args: Any, at: Step, **kwargs: Any) -> torch.Tensor:
                if (at.epoch, at.number) == (epoch, 1):
                    raise Interrupted
                return recorded(*args, at=at, **kwargs)

            patch.setattr(steps, "train_step", interrupt_step)
        else:
            save, best = first.checkpoints.save, moment.endswith("best")

            def interrupt_save(name: str, content: dict[str, Any]) -> None:
                if (name != LAST) == best and len(first_history(content)) >= epoch:
                    raise Interrupted
                save(name, content)

            def first_history(content: dict[str, Any]) -> list[Any]:
                found: list[Any] = content.get("history", [None] * (epoch + 1))
                return found

            patch.setattr(first.checkpoints, "save", interrupt_save)
        with pytest.raises(Interrupted):
            train(first)
    tracker.at = -1
    second = assembled(config, "resumed", tracker=tracker)
    result = train(second)

    resumed_losses: dict[str, float] = {}
    for where, loss in losses:
        assert resumed_losses.setdefault(where, loss) == loss  # a repeated step has the same loss
    assert resumed_losses == expected_losses
    assert without_times(result.history) == without_times(expected.history)
    for name in (LAST, BEST):
        assert_same_bits(weights(whole, name), weights(second, name))
    contents = [run.checkpoints.load(LAST) for run in (whole, second)]
    assert contents[0] is not None
    assert contents[1] is not None
    assert_same_bits(contents[0], contents[1])  # optimizer and plan too
    assert {k: v for k, v in result.summary.items() if "time/" not in k} == {
        k: v for k, v in expected.summary.items() if "time/" not in k
    }
    lines = [json.loads(line) for line in second.history_file.read_text().splitlines()]
    assert [line.pop("epoch") for line in lines] == list(range(6))
    assert lines == result.history
    assert sorted(tracker.metrics) == list(range(6))
    assert without_times([tracker.metrics[e] for e in range(6)]) == without_times(expected.history)


def test_a_complete_run_is_not_trained_again(
    recipe: Recipe, assembled: Assembled, losses: list[tuple[str, float]]
) -> None:
    first = train(assembled(recipe()))
    losses.clear()
    again = train(assembled(recipe()))
    assert losses == []
    assert again.history == first.history
    # Only the final evaluation is repeated, so its duration differs.
    measured = {"time/evidence_s": 0.0, "time/inference_s": 0.0}
    assert {**again.summary, **measured} == {**first.summary, **measured}


def test_a_checkpoint_of_another_run_raises(recipe: Recipe, assembled: Assembled) -> None:
    train(assembled(recipe()))
    with pytest.raises(TrainingError, match=r"must be of this configuration .* Use another --name"):
        train(assembled(recipe({"seed": 1})))


def test_runs_are_reproducible_and_depend_on_the_seed(recipe: Recipe, assembled: Assembled) -> None:
    runs = [assembled(recipe(change), folder) for folder, change in (("a", {}), ("b", {}), ("c", {"seed": 1}))]
    histories = [without_times(train(run).history) for run in runs]
    assert histories[0] == histories[1]
    assert_same_bits(weights(runs[0], LAST), weights(runs[1], LAST))
    assert histories[0] != histories[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"method": {"name": "joint"}},
        {"method": {"name": "joint_unimodal", "weight": 0.5}},
        {"method": {"name": "unimodal", "modality": "audio"}},
        {"method": {"name": "unimodal", "modality": "video"}},
        *[{"method.order": order} for order in ("blocks", "alternate", "shuffled", "proportional", "mixed")],
        *[{"model.fusion": fusion} for fusion in ("sum", "decision", "film_published", "gated", "attention")],
        *[
            pytest.param({"model.fusion": fusion, **others}, marks=pytest.mark.slow)
            for fusion in ("mmtm", "centralnet")
            for others in (
                {"masking": "zero_feature", "evaluation.clash_every": 2, "micro_batch": 9},
                {"method.order": "mixed", "method.accumulate": True, "precision": "bfloat16"},
                {"method.predictions": "dropout", "evaluation.clash_every": 2},
            )
        ],
        {"masking": "zero_feature"},
        {"masking": "zero_feature", "method.order": "mixed"},
        {"method.order": "mixed", "incomplete": "drop"},
        *[{"method.order": "mixed", "method.accumulate": True, "incomplete": i} for i in ("keep", "drop", "fill")],
        {"method.order": "mixed", "method.accumulate": True, "precision": "bfloat16", "evaluation.clash_every": 2},
        {"micro_batch": 5, "evaluation.clash_every": 2},
        {"incomplete": "fill", "global_batch": 40},
        {"precision": "bfloat16"},
        {"channels_last": False},
        {"method.filter": {"rule": "band", "lower": 0.0, "upper": 1.0}},
        {"method.score": "true_class", "method.filter": {"rule": "margin", "threshold": 0.05, "close": "each"}},
        {"evaluation.clash_every": 2},
        {"augment": {"crop": True, "flip": True, "time_mask": 8, "frequency_mask": 8, "shift": 0.2}},
    ],
    ids=lambda change: " ".join(f"{k}={v.get('name', '') if isinstance(v, dict) else v}" for k, v in change.items()),
)
def test_every_setting_trains(recipe: Recipe, assembled: Assembled, change: dict[str, Any]) -> None:
    config = recipe({"epochs": 2, **change})
    run = assembled(config)
    before = {key: value.clone() for key, value in run.model.state_dict().items()}
    result = train(run)
    after = weights(run, LAST)
    for m in run.model.modalities:
        assert not torch.equal(before[f"encoders.{m}.stem.weight"], after[f"encoders.{m}.stem.weight"])
    assert all(value.isfinite().all() for value in after.values())
    assert len(result.history) == 2
    assert all(np.isfinite(list(record.values())).all() for record in result.history)
    assert result.history[0]["train/samples"] >= 64
    heads = run.method.trains_heads
    assert ("val/accuracy_uni/audio" in result.history[0]) == (heads and "audio" in run.model.modalities)
    if config.evaluation.clash_every:
        assert any(key.startswith("clash/c1/" if heads else "clash/c2/") for key in result.history[0])


def test_training_reduces_the_loss(recipe: Recipe, assembled: Assembled) -> None:
    result = train(assembled(recipe({"method": {"name": "joint"}, "epochs": 6, "optimizer.learning_rate": 0.003})))
    losses = [record["train/loss"] for record in result.history]
    assert losses[-1] < 0.8 * losses[0]
    assert result.summary["best/val_accuracy"] == max(record["val/accuracy"] for record in result.history)


@pytest.mark.parametrize("select_by", ["accuracy", "cross_entropy"])
def test_the_best_epoch_and_its_weights_are_those_of_select_by(
    recipe: Recipe, assembled: Assembled, select_by: str
) -> None:
    run = assembled(recipe({**HARD, "evaluation.select_by": select_by, "evaluation.test": True}))
    result = train(run)
    values = [record[f"val/{select_by}"] for record in result.history]
    best = values.index(min(values) if select_by == "cross_entropy" else max(values))
    assert result.summary["best/epoch"] == best
    assert result.summary[f"best/val_{select_by}"] == values[best]
    again = evaluate(run.model, run.reader, run.rows["val"], Solo(), batch=256, autocast=False)  # with the best weights
    assert again.metrics("val", heads=True)[f"val/{select_by}"] == pytest.approx(values[best], rel=1e-5)


@pytest.fixture
def validated(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Sequence[float]], None]:
    """Return a function that replaces a validation metric of each epoch by the given values."""

    def replace(metric: str, values: Sequence[float]) -> None:
        add, left = Progress.add, iter(values)
        monkeypatch.setattr(Progress, "add", lambda self, record: add(self, record | {metric: next(left)}))

    return replace


@pytest.mark.parametrize("select", ["best", "last"])
def test_the_selected_epoch_is_evaluated_on_the_test_split(
    recipe: Recipe, assembled: Assembled, validated: Callable[[str, Sequence[float]], None], select: str
) -> None:
    run = assembled(recipe({**HARD, "evaluation.select": select, "evaluation.test": True}))
    validated("val/accuracy", [0.1, 0.2, 0.9, 0.3, 0.5, 0.4])
    result = train(run)
    weights = run.checkpoints.load("last.pt" if select == "last" else "best.pt")
    assert weights is not None
    assert all(torch.equal(weights["model"][name], value) for name, value in run.model.state_dict().items())
    assert result.summary["test/accuracy"] == result.summary[f"test/accuracy_{select}"]
    assert result.summary["best/epoch"] == 2


def test_heads_have_an_accuracy_in_their_own_best_epoch(
    recipe: Recipe, assembled: Assembled, validated: Callable[[str, Sequence[float]], None]
) -> None:
    validated("val/accuracy", [0.1, 0.2, 0.9, 0.3, 0.5, 0.4])
    validated("val/accuracy_uni/audio", [0.8, 0.2, 0.3, 0.3, 0.5, 0.4])
    summary = train(assembled(recipe(HARD))).summary
    assert (summary["best/val_accuracy_uni/audio"], summary["best/own_epoch_accuracy_uni/audio"]) == (0.3, 0.8)


def test_only_trained_modalities_are_read(recipe: Recipe, assembled: Assembled) -> None:
    """After warm-up, and without scoring passes and evaluation, only one modality of each sample is read."""
    read: dict[bool, dict[str, int]] = {}
    for zero_feature in (False, True):
        change = {"masking": "zero_feature"} if zero_feature else {}
        run = assembled(
            recipe({"method.filter": {"rule": "random"}, "method.warmup": 0, "epochs": 1, **change}), str(zero_feature)
        )
        train(run)
        # Subtract validation, once per epoch and once in the final evaluation. `random` needs no scoring pass.
        read[zero_feature] = {m: rows - 2 * 48 for m, rows in run.reader.rows_read.items()}
    plan = run.method.plan
    assert isinstance(plan, RemixPlan)
    assert plan.assignment is not None
    audio, video = (int(count) for count in plan.assignment.assigned_NM.sum(axis=0))
    assert audio + video == 96
    assert 0 < audio < 96
    assert read == {False: {"audio": audio, "video": video}, True: {"audio": 96, "video": 96}}


Inputs = dict[tuple[str, int, int], torch.Tensor]


@pytest.fixture
def inputs(monkeypatch: pytest.MonkeyPatch) -> Inputs:
    """Return a dict that receives all training inputs, by (modality, epoch, row of the store)."""
    seen: Inputs = {}

    def recorded(model: Any, method: Any, batch: Batch, *args: Any, at: Step, **kwargs: Any) -> torch.Tensor:
        for column, m in enumerate(batch.modalities):
            rows = batch.samples_B[batch.active_BM[:, column]].tolist()
            for row, x in zip(rows, batch.inputs.get(m, ()), strict=True):
                seen[m, at.epoch, row] = x.clone()
        return train_step(model, method, batch, *args, at=at, **kwargs)

    monkeypatch.setattr(steps, "train_step", recorded)
    return seen


def assert_same_inputs(one: Inputs, other: Inputs) -> None:
    assert one.keys() == other.keys()
    for key, x in one.items():
        assert torch.equal(x, other[key]), key


AUGMENT = {"augment": HARD["augment"]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "seen"),
    [
        ({"name": "joint_unimodal"}, 2 * 2 * 96),
        # Random assignment, because scores differ between one and two ranks due to BatchNorm.
        ({"name": "remix", "warmup": 0, "filter": {"rule": "random"}, "order": "mixed"}, 2 * 96),
    ],
    ids=["joint", "mixed"],
)
def test_two_ranks_read_the_same_samples_as_one(
    recipe: Recipe, assembled: Assembled, run_on_ranks: Callable[..., list[Any]], inputs: Inputs,
    method: dict[str, Any], seen: int,
) -> None:  # fmt: skip
    """Inputs are bitwise equal for each sample, modality and epoch."""
    config = recipe({**AUGMENT, "method": method, "workers": 2, "global_batch": 28})
    train(assembled(config, "one"))
    one = dict(inputs)
    assert len(one) == seen
    inputs.clear()
    run_on_ranks(2, lambda collectives: train(assembled(config, "two", collectives=collectives)))
    assert_same_inputs(inputs, one)


def test_augmentation_depends_on_sample_and_epoch_only(recipe: Recipe, assembled: Assembled, inputs: Inputs) -> None:
    """Methods and unimodal runs are trained on identically augmented inputs."""
    train(assembled(recipe({**AUGMENT, "method": {"name": "joint"}}), "joint"))
    joint = dict(inputs)
    for m in ("audio", "video"):
        changes = [not torch.equal(joint[m, 0, row], joint[m, 1, row]) for row in range(96) if (m, 0, row) in joint]
        assert len(changes) == 96
        assert sum(changes) > 90
    others: list[dict[str, Any]] = [
        {"method": {"name": "unimodal", "modality": "video"}},
        {"method": {"name": "remix", "warmup": 0, "filter": {"rule": "random"}, "order": "mixed"}, "global_batch": 20},
    ]
    for number, change in enumerate(others):
        inputs.clear()
        train(assembled(recipe({**AUGMENT, **change}), f"other {number}"))
        assert len(inputs) >= 2 * 96
        assert_same_inputs(inputs, {key: joint[key] for key in inputs})
    inputs.clear()
    train(assembled(recipe({**AUGMENT, "method": {"name": "joint"}, "seed": 1}), "seed"))
    assert not any(torch.equal(x, joint[key]) for key, x in inputs.items() if key[0] == "audio")


def test_only_training_is_augmented(
    recipe: Recipe, assembled: Assembled, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scoring, validation, test, probes and ceilings use stored clips without augmentation."""
    run = assembled(recipe({**AUGMENT, "evaluation": {"test": True, "probe": True}}))
    kinds: list[tuple[bool, bool]] = []
    read = run.reader.read

    def recorded(*args: Any, draws: Draws | None = None, **kwargs: Any) -> Batch:
        kinds.append((run.model.training, draws is not None))
        return read(*args, draws=draws, **kwargs)

    monkeypatch.setattr(run.reader, "read", recorded)
    train(run)
    assert set(kinds) == {(True, True), (False, False)}
    stored = read(np.arange(96), np.ones((96, 2), np.bool_)).inputs
    same = [torch.equal(x, stored[m][row]) for (m, _, row), x in inputs.items()]
    assert sum(same) < 0.1 * len(same)


def test_without_augment_training_uses_stored_clips(recipe: Recipe, assembled: Assembled, inputs: Inputs) -> None:
    run = assembled(recipe())
    train(run)
    stored = run.reader.read(np.arange(96), np.ones((96, 2), np.bool_)).inputs
    assert len(inputs) >= 2 * 96
    assert all(torch.equal(x, stored[m][row]) for (m, _, row), x in inputs.items())


def test_the_learning_rate_of_an_epoch_reaches_the_optimizer(recipe: Recipe, assembled: Assembled) -> None:
    config = recipe(
        {"epochs": 4, "optimizer.learning_rate": 0.01, "rate": {"name": "step", "every": 0.5, "factor": 0.1}}
    )
    run = assembled(config)
    rates = [record["train/learning_rate"] for record in train(run).history]
    assert rates == pytest.approx([0.01, 0.01, 0.001, 0.001])
    assert run.optimizer.param_groups[0]["lr"] == pytest.approx(0.001)


@pytest.mark.parametrize("change", [{"epochs": 3}, {"epochs": 1, "method": {"name": "joint"}, "global_batch": 96}])
def test_a_diverged_run_names_epoch_and_step(recipe: Recipe, assembled: Assembled, change: dict[str, Any]) -> None:
    """With one step per epoch, the evaluation is the first to notice broken weights."""
    config = recipe({"optimizer": {"name": "sgd", "learning_rate": 1e30}, **change})
    with pytest.raises(TrainingError, match=r"(epoch 0, step \d: the loss|after epoch 0, predictions) must be"):
        train(assembled(config))


def test_summary_and_times(recipe: Recipe, assembled: Assembled) -> None:
    run = assembled(recipe({"evaluation.test": True, "evaluation.probe": True, "epochs": 3}), ceilings={"audio": 0.9})
    result = train(run)
    best = result.history[int(result.summary["best/epoch"])]
    assert result.summary["best/val_accuracy"] == best["val/accuracy"]
    assert result.summary["best/val_accuracy_uni/audio"] == best["val/accuracy_uni/audio"]
    assert result.summary["last/val_accuracy"] == result.history[-1]["val/accuracy"]
    assert {"test/accuracy", "test/accuracy_last", "probe/accuracy/video", "sufficiency/ratio/audio"} <= set(
        result.summary
    )
    losses = [record["train/loss"] for record in result.history]
    assert result.summary["train/loss_growth"] == pytest.approx(max(losses) / math.log(4))
    assert result.summary["time/total_train_s"] == sum(record["time/train_s"] for record in result.history)
    # Scoring passes only run after warm-up.
    assert [record["time/score_s"] > 0 for record in result.history] == [False, True, True]


def test_warnings_of_the_plan_are_logged(
    recipe: Recipe, assembled: Assembled, caplog: pytest.LogCaptureFixture
) -> None:
    starving = {"kind": "fixed", "parts": {"audio": 0.99, "video": 0.01}}
    train(assembled(recipe({"method.share": starving})))
    assert "epoch 1: only 1 of 96 samples train video alone" in caplog.text
    assert "a larger part of it in `share` or a smaller `global_batch` keeps a modality" in caplog.text


@pytest.mark.parametrize("order", ["alternate", "mixed"])
def test_all_ranks_have_the_same_history_and_weights(
    recipe: Recipe,
    assembled: Assembled,
    run_on_ranks: Callable[..., list[Any]],
    monkeypatch: pytest.MonkeyPatch,
    order: str,
) -> None:
    """After every epoch, the model of each rank is compared, with its buffers; the checkpoint is only rank 0's."""
    config = recipe(
        {"method.order": order, "epochs": 3, "global_batch": 28, "workers": 2, "method.share": {"kind": "progress"}}
    )

    evaluated: dict[int, list[dict[str, torch.Tensor]]] = {}

    def recorded(model: MultimodalModel, *args: Any, **kwargs: Any) -> Any:
        weights = {key: value.clone() for key, value in model.state_dict().items()}
        evaluated.setdefault(id(model), []).append(weights)
        return evaluate(model, *args, **kwargs)

    monkeypatch.setattr(loop, "evaluate", recorded)

    def work(collectives: Any) -> tuple[Any, Run]:
        run = assembled(config, collectives=collectives)
        result = train(run)
        return without_times(result.history), run

    (one, first), (other, second) = run_on_ranks(2, work)
    assert one == other
    ours, theirs = evaluated[id(first.model)], evaluated[id(second.model)]
    assert len(ours) == len(theirs) == 3
    for weights_one, weights_other in zip(ours, theirs, strict=True):
        assert_same_bits(weights_one, weights_other)
    assert not torch.equal(ours[0]["heads.audio.weight"], ours[2]["heads.audio.weight"])


def test_only_rank_0_writes(recipe: Recipe, assembled: Assembled, run_on_ranks: Callable[..., list[Any]]) -> None:
    trackers = [RecordingTracker(), RecordingTracker()]

    def work(collectives: Any) -> Path:
        run = assembled(recipe({"workers": 2}), tracker=trackers[collectives.world.rank], collectives=collectives)
        train(run)
        return run.history_file

    history_file = run_on_ranks(2, work)[0]
    assert len(history_file.read_text().splitlines()) == 2
    assert [sorted(tracker.metrics) for tracker in trackers] == [[0, 1], []]
