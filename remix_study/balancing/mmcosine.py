"""MMCosine: fused logits that are cosines (Xu, Feng, Zhang and Hu, ICASSP 2023, arXiv 2303.05338)

    z = s sum_m cos(f_m, W_m[c]) for class c

No modality can dominate by the norms of its features or of its weights. The method brings its fusion
(`remix_study.models.fusion.CosineFusion`), so training, validation, test and subsets of modalities use the same z. The
rule here only notes the cosines.
"""

# B samples of a micro-batch, M modalities

from collections.abc import Sequence

import torch

from remix_study.balancing.acting import Noting
from remix_study.balancing.slots import Step, StepBatch, Terms


class MMCosine(Noting):
    """Notes the mean cosine between the feature of each modality and the weights of the true class.

    Args:
        modalities: the modalities of the model, in its order.
        scale: s, of the model's fusion.
    """

    name = "mmcosine"

    def __init__(self, modalities: Sequence[str], scale: float) -> None:
        super().__init__([f"cosine/{m}" for m in modalities])
        self._modalities, self._scale = tuple(modalities), scale

    def acts(self, step: Step) -> bool:  # noqa: ARG002 - required by GradientRule
        return True

    @torch.no_grad()
    def loss(self, batch: StepBatch, terms: Terms) -> Terms:
        """Return the terms as they are."""
        parts = batch.model.split_logits(batch.outputs.features, batch.outputs.head_logits)
        label_B1 = batch.labels_B[:, None]
        true_BM = torch.cat([parts[m].gather(1, label_B1) for m in self._modalities], dim=1)
        self._note(true_BM / self._scale, batch.active_BM)
        return terms
