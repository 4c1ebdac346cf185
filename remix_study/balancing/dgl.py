"""DGL: encoders learn from unimodal losses only, the fusion from the fused loss only (Wei, Luo and Luo, ICCV 2025)

arXiv 2507.10213. sg(.) is a constant with the value of its argument.

    fusion     CE(z) with z = fusion(sg(f_1), .., sg(f_M))
    encoders   alpha sum_m CE(u_m), u_m = sg(fusion)(0, .., f_m, .., 0)

The encoders never get the gradient of the fused loss, nor does the fusion get that of the losses of u_m. With decision
fusion, the heads are its parameters, and u_m is the logits of m's head. Any other unimodal losses of a run are left as
they are.

Both losses are defined for any active modalities, so a unimodal batch is trained by the same rule: the fusion by
CE(z) of its only modality, and the encoder by alpha CE(u_m).
"""

# B samples of a micro-batch, M modalities, C classes

from collections.abc import Sequence

import torch

from remix_study.balancing.abstain import Abstain
from remix_study.balancing.acting import Noting, Window
from remix_study.balancing.losses import FUSED, CrossEntropy, unimodal_loss
from remix_study.balancing.slots import Step, StepBatch, Terms


class DGL(Noting):
    """See the module docstring.

    Args:
        modalities: the modalities of the model, in its order.
        alpha: weight of the losses of the encoders. Published: 4 to 5 for CREMA-D, 2 to 3 for Kinetics-Sounds.
        cross_entropy: of all losses.
        window: epochs in which the rule acts.
        targets: decides which samples abstain in the losses of the encoders; None: none does.
    """

    name = "dgl"

    def __init__(
        self,
        modalities: Sequence[str],
        alpha: float,
        cross_entropy: CrossEntropy,
        *,
        window: Window,
        targets: Abstain | None = None,
    ) -> None:
        super().__init__([f"cross_entropy/{m}" for m in modalities])
        self._modalities = tuple(modalities)
        self._alpha, self._cross_entropy, self._window = alpha, cross_entropy, window
        self._targets = targets

    def acts(self, step: Step) -> bool:
        return step.epoch in self._window

    def loss(self, batch: StepBatch, terms: Terms) -> Terms:
        """Replace the fused loss, and add the losses of the encoders in training."""
        if not self.acts(batch.at):
            return terms
        model, features = batch.model, batch.outputs.features
        fused_BC = model.fuse(features, batch.active_BM, trains="fusion", heads=batch.active)
        terms = terms | {FUSED: self._cross_entropy(fused_BC, batch.labels_B)}
        loss_BM = torch.zeros_like(batch.active_BM, dtype=torch.float32)
        for column, m in enumerate(self._modalities):
            if m in batch.active:
                only_BM = torch.zeros_like(batch.active_BM)
                only_BM[:, column] = batch.active[m]
                own = {n: feature_Bd if n == m else feature_Bd.detach() for n, feature_Bd in features.items()}
                alone_BC = model.fuse(own, only_BM, trains="encoders")
                loss_B = unimodal_loss(m, alone_BC, batch, self._cross_entropy, self._targets)
                terms[f"dgl/{m}"] = self._alpha * loss_B * batch.active[m]
                loss_BM[:, column] = loss_B.detach()
        self._note(loss_BM, batch.active_BM)
        return terms
