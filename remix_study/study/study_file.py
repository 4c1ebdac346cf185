"""Study files: reading a study from YAML, checking it, and finding the key that causes each problem"""

import copy
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from remix_study.config.load import require_kind, validate_study
from remix_study.config.problems import Problem, moved, raise_problems, validate
from remix_study.config.run import RunConfig
from remix_study.config.study import MOST_CHECKED, STORAGE, ChoiceDimension, Dimension, StudyConfig
from remix_study.config.yaml_source import Keys, YamlSource, dotted, read
from remix_study.errors import ConfigError
from remix_study.study.check import conditions, study_problems, written_at
from remix_study.study.dimensions import corners, count_of
from remix_study.study.search_space import chosen_space, grid, run_content, space_of, study_control


def read_study(path: Path, settings: Mapping[str, Any]) -> StudyConfig:
    """Read a study from a YAML file and check all that can be checked without its corpus.

    A file without `storage` takes it from REMIX_STUDY_STORAGE, so that one file runs on a laptop and on a cluster.

    Args:
        settings: as for `configure`.

    Raises:
        ConfigError: lists all problems of the file's shape and all that `check_study` finds, each with its line.
    """
    source = read(path)
    require_kind(source, "study")
    study, problems = validate_study(source)
    if study is None:
        problems += _remaining_problems(source, problems, settings)
    else:
        problems += _validate_methods(study, settings)[1]
    if study is None or problems:
        raise_problems(source, problems)
    elsewhere = os.environ.get(STORAGE)
    return study if study.storage is not None or not elsewhere else study.model_copy(update={"storage": elsewhere})


def check_study(study: StudyConfig, settings: Mapping[str, Any]) -> list[RunConfig]:
    """Check a study and return configurations of its runs.

    Returns:
        For every method, the runs of its known-good configurations and of the corners of its search space.

    Raises:
        ConfigError: lists all problems of all methods, each once, with its line if the study comes from a file.
    """
    configs, problems = _validate_methods(study, settings)
    if problems:
        raise_problems(study.source, problems)
    return [config for runs in configs.values() for config in runs]


def _validate_methods(
    study: StudyConfig, settings: Mapping[str, Any], among: Iterable[str] | None = None
) -> tuple[dict[str, list[RunConfig]], list[Problem]]:
    """The valid runs of each method at the corners of its space, and all problems. `among`: names of the methods."""
    names = list(study.methods if among is None else among)
    spaces = {name: space_of(study, study.methods[name]) for name in names}  # of the trials
    configs: dict[str, list[RunConfig]] = {name: [] for name in names}
    found: list[Problem] = []
    labels = sum(len(d.of) for space in spaces.values() for d in space.values() if isinstance(d, ChoiceDimension))
    if labels > MOST_CHECKED:
        said = (
            f": the choices of all methods may have at most {MOST_CHECKED:,} values together, because each is checked, "
            f"but have {labels:,}; use fewer values, or dimensions with a range"
        )
        return configs, [Problem(("methods",), said)]
    control = study_control(study)
    for name in names:
        invalid_condition = any(True for _ in conditions(study, name, spaces[name]))
        for at, params in params_to_check(study, name):
            try:
                content = run_content(study, name, params, study.seed, settings, control)
            except ConfigError as error:  # `study_problems` reports an unknown label in `first`
                if not at:
                    found.append(Problem(("methods", name), f": {error}", kind=str(error)))
                continue
            config, problems = validate(RunConfig, YamlSource("", content))
            # A key that is missing because of an invalid condition is not a problem of its own.
            found += [
                in_study(each, study, study.searched(name), params, at)
                for each in problems
                if not (each.kind == "missing" and invalid_condition and dotted(each.keys) in spaces[name])
            ]
            if config is not None:
                configs[name].append(config)
        found += _grid_problems(study, name, spaces[name])
    found += study_problems(study, spaces, configs)
    return configs, list({(each.keys, each.kind or each.message): each for each in reversed(found)}.values())[::-1]


def params_to_check(study: StudyConfig, name: str) -> Iterator[tuple[Keys, Mapping[str, Any]]]:
    """The hyperparameters of a method with which its configuration is checked, each with its keys in the study file.

    First those of `first`, then the corners of the space, which have no keys of their own.
    """
    searched, space = study.searched(name), chosen_space(study, name)
    for number, params in enumerate(study.methods[searched].first):
        if all(path in space for path in params):
            yield ("methods", searched, "first", number), params
    for params in corners(space):
        yield (), params


def _grid_problems(study: StudyConfig, name: str, space: Mapping[str, Dimension]) -> list[Problem]:
    if study.sampler != "grid" or not study.trials_of(name):
        return []
    unlisted = [path for path, dimension in space.items() if count_of(dimension) is None]
    if unlisted:
        said = " cannot be enumerated, as `sampler: grid` requires; give it a `step`, or use another sampler"
        return [Problem(written_at(study, name, path), said) for path in unlisted]
    try:
        size = len(grid(space))
    except ConfigError as error:
        return [Problem(("sampler",), f": {error}", kind=str(error))]
    if study.trials > size:
        said = f" must be at most {size}, the size of the grid of `{name}`, but is {study.trials}"
        return [Problem(("trials",), said)]
    return []


def in_study(problem: Problem, study: StudyConfig, name: str, params: Mapping[str, Any], at: Keys) -> Problem:
    """A problem of a run configuration, moved to the key of the study that causes it.

    That is the key that matches most of the problem's keys; of equals, the one that overrides the others.

    Args:
        params: the hyperparameters of the run.
        at: where they are written; empty for a corner of the space.
    """
    if not problem.keys:  # of the corpus
        return problem
    method = study.methods[name]
    space = {path: _chosen(dimension, params[path]) for path, dimension in method.space.items() if path in params}
    shared = {path: _chosen(dimension, params[path]) for path, dimension in study.space.items() if path in params}
    sources: list[tuple[Keys, Mapping[str, Any]]] = [
        (at, params if at else {}),
        (("methods", name, "space"), space),
        (("space",), shared),
        (("methods", name, "set"), method.set),
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
        near = ".".join([*parents, near])  # in the form of the key that is written there
    return moved(problem, keys, near)


def _chosen(dimension: Dimension, label: Any) -> Any:
    """The part of a dimension that goes into a run: the chosen group of keys of a choice among groups, or None."""
    if isinstance(dimension, ChoiceDimension) and isinstance(dimension.of, dict):
        return {"of": {label: dimension.of[label]}} if label in list(dimension.of) else None
    return None


def _reach(content: Any, keys: Keys) -> tuple[int, Keys]:
    """How many of `keys` are in `content`, and under which keys: nested, dotted, or in a group that can be chosen."""
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
    source: YamlSource,
    known: Iterable[Problem],
    settings: Mapping[str, Any],
    damaged: frozenset[str] = frozenset(),
) -> list[Problem]:
    """Further problems of a study with an invalid shape, found by leaving out its invalid keys.

    Args:
        known: the problems of its shape.
        damaged: methods that cannot be checked.
    """
    rest = copy.deepcopy(source.content)
    for problem in known:
        match problem.keys:
            case _ if problem.kind == "twice":
                pass  # the value that was read can be checked
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
    if whole == source.content:  # nothing could be left out
        return []
    source = replace(source, content=whole, twice=())
    study, more = validate_study(source)
    if study is None:
        return more + _remaining_problems(source, more, settings, damaged)
    sound = [name for name in study.methods if damaged.isdisjoint({name, study.searched(name)})]
    return [each for each in _validate_methods(study, settings, sound)[1] if not _is_of(each, damaged)]


def _is_of(problem: Problem, methods: frozenset[str]) -> bool:
    return problem.keys[:1] == ("methods",) and problem.keys[1] in methods
