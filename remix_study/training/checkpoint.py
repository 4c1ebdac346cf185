"""Checkpoints: `last` to go on from, `best` to keep; each file is either whole or the one before it

They lie in the run's own folder, so that a run resumes alike whether Ray Train restarts its workers, its driver was
killed, or it never had Ray around it. Loading executes no code (`weights_only`).
"""

import pickle
from pathlib import Path
from typing import Any

import torch

from remix_study.errors import TrainingError
from remix_study.files.disk import replacing

LAST, BEST = "last.pt", "best.pt"


class Checkpoints:
    """The checkpoints of one run; only the leading rank saves, all ranks load."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, name: str, content: dict[str, Any]) -> None:
        """Replace the checkpoint `name` atomically.

        Raises:
            TrainingError: it cannot be written; the one before is untouched.
        """
        path = self._folder / name
        try:
            with replacing(path) as file:
                torch.save(content, file)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            # torch says of a full disk that a position in the file is unexpected.
            why = "the disk is probably full" if isinstance(error, RuntimeError) else str(error)
            raise TrainingError(
                f"the checkpoint {path} must be written, but: {why}. Free some space and run the same command again: "
                "it goes on from the checkpoint before."
            ) from error

    def load(self, name: str) -> dict[str, Any] | None:
        """The checkpoint `name`, its tensors on the CPU, or None if there is none.

        Raises:
            TrainingError: it is damaged, or would run code.
        """
        path = self._folder / name
        if not path.exists():
            return None
        try:
            # On the CPU: a GPU that fails or is full says nothing about the file.
            content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
            if "allocate" in str(error):  # torch says of a machine without memory that it is a RuntimeError
                raise
            raise TrainingError(
                f"the checkpoint {path} must be one that this program has written, but is damaged, or holds something "
                "that could run code; nothing of it was run. Remove it, and the same command begins this run anew."
            ) from error
        return content
