"""What an epoch leaves behind: the record of a run, and what resuming it exactly needs

Everything random is derived from (seed, epoch, step), so that model, optimizer, plan and record are all there is.
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
    """How far a run has come. `history[e]` are the metrics of epoch e."""

    history: list[Record] = field(default_factory=list)
    best_epoch: int = -1
    best_accuracy: float = -1.0

    @property
    def next_epoch(self) -> int:
        return len(self.history)

    def add(self, record: Record) -> bool:
        """Whether the epoch is the best so far by validation accuracy; the first of equals stays best."""
        # Plain numbers: a NumPy scalar in a checkpoint would need code to be loaded.
        self.history.append({key: float(value) for key, value in record.items()})
        better = record["val/accuracy"] > self.best_accuracy
        if better:
            self.best_epoch, self.best_accuracy = len(self.history) - 1, record["val/accuracy"]
        return better


def pack(
    progress: Progress, model: nn.Module, optimizer: torch.optim.Optimizer, plan: EpochPlan, digest: str
) -> dict[str, Any]:
    """A checkpoint's content, of tensors and plain values only: loading it needs no code."""
    return {
        "digest": digest,
        # As text: one object instead of one per number, which took longer to write than an epoch's weights.
        "history": json.dumps(progress.history),
        "best_epoch": progress.best_epoch,
        "best_accuracy": progress.best_accuracy,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "plan": {key: _tensor(value) for key, value in plan.state().items()},
    }


def unpack(content: Mapping[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer, plan: EpochPlan) -> Progress:
    model.load_state_dict(content["model"])
    optimizer.load_state_dict(content["optimizer"])
    plan.restore({key: _array(value) for key, value in content["plan"].items()})
    return Progress(json.loads(content["history"]), content["best_epoch"], content["best_accuracy"])


def _tensor(value: Any) -> Any:
    return torch.from_numpy(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value


def _array(value: Any) -> Any:
    return value.cpu().numpy() if isinstance(value, torch.Tensor) else value
