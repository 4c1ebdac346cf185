"""TCMax: normalise the fused loss over all combinations of the modalities of a batch (Yu et al., ICLR 2026)

arXiv 2602.13015. u_m is modality m's part of the fused logits, so that z of sample i is sum_m u_m[i]. Z is over all
combinations of samples, one for each modality, and over all classes:

    Z      mean over j_1, .., j_M of sum_y exp(u_1[j_1, y] + .. + u_M[j_M, y])
         = sum_y prod_m mean_j exp(u_m[j, y])
    loss   mean over i of log Z - z[i, y_i]

It is a lower bound of the negative total correlation of features and class, up to a constant: published with sums in
place of means, which differ by a constant, so that the loss of a model that knows nothing is ln C here. Joint training
takes the mean over i of its own sum_y exp(z[i, y]) instead of Z, inside the logarithm of each sample.

Combinations are over the samples of the global batch that train the same modalities. A unimodal batch is therefore
normalised over the samples of its modality. Of a batch with one sample, the loss is the cross-entropy.

The sums over j have B terms, so the loss costs as much as joint training. Their gradients need no other samples: with
p the softmax over y of the logarithm of the product,

    d log Z / d u_m[j, y] = p[y] exp(u_m[j, y]) / sum_j' exp(u_m[j', y])
"""

# B samples of a micro-batch, M modalities, C classes, G sets of modalities, by their binary number

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from remix_study.balancing.acting import StepMeans, Window
from remix_study.balancing.losses import FUSED, CrossEntropy
from remix_study.balancing.slots import Step, StepBatch, Terms


class TCMax:
    """See the module docstring.

    Args:
        modalities: the modalities of the model, in its order.
        classes: C.
        cross_entropy: of the fused loss; its class weights and label smoothing apply here, too.
        window: epochs in which the rule acts.
    """

    name = "tcmax"

    def __init__(self, modalities: Sequence[str], classes: int, cross_entropy: CrossEntropy, *, window: Window) -> None:
        self._modalities, self._classes = tuple(modalities), classes
        self._cross_entropy, self._window = cross_entropy, window
        self._means = StepMeans(["method/tcmax/log_normaliser", "method/tcmax/matched"])

    def acts(self, step: Step) -> bool:
        return step.epoch in self._window

    def sums_before(self, batch: StepBatch) -> torch.Tensor:
        """For every set of modalities: sums of exp(u) (M, C), number of samples, of their weights, and of log sums."""
        exp_BMC = self._parts(batch).exp()
        group_BG = self._groups(batch)
        sum_GMC = torch.einsum("bg,bmc->gmc", group_BG, exp_BMC)
        own_B = batch.outputs.logits_BC.double().logsumexp(dim=1)
        more_GK = group_BG.T @ torch.stack([torch.ones_like(own_B), self._weights(batch).double(), own_B], dim=1)
        return torch.cat([sum_GMC.flatten(), more_GK.flatten()])

    def loss(self, batch: StepBatch, terms: Terms) -> Terms:
        """Replace the normaliser of the fused loss."""
        if not self.acts(batch.at):
            return terms
        sum_GMC, count_G, weight_G, own_G = self._split(batch.totals[self.name])
        mean_GMC = sum_GMC / count_G.clamp(min=1)[:, None, None]
        log_GC = mean_GMC.log().sum(dim=1)
        log_Z_G = log_GC.logsumexp(dim=1)
        self._note(log_Z_G, count_G, own_G)
        group_B = self._groups(batch).argmax(dim=1)
        u_BMC = self._parts(batch)
        share_BMC = u_BMC.detach().exp() / sum_GMC[group_B] * log_GC.softmax(dim=1)[group_B][:, None]
        of_log_Z_B = weight_G[group_B] * (share_BMC * u_BMC).sum(dim=(1, 2))
        own_B = batch.outputs.logits_BC.float().logsumexp(dim=1)
        value_B = terms[FUSED] + self._weights(batch) * (log_Z_G[group_B].float() - own_B)
        return terms | {FUSED: value_B + (of_log_Z_B - of_log_Z_B.detach()).float()}

    def metrics(self) -> dict[str, float]:
        return self._means.take()

    def state(self) -> dict[str, Any]:
        return self._means.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        self._means.restore(state)

    def _parts(self, batch: StepBatch) -> torch.Tensor:
        """The parts of the fused logits, (B, M, C) float64, whose exponentials do not overflow."""
        parts = batch.model.split_logits(batch.outputs.features, batch.outputs.head_logits)
        return torch.stack([parts[m] for m in self._modalities], dim=1).double()

    def _groups(self, batch: StepBatch) -> torch.Tensor:
        """The set of modalities of each sample, as one of G columns, (B, G) float64."""
        count = len(self._modalities)
        # Not a matrix product, which CUDA does not have for integers.
        number_B = (batch.active_BM * 2 ** torch.arange(count, device=batch.active_BM.device)).sum(dim=1)
        return torch.nn.functional.one_hot(number_B, 2**count).double()

    def _weights(self, batch: StepBatch) -> torch.Tensor:
        """The sum of the weighted target of each sample, (B,); 1 without class weights."""
        nothing_BC = torch.zeros_like(batch.outputs.logits_BC, dtype=torch.float32)
        return self._cross_entropy(nothing_BC, batch.labels_B) / math.log(self._classes)

    def _split(self, totals_K: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        groups, modalities = 2 ** len(self._modalities), len(self._modalities)
        sums = groups * modalities * self._classes
        count_G, weight_G, own_G = totals_K[sums:].view(groups, 3).unbind(dim=1)
        return totals_K[:sums].view(groups, modalities, self._classes), count_G, weight_G, own_G

    def _note(self, log_Z_G: torch.Tensor, count_G: torch.Tensor, own_G: torch.Tensor) -> None:
        total = count_G.sum().clamp(min=1)
        log_Z = torch.where(count_G > 0, log_Z_G * count_G, 0.0).sum() / total
        self._means.add(torch.stack([log_Z, own_G.sum() / total - log_Z]))
