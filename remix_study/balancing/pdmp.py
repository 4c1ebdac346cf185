"""PDMP: let the modality that is best alone lead the training (Wei, Luo, Zhu, Luo; 2026, arXiv 2604.05773)

The gradient of every weight of the dominant modality's encoder is multiplied by `boost` >= 1, those of all other
encoders by `others` <= 1. The dominant modality is the one whose independently trained unimodal model is best. It is
the opposite of OGM, with the same hook: weights are parameters with two or more dimensions.

Which modality is dominant should be said (`dominant`), from unimodal runs. Without it, the rule ranks the modalities
before every epoch but the first, in a pass over the training samples: by the cross-entropy of the unimodal heads if
they are trained, else by the accuracy of the fused head with one active modality. That is a ranking within the joint
model, in which the modality that is best alone can be behind.

For more than two modalities, all but the dominant one get `others`. A batch in which no sample trains several
modalities is left alone, since nothing competes there.
"""

# N training samples, M modalities

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from remix_study.balancing.acting import Comparing, StepMeans, Window
from remix_study.balancing.ogm import weight_gradients
from remix_study.balancing.slots import EpochStart, Model, Step, StepBatch
from remix_study.epoch import SplitStatistics, Statistic


class PDMP(Comparing):
    """See the module docstring.

    Args:
        modalities: the modalities of the model, in its order.
        dominant: the dominant modality; None: ranked before every epoch but the first.
        boost: factor of its encoder's gradients, at least 1.
        others: factor of all other encoders' gradients, in [0, 1].
        window: epochs in which the rule acts.
        heads: whether the unimodal heads are trained.
    """

    name = "pdmp"
    changes_model = False

    def __init__(
        self,
        modalities: Sequence[str],
        dominant: str | None,
        boost: float,
        others: float,
        *,
        window: Window,
        heads: bool,
    ) -> None:
        super().__init__(window)
        self._modalities = tuple(modalities)
        self._boost, self._others = boost, others
        self._ranks, self._heads = dominant is None, heads
        self._dominant = dominant
        self.needs: frozenset[Statistic] = frozenset() if heads or dominant is not None else frozenset({"subsets"})
        self._means = StepMeans([f"method/pdmp/factor/{m}" for m in self._modalities])

    def due(self, epoch: int) -> bool:
        return self._ranks and epoch > 0 and epoch in self._window

    def begin(self, start: EpochStart) -> None:
        self._dominant = self._modalities[int(np.argmax(self._ranking(start.passes.train())))]

    def acts(self, step: Step) -> bool:
        return self._dominant is not None and super().acts(step)

    def sums(self, batch: StepBatch) -> torch.Tensor:
        """No sums: the factors do not depend on the batch."""
        return batch.labels_B.new_zeros(0, dtype=torch.float32)

    def apply(self, model: Model, sums_K: torch.Tensor, step: Step) -> None:  # noqa: ARG002 - required by GradientRule
        factors = [self._boost if m == self._dominant else self._others for m in self._modalities]
        self._means.add(torch.tensor(factors, dtype=torch.float64))
        for m, factor in zip(self._modalities, factors, strict=True):
            if gradients := weight_gradients(model, m):
                torch._foreach_mul_(gradients, factor)

    def metrics(self) -> dict[str, float]:
        return self._means.take()

    def state(self) -> dict[str, Any]:
        return {"dominant": self._dominant, "means": self._means.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._dominant = state["dominant"]
        self._means.restore(state["means"])

    def _ranking(self, found: SplitStatistics) -> list[float]:
        """Larger is better, for each modality."""
        if self._heads:
            return [-float(mean) for mean in found.cross_entropy_NM.mean(axis=0)]
        assert found.right is not None
        return [float(found.right[frozenset({m})].mean()) for m in self._modalities]
