"""The part of an epoch that a run has trained, and the checkpoint of it that a preempted run saves

The checkpoint contains the planned epoch, because a plan may depend on the weights at the start of the epoch. What
differs between ranks is saved for each rank: the loss so far, BatchNorm's running statistics, accumulated gradients. A
run that resumes from it trains the remaining steps, with the same results as without the preemption.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from remix_study.balancing import Method
from remix_study.epoch import PlannedEpoch, Schedule
from remix_study.training.accumulate import Accumulation
from remix_study.training.checkpoint import from_bytes, to_bytes
from remix_study.training.state import Record, array, tensor


@dataclass
class PartialEpoch:
    """An epoch of which this rank has trained the first `step` steps.

    Args:
        epoch: number of the epoch.
        planned: its plan.
        loss: sum of the losses of this rank's samples so far, in nats; a float64 scalar on the run's device.
        accumulation: gradients of incomplete updates, if the schedule has `update_TB`.
        step: number of steps so far.
        clashes: `MEASURE/MODALITY` -> cosines so far.
        score_s: duration of the passes before and within the epoch, in seconds; 0 without one.
        train_s: duration of the steps before the last resume, in seconds.
        saved: the step of its checkpoint; 0 without one.
        intact: whether the clip store was found intact on all ranks, so that steps trained on it may be saved.
        record: metrics of the training, once all steps are trained and the ranks hold the same state; None before.
    """

    epoch: int
    planned: PlannedEpoch
    loss: torch.Tensor
    accumulation: Accumulation | None = None
    step: int = 0
    clashes: dict[str, list[float]] = field(default_factory=dict)
    score_s: float = 0.0
    train_s: float = 0.0
    saved: int = 0
    intact: bool = False
    record: Record | None = None

    def state_of_rank(self, model: nn.Module) -> bytes:
        """What differs between ranks, as bytes. No code is executed when they are loaded."""
        return to_bytes({
            "loss": self.loss,
            "clashes": json.dumps(self.clashes),
            "buffers": dict(model.named_buffers()),
            "gradients": {} if self.accumulation is None else self.accumulation.state(),
        })  # fmt: skip

    def restore_rank(self, content: bytes, model: nn.Module) -> None:
        """Restore what `state_of_rank` returned, into this epoch and the model's buffers."""
        found = from_bytes(content)
        self.loss.copy_(found["loss"])
        self.clashes = json.loads(found["clashes"])
        for name, buffer in model.named_buffers():
            buffer.copy_(found["buffers"][name])
        if self.accumulation is not None:
            self.accumulation.restore(found["gradients"])


def pack_partial(
    part: PartialEpoch,
    ranks: list[bytes],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    method: Method,
    digest: str,
) -> dict[str, Any]:
    """The content of `step.pt`: tensors and plain values only.

    Args:
        ranks: `state_of_rank` of each rank; empty if `part.record` is set.
    """
    schedule = part.planned.schedule
    planned = {
        "samples_TB": tensor(schedule.samples_TB),
        "active_TBM": tensor(schedule.active_TBM),
        "update_TB": tensor(schedule.update_TB),
        "metrics": json.dumps({key: float(value) for key, value in part.planned.metrics.items()}),
        "warnings": list(part.planned.warnings),
        "scored": part.planned.scored,
        "evaluated": part.planned.evaluated,
        "trained_M": list(part.planned.trained_M),
        "observed_at": list(part.planned.observed_at),
    }
    return {
        "digest": digest,
        "epoch": part.epoch,
        "step": part.step,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "plan": {key: tensor(value) for key, value in method.plan.state().items()},
        "rules": method.state(),
        "planned": planned,
        "seconds": {"score": part.score_s, "train": part.train_s},
        "record": None if part.record is None else json.dumps(part.record),
        "ranks": [torch.frombuffer(bytearray(each), dtype=torch.uint8) for each in ranks],
    }


def fits(content: Mapping[str, Any], size: int) -> bool:
    """Whether `size` ranks can resume from a checkpoint within an epoch."""
    return content["record"] is not None or len(content["ranks"]) == size


def planned_of(content: Mapping[str, Any]) -> PlannedEpoch:
    """The planned epoch in a checkpoint."""
    planned = content["planned"]
    schedule = Schedule(array(planned["samples_TB"]), array(planned["active_TBM"]), array(planned["update_TB"]))
    counts = (
        planned["scored"], planned["evaluated"], tuple(planned.get("trained_M", ())),
        tuple(planned.get("observed_at", ())),
    )  # fmt: skip
    return PlannedEpoch(schedule, json.loads(planned["metrics"]), tuple(planned["warnings"]), *counts)


def restore_partial(
    content: Mapping[str, Any],
    part: PartialEpoch,
    rank: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    method: Method,
) -> None:
    """Restore the model, the optimizer, the method and `part`, which is an epoch with `planned_of(content)`."""
    model.load_state_dict(content["model"])
    optimizer.load_state_dict(content["optimizer"])
    method.plan.restore({key: array(value) for key, value in content["plan"].items()})
    method.restore(content.get("rules", {}))
    part.step = part.saved = content["step"]
    part.score_s, part.train_s = content["seconds"]["score"], content["seconds"]["train"]
    part.record = None if content["record"] is None else json.loads(content["record"])
    if part.record is None:
        part.restore_rank(content["ranks"][rank].numpy().tobytes(), model)
