"""Data of the charts"""

from pathlib import Path
from typing import Any

import pytest

from remix_study.report import run_data, search_data
from remix_study.report.search_tables import cost_table
from remix_study.study.comparison import Method, StudyResult
from remix_study.study.ledger import ReplicateRecord
from remix_study.study.outcomes import Replicated
from remix_study.study.results import compare
from tests.unit.report.conftest import RATE, MakeLedger, MakeStudy, MakeTrial, write_run


def replicate(method: str, number: int, folder: str = "", **changes: Any) -> ReplicateRecord:
    known: dict[str, Any] = {
        "method": method, "stage": "replicate", "number": number, "state": "complete", "params": {RATE: 0.01},
        "folder": folder, "seconds": 5.0, "reason": None, "cause": None,
    }  # fmt: skip
    return ReplicateRecord(**(known | changes))


# --- the search ------------------------------------------------------------------------------------------------------


def test_the_budget_counts_every_finished_trial_once(make_trial: MakeTrial, make_ledger: MakeLedger) -> None:
    ledger = make_ledger(
        make_trial("remix", 0, 0.5),
        make_trial("remix", 1),
        make_trial("remix", 2, state="failed", reason="NaN", retried=True),
        make_trial("remix", 3, state="failed", reason="NaN"),
        make_trial("remix", 4, state="running"),
        make_trial("remix", 5, state="waiting", seconds=0.0),
        replicates=(
            replicate("remix", 0),
            replicate("remix", 1, state="running"),
            replicate("remix", 2, params={RATE: 0.5}),  # of a configuration that is no longer chosen
            replicate("remix", 0, stage="final", seconds=7.0),
        ),
    )
    joint, remix = search_data.budgets(ledger)
    assert set(joint[1:]) == {0, (), None}
    assert (remix.complete, remix.pruned, remix.failed, remix.retried, remix.running) == (1, 1, 1, 1, 1)
    assert remix.trials == 3
    assert remix.replicates == 1
    assert (remix.search_s, remix.replicate_s, remix.final_s, remix.total_s) == (50, 15, 7, 72)


def test_the_best_value_so_far_is_of_complete_trials_only(make_trial: MakeTrial, make_ledger: MakeLedger) -> None:
    ledger = make_ledger(
        make_trial("remix", 0, 0.5),
        make_trial("remix", 1, intermediate={1: 0.99}),  # pruned, in spite of the best value
        make_trial("remix", 2, 0.4),
        make_trial("remix", 3, state="failed", reason="NaN"),
        make_trial("remix", 4, 0.7),
        make_trial("remix", 5, 0.7),
        make_trial("remix", 6, state="running"),
    )
    (found,) = search_data.progress(ledger)
    assert (found.numbers, found.values) == ((0, 2, 4, 5), (0.5, 0.4, 0.7, 0.7))
    assert (found.best_numbers, found.best) == ((0, 4), (0.5, 0.7))
    assert (found.pruned, found.failed, found.last, found.total) == ((1,), (3,), 5, 4)


def test_the_best_value_so_far_falls_for_a_minimised_objective(
    make_study: MakeStudy, make_trial: MakeTrial, make_ledger: MakeLedger
) -> None:
    study = make_study(objective={"metric": "best/val_cross_entropy", "direction": "minimize"})
    ledger = make_ledger(*(make_trial("remix", n, v) for n, v in enumerate((0.5, 0.6, 0.2))), study=study)
    assert search_data.progress(ledger)[0].best == (0.5, 0.2)


def test_pruned_curves_are_of_pruned_trials_only(make_trial: MakeTrial, make_ledger: MakeLedger) -> None:
    ledger = make_ledger(
        make_trial("joint", 0, 0.5, intermediate={1: 0.1, 2: 0.2}),
        make_trial("joint", 1, intermediate={4: 0.2, 1: 0.1}),
        make_trial("remix", 0),  # pruned before any value was reported
        make_trial("remix", 1, state="failed", reason="NaN", intermediate={1: 0.3}),
    )
    found = search_data.pruned(ledger)
    assert found.total == 2
    assert found.curves == (("joint", 1, (1, 4), (0.1, 0.2)),)


def test_a_slice_has_every_method_that_searches_the_hyperparameter(
    make_study: MakeStudy, make_trial: MakeTrial, make_ledger: MakeLedger
) -> None:
    order = {"kind": "choice", "of": ["blocks", "mixed", None]}
    study = make_study(methods={"joint": {}, "remix": {"space": {"method.order": order}}})
    ledger = make_ledger(
        make_trial("joint", 0, 0.5, params={RATE: 0.002}),
        make_trial("remix", 0, 0.6, params={RATE: 0.05, "method.order": "mixed"}),
        make_trial("remix", 1, 0.7, params={RATE: 0.5, "method.order": None}),  # outside the current search space
        make_trial("remix", 2, params={RATE: 0.09, "method.order": "blocks"}),
        study=study,
    )
    rate, choice = search_data.slices(ledger)
    assert (rate.parameter, rate.scale, rate.labels, rate.bounds) == (RATE, "log", (), (0.001, 0.5))
    assert rate.points == {"joint": ((0.002,), (0.5,)), "remix": ((0.05, 0.5), (0.6, 0.7))}
    assert (rate.shown, rate.total) == (3, 3)
    assert (choice.scale, choice.labels, choice.bounds) == ("choice", ("blocks", "mixed", "None"), None)
    assert choice.points == {"remix": (("mixed", "None"), (0.6, 0.7))}


def test_parallel_lines_have_a_position_on_every_searched_axis(
    make_study: MakeStudy, make_trial: MakeTrial, make_ledger: MakeLedger
) -> None:
    space = {
        "a": {"kind": "choice", "of": ["x", "y", None]},
        "b": {"kind": "int", "low": 0, "high": 10, "when": {"a": "x"}},
    }
    study = make_study(methods={"joint": {}, "remix": {"space": space}})
    ledger = make_ledger(
        make_trial("remix", 0, 0.5, params={RATE: 0.001, "a": "x", "b": 10}),
        make_trial("remix", 1, 0.9, params={RATE: 0.01, "a": None}),
        make_trial("remix", 2, 0.6, params={RATE: 0.1, "a": "y"}),
        make_trial("remix", 3, params={RATE: 0.1, "a": "y"}),
        make_trial("joint", 0, 0.5),
        make_trial("joint", 1, 0.6),  # one hyperparameter: the slice shows everything
        study=study,
    )
    (found,) = search_data.parallels(ledger)
    assert [axis.name for axis in found.axes] == [RATE, "a", "b", "best/val_accuracy"]
    assert found.axes[1].ticks == ((0.0, "x"), (0.5, "y"), (1.0, "None"))
    assert found.axes[0].log
    assert found.ends == (0.5, 0.9)
    assert [line[1:3] for line in found.lines] == [(0.0, 1.0), (1.0, None), (0.5, None)]
    assert [line[0] for line in found.lines] == pytest.approx([0.0, 0.5, 1.0])
    assert [line[3] for line in found.lines] == pytest.approx([0.0, 1.0, 0.25])
    assert found.groups == ("worse", "best", "better")


def test_the_front_is_pareto_optimal(make_study: MakeStudy, make_trial: MakeTrial, make_ledger: MakeLedger) -> None:
    study = make_study(
        objective=["best/val_accuracy", {"metric": "best/balance_imbalance", "direction": "minimize"}], tolerance=0.1
    )
    ledger = make_ledger(
        make_trial("remix", 0, 0.9, 0.5),
        make_trial("remix", 1, 0.8, 0.6),  # dominated by the first
        make_trial("remix", 2, 0.85, 0.1),
        make_trial("remix", 3),
        study=study,
    )
    (found,) = search_data.fronts(ledger)
    assert (found.numbers, found.xs, found.ys) == ((0, 1, 2), (0.9, 0.8, 0.85), (0.5, 0.6, 0.1))
    assert found.front == (2, 0)
    assert found.total == 3
    assert found.chosen == 2  # within the tolerance of the best, and the most balanced
    assert search_data.fronts(make_ledger(make_trial("remix", 0, 0.9))) == ()


def test_large_studies_are_thinned_and_keep_their_totals(make_trial: MakeTrial, make_ledger: MakeLedger) -> None:
    trials = [make_trial("remix", n, 0.5 + 0.4 * (n == 1234) - 1e-5 * n) for n in range(5000)]
    ledger = make_ledger(*trials, *(make_trial("joint", n, intermediate={1: 0.1}) for n in range(1000)))
    remix = next(p for p in search_data.progress(ledger) if p.method == "remix")
    assert len(remix.values) == search_data.POINTS // 2
    assert remix.total == 5000
    assert remix.best_numbers == (0, 1234)  # the line uses all trials
    (rate,) = search_data.slices(ledger)
    assert (rate.shown, rate.total) == (search_data.POINTS, 5000)
    assert max(rate.points["remix"][1]) == pytest.approx(0.9 - 1e-5 * 1234)
    pruned = search_data.pruned(ledger)
    assert (len(pruned.curves), pruned.total) == (search_data.CURVES, 1000)


def test_thinning_keeps_order_ends_and_best_value(make_trial: MakeTrial) -> None:
    assert search_data.thin(range(5), 9) == [0, 1, 2, 3, 4]
    assert search_data.thin(range(101), 3) == [0, 50, 100]
    trials = [make_trial("remix", n, float(n % 7)) for n in range(70)]
    kept = search_data.thin(trials, 20, best=1)
    assert len(kept) == len({t.number for t in kept}) == 20
    assert [t.number for t in kept] == sorted(t.number for t in kept)
    assert sum(t.values[0] == 6.0 for t in kept) == 10
    assert sum(t.values[0] == 0.0 for t in search_data.thin(trials, 20, best=-1)) == 10


# --- runs of the chosen configurations -------------------------------------------------------------------------------


def test_a_band_is_mean_and_deviation_over_runs_with_the_metric() -> None:
    histories = [
        [{"val/accuracy": 0.2}, {"val/accuracy": 0.4}],
        [{"val/accuracy": 0.4}, {"other": 1.0}],
        [{"other": 1.0}],
        [{"epoch": 1, "val/accuracy": float("nan")}],
    ]
    found = run_data.band("remix", histories, "val/accuracy")
    assert found is not None
    assert (found.epochs, found.runs) == ((0, 1), 2)
    assert found.mean == pytest.approx((0.3, 0.4))
    assert found.low == pytest.approx((0.3 - 0.02**0.5, 0.4))
    assert found.high == pytest.approx((0.3 + 0.02**0.5, 0.4))
    assert run_data.band("remix", histories, "absent") is None


def test_curves_are_of_complete_replicates_of_the_chosen_configuration(
    make_trial: MakeTrial, make_ledger: MakeLedger, tmp_path: Path
) -> None:
    history: list[dict[str, float]] = [{"val/accuracy": 0.5, "remix/share/video": 0.4}]
    searched = write_run(tmp_path / "searched", history)
    first, second = (write_run(tmp_path / name, history * 2, {"time/total_train_s": 4.0}) for name in ("r0", "r1"))
    best = make_trial("remix", 0, 0.9, folders=(searched,))
    worse = make_trial("remix", 1, 0.8, params={RATE: 0.02}, folders=(str(tmp_path / "never read"),))
    early = run_data.runs_of(make_ledger(best, worse), "remix")
    assert early is not None
    assert (early.source, len(early.histories), early.summaries, early.score) == ("search", 1, (), "kl")
    records = (
        replicate("remix", 0, first),
        replicate("remix", 1, second, params={RATE: 0.02}),
        replicate("remix", 2, str(tmp_path / "gone")),
        replicate("remix", 3, second, state="running"),
    )
    found = run_data.runs_of(make_ledger(best, worse, replicates=records), "remix")
    assert found is not None
    assert (found.source, [len(h) for h in found.histories]) == ("replicates", [2])
    assert run_data.parts([found]) == (("remix", 0.0, 4.0, 0.0, 0.0),)
    assert run_data.modalities([found], None) == ("video",)
    assert run_data.runs_of(make_ledger(make_trial("remix", 0)), "remix") is None


# --- the comparison --------------------------------------------------------------------------------------------------


def test_comparison_numbers_of_all_methods(make_study: MakeStudy) -> None:
    study = make_study(methods={"joint": {}, "remix": {}, "alone": {"ceiling_of": "audio"}})

    def seeds(*accuracies: float, **more: float) -> Replicated:
        return Replicated({n: {"test/accuracy": a, **more} for n, a in enumerate(accuracies)}, {})

    result = compare(
        study,
        {
            "joint": seeds(0.7, 0.72, **{"probe/accuracy/audio": 0.4, "test_balance/imbalance": 0.3}),
            "remix": seeds(0.8, 0.84, **{"probe/accuracy/audio": 0.75, "test/accuracy_uni/audio": 0.7}),
            "alone": seeds(0.9, 0.9, **{"probe/accuracy/audio": 0.8}),
        },
        {},
        [],
    )
    accuracies = run_data.accuracies(result)
    assert [a.method for a in accuracies] == ["remix", "joint", "alone"]
    assert accuracies[0].values == (0.8, 0.84)
    half = 12.7062 * 0.02  # t(0.975, 1) times the standard error
    assert accuracies[0].mean[:3] == pytest.approx((0.82, 0.82 - half, 0.82 + half), abs=1e-5)
    (joint,) = run_data.differences(result)
    assert joint.method == "joint"
    assert joint.ahead.mean == pytest.approx(11.0)
    (audio,) = run_data.heads(result, ("audio", "video"))
    assert [audio.ceiling_own, audio.ceiling_probe] == pytest.approx([0.9, 0.8])
    assert [(row.method, row.own is None) for row in audio.rows] == [("joint", True), ("remix", False), ("alone", True)]
    imbalance = run_data.measured(result, "test_balance/imbalance")
    assert imbalance is not None
    assert [name for name, _ in imbalance.rows] == ["joint"]
    assert run_data.measured(result, "test_balance/accuracy_gap") is None


def test_work_counts_pruned_and_failed_trials_and_replicates(make_trial: MakeTrial, make_ledger: MakeLedger) -> None:
    one, two = {"epochs": 3.0, "updates/audio": 10.0}, {"epochs": 1.0, "multiply_adds": 5.0}
    ledger = make_ledger(
        make_trial("remix", 0, 0.5, work=one), make_trial("remix", 1, 0.4, work=two),
        make_trial("remix", 2, work=two), make_trial("remix", 3, state="failed", work=two, retried=True),
        make_trial("remix", 4, state="running"), make_trial("joint", 0, 0.5),
        replicates=(
            replicate("remix", 0, "/r", work=one), replicate("remix", 1, "/r", work=one),
            replicate("remix", 2, "/r", work=two, state="failed"), replicate("remix", 3, "/r", work=one, params={}),
        ),
    )  # fmt: skip
    assert [(w.method, w.part, w.runs, w.given) for w in search_data.work(ledger)] == [
        ("joint", "complete trials", 1, {}),
        ("remix", "complete trials", 2, {"epochs": 4.0, "updates/audio": 10.0, "multiply_adds": 5.0}),
        ("remix", "pruned trials", 1, two),
        ("remix", "failed trials", 1, two),
        ("remix", "unfinished trials", 1, {}),
        ("remix", "complete replicates", 2, {"epochs": 6.0, "updates/audio": 20.0}),
        ("remix", "failed replicates", 1, two),
        ("remix", "superseded replicates", 1, one),
    ]


def test_failures_with_the_same_reason_are_one_row(
    make_trial: MakeTrial, make_ledger: MakeLedger, tmp_path: Path
) -> None:
    inside, outside = str(tmp_path / "runs" / "a"), "/elsewhere/b"
    ledger = make_ledger(
        make_trial("remix", 0, 0.5),
        make_trial("remix", 1, state="failed", reason="NaN", cause="not a number", folders=(inside,)),
        make_trial("remix", 2, state="failed", reason="NaN", cause="not a number", retried=True),
        make_trial("remix", 3, state="failed"),  # interrupted and resumed
        replicates=(replicate("remix", 0, outside, state="failed", reason="killed", cause="lost worker"),),
    )
    assert search_data.failures(ledger) == (
        ("remix", "search", "not a number", "NaN", (1, 2), 1, "runs/a"),
        ("remix", "replicate", "lost worker", "killed", (0,), 0, outside),
    )


# --- cost ------------------------------------------------------------------------------------------------------------


def test_cost_is_relative_to_joint_training_per_seed_and_absolute_on_a_gpu_only() -> None:
    def run(train: float, predict: float, **more: float) -> dict[str, float]:
        times = {"time/total_train_s": train - 1, "time/total_score_s": 1.0, "time/inference_s": predict}
        return {"test/accuracy": 0.5, **times, "train/total_multiply_adds": 10 * train, **more}

    joint = Method("a", {}, {0: run(10, 0.5), 1: run(20, 0.25), 7: run(99, 9)}, None, None, None, family=("joint",))
    remix = Method("b", {}, {0: run(15, 0.5), 1: run(50, 0.25)}, None, None, None, family=("remix",))
    result = StudyResult("s", "q", "b", (remix, joint), {}, (), "")
    assert run_data.baseline(result) == "a"
    found, one = run_data.costs(result)
    assert (found.method, one.method) == ("b", "a")
    assert found.training is not None
    assert (found.training.mean, found.multiply_adds, found.inference) == pytest.approx((2.0, 2.0, 1.0))
    assert found.training.low < 2 < found.training.high
    assert (found.training_s, found.inference_s, found.peak_bytes) == (None, None, None)
    assert cost_table([found], "a").without_empty_columns().header == (
        "method", "training time", "multiply-adds of training", "prediction time",
    )  # fmt: skip
    on_gpu = {n: {**s, "memory/peak_bytes": 2e9} for n, s in remix.seeds.items()}
    (there, _) = run_data.costs(result._replace(methods=(remix._replace(seeds=on_gpu), joint)))
    assert (there.training_s, there.inference_s, there.peak_bytes) == pytest.approx((32.5, 0.25, 2e9))
    assert cost_table([there], "a").rows[0][4:] == ("32.5", "250.000", "2.00 GB")
    alone = result._replace(methods=(remix,))
    assert run_data.baseline(alone) == "b"
    assert run_data.costs(alone._replace(reference="gone")) == ()
