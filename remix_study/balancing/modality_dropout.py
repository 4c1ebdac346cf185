"""Modality dropout: train on random subsets of the modalities (ModDrop, Neverova et al., TPAMI 2016, arXiv 1501.00102)

Each modality of a sample is dropped with a probability, independently: its features are replaced before the fusion, by
default by zeros, and the sample has no unimodal loss of it. If all would be dropped, one of them is kept at random, so
that the other losses are those of M unimodal models, too. Features are not rescaled, neither in training nor in
prediction.

Samples that train one modality keep it, so that nothing changes in unimodal batches.
"""

# B samples of a micro-batch, M modalities

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from remix_study.balancing.acting import Comparing, StepMeans, Window
from remix_study.balancing.draws import SampleDraws
from remix_study.balancing.slots import Mask, Model, Step, StepBatch


class ModalityDropout(Comparing):
    """See the module docstring.

    Args:
        modalities: the modalities of the model, in its order.
        probability: of dropping a modality of a sample, in [0, 1].
        window: epochs in which the rule acts.
        draws: M random numbers of each sample.
    """

    name = "modality_dropout"

    def __init__(self, modalities: Sequence[str], probability: float, *, window: Window, draws: SampleDraws) -> None:
        super().__init__(window)
        self._probability, self._draws = probability, draws
        self._means = StepMeans([f"method/modality_dropout/dropped/{m}" for m in modalities])
        self._counts = torch.empty(0)  # of the micro-batch that was masked last

    def mask(self, batch: StepBatch) -> Mask:
        active_BM = batch.active_BM
        draw_BM = self._draws.of(batch.at.epoch, batch.samples_B)
        kept_BM = active_BM & (draw_BM >= self._probability)
        last_B1 = draw_BM.masked_fill(~active_BM, -1.0).argmax(dim=1, keepdim=True)
        kept_BM = kept_BM | (active_BM & torch.zeros_like(active_BM).scatter(1, last_B1, value=True)
                             & ~kept_BM.any(dim=1, keepdim=True))  # fmt: skip
        counted_BM = active_BM & (active_BM.sum(dim=1, keepdim=True) > 1)
        self._counts = torch.cat([(counted_BM & ~kept_BM).sum(dim=0), counted_BM.sum(dim=0)]).float()
        return Mask(kept_BM)

    def sums(self, batch: StepBatch) -> torch.Tensor:  # noqa: ARG002 - required by GradientRule
        """The numbers of dropped modalities, and of those that could be: (2 M,)."""
        return self._counts

    def apply(self, model: Model, sums_K: torch.Tensor, step: Step) -> None:  # noqa: ARG002 - required by GradientRule
        """Only record; the gradients stay as they are."""
        dropped_M, count_M = sums_K.chunk(2)
        self._means.add(dropped_M / count_M.clamp(min=1))

    def metrics(self) -> dict[str, float]:
        return self._means.take()

    def state(self) -> dict[str, Any]:
        return self._means.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        self._means.restore(state)
