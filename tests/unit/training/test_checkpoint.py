import os
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
