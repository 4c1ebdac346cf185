"""Loading runs and studies from YAML files and dictionaries"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from remix_study.config.balancing import is_names
from remix_study.config.method import REPLAYED, replayed_of, teachers_of
from remix_study.config.problems import Problem, parse, raise_problems, validate
from remix_study.config.run import RunConfig
from remix_study.config.study import StudyConfig
from remix_study.config.yaml_source import YamlSource, load, read
from remix_study.errors import ConfigError
from remix_study.files.command_line import own_command

_MOST_RECORDED = 1_000_000  # keys and values of a recorded study, with all defaults and without aliases


def load_run(path: Path, changes: Sequence[str] = ()) -> RunConfig:
    """The run that a YAML file describes.

    Args:
        changes: `a.b=value` each, applied in their order; values are YAML.

    Raises:
        ConfigError: lists all problems, each with its line.
    """
    source = read(path)
    require_kind(source, "run")
    for change in changes:
        key, found, value = change.partition("=")
        if not found:
            raise ConfigError(f"Cannot apply `--set {change}`: it has no `=`. For example: --set method.warmup=3")
        try:
            put(source.content, key.strip(), load(value))
        except yaml.YAMLError as error:
            raise ConfigError(f"Cannot read the value of `--set {change}` as YAML: {_reason(error)}.") from None
        source = source.changed(tuple(key.strip().split(".")))
    return parse(RunConfig, source)


def require_kind(source: YamlSource, kind: Literal["run", "study"]) -> None:
    """Check that a run file is not given as a study file, or the other way round.

    Raises:
        OtherKindError: it is a file of the other kind.
    """
    has = source.content.keys()
    other = "study" if kind == "run" else "run"
    is_other = "methods" in has and "method" not in has if kind == "run" else "method" in has and "methods" not in has
    if is_other:
        command, key = ("run", "methods") if other == "study" else ("train", "method")
        raise OtherKindError(
            f"{source.place((key,))}`{key}` makes this a {other} file, but a {kind} file is needed", command,
            Path(source.name),
        )  # fmt: skip


class OtherKindError(ConfigError):
    """A run file that is given as a study file, or the other way round.

    Args:
        command: the one that takes `file`.
    """

    def __init__(self, what: str, command: str, file: Path) -> None:
        super().__init__(f"{what}. Use: {own_command(command, file)}")
        self.what, self.command, self.file = what, command, file

    def in_workspace(self, workspace: Path) -> ConfigError:
        """The same error, whose command names a workspace."""
        return ConfigError(f"{self.what}. Use: {own_command(self.command, self.file, workspace=workspace)}")


def _reason(error: yaml.YAMLError) -> str:
    return str(getattr(error, "problem", None) or error)  # without the position in the file


def parse_run(content: Mapping[str, Any], name: str) -> RunConfig:
    """The run that a dictionary describes.

    Raises:
        ConfigError: lists all problems; begins with `name`.
    """
    return parse(RunConfig, YamlSource(name, dict(content)))


def with_needed(config: RunConfig, places: Mapping[str, str]) -> RunConfig:
    """Return the same configuration with other places of the runs that it needs.

    Args:
        places: modality -> run folder of its teacher, and `REPLAYED` -> run folder of the run that is replayed. A
            configuration that needs no such runs ignores them.
    """
    content = config.model_dump(mode="json")
    method = content["method"]
    teachers = {m: place for m, place in places.items() if m != REPLAYED}
    if teachers and teachers_of(config.method) is not None:
        (method["with"]["umt"] if "with" in method else method)["teachers"] = teachers
    if REPLAYED in places and replayed_of(config.method) is not None:
        method["filter"]["run"] = places[REPLAYED]
    return parse_run(content, "the run with the runs that it needs")


def load_study(path: Path) -> StudyConfig:
    """The study that a YAML file describes. `study/study_file.py` checks it against the configurations of its trials.

    Raises:
        ConfigError: lists all problems, each with its line.
    """
    source = read(path, most=_MOST_RECORDED)
    require_kind(source, "study")
    study, problems = validate_study(source)
    if study is None or problems:
        raise_problems(source, problems)
    return study


def validate_study(source: YamlSource) -> tuple[StudyConfig | None, list[Problem]]:
    """The content of `source` as a study that knows its source, or None if it is invalid; and all problems."""
    study, problems = validate(StudyConfig, source)
    if study is not None:
        study.set_source(source)
    return study, problems


def put(content: Any, dotted: str, value: Any) -> None:
    """Set the value at `a.b.c` in nested dictionaries and lists; groups that are missing are created.

    Raises:
        ConfigError: `a` or `a.b` is a value, not a group of keys.
    """
    *parents, last = dotted.split(".")
    before = ""
    for parent in parents:
        inner = (
            content[_place(content, parent, dotted)] if isinstance(content, list) else content.setdefault(parent, {})
        )
        if parent == "with" and is_names(inner):
            inner = content[parent] = {name: {} for name in inner}
        if before == "with" and inner is None:  # `ogm_ge:` without options
            inner = content[parent] = {}
        if parent == "fusion" and isinstance(inner, str):  # `fusion: attention`
            inner = content[parent] = {"name": inner}
        if parent == "phases" and isinstance(inner, str):  # `phases: smp`
            inner = content[parent] = {"preset": inner}
        before = parent
        if not isinstance(inner, dict | list):
            raise ConfigError(f"Cannot set `{dotted}`: `{parent}` is {inner!r}, not a group of keys.")
        content = inner
    if isinstance(content, list):
        content[_place(content, last, dotted)] = value
    else:
        content[last] = value


def _place(content: list[Any], step: str, dotted: str) -> int:
    if not step.isdecimal() or int(step) >= len(content):
        raise ConfigError(f"Cannot set `{dotted}`: `{step}` must be a place in a list of {len(content)}, from 0.")
    return int(step)
