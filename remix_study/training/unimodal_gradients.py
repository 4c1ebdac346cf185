"""The gradients of the unimodal losses in the encoders, apart from those of all other losses (`Method.combine`)"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn

from remix_study.balancing import StepBatch
from remix_study.models import MultimodalModel
from remix_study.models.inside import InnerFusion


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
        encoders = {each.parameter for gradients in self._encoders.values() for each in gradients}
        self._rest = [p for p in model.parameters() if p not in encoders]
        # Else losses reach an encoder by other ways than its features: through its feature of zeros, or its stages.
        self._through_features = model.masking is None and not isinstance(model.fusion, InnerFusion)

    def backward(self, terms: Mapping[str, torch.Tensor], batch: StepBatch, count: int | torch.Tensor) -> None:
        """Add the gradients of a micro-batch; a head gets the sum of both losses, as usual.

        Args:
            batch: before any mask, since all terms were computed from its features.
            count: number of samples of the global batch that the mean is over.
        """
        others = torch.stack([term.sum() for name, term in terms.items() if name not in self._encoders]).sum() / count
        alone = {m: terms[m].sum() / count for m in self._encoders if m in terms}
        if self._through_features:
            features = {
                m: features_Bd for m, features_Bd in batch.outputs.features.items() if features_Bd.requires_grad
            }
            self._one_encoder_after_the_other(alone, others, features, batch.inputs)
            return
        for m, loss in alone.items():
            parameters = [each.parameter for each in self._encoders[m]]
            found = torch.autograd.grad(loss, [*parameters, *self._heads[m]], retain_graph=True, allow_unused=True)
            self._add_alone(m, found)
            _add(self._heads[m], found[len(parameters) :])
        torch.autograd.backward(others)

    def _one_encoder_after_the_other(
        self,
        alone: Mapping[str, torch.Tensor],
        others: torch.Tensor,
        features: Mapping[str, torch.Tensor],
        inputs: Mapping[str, torch.Tensor],
    ) -> None:
        """Differentiate each encoder twice, and release its activations before those of the next are needed."""
        of_alone: dict[str, torch.Tensor | None] = {}
        for m, loss in alone.items():
            feature = [features[m]] if m in features else []
            found = torch.autograd.grad(loss, [*feature, *self._heads[m]], retain_graph=True, allow_unused=True)
            of_alone[m] = found[0] if feature else None
            _add(self._heads[m], found[len(feature) :])
        found = torch.autograd.grad(others, [*features.values(), *self._rest], allow_unused=True)
        of_others = dict(zip(features, found, strict=False))
        _add(self._rest, found[len(features) :])
        # The encoder with the largest input last, when the activations of all others are released.
        for m in sorted(features, key=lambda m: inputs[m].numel()):
            parameters = [each.parameter for each in self._encoders[m]]
            one, other = of_alone.get(m), of_others[m]
            if one is not None:
                again = other is not None
                self._add_alone(m, torch.autograd.grad(features[m], parameters, one, again, allow_unused=True))
            if other is not None:
                _add(parameters, torch.autograd.grad(features[m], parameters, other, allow_unused=True))

    def _add_alone(self, modality: str, found: Sequence[torch.Tensor | None]) -> None:
        for each, gradient in zip(self._encoders[modality], found, strict=False):
            each.add(gradient)

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


def _add(parameters: Sequence[nn.Parameter], found: Sequence[torch.Tensor | None]) -> None:
    for p, gradient in zip(parameters, found, strict=True):
        if gradient is not None:
            p.grad = gradient if p.grad is None else p.grad + gradient
