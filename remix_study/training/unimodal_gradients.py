"""The gradients of the unimodal losses in the encoders, apart from those of all other losses (`Method.combine`)"""

from collections.abc import Iterator, Mapping

import torch
from torch import nn

from remix_study.models import MultimodalModel


class SeparateGradient:
    """A gradient of a parameter apart from `.grad`."""

    def __init__(self, parameter: nn.Parameter) -> None:
        self.parameter = parameter
        self.grad: torch.Tensor | None = None

    def add(self, gradient: torch.Tensor | None) -> None:
        if gradient is not None:
            self.grad = gradient if self.grad is None else self.grad + gradient


class UnimodalGradients:
    """The gradients of the unimodal losses in the encoders, apart from those of all other losses in `.grad`."""

    def __init__(self, model: MultimodalModel) -> None:
        self._heads = {m: list(model.heads[m].parameters()) for m in model.modalities}
        self._encoders = {m: [SeparateGradient(p) for p in model.encoder_parameters(m)] for m in model.modalities}

    def backward(self, terms: Mapping[str, torch.Tensor], count: int | torch.Tensor) -> None:
        """Add the gradients of a micro-batch; a head gets the sum of both losses, as usual.

        Args:
            count: number of samples of the global batch that the mean is over.
        """
        for m, gradients in self._encoders.items():
            if m not in terms:
                continue
            heads = self._heads[m]
            found = torch.autograd.grad(
                terms[m].sum() / count, [*(each.parameter for each in gradients), *heads], retain_graph=True,
                allow_unused=True,
            )  # fmt: skip
            for each, gradient in zip(gradients, found, strict=False):
                each.add(gradient)
            for p, gradient in zip(heads, found[len(gradients) :], strict=True):
                if gradient is not None:
                    p.grad = gradient if p.grad is None else p.grad + gradient
        others = [term.sum() for name, term in terms.items() if name not in self._encoders]
        torch.autograd.backward(torch.stack(others).sum() / count)

    def gradients(self) -> Iterator[SeparateGradient]:
        for gradients in self._encoders.values():
            yield from gradients

    def by_modality(self) -> dict[str, dict[nn.Parameter, torch.Tensor]]:
        """Modality -> parameter of its encoder -> gradient; without modalities that had no loss."""
        found = {
            m: {each.parameter: each.grad for each in gradients if each.grad is not None}
            for m, gradients in self._encoders.items()
        }
        return {m: gradients for m, gradients in found.items() if gradients}
