"""Dimensions of a search space and their values

Hyperparameters (`params`) map dotted paths of dimensions to values; the value of a choice is its label. A dimension
with a `when` is searched only if that condition holds, so trials of one space may have different dimensions.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from remix_study.config.study import ChoiceDimension, Dimension, FloatDimension, IntDimension
from remix_study.errors import ConfigError


def labels_of(dimension: ChoiceDimension) -> dict[Any, Any]:
    """Label -> value of a choice; a plain value is its own label."""
    return dict(dimension.of) if isinstance(dimension.of, dict) else {value: value for value in dimension.of}


def value_of(dimension: Dimension, label: Any) -> Any:
    """The value in the run configuration of a value or label of a dimension.

    Raises:
        ConfigError: the choice has no such label.
    """
    if not isinstance(dimension, ChoiceDimension):
        return label
    labels = labels_of(dimension)
    if label not in list(labels):  # a list, because an invalid label may not be hashable
        raise ConfigError(f"a choice must be one of {', '.join(map(str, labels))}, but is {label}.")
    return labels[label]


def is_searched(dimension: Dimension, params: Mapping[str, Any]) -> bool:
    """Whether the condition of `when` holds for `params`, the values of all earlier dimensions."""
    wanted = {path: values if isinstance(values, list) else [values] for path, values in dimension.when.items()}
    return all(path in params and params[path] in values for path, values in wanted.items())


def holds(dimension: Dimension, value: Any) -> bool:
    """Whether a value lies in a dimension: in its range and on its steps, or among its labels."""
    if isinstance(dimension, ChoiceDimension):
        return value in list(labels_of(dimension))
    if isinstance(value, bool) or not isinstance(value, int | float) or not dimension.low <= value <= dimension.high:
        return False
    if dimension.step is None:
        return True
    steps = (value - dimension.low) / dimension.step
    return abs(steps - round(steps)) < 1e-6


MOST_COMBINATIONS = 100_000  # of a grid: more would take weeks to train, and gigabytes to list


def count_of(dimension: Dimension) -> int | None:
    """The number of values of a dimension, or of labels of a choice; None if they cannot be enumerated."""
    match dimension:
        case ChoiceDimension():
            return len(labels_of(dimension))
        case IntDimension(low=low, high=high, step=step, log=False):
            return (high - low) // step + 1
        case FloatDimension(low=low, high=high, step=float(step)):
            return int((high - low) / step + 1e-6) + 1
    return None


def all_values(path: str, dimension: Dimension) -> list[Any]:
    """All values of a dimension, or labels of a choice.

    Raises:
        ConfigError: they cannot be enumerated, or are more than `MOST_COMBINATIONS`.
    """
    count = count_of(dimension)
    if count is not None and count > MOST_COMBINATIONS:
        raise ConfigError(
            f"`{path}` has {count:,} values, but a grid may have at most {MOST_COMBINATIONS:,} combinations. Use a "
            "larger `step`, or another `sampler`."
        )
    match dimension:
        case ChoiceDimension():
            return list(labels_of(dimension))
        case IntDimension(low=low, high=high, step=step, log=False):
            return list(range(low, high + 1, step))
        case FloatDimension(low=low, high=high, step=float(step)):
            return [round(low + n * step, 12) for n in range(int((high - low) / step + 1e-6) + 1)]
    raise ConfigError(
        f"The values of `{path}` cannot be enumerated, as a grid requires. Give it a `step`, or use another `sampler`."
    )


def corners(space: Mapping[str, Dimension]) -> Iterator[dict[str, Any]]:
    """Hyperparameters that together contain every label of every choice.

    First all dimensions at their lowest value, then all at their highest, then each number at its highest with the
    others at their lowest value, and the other way round, because two numbers may have to be in order. Then each label
    of each choice with the others at their lowest value. The lowest and highest value of a choice are its first and
    last label.
    """
    lowest, highest = _corner(space, last=False), _corner(space, last=True)
    found = [lowest, highest]
    for path, dimension in space.items():
        if not isinstance(dimension, ChoiceDimension):
            for corner, other in ((lowest, dimension.high), (highest, dimension.low)):
                if path in corner and (mixed := corner | {path: other}) not in found:
                    found.append(mixed)
    yield from found
    for path, dimension in space.items():
        if isinstance(dimension, ChoiceDimension):
            # The first value for which the choice's condition holds.
            needed = {on: values[0] if isinstance(values, list) else values for on, values in dimension.when.items()}
            for label in list(labels_of(dimension))[1:]:
                yield _corner(space, last=False, fixed={**needed, path: label})


def _corner(space: Mapping[str, Dimension], last: bool, fixed: Mapping[str, Any] | None = None) -> dict[str, Any]:
    params: dict[str, Any] = {}
    for path, dimension in space.items():
        if not is_searched(dimension, params):
            continue
        if fixed is not None and path in fixed:
            params[path] = fixed[path]
        elif isinstance(dimension, ChoiceDimension):
            params[path] = list(labels_of(dimension))[-1 if last else 0]
        else:
            params[path] = dimension.high if last else dimension.low
    return params


def extent(dimension: Dimension) -> str:
    """The range of a dimension as text: `0.0005 to 0.01`, or the labels of a choice."""
    if isinstance(dimension, ChoiceDimension):
        return ", ".join(shown(label) for label in dimension.of)
    return f"{dimension.low:g} to {dimension.high:g}"


def scale_of(dimension: Dimension) -> str:
    """`log`, `step 0.1`, or nothing."""
    match dimension:
        case FloatDimension(log=True) | IntDimension(log=True):
            return "log"
        case FloatDimension(step=float(step)):
            return f"step {step:g}"
        case IntDimension(step=step) if step > 1:
            return f"step {step}"
        case _:
            return ""


def shown(value: Any) -> str:
    """A value as YAML writes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)
