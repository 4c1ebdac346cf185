"""Search spaces: from dimensions to suggestions of Optuna, to grids and to run configurations"""

import copy
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import optuna

from remix_study.config.assignment import shares_reading_control
from remix_study.config.balancing import CONTROL_FRACTION, reading_control
from remix_study.config.load import parse_run, put
from remix_study.config.run import RunConfig
from remix_study.config.study import (
    ChoiceDimension,
    Dimension,
    FloatDimension,
    IntDimension,
    MethodSpace,
    StudyConfig,
)
from remix_study.config.targets import targets_reading_control
from remix_study.errors import ConfigError
from remix_study.study.dimensions import (
    MOST_COMBINATIONS,
    all_values,
    extent,
    is_searched,
    labels_of,
    scale_of,
    shown,
    value_of,
)

Params = dict[str, str | int | float | bool | None]
"""Hyperparameters of a trial: dotted path of the run configuration -> value; of a choice, its label."""


_WITH_CONTROL = ("method", "targets", "control_fraction")  # the keys on which the control split depends
_READERS = ("method", "method.name", "targets", "targets.of")  # searched keys that may select what reads it


def space_of(study: StudyConfig, method: MethodSpace) -> dict[str, Dimension]:
    """The dimensions that `method` searches: those of all methods, then its own; none if it replays another method."""
    return {**study.space, **method.space} if method.replay is None else {}


def chosen_space(study: StudyConfig, name: str) -> dict[str, Dimension]:
    """The dimensions of a method's chosen hyperparameters: those that it searches, or the method that it replays."""
    return space_of(study, study.methods[study.searched(name)])


def suggest(trial: optuna.Trial, space: Mapping[str, Dimension]) -> Params:
    """Let a trial's sampler suggest a value of each dimension whose conditions hold."""
    params: Params = {}
    for path, dimension in space.items():
        if not is_searched(dimension, params):
            continue
        match dimension:
            case FloatDimension(low=low, high=high, log=log, step=step):
                params[path] = trial.suggest_float(path, low, high, log=log, step=step)
            case IntDimension(low=low, high=high, log=log, step=step):
                params[path] = trial.suggest_int(path, low, high, log=log, step=step)
            case ChoiceDimension():
                params[path] = trial.suggest_categorical(path, list(labels_of(dimension)))
    return params


def grid(space: Mapping[str, Dimension]) -> list[Params]:
    """Every combination of values of a finite space; the last dimension varies fastest.

    Raises:
        ConfigError: the values of a dimension cannot be enumerated, or there are more than `MOST_COMBINATIONS`.
    """
    combinations: list[Params] = [{}]
    for path, dimension in space.items():
        values = all_values(path, dimension)
        searched = sum(is_searched(dimension, params) for params in combinations)
        if len(combinations) + searched * (len(values) - 1) > MOST_COMBINATIONS:
            raise ConfigError(
                f"A grid may have at most {MOST_COMBINATIONS:,} combinations, but this one has more. Use larger steps, "
                "fewer dimensions, or another `sampler`."
            )
        combinations = [
            {**params, **more}
            for params in combinations
            for more in ([{path: value} for value in values] if is_searched(dimension, params) else [{}])
        ]
    return combinations


class SpaceRow(NamedTuple):
    """A dimension as text.

    Attributes:
        path: dotted path in the run configuration.
        kind: float, int or choice.
        range: `0.0005 to 0.01`, or the labels of a choice.
        scale: `log`, `step 0.1`, or empty.
        when: the condition under which it is searched; empty if it always is.
        first: its values in the known-good configurations that name it, in their order.
    """

    path: str
    kind: str
    range: str
    scale: str
    when: str
    first: tuple[str, ...]


def effective_space(study: StudyConfig, method: str) -> list[SpaceRow]:
    """The dimensions that a method searches, as text, in the order in which they are suggested.

    Raises:
        KeyError: the study has no such method.
    """
    searched = study.methods[method]
    return [
        SpaceRow(
            path=path,
            kind=dimension.kind,
            range=extent(dimension),
            scale=scale_of(dimension),
            when="; ".join(_condition(on, values) for on, values in dimension.when.items()),
            first=tuple(shown(params[path]) for params in searched.first if path in params),
        )
        for path, dimension in space_of(study, searched).items()
    ]


def _condition(on: str, values: Any) -> str:
    listed = values if isinstance(values, list) else [values]
    return f"{on} is {' or '.join(shown(value) for value in listed)}"


def configure(
    study: StudyConfig, name: str, params: Mapping[str, Any], seed: int, settings: Mapping[str, Any],
    control: float | None = None,
) -> RunConfig:  # fmt: skip
    """The run configuration of a trial or replicate.

    It is the study's `base`, changed by the method's `set`, then by `params`, then by `settings`.

    Args:
        name: of the method.
        params: values of dimensions; see `Params`.
        settings: dotted keys that override all others, such as {"corpus": folder}.
        control: what `study_control` returns for the study, if the caller knows it.

    Raises:
        ConfigError: the configuration is invalid.
    """
    content = run_content(study, name, params, seed, settings, study_control(study) if control is None else control)
    return parse_run(content, f"the method `{name}` of the study `{study.name}`")


def run_content(
    study: StudyConfig, name: str, params: Mapping[str, Any], seed: int, settings: Mapping[str, Any], control: float
) -> dict[str, Any]:
    """What `configure` validates. `control`: what `study_control` returns for the study."""
    method, replay = study.methods[study.searched(name)], study.methods[name].replay
    space = space_of(study, method)
    content = copy.deepcopy(study.base)
    chosen = {path: value_of(space[path], value) for path, value in params.items()}
    for changes in (method.set, chosen, settings):
        # Groups of keys before the keys in them, so that the order in the file does not matter.
        for path in sorted(changes, key=lambda path: path.count(".")):
            put(content, path, copy.deepcopy(changes[path]))
    if replay is not None:
        _set_replay(content, replay.rule)
    content["seed"] = seed
    if control and content.get("control_fraction") is None:
        content["control_fraction"] = control
    return content


def _set_replay(content: dict[str, Any], rule: str) -> None:
    """Let a run of Remix replay the shares of another run, instead of the options that decide its own."""
    method = content.get("method")
    if isinstance(method, dict) and method.get("name") == "remix":
        decided = ("filter", "share", "joint_share", "phases")
        content["method"] = {**{k: v for k, v in method.items() if k not in decided}, "filter": {"rule": rule}}
        phases = method.get("phases")
        if isinstance(phases, list) and all(isinstance(phase, dict) for phase in phases):
            kept = [{k: v for k, v in phase.items() if k in ("until", "warmup_weight", "weight")} for phase in phases]
            if any(len(phase) > ("until" in phase) for phase in kept):  # the loss weights of phases stay
                content["method"]["phases"] = kept


def study_control(study: StudyConfig) -> float:
    """The fraction of the training split that is control data for the methods that set none, so that all are equal.

    It is the largest fraction that a method sets or, because it reads control data, has by default; 0 if there is none.
    """
    return max(_own_control(study, method) for method in study.methods.values())


def _own_control(study: StudyConfig, method: MethodSpace) -> float:
    """The fraction of one method; 0 also where its settings are invalid, which is reported elsewhere."""
    content: dict[str, Any] = {key: copy.deepcopy(study.base[key]) for key in _WITH_CONTROL if key in study.base}
    readers: list[str] = []
    with suppress(ConfigError):
        for path in sorted(method.set, key=lambda path: path.count(".")):
            if path.partition(".")[0] in _WITH_CONTROL:
                put(content, path, copy.deepcopy(method.set[path]))
        readers += _readers(content)
        for path, dimension in space_of(study, method).items():
            if path in _READERS or path.startswith(("method.with", "method.share", "method.phases")):
                for value in labels_of(dimension).values() if isinstance(dimension, ChoiceDimension) else [0]:
                    changed = copy.deepcopy(content)
                    put(changed, path, value)
                    readers += _readers(changed)
    fraction = content.get("control_fraction")
    if fraction is not None:
        valid = isinstance(fraction, int | float) and not isinstance(fraction, bool) and 0 <= fraction <= 0.5
        return float(fraction) if valid else 0.0
    return CONTROL_FRACTION if readers else 0.0


def _readers(content: Mapping[str, Any]) -> list[str]:
    """What reads the control split while training, in a configuration that may be invalid."""
    targets = targets_reading_control(content)
    method = content.get("method")
    if not isinstance(method, Mapping):
        return targets
    added = method.get("with")
    names = [str(method.get("name")), *(map(str, added) if isinstance(added, Mapping | list) else ())]
    return [*reading_control(names), *shares_reading_control(method), *targets]
