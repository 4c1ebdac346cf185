import csv
import io
import math

import pytest

from remix_study.report.run_data import Band
from remix_study.report.search_data import Budget, Failure, Work
from remix_study.report.search_tables import (
    budget_table,
    chosen_table,
    curves_table,
    failures_table,
    importances_table,
    trials_table,
    work_table,
)
from remix_study.report.table import Table, to_csv, to_markdown
from remix_study.report.tables import (
    accuracy_table,
    balance_table,
    combinations_table,
    comparison_table,
    details_table,
    differences_table,
    groups,
    methods_table,
    sufficiency_table,
)
from remix_study.statistics import Estimate
from remix_study.study.comparison import Ceiling, Combination, Method, Part, StudyResult
from remix_study.study.outcomes import Paired
from tests.unit.report.conftest import MakeLedger, MakeStudy, MakeTrial


def summary(accuracy: float, seconds: float, **probes: float) -> dict[str, float]:
    found = {"test/accuracy": accuracy, "time/total_train_s": seconds - 1, "time/total_score_s": 1.0}
    return found | {f"probe/accuracy/{m}": value for m, value in probes.items()}


@pytest.fixture
def result() -> StudyResult:
    joint = {
        n: summary(a, 10, audio=0.5, video=0.6) | {"test/accuracy_last": 0.7, "test/accuracy_best": a}
        for n, a in ((0, 0.90), (1, 0.80))
    }
    remix = {
        n: summary(a, 5, audio=0.7, video=0.6)
        | {"test/accuracy_late_sum": a, "test/accuracy_late_calibrated": a + 0.015, "test/balanced_accuracy": 0.81}
        for n, a in ((0, 0.92), (1, 0.84))
    }
    alone = {0: summary(0.95, 2, audio=0.8)}
    methods = (
        Method("joint", {}, joint, None, None, Paired(3.0, 1.4142, -9.7, 15.7, 2, 2, 99, None, 0.205, 0.41, 0.5)),
        Method("audio_alone", {}, alone, "audio", None, Paired(-3.0, 0.0, -math.inf, math.inf, 0, 1)),
        Method(
            "remix",
            {},
            remix,
            None,
            None,
            None,
            estimates={
                "test/accuracy": Estimate(0.88, 0.80, 0.96, None, 5.0, True),
                "sufficiency/probe_ratio/audio": Estimate(0.875, 0.85, 0.9, None, 1.0, True),
            },
        ),
    )
    return StudyResult("s", "does it help?", "remix", methods, {"audio": Ceiling(0.95, 0.8)}, (), "It is open.")


def test_accuracy_is_best_first_with_ceilings_last(result: StudyResult) -> None:
    table = accuracy_table(result)
    assert table.header == (
        "method", "accuracy", "late sum", "calibrated late product", "remix ahead by", "wins", "time",
    )  # fmt: skip
    assert table.rows == (
        ("remix", "88.0 ± 8.0", "88.0", "89.5", "", "", "0.50x"),
        ("joint", "85.0 ± 63.5", "", "", "+3.0 ± 12.7", "2/2", "1.00x"),  # t(0.975, 1) = 12.7
        ("audio_alone", "95.0", "", "", "-3.0", "0/1", "0.20x"),  # one seed has no interval
    )
    assert [row[1:3] for row in details_table(result).rows] == [("81.0", ""), ("", "70.0"), ("", "")]


def test_a_late_product_of_probes_is_marked() -> None:
    probed = Method("joint", {}, {0: {"test/accuracy": 0.5, "test/accuracy_late_calibrated": 0.75}}, None, None, None)
    result = StudyResult("s", "q", "joint", (probed, probed._replace(name="audio", ceiling_of="audio")), {}, (), "")
    assert [row[3] for row in accuracy_table(result).rows] == ["75.0 (probes)", "75.0"]


def test_methods_are_sorted_by_family_with_controls_and_ceilings_last() -> None:
    rows = [
        ("random", 0.99, ("remix",), None, "choosing"),
        ("joint", 0.6, ("joint",), None, None),
        ("both", 0.8, ("remix", "ogm_ge"), None, None),
        ("audio", 0.95, ("unimodal",), "audio", None),
        ("ogm_ge", 0.9, ("joint", "ogm_ge"), None, None),
        ("remix", 0.85, ("remix",), None, None),
    ]
    methods = tuple(
        Method(name, {}, {0: {"test/accuracy": accuracy}}, alone, control, None, family=family)
        for name, accuracy, family, alone, control in rows
    )
    result = StudyResult("s", "q", "remix", methods, {}, (), "")
    found = [(row[0], row[-1]) for row in methods_table(result, {}).rows]
    assert found == [
        ("ogm_ge", "joint + ogm_ge"), ("joint", "joint"), ("remix", "remix"), ("both", "remix + ogm_ge"),
        ("random", "remix"), ("audio", "unimodal"),
    ]  # fmt: skip
    assert [len(group) for group in groups(result)] == [2, 2, 1, 1]
    assert [row[-1] for row in comparison_table(result).rows] == [family for _, family in found]


def test_combinations_have_a_row_for_each_part_and_control() -> None:
    ahead = Paired(2.0, 1.0, 0.5, 3.5, 4, 5, 99, None, 0.01, 0.04, 0.06)
    part, control = Part("remix", "ogm_ge", ahead), Part("permuted", "choosing", ahead._replace(low=-0.5), True)
    found = StudyResult("s", "q", "remix", (), {}, (), "", combinations=(Combination("both", (part,), (control,)),))
    table = combinations_table(found)
    assert table.rows == (
        ("both", "remix", "ogm_ge", "+2.0", "+0.5 to +3.5", "4/5", "0.010", "0.040", "0.060", "ahead"),
        ("both", "permuted", "choosing", "+2.0", "-0.5 to +3.5", "4/5", "0.010", "0.040", "0.060", "not significant"),
    )
    assert len(table.header) == len(table.rows[0])


def test_unknown_sufficiency_is_an_empty_cell(result: StudyResult) -> None:
    table = sufficiency_table(result)
    assert table.header == ("method", "audio probe", "audio sufficiency", "video probe", "video sufficiency")
    assert table.rows == (
        ("remix", "70.0 ± 0.0", "87.5 ± 2.5", "60.0 ± 0.0", ""),
        ("joint", "50.0 ± 0.0", "", "60.0 ± 0.0", ""),
        ("audio_alone", "80.0", "", "", ""),
    )


def test_columns_without_any_cell_are_not_shown(result: StudyResult) -> None:
    table = sufficiency_table(result)
    shown = table.without_empty_columns()
    assert shown.header == ("method", "audio probe", "audio sufficiency", "video probe")
    assert shown.rows[1] == ("joint", "50.0 ± 0.0", "", "60.0 ± 0.0")
    assert table._replace(rows=()).without_empty_columns().header == table.header


def test_the_comparison_joins_both_tables(result: StudyResult) -> None:
    table = comparison_table(result)
    assert table.title == "does it help?"
    assert len(table.header) == 7 + 2 + 4 + 1
    assert all(len(row) == 14 for row in table.rows)
    rows = list(csv.reader(io.StringIO(to_csv(table))))
    assert tuple(map(tuple, rows)) == (table.header, *table.rows)
    markdown = to_markdown(table).splitlines()
    assert markdown[0] == "| " + " | ".join(table.header) + " |"
    assert markdown[1].count("---") == 14
    assert len(markdown) == 5


def test_csv_quotes_commas_and_newlines() -> None:
    table = Table("t", ("a, b", "c"), (('say "x"', "1"),))
    assert list(csv.reader(io.StringIO(to_csv(table)))) == [["a, b", "c"], ['say "x"', "1"]]


def test_the_methods_table_has_the_statistics_of_every_method(result: StudyResult) -> None:
    table = methods_table(result, {"remix": 8, "joint": 7})
    by_name = {row[0]: dict(zip(table.header, row, strict=True)) for row in table.rows}
    assert list(by_name) == ["remix", "joint", "audio_alone"]
    assert by_name["joint"] == {
        "method": "joint", "family": "", "role": "other", "trials": "7", "seeds": "2", "test accuracy": "85.0",
        "95 % interval": "21.5 to 100.0", "std over seeds": "7.1", "balanced accuracy": "", "macro-F1": "",
        "last epoch": "70.0", "training time": "1.00x", "late sum": "", "calibrated late product": "",
    }  # fmt: skip
    assert (by_name["remix"]["role"], by_name["audio_alone"]["role"]) == ("reference", "audio alone")


def test_the_table_of_differences_has_the_statistics_of_every_comparison(result: StudyResult) -> None:
    there = Paired(-1.0, 1.0, -3.0, -0.5, 0, 5, 99, None, 0.01, 0.02, 0.06)
    result = result._replace(methods=tuple(c._replace(other_epoch=there) if c.name == "joint" else c
                                           for c in result.methods))  # fmt: skip
    table = differences_table(result)
    by_name = {row[0]: dict(zip(table.header, row, strict=True)) for row in table.rows}
    assert list(by_name) == ["joint", "audio_alone"]
    assert by_name["joint"] == {
        "method": "joint", "remix ahead by": "+3.0", "95 % interval": "-9.7 to +15.7", "wins": "2/2", "p": "0.205",
        "p (Holm)": "0.410", "p (sign flip)": "0.500", "verdict": "no verdict",
        "ahead by, last epoch": "-1.0", "verdict, last epoch": "behind",
    }  # fmt: skip
    # Of one seed there is a difference, and no more.
    alone = by_name["audio_alone"]
    keys = ("remix ahead by", "95 % interval", "p", "p (sign flip)", "verdict")
    assert [alone[k] for k in keys] == ["-3.0", "", "", "", ""]


def test_replicates_that_failed_are_counted_and_the_worst_case_is_shown(result: StudyResult) -> None:
    methods = tuple(c._replace(failed=(2, 3)) if c.name == "joint" else c for c in result.methods)
    table = methods_table(result._replace(methods=methods), {})
    cells = {row[0]: dict(zip(table.header, row, strict=True)) for row in table.rows}
    assert [cells["joint"][k] for k in ("seeds", "failures as 0")] == ["2 of 4", "42.5"]
    assert [cells["remix"][k] for k in ("seeds", "failures as 0")] == ["2", ""]


def test_the_column_of_the_other_epoch_follows_the_selected_one(result: StudyResult) -> None:
    table = details_table(result._replace(select="last"))
    assert table.header[2] == "best epoch"
    assert [row[2] for row in table.rows] == ["", "85.0", ""]


def test_replicates_without_times_or_accuracy_leave_cells_empty() -> None:
    bare = Method("remix", {}, {0: {"test/accuracy": 0.5}, 1: {"test/accuracy": 0.6}}, None, None, None)
    result = StudyResult("s", "q", "remix", (bare,), {}, (), "")
    assert accuracy_table(result).rows == (("remix", "55.0 ± 63.5", "", "", "", "", ""),)
    assert balance_table(result).rows == ()


def test_balance_has_metrics_of_at_least_one_method() -> None:
    seeds = {n: {"test/accuracy": 0.5, "test_balance/imbalance": v} for n, v in ((0, 0.3), (1, 0.5))}
    bare = Method("joint", {}, {0: {"test/accuracy": 0.5}}, None, None, None)
    result = StudyResult("s", "q", "remix", (Method("remix", {}, seeds, None, None, None), bare), {}, (), "")
    table = balance_table(result)
    assert table.header == ("method", "Shapley imbalance (0 to 1)")
    assert table.rows == (("remix", "0.400 ± 1.271"),)


def test_the_titles_name_what_methods_were_not_given_alike(result: StudyResult) -> None:
    unequal = result._replace(
        unequal=("epochs is 10 for joint; 20 for remix (why)", "trials: 2 for joint, 3 for remix")
    )
    for title in (accuracy_table(unequal).title, methods_table(unequal, {}).title):
        assert title.endswith(". Not an equal comparison: methods differ in epochs, trials")
    assert "equal" not in accuracy_table(result).title


def test_the_work_of_every_method_is_shown_by_part() -> None:
    given = {
        "epochs": 24.0,
        "updates/audio": 1234.0,
        "samples/audio": 5e5,
        "updates/video": 7.0,
        "multiply_adds": 3.2e12,
    }
    table = work_table([Work("remix", "pruned trials", 3, given), Work("old", "replicates", 1, {})])
    assert table.header == (
        "method", "part", "runs", "epochs", "updates of audio", "updates of video", "samples of audio",
        "samples of video", "multiply-adds",
    )  # fmt: skip
    assert table.rows == (
        ("remix", "pruned trials", "3", "24", "1,234", "7", "500,000", "", "3.20e+12"),
        ("old", "replicates", "1", "", "", "", "", "", ""),  # an older version recorded nothing
    )


def test_the_budget_shows_finished_and_planned_trials() -> None:
    table = budget_table([Budget("remix", 5, 2, 1, 1, 0, 3, 7200.0, 90.0, 0.0)], trials=10, replicates=5)
    assert dict(zip(table.header, table.rows[0], strict=True)) == {
        "method": "remix", "trials": "8/10", "complete": "5", "pruned": "2", "failed": "1", "retried": "1",
        "running": "0", "replicates": "3/5", "search time": "2.0 h", "replicate time": "1.5 min", "retrain time": "",
    }  # fmt: skip


def test_tables_of_trials(make_study: MakeStudy, make_trial: MakeTrial, make_ledger: MakeLedger) -> None:
    objective = ["best/val_accuracy", {"metric": "best/balance_imbalance", "direction": "minimize"}]
    ledger = make_ledger(
        make_trial("joint", 0),
        make_trial("remix", 0, 0.75, 0.125, params={"a": 0.012345678, "b": None}),
        make_trial("remix", 1, state="failed", reason="NaN", cause="not a number"),
        study=make_study(objective=objective),
    )
    chosen = chosen_table(ledger)
    objectives = ("validation accuracy, best epoch", "Shapley imbalance, best epoch")
    assert chosen.header == ("method", "trial", *objectives, "chosen configuration")
    assert chosen.rows == (("remix", "0", "75.00 %", "0.125", "a = 0.01235, b = None"),)
    trials = trials_table(ledger)
    assert trials.header[:7] == (
        "method",
        "number",
        "state",
        "best/val_accuracy",
        "best/balance_imbalance",
        "seconds",
        "cause",
    )
    assert trials.header[7:] == ("optimizer.learning_rate", "a", "b")
    assert [row[:7] for row in trials.rows] == [
        ("joint", "0", "pruned", "", "", "10.0", ""),
        ("remix", "0", "complete", "0.75", "0.125", "10.0", ""),
        ("remix", "1", "failed", "", "", "10.0", "not a number"),
    ]
    assert trials.rows[1][7:] == ("", "0.012345678", "None")


def test_tables_of_failures_importances_and_curves() -> None:
    failed = Failure("remix", "search", "other", "killed", tuple(range(10)), 2, "runs/a")
    assert failures_table([failed]).rows == (
        ("remix", "search", "other", "10", "2", "0, 1, 2, 3, 4, 5, 6, 7 and 2 more", "killed", "runs/a"),
    )
    assert importances_table({"remix": {"a": 0.75}}).rows == (("remix", "a", "75.0"),)
    curves = curves_table({"val/accuracy": [Band("remix", (0, 2), (0.5, 0.6), (0.4, 0.5), (0.6, 0.7), 3)]})
    assert curves.rows == (
        ("val/accuracy", "remix", "0", "0.5", "0.4", "0.6", "3"),
        ("val/accuracy", "remix", "2", "0.6", "0.5", "0.7", "3"),
    )


def test_free_text_cannot_break_a_table() -> None:
    table = Table("t", ("a|b", "c"), (("x | y\nz", "=1+1"), ("-0.5", "back\\|slash")))
    assert to_markdown(table).splitlines() == [
        r"| a\|b | c |", "|---|---|", r"| x \| y z | =1+1 |", r"| -0.5 | back\\\|slash |",
    ]  # fmt: skip
    assert list(csv.reader(io.StringIO(to_csv(table)))) == [
        ["a|b", "c"], ["x | y\nz", "'=1+1"], ["-0.5", "back\\|slash"],
    ]  # fmt: skip


def test_a_ceiling_of_a_study_with_two_objectives_has_one_value(
    make_study: MakeStudy, make_ledger: MakeLedger, make_trial: MakeTrial
) -> None:
    two = ["best/val_accuracy", {"metric": "best/balance_imbalance", "direction": "minimize"}]
    alone = {"set": {"method": {"name": "unimodal", "modality": "audio"}}, "ceiling_of": "audio"}
    study = make_study(objective=two, methods={"audio_alone": alone, "remix": {}})
    table = trials_table(make_ledger(make_trial("audio_alone", 0, 0.6), make_trial("remix", 0, 0.8, 0.1), study=study))
    assert {len(row) for row in table.rows} == {len(table.header)}
    row = dict(zip(table.header, table.rows[0], strict=True))
    assert (row["best/val_accuracy"], row["best/balance_imbalance"], row["seconds"]) == ("0.6", "", "10.0")
