"""State of a run: its metrics so far, and the content of a checkpoint

All random numbers are derived from (seed, epoch, step), so model, optimizer, plan and metrics are enough for an exact
resume.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from remix_study.epoch import EpochPlan

Record = dict[str, float]


@dataclass
class Progress:
    """Progress of a run. `history[e]`: the metrics of epoch e."""

    history: list[Record] = field(default_factory=list)
    best_epoch: int = -1
    best_accuracy: float = -1.0

    @property
    def next_epoch(self) -> int:
        return len(self.history)

    def add(self, record: Record) -> bool:
        """Append an epoch; return whether its validation accuracy is the best so far (the first of equals stays)."""
        # Plain numbers, since loading a NumPy scalar from a checkpoint would execute code.
        self.history.append({key: float(value) for key, value in record.items()})
        better = record["val/accuracy"] > self.best_accuracy
        if better:
            self.best_epoch, self.best_accuracy = len(self.history) - 1, record["val/accuracy"]
        return better


def pack(
    progress: Progress, model: nn.Module, optimizer: torch.optim.Optimizer, plan: EpochPlan, digest: str
) -> dict[str, Any]:
    """The content of a checkpoint: tensors and plain values only, so that loading it executes no code."""
    return {
        "digest": digest,
        # As text, since pickling one object per number took longer than writing the weights.
        "history": json.dumps(progress.history),
        "best_epoch": progress.best_epoch,
        "best_accuracy": progress.best_accuracy,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "plan": {key: _tensor(value) for key, value in plan.state().items()},
    }


def unpack(content: Mapping[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer, plan: EpochPlan) -> Progress:
    """Restore model, optimizer and plan from a checkpoint; return the progress."""
    model.load_state_dict(content["model"])
    optimizer.load_state_dict(content["optimizer"])
    plan.restore({key: _array(value) for key, value in content["plan"].items()})
    return Progress(json.loads(content["history"]), content["best_epoch"], content["best_accuracy"])


def _tensor(value: Any) -> Any:
    return torch.from_numpy(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value


def _array(value: Any) -> Any:
    return value.cpu().numpy() if isinstance(value, torch.Tensor) else value
