from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from remix_study import metrics
from remix_study.config.run import RunConfig
from remix_study.training.evaluate import Evaluation, evaluate
from remix_study.training.loop import train
from remix_study.training.run import Run
from remix_study.world import Solo

SUBSETS = [frozenset[str](), frozenset({"audio"}), frozenset({"video"}), frozenset({"audio", "video"})]


@pytest.fixture
def run(request: pytest.FixtureRequest, recipe: Callable[..., RunConfig], assembled: Callable[..., Run]) -> Run:
    """Return a briefly trained run, whose predictions differ between samples. Its parameter is a fusion."""
    changes = {"method": {"name": "joint_unimodal"}, "epochs": 2, "optimizer.learning_rate": 0.003}
    run = assembled(recipe({**changes, "model.fusion": getattr(request, "param", "concat")}))
    train(run)
    return run


def found(run: Run, rows: str = "val", **how: Any) -> Evaluation:
    return evaluate(run.model, run.reader, run.rows[rows], Solo(), **({"batch": 20, "autocast": False} | how))


@pytest.mark.parametrize(
    "run",
    ["concat", *(pytest.param(each, marks=pytest.mark.slow) for each in ("attention", "mmtm", "centralnet"))],
    indirect=True,
)
def test_evaluation_equals_a_loop_over_samples_and_subsets(run: Run) -> None:
    seen = found(run)
    assert run.model.training  # the mode is restored
    views = {view: np.zeros((4, 4), np.int64) for view in ("fused", "late_sum", "audio", "video")}
    losses = dict.fromkeys(views, 0.0)
    right = dict.fromkeys(SUBSETS, 0)
    true = {"audio": 0.0, "video": 0.0}
    run.model.eval()
    for row in run.rows["val"]:
        label = int(run.reader.store.labels_N[row])
        with torch.no_grad():
            whole = run.model(run.reader.read(np.array([row]), np.ones((1, 2), np.bool_)))
            logs = {"fused": whole.logits_BC[0].log_softmax(0)}
            for i, m in enumerate(("audio", "video")):
                alone = run.model(run.reader.read(np.array([row]), np.arange(2)[None] == i))
                logs[m] = alone.head_logits[m][0].log_softmax(0)
            logs["late_sum"] = (logs["audio"] + logs["video"]).log_softmax(0)
            for subset in SUBSETS:
                active = np.array([[m in subset for m in ("audio", "video")]])
                part = run.model(run.reader.read(np.array([row]), active, read_inactive=True))
                right[subset] += int(part.logits_BC.argmax()) == label
        for view, log in logs.items():
            views[view][label, int(log.argmax())] += 1
            losses[view] -= float(log[label]) / 48
        for m in true:
            true[m] += float(logs[m][label].exp())
    assert {view: table.tolist() for view, table in seen.confusions.items()} == {
        v: t.tolist() for v, t in views.items()
    }
    assert seen.cross_entropies == pytest.approx(losses, abs=1e-4)
    assert seen.true_probability_M.tolist() == pytest.approx([true["audio"], true["video"]], abs=1e-3)
    assert seen.subset_accuracy == {subset: count / 48 for subset, count in right.items()}
    assert seen.accuracy == views["fused"].trace() / 48


def test_the_size_of_a_batch_does_not_matter(run: Run) -> None:
    one, other = found(run, batch=7), found(run, batch=1000)
    assert one.subset_accuracy == other.subset_accuracy
    assert one.cross_entropies == pytest.approx(other.cross_entropies, rel=1e-5)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_several_ranks_evaluate_like_one(
    run: Run,
    recipe: Callable[..., RunConfig],
    assembled: Callable[..., Run],
    run_on_ranks: Callable[..., list[Any]],
    size: int,
) -> None:
    runs = [assembled(recipe()) for _ in range(size)]
    for other in runs:
        other.model.load_state_dict(run.model.state_dict())
    rows = run.rows["val"][:-1]  # 47 is not a multiple of the number of ranks: there is no padding

    def work(collectives: Any) -> Evaluation:
        mine = runs[collectives.world.rank]
        return evaluate(mine.model, mine.reader, rows, collectives, batch=6, autocast=False)

    alone = evaluate(run.model, run.reader, rows, Solo(), batch=6, autocast=False)
    for seen in run_on_ranks(size, work):
        for view, table in alone.confusions.items():
            np.testing.assert_array_equal(seen.confusions[view], table)
        assert seen.subset_accuracy == alone.subset_accuracy
        assert seen.cross_entropies == pytest.approx(alone.cross_entropies, rel=1e-5)
    assert sum(other.reader.rows_read["video"] for other in runs) == 47


def test_metrics_have_the_names_of_the_documentation(run: Run) -> None:
    seen = found(run)
    named = seen.metrics("val", heads=True)
    assert named["val/accuracy"] == seen.accuracy
    assert named["val/accuracy_uni/audio"] == metrics.accuracy(seen.confusions["audio"])
    assert named["val/accuracy_only/video"] == seen.subset_accuracy[frozenset({"video"})]
    assert named["val/accuracy_without/audio"] == seen.subset_accuracy[frozenset({"video"})]
    phi = named["balance/shapley/audio"] + named["balance/shapley/video"]
    assert phi == pytest.approx(seen.accuracy - seen.subset_accuracy[frozenset()])
    assert {"val/accuracy_late_sum", "balance/accuracy_gap", "balance/accuracy_ratio", "balance/abs_log_rho"} < set(
        named
    )
    assert all(np.isfinite(value) for value in named.values())
    assert "test_balance/imbalance" in seen.metrics("test", heads=True)


def test_untrained_heads_are_not_reported(run: Run) -> None:
    named = found(run).metrics("val", heads=False)
    for absent in ("val/accuracy_uni/audio", "val/accuracy_late_sum", "balance/accuracy_gap", "balance/abs_log_rho"):
        assert absent not in named
    assert {"val/accuracy", "balance/shapley/audio", "balance/imbalance"} < set(named)


def test_one_modality_has_no_balance(recipe: Callable[..., RunConfig], assembled: Callable[..., Run]) -> None:
    run = assembled(recipe({"method": {"name": "unimodal", "modality": "audio"}}))
    named = found(run).metrics("val", heads=True)
    assert not [name for name in named if name.startswith("balance/")]
    assert named["val/accuracy"] == named["val/accuracy_uni/audio"]
    assert run.reader.rows_read == {"audio": 48}
