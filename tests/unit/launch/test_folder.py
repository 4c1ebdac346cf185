from collections.abc import Callable
from pathlib import Path

import pytest

from remix_study.config import RunConfig, load_run
from remix_study.errors import ConfigError, StoreError
from remix_study.launch.folder import RunFolder


def test_a_folder_is_of_one_configuration(recipe: Callable[..., RunConfig], tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "runs" / "one")
    folder.prepare(recipe(), "digest")
    folder.prepare(recipe(), "digest")
    assert load_run(folder.path / "config.yaml") == recipe()
    with pytest.raises(ConfigError, match=r"holds a run of another \(digest, not other\)\. Use another --name"):
        folder.prepare(recipe({"seed": 1}), "other")
    assert load_run(folder.path / "config.yaml") == recipe()


def test_a_file_in_the_way_is_named(recipe: Callable[..., RunConfig], tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("precious")
    with pytest.raises(ConfigError, match=r"must be writable, but: .* Choose another --workspace"):
        RunFolder(tmp_path / "runs" / "one").prepare(recipe(), "digest")
    assert (tmp_path / "runs").read_text() == "precious"


def test_a_line_that_is_being_written_is_not_read_yet(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.history == []
    (tmp_path / "history.jsonl").write_text('{"epoch": 0, "x": 1.5}\n{"epoch": 1, "x"')
    assert folder.history == [{"epoch": 0, "x": 1.5}]


def test_result_and_tracking_are_remembered(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert (folder.result(), folder.tracked_as()) == (None, None)
    folder.write_result({"best/val_accuracy": 0.5})
    folder.write_tracked_as("abc")
    again = RunFolder(tmp_path)
    assert (again.result(), again.tracked_as()) == ({"best/val_accuracy": 0.5}, "abc")


def test_whoever_works_holds_the_lock(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert not folder.is_held()
    with folder.lock():
        assert folder.is_held()
        with pytest.raises(StoreError, match="one process at a time"), RunFolder(tmp_path).lock():
            pass
    assert not folder.is_held()
