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

from remix_study.balancing import Method

Record = dict[str, float]


@dataclass
class Progress:
    """Progress of a run.

    `history[e]`: the metrics of epoch e. `select_by`: the validation metric that chooses the best epoch; cross-entropy
    is minimised, all others are maximised.
    """

    select_by: str = "accuracy"
    history: list[Record] = field(default_factory=list)
    best_epoch: int = -1

    @property
    def next_epoch(self) -> int:
        return len(self.history)

    def add(self, record: Record) -> bool:
        """Append an epoch; return whether it is the best so far (the first of equals stays)."""
        # Plain numbers, since loading a NumPy scalar from a checkpoint would execute code.
        self.history.append({key: float(value) for key, value in record.items()})
        better = self.best_epoch < 0 or self._value(-1) > self._value(self.best_epoch)
        if better:
            self.best_epoch = len(self.history) - 1
        return better

    def _value(self, epoch: int) -> float:
        value = self.history[epoch][f"val/{self.select_by}"]
        return -value if self.select_by == "cross_entropy" else value


def pack(
    progress: Progress, model: nn.Module, optimizer: torch.optim.Optimizer, method: Method, digest: str
) -> dict[str, Any]:
    """The content of a checkpoint: tensors and plain values only, so that loading it executes no code."""
    return {
        "digest": digest,
        # As text, since pickling one object per number took longer than writing the weights.
        "history": json.dumps(progress.history),
        "best_epoch": progress.best_epoch,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "plan": {key: tensor(value) for key, value in method.plan.state().items()},
        "rules": method.state(),
    }


def unpack(
    content: Mapping[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer, method: Method, select_by: str
) -> Progress:
    """Restore model, optimizer and method from a checkpoint; return the progress."""
    model.load_state_dict(content["model"])
    optimizer.load_state_dict(content["optimizer"])
    method.plan.restore({key: array(value) for key, value in content["plan"].items()})
    method.restore(content.get("rules", {}))
    return Progress(select_by, json.loads(content["history"]), content["best_epoch"])


def tensor(value: Any) -> Any:
    """An array as a tensor; any other value as it is."""
    return torch.from_numpy(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value


def array(value: Any) -> Any:
    """A tensor as an array; any other value as it is."""
    return value.cpu().numpy() if isinstance(value, torch.Tensor) else value
