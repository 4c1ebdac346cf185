"""Atomic writes and exclusive locks"""

import fcntl
import os
from pathlib import Path
from threading import Barrier, Event, Thread
from typing import Any

import pytest

from remix_study.errors import StoreError
from remix_study.files.disk import (
    exclusive_lock,
    is_temporary,
    lock_holder,
    move_into_place,
    temporary_path,
    write_atomically,
)


def test_the_error_of_a_second_process_names_the_first(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    assert lock_holder(lock) is None
    with exclusive_lock(lock):
        assert lock_holder(lock) == str(os.getpid())
        with pytest.raises(StoreError, match=f"process {os.getpid()} is using the folder"), exclusive_lock(lock):
            pass
    assert lock_holder(lock) is None
    with exclusive_lock(lock):
        pass


def test_asking_for_the_holder_does_not_prevent_locking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`lock_holder` shares the lock for some microseconds; here, during the first tries of `exclusive_lock`."""
    lock = tmp_path / "lock"
    lock.touch()
    calls = []
    with lock.open() as shared:
        fcntl.flock(shared, fcntl.LOCK_SH)
        real = fcntl.flock

        def counted(file: Any, how: int) -> None:
            calls.append(how)
            if len(calls) == 5:
                real(shared, fcntl.LOCK_UN)
            real(file, how)

        monkeypatch.setattr(fcntl, "flock", counted)
        with exclusive_lock(lock):
            assert len(calls) > 5


def test_one_of_many_processes_gets_the_lock_while_others_ask_for_its_holder(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.touch()
    ready, tried, done = Barrier(4), Barrier(4), Event()
    outcomes: list[str] = []

    def start() -> None:
        ready.wait(30)
        try:
            with exclusive_lock(lock):
                outcomes.append("locked")
                tried.wait(30)  # keep the lock until all others have tried
        except StoreError:
            outcomes.append("refused")
            tried.wait(30)

    def ask() -> None:
        while not done.is_set():
            lock_holder(lock)

    askers = [Thread(target=ask) for _ in range(3)]
    starters = [Thread(target=start) for _ in range(4)]
    for thread in askers + starters:
        thread.start()
    for thread in starters:
        thread.join(30)
    done.set()
    for thread in askers:
        thread.join(30)
    assert sorted(outcomes) == ["locked", "refused", "refused", "refused"]


def opened_file(descriptor: int) -> Path:
    return Path(f"/proc/self/fd/{descriptor}").readlink()


def test_a_file_is_synced_before_the_rename_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "result.json"
    synced: list[tuple[str, str | None]] = []

    def fsync(descriptor: int) -> None:
        content = path.read_text() if path.exists() else None
        synced.append((opened_file(descriptor).relative_to(tmp_path).as_posix(), content))

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomically(path, "new")
    assert synced == [(".result.json.part", None), (".", "new")]
    assert [each.name for each in tmp_path.iterdir()] == ["result.json"]


@pytest.mark.parametrize(
    ("content", "written"),
    [("\u00e9 is text", b"\xc3\xa9 is text"), (b"bytes", b"bytes"), ((b"par", b"ts"), b"parts")],
)
def test_text_bytes_and_parts_are_written(
    tmp_path: Path, content: str | bytes | tuple[bytes, ...], written: bytes
) -> None:
    write_atomically(tmp_path / "a", content)
    assert (tmp_path / "a").read_bytes() == written


def test_an_error_keeps_the_old_file_and_removes_the_temporary_one(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", "old")
    with pytest.raises(ZeroDivisionError):
        write_atomically(tmp_path / "a", (bytes(1 // part) for part in (1, 0)))
    assert (tmp_path / "a").read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


def test_every_file_of_a_folder_is_synced_before_the_folder_is_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part, path = temporary_path(tmp_path / "arrays"), tmp_path / "arrays"
    (part / "train").mkdir(parents=True)
    (part / "train" / "audio.npy").write_bytes(b"x")
    synced: list[tuple[str, bool]] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append((opened_file(fd).name, path.exists())))
    move_into_place(part, path)
    assert sorted(synced[:-1]) == [(".arrays.part", False), ("audio.npy", False), ("train", False)]
    assert synced[-1] == (tmp_path.name, True)
    assert (path / "train" / "audio.npy").read_bytes() == b"x"


def test_temporary_files_of_this_and_of_old_versions_are_recognised() -> None:
    new = [temporary_path(Path("a/b.json")), temporary_path(Path("a/b.json"), "pulled")]
    assert [str(path) for path in new] == ["a/.b.json.part", "a/.b.json.pulled.part"]
    assert all(is_temporary(name) for name in [*(path.name for path in new), "last.partial", "mlflow.db.new", "a.part"])
    assert not any(is_temporary(name) for name in ("last.pt", "result.json", "partial", "new", "part"))
