import os
from collections.abc import Callable
from pathlib import Path

import pytest

from remix_study.config.load import load_run
from remix_study.config.run import RunConfig
from remix_study.errors import ConfigError, RunPreempted, RunPruned, StoreError, StudyStopped
from remix_study.launch.folder import RunFolder


def test_a_folder_accepts_one_configuration(recipe: Callable[..., RunConfig], tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "runs" / "one")
    folder.prepare(recipe(), "digest")
    folder.prepare(recipe(), "digest")
    assert load_run(folder.path / "config.yaml") == recipe()
    with pytest.raises(ConfigError, match=r"or of another version \(digest digest, not other\)\. Use"):
        folder.prepare(recipe({"seed": 1}), "other")
    assert load_run(folder.path / "config.yaml") == recipe()


def test_a_file_at_the_folders_path_is_reported_and_kept(recipe: Callable[..., RunConfig], tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("precious")
    with pytest.raises(ConfigError, match=r"Cannot write the run folder .*: .* Use another --workspace"):
        RunFolder(tmp_path / "runs" / "one").prepare(recipe(), "digest")
    assert (tmp_path / "runs").read_text() == "precious"


def test_an_incomplete_last_line_of_the_history_is_skipped(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.history == []
    (tmp_path / "history.jsonl").write_text('{"epoch": 0, "x": 1.5}\n{"epoch": 1, "x"')
    assert folder.history == [{"epoch": 0, "x": 1.5}]


def test_a_written_result_is_read_again(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert (folder.result(), folder.mlflow_run_id(), folder.seconds) == (None, None, 0.0)
    folder.write_result({"best/val_accuracy": 0.5})
    assert RunFolder(tmp_path).result() == {"best/val_accuracy": 0.5}


def test_seconds_add_up_all_epochs_and_the_final_evaluation(tmp_path: Path) -> None:
    line = '{"time/score_s": 1, "time/train_s": 2.5, "time/evaluate_s": 0.5}\n'
    (tmp_path / "history.jsonl").write_text(line * 2)
    assert RunFolder(tmp_path).seconds == 8.0
    RunFolder(tmp_path).write_result({"time/evidence_s": 2.0})
    assert RunFolder(tmp_path).seconds == 10.0


@pytest.mark.parametrize("end", [StudyStopped, RunPreempted])
def test_a_pruned_run_stays_pruned_and_a_stopped_or_preempted_one_resumes(
    tmp_path: Path, end: type[StudyStopped | RunPreempted]
) -> None:
    folder = RunFolder(tmp_path)
    assert folder.ended_early() is None
    folder.write_ended_early(end("asked to"))
    early = folder.ended_early()
    assert (type(early), str(early)) == (end, "asked to")
    folder.clear_stop()
    assert folder.ended_early() is None
    folder.write_ended_early(RunPruned("no promise"))
    folder.clear_stop()
    early = folder.ended_early()
    assert (type(early), str(early)) == (RunPruned, "no promise")


def test_the_lock_excludes_a_second_process(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert not folder.is_held()
    with folder.lock():
        assert folder.is_held()
        with pytest.raises(StoreError, match="only one process at a time"), RunFolder(tmp_path).lock():
            pass
    assert not folder.is_held()


@pytest.mark.parametrize("content", ["", '{"best/val_acc'])
@pytest.mark.parametrize("name", ["result.json", "ended.json"])
def test_an_empty_or_incomplete_result_is_ignored_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, content: str
) -> None:
    """Version 0.1 renamed these files without fsync, so that a power failure could leave them empty."""
    (tmp_path / name).write_text(content)
    folder = RunFolder(tmp_path)
    assert (folder.result(), folder.ended_early()) == (None, None)
    assert f"Ignoring {tmp_path / name}, which is empty or incomplete" in caplog.text


def test_a_result_is_on_disk_before_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[str, bool]] = []
    path = tmp_path / "result.json"

    def fsync(descriptor: int) -> None:
        synced.append((Path(f"/proc/self/fd/{descriptor}").readlink().name, path.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    RunFolder(tmp_path).write_result({"best/val_accuracy": 0.5})
    assert synced == [(".result.json.part", False), (tmp_path.name, True)]
