"""Checkpoints of a run: `last.pt` to resume from, `best.pt` for the final evaluation; both are replaced atomically

They are in the run folder, so a run resumes in the same way after Ray Train restarts its workers, after its driver is
killed, and without Ray. Loading executes no code (`weights_only`).
"""

import pickle
from pathlib import Path
from typing import Any

import torch

from remix_study.errors import TrainingError
from remix_study.files.disk import replacing

LAST, BEST = "last.pt", "best.pt"


class Checkpoints:
    """The checkpoints of one run. Only rank 0 saves; all ranks load."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, name: str, content: dict[str, Any]) -> None:
        """Replace the checkpoint `name` atomically.

        Raises:
            TrainingError: it cannot be written; the previous checkpoint is kept.
        """
        path = self._folder / name
        try:
            with replacing(path) as file:
                torch.save(content, file)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            # On a full disk, torch reports an unexpected position in the file.
            why = "the disk is probably full" if isinstance(error, RuntimeError) else str(error)
            raise TrainingError(
                f"Cannot write checkpoint {path}: {why}. Free disk space and rerun the command to resume from the "
                "previous checkpoint."
            ) from error

    def load(self, name: str) -> dict[str, Any] | None:
        """Return the checkpoint `name` with its tensors on the CPU, or None if there is none.

        Raises:
            TrainingError: it is corrupt, or would execute code.
        """
        path = self._folder / name
        if not path.exists():
            return None
        try:
            # To the CPU, since an error of the GPU would look like a corrupt file.
            content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
            if "allocate" in str(error):  # torch also raises RuntimeError when it runs out of memory
                raise
            raise TrainingError(
                f"Cannot load checkpoint {path}: it is corrupt, or contains objects that could execute code (none was "
                "executed). Delete it and rerun the command to restart the run."
            ) from error
        return content
