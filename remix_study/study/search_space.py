"""Search space: what a study varies, as Optuna distributions and as run configurations"""

import copy
from collections.abc import Mapping
from typing import Any

import optuna

from remix_study.config import (
    ChoiceDimension,
    Dimension,
    FloatDimension,
    IntDimension,
    MethodSpace,
    RunConfig,
    StudyConfig,
    parse_run,
    put,
)
from remix_study.errors import ConfigError

Params = dict[str, str | int | float | bool | None]


def space_of(study: StudyConfig, method: MethodSpace) -> dict[str, Dimension]:
    """What every method searches, and what this one searches besides."""
    return {**study.space, **method.space}


def suggest(trial: optuna.Trial, space: Mapping[str, Dimension]) -> Params:
    """The trial's point; choices by their labels."""
    params: Params = {}
    for path, dimension in space.items():
        if not _searched(dimension, params):
            continue
        match dimension:
            case FloatDimension(low=low, high=high, log=log, step=step):
                params[path] = trial.suggest_float(path, low, high, log=log, step=step)
            case IntDimension(low=low, high=high, log=log, step=step):
                params[path] = trial.suggest_int(path, low, high, log=log, step=step)
            case ChoiceDimension():
                params[path] = trial.suggest_categorical(path, list(_labels(dimension)))
    return params


def _searched(dimension: Dimension, params: Mapping[str, Any]) -> bool:
    """Whether the conditions of `when` hold at a point; dimensions come after those that they depend on."""
    wanted = {path: values if isinstance(values, list) else [values] for path, values in dimension.when.items()}
    return all(path in params and params[path] in values for path, values in wanted.items())


def grid(space: Mapping[str, Dimension]) -> list[Params]:
    """Every point of a finite space, the last dimension varying fastest.

    Raises:
        ConfigError: a dimension has no end of values.
    """
    points: list[Params] = [{}]
    for path, dimension in space.items():
        values = _values(path, dimension)
        points = [
            {**point, **more}
            for point in points
            for more in ([{path: value} for value in values] if _searched(dimension, point) else [{}])
        ]
    return points


def _values(path: str, dimension: Dimension) -> list[Any]:
    match dimension:
        case ChoiceDimension():
            return list(_labels(dimension))
        case IntDimension(low=low, high=high, step=step, log=False):
            return list(range(low, high + 1, step))
        case FloatDimension(low=low, high=high, step=float(step)):
            return [round(low + n * step, 12) for n in range(int((high - low) / step + 1e-9) + 1)]
    raise ConfigError(
        f"each dimension of a grid must be a choice or have a `step`, but `{path}` has no end of values. "
        "Give it a step, or use another `sampler`."
    )


def configure(
    study: StudyConfig, name: str, params: Mapping[str, Any], seed: int, settings: Mapping[str, Any]
) -> RunConfig:
    """The run of one point: base, then what the method sets, then the point, then `settings` such as the corpus.

    Raises:
        ConfigError: the point is not a possible run.
    """
    method = study.methods[name]
    space = space_of(study, method)
    content = copy.deepcopy(study.base)
    changes = {**method.set, **{path: _value(space[path], value) for path, value in params.items()}, **settings}
    for path, value in changes.items():
        put(content, path, copy.deepcopy(value))
    content["seed"] = seed
    return parse_run(content, f"the method `{name}` of the study `{study.name}`")


def check_study(study: StudyConfig, settings: Mapping[str, Any]) -> list[RunConfig]:
    """One run of every method, at its first or an ordinary point: a wrong study is refused before it starts.

    Raises:
        ConfigError: all mistakes of all methods.
    """
    configs, problems = [], []
    for name, method in study.methods.items():
        space = space_of(study, method)
        problems += _wrong_conditions(name, space)
        problems += _wrong_first_points(name, method, space)
        problems += _wrong_grid(study, name)
        known = [point for point in method.first if all(path in space for path in point)]
        corners = [_corner(space, last) for last in (False, True)]
        for point in [*known, *corners]:
            try:
                configs.append(configure(study, name, point, study.seed, settings))
            except ConfigError as error:
                problems.append(str(error))
                break
    if problems:
        raise ConfigError("\n".join(problems))
    return configs


def _wrong_conditions(name: str, space: Mapping[str, Dimension]) -> list[str]:
    """A condition is on a dimension that comes earlier, and can hold."""
    problems, earlier = [], dict[str, Dimension]()
    for path, dimension in space.items():
        for on, values in dimension.when.items():
            if on not in earlier:
                problems.append(
                    f"`when` of `{path}` (method `{name}`) must name a dimension that is searched before it, "
                    f"but names `{on}`; before it: {', '.join(earlier) or 'none'}"
                )
                continue
            for value in values if isinstance(values, list) else [values]:
                if not _holds(earlier[on], value):
                    problems.append(
                        f"`when` of `{path}` (method `{name}`) waits for `{on}: {value}`, which never comes"
                    )
        earlier[path] = dimension
    return problems


def _wrong_first_points(name: str, method: MethodSpace, space: Mapping[str, Dimension]) -> list[str]:
    problems = []
    for number, point in enumerate(method.first):
        for path, value in point.items():
            if path not in space:
                problems.append(f"`methods.{name}.first` names {path}, which this method does not search")
            elif not _holds(space[path], value):
                problems.append(f"`methods.{name}.first[{number}].{path}` must lie in its dimension, but is {value}")
    return problems


def _wrong_grid(study: StudyConfig, name: str) -> list[str]:
    if study.sampler != "grid":
        return []
    try:
        points = len(grid(space_of(study, study.methods[name])))
    except ConfigError as error:
        return [str(error)]
    if study.trials > points:
        return [f"`trials` must be at most the {points} points of the grid of `{name}`, but is {study.trials}"]
    return []


def _holds(dimension: Dimension, value: Any) -> bool:
    """Whether a value is one of the dimension's; a number off its steps is not."""
    if isinstance(dimension, ChoiceDimension):
        return value in _labels(dimension)
    if isinstance(value, bool) or not isinstance(value, int | float) or not dimension.low <= value <= dimension.high:
        return False
    if dimension.step is None:
        return True
    steps = (value - dimension.low) / dimension.step
    return abs(steps - round(steps)) < 1e-6


def _corner(space: Mapping[str, Dimension], last: bool) -> dict[str, Any]:
    point: dict[str, Any] = {}
    for path, dimension in space.items():
        if not _searched(dimension, point):
            continue
        if isinstance(dimension, ChoiceDimension):
            point[path] = list(_labels(dimension))[-1 if last else 0]
        else:
            point[path] = dimension.high if last else dimension.low
    return point


def _labels(dimension: ChoiceDimension) -> dict[Any, Any]:
    if isinstance(dimension.of, dict):
        return dict(dimension.of)
    return {value: value for value in dimension.of}


def _value(dimension: Dimension, label: Any) -> Any:
    if not isinstance(dimension, ChoiceDimension):
        return label
    labels = _labels(dimension)
    if label not in labels:
        raise ConfigError(f"a choice must be one of {', '.join(map(str, labels))}, but is {label}.")
    return labels[label]
