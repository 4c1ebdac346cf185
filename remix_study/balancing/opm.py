"""OPM: drop features of the modality that is ahead (Wei, Hu, Du, Wen; TPAMI 2024, arXiv 2410.11582)

    p_m     the mean probability that modality m's part of the fused logits gives to the true class
    rho_m   p_m / mean of the other modalities' p
    q_m     clip(base (1 + strength tanh(rho_m - 1)), 0, 1) if rho_m > 1, else 0
    theta   sum over m of d_m q_m / sum over m of d_m, with d_m the size of m's features

A batch is modulated with probability `execute`. Modality m of a sample is then dropped with probability q_m, and all
features are multiplied by 1 / (1 - theta), so that they keep their mean size. A sample of which nothing is left is
removed from the loss, whose mean is over the other samples. Prediction uses all features as they are.

With two modalities only one can be ahead, so that something is left of every sample. For more, the mean over the
others is ours. Samples that train one modality are not modulated, and do not count.
"""

# B samples of the global batch, M modalities

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from remix_study.balancing.acting import Comparing, StepMeans, Window
from remix_study.balancing.draws import SampleDraws
from remix_study.balancing.ogm import ratios, true_probabilities
from remix_study.balancing.slots import Mask, Step, StepBatch
from remix_study.seeds import stream


class OPM(Comparing):
    """See the module docstring.

    Args:
        modalities: the modalities of the model, in its order.
        base: q_m of a modality that is barely ahead, in [0, 1]; 0 changes nothing.
        strength: how much more a modality far ahead is dropped.
        execute: the probability of modulating a batch.
        window: epochs in which the rule acts.
        seed: of the run, for the choice of batches.
        draws: M random numbers of each sample.
    """

    name = "opm"

    def __init__(
        self,
        modalities: Sequence[str],
        base: float,
        strength: float,
        execute: float,
        *,
        window: Window,
        seed: int,
        draws: SampleDraws,
    ) -> None:
        super().__init__(window)
        self._modalities = tuple(modalities)
        self._base, self._strength, self._execute = base, strength, execute
        self._seed, self._draws = seed, draws
        self.removes = len(self._modalities) > 2
        self._means = StepMeans(
            [f"method/opm/{what}/{m}" for what in ("ratio", "drop_probability") for m in modalities]
        )

    def acts(self, step: Step) -> bool:
        """Whether the batch is modulated."""
        if not super().acts(step):
            return False
        return bool(stream(self._seed, "opm execute", step.epoch, step.number).random() < self._execute)

    def sums_before(self, batch: StepBatch) -> torch.Tensor:
        """The sum of the true class's probability and the number of samples, for each modality: (2 M,)."""
        return true_probabilities(batch, self._modalities)

    def mask(self, batch: StepBatch) -> Mask:
        ratio_M = ratios(*batch.totals[self.name].chunk(2))
        ahead_M = self._base * (1 + self._strength * torch.tanh(ratio_M - 1))
        drop_M = torch.where(ratio_M > 1, ahead_M.clamp(0, 1), 0.0)
        self._means.add(torch.cat([ratio_M, drop_M]))
        several_B1 = batch.active_BM.sum(dim=1, keepdim=True) > 1
        dropped_BM = several_B1 & (self._draws.of(batch.at.epoch, batch.samples_B) < drop_M)
        widths = [batch.outputs.features[m].shape[1] for m in self._modalities]
        # Not a tensor of the widths: the host would wait for the GPU to copy them.
        shares = [drop * (width / sum(widths)) for drop, width in zip(drop_M.unbind(), widths, strict=True)]
        theta = torch.stack(shares).sum()
        return Mask(batch.active_BM & ~dropped_BM, torch.where(several_B1, 1 / (1 - theta), 1.0))

    def metrics(self) -> dict[str, float]:
        return self._means.take()

    def state(self) -> dict[str, Any]:
        return self._means.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        self._means.restore(state)
