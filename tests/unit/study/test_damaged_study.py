"""Commands on a study whose files are damaged or gone: one sentence or a warning that names the file, and no loss"""

import json
import logging
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from remix_study.cli import main as cli
from remix_study.errors import RemixStudyError, StoreError
from remix_study.launch.folder import RunFolder
from remix_study.study.budget import CLOCK
from remix_study.study.ledger import read_ledger
from remix_study.study.question import QUESTION
from remix_study.study.status import study_status
from tests.small_studies import points_of, quick_studies, run_small, small

FILES = {"journal": "optuna.journal", None: "optuna.db"}
READERS = (("status", "s"), ("best", "s"), ("report", "s"), ("export", "s"), ("list",))
Say = Callable[..., tuple[int, str]]


@pytest.fixture(
    scope="module", params=["journal", pytest.param(None, marks=pytest.mark.slow)], ids=list(FILES.values())
)
def complete(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A workspace with a complete study, and the name of the file of its trials."""
    workspace = tmp_path_factory.mktemp("complete")
    with quick_studies():
        run_small(workspace, small(storage=request.param))
        yield workspace, FILES[request.param]


@pytest.fixture
def study(complete: tuple[Path, str], tmp_path: Path) -> Path:
    """The folder of a copy of the complete study."""
    shutil.copytree(complete[0], tmp_path / "w")
    return tmp_path / "w" / "studies" / "s"


@pytest.fixture
def say(study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    def run(*words: str) -> tuple[int, str]:
        """Run a command in this process; return its exit status and what it prints."""
        monkeypatch.setattr(sys, "argv", ["remix-study", *words, "--workspace", str(study.parents[1])])
        code: Any = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        shown = capsys.readouterr()
        return code, shown.out + shown.err

    return run


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:9000].rstrip(b"\n")[:-2] + b"\n")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "gone": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "of another program": lambda path: path.write_bytes(b"garbage\n" * 100),
    "truncated": truncate,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_lost_trials_are_reported_and_no_file_of_the_study_is_replaced(
    damage: str, complete: tuple[Path, str], study: Path, say: Say
) -> None:
    name = complete[1]
    DAMAGES[damage](study / name)
    before = {path: path.read_bytes() for path in study.rglob("*") if path.is_file()}
    for words in READERS:
        code, shown = say(*words)
        assert code == 1, (words, shown)
        assert shown.startswith(f"error: Cannot read the trials of the study s from {study / name}: "), shown
        assert "Restore the file from a copy" in shown
    with quick_studies(), pytest.raises(StoreError, match="Cannot read the trials"):
        run_small(study.parents[1], small(storage=None if name == "optuna.db" else "journal"))
    after = {path: path.read_bytes() for path in study.rglob("*") if path.is_file()}
    changing = {study / "lock", study / CLOCK, *study.glob("optuna.*")}
    assert {path: after.get(path) for path in before if path not in changing} == {
        path: content for path, content in before.items() if path not in changing
    }


@pytest.mark.parametrize("complete", ["journal"], indirect=True, ids=["optuna.journal"])
def test_a_damaged_line_of_a_journal_is_found_also_in_its_middle(complete: tuple[Path, str], study: Path) -> None:
    lines = (study / complete[1]).read_bytes().split(b"\n")
    lines[3] = lines[3][:-5]
    (study / complete[1]).write_bytes(b"\n".join(lines))
    with pytest.raises(StoreError, match="a line is not JSON"):
        read_ledger(study)


@pytest.mark.parametrize("name", [CLOCK, QUESTION])
@pytest.mark.parametrize("content", ["", "{", "[]", "junk"])
def test_a_damaged_record_of_a_study_is_named(name: str, content: str, study: Path) -> None:
    (study / name).write_text(content)
    with quick_studies(), pytest.raises(RemixStudyError, match=f"Cannot read {study / name}, .* Restore it"):
        run_small(study.parents[1], read_ledger(study).study)


@pytest.mark.parametrize(
    "words", [pytest.param(w, marks=[pytest.mark.slow] * (w[0] == "report"), id=w[0]) for w in READERS]
)
def test_damaged_files_of_runs_are_skipped_with_a_warning(
    words: tuple[str, ...], study: Path, say: Say, caplog: pytest.LogCaptureFixture
) -> None:
    runs = sorted((study / "runs").iterdir())
    for run in runs:
        with (run / "history.jsonl").open("ab") as file:
            file.write(b"\xff garbage\n")
        (run / "config.yaml").write_text("][")
        for name in ("decisions.parquet", "predictions.parquet"):
            (run / name).write_bytes(b"PAR1 garbage")
    code, shown = say(*words)
    assert code == 0, shown
    assert "Traceback" not in shown
    if words[0] == "export":
        warnings = " ".join(caplog.messages)
        assert all(f"{run / 'history.jsonl'} from line 4 on" in warnings for run in runs)
        assert all(f"Leaving out {run / 'predictions.parquet'}" in warnings for run in runs if "replicate" in run.name)


def test_epochs_before_a_damaged_line_are_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    lines = [json.dumps({"epoch": float(epoch)}) for epoch in range(4)]
    (tmp_path / "history.jsonl").write_text("\n".join([*lines[:2], lines[2][:5], lines[3], "unfinished"]))
    assert [record["epoch"] for record in RunFolder(tmp_path).history] == [0.0, 1.0]
    assert caplog.messages == [f"Ignoring {tmp_path / 'history.jsonl'} from line 3 on, which is damaged."]


def test_a_study_that_has_not_begun_needs_no_file_of_trials(tmp_path: Path) -> None:
    with quick_studies():
        run_small(tmp_path, small())
        folder = tmp_path / "studies" / "s"
        shutil.rmtree(folder / "runs")
        (folder / "optuna.journal").unlink()
        assert study_status(folder).runs_ended == 0
        run_small(tmp_path, small())
    assert {len(trials) for trials in points_of(tmp_path).values()} == {2}


def test_a_damaged_study_does_not_hide_the_others_of_its_workspace(study: Path, say: Say) -> None:
    shutil.copytree(study, study.with_name("t"))
    (study / "study.yaml").write_text("not: [a study\n")
    code, text = say("list")
    assert code == 1
    assert f"{study / 'study.yaml'}" in text.replace("\n", "")
    assert "complete" in text
    assert "Traceback" not in text
    (study.with_name("t") / "study.yaml").write_text("")
    assert say("list")[1].count("error: ") == 1
