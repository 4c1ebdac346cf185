"""Differences in settings between the methods of a study

Methods are compared at an equal budget if they differ in their `method` only: epochs, encoders, batches, data,
evaluation and the search of all other hyperparameters must agree. A study may differ in a key on purpose; it then says
so, with the reason (`unequal`). The known-good values that are tried first (`first`) may differ.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from remix_study.config.run import RunConfig
from remix_study.config.study import ChoiceDimension, Dimension
from remix_study.config.yaml_source import dump
from remix_study.study.dimensions import extent, labels_of, scale_of, shown

APART = ("seed", "corpus", "tracking", "evaluation.test", "device", "channels_last", "deterministic")
"""Keys that the study sets, and that say how a run is executed."""


def unequal_keys(configs: Mapping[str, RunConfig], spaces: Mapping[str, Mapping[str, Dimension]]) -> dict[str, str]:
    """Return every key in which methods differ, with the difference as text: "40 for `remix`; 20 for `joint`".

    Args:
        configs: method -> one of its runs.
        spaces: method -> its search space.
    """
    contents = {name: config.model_dump(mode="json") for name, config in configs.items()}
    leaves = {path for content in contents.values() for path, _ in leaves_of(content)}
    keys = {path for space in spaces.values() for path in space} | leaves
    found = {}
    for path in sorted(keys):
        if is_in(path, ["method", *APART]) or any(path.startswith(f"{other}.") for other in keys):
            continue
        given = {name: _given(content, path, spaces[name].get(path)) for name, content in contents.items()}
        if len(set(given.values())) > 1:
            words = {name: _in_words(content, path, spaces[name].get(path)) for name, content in contents.items()}
            if len(set(words.values())) == 1:  # choices with the same labels for different values
                words = {name: f"{words[name]} = {given[name]}" for name in words}
            found[path] = _difference(words)
    return found


def is_in(path: str, groups: Iterable[str]) -> bool:
    """Whether a dotted path is one of `groups`, or a key in one of them."""
    return any(path == key or path.startswith(f"{key}.") for key in groups)


def leaves_of(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted keys of a configuration with their values; an empty group is a value."""
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from leaves_of(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _given(content: Mapping[str, Any], path: str, dimension: Dimension | None) -> str:
    """What a method is given for a key, in a form that is equal if and only if it is the same."""
    if isinstance(dimension, ChoiceDimension):
        values = [json.dumps([str(label), value]) for label, value in labels_of(dimension).items()]
        return json.dumps([sorted(values), dimension.when], sort_keys=True)
    if dimension is not None:
        return json.dumps(dimension.model_dump(mode="json"), sort_keys=True)
    return json.dumps(_value(content, path), sort_keys=True)


def _value(content: Mapping[str, Any], path: str) -> Any:
    value: Any = content
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _in_words(content: Mapping[str, Any], path: str, dimension: Dimension | None) -> str:
    """How a key is searched, or its fixed value."""
    if dimension is not None:
        scale = f", {scale}" if (scale := scale_of(dimension)) else ""
        when = f" when {dump(dimension.when, flow=True).strip()}" if dimension.when else ""
        return f"searched ({extent(dimension)}{scale}{when})"
    value = _value(content, path)
    return dump(value, flow=True).strip() if isinstance(value, Mapping | list) else shown(value)


def _difference(values: Mapping[str, str]) -> str:
    """Each value with the methods that have it."""
    methods: dict[str, list[str]] = {}
    for name, value in values.items():
        methods.setdefault(value, []).append(f"`{name}`")
    return "; ".join(f"{value} for {', '.join(of)}" for value, of in methods.items())
