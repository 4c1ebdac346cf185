"""LFM: align the modalities' predictions first, and fit the labels later (Yang, Wan, Jiang and Xu, NeurIPS 2024)

"Facilitating Multimodal Classification via Dynamically Learning Modality Gap". Of a sample that trains several
modalities:

    p_m    softmax of modality m's part of the fused logits
    JS     Jensen-Shannon divergence of p_m and p_n, in nats; the mean over pairs of modalities that the sample trains
    loss   2 (a CE(z) + (1 - a) JS)

The weight a grows over the training from 0.2 to 1. The published schedule is a polynomial of the epoch, fitted to
weights that were learned on CREMA-D over 200 epochs; here it is one of epoch / epochs, for any number of them.

The published fusion is `decision`, whose parts are the logits of the heads. Samples that train one modality have
nothing to align, and keep CE(z).
"""

# B samples of a micro-batch, M modalities, C classes

from collections.abc import Sequence
from itertools import combinations

import torch

from remix_study.balancing.acting import Noting, Window
from remix_study.balancing.losses import FUSED
from remix_study.balancing.slots import Step, StepBatch, Terms

# Coefficients of (epoch / epochs)^i: those of the released code, of epoch^i, multiplied by 200^i.
_SCHEDULE = (0.2046237, 0.6709455, 4.919582, -23.43579, 35.81368, -17.27096)


def weight(progress: float) -> float:
    """The weight a of the fused loss, in [0.2, 1], after a fraction `progress` of the epochs, in [0, 1).

    The polynomial reaches 1.01 after 0.9 of the epochs. Above 1, the loss would drive the predictions apart.
    """
    return min(1.0, sum(coefficient * progress**power for power, coefficient in enumerate(_SCHEDULE)))


def divergence(one_BC: torch.Tensor, other_BC: torch.Tensor) -> torch.Tensor:
    """The Jensen-Shannon divergence of the predictions of logits, (B,), in nats, in [0, ln 2]."""
    logs = [logits_BC.float().log_softmax(dim=1) for logits_BC in (one_BC, other_BC)]
    middle_BC = torch.logaddexp(*logs) - torch.log(torch.tensor(2.0))
    apart_BC = sum((log_BC.exp() * (log_BC - middle_BC) for log_BC in logs), torch.zeros(()))
    return 0.5 * apart_BC.sum(dim=1)


class LFM(Noting):
    """See the module docstring.

    Args:
        modalities: the modalities of the model, in its order.
        epochs: of the run.
        window: epochs in which the rule acts.
    """

    name = "lfm"

    def __init__(self, modalities: Sequence[str], epochs: int, *, window: Window) -> None:
        super().__init__(["weight_fused", "divergence"])
        self._modalities, self._epochs, self._window = tuple(modalities), epochs, window

    def acts(self, step: Step) -> bool:
        """Whether the step is within the window and has samples that train several modalities."""
        return step.multimodal > 0 and step.epoch in self._window

    def loss(self, batch: StepBatch, terms: Terms) -> Terms:
        """Scale the fused loss, and add the divergence of the modalities' predictions."""
        if not self.acts(batch.at):
            return terms
        parts = batch.model.split_logits(batch.outputs.features, batch.outputs.head_logits)
        pairs = list(combinations(self._modalities, 2))
        columns = {m: batch.active_BM[:, column] for column, m in enumerate(self._modalities)}
        both_BP = torch.stack([columns[m] & columns[n] for m, n in pairs], dim=1)
        apart_BP = torch.stack([divergence(parts[m], parts[n]) for m, n in pairs], dim=1)
        apart_B = (apart_BP * both_BP).sum(dim=1) / both_BP.sum(dim=1).clamp(min=1)
        several_B = both_BP.any(dim=1)
        a = weight(batch.at.epoch / self._epochs)
        self._note(
            torch.stack([torch.full_like(apart_B, 2 * a), apart_B], dim=1), torch.stack([several_B, several_B], dim=1)
        )
        scaled_B = terms[FUSED] * torch.where(several_B, 2 * a, 1.0)
        return terms | {FUSED: scaled_B, "lfm": 2 * (1 - a) * apart_B * several_B}
