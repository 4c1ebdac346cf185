"""One dimension of a search space, and points in a space of several

A point names values of dimensions by their dotted paths; of a choice it names the label. A dimension with a `when` is
searched only where that holds, so points of one space may have different dimensions.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from remix_study.config.study import ChoiceDimension, Dimension, FloatDimension, IntDimension
from remix_study.errors import ConfigError


def labels_of(dimension: ChoiceDimension) -> dict[Any, Any]:
    """Label -> what it stands for; a plain value is its own label."""
    return dict(dimension.of) if isinstance(dimension.of, dict) else {value: value for value in dimension.of}


def value_of(dimension: Dimension, label: Any) -> Any:
    """What goes into the configuration.

    Raises:
        ConfigError: the choice has no such label.
    """
    if not isinstance(dimension, ChoiceDimension):
        return label
    labels = labels_of(dimension)
    if label not in list(labels):  # what is no label may have no hash either
        raise ConfigError(f"a choice must be one of {', '.join(map(str, labels))}, but is {label}.")
    return labels[label]


def is_searched(dimension: Dimension, point: Mapping[str, Any]) -> bool:
    """Whether the conditions of `when` hold at a point; dimensions come after those that they depend on."""
    wanted = {path: values if isinstance(values, list) else [values] for path, values in dimension.when.items()}
    return all(path in point and point[path] in values for path, values in wanted.items())


def holds(dimension: Dimension, value: Any) -> bool:
    """Whether a value is one of the dimension's; a number off its steps is not."""
    if isinstance(dimension, ChoiceDimension):
        return value in list(labels_of(dimension))
    if isinstance(value, bool) or not isinstance(value, int | float) or not dimension.low <= value <= dimension.high:
        return False
    if dimension.step is None:
        return True
    steps = (value - dimension.low) / dimension.step
    return abs(steps - round(steps)) < 1e-6


def all_values(path: str, dimension: Dimension) -> list[Any]:
    """
    Raises:
        ConfigError: there is no end of them.
    """
    match dimension:
        case ChoiceDimension():
            return list(labels_of(dimension))
        case IntDimension(low=low, high=high, step=step, log=False):
            return list(range(low, high + 1, step))
        case FloatDimension(low=low, high=high, step=float(step)):
            return [round(low + n * step, 12) for n in range(int((high - low) / step + 1e-9) + 1)]
    raise ConfigError(
        f"each dimension of a grid must be a choice or have a `step`, but `{path}` has no end of values. "
        "Give it a step, or use another `sampler`."
    )


def corners(space: Mapping[str, Dimension]) -> Iterator[dict[str, Any]]:
    """Points that together have every label of every choice.

    All dimensions at their first value, all at their last, and then each label of each choice among first values.
    """
    yield _corner(space, last=False)
    yield _corner(space, last=True)
    for path, dimension in space.items():
        if isinstance(dimension, ChoiceDimension):
            # The first value that a condition waits for, or the choice would not be there.
            needed = {on: values[0] if isinstance(values, list) else values for on, values in dimension.when.items()}
            for label in list(labels_of(dimension))[1:]:
                yield _corner(space, last=False, fixed={**needed, path: label})


def _corner(space: Mapping[str, Dimension], last: bool, fixed: Mapping[str, Any] | None = None) -> dict[str, Any]:
    point: dict[str, Any] = {}
    for path, dimension in space.items():
        if not is_searched(dimension, point):
            continue
        if fixed is not None and path in fixed:
            point[path] = fixed[path]
        elif isinstance(dimension, ChoiceDimension):
            point[path] = list(labels_of(dimension))[-1 if last else 0]
        else:
            point[path] = dimension.high if last else dimension.low
    return point
