"""A training method: a plan of every epoch, and the rules of the methods that form it

    plan       the samples of every step, and the modalities that they train (`remix_study.epoch.EpochPlan`)
    rules      each is one object with any of the parts below; a step calls the parts in this order

    begin      `EpochRule`: before an epoch, with statistics of the training or the control samples
    mask       `MaskRule`: hides modalities of samples between the encoders and the fusion
    loss       `LossRule`: adds, scales or replaces loss terms
    combine    `CombineRule`: how the gradients of the fused and of the unimodal losses become those of the encoders
    apply      `GradientRule`: changes gradients, after the sum over ranks and before clipping
    factors    `RateRule`: scales the learning rates of the encoders

The training loop is the same for all methods, so methods with different parts can be combined. A method has one plan,
at most one rule that combines gradients, and any number of other rules.

Decisions are the same on every rank: what a rule knows of a batch are sums over the samples of the global batch, what
it knows of a split is complete on every rank, and its random numbers depend on seed, epoch, step and sample only.
"""

# B samples of a micro-batch, M modalities, C classes, K sums of a rule

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from remix_study.epoch import EpochPlan, Passes, SplitStatistics, Statistic

Terms = dict[str, torch.Tensor]
"""Name of a loss term -> its value for each sample, (B,), in nats; zero for samples that it excludes. The unimodal loss
of a modality has the name of the modality."""

Task = Literal["classification"]
"""The kind of task. Other kinds, such as multi-label classification, have no methods yet."""


class StepOutputs(Protocol):
    """Outputs of a model: fused logits (B, C), and, for each encoder that ran, unimodal logits m -> (B, C).

    Features m -> (B, d_m) of every modality are its replacement, by default zero, where it is inactive.
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

    def fuse(
        self,
        features: Mapping[str, torch.Tensor],
        active_BM: torch.Tensor,
        *,
        trains: Literal["all", "encoders", "fusion"] = "all",
        heads: Collection[str] | None = None,
    ) -> torch.Tensor: ...

    def classify(self, modality: str, features_Bd: torch.Tensor) -> torch.Tensor: ...

    def classify_each(self, modality: str, features_Bd: torch.Tensor) -> list[torch.Tensor]: ...

    def add_head(self, modality: str) -> None: ...

    def encoder_parameters(self, modality: str) -> Iterator[torch.nn.Parameter]: ...

    def encoder_buffers(self, modality: str) -> Iterator[torch.Tensor]: ...

    def head_parameters(self, modality: str) -> Iterator[torch.nn.Parameter]: ...

    def gate_parameters(self, modality: str) -> Iterator[torch.nn.Parameter]: ...

    def hold_gates(self, held_M: torch.Tensor) -> None: ...

    def fusion_parameters(self) -> Iterator[torch.nn.Parameter]: ...

    def fusion_gradients(self, modality: str) -> Iterator[torch.Tensor]: ...


class Step(NamedTuple):
    """A step of a run, equal on every rank.

    `multimodal`: the number of samples of the global batch that train several modalities. `samples`: the number of all
    of its samples. `steps`: the number of steps of its epoch.
    """

    epoch: int
    number: int  # in its epoch, from 0
    multimodal: int = 0
    samples: int = 0
    steps: int = 1

    def __str__(self) -> str:
        return f"epoch {self.epoch}, step {self.number}"


@dataclass(frozen=True)
class StepBatch:
    """A micro-batch of this rank after its forward pass.

    Attributes:
        model: the model that is trained.
        outputs: its outputs.
        labels_B: the classes.
        active_BM: the modalities that each sample trains; columns follow the model's.
        active: the same as modality -> bool (B,); modalities that no sample trains are absent.
        available_BM: the modalities that each sample has.
        samples_B: row numbers of the clip store.
        inputs: modality -> the input of its encoder, all B rows or only those that were active before any mask.
        at: the step.
        totals: name of a rule -> what its `sums_before` returned, summed over the global batch.
        before: the same batch before the mask rules; None if they masked nothing.
    """

    model: Model
    outputs: StepOutputs
    labels_B: torch.Tensor
    active_BM: torch.Tensor
    active: Mapping[str, torch.Tensor]
    available_BM: torch.Tensor
    samples_B: torch.Tensor
    inputs: Mapping[str, torch.Tensor]
    at: Step
    totals: Mapping[str, torch.Tensor] = field(default_factory=dict)
    before: "StepBatch | None" = None


class Mask(NamedTuple):
    """The modalities that remain after masking, bool (B, M), and a factor of all features, or None.

    `factor`: a scalar, or (B, 1).
    """

    active_BM: torch.Tensor
    factor: torch.Tensor | None = None


def _no_copies(method: "Method", epochs: int) -> tuple[SplitStatistics, SplitStatistics]:
    raise NotImplementedError("only the training loop trains copies of a model")


def _no_losses_of_copies(method: "Method", epochs: int, samples: NDArray[np.int64]) -> list[NDArray[np.float64]]:
    raise NotImplementedError("only the training loop trains copies of a model")


class EpochStart(NamedTuple):
    """The beginning of an epoch.

    `agreed`: takes numbers that each rank computed, and returns those of rank 0, on every rank. Every rank must call
    it. It is for computations whose result may depend on the processor.

    `train_copy`: trains a copy of the model with another method for a number of epochs, at most to the end of the run,
    with the learning rates of these epochs and a new state of the optimizer. It returns the copy's statistics of the
    training and of the control samples, and leaves the model and the optimizer as they are.

    `copy_losses`: does the same, and evaluates the copy after each epoch on the training samples at the given
    positions only. It returns their cross-entropies (n, M) of each modality alone, in nats, of every epoch.
    """

    epoch: int
    model: Model
    optimizer: torch.optim.Optimizer
    passes: Passes
    agreed: Callable[[NDArray[np.float64]], NDArray[np.float64]] = lambda values: values
    train_copy: "Callable[[Method, int], tuple[SplitStatistics, SplitStatistics]]" = _no_copies
    copy_losses: "Callable[[Method, int, NDArray[np.int64]], list[NDArray[np.float64]]]" = _no_losses_of_copies


@runtime_checkable
class LossRule(Protocol):
    """Computes loss terms."""

    def loss(self, batch: StepBatch, terms: Terms) -> Terms:
        """Return the terms of the rules before it, with its own added, or with terms scaled or replaced."""
        ...


@runtime_checkable
class Summing(Protocol):
    """A mask rule or loss rule that needs sums over the global batch before it acts.

    They need the whole batch at once, so they exclude micro-batches.
    """

    name: str

    def acts(self, step: Step) -> bool: ...

    def sums_before(self, batch: StepBatch) -> torch.Tensor:
        """Sums over the samples of the batch, (K,) float32 or float64; it runs without autograd.

        A mask rule sees the batch before the masks, a loss rule after them. See `StepBatch.totals`.
        """
        ...


@runtime_checkable
class Recorded(Protocol):
    """A rule with metrics and a state.

    `name`: of the method that it belongs to.
    """

    name: str

    def metrics(self) -> dict[str, float]:
        """What the rule did since the last call, as means over the steps in which it acted; empty if it never did."""
        ...

    def state(self) -> dict[str, Any]:
        """What an exact resume needs: tensors and plain values."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None: ...


@runtime_checkable
class MaskRule(Recorded, Protocol):
    """Masks modalities of samples between the encoders and the fusion."""

    def acts(self, step: Step) -> bool:
        """Whether the rule acts in this step. If not, `mask` is not called."""
        ...

    def mask(self, batch: StepBatch) -> Mask:
        """Return the modalities of each sample that remain. They are among those that are active."""
        ...


@runtime_checkable
class Removing(Protocol):
    """A mask rule that may leave samples without any modality.

    They are removed from the losses, which are then means over the other samples of the global batch. Their number is
    needed before the gradients, so it excludes micro-batches.
    """

    removes: bool

    def acts(self, step: Step) -> bool: ...


@runtime_checkable
class CombineRule(Recorded, Protocol):
    """Combines the gradients of the fused and of the unimodal losses in the encoders, after the sum over ranks."""

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


@runtime_checkable
class GradientRule(Recorded, Protocol):
    """Changes the gradients of a step, after the sum over ranks and before clipping."""

    def acts(self, step: Step) -> bool:
        """Whether the rule acts in this step. If not, neither `sums` nor `apply` is called."""
        ...

    def sums(self, batch: StepBatch) -> torch.Tensor:
        """Sums over the samples of a micro-batch, (K,) float32, which are then summed over the global batch.

        It runs without autograd.
        """
        ...

    def apply(self, model: Model, sums_K: torch.Tensor, step: Step) -> None:
        """Change the gradients, given the sums over the global batch. A gradient of None stays None."""
        ...


@runtime_checkable
class EpochRule(Recorded, Protocol):
    """Acts before epochs, with statistics that all such rules and the plan share.

    `needs`: further statistics of a pass (`remix_study.epoch.Statistic`). `changes_model`: whether it changes weights;
    such rules act before the plan, which then scores the samples with the changed model, all others after it.
    """

    needs: frozenset[Statistic]
    changes_model: bool

    def due(self, epoch: int) -> bool:
        """Whether the rule acts before this epoch. If not, `begin` is not called."""
        ...

    def begin(self, start: EpochStart) -> None: ...


@runtime_checkable
class RateRule(Protocol):
    """Scales the learning rates of the encoders."""

    def factors(self) -> Mapping[str, float]:
        """Modality -> the factor of its encoder's learning rate, constant within an epoch."""
        ...


@runtime_checkable
class Teaching(Protocol):
    """Runs further encoders, each as large as the encoder of its modality."""

    def passes(self, epoch: int) -> int:
        """Number of forward passes of these encoders for each sample that trains their modality in this epoch."""
        ...


@dataclass(frozen=True)
class Method:
    """A training method.

    Args:
        name: as in the configuration.
        plan: the epoch plan.
        rules: of the base losses and of added methods, in the order in which they act.
        trains_heads: whether the unimodal heads are trained. If not, their metrics are left out, and a modality alone
            predicts with the fused head, with all other modalities masked.
        task: the kind of task.
    """

    name: str
    plan: EpochPlan
    rules: tuple[object, ...]
    trains_heads: bool = True
    task: Task = "classification"

    def __post_init__(self) -> None:
        if len(self._with(CombineRule)) > 1:
            raise ValueError("a method must have at most one rule that combines gradients")

    def _with(self, part: Any) -> tuple[Any, ...]:  # not `type[T]`, of which mypy takes no protocol
        return tuple(rule for rule in self.rules if isinstance(rule, part))

    @cached_property
    def losses(self) -> tuple[LossRule, ...]:
        return self._with(LossRule)

    @cached_property
    def masks(self) -> tuple[MaskRule, ...]:
        return self._with(MaskRule)

    @cached_property
    def removing(self) -> tuple[Removing, ...]:
        return tuple(rule for rule in self._with(Removing) if rule.removes)

    @cached_property
    def summing(self) -> tuple[Summing, ...]:
        return self._with(Summing)

    @cached_property
    def combine(self) -> CombineRule | None:
        return next(iter(self._with(CombineRule)), None)

    @cached_property
    def gradients(self) -> tuple[GradientRule, ...]:
        return self._with(GradientRule)

    @cached_property
    def epochs(self) -> tuple[EpochRule, ...]:
        return self._with(EpochRule)

    @cached_property
    def recorded(self) -> tuple[Recorded, ...]:
        """The rules that have metrics and a state."""
        return self._with(Recorded)

    def rate_factors(self) -> dict[str, float]:
        """Modality -> the factor of its encoder's learning rate; 1 for those that are absent."""
        factors: dict[str, float] = {}
        for rule in self._with(RateRule):
            for m, factor in rule.factors().items():
                factors[m] = factors.get(m, 1.0) * factor
        return factors

    def further_passes(self, epoch: int) -> int:
        """Forward passes of encoders besides the model's, for each sample that trains a modality in this epoch."""
        teaching = self._with(Teaching)
        return sum(rule.passes(epoch) for rule in teaching)

    def state(self) -> dict[str, dict[str, Any]]:
        """The state of every rule, by its name, for an exact resume. The plan has its own."""
        return {rule.name: rule.state() for rule in self.recorded}

    def restore(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Restore what `state` returned."""
        for rule in self.recorded:
            rule.restore(state[rule.name])
