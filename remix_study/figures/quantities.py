"""Metrics of added methods over epochs, `method/NAME/QUANTITY/PART`: what a method did

`PART` is a modality or another part of the model, and absent for a quantity of the whole model. A method lists first
what it measures, and last what it does: its last quantity is the one that a title names. The metrics of abstaining
targets, `targets/QUANTITY/PART`, are those of a method `targets`, which names how many samples abstain.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

_PREFIX = "method/"
_TARGETS, _ABSTAINING = "targets", "uninformative"
_UNITS = {"cross_entropy": ("cross-entropy", "nats")}


class Quantity(NamedTuple):
    """A metric of an added method. `part` is empty for a quantity of the whole model."""

    metric: str
    method: str
    name: str
    part: str

    @property
    def words(self) -> str:
        """The name of the quantity for people, without its part."""
        return _UNITS.get(self.name, (self.name.replace("_", " "), ""))[0]

    @property
    def unit(self) -> str:
        return _UNITS.get(self.name, ("", ""))[1]

    @property
    def label(self) -> str:
        """The name of the quantity with its unit."""
        return f"{self.words} ({self.unit})" if self.unit else self.words


def quantity_of(metric: str) -> Quantity | None:
    """The quantity that a metric is; None for a metric that is not of an added method."""
    method, _, rest = metric.removeprefix(_PREFIX).partition("/")
    name, _, part = rest.partition("/")
    known = metric.startswith((_PREFIX, f"{_TARGETS}/"))
    return Quantity(metric, method, name, part) if known and name else None


def quantities(records: Iterable[Mapping[str, float]]) -> dict[str, list[Quantity]]:
    """The quantities of every added method in the records of epochs, in the order in which the method lists them."""
    metrics = dict.fromkeys(metric for record in records for metric in record)
    found: dict[str, list[Quantity]] = {}
    for metric in metrics:
        if (quantity := quantity_of(metric)) is not None:
            found.setdefault(quantity.method, []).append(quantity)
    for method, listed in found.items():
        order = list(dict.fromkeys(quantity.name for quantity in listed))
        if method == _TARGETS and _ABSTAINING in order:  # precision and recall are absent in some epochs
            order = [*(name for name in order if name != _ABSTAINING), _ABSTAINING]
        found[method] = sorted(listed, key=lambda quantity: order.index(quantity.name))
    return found


def did(means: Mapping[Quantity, float]) -> str:
    """What a method did: `factor 0.43 for audio, 1.00 for video`, its last quantity.

    Args:
        means: the quantities of one method, in the order in which it lists them, with their means over epochs.
    """
    last = list(means)[-1]
    unit = f" {last.unit}" if last.unit else ""
    values = [f"{mean:.3g}{unit}" + (f" for {quantity.part}" if quantity.part else "")
              for quantity, mean in means.items() if quantity.name == last.name]  # fmt: skip
    return f"{last.words} {', '.join(values)}"


def planned_values(records: Iterable[Mapping[str, float]]) -> list[str]:
    """The metrics of schedules, without those of the shares, in their order."""
    others = ("schedule/share/", "schedule/joint_share", "schedule/phase", "schedule/order/")
    metrics = dict.fromkeys(metric for record in records for metric in record)
    return [metric for metric in metrics if metric.startswith("schedule/") and not metric.startswith(others)]
