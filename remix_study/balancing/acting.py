"""The steps and samples in which a method acts, and means over the steps or samples in which it acted"""

# B samples of a micro-batch, M modalities, K values

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from remix_study.balancing.slots import Model, Step, StepBatch


class Window(NamedTuple):
    """Epochs `begin` to `end` (exclusive; None: to the end of the training), from 0."""

    begin: int = 0
    end: int | None = None

    def __contains__(self, epoch: object) -> bool:
        return isinstance(epoch, int) and self.begin <= epoch and (self.end is None or epoch < self.end)


class Comparing:
    """Base class of rules that compare modalities. They act in steps with samples that train several modalities.

    Args:
        window: the epochs in which the rule acts.
    """

    def __init__(self, window: Window) -> None:
        self._window = window

    def acts(self, step: Step) -> bool:
        """Whether the step is within the window and has samples that train several modalities."""
        return step.multimodal > 0 and step.epoch in self._window


def sums_of_compared(value_BM: torch.Tensor, active_BM: torch.Tensor) -> torch.Tensor:
    """The sum of the values over the samples that train several modalities, and their number, (2 M,).

    Args:
        value_BM: a value of each modality's part of the fused logits.
        active_BM: the modalities that each sample trains.
    """
    counted_BM = active_BM & (active_BM.sum(dim=1, keepdim=True) > 1)
    return torch.cat([(value_BM * counted_BM).sum(dim=0), counted_BM.sum(dim=0).float()])


class StepMeans:
    """Means of K values over steps. The values stay on their device until the means are asked for.

    Args:
        names: names of the K values.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._total_K: torch.Tensor | None = None  # float64
        self._steps = 0

    def add(self, value_K: torch.Tensor) -> None:
        """Add the values of a step, (K,)."""
        before_K = 0.0 if self._total_K is None else self._total_K.to(value_K.device)
        self._total_K = before_K + value_K.double()
        self._steps += 1

    def take(self) -> dict[str, float]:
        """The means since the last call; empty if no step was added."""
        if self._total_K is None:
            return {}
        means = dict(zip(self._names, (self._total_K / self._steps).tolist(), strict=True))
        self._total_K, self._steps = None, 0
        return means

    def state(self) -> dict[str, Any]:
        """What an exact resume needs."""
        return {"steps": self._steps, "total_K": self._total_K}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""
        self._steps, self._total_K = state["steps"], state["total_K"]


class SampleMeans:
    """Means of K values over the samples of global batches; a value may be of some samples only.

    Args:
        names: names of the K values.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._sums_2K: torch.Tensor | None = None  # float64: the sums of the values, and their numbers of samples

    def add(self, sums_2K: torch.Tensor) -> None:
        """Add sums over the samples of a global batch: those of the values, and their numbers of samples."""
        before_2K = 0.0 if self._sums_2K is None else self._sums_2K.to(sums_2K.device)
        self._sums_2K = before_2K + sums_2K.double()

    def take(self) -> dict[str, float]:
        """The means since the last call, without values that no sample had."""
        if self._sums_2K is None:
            return {}
        pairs = zip(self._names, *self._sums_2K.view(2, -1).tolist(), strict=True)
        self._sums_2K = None
        return {name: total / count for name, total, count in pairs if count > 0}

    def state(self) -> dict[str, Any]:
        """What an exact resume needs."""
        return {"sums_2K": self._sums_2K}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""
        self._sums_2K = state["sums_2K"]


class Noting:
    """Base class of loss rules whose metrics are means over samples; it leaves the gradients as they are.

    `loss` notes the values of a micro-batch. They are summed over ranks with the gradients, as for a `GradientRule`.

    Args:
        names: names of the K values.
    """

    name: str

    def __init__(self, names: Sequence[str]) -> None:
        self._means = SampleMeans([f"method/{self.name}/{name}" for name in names])
        self._noted_2K: torch.Tensor | None = None

    def sums(self, batch: StepBatch) -> torch.Tensor:  # noqa: ARG002 - required by GradientRule
        """The sums of the values that `loss` noted, and their numbers of samples, (2 K,)."""
        assert self._noted_2K is not None
        return self._noted_2K

    def apply(self, model: Model, sums_K: torch.Tensor, step: Step) -> None:  # noqa: ARG002 - required by GradientRule
        self._means.add(sums_K)

    def metrics(self) -> dict[str, float]:
        return self._means.take()

    def state(self) -> dict[str, Any]:
        return {"means": self._means.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._means.restore(state["means"])

    def _note(self, value_BK: torch.Tensor, counted_BK: torch.Tensor) -> None:
        """Note the values of a micro-batch; those that are not counted may be anything."""
        kept_BK = torch.where(counted_BK, value_BK.detach().float(), 0.0)
        self._noted_2K = torch.cat([kept_BK.sum(dim=0), counted_BK.sum(dim=0).float()])
