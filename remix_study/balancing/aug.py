"""AUG: more heads for the modality that is behind (Jiang, Huang, Yang, NeurIPS 2025, arXiv 2502.20120)

A modality's unimodal logits are the sum of those of its heads, one at first. Every few epochs, with s_m the sum over
the training samples of the probability that these logits give to the true class:

    if max_j s_j / s_w > 1 + threshold for the modality w with the smallest s, it gets one more head

With n > 1 heads with logits u_1 .. u_n, previous = u_1 + .. + u_{n-1}, and p = softmax(previous) without gradient:

    L_m = CE(previous + u_n) + weight (CE(previous) + (1 - residual p[y]) CE(u_n))

The last term is CE(u_n) - residual CE(u_n, target y p): a head learns less of what the heads before it know. The
first term is the unimodal loss of joint training, of Remix, or of whatever AUG is added to.

In the paper, no loss is shared by the modalities, and each has its own step. Since their parameters are disjoint,
these steps are one step with the sum of the losses; `fused_weight` 0 drops the fused loss.

With abstaining targets, each CE of a sample that is judged uninformative in m has the uniform target, and p[y] is 0.
"""

# N training samples, B samples of a micro-batch, M modalities, C classes

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from remix_study.balancing.abstain import Abstain
from remix_study.balancing.acting import Window
from remix_study.balancing.losses import FUSED, CrossEntropy, unimodal_loss
from remix_study.balancing.slots import EpochStart, StepBatch, Terms
from remix_study.epoch import Statistic


class AUG:
    """See the module docstring.

    Args:
        modalities: the modalities of the model, in its order.
        every: epochs between two checks.
        threshold: how much further ahead the best modality must be, at least 0.
        weight: of the losses of the heads.
        residual: how much less a head learns of what the heads before it know, in [0, 1].
        fused_weight: factor of the fused loss.
        window: epochs in which the rule acts.
        cross_entropy: of the training losses.
        targets: decides which samples abstain; None: none does.
    """

    name = "aug"
    needs: frozenset[Statistic] = frozenset()
    changes_model = False  # a new head changes no prediction

    def __init__(
        self,
        modalities: Sequence[str],
        every: int,
        threshold: float,
        weight: float,
        residual: float,
        fused_weight: float,
        *,
        window: Window,
        cross_entropy: CrossEntropy,
        targets: Abstain | None = None,
    ) -> None:
        self._modalities = tuple(modalities)
        self._every, self._threshold, self._window = every, threshold, window
        self._weight, self._residual, self._fused_weight = weight, residual, fused_weight
        self._cross_entropy, self._targets = cross_entropy, targets
        self._heads: dict[str, int] = {}  # in use in the steps since the last metrics
        self._found: dict[str, float] = {}

    def due(self, epoch: int) -> bool:
        """Whether a modality may get a head before this epoch."""
        return epoch in checks(self._window, self._every, epoch + 1)

    def begin(self, start: EpochStart) -> None:
        true_NM = np.exp(-start.passes.train().cross_entropy_NM)
        mean_M = true_NM.mean(axis=0)
        self._found = {f"method/aug/probability/{m}": float(p) for m, p in zip(self._modalities, mean_M, strict=True)}
        weakest = int(mean_M.argmin())
        if mean_M.max() > (1 + self._threshold) * mean_M[weakest]:
            start.model.add_head(self._modalities[weakest])

    def loss(self, batch: StepBatch, terms: Terms) -> Terms:
        if batch.at.epoch not in self._window:
            return terms
        found = {name: term * self._fused_weight if name == FUSED else term for name, term in terms.items()}
        for m, rows_B in batch.active.items():
            *before, last_BC = batch.model.classify_each(m, batch.outputs.features[m])
            self._heads[m] = len(before) + 1
            if not before:
                continue
            previous_BC = torch.stack(before).sum(dim=0)
            known_B = previous_BC.detach().float().softmax(dim=1).gather(1, batch.labels_B[:, None]).squeeze(1)
            abstains_B = None if self._targets is None else self._targets.abstains(m, batch)
            if abstains_B is not None:
                known_B = known_B * ~abstains_B
            before_B, last_B = (
                unimodal_loss(m, logits_BC, batch, self._cross_entropy, self._targets)
                for logits_BC in (previous_BC, last_BC)
            )
            loss_B = before_B + (1 - self._residual * known_B) * last_B
            found[f"aug/{m}"] = self._weight * loss_B * rows_B
        return found

    def metrics(self) -> dict[str, float]:
        found = self._found | {f"method/aug/heads/{m}": float(heads) for m, heads in self._heads.items()}
        self._found, self._heads = {}, {}
        return found

    def state(self) -> dict[str, Any]:
        return {"heads": dict(self._heads), "found": dict(self._found)}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._heads, self._found = dict(state["heads"]), dict(state["found"])


def checks(window: Window, every: int, epochs: int) -> range:
    """The epochs before which a modality may get a head, in a run of `epochs` epochs."""
    end = epochs if window.end is None else min(epochs, window.end)
    return range(window.begin + every, max(end, window.begin + every), every)
