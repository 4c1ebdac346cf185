"""What a person wrote: a YAML file with the line of each of its keys

A problem is told where it stands, so the lines are kept beside the content. A key that stands twice is a problem:
plain YAML would let the last one win without a word.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from remix_study.errors import ConfigError

Keys = tuple[str | int, ...]
"""From the top of a file to one of its places: ("methods", "remix", "first", 0). Keys with dots stay whole."""

CHANGED = 0  # the line of what `--set` brought
_DEEPEST = 100  # groups within groups; only an alias of what it lies in goes deeper


@dataclass(frozen=True)
class YamlSource:
    """A configuration as it was written.

    name: the file's, or words that say where the content comes from.
    lines: of keys and list items, from 1; nothing where the content comes from no file.
    spots: of the same, where in the text they stand; what is written once and used twice (`*alias`) has one.
    twice: keys that stand twice, with the lines of both.
    """

    # Where something was written is no part of what it is: equal configurations may come from two files.
    name: str = field(default="", compare=False)
    content: dict[str, Any] = field(default_factory=dict, compare=False)
    lines: Mapping[Keys, int] = field(default_factory=dict, compare=False)
    spots: Mapping[Keys, int] = field(default_factory=dict, compare=False)
    twice: tuple[tuple[Keys, int, int], ...] = field(default=(), compare=False)

    def line(self, keys: Keys) -> int | None:
        """Of the keys, or of the nearest group that they would lie in; CHANGED where `--set` brought it."""
        for end in range(len(keys), 0, -1):
            if (found := self.lines.get(keys[:end])) is not None:
                return found
        return None

    def place(self, keys: Keys) -> str:
        """As an editor and a terminal link it: `study.yaml:12: `."""
        line = self.line(keys)
        return "" if line is None else "--set: " if line == CHANGED else f"{self.name}:{line}: "

    def changed(self, keys: Keys) -> "YamlSource":
        """The same, after `--set` has put something at these keys of the content."""
        lines = {at: line for at, line in self.lines.items() if at[: len(keys)] != keys}
        return replace(self, lines={**lines, keys: CHANGED})


def read(path: Path) -> YamlSource:
    """
    Raises:
        ConfigError: the file cannot be read, is not YAML, or holds no keys.
    """
    try:
        return read_text(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise ConfigError(f"the configuration {path} must be a readable file, but: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} must be YAML, but: {error}.") from error


def read_text(text: str, name: str) -> YamlSource:
    """
    Raises:
        ConfigError: the text is not YAML, or holds no keys.
    """
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            kind = type(None if root is None else loader.construct_document(root)).__name__
            raise ConfigError(f"{name} must hold `key: value` lines, but holds {kind}.")
        places = list(_places(root, ()))  # before construction, which takes merges apart
        content = loader.construct_document(root)
    except yaml.YAMLError as error:
        raise ConfigError(f"{name} must be YAML, but: {' '.join(str(error).split())}.") from error
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


def _places(node: yaml.Node, keys: Keys, merged: bool = False) -> Iterator[tuple[Keys, yaml.Mark, bool]]:
    """Every key and list item below a node with its line; what a merge (`<<`) brings comes last, and may be covered."""
    if len(keys) > _DEEPEST:
        raise yaml.YAMLError(f"`{dotted(keys[:3])}` contains itself")
    if isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            yield (*keys, number), item.start_mark, merged
            yield from _places(item, (*keys, number), merged)
    if isinstance(node, yaml.MappingNode):
        brought: list[yaml.Node] = []
        for key, value in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                brought += value.value if isinstance(value, yaml.SequenceNode) else [value]
                continue
            at = (*keys, str(key.value))
            yield at, key.start_mark, merged
            yield from _places(value, at, merged)
        for other in brought:
            yield from _places(other, keys, True)


def dotted(keys: Keys) -> str:
    """As a person writes it: `methods.remix.first[0].epochs`."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)
    return text.removeprefix(".")


def number_in(word: Any) -> str | None:
    """How YAML 1.1 must be told a number that it took for a word: `1e-3` -> 1.0e-3. None for other values."""
    found = re.fullmatch(r"([-+]?\d+(?:\.\d*)?|[-+]?\.\d+)[eE]([-+]?)(\d+)", word) if isinstance(word, str) else None
    if found is None:
        return None
    mantissa, sign, exponent = found.groups()
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}e{sign or '+'}{exponent}"
