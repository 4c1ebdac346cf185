"""Every answer of a service may be lost after it has done the work: doing it again changes nothing"""

import itertools
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from remix_study.errors import SourceError
from remix_study.files.mirror import Mirror
from remix_study.files.remote_folder import RemoteFolder

CHANGES = ("put_file", "rm_file", "makedirs")


class Deaf(MemoryFileSystem):  # type: ignore[misc]  # fsspec ships no types
    """A service in memory, of which the answer of call number `at` that changes something is lost."""

    cachable = False

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at, self.calls = at, 0

    def __getattribute__(self, name: str) -> Any:
        real = super().__getattribute__(name)
        if name not in CHANGES:
            return real

        def call(*args: Any, **options: Any) -> Any:
            result = real(*args, **options)
            self.calls += 1
            if self.calls == self.at:
                raise ConnectionResetError("reset by peer")
            return result

        return call


def content(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in sorted(folder.rglob("*"))
            if path.is_file() and not path.name.startswith(".")}  # fmt: skip


def change(folder: Path) -> None:
    """Write, change and delete files of a study's folder."""
    for name in ("runs/a/history.jsonl", "runs/a/result.json", "optuna.journal", "new.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"new {name}")
    (folder / "old.txt").unlink()


def test_a_push_whose_answer_was_lost_is_repeated_without_a_difference(tmp_path: Path) -> None:
    for at in itertools.count(1):
        url, here = f"memory://{uuid.uuid4().hex}", tmp_path / f"here-{at}"
        here.mkdir()
        for name in ("old.txt", "new.txt"):
            (here / name).write_text("old")
        mirror = Mirror(url, here)
        mirror.push()
        change(here)
        mirror._remote.system = deaf = Deaf(at)
        try:
            mirror.push()
            break
        except SourceError:
            mirror.push()
        assert mirror.push() == 0
        there = Mirror(url, tmp_path / f"there-{at}")
        there.pull()
        assert content(there.folder) == content(here)
        assert "old.txt" not in content(here)
    assert deaf.calls >= 5


@pytest.mark.parametrize("at", [1, 2])
def test_a_file_that_is_written_and_removed_again_after_a_lost_answer(at: int) -> None:
    folder = RemoteFolder(f"memory://{uuid.uuid4().hex}")
    folder.system = Deaf(at)
    steps: list[Callable[[], None]] = [
        lambda: folder.put("lease.json", b"mine"),
        lambda: folder.remove("lease.json"),
    ]
    for step in steps:
        try:
            step()
        except SourceError:
            step()
    assert folder.content("lease.json") is None
