"""YAML files: read by YAML 1.2's core schema, with the line of every key, and written so that any reader agrees

PyYAML follows YAML 1.1, where `1e-3` is a string, `off` is false, `012` is 10 and `1:30` is 90. Here scalars follow the
core schema of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema):
    null                   `null`, `~`, or nothing
    booleans               `true`, `false`
    integers               `12`, `-3`, `0o14`, `0xC`; a leading zero (`012`) is refused
    floats                 `1.5`, `1e-3`, `.5`, `.inf`, `.nan`
    strings                everything else: `off`, `yes`, `1_000`, `1:30`, `2026-11-28`
Three things go beyond it: keys are always strings, `<<` merges as in YAML 1.1, and a key that occurs twice in a group
is reported.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from remix_study.errors import ConfigError

Keys = tuple[str | int, ...]
"""The path to a value: ("methods", "remix", "first", 0). A key that contains dots is one element."""

CHANGED = 0  # the line of a value that comes from `--set`
_DEEPEST = 100  # levels of nesting
_MOST = 100_000  # keys and list items, after aliases are expanded: nine lines of aliases can stand for 10^9 items

_NULL, _BOOL, _INT, _FLOAT, _STR, _MERGE = (
    f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "merge")
)
_LEADING_ZERO = re.compile(r"([-+]?)0+([0-9]+)")
# Tag, pattern, first characters. The first match wins.
_CORE = (
    (_NULL, r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    (_BOOL, r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    (_INT, r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (_FLOAT, r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
    (_FLOAT, r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", list("-+.")),
    (_MERGE, r"<<", ["<"]),
)


@dataclass(frozen=True)
class YamlSource:
    """A configuration and where each of its values was written.

    name: of the file, or words that say where the content comes from.
    lines: of keys and list items, from 1; empty if the content does not come from a file.
    spots: of the same, their offset in the text. A value that is written once and used twice (`*alias`) has one offset.
    twice: keys that occur twice in a group, each with the lines of both.
    """

    # Left out of comparisons: equal configurations may come from two files.
    name: str = field(default="", compare=False)
    content: dict[str, Any] = field(default_factory=dict, compare=False)
    lines: Mapping[Keys, int] = field(default_factory=dict, compare=False)
    spots: Mapping[Keys, int] = field(default_factory=dict, compare=False)
    twice: tuple[tuple[Keys, int, int], ...] = field(default=(), compare=False)

    def line(self, keys: Keys) -> int | None:
        """The line of a key, or of the nearest group that would contain it; CHANGED if it comes from `--set`."""
        for end in range(len(keys), 0, -1):
            if (found := self.lines.get(keys[:end])) is not None:
                return found
        return None

    def place(self, keys: Keys) -> str:
        """The prefix of a message about a key, in the form that editors and terminals link: `study.yaml:12: `."""
        line = self.line(keys)
        return "" if line is None else "--set: " if line == CHANGED else f"{self.name}:{line}: "

    def changed(self, keys: Keys) -> "YamlSource":
        """A copy that attributes the value at `keys` to `--set`."""
        lines = {at: line for at, line in self.lines.items() if at[: len(keys)] != keys}
        return replace(self, lines={**lines, keys: CHANGED})


# --- reading ---------------------------------------------------------------------------------------------------------


def read(path: Path) -> YamlSource:
    """The content of a YAML file.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or does not contain keys.
    """
    try:
        return read_text(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise ConfigError(f"Cannot read the configuration {path}: {error.strerror}. Check the path.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"Cannot read {path} as YAML: {error}. Save it as UTF-8.") from error


def read_text(text: str, name: str) -> YamlSource:
    """The content of a YAML text; messages call it `name`.

    Raises:
        ConfigError: the text is not YAML, or does not contain keys.
    """
    loader = _CoreLoader(text)
    try:
        root = loader.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            kind = type(None if root is None else loader.construct_document(root)).__name__
            raise ConfigError(f"Cannot read {name}: it must contain `key: value` lines, but contains {kind}.")
        places = []
        for place in _places(root, ()):  # before construction, which resolves merges
            places.append(place)
            if len(places) > _MOST:
                raise yaml.YAMLError(f"it has more than {_MOST} keys and list items, counting aliases")
        content = loader.construct_document(root)
    except _LeadingZeroError as error:
        raise ConfigError(f"Cannot read {name}:{error.line}: {error}.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"Cannot read {name} as YAML: {' '.join(str(error).split())}.") from error
    except RecursionError:
        raise ConfigError(f"Cannot read {name} as YAML: it nests more than {_DEEPEST} levels deep.") from None
    finally:
        loader.dispose()
    lines: dict[Keys, int] = {}
    spots: dict[Keys, int] = {}
    twice: list[tuple[Keys, int, int]] = []
    for keys, mark, merged in places:
        line = mark.line + 1
        if keys not in lines:
            lines[keys], spots[keys] = line, mark.index
        elif not merged and not any(keys[: len(at)] == at for at, _, _ in twice):
            twice.append((keys, lines[keys], line))
    return YamlSource(name, content, lines, spots, tuple(twice))


def load(text: str) -> Any:
    """The value of a YAML text: plain Python values, as `yaml.safe_load` returns them. Fast; knows no lines.

    Raises:
        yaml.YAMLError: the text is not YAML.
    """
    loader = _FastCoreLoader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _places(node: yaml.Node, keys: Keys, merged: bool = False) -> Iterator[tuple[Keys, yaml.Mark, bool]]:
    """Every key and list item below a node, with its mark; those from a merge (`<<`) come last."""
    if len(keys) > _DEEPEST:
        raise yaml.YAMLError(f"`{dotted(keys[:3])}` contains itself, or nests more than {_DEEPEST} levels deep")
    if isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            yield (*keys, number), item.start_mark, merged
            yield from _places(item, (*keys, number), merged)
    if isinstance(node, yaml.MappingNode):
        brought: list[yaml.Node] = []
        for key, value in node.value:
            if key.tag == _MERGE:
                brought += value.value if isinstance(value, yaml.SequenceNode) else [value]
                continue
            at = (*keys, str(key.value))
            yield at, key.start_mark, merged
            yield from _places(value, at, merged)
        for other in brought:
            yield from _places(other, keys, True)


class _LeadingZeroError(yaml.YAMLError):
    """A number such as 010."""

    def __init__(self, text: str, number: str, line: int) -> None:
        super().__init__(f"the number {text} has a leading zero. Write {number}, or '{text}' for a string")
        self.line = line


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    if zero := _LEADING_ZERO.fullmatch(text):  # YAML 1.1 reads 010 as 8, YAML 1.2 as 10
        raise _LeadingZeroError(text, f"{zero[1]}{zero[2]}", node.start_mark.line + 1)
    return int(text, 0)


def _construct_float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    return float(re.sub(r"\.(?=inf|nan)", "", str(loader.construct_scalar(node)).lower()))


class _StringKeys(yaml.constructor.SafeConstructor):
    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)  # resolves merges
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                key.tag = _STR


# In pure Python: a text that nests too deeply raises RecursionError, where libyaml would crash.
_CoreLoader: Any = type("_CoreLoader", (_StringKeys, yaml.SafeLoader), {})
# With libyaml if PyYAML has it: a report reads the configurations of thousands of runs.
_FastCoreLoader: Any = type("_FastCoreLoader", (_StringKeys, getattr(yaml, "CSafeLoader", yaml.SafeLoader)), {})
for _loader in (_CoreLoader, _FastCoreLoader):
    _loader.yaml_implicit_resolvers = {}  # instead of those of YAML 1.1
    for _tag, _pattern, _first in _CORE:
        _loader.add_implicit_resolver(_tag, re.compile(rf"(?:{_pattern})\Z"), _first)
    _loader.add_constructor(_INT, _construct_int)
    _loader.add_constructor(_FLOAT, _construct_float)


# --- writing ---------------------------------------------------------------------------------------------------------


class _QuotingDumper(yaml.SafeDumper):
    """Quotes every string that a reader of YAML 1.1 or 1.2 could take for another type."""


for _tag, _pattern, _first in _CORE:
    _QuotingDumper.add_implicit_resolver(_tag, re.compile(rf"(?:{_pattern})\Z"), _first)


def dump(content: Any, *, flow: bool = False) -> str:
    """`content` as YAML, keys in their order; YAML 1.1 and 1.2 read it alike.

    Args:
        flow: on one line, with braces.
    """
    return yaml.dump(content, Dumper=_QuotingDumper, sort_keys=False, default_flow_style=flow)


def dotted(keys: Keys) -> str:
    """A path as it is written in a message: `methods.remix.first[0].epochs`."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)
    return text.removeprefix(".")
