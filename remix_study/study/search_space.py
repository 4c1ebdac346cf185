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
        match dimension:
            case FloatDimension(low=low, high=high, log=log):
                params[path] = trial.suggest_float(path, low, high, log=log)
            case IntDimension(low=low, high=high):
                params[path] = trial.suggest_int(path, low, high)
            case ChoiceDimension():
                params[path] = trial.suggest_categorical(path, list(_labels(dimension)))
    return params


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
        unknown = [path for point in method.first for path in point if path not in space]
        if unknown:
            problems.append(f"`methods.{name}.first` names {', '.join(unknown)}, which this method does not search")
            continue
        corners = [_corner(space, last) for last in (False, True)]
        for point in [*method.first, *corners]:
            try:
                configs.append(configure(study, name, point, study.seed, settings))
            except ConfigError as error:
                problems.append(str(error))
                break
    if problems:
        raise ConfigError("\n".join(problems))
    return configs


def _corner(space: Mapping[str, Dimension], last: bool) -> dict[str, Any]:
    point: dict[str, Any] = {}
    for path, dimension in space.items():
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
