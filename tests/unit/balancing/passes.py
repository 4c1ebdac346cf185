"""Passes over splits before an epoch, as rules get them"""

# N samples, M modalities

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from remix_study import metrics as m_
from remix_study.balancing import EpochStart
from remix_study.epoch import SplitStatistics
from remix_study.models import MultimodalModel
from remix_study.sample import Batch


@dataclass
class FixedPasses:
    """Passes whose results are given."""

    train_split: SplitStatistics | None = None
    control_split: SplitStatistics | None = None

    def train(self) -> SplitStatistics:
        assert self.train_split is not None, "the rule must not read the training samples"
        return self.train_split

    def control(self) -> SplitStatistics:
        assert self.control_split is not None, "the rule must not read the control samples"
        return self.control_split

    def agreed(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        return values


@torch.no_grad()
def statistics(model: MultimodalModel, batch: Batch) -> SplitStatistics:
    """All statistics of the samples of a batch."""
    outputs, modalities = model(batch), model.modalities
    rows_N = np.arange(len(batch.labels_B))
    logs_NMC = torch.stack([outputs.head_logits[m] for m in modalities], dim=1).log_softmax(dim=2).double().numpy()
    labels_N = batch.labels_B.numpy()

    def fused(subset: frozenset[str] | tuple[str, ...]) -> torch.Tensor:
        active = torch.tensor([[m in subset for m in modalities]]).expand(len(rows_N), -1)
        return model.fuse(outputs.features, active)

    return SplitStatistics(
        rows_N=rows_N,
        labels_N=labels_N,
        available_NM=np.ones((len(rows_N), len(modalities)), np.bool_),
        cross_entropy_NM=-logs_NMC[rows_N, :, labels_N],
        fused_cross_entropy_N=torch.nn.functional.cross_entropy(fused(modalities), batch.labels_B, reduction="none")
        .double()
        .numpy(),
        log_probabilities_NMC=logs_NMC,
        right={s: (fused(s).argmax(dim=1) == batch.labels_B).numpy() for s in m_.subsets(modalities)},
        features={m: outputs.features[m].numpy() for m in modalities},
    )


def start(epoch: int, model: MultimodalModel, passes: FixedPasses) -> EpochStart:
    """The beginning of an epoch, with an optimizer that changes nothing."""
    return EpochStart(epoch, model, torch.optim.SGD(model.parameters(), lr=0.0), passes)
