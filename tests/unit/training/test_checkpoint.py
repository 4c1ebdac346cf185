import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from remix_study.errors import TrainingError
from remix_study.training.checkpoint import BEST, LAST, Checkpoints

CPU = torch.device("cpu")


def test_a_saved_checkpoint_is_loaded(tmp_path: Path) -> None:
    saved = Checkpoints(tmp_path / "runs" / "one" / "checkpoints")
    assert saved.load(LAST) is None
    saved.save(LAST, {"weights": torch.arange(3.0), "history": [{"val/accuracy": 0.5}]})
    saved.save(BEST, {"weights": torch.zeros(1)})
    loaded = saved.load(LAST)
    assert loaded is not None
    assert torch.equal(loaded["weights"], torch.arange(3.0))
    assert loaded["history"] == [{"val/accuracy": 0.5}]
    assert sorted(p.name for p in (tmp_path / "runs" / "one" / "checkpoints").iterdir()) == ["best.pt", "last.pt"]


@pytest.mark.parametrize(
    "trouble", [OSError(28, "No space left on device"), RuntimeError("PytorchStreamWriter failed")]
)
def test_a_full_disk_keeps_the_previous_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    saved = Checkpoints(tmp_path)
    saved.save(LAST, {"epoch": 1})

    def fails(content: Any, file: Any) -> None:
        file.write(b"half of it")
        raise trouble

    monkeypatch.setattr(torch, "save", fails)
    with pytest.raises(TrainingError, match=r"Cannot write checkpoint .*Free disk space and rerun the command"):
        saved.save(LAST, {"epoch": 2})
    monkeypatch.undo()
    assert saved.load(LAST) == {"epoch": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_a_kill_before_the_rename_keeps_the_previous_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = Checkpoints(tmp_path)
    saved.save(LAST, {"epoch": 1})

    def killed(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        saved.save(LAST, {"epoch": 2})
    monkeypatch.undo()
    assert saved.load(LAST) == {"epoch": 1}
    saved.save(LAST, {"epoch": 3})  # replaces the incomplete file
    assert saved.load(LAST) == {"epoch": 3}


def test_the_best_weights_belong_to_the_history_of_the_last_checkpoint(tmp_path: Path) -> None:
    """Whenever a run is killed, the weights that `last.pt` names are there, and are of the epoch that it names."""
    saved, names = Checkpoints(tmp_path), [0, 0, 2, 3]  # the best epoch after each epoch

    def kill_at(epoch: int, step: int) -> None:
        """Save epochs up to `step` steps of `epoch`, as the loop does."""
        for e in range(epoch + 1):
            steps = [partial(saved.save_best, e, {"weights": e})] if names[e] == e else []
            steps += [partial(saved.save, LAST, {"best": names[e]}), partial(saved.keep_best, names[e])]
            for do in steps[: step if e == epoch else None]:
                do()

    for epoch in range(1, len(names)):
        for step in range(4):
            for path in tmp_path.iterdir():
                path.unlink()
            kill_at(epoch, step)
            last = saved.load(LAST)
            assert last is not None
            assert saved.load_best(last["best"]) == {"weights": last["best"]}


def test_a_finished_run_has_one_file_of_its_best_weights(tmp_path: Path) -> None:
    saved = Checkpoints(tmp_path)
    saved.save(BEST, {"weights": "of version 0.1"})
    assert saved.load_best(7) == {"weights": "of version 0.1"}
    saved.save_best(8, {"weights": 8})
    saved.save_best(9, {"weights": 9})  # killed before the last checkpoint, and not the best when trained again
    for _ in range(2):  # may be killed and repeated
        saved.finish(8)
        assert saved.load_best(8) == {"weights": 8}
        assert [path.name for path in tmp_path.iterdir()] == [BEST]


def test_missing_best_weights_are_reported_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"best epoch \(3\).*Delete last\.pt.*rerun the command"):
        Checkpoints(tmp_path).load_best(3)
