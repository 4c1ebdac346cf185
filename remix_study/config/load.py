"""Configurations from YAML files and from plain dictionaries"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from remix_study.config.problems import Problem, examine, parse, refuse
from remix_study.config.run import RunConfig
from remix_study.config.study import StudyConfig
from remix_study.config.yaml_source import YamlSource, read
from remix_study.errors import ConfigError


def load_run(path: Path, changes: Sequence[str] = ()) -> RunConfig:
    """A run from a YAML file, with `a.b=value` changes applied to it.

    Raises:
        ConfigError: with all problems at once, each with its line.
    """
    written = read(path)
    for change in changes:
        key, found, value = change.partition("=")
        if not found:
            raise ConfigError(
                f"`--set` must look like a.b=value, but is {change!r}. For example: --set method.warmup=3"
            )
        try:
            put(written.content, key.strip(), yaml.safe_load(value))
        except yaml.YAMLError:
            raise ConfigError(f"the value of `--set {key}` must be YAML, but is {value!r}.") from None
        written = written.changed(tuple(key.strip().split(".")))
    return parse(RunConfig, written)


def parse_run(content: Mapping[str, Any], source: str) -> RunConfig:
    """
    Raises:
        ConfigError: with all problems at once; `source` is named first.
    """
    return parse(RunConfig, YamlSource(source, dict(content)))


def load_study(path: Path) -> StudyConfig:
    """A study from a YAML file. What its methods make of it is checked where it is run (study/search_space.py).

    Raises:
        ConfigError: with all problems at once, each with its line.
    """
    written = read(path)
    study, problems = examine_study(written)
    if study is None or problems:
        refuse(written, problems)
    return study


def examine_study(written: YamlSource) -> tuple[StudyConfig | None, list[Problem]]:
    """A study, where what was written has the shape of one, and every problem."""
    study, problems = examine(StudyConfig, written)
    if study is not None:
        study._written = written
    return study, problems


def put(content: dict[str, Any], dotted: str, value: Any) -> None:
    """Set `a.b.c` in nested dictionaries; a value that is itself a dictionary replaces what was there."""
    *parents, last = dotted.split(".")
    for parent in parents:
        inner = content.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"`{dotted}` cannot be set, because `{parent}` is {inner!r}, not a group of keys.")
        content = inner
    content[last] = value
