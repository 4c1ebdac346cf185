"""Schedules: numbers of a configuration that change over the epochs

`{from: 0.8, to: 0.3, shape: cosine, begin: 0.2, end: 0.8}` may be written in place of some numbers (docs/algorithm.md
lists them). Its value depends on the epoch only, so a resumed run needs no state for it.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import Discriminator, Field, Tag, model_validator

from remix_study.config.part import Modality, Part

N = TypeVar("N")


class Schedule(Part, Generic[N]):
    """A number that goes from `from` to `to` over the epochs after the warm-up, or over those of its phase.

    `begin` and `end` are positions: 0 is the first of these epochs, 1 the last. The value is `from` until `begin`, and
    `to` from `end` on. With `shape: step`, it changes at once, halfway between them.
    """

    start: N = Field(alias="from")
    to: N
    shape: Literal["linear", "cosine", "step"] = "linear"
    begin: float = Field(default=0.0, ge=0, le=1, description="position, in [0, 1], until which the value is `from`")
    end: float = Field(default=1.0, ge=0, le=1, description="position, in [0, 1], from which on the value is `to`")

    @classmethod
    def model_parametrized_name(cls, params: tuple[Any, ...]) -> str:
        """The name in JSON schemas, such as `Schedule_ge_0`."""
        bounds = [word for field in getattr(params[0], "__metadata__", ()) for word in map(_word, field.metadata)]
        return "_".join(("Schedule", *(word for word in bounds if word)))

    @classmethod
    def claims(cls, value: Any) -> bool:
        return is_schedule(value)

    @model_validator(mode="after")
    def _ordered(self) -> "Schedule[N]":
        if self.begin >= self.end:
            raise ValueError(f"`begin` must be below `end` ({self.end:g}), but is {self.begin:g}")
        return self


def _word(bound: Any) -> str:
    """`ge_0` for a lower bound of 0."""
    return next((f"{name}_{getattr(bound, name):g}" for name in ("ge", "gt", "le", "lt") if hasattr(bound, name)), "")


def is_schedule(value: Any) -> bool:
    """Whether a value of a configuration is meant as a schedule: `{from: 1, to: 0}`."""
    return isinstance(value, Schedule) or (isinstance(value, Mapping) and bool({"from", "to"} & value.keys()))


def _kind(value: Any) -> str:
    return "schedule" if is_schedule(value) or isinstance(value, Mapping) else "number"


def _kind_or_each(value: Any) -> str:
    return "schedule" if is_schedule(value) else "each" if isinstance(value, Mapping) else "number"


def _kind_or_rest(value: Any) -> str:
    return "rest" if isinstance(value, str) else _kind(value)


_Free = Annotated[float, Field(allow_inf_nan=False)]
_NotNegative = Annotated[float, Field(ge=0)]
_Part = Annotated[float, Field(gt=0, le=1)]
_BelowOne = Annotated[float, Field(ge=0, lt=1)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Deviation = Annotated[float, Field(ge=0, le=0.5)]  # of numbers in [0, 1]

# A number, or a schedule whose ends have the same bounds; a constant temperature may also be infinite.
Temperature = Annotated[
    Annotated[float, Field(ge=0, allow_inf_nan=True), Tag("number")]
    | Annotated[Schedule[_NotNegative], Tag("schedule")],
    Discriminator(_kind),
]
Number = Annotated[
    Annotated[_Free, Tag("number")] | Annotated[Schedule[_Free], Tag("schedule")], Discriminator(_kind)
]  # fmt: skip
NotNegative = Annotated[
    Annotated[_NotNegative, Tag("number")] | Annotated[Schedule[_NotNegative], Tag("schedule")], Discriminator(_kind)
]
AboveZeroToOne = Annotated[
    Annotated[_Part, Tag("number")] | Annotated[Schedule[_Part], Tag("schedule")], Discriminator(_kind)
]  # fmt: skip
BelowOne = Annotated[
    Annotated[_BelowOne, Tag("number")] | Annotated[Schedule[_BelowOne], Tag("schedule")], Discriminator(_kind)
]
ZeroToOne = Annotated[
    Annotated[_Share, Tag("number")] | Annotated[Schedule[_Share], Tag("schedule")], Discriminator(_kind)
]  # fmt: skip
Deviation = Annotated[
    Annotated[_Deviation, Tag("number")] | Annotated[Schedule[_Deviation], Tag("schedule")], Discriminator(_kind)
]
ShareOrRest = Annotated[
    Annotated[_Share, Tag("number")]
    | Annotated[Schedule[_Share], Tag("schedule")]
    | Annotated[Literal["rest"], Tag("rest")],
    Discriminator(_kind_or_rest),
]
EachNotNegative = Annotated[
    Annotated[_NotNegative, Tag("number")]
    | Annotated[Schedule[_NotNegative], Tag("schedule")]
    | Annotated[dict[Modality, NotNegative], Tag("each")],
    Discriminator(_kind_or_each),
]
"""A number or schedule, or one of each modality."""


_ROUNDING = 1e-9  # of a position: an epoch in the middle of a step is not before it


def value_at(value: float | Schedule[float], position: float) -> float:
    """The value of a number or schedule.

    Args:
        position: in [0, 1]; see `position_of`.

    Returns:
        Exactly `from` up to `begin`, exactly `to` from `end` on, and between them a value between both.
    """
    if not isinstance(value, Schedule):
        return value
    if position <= value.begin:
        return value.start
    if position >= value.end:
        return value.to
    done = (position - value.begin) / (value.end - value.begin)
    match value.shape:
        case "linear":
            part = done
        case "cosine":
            part = 0.5 * (1 - math.cos(math.pi * done))
        case "step":
            part = float(position >= _middle(value) - _ROUNDING)
    between = value.start + (value.to - value.start) * part
    return min(max(between, min(value.start, value.to)), max(value.start, value.to))  # rounding may pass an end


def ends_of(value: float | Schedule[float]) -> tuple[float, float]:
    """The first and the last value."""
    return (value.start, value.to) if isinstance(value, Schedule) else (value, value)


def _middle(schedule: Schedule[float]) -> float:
    """The position at which a step changes."""
    return (schedule.begin + schedule.end) / 2


def positions(*values: float | Schedule[float]) -> list[float]:
    """Positions, in order, that are close enough to each other to check a relation of several schedules."""
    schedules = [value for value in values if isinstance(value, Schedule)]
    turns = {turn for each in schedules for turn in (each.begin, each.end)}
    turns |= {_middle(each) - before for each in schedules if each.shape == "step" for before in (1e-6, 0.0)}
    return sorted({*(step / 200 for step in range(201)), *turns}) if turns else [0.0]


def position_of(epoch: int, first: int, end: int) -> float:
    """The position of an epoch among `first` to `end` - 1, in [0, 1]: 0 for the first and all before, 1 for the last.

    It is 0 if there is one epoch only.
    """
    return min(1.0, max(0.0, (epoch - first) / max(1, end - 1 - first)))


def schedules_in(part: Part, path: str = "") -> Iterator[tuple[str, Schedule[float]]]:
    """The schedules in a group of keys, at any depth, each with its dotted path. Those in lists are left out."""
    for name, field in type(part).model_fields.items():
        yield from _schedules(getattr(part, name), f"{path}.{field.alias or name}" if path else field.alias or name)


def _schedules(value: Any, path: str) -> Iterator[tuple[str, Schedule[float]]]:
    if isinstance(value, Schedule):
        yield path, value
    elif isinstance(value, Part):
        yield from schedules_in(value, path)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _schedules(inner, f"{path}.{key}")
