"""Search space: what a study varies, as Optuna distributions and as run configurations"""

import copy
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import optuna

from remix_study.config.load import examine_study, parse_run, put
from remix_study.config.problems import Problem, examine, moved, refuse
from remix_study.config.run import RunConfig
from remix_study.config.study import (
    STORAGE,
    ChoiceDimension,
    Dimension,
    FloatDimension,
    IntDimension,
    MethodSpace,
    StudyConfig,
)
from remix_study.config.yaml_source import Keys, YamlSource, dotted, read
from remix_study.errors import ConfigError
from remix_study.study.check import conditions, extent, shown, study_problems, written_at
from remix_study.study.dimensions import all_values, corners, is_searched, labels_of, value_of

Params = dict[str, str | int | float | bool | None]


def space_of(study: StudyConfig, method: MethodSpace) -> dict[str, Dimension]:
    """What every method searches, and what this one searches besides."""
    return {**study.space, **method.space}


def suggest(trial: optuna.Trial, space: Mapping[str, Dimension]) -> Params:
    """The trial's point; choices by their labels."""
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
    """Every point of a finite space, the last dimension varying fastest.

    Raises:
        ConfigError: a dimension has no end of values.
    """
    points: list[Params] = [{}]
    for path, dimension in space.items():
        values = all_values(path, dimension)
        points = [
            {**point, **more}
            for point in points
            for more in ([{path: value} for value in values] if is_searched(dimension, point) else [{}])
        ]
    return points


def grid_size(space: Mapping[str, Dimension]) -> int | None:
    """How many points there are; None where there is no end of them."""
    try:
        return len(grid(space))
    except ConfigError:
        return None


class SpaceRow(NamedTuple):
    """A dimension in words.

    path: dotted, of the run's configuration. kind: float, int or choice.
    range: `0.0005 to 0.01`, or the labels of a choice. scale: `log`, `step 0.1`, or nothing.
    when: under which other choices it is searched; nothing where always.
    first: its values in the known-good points, in their order; of those that name it.
    """

    path: str
    kind: str
    range: str
    scale: str
    when: str
    first: tuple[str, ...]


def effective_space(study: StudyConfig, method: str) -> list[SpaceRow]:
    """What is really searched for a method: what all search and what it searches besides, in the order of the search.

    Raises:
        KeyError: the study has no such method.
    """
    searched = study.methods[method]
    return [
        SpaceRow(
            path=path,
            kind=dimension.kind,
            range=extent(dimension),
            scale=_scale(dimension),
            when="; ".join(_condition(on, values) for on, values in dimension.when.items()),
            first=tuple(shown(point[path]) for point in searched.first if path in point),
        )
        for path, dimension in space_of(study, searched).items()
    ]


def _scale(dimension: Dimension) -> str:
    match dimension:
        case FloatDimension(log=True) | IntDimension(log=True):
            return "log"
        case FloatDimension(step=float(step)):
            return f"step {step:g}"
        case IntDimension(step=step) if step > 1:
            return f"step {step}"
        case _:
            return ""


def _condition(on: str, values: Any) -> str:
    listed = values if isinstance(values, list) else [values]
    return f"{on} is {' or '.join(shown(value) for value in listed)}"


def configure(
    study: StudyConfig, name: str, params: Mapping[str, Any], seed: int, settings: Mapping[str, Any]
) -> RunConfig:
    """The run of one point: base, then what the method sets, then the point, then `settings` such as the corpus.

    Raises:
        ConfigError: the point is not a possible run.
    """
    content = _content(study, name, params, seed, settings)
    return parse_run(content, f"the method `{name}` of the study `{study.name}`")


def _content(
    study: StudyConfig, name: str, params: Mapping[str, Any], seed: int, settings: Mapping[str, Any]
) -> dict[str, Any]:
    method = study.methods[name]
    space = space_of(study, method)
    content = copy.deepcopy(study.base)
    changes = {**method.set, **{path: value_of(space[path], value) for path, value in params.items()}, **settings}
    for path, value in changes.items():
        put(content, path, copy.deepcopy(value))
    content["seed"] = seed
    return content


# --- problems --------------------------------------------------------------------------------------------------------


def read_study(path: Path, settings: Mapping[str, Any]) -> StudyConfig:
    """A study from a YAML file, checked as far as can be without its corpus; `settings` as for `configure`.

    Where its trials are kept is the place's rather than the question's: a file that does not say it is kept where
    REMIX_STUDY_STORAGE says, so that the same file runs on a laptop and on a cluster.

    Raises:
        ConfigError: the problems of its shape and those that `check_study` finds, all at once, each with its line.
    """
    written = read(path)
    study, problems = examine_study(written)
    if study is None:
        problems += _remaining_problems(written, problems, settings)
    else:
        problems += _examine_methods(study, settings)[1]
    if study is None or problems:
        refuse(written, problems)
    elsewhere = os.environ.get(STORAGE)
    return study if study.storage is not None or not elsewhere else study.model_copy(update={"storage": elsewhere})


def check_study(study: StudyConfig, settings: Mapping[str, Any]) -> list[RunConfig]:
    """Runs of every method, at its first points and the corners of its space: a wrong study never starts.

    Raises:
        ConfigError: all problems of all methods, each once, with its line where the study comes from a file.
    """
    configs, problems = _examine_methods(study, settings)
    if problems:
        refuse(study.written, problems)
    return [config for runs in configs.values() for config in runs]


def _examine_methods(
    study: StudyConfig, settings: Mapping[str, Any], among: Iterable[str] | None = None
) -> tuple[dict[str, list[RunConfig]], list[Problem]]:
    """The possible runs of each method at its corners, and every problem; `among`: only of these methods."""
    names = list(study.methods if among is None else among)
    spaces = {name: space_of(study, study.methods[name]) for name in names}
    configs: dict[str, list[RunConfig]] = {name: [] for name in names}
    found: list[Problem] = []
    for name in names:
        first = [
            (("methods", name, "first", number), point)
            for number, point in enumerate(study.methods[name].first)
            if all(path in spaces[name] for path in point)
        ]
        doubtful = any(True for _ in conditions(study, name, spaces[name]))
        corner: list[tuple[Keys, Mapping[str, Any]]] = [((), point) for point in corners(spaces[name])]
        for at, point in [*first, *corner]:
            try:
                content = _content(study, name, point, study.seed, settings)
            except ConfigError as error:  # a first point that is no label is told by its own problem
                if not at:
                    found.append(Problem(("methods", name), f": {error}", kind=str(error)))
                continue
            config, problems = examine(RunConfig, YamlSource("", content))
            # What a wrong condition leaves out is missing only because of that.
            found += [
                _at_home(each, study, name, point, at)
                for each in problems
                if not (each.kind == "missing" and doubtful and dotted(each.keys) in spaces[name])
            ]
            if config is not None:
                configs[name].append(config)
        found += _grid_problems(study, name, spaces[name])
    found += study_problems(study, spaces, configs)
    return configs, list({(each.keys, each.kind or each.says): each for each in reversed(found)}.values())[::-1]


def _grid_problems(study: StudyConfig, name: str, space: Mapping[str, Dimension]) -> list[Problem]:
    if study.sampler != "grid":
        return []
    endless = [path for path, dimension in space.items() if grid_size({path: _always(dimension)}) is None]
    if endless:
        said = " has no end of values, but `sampler: grid` tries all; give it a `step`, or use another sampler"
        return [Problem(written_at(study, name, path), said) for path in endless]
    points = len(grid(space))
    if study.trials > points:
        said = f" must be at most the {points} points of the grid of `{name}`, but is {study.trials}"
        return [Problem(("trials",), said)]
    return []


def _always(dimension: Dimension) -> Dimension:
    return dimension.model_copy(update={"when": {}})


def _at_home(problem: Problem, study: StudyConfig, name: str, point: Mapping[str, Any], at: Keys) -> Problem:
    """A run's problem at the key of the study that brought it.

    That is the one that reaches deepest, and of equals the last that was put into the run.
    """
    method = study.methods[name]
    space = {path: _chosen(dimension, point[path]) for path, dimension in method.space.items() if path in point}
    shared = {path: _chosen(dimension, point[path]) for path, dimension in study.space.items() if path in point}
    sources: list[tuple[Keys, Mapping[str, Any]]] = [
        (at, point if at else {}),
        (("methods", name, "set"), method.set),
        (("methods", name, "space"), space),
        (("space",), shared),
        (("base",), study.base),
    ]
    reached = [(*_reach(content, problem.keys), prefix) for prefix, content in sources]
    depth, below, prefix = max(reached, key=lambda each: each[0])
    if depth == 0:
        prefix = ("base",)
    rest = problem.keys[depth:]
    keys = (*prefix, *below, *rest)
    near = problem.near
    if near is not None and problem.kind == "extra_forbidden" and not rest:
        *parents, _ = str(keys[-1]).split(".")
        near = ".".join([*parents, near])  # as it is to be written there
    return moved(problem, keys, near)


def _chosen(dimension: Dimension, label: Any) -> Any:
    """What can be written under a dimension's path: of a choice of whole parts, the parts."""
    if isinstance(dimension, ChoiceDimension) and isinstance(dimension.of, dict):
        return {"of": {label: dimension.of[label]}} if label in list(dimension.of) else None
    return None


def _reach(content: Any, keys: Keys) -> tuple[int, Keys]:
    """How many of the keys are written in `content`, and how: nested, dotted, or as a part that can be chosen."""
    best: tuple[int, Keys] = (0, ())
    if not isinstance(content, Mapping) or not keys:
        return best
    for key, value in content.items():
        parts = str(key).split(".")
        if [str(each) for each in keys[: len(parts)]] != parts:
            continue
        inner = value["of"] if isinstance(value, Mapping) and set(value) == {"of"} else None
        options = (
            [(("of", label), part) for label, part in inner.items()] if isinstance(inner, Mapping) else [((), value)]
        )
        for between, part in options:
            depth, below = _reach(part, keys[len(parts) :])
            if len(parts) + depth > best[0]:
                best = (len(parts) + depth, (key, *(between if depth else ()), *below))
    return best


def _remaining_problems(
    written: YamlSource,
    known: Iterable[Problem],
    settings: Mapping[str, Any],
    damaged: frozenset[str] = frozenset(),
) -> list[Problem]:
    """What is wrong besides, where the shape is wrong only in places that the rest can be understood without.

    `damaged`: methods that cannot be.
    """
    rest = copy.deepcopy(written.content)
    for problem in known:
        match problem.keys:
            case _ if problem.kind == "twice":
                pass  # either of the two has a shape
            case (("base" | "space"), *_) | ("methods",) | ("methods", _):
                return []
            case ("methods", str(name), *_):
                damaged |= {name}
            case (str(key), *_):
                rest.pop(key, None)
    methods = rest.get("methods")
    if not isinstance(methods, dict) or not methods or "base" not in rest:
        return []
    rest["methods"] = {name: {} if name in damaged else method for name, method in methods.items()}
    needed = {"name": "it", "question": "", "reference": next(iter(methods)), "trials": 1, "replicates": 1}
    whole = {**needed, **rest}
    if whole == written.content:  # what is wrong cannot be taken out
        return []
    written = replace(written, content=whole, twice=())
    study, more = examine_study(written)
    if study is None:
        return more + _remaining_problems(written, more, settings, damaged)
    sound = [name for name in study.methods if name not in damaged]
    return [each for each in _examine_methods(study, settings, sound)[1] if not _is_of(each, damaged)]


def _is_of(problem: Problem, methods: frozenset[str]) -> bool:
    return problem.keys[:1] == ("methods",) and problem.keys[1] in methods
