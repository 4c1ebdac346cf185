"""YAML files: read by YAML 1.2's core schema, with the line of every key, and written so that any reader agrees

PyYAML follows YAML 1.1, where `1e-3` is a string, `off` is false, `012` is 10 and `1:30` is 90. Here scalars follow the
core schema of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema):
    null                   `null`, `~`, or nothing
    booleans               `true`, `false`
    integers               `12`, `-3`, `0o14`, `0xC`; a leading zero (`012`) is refused
    floats                 `1.5`, `1e-3`, `.5`, `.inf`, `.nan`
    strings                everything else: `off`, `yes`, `1_000`, `1:30`, `2026-11-28`
Three things go beyond it: keys are always strings, `<<` merges as in YAML 1.1, and a key that occurs twice in a group
is reported. Only these types and groups are read: `!!timestamp`, `!!binary` or `!!set` is refused.

A file that would expand to more than memory holds, or that nests too deeply, is refused before its nodes are built.
"""

import math
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
MOST_VALUES = 50_000  # keys and values of a file, aliases expanded: nine lines of aliases can stand for 10^9 values
_LARGEST = 10_000_000  # characters of a file

_NULL, _BOOL, _INT, _FLOAT, _STR, _MERGE = (
    f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "merge")
)
_LEADING_ZERO = re.compile(r"([-+]?)0+([0-9]+)")
_DIGITS = 300  # of an integer: Python converts up to 4,300, but no float is as large
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
        """The prefix of a message about a key, in the form that editors and terminals link: `study.yaml:12: `.

        A key that is missing at the top has the first line.
        """
        line = self.line(keys)
        if line is None and keys and self.lines:
            line = 1
        return "" if line is None else "--set: " if line == CHANGED else f"{self.name}:{line}: "

    def changed(self, keys: Keys) -> "YamlSource":
        """A copy that attributes the value at `keys` to `--set`."""
        lines = {at: line for at, line in self.lines.items() if at[: len(keys)] != keys}
        return replace(self, lines={**lines, keys: CHANGED})


# --- reading ---------------------------------------------------------------------------------------------------------


def read(path: Path, most: int = MOST_VALUES) -> YamlSource:
    """The content of a YAML file.

    Args:
        most: keys and values that it may have.

    Raises:
        ConfigError: the file cannot be read, is not YAML, is too large, or does not contain keys.
    """
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_LARGEST + 1)
    except OSError as error:
        raise ConfigError(f"Cannot read the configuration {path}: {error.strerror}. Check the path.") from error
    except ValueError as error:  # also the path itself: it contains the character NUL
        line = f":{1 + error.object.count(10, 0, error.start)}" if isinstance(error, UnicodeDecodeError) else ""
        raise ConfigError(f"Cannot read {path}{line} as YAML: {error}. Save it as UTF-8.") from error
    if len(text) > _LARGEST:
        raise ConfigError(
            f"Cannot read {path}: it has more than {_LARGEST:,} characters, which is too large for a configuration. "
            "Check the path."
        )
    return read_text(text, str(path), most)


def read_text(text: str, name: str, most: int = MOST_VALUES) -> YamlSource:
    """The content of a YAML text; messages call it `name`.

    Args:
        most: keys and values that it may have.

    Raises:
        ConfigError: the text is not YAML, is too large, or does not contain keys.
    """
    try:
        _require_bounded(text, most)
        loader = _CoreLoader(text)
        try:
            root = loader.get_single_node()
            if not isinstance(root, yaml.MappingNode):
                kind = _kind(None if root is None else loader.construct_document(root))
                raise ConfigError(f"Cannot read {name}:1: it must contain `key: value` lines, but {kind}.")
            places = list(_places(root, ()))  # before construction, which resolves merges
            content = loader.construct_document(root)
        finally:
            loader.dispose()
    except _RefusedError as error:
        raise ConfigError(f"Cannot read {name}:{error.line}: {error}.") from error
    except (yaml.YAMLError, UnicodeEncodeError) as error:
        raise ConfigError(_syntax_error(name, text, error)) from error
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
    _require_bounded(text, _LARGEST)
    loader = _CoreLoader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _kind(value: Any) -> str:
    return "is empty" if value is None else "contains a list" if isinstance(value, list) else f"contains {value!r:.40}"


def _require_bounded(text: str, most: int) -> None:
    """Check the size of what a text describes, from its events, before any node is built.

    Raises:
        yaml.YAMLError: it nests too deeply, contains itself, or has more than `most` keys and values.
    """
    sizes: dict[str, int] = {}  # of anchors: keys and values below them, aliases expanded
    stack: list[tuple[str | None, int]] = []  # open groups: anchor, keys and values so far
    total = 0
    for event in yaml.parse(text, Loader=_CoreLoader):
        size = 1
        match event:
            case yaml.CollectionStartEvent():
                if len(stack) == _DEEPEST:
                    raise _RefusedError(f"it nests more than {_DEEPEST} levels deep", event)
                stack.append((event.anchor, 1))
                continue
            case yaml.CollectionEndEvent():
                anchor, size = stack.pop()
            case yaml.AliasEvent():
                if any(anchor == event.anchor for anchor, _ in stack):
                    raise _RefusedError(f"`&{event.anchor}` contains itself", event)
                anchor, size = None, sizes.get(event.anchor or "", 1)
            case yaml.ScalarEvent():
                anchor = event.anchor
                if "\0" in event.value:
                    raise _RefusedError("a string must not contain the character NUL", event)
            case _:
                continue
        if anchor is not None:
            sizes[anchor] = size
        if stack:
            stack[-1] = (stack[-1][0], stack[-1][1] + size)
        # A group that ends was counted when its members were.
        total += 1 if isinstance(event, yaml.CollectionEndEvent) else size
        if total > most:
            raise _RefusedError(f"it has more than {most:,} keys and values, counting aliases", event)


# Words in the messages of PyYAML and libyaml, and what helps.
_HELP = (
    ("mapping values are not allowed", "Put a string that contains `: ` in quotes"),
    ("tab character", "Indent with spaces instead of tabs"),
    ("'\\t'", "Indent with spaces instead of tabs"),
    ("cannot start any token", "Put a string that begins with this character in quotes"),
    ("undefined alias", "Define it with `&` before it is used, or put a string that begins with `*` in quotes"),
    ("could not determine a constructor", "Leave out the tag, or put a string that begins with `!` in quotes"),
    ("another document", "Keep one document in the file, without further `---` lines"),
    ("for merging", "Let `<<` name a group of keys"),
    ("unhashable key", "Use a string as the key"),
)


def _syntax_error(name: str, text: str, error: Exception) -> str:
    """One sentence with the line of an error, and one that helps."""
    match error:
        case yaml.MarkedYAMLError():
            mark = error.problem_mark or error.context_mark
            line = None if mark is None else mark.line + 1
            said = " ".join(f"{error.problem or error.context}".split())
            begin = error.context_mark
            if begin is not None and begin.line + 1 != line and f"{error.context}".startswith("while parsing"):
                said += f" ({error.context} that begins in line {begin.line + 1})"
            said = said.removeprefix("but ").replace("tag:yaml.org,2002:", "!!")
            if mark is not None and [*text.split("\n"), ""][mark.line][mark.column :].startswith("\t"):
                said = "found a tab character where no indentation may be"
        case yaml.reader.ReaderError():
            # libyaml counts bytes, PyYAML characters; the line of a character that neither reads is the same.
            read = text.encode(errors="replace")[: error.position] if _CoreLoader is _Fast else text[: error.position]
            line = 1 + (read.count(b"\n") if isinstance(read, bytes) else read.count("\n"))
            code = ord(error.character) if isinstance(error.character, str) else error.character
            said = f"the character #x{code:04x} is not allowed"
        case UnicodeEncodeError():
            line, said = 1 + text.count("\n", 0, error.start), "it contains half of a surrogate pair"
        case _:
            line, said = None, " ".join(str(error).split())
    at = name if line is None else f"{name}:{line}"
    helps = next((each for words, each in _HELP if words in said), "Check the brackets, quotes and indentation there")
    return f"Cannot read {at} as YAML: {said}. {helps}."


def _places(node: yaml.Node, keys: Keys, merged: bool = False) -> Iterator[tuple[Keys, yaml.Mark, bool]]:
    """Every key and list item below a node, with its mark; those from a merge (`<<`) come last."""
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


class _RefusedError(yaml.YAMLError):
    """Valid YAML that is refused, such as the number 010, with its line; `at` is the event or node."""

    def __init__(self, message: str, at: Any) -> None:
        super().__init__(message)
        self.line: int = at.start_mark.line + 1


_PATTERN = {tag: re.compile("|".join(p for other, p, _ in _CORE if other == tag)) for tag, _, _ in _CORE}


def _text(loader: yaml.SafeLoader, node: yaml.ScalarNode, tag: str, kind: str) -> str:
    """The text of a scalar, which has the type of `tag` by its own form or by an explicit tag (`!!int`)."""
    text = str(loader.construct_scalar(node))
    if not _PATTERN[tag].fullmatch(text):
        raise _RefusedError(f"{text!r:.40} is not {kind}", node)
    return text


def _construct_bool(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> bool:
    return _text(loader, node, _BOOL, "true or false").lower() == "true"


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = _text(loader, node, _INT, "an integer")
    if zero := _LEADING_ZERO.fullmatch(text):  # YAML 1.1 reads 010 as 8, YAML 1.2 as 10
        number = f"{zero[1]}{zero[2]}"
        raise _RefusedError(f"the number {text} has a leading zero. Write {number}, or '{text}' for a string", node)
    if len(text) > _DIGITS:
        raise _RefusedError(f"the number {text[:8]}... has more than {_DIGITS} digits", node)
    return int(text, 0)


def _construct_float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    text = str(loader.construct_scalar(node))
    if not (_PATTERN[_FLOAT].fullmatch(text) or _PATTERN[_INT].fullmatch(text)):
        raise _RefusedError(f"{text!r:.40} is not a number", node)
    number = float(re.sub(r"\.(?=inf|nan)", "", text.lower()))
    if math.isinf(number) and "inf" not in text.lower():
        raise _RefusedError(f"the number {text:.40} is too large", node)
    return number


class _StringKeys(yaml.constructor.SafeConstructor):
    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)  # resolves merges
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                key.tag = _STR


# With libyaml if PyYAML has it: a report reads the configurations of thousands of runs.
_Fast: Any = type("_Fast", (_StringKeys, getattr(yaml, "CSafeLoader", yaml.SafeLoader)), {})
_Plain: Any = type("_Plain", (_StringKeys, yaml.SafeLoader), {})
_CoreLoader: Any = _Fast if hasattr(yaml, "CSafeLoader") else _Plain
for _loader in (_Fast, _Plain):
    _loader.yaml_implicit_resolvers = {}  # instead of those of YAML 1.1
    for _tag, _pattern, _first in _CORE:
        _loader.add_implicit_resolver(_tag, re.compile(rf"(?:{_pattern})\Z"), _first)
    _known = (_NULL, _STR, "tag:yaml.org,2002:seq", "tag:yaml.org,2002:map", None)  # None: raises for other tags
    _loader.yaml_constructors = {tag: yaml.SafeLoader.yaml_constructors[tag] for tag in _known}
    _loader.add_constructor(_BOOL, _construct_bool)
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
