"""OGM-GE: slow the encoder down whose modality is ahead (Peng et al., CVPR 2022, arXiv 2203.15332)

    p_m     the mean probability that modality m's part of the fused logits gives to the true class
    rho_m   p_m / mean of the other modalities' p
    k_m     1 - tanh(alpha rho_m) if rho_m > 1, else 1

The gradient of every weight of encoder m is multiplied by k_m (OGM). GE adds Gaussian noise to it, also where k_m is 1,
with the standard deviation of the gradient before it is scaled. Weights are the parameters with two or more dimensions,
which are the convolutions in the encoders of the paper; biases and BatchNorm stay as they are.

`OGMPlus` is a control: instead of slowing the leading encoder down, it multiplies the gradients of the others by a
constant.

For more than two modalities, the mean over the others is ours. Only samples that train several modalities count, and a
batch without such samples is left alone: the parts of modalities without features predict by their biases, so that the
only encoder in training would be ahead of all others and switched off.
"""

# B samples of a micro-batch, M modalities, C classes

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from remix_study.balancing.acting import Comparing, StepMeans, Window, sums_of_compared
from remix_study.balancing.slots import Model, Step, StepBatch
from remix_study.seeds import device_stream

_SMALLEST_STD = 1e-8


class _Ratio(Comparing):
    """Compares the modalities in every step that has multimodal samples; subclasses turn rho_M into factors."""

    name: str

    def __init__(self, modalities: Sequence[str], window: Window) -> None:
        super().__init__(window)
        self._modalities = tuple(modalities)
        self._means = StepMeans(
            [f"method/{self.name}/{what}/{m}" for what in ("ratio", "factor") for m in self._modalities]
        )

    def sums(self, batch: StepBatch) -> torch.Tensor:
        """The sum of the true class's probability and the number of samples, for each modality: (2 M,)."""
        return true_probabilities(batch, self._modalities)

    def apply(self, model: Model, sums_K: torch.Tensor, step: Step) -> None:
        ratio_M = ratios(*sums_K.chunk(2))
        factor_M = self._factors(ratio_M)
        self._means.add(torch.cat([ratio_M, factor_M]))
        self._scale(model, factor_M, step)

    def metrics(self) -> dict[str, float]:
        return self._means.take()

    def state(self) -> dict[str, Any]:
        return self._means.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        self._means.restore(state)

    def _factors(self, ratio_M: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def _scale(self, model: Model, factor_M: torch.Tensor, step: Step) -> None:  # noqa: ARG002 - OGM draws for a step
        for m, factor in zip(self._modalities, factor_M.unbind(), strict=True):
            if gradients := weight_gradients(model, m):
                torch._foreach_mul_(gradients, factor)


class OGM(_Ratio):
    """OGM, and OGM-GE with `noise`.

    Args:
        modalities: the modalities of the model, in its order.
        alpha: strength; 0 leaves the gradients as they are.
        noise: whether to add noise to the gradients of all encoders (GE).
        window: epochs in which the rule acts.
        seed: of the run, for the noise.
    """

    def __init__(self, modalities: Sequence[str], alpha: float, *, noise: bool, window: Window, seed: int) -> None:
        self.name = "ogm_ge" if noise else "ogm"
        super().__init__(modalities, window)
        self._alpha, self._noise, self._seed = alpha, noise, seed

    def _factors(self, ratio_M: torch.Tensor) -> torch.Tensor:
        return torch.where(ratio_M > 1, 1 - torch.tanh(self._alpha * ratio_M), 1.0)

    def _scale(self, model: Model, factor_M: torch.Tensor, step: Step) -> None:
        if not self._noise:
            super()._scale(model, factor_M, step)
            return
        generator = device_stream(factor_M.device, self._seed, "ogm_ge", step.epoch, step.number)
        for m, factor in zip(self._modalities, factor_M.unbind(), strict=True):
            for gradient in weight_gradients(model, m):
                scale = gradient.std() + _SMALLEST_STD
                # Not like the gradient, whose memory layout depends on the number of workers.
                noise = torch.randn(gradient.shape, generator=generator, device=gradient.device)
                gradient.mul_(factor).addcmul_(noise, scale)


class OGMPlus(_Ratio):
    """A control for OGM: the gradients of modalities that are behind are multiplied by a constant.

    Args:
        modalities: the modalities of the model, in its order.
        factor: for modalities with rho < 1; 1 leaves the gradients as they are. The released code uses 4.
        window: epochs in which the rule acts.
    """

    name = "ogm_plus"

    def __init__(self, modalities: Sequence[str], factor: float, *, window: Window) -> None:
        super().__init__(modalities, window)
        self._factor = factor

    def _factors(self, ratio_M: torch.Tensor) -> torch.Tensor:
        return torch.where(ratio_M < 1, self._factor, 1.0)


def true_probabilities(batch: StepBatch, modalities: Sequence[str]) -> torch.Tensor:
    """The sum of the true class's probability under each modality's part of the fused logits, and its samples: (2 M,).

    Only samples that train several modalities count.
    """
    parts = batch.model.split_logits(batch.outputs.features, batch.outputs.head_logits)
    label_B1 = batch.labels_B[:, None]
    true_BM = torch.cat([parts[m].float().softmax(dim=1).gather(1, label_B1) for m in modalities], dim=1)
    return sums_of_compared(true_BM, batch.active_BM)


def ratios(sum_M: torch.Tensor, count_M: torch.Tensor) -> torch.Tensor:
    """rho_m, the mean of modality m divided by the mean of the others; 1 where there is nothing to compare.

    Args:
        sum_M: the sum over the samples that train modality m.
        count_M: their number.
    """
    seen_M = count_M > 0
    mean_M = sum_M / count_M.clamp(min=1)
    others_M = seen_M.sum() - seen_M.long()
    other_M = (mean_M.sum() - mean_M) / others_M.clamp(min=1)
    return torch.where(seen_M & (others_M > 0), mean_M / other_M.clamp(min=torch.finfo(mean_M.dtype).tiny), 1.0)


def weight_gradients(model: Model, modality: str) -> list[torch.Tensor]:
    """The gradients of an encoder's parameters with two or more dimensions."""
    return [p.grad for p in model.encoder_parameters(modality) if p.grad is not None and p.ndim >= 2]
