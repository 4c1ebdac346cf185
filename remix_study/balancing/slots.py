"""A training method: the parts of a training step that it defines

    plan       the samples of every step, and the modalities that they train (`remix_study.epoch.EpochPlan`)
    losses     loss rules, summed
    combine    how the gradients of the fused and of the unimodal losses become the gradients of the encoders
    gradients  changes of the gradients, after the sum over ranks and before clipping

The training loop is the same for all methods, so methods that define different parts can be combined. A method has one
plan, at most one rule that combines gradients, and any number of loss rules and gradient rules.

Decisions are the same on every rank: what a rule knows of a batch are sums over the samples of the global batch, and
its random numbers depend on seed, epoch and step only.
"""

# B samples of a micro-batch, M modalities, C classes, K sums of a rule

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch

from remix_study.epoch import EpochPlan


class StepOutputs(Protocol):
    """Outputs of a model: fused logits (B, C), and, for each encoder that ran, unimodal logits m -> (B, C).

    Features m -> (B, d_m) of every modality are exactly zero where it is inactive.
    """

    @property
    def logits_BC(self) -> torch.Tensor: ...
    @property
    def head_logits(self) -> dict[str, torch.Tensor]: ...
    @property
    def features(self) -> dict[str, torch.Tensor]: ...


class Model(Protocol):
    """What a rule may use of a model (`remix_study.models.MultimodalModel`)."""

    @property
    def modalities(self) -> tuple[str, ...]: ...

    def split_logits(
        self, features: Mapping[str, torch.Tensor], head_logits: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]: ...

    def encoder_parameters(self, modality: str) -> Iterator[torch.nn.Parameter]: ...

    def fusion_gradients(self, modality: str) -> Iterator[torch.Tensor]: ...


class Step(NamedTuple):
    """A step of a run, equal on every rank.

    `multimodal`: the number of samples of the global batch that train several modalities.
    """

    epoch: int
    number: int  # in its epoch, from 0
    multimodal: int = 0

    def __str__(self) -> str:
        return f"epoch {self.epoch}, step {self.number}"


class LossRule(Protocol):
    """Computes named loss terms (B,), one value per sample, in nats; zero for samples that a term excludes.

    `active`: modality -> bool (B,), the samples that it trains; modalities without samples are absent.
    """

    def __call__(
        self, outputs: StepOutputs, labels_B: torch.Tensor, active: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]: ...


class CombineRule(Protocol):
    """Combines the gradients of the fused and of the unimodal losses in the encoders, after the sum over ranks.

    `name`: of the method that it belongs to.
    """

    name: str

    def acts(self, step: Step) -> bool:
        """Whether the rule acts in this step. If not, the losses are summed, and `combine` is not called."""
        ...

    def combine(self, alone: Mapping[str, Mapping[torch.nn.Parameter, torch.Tensor]]) -> None:
        """Set the gradients of the encoders.

        Args:
            alone: modality -> parameter of its encoder -> gradient of the modality's unimodal loss. `.grad` is that of
                all other losses. Modalities that the step does not train are absent.
        """
        ...

    def metrics(self) -> dict[str, float]:
        """What the rule did since the last call, as means over the steps in which it acted; empty if it never did."""
        ...

    def state(self) -> dict[str, Any]:
        """What an exact resume needs: tensors and plain values."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None: ...


class GradientRule(Protocol):
    """Changes the gradients of a step, after the sum over ranks and before clipping.

    `name`: of the method that it belongs to.
    """

    name: str

    def acts(self, step: Step) -> bool:
        """Whether the rule acts in this step. If not, neither `sums` nor `apply` is called."""
        ...

    def sums(self, model: Model, outputs: StepOutputs, labels_B: torch.Tensor, active_BM: torch.Tensor) -> torch.Tensor:
        """Sums over the samples of a micro-batch, (K,) float32, which are then summed over the global batch.

        It runs without autograd. `active_BM`: the modalities that each sample trains; columns follow the model's.
        """
        ...

    def apply(self, model: Model, sums_K: torch.Tensor, step: Step) -> None:
        """Change the gradients, given the sums over the global batch. A gradient of None stays None."""
        ...

    def metrics(self) -> dict[str, float]:
        """What the rule did since the last call, as means over the steps in which it acted; empty if it never did."""
        ...

    def state(self) -> dict[str, Any]:
        """What an exact resume needs: tensors and plain values."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True)
class Method:
    """A training method."""

    name: str
    plan: EpochPlan
    losses: tuple[LossRule, ...]
    trains_heads: bool = True  # whether the unimodal heads are trained; if not, their metrics are left out
    combine: CombineRule | None = None
    gradients: tuple[GradientRule, ...] = ()

    @property
    def rules(self) -> tuple[CombineRule | GradientRule, ...]:
        """The rules that have metrics and a state, in the order in which they act."""
        return (*(() if self.combine is None else (self.combine,)), *self.gradients)

    def state(self) -> dict[str, dict[str, Any]]:
        """The state of every rule, by its name, for an exact resume. The plan has its own."""
        return {rule.name: rule.state() for rule in self.rules}

    def restore(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Restore what `state` returned."""
        for rule in self.rules:
            rule.restore(state[rule.name])
