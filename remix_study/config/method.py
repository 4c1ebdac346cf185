"""How a run trains: the ways of training, and what other code asks of a method

Filter rules and shares are in `assignment.py`, phases in `phases.py`, added methods in `balancing.py`.
"""

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field

from remix_study.config.added_methods import AddedConfig
from remix_study.config.assignment import ArgminConfig, FilterConfig, MarginConfig, ReplayConfig, ShareConfig
from remix_study.config.balancing import Additions, WithKey, options_of
from remix_study.config.identity import Introduced
from remix_study.config.part import Modality, Part
from remix_study.config.phases import PhasesKey
from remix_study.config.schedule import BelowOne, EachNotNegative, ends_of


class Extensible(Part):
    """A way of training, to which methods are added by `with`."""

    added: WithKey = Field(default=Additions(), alias="with", description="added methods, such as [ogm_ge]")


class JointConfig(Extensible):
    """Joint training with the cross-entropy of the fused head only."""

    name: Literal["joint"]


def each_of(weights: EachNotNegative) -> list[float]:
    """All weights that are given; of a schedule, both ends."""
    given = weights.values() if isinstance(weights, dict) else [weights]
    return [value for each in given for value in ends_of(each)]


class JointUnimodalConfig(Extensible):
    """Joint training with additional unimodal losses: L = CE(z) + sum_m weight_m CE(h_m)."""

    name: Literal["joint_unimodal"]
    weight: EachNotNegative = Field(default=1.0, description="a number, or one of each modality; or a schedule")


class UnimodalConfig(Part):
    """Training one modality alone: the ceiling that sufficiency is measured against."""

    name: Literal["unimodal"]
    modality: Modality


class RemixConfig(Extensible):
    """Data Remixing; the defaults are those of the released code, except `masking` and `smallest_batch` of the run."""

    name: Literal["remix"] = "remix"
    warmup: int = Field(default=10, ge=0, description="epochs of joint training before the first assignment")
    score: Literal["kl", "kl_normalised", "cross_entropy", "true_class"] = "kl"
    predictions: Annotated[Literal["heads", "dropout"], Introduced("heads")] = Field(
        default="heads",
        description="how a modality alone predicts: with its unimodal head, or with the fused head and all other "
        "modalities masked (dropout; there are no unimodal losses then)",
    )
    filter: FilterConfig = ArgminConfig()
    share: ShareConfig | None = None
    order: Literal["blocks", "alternate", "shuffled", "proportional", "mixed"] = "blocks"
    training_order: tuple[Modality, ...] | None = Field(
        default=None, description="default: video first, as in the released code"
    )
    accumulate: Annotated[bool, Introduced(False)] = Field(
        default=False,
        description="with `order: mixed`: update each encoder with the batches that `blocks` would give it",
    )
    joint_share: BelowOne = Field(
        default=0.0, description="fraction of the samples that train all modalities after the warm-up; or a schedule"
    )
    rescore_every: int = Field(default=1, ge=1, description="epochs")
    warmup_weight: EachNotNegative = Field(
        default=0.5,
        description="alpha and beta, the unimodal losses of multimodal samples: a number, or one of each modality; or "
        "a schedule",
    )
    weight: EachNotNegative = Field(
        default=1.0,
        description="gamma, the unimodal loss of a unimodal batch: a number, or one of each modality; or a schedule",
    )
    phases: Annotated[PhasesKey, Introduced(None)] = Field(
        default=None,
        description="phases after the warm-up, in their order; or a preset: `smp` (the weakest modality alone, then "
        "the next, then all), `paper` (none)",
    )


MethodConfig = Annotated[
    JointConfig | JointUnimodalConfig | UnimodalConfig | RemixConfig | AddedConfig, Field(discriminator="name")
]


def names_of(method: MethodConfig) -> tuple[str, ...]:
    """The name of a method and those of the methods that are added to it: `("remix", "ogm_ge")`."""
    return (method.name, *(method.added.names() if isinstance(method, Extensible) else ()))


def base_of(added: Iterable[str]) -> Literal["joint", "joint_unimodal"]:
    """The joint training that added methods need."""
    return "joint_unimodal" if any(options_of(name).on_unimodal_losses for name in added) else "joint"


def expanded(method: MethodConfig) -> JointConfig | JointUnimodalConfig | UnimodalConfig | RemixConfig:
    """A method as a way of training, with methods that are added to it: `ogm_ge` is `joint` with `ogm_ge`."""
    if not isinstance(method, AddedConfig):
        return method
    options = method.model_dump(exclude={"name"})
    if base_of([method.name]) == "joint_unimodal":
        return JointUnimodalConfig.model_validate({"name": "joint_unimodal", "with": {method.name: options}})
    return JointConfig.model_validate({"name": "joint", "with": {method.name: options}})


def trains_heads(method: MethodConfig) -> bool:
    """Whether a method trains unimodal heads."""
    return has_unimodal_losses(method) or shares_head(method)


def shares_head(method: MethodConfig) -> bool:
    """Whether all modalities have the same head, whatever the fusion of the model (MLA)."""
    return "mla" in names_of(method)


def has_unimodal_losses(method: MethodConfig) -> bool:
    """Whether a method has unimodal losses beside the fused one."""
    whole = expanded(method)
    return not isinstance(whole, JointConfig) and not (
        isinstance(whole, RemixConfig) and whole.predictions == "dropout"
    )


def has_heads_to_abstain(method: MethodConfig) -> bool:
    """Whether a method has a loss of each modality alone: of its unimodal head, or the encoders' own loss of DGL."""
    return has_unimodal_losses(method) or "dgl" in names_of(method)


def teachers_of(method: MethodConfig) -> Literal["train"] | dict[Modality, str] | None:
    """The teachers that a method is given: modality -> run folder, or `train`; None if it needs none."""
    whole = expanded(method)
    options = None if isinstance(whole, UnimodalConfig) else whole.added.umt
    return None if options is None else options.teachers


REPLAYED = "filter.run"
"""Names the run that a filter rule replays, beside the modalities of teachers, among the runs that a run needs"""


def replayed_of(method: MethodConfig) -> ReplayConfig | None:
    """The filter rule that replays the shares of another run; None if the method has another one."""
    return method.filter if isinstance(method, RemixConfig) and isinstance(method.filter, ReplayConfig) else None


def replay_problem(method: RemixConfig, modalities: int | None = None) -> str | None:
    """Why the shares of a run cannot be replayed; None if they can.

    Args:
        modalities: M of the corpus, if it is known.
    """
    for number, phase in enumerate(method.phases if isinstance(method.phases, tuple) else (), 1):
        rule, trained = phase.filter or method.filter, len(phase.only or ())
        if isinstance(rule, MarginConfig) and rule.close == "each" and 1 < trained != modalities:
            return (
                f"in phase {number}, `close: each` lets samples train each of {trained} modalities, but not the others"
            )
    return None
