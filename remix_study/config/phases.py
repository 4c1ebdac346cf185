"""Phases of Remix after the warm-up: `method.phases`, a list or the name of a preset

phases: [{until: 0.3, share: {audio: 0.2, video: 0.8}}, {until: 0.6, only: [video]}, {joint: true}]
phases: smp
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticKnownError

from remix_study.config.assignment import FilterConfig, ShareConfig
from remix_study.config.part import Modality, Part
from remix_study.config.problems import ContradictionError
from remix_study.config.schedule import BelowOne, EachNotNegative

PRESETS = ("paper", "smp")


class PhaseConfig(Part):
    """Some of the epochs after the warm-up. Keys that it leaves out have the values of the method.

    Schedules within a phase go over the epochs of the phase.
    """

    until: float | None = Field(
        default=None, gt=0, le=1,
        description="where the phase ends, as a fraction of the epochs after the warm-up; not for the last phase",
    )  # fmt: skip
    joint: bool = Field(default=False, description="all samples train all modalities")
    only: tuple[Modality, ...] | None = Field(default=None, description="the modalities that train; default: all")
    filter: FilterConfig | None = None
    share: ShareConfig | None = None
    joint_share: BelowOne | None = None
    warmup_weight: EachNotNegative | None = None
    weight: EachNotNegative | None = None

    @model_serializer(mode="wrap")
    def _without_absent(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if value is not None and value is not False}

    @model_validator(mode="after")
    def _consistent(self) -> "PhaseConfig":
        given = [key for key in ("only", "filter", "share", "joint_share", "weight") if getattr(self, key) is not None]
        if self.joint and given:
            raise ValueError(
                f"`{given[0]}` has no effect with `joint: true`, with which all samples train all modalities; leave "
                "one of them out"
            )
        if self.only is None:
            return self
        if len(set(self.only)) < len(self.only) or not self.only:
            raise ValueError("`only` must name at least one modality, and each once")
        unused = ["joint_share", *(["filter", "share"] if len(self.only) == 1 else [])]
        if unused := [key for key in given if key in unused]:
            raise ValueError(
                f"`{unused[0]}` has no effect with `only: [{', '.join(self.only)}]`; leave one of them out"
            )
        return self


class SMPConfig(Part):
    """SMP: the weakest modality alone, then the next, then all together (G2D, Rakib and Bagavathi, ICCV 2025)."""

    preset: Literal["smp"]
    order: tuple[Modality, ...] | None = Field(
        default=None,
        description="the modalities, weakest first; default: by their mean training cross-entropy at the end of the "
        "warm-up, highest first",
    )
    alone: float = Field(
        default=0.5, gt=0, lt=1,
        description="where all modalities begin to train together, as a fraction of the epochs after the warm-up; "
        "before, each modality trains alone in an equal part",
    )  # fmt: skip

    def phases(self, order: Sequence[str]) -> tuple[PhaseConfig, ...]:
        """The phases, given the modalities, weakest first."""
        parts = [self.alone * (number + 1) / len(order) for number in range(len(order))]
        alone = [PhaseConfig(until=until, only=(m,)) for until, m in zip(parts, order, strict=True)]
        return (*alone, PhaseConfig(joint=True))


def _preset(value: Any) -> Any:
    """`smp` is the group `{preset: smp}`; `paper` are no phases."""
    word = value.get("preset") if isinstance(value, Mapping) and set(value) == {"preset"} else value
    if word == "paper":
        return None
    if isinstance(word, str) and word not in PRESETS:
        raise PydanticKnownError("literal_error", {"expected": ", ".join(f"'{each}'" for each in PRESETS)})
    return {"preset": word} if isinstance(word, str) else value


def _kind(value: Any) -> str:
    return "smp" if isinstance(value, Mapping | SMPConfig) else "list"


def _in_order(phases: tuple[PhaseConfig, ...]) -> tuple[PhaseConfig, ...]:
    if not phases:  # `min_length` would count only phases without problems
        raise ValueError("must name at least one phase; leave it out, or use `paper` for none")
    problems: list[tuple[str, str]] = []
    before = 0.0
    for number, phase in enumerate(phases, 1):
        key = f"{number - 1}.until"
        last = number == len(phases)
        if phase.until is None:
            if not last:
                said = (
                    f"phase {number} of `phases` needs an `until`, the fraction of the epochs at which the next begins"
                )
                problems.append((key, said))
            continue
        if last:
            said = (
                f"phase {number} of `phases` is the last one and lasts to the end of the training, so it must have no "
                f"`until`, but has {phase.until:g}; leave it out, or add a phase"
            )
            problems.append((key, said))
        elif phase.until <= before:
            said = (
                f"`until` of phase {number} of `phases` must be above that of the phase before it ({before:g}), but is "
                f"{phase.until:g}"
            )
            problems.append((key, said))
        before = max(before, phase.until)
    if problems:
        raise ContradictionError(problems)
    return phases


# A tuple of phases, whose problems name the phase, or the group of a preset.
_List = Annotated[tuple[PhaseConfig, ...], Field(max_length=1000), AfterValidator(_in_order)]
Phases = Annotated[_List, Tag("list")] | Annotated[SMPConfig, Tag("smp")]
PhasesKey = Annotated[
    Annotated[Phases, Discriminator(_kind)] | None,
    BeforeValidator(_preset),
]


class Span(NamedTuple):
    """A phase and its epochs, `first` to `end` - 1, from 0."""

    phase: PhaseConfig
    first: int
    end: int


def spans(phases: Sequence[PhaseConfig], warmup: int, epochs: int) -> Iterator[Span]:
    """The epochs of each phase of a run; they are all after the warm-up, without a gap."""
    first = warmup
    for phase in phases:
        end = epochs if phase.until is None else warmup + round(phase.until * (epochs - warmup))
        yield Span(phase, first, end)
        first = end
