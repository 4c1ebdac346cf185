import pickle
from collections.abc import Callable, Mapping
from typing import Any, get_args

import numpy as np
import pytest
import torch

from remix_study import metrics
from remix_study.config.run import RunConfig
from remix_study.metrics import linear_probe
from remix_study.sample import Batch
from remix_study.seeds import stream
from remix_study.tracking.model import FusedLogits
from remix_study.training.checkpoint import BEST
from remix_study.training.evaluate import evaluate
from remix_study.training.final_evaluation import FinalEvaluation, Selection, evaluate_finished, sufficiency
from remix_study.training.loop import train
from remix_study.training.run import Run
from remix_study.world import Solo

UNIMODAL = {"method": {"name": "joint_unimodal"}, "optimizer.learning_rate": 0.003}


@pytest.fixture
def run(recipe: Callable[..., RunConfig], assembled: Callable[..., Run]) -> Run:
    run = assembled(recipe(UNIMODAL))
    train(run)
    return run


def best_of(run: Run) -> dict[str, Any]:
    best = run.checkpoints.load(BEST)
    assert best is not None
    return best


def found(
    run: Run, collectives: Any = None, ceilings: Mapping[str, float] | None = None, **how: Any
) -> dict[str, float]:
    settings: dict[str, Any] = {"batch": 20, "autocast": False, "test": True, "probe": True, "seed": 0, "heads": True}
    return evaluate_finished(
        run.model, run.reader, run.rows, collectives or Solo(), best_of(run), ceilings=ceilings, **settings | how
    ).metrics


def test_the_best_epoch_is_evaluated_and_not_the_last(run: Run) -> None:
    best = best_of(run)
    for parameter in run.model.parameters():  # as if the last epoch had diverged
        torch.nn.init.zeros_(parameter)
    numbers = found(run, probe=False)
    assert numbers["test/accuracy_last"] == pytest.approx(0.25)
    assert all(torch.equal(best["model"][key], value) for key, value in run.model.state_dict().items())
    again = evaluate(run.model, run.reader, run.rows["test"], Solo(), batch=20, autocast=False)
    assert numbers["test/accuracy"] == again.accuracy
    assert numbers["test/accuracy_uni/video"] == metrics.accuracy(again.confusions["video"])


def test_the_last_epoch_is_evaluated_where_it_is_selected(run: Run) -> None:
    for parameter in run.model.parameters():  # as if the last epoch had diverged
        torch.nn.init.zeros_(parameter)
    last = {name: value.clone() for name, value in run.model.state_dict().items()}
    settings: dict[str, Any] = {"batch": 20, "autocast": False, "probe": False, "ceilings": None, "seed": 0,
                                "heads": True}  # fmt: skip
    at_last = evaluate_finished(run.model, run.reader, run.rows, Solo(), best_of(run), test=True, select="last",
                                **settings)  # fmt: skip
    assert all(torch.equal(last[name], value) for name, value in run.model.state_dict().items())
    at_best = evaluate_finished(run.model, run.reader, run.rows, Solo(), best_of(run), test=True, select="best",
                                **settings)  # fmt: skip
    epochs: tuple[Selection, ...] = get_args(Selection)
    for epoch in epochs:  # both are measured, whichever is selected
        assert at_last.metrics[f"test/accuracy_{epoch}"] == at_best.metrics[f"test/accuracy_{epoch}"]
        np.testing.assert_array_equal(at_last.predicted[epoch], at_best.predicted[epoch])
    assert at_last.metrics["test/accuracy"] == at_last.metrics["test/accuracy_last"] == pytest.approx(0.25)
    assert at_best.metrics["test/accuracy"] == at_best.metrics["test/accuracy_best"]
    for found, epoch in ((at_last, "last"), (at_best, "best")):
        np.testing.assert_array_equal(found.predictions["test"]["fused"].argmax(axis=1), found.predicted[epoch])
    run.model.load_state_dict(last)
    on_validation = evaluate_finished(run.model, run.reader, run.rows, Solo(), best_of(run), test=False, select="last",
                                      **settings | {"probe": True})  # fmt: skip
    assert "test/accuracy" not in on_validation.metrics
    assert all(torch.equal(last[name], value) for name, value in run.model.state_dict().items())


def test_without_test_the_test_split_is_never_read(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    original = run.reader.read

    def watched(rows: Any, *args: Any, **kwargs: Any) -> Batch:
        read.extend(rows.tolist())
        return original(rows, *args, **kwargs)

    monkeypatch.setattr(run.reader, "read", watched)
    numbers = found(run, test=False, ceilings={"audio": 1.0})
    assert not set(read) & set(run.rows["test"].tolist())
    assert not [key for key in numbers if key.startswith("test")]
    assert {"probe/accuracy/audio", "probe/accuracy/video", "sufficiency/ratio/audio"} <= set(numbers)


def test_untrained_heads_have_no_sufficiency(run: Run) -> None:
    numbers = found(run, probe=False, heads=False, ceilings={"audio": 1.0})
    assert not [key for key in numbers if key.startswith("sufficiency")]


def test_the_probe_is_perfect_if_labels_are_predictable(run: Run) -> None:
    numbers = found(run)
    assert numbers["probe/accuracy/video"] > 0.3  # four classes with easily distinguished gratings
    assert found(run) == numbers  # a new probe, the same seed


def test_ranks_compute_the_same_final_evaluation(
    run: Run, recipe: Callable[..., RunConfig], assembled: Callable[..., Run], run_on_ranks: Callable[..., list[Any]]
) -> None:
    runs = [assembled(recipe(UNIMODAL)) for _ in range(2)]  # in the same folder, so that they load the same checkpoint
    alone = found(run, ceilings={"audio": 0.9, "video": 0.8})
    one, other = run_on_ranks(2, lambda c: found(runs[c.world.rank], c, ceilings={"audio": 0.9, "video": 0.8}))
    assert one == other
    # Only the trained run has the weights for `accuracy_last`.
    assert {k: v for k, v in one.items() if k != "test/accuracy_last"} == pytest.approx(
        {k: v for k, v in alone.items() if k != "test/accuracy_last"}, rel=1e-4
    )


@pytest.mark.slow
def test_final_evaluation_with_more_ranks_than_samples(
    run: Run, recipe: Callable[..., RunConfig], assembled: Callable[..., Run], run_on_ranks: Callable[..., list[Any]]
) -> None:
    few = {split: rows[:8] for split, rows in run.rows.items()}

    def work(collectives: Any) -> dict[str, float]:
        mine = assembled(recipe(UNIMODAL))
        found = evaluate_finished(mine.model, mine.reader, few, collectives, best_of(mine), ceilings=None,
                        batch=4, autocast=False, test=True, probe=True, seed=0, heads=True)  # fmt: skip
        logs_NC = found.predictions["test"]["fused"]
        return found.metrics | {f"prediction {i}": float(value) for i, value in enumerate(logs_NC.flat)}

    first, *others = run_on_ranks(9, work)
    assert {"test/accuracy", "probe/accuracy/audio", "probe/accuracy/video", "prediction 31"} <= set(first)
    assert all(other == first for other in others)


def test_predictions_are_those_of_the_model_for_each_clip(run: Run, run_on_ranks: Callable[..., list[Any]]) -> None:
    """They give the reported accuracies, whatever the batches and the number of ranks."""
    settings: dict[str, Any] = {"autocast": False, "test": True, "probe": False, "seed": 0, "ceilings": None}

    def finished(collectives: Any = None, *, batch: int = 7, heads: bool = True) -> FinalEvaluation:
        return evaluate_finished(
            run.model, run.reader, run.rows, collectives or Solo(), best_of(run), batch=batch, heads=heads, **settings
        )

    found = finished()
    views = {"fused", "late_sum", "late_calibrated", "audio", "video"}
    assert {split: set(of) for split, of in found.predictions.items()} == {"val": views, "test": views}
    labels_N = run.reader.store.labels_N[run.rows["test"]]
    for view in views:
        key = {"fused": "accuracy", "audio": "accuracy_uni/audio", "video": "accuracy_uni/video"}.get(
            view, f"accuracy_{view}"
        )
        logs_NC = found.predictions["test"][view]
        assert logs_NC.shape == (48, 4)
        np.testing.assert_allclose(np.exp(logs_NC).sum(axis=1), 1, rtol=1e-5)
        assert (logs_NC.argmax(axis=1) == labels_N).mean() == found.metrics[f"test/{key}"]
        measured = key.replace("accuracy", "calibration_error")
        assert metrics.calibration_error(logs_NC, labels_N) == found.metrics[f"test/{measured}"]
        measured = key.replace("accuracy", "cross_entropy")
        assert metrics.cross_entropy(logs_NC, labels_N) == pytest.approx(found.metrics[f"test/{measured}"])
    row = run.rows["val"][5]
    batch = run.reader.read(np.array([row]), np.ones((1, 2), np.bool_))
    with torch.no_grad():
        alone_C = run.model.eval()(batch).logits_BC.log_softmax(dim=1)[0].numpy()
    np.testing.assert_allclose(found.predictions["val"]["fused"][5], alone_C, atol=1e-5)
    run.model.train()
    many = finished(batch=48)
    np.testing.assert_allclose(many.predictions["test"]["video"], found.predictions["test"]["video"], atol=1e-5)
    assert set(finished(heads=False).predictions["test"]) == {"fused"}  # untrained heads predict nothing


def test_the_late_product_is_fitted_on_validation_and_cross_fitted_there(run: Run) -> None:
    settings: dict[str, Any] = {"batch": 20, "autocast": False, "probe": False, "ceilings": None, "heads": True}
    finished = evaluate_finished(run.model, run.reader, run.rows, Solo(), best_of(run), test=True, seed=0, **settings)
    labels = {split: run.reader.store.labels_N[run.rows[split]] for split in ("val", "test")}
    logs = {split: np.stack([of["audio"], of["video"]], axis=1) for split, of in finished.predictions.items()}
    fitted_M = metrics.fit_exponents(logs["val"], labels["val"])
    assert [finished.metrics[f"late_calibrated/exponent/{m}"] for m in ("audio", "video")] == fitted_M.tolist()
    product_NC = metrics.late_product(logs["test"], fitted_M)
    np.testing.assert_allclose(finished.predictions["test"]["late_calibrated"], product_NC, atol=1e-5)
    fold_N = metrics.two_folds(labels["val"], stream(0, "late_product"))
    crossed_NC = metrics.cross_fitted(logs["val"], labels["val"], fold_N)
    np.testing.assert_allclose(finished.predictions["val"]["late_calibrated"], crossed_NC, atol=1e-5)
    accuracy = np.mean(crossed_NC.argmax(axis=1) == labels["val"])
    assert finished.metrics["best/val_accuracy_late_calibrated"] == accuracy
    # A trial has no test split, and the same value.
    assert found(run, test=False, probe=False)["best/val_accuracy_late_calibrated"] == accuracy
    at_last = found(run, test=False, probe=False, select="last")  # named after the epoch that is evaluated
    assert "last/val_accuracy_late_calibrated" in at_last
    assert "best/val_accuracy_late_calibrated" not in at_last


def test_a_saved_model_predicts_the_late_product_with_one_pass_of_each_encoder(run: Run) -> None:
    settings: dict[str, Any] = {"batch": 20, "autocast": False, "probe": False, "ceilings": None, "heads": True}
    finished = evaluate_finished(run.model, run.reader, run.rows, Solo(), best_of(run), test=True, seed=0, **settings)
    exponents = {m: finished.metrics[f"late_calibrated/exponent/{m}"] for m in ("audio", "video")}
    saved = pickle.loads(pickle.dumps(FusedLogits(run.model.eval(), run.model.modalities, exponents)))
    passes: list[int] = []
    for encoder in saved.model.encoders.values():
        encoder.register_forward_hook(lambda module, inputs, output: passes.append(len(output)))
    rows = run.rows["test"]
    batch = run.reader.read(rows, np.ones((len(rows), 2), np.bool_))
    with torch.no_grad():
        logs_BC = saved(batch.inputs["audio"], batch.inputs["video"], view="late_calibrated")
        assert passes == [48, 48]
        alone_BC = saved(None, batch.inputs["video"], view="late_calibrated")
    np.testing.assert_allclose(logs_BC, finished.predictions["test"]["late_calibrated"], atol=1e-5)
    video_BC = torch.from_numpy(finished.predictions["test"]["video"])
    torch.testing.assert_close(alone_BC, (exponents["video"] * video_BC).log_softmax(dim=1), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="must be fused or late_calibrated, but is late"):
        saved(batch.inputs["audio"], batch.inputs["video"], view="late")


@pytest.mark.parametrize("older", [True, False])
def test_a_model_without_exponents_refuses_the_late_product(run: Run, older: bool) -> None:
    saved = FusedLogits(run.model, run.model.modalities)
    if older:
        del saved.exponents  # as an earlier version pickled it
    batch = run.reader.read(run.rows["val"][:2], np.ones((2, 2), np.bool_))
    with pytest.raises(ValueError, match="`view` must be fused, because this model has no exponents"):
        saved(batch.inputs["audio"], batch.inputs["video"], view="late_calibrated")


def test_without_trained_heads_the_late_product_is_that_of_the_probes(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    probes = []

    def recorded(*args: Any) -> Any:
        probes.append(linear_probe(*args))
        return probes[-1]

    monkeypatch.setattr(metrics, "linear_probe", recorded)
    numbers = found(run, heads=False)
    labels_N = run.reader.store.labels_N[run.rows["test"]]
    logs_NMC = np.stack([probe.eval_logs_NK for probe in probes], axis=1)  # the training split has all classes
    exponents_M = np.array([numbers[f"late_calibrated/exponent/{m}"] for m in ("audio", "video")])
    accuracy = np.mean(metrics.late_product(logs_NMC, exponents_M).argmax(axis=1) == labels_N)
    assert numbers["test/accuracy_late_calibrated"] == accuracy
    assert {"best/val_accuracy_late_calibrated", "test/calibration_error_late_calibrated"} <= numbers.keys()
    assert not [name for name in numbers if "late_sum" in name or "_uni/" in name]
    assert not [name for name in found(run, heads=False, probe=False) if "late" in name]


def test_sufficiency_in_a_worked_example() -> None:
    numbers = sufficiency({"audio": 0.6, "video": 0.5}, {"audio": 0.8, "text": 0.9}, chance=0.25)
    assert numbers == pytest.approx(
        {
            "sufficiency/gap/audio": metrics.sufficiency_gap(0.6, 0.8),
            "sufficiency/ratio/audio": 0.75,
            "sufficiency/ratio_above_chance/audio": (0.6 - 0.25) / (0.8 - 0.25),
        }
    )
    # Sufficiency is undefined for a ceiling at chance.
    assert "sufficiency/ratio_above_chance/audio" not in sufficiency({"audio": 0.6}, {"audio": 0.25}, chance=0.25)


@pytest.mark.parametrize("test", [True, False])
def test_the_probe_is_fitted_on_training_tuned_on_validation_and_evaluated_on_the_last_split(
    run: Run, monkeypatch: pytest.MonkeyPatch, test: bool
) -> None:
    seen: list[tuple[Any, float]] = []

    def recorded(*args: Any) -> Any:
        result = linear_probe(*args)
        seen.append((args, result.accuracy))
        return result

    monkeypatch.setattr(metrics, "linear_probe", recorded)
    numbers = found(run, test=test)
    run.model.eval()
    for m, (args, accuracy) in zip(run.model.modalities, seen, strict=True):
        for i, split in enumerate(("train", "val", "test" if test else "val")):
            rows_N = run.rows[split]
            clips = run.reader.read(rows_N, np.ones((len(rows_N), 2), np.bool_))
            with torch.no_grad():
                features_ND = run.model.encode(m, clips.inputs[m]).numpy()
            np.testing.assert_allclose(args[2 * i], features_ND, atol=1e-5)
            np.testing.assert_array_equal(args[2 * i + 1], run.reader.store.labels_N[rows_N])
        assert numbers[f"probe/accuracy/{m}"] == accuracy
