"""A full disk that is noticed by a run, by a file of the study or by its database; a damaged corpus"""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from optuna.storages import RDBStorage
from sqlalchemy.exc import OperationalError

from remix_study.config.study import StudyConfig
from remix_study.errors import DamagedStoreError, StoreError
from remix_study.study import budget
from remix_study.study import study as study_module
from remix_study.study.ledger import read_ledger
from remix_study.study.placement import Place
from remix_study.study.study import StudyRun
from remix_study.study.tasks import Outcome, Task

RATE = "optimizer.learning_rate"
FULL = Outcome("failed", (), "OSError: [Errno 28] No space left on device", "disk full")
Ask: TypeAlias = Callable[[], Task | None]
Tell: TypeAlias = Callable[[Task, Outcome], None]


@pytest.fixture
def conduct(small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    config = StudyConfig.model_validate(
        {
            "name": "s",
            "question": "does it survive?",
            "base": {"corpus": "", "epochs": 2, "device": "cpu", "tracking": {"uri": "off"}},
            "space": {RATE: {"kind": "float", "low": 0.001, "high": 0.1}},
            "methods": {"joint": {"set": {"method": {"name": "joint"}}}},
            "reference": "joint", "trials": 4, "replicates": 1,
        }
    )  # fmt: skip

    def run(work: Callable[[Ask, Tell], None], *, retry_failed: bool = False) -> None:
        def execute(
            ask: Ask,
            tell: Tell,
            needs: object,
            folder: Path,
            on_place: Callable[[Place], None],
            epochs_of: Callable[[Task], int],
            stopping: Callable[[], bool],
        ) -> None:
            on_place(Place(1, {}, 1, 0.0, 1))
            work(ask, tell)

        monkeypatch.setattr(study_module, "execute", execute)
        StudyRun(config, {"corpus": str(small_corpus)}, tmp_path, retry_failed=retry_failed).run(nothing)

    return run


def nothing(folder: Path) -> list[Path]:
    assert folder.exists()
    return []


def states(workspace: Path) -> list[tuple[str, str | None]]:
    return [(trial.state, trial.cause) for trial in read_ledger(workspace / "studies" / "s").trials["joint"]]


def next_task(ask: Ask) -> Task:
    task = ask()
    assert task is not None
    return task


def test_no_run_starts_after_one_has_failed_on_a_full_disk(conduct: Callable[..., None], tmp_path: Path) -> None:
    def work(ask: Ask, tell: Tell) -> None:
        tell(next_task(ask), FULL)
        with pytest.raises(StopIteration):
            ask()

    with pytest.raises(StoreError, match=r"Cannot start further runs: the disk of .*/studies/s is full(.|\n)*retry"):
        conduct(work)
    assert states(tmp_path) == [("failed", "disk full")]

    def again(ask: Ask, tell: Tell) -> None:
        tell(next_task(ask), Outcome("failed", (), "other", "other"))

    conduct(again, retry_failed=True)
    assert states(tmp_path) == [("failed", "disk full"), ("failed", "other")]


@pytest.mark.parametrize("prefix", ["", "joint-search-0-1: "], ids=["one seed", "several seeds"])
def test_no_run_starts_after_one_has_found_the_corpus_damaged(
    conduct: Callable[..., None], tmp_path: Path, prefix: str
) -> None:
    words = "The store corpus/store is damaged: audio-00000.npy (its checksum has changed). Build it again."

    def work(ask: Ask, tell: Tell) -> None:
        tell(next_task(ask), Outcome("failed", (), f"{prefix}DamagedStoreError: {words}", "damaged corpus"))
        with pytest.raises(StopIteration):
            ask()

    with pytest.raises(DamagedStoreError) as caught:
        conduct(work)
    assert str(caught.value) == f"{words} Then rerun the command with --retry-failed."
    assert states(tmp_path) == [("failed", "damaged corpus")]


def test_a_full_disk_for_a_file_raises_one_message(
    conduct: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: str | bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def work(ask: Ask, tell: Tell) -> None:
        monkeypatch.setattr(budget, "write_atomically", full)
        ask()

    with pytest.raises(StoreError, match=r"disk (of|that holds) .*/studies/s is full\. .*[Ff]ree space"):
        conduct(work)
    assert states(tmp_path) == [("running", None)]  # it is resumed with the same number


def test_a_full_disk_for_the_database_raises_one_message(
    conduct: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OperationalError("UPDATE trials", {}, Exception("database or disk is full"))

    def work(ask: Ask, tell: Tell) -> None:
        task = next_task(ask)
        with monkeypatch.context() as patch:
            patch.setattr(RDBStorage, "set_trial_state_values", full)
            tell(task, Outcome("failed", (), "other", "other"))

    with pytest.raises(StoreError, match=r"disk (of|that holds) .*/studies/s is full"):
        conduct(work)
    assert [state for state, _ in states(tmp_path)] == ["running"]

    def again(ask: Ask, tell: Tell) -> None:
        tell(next_task(ask), Outcome("complete", ({"best/val_accuracy": 0.5},)))

    conduct(again)
    assert states(tmp_path) == [("complete", None)]  # the end that could not be recorded is missing


def test_other_errors_are_not_reported_as_a_full_disk(conduct: Callable[..., None]) -> None:
    def work(ask: Ask, tell: Tell) -> None:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        conduct(work)
