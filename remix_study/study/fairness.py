"""What the methods of a study are not given alike

Methods are compared at an equal budget if they differ in their `method` only: epochs, encoders, batches, data,
evaluation and the search of all other hyperparameters must agree. A study may differ in a key on purpose; it then says
so, with the reason (`unequal`).
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from remix_study.config.run import RunConfig
from remix_study.config.study import Dimension, FloatDimension, IntDimension
from remix_study.config.yaml_source import dump
from remix_study.study.dimensions import extent, shown

# Not part of what a method is given: the method itself, what the study sets, and how a run is executed.
_APART = ("method", "seed", "corpus", "tracking", "evaluation.test", "device", "channels_last", "deterministic")


def unequal_keys(configs: Mapping[str, RunConfig], spaces: Mapping[str, Mapping[str, Dimension]]) -> dict[str, str]:
    """Return every key in which methods differ, with the difference as text: "40 for `remix`; 20 for `joint`".

    Args:
        configs: method -> one of its runs.
        spaces: method -> its search space.
    """
    contents = {name: config.model_dump(mode="json") for name, config in configs.items()}
    leaves = {path for content in contents.values() for path in _leaves(content)}
    keys = {path for space in spaces.values() for path in space} | leaves
    found = {}
    for path in sorted(keys):
        if _is_in(path, _APART) or any(path.startswith(f"{other}.") for other in keys):
            continue
        values = {name: _in_words(content, path, spaces[name].get(path)) for name, content in contents.items()}
        if len(set(values.values())) > 1:
            found[path] = _difference(values)
    return found


def _is_in(path: str, groups: Iterable[str]) -> bool:
    return any(path == key or path.startswith(f"{key}.") for key in groups)


def _leaves(content: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _in_words(content: Mapping[str, Any], path: str, dimension: Dimension | None) -> str:
    """How a key is searched, or its fixed value."""
    if dimension is not None:
        log = ", log" if isinstance(dimension, FloatDimension | IntDimension) and dimension.log else ""
        when = f" when {dump(dimension.when, flow=True).strip()}" if dimension.when else ""
        return f"searched ({extent(dimension)}{log}{when})"
    value: Any = content
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return dump(value, flow=True).strip() if isinstance(value, Mapping | list) else shown(value)


def _difference(values: Mapping[str, str]) -> str:
    """Each value with the methods that have it."""
    methods: dict[str, list[str]] = {}
    for name, value in values.items():
        methods.setdefault(value, []).append(f"`{name}`")
    return "; ".join(f"{value} for {', '.join(of)}" for value, of in methods.items())
