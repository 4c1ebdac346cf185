"""Problems in a configuration, as a person reads them: all at once, where they were written, and what was meant

pydantic finds the problems; here its findings become lines with the path as it stands in the YAML (without the tags of
unions, which nobody wrote) and, where there is one, the key that was probably meant.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, NoReturn, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from remix_study.config.yaml_source import Keys, YamlSource, dotted, number_in
from remix_study.credentials import redact
from remix_study.errors import ConfigError

T = TypeVar("T", bound=BaseModel)


@dataclass(frozen=True)
class Problem:
    """Something to mend.

    keys: where it stands.
    says: follows the path (`is missing`), or is a sentence of its own (`whole`) that names its keys itself.
    near: the key that was probably meant, from the same group as the wrong one.
    kind: one problem found at two points of a search space has the same keys and kind, though it may name other values.
    """

    keys: Keys
    says: str
    whole: bool = False
    near: str | None = None
    kind: str = ""

    def text(self) -> str:
        said = self.says + (f"; did you mean `{self.near}`?" if self.near else "")
        return said if self.whole or not self.keys else f"`{dotted(self.keys)}`{said}"


class ImpossibleError(ValueError):
    """Several things that cannot be together: each the key to change, and a sentence that names it."""

    def __init__(self, problems: Sequence[tuple[str, str]]) -> None:
        super().__init__("; ".join(sentence for _, sentence in problems))
        self.problems = tuple(problems)


def parse(shape: type[T], written: YamlSource) -> T:
    """
    Raises:
        ConfigError: with all problems at once.
    """
    parsed, problems = examine(shape, written)
    if parsed is None or problems:
        refuse(written, problems)
    return parsed


def examine(shape: type[T], written: YamlSource) -> tuple[T | None, list[Problem]]:
    """What was written in its shape, where it has one, and every problem."""
    twice = [
        Problem(keys, f" must stand once, but stands in lines {first} and {line}; remove one of them", kind="twice")
        for keys, first, line in written.twice
    ]
    try:
        return shape.model_validate(written.content), twice
    except ValidationError as error:
        errors = _without_other_branches(error.errors())
        return None, twice + [each for found in errors for each in _problems(shape, found, written.content)]


def refuse(written: YamlSource, problems: Iterable[Problem]) -> NoReturn:
    """
    Raises:
        ConfigError: all problems, in the order of their lines.
    """
    ordered = sorted(problems, key=lambda each: written.line(each.keys) or 0)
    once = {(written.spots.get(each.keys, each.keys), each.says): each for each in reversed(ordered)}
    lines = [f"  - {written.place(each.keys)}{each.text()}" for each in reversed(once.values())]
    head = "one problem" if len(lines) == 1 else f"{len(lines)} problems"
    raise ConfigError(f"{written.name} has {head}:\n" + "\n".join(lines))


def meant(word: Any, known: Iterable[str]) -> str | None:
    """The known word that was probably meant."""
    near = difflib.get_close_matches(str(word), list(known), n=1)
    return near[0] if near else None


def _problems(shape: type[BaseModel], found: Any, content: Mapping[str, Any]) -> list[Problem]:
    location: Keys = found["loc"]
    keys = _as_written(_keys(shape, location), content)
    kind, given = found["type"], found.get("input")
    match kind:
        case "extra_forbidden":
            known = _keys_at(shape, location[:-1])
            near = meant(location[-1], known)
            help_ = "" if near else f"; known keys: {', '.join(known)}"
            return [Problem(keys, f" is not a known key{help_}", near=near, kind=kind)]
        case "missing":
            return [Problem(keys, " is missing", kind=kind)]
        case "union_tag_invalid":
            context = found["ctx"]
            words = context["expected_tags"].replace("'", "").split(", ")
            tag = context["discriminator"].strip("'")
            at = keys if isinstance(_value_at(content, keys), str) else (*keys, tag)  # `pruner: asha` has no tag
            return [_no_such_word(at, context["tag"], words)]
        case "union_tag_not_found":
            tag = found["ctx"]["discriminator"]
            return [Problem(keys, f" must have a key {tag} that says which kind it is", kind=kind)]
        case "literal_error":
            expected = found["ctx"]["expected"].replace(" or ", ", ").replace("'", "").split(", ")
            return [_no_such_word(keys, given, expected)]
        case "value_error" if isinstance(found["ctx"]["error"], ImpossibleError):
            return [
                Problem(_as_written((*keys, *key.split(".")), content), sentence, whole=True, kind=key)
                for key, sentence in found["ctx"]["error"].problems
            ]
        case _:
            message = found["msg"].removeprefix("Value error, ")
            plain = isinstance(given, str | int | float | bool | None)
            number = number_in(given) if kind in ("int_parsing", "float_parsing") else None
            said = message + (f" (is {redact(repr(given))})" if plain else "") + (f"; write {number}" if number else "")
            return [Problem(keys, f": {said}" if keys else said, kind=kind)]


def _no_such_word(keys: Keys, given: Any, words: Sequence[str]) -> Problem:
    return Problem(keys, f" must be one of {', '.join(words)}, but is {given!r}", near=meant(given, words), kind="word")


def _without_other_branches(errors: Sequence[Any]) -> list[Any]:
    """Of a union without tags (a word or a group of keys) only what the branch says that was tried to write."""
    kept = []
    for found in errors:
        branch = next((n for n, step in enumerate(found["loc"]) if _is_branch(step)), None)
        if branch is not None:
            step, deeper = str(found["loc"][branch]), len(found["loc"]) > branch + 1
            if not deeper and not step.startswith(_BRANCH_OF.get(type(found["input"]), step)):
                continue
        kept.append(found)
    return kept


_BRANCH_OF: dict[type, str] = {str: "literal[", dict: "dict[", list: "list["}


def _is_branch(step: str | int) -> bool:
    return isinstance(step, str) and step.startswith(tuple(_BRANCH_OF.values()))


def _as_written(keys: Keys, content: Mapping[str, Any]) -> Keys:
    """Without the numbers of lists that were written in short: `objective: {metric: ...}` is a list of one."""
    at: Any = content
    found: list[str | int] = []
    for key in keys:
        if isinstance(key, int) and not isinstance(at, list | tuple):
            continue
        found.append(key)
        at = _value_at(at, (key,))
    return tuple(found)


def _value_at(content: Any, keys: Keys) -> Any:
    for key in keys:
        if isinstance(key, int):
            content = content[key] if isinstance(content, list | tuple) and key < len(content) else None
        else:
            content = content.get(key) if isinstance(content, Mapping) else None
    return content


def _keys(shape: type[BaseModel], location: Keys) -> Keys:
    """The location as the person wrote it: without the tags of unions."""
    at: Any = shape
    keys: list[str | int] = []
    for step in location:
        if _is_branch(step):
            continue
        following = _enter(at, step)
        if following is None or following[1]:
            keys.append(step)
        at = following[0] if following else None
    return tuple(keys)


def _keys_at(shape: type[BaseModel], location: Keys) -> list[str]:
    at: Any = shape
    for step in location:
        following = _enter(at, step)
        at = following[0] if following else None
    return list(at.model_fields) if isinstance(at, type) and issubclass(at, BaseModel) else []


def _enter(at: Any, step: str | int) -> tuple[Any, bool] | None:
    """What lies at `step`, and whether `step` is a key (or the tag of a union, which nobody wrote)."""
    if isinstance(at, type) and issubclass(at, BaseModel):
        field = at.model_fields.get(str(step))
        return None if field is None else (field.annotation, True)
    if get_origin(at) is Annotated:
        return _enter(get_args(at)[0], step)
    if get_origin(at) in (dict, list, tuple):
        members = [each for each in get_args(at) if each is not Ellipsis]
        return members[-1], True
    for member in get_args(at):
        if isinstance(member, type) and issubclass(member, BaseModel):
            tags = [
                value
                for name in ("name", "rule", "kind")
                if (field := member.model_fields.get(name))
                for value in get_args(field.annotation)
            ]
            if step in tags:
                return member, False
        elif get_origin(member) is Annotated and (inner := _enter(member, step)) is not None:
            return inner
    return None


def moved(problem: Problem, keys: Keys, near: str | None) -> Problem:
    """The same problem told at another place, where what was probably meant may have another name."""
    says = f"`{dotted(keys)}`: {problem.says}" if problem.whole else problem.says
    return replace(problem, keys=keys, says=says, near=near)
