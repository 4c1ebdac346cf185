"""Checkpoints of a run: `last.pt` to resume from, `best.pt` for the final evaluation; both are replaced atomically

A preempted run also has `step.pt`, the state within the epoch after `last.pt` (partial_epoch.py).

While a run trains, the best weights are in `best-EPOCH.pt`. `last.pt` names the best epoch, and the file of an earlier
best epoch is deleted only after `last.pt` was replaced. So the two always belong to the same history, even if the run
is killed between them and an epoch that is trained again ends differently, as on GPUs. A finished run has `best.pt`.

They are in the run folder, so a run resumes in the same way after Ray Train restarts its workers, after its driver is
killed, and without Ray. Loading executes no code (`weights_only`).
"""

import io
import logging
import pickle
from pathlib import Path
from typing import Any

import torch

from remix_study.errors import TrainingError
from remix_study.files import operations
from remix_study.files.disk import replacing

LAST, BEST, STEP = "last.pt", "best.pt", "step.pt"
_log = logging.getLogger(__name__)


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
            content = _load(path)
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
            if "allocate" in str(error):  # torch also raises RuntimeError when it runs out of memory
                raise
            raise TrainingError(
                f"Cannot load checkpoint {path}: it is corrupt, or contains objects that could execute code (none was "
                "executed). Delete it and rerun the command to restart the run."
            ) from error
        return content

    def load_step(self, digest: str, epoch: int) -> dict[str, Any] | None:
        """Return the checkpoint within `epoch`; None if there is none, or only one that is corrupt or of another epoch.

        The run then resumes from its last complete epoch.
        """
        try:
            content = self.load(STEP)
        except TrainingError:
            _log.warning(
                "Ignoring %s, which is corrupt. The run resumes from its last complete epoch.", self._folder / STEP
            )
            return None
        if content is None or (content["digest"], content["epoch"]) != (digest, epoch):
            return None
        return content

    def delete_step(self) -> None:
        """Delete the checkpoint within an epoch, after a later `last.pt` was saved."""
        operations.remove(self._folder / STEP)

    def save_best(self, epoch: int, content: dict[str, Any]) -> None:
        """Save the weights of a new best epoch, before the `last.pt` that names it."""
        self.save(_best(epoch), content)

    def load_best(self, epoch: int) -> dict[str, Any]:
        """Return the weights of the best epoch.

        Raises:
            TrainingError: there are none, or they are corrupt.
        """
        content = self.load(_best(epoch)) or self.load(BEST)  # the latter of a finished run, or of version 0.1
        if content is None:
            raise TrainingError(
                f"Cannot load the weights of the best epoch ({epoch}): {self._folder / BEST} does not exist. Delete "
                f"{LAST} beside it and rerun the command to restart the run."
            )
        return content

    def keep_best(self, epoch: int) -> None:
        """Delete the weights of other epochs, after the `last.pt` that names `epoch` was saved."""
        for path in self._folder.glob("best-*.pt"):
            if path.name != _best(epoch):
                operations.remove(path)

    def finish(self, epoch: int) -> None:
        """Rename the weights of the best epoch of a finished run to `best.pt`."""
        self.keep_best(epoch)
        if (self._folder / _best(epoch)).exists():
            operations.rename(self._folder / _best(epoch), self._folder / BEST)


def to_bytes(content: dict[str, Any]) -> bytes:
    """Return tensors and plain values as bytes."""
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def from_bytes(content: bytes) -> dict[str, Any]:
    """Return what `to_bytes` was given, with its tensors on the CPU. Executes no code."""
    return _load(io.BytesIO(content))


def _load(file: Path | io.BytesIO) -> dict[str, Any]:
    # To the CPU, since an error of the GPU would look like a corrupt file.
    content: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    return content


def _best(epoch: int) -> str:
    return f"best-{epoch}.pt"
