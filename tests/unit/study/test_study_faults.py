"""A study survives a full disk, an error of the disk, or a kill at any operation on its files"""

import contextlib
import errno
import functools
import itertools
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage

from remix_study.study import progress
from remix_study.study.storage import open_storage
from tests.faults import KINDS, Faults, at_every_operation
from tests.small_studies import points_of, quick_studies, results_of, run_small, small

STUDY = small(
    methods={
        "remix": {"set": {"method": {"name": "remix", "warmup": 1}}, "first": [{"optimizer.learning_rate": 0.003}]}
    }
)


@pytest.fixture(autouse=True)
def _quick() -> Iterator[None]:
    with quick_studies():
        yield


def check_against(whole: Path) -> Callable[[Path, bool], None]:
    """Return a check that a study, once it is started again, equals the uninterrupted one in `whole`."""
    wanted, results = points_of(whole), results_of(whole)

    def check(workspace: Path, succeeded: bool) -> None:
        before = points_of(workspace)
        if succeeded:
            assert before == wanted
        again = run_small(workspace, STUDY)
        assert points_of(workspace) == wanted
        assert results_of(workspace) == results
        ended = {number for trials in before.values() for number, state, *_ in trials if state == "complete"}
        assert not ended & {task.number for task in again.ran if task.stage == "search"}

    return check


@pytest.mark.slow
@pytest.mark.parametrize(("how", "ever"), KINDS)
def test_a_second_start_completes_a_study_whose_files_failed(tmp_path: Path, how: int | str, ever: bool) -> None:
    run_small(tmp_path / "whole", STUDY)
    steps = at_every_operation(
        lambda workspace: run_small(workspace, STUDY), check_against(tmp_path / "whole"),
        lambda number: tmp_path / str(number), how, ever,
    )  # fmt: skip
    assert steps > 100


@pytest.mark.slow
@pytest.mark.parametrize("first", [10, 70])
@pytest.mark.parametrize("how", [errno.ENOSPC, "killed"])
def test_a_study_survives_a_second_fault_while_it_resumes(tmp_path: Path, first: int, how: int | str) -> None:
    run_small(tmp_path / "whole", STUDY)

    def interrupted(number: int) -> Path:
        workspace = tmp_path / str(number)
        with Faults(first, "killed").injected(), pytest.raises(BaseException):  # noqa: B017, PT011 - any
            run_small(workspace, STUDY)
        return workspace

    at_every_operation(
        lambda workspace: run_small(workspace, STUDY), check_against(tmp_path / "whole"), interrupted, how, ever=False,
        first=first % 3 + 1, step=3,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("at", [5, 33, 61, 90])
def test_a_study_survives_a_real_kill(tmp_path: Path, at: int) -> None:
    run_small(tmp_path / "whole", STUDY)
    process = os.fork()
    if process == 0:
        try:
            with Faults(at, "killed", fatal=functools.partial(os.kill, os.getpid(), signal.SIGKILL)).injected():
                run_small(tmp_path / "killed", STUDY)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
    lock = tmp_path / "killed" / "studies" / "s" / "optuna.journal.lock"
    lock.unlink(missing_ok=True)  # Optuna takes it over after 30 s
    check_against(tmp_path / "whole")(tmp_path / "killed", False)


@pytest.mark.parametrize(("how", "ever"), KINDS)
def test_a_journal_stays_readable_after_a_torn_write(tmp_path: Path, how: int | str, ever: bool) -> None:
    """Optuna would append to half a line, and then could read neither that line nor any line after it."""

    def place(number: int) -> Path:
        (tmp_path / str(number)).mkdir()
        open_storage("journal", tmp_path / str(number)).create_new_study([], "before")
        return tmp_path / str(number)

    def names(folder: Path) -> list[str]:
        return [study.study_name for study in open_storage("journal", folder).get_all_studies()]

    def work(folder: Path) -> None:
        open_storage("journal", folder).create_new_study([], "new")

    def check(folder: Path, succeeded: bool) -> None:
        assert names(folder) in ([["before", "new"]] if succeeded else [["before"], ["before", "new"]])
        open_storage("journal", folder).create_new_study([], "after")
        assert [name for name in names(folder) if name != "new"] == ["before", "after"]

    assert at_every_operation(work, check, place, how, ever) >= 2


class Deaf:
    """A storage, of which the answer of call number `at` that changes something is lost."""

    def __init__(self, storage: BaseStorage, at: int) -> None:
        self.storage, self.at, self.calls = storage, at, 0

    def __getattr__(self, name: str) -> Any:
        real = getattr(self.storage, name)
        if not name.startswith(("create_", "set_")):
            return real

        def call(*args: Any, **options: Any) -> Any:
            result = real(*args, **options)
            self.calls += 1
            if self.calls == self.at:
                raise StorageInternalError("the server closed the connection")
            return result

        return call


@pytest.mark.slow
def test_a_second_start_completes_a_study_whose_database_lost_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_small(tmp_path / "whole", STUDY)
    check = check_against(tmp_path / "whole")
    made: list[Deaf] = []

    def deaf(at: int) -> Callable[..., Any]:
        def opened(storage: str | None, folder: Path, **options: Any) -> Any:
            made.append(Deaf(open_storage(storage, folder, **options), at))
            return made[-1]

        return opened

    for at in itertools.count(1):
        workspace = tmp_path / str(at)
        with monkeypatch.context() as patch, contextlib.suppress(StorageInternalError):
            patch.setattr(progress, "open_storage", deaf(at))
            run_small(workspace, STUDY)
            break
        check(workspace, False)
    assert made[-1].calls > 15
