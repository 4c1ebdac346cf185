import csv
import io
from pathlib import Path

import pytest

from remix_study.report.present import present, write
from remix_study.report.tables import Table, accuracy_table, comparison_table, sufficiency_table, to_csv, to_markdown
from remix_study.study.results import Ceiling, Contender, Paired, StudyResult


def summary(accuracy: float, seconds: float, **probes: float) -> dict[str, float]:
    found = {"test/accuracy": accuracy, "time/total_train_s": seconds - 1, "time/total_score_s": 1.0}
    return found | {f"probe/accuracy/{m}": value for m, value in probes.items()}


@pytest.fixture
def result() -> StudyResult:
    joint = {n: summary(a, 10, audio=0.5, video=0.6) for n, a in ((0, 0.90), (1, 0.80))}
    remix = {
        n: summary(a, 5, audio=0.7, video=0.6) | {"test/accuracy_late_sum": a, "sufficiency/probe_ratio/audio": 0.875}
        for n, a in ((0, 0.92), (1, 0.84))
    }
    alone = {0: summary(0.95, 2, audio=0.8)}
    contenders = (
        Contender("joint", {}, joint, None, None, Paired(3.0, 1.4142, -9.7, 15.7, 2, 2)),
        Contender("audio_alone", {}, alone, "audio", None, Paired(-3.0, 0.0, -1, 1, 0, 1)),
        Contender("remix", {}, remix, None, None, None),
    )
    return StudyResult("s", "does it help?", "remix", contenders, {"audio": Ceiling(0.95, 0.8)}, (), "It is open.")


def test_accuracy_is_best_first_with_ceilings_last(result: StudyResult) -> None:
    table = accuracy_table(result)
    assert table.header == ("method", "test accuracy", "remix ahead by", "wins", "late sum", "training time")
    assert table.rows == (
        ("remix", "88.0 ± 5.7", "", "", "88.0 ± 5.7", "0.50x"),
        ("joint", "85.0 ± 7.1", "+3.0 ± 1.4", "2/2", "", "1.00x"),
        ("audio_alone", "95.0 ± 0.0", "-3.0 ± 0.0", "0/1", "", "0.20x"),
    )


def test_sufficiency_leaves_out_what_is_not_known(result: StudyResult) -> None:
    table = sufficiency_table(result)
    assert table.header == ("method", "audio probe", "audio sufficiency", "video probe", "video sufficiency")
    assert table.rows == (
        ("remix", "70.0 ± 0.0", "87.5 ± 0.0", "60.0 ± 0.0", ""),
        ("joint", "50.0 ± 0.0", "", "60.0 ± 0.0", ""),
        ("audio_alone", "80.0 ± 0.0", "", "", ""),
    )


def test_files_hold_both_tables_as_one(result: StudyResult) -> None:
    table = comparison_table(result)
    assert table.title == "does it help?"
    assert len(table.header) == 6 + 4
    assert all(len(row) == 10 for row in table.rows)
    rows = list(csv.reader(io.StringIO(to_csv(table))))
    assert tuple(map(tuple, rows)) == (table.header, *table.rows)
    markdown = to_markdown(table).splitlines()
    assert markdown[0] == "| " + " | ".join(table.header) + " |"
    assert markdown[1].count("---") == 10
    assert len(markdown) == 5


def test_csv_quotes_what_it_must() -> None:
    table = Table("t", ("a, b", "c"), (('say "x"', "1"),))
    assert list(csv.reader(io.StringIO(to_csv(table)))) == [["a, b", "c"], ['say "x"', "1"]]


def test_presentation_is_text_and_picture(result: StudyResult, tmp_path: Path) -> None:
    shown = present(result)
    assert set(shown.texts) == {"comparison.csv", "comparison.md"}
    assert shown.texts["comparison.md"].rstrip().endswith("It is open.")
    write(shown, tmp_path)
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "comparison.csv").read_text().startswith("method,test accuracy,")
