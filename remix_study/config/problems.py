"""Validation of configurations: all problems at once, each with its line, its path in the YAML and a suggestion

pydantic finds the problems. Here its errors become messages with the path as it is written in the YAML (pydantic's own
paths also contain the tags of unions) and with the most similar known key.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import NoneType, UnionType
from typing import Annotated, Any, NoReturn, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, Tag, ValidationError
from pydantic.fields import FieldInfo

from remix_study.config.yaml_source import Keys, YamlSource, dotted, dump, load
from remix_study.credentials import redact
from remix_study.errors import ConfigError
from remix_study.names import MODALITY, name_problem

LARGEST_INTEGER = 2**53 - 1  # larger ones are not exact as floats, nor in JSON
_LONGEST_SHOWN = 60  # characters of a value in a message
T = TypeVar("T", bound=BaseModel)


@dataclass(frozen=True)
class Problem:
    """A problem of a configuration.

    keys: the path to the value to change.
    message: follows the path (" is missing"), or is a complete sentence that names the path itself (`complete`).
    near: the known key or value that is most similar to the wrong one.
    kind: identifies the problem. A problem that occurs for two trials of a study has the same keys and kind in both,
        although the messages may name different values.
    """

    keys: Keys
    message: str
    complete: bool = False
    near: str | None = None
    kind: str = ""

    def text(self) -> str:
        """The message with its path and suggestion."""
        message = self.message + (f"; did you mean `{self.near}`?" if self.near else "")
        return message if self.complete or not self.keys else f"`{dotted(self.keys)}`{message}"


@dataclass(frozen=True)
class Misfit:
    """A value that pydantic would convert, such as `true` to 1 or '6' to 6, in a form that it refuses."""

    value: Any


class ContradictionError(ValueError):
    """Settings that contradict each other: for each problem the key to change, and a sentence that names it."""

    def __init__(self, problems: Sequence[tuple[str, str]]) -> None:
        super().__init__("; ".join(sentence for _, sentence in problems))
        self.problems = tuple(problems)


def parse(model: type[T], source: YamlSource) -> T:
    """The content of `source` as a `model`.

    Raises:
        ConfigError: with all problems at once.
    """
    parsed, problems = validate(model, source)
    if parsed is None or problems:
        raise_problems(source, problems)
    return parsed


def validate(model: type[T], source: YamlSource) -> tuple[T | None, list[Problem]]:
    """The content of `source` as a `model`, or None if it is invalid; and all problems."""
    twice = [
        Problem(keys, f" occurs twice, in lines {first} and {line}; remove one of them", kind="twice")
        for keys, first, line in source.twice
    ]
    try:
        return model.model_validate(source.content), twice
    except ValidationError as error:
        errors = _without_other_branches(error.errors())
        return None, twice + [each for found in errors for each in _problems(model, found, source.content)]


def raise_problems(source: YamlSource, problems: Iterable[Problem], where: str = "") -> NoReturn:
    """Raise all problems as one error.

    Args:
        where: how the first line ends, such as ` with the corpus CORPUS`.

    Raises:
        ConfigError: lists all problems, in the order of their lines.
    """
    ordered = sorted(problems, key=lambda each: source.line(each.keys) or 0)
    # A value that is written once and used twice (`*alias`) is reported once.
    once = {(source.spots.get(each.keys, each.keys), each.message): each for each in reversed(ordered)}
    lines = [f"  - {source.place(each.keys)}{each.text()}" for each in reversed(once.values())]
    count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
    raise ConfigError(f"{source.name} has {count}{where}:\n" + "\n".join(lines))


def closest_match(word: Any, known: Iterable[str]) -> str | None:
    """The known word that is most similar to `word`, in upper or lower case; None if none is similar."""
    lower = {each.lower(): each for each in known}
    near = difflib.get_close_matches(str(word).lower(), list(lower), n=1)
    return lower[near[0]] if near else None


def _problems(model: type[BaseModel], found: Any, content: Mapping[str, Any]) -> list[Problem]:
    location: Keys = found["loc"]
    keys = _as_written(_keys(model, location), content)
    kind, given = found["type"], found.get("input")
    given = given.value if isinstance(given, Misfit) else given
    context = found.get("ctx", {})
    match kind:
        case "extra_forbidden":
            known = _keys_at(model, location[:-1])
            near = closest_match(location[-1], known)
            help_ = "" if near else f"; known keys: {', '.join(known)}"
            return [Problem(keys, f" is not a known key{help_}", near=near, kind=kind)]
        case "missing":
            return [Problem(keys, " is missing", kind=kind)]
        case "union_tag_invalid":
            words = context["expected_tags"].replace("'", "").split(", ")
            tag = context["discriminator"].strip("'")
            at = keys if isinstance(_value_at(content, keys), str) else (*keys, tag)  # `pruner: asha` has no tag
            return [_no_such_word(at, context["tag"], words)]
        case "union_tag_not_found":
            tag = found["ctx"]["discriminator"]
            return [Problem(keys, f" needs a key {tag} that selects its type", kind=kind)]
        case "literal_error":
            expected = found["ctx"]["expected"].replace(" or ", ", ").replace("'", "").split(", ")
            return [_no_such_word(keys, given, expected)]
        case "value_error" if isinstance(found["ctx"]["error"], ContradictionError):
            return [
                Problem(_as_written((*keys, *steps_of(key)), content), sentence, complete=True, kind=key)
                for key, sentence in found["ctx"]["error"].problems
            ]
        case "string_pattern_mismatch":  # all patterns are of names
            return [Problem(keys, name_problem(given, dots=context["pattern"] != f"^{MODALITY}$"), kind="name")]
        case _ if (bound := _must(kind, context, given)) is not None:
            return [Problem(keys, f" must {bound}", kind=kind)]
        case _:
            message = found["msg"].removeprefix("Value error, ")
            plain = isinstance(given, str | int | float | bool | None)
            message += f" (is {redact(repr(given))})" if plain else ""
            return [Problem(keys, f": {message}" if keys else message, kind=kind)]


def steps_of(key: str) -> Keys:
    """The steps of a dotted key; a number is the position in a list."""
    return tuple(int(step) if step.isdecimal() else step for step in key.split("."))


def _must(kind: str, context: Mapping[str, Any], given: Any) -> str | None:
    """What a value must be, and what it is, for pydantic's common kinds of errors; None for others."""
    wanted: str
    match kind:
        case "int_type" | "int_parsing" | "int_from_float" | "int_parsing_size":
            large = isinstance(given, int) and abs(given) > LARGEST_INTEGER
            wanted = f"be an integer of at most {LARGEST_INTEGER} in size" if large else "be an integer"
        case "float_type" | "float_parsing":
            wanted = "be a number"
        case "finite_number":
            wanted = "be a finite number"
        case "bool_type" | "bool_parsing":
            wanted = "be true or false"
        case "string_type":
            wanted = "be a string"
        case "string_too_short":
            return "not be empty" if context["min_length"] == 1 else None
        case "string_too_long":
            return f"have at most {context['max_length']} characters, but has {len(given)}"
        case "dict_type" | "model_type" | "model_attributes_type":
            wanted = "be a group of keys"
        case "list_type" | "tuple_type":
            wanted = "be a list"
        case "greater_than_equal":
            wanted = f"be at least {context['ge']:g}"
        case "greater_than":
            wanted = f"be above {context['gt']:g}"
        case "less_than_equal":
            wanted = f"be at most {context['le']:.15g}"
        case "less_than":
            wanted = f"be below {context['lt']:g}"
        case "too_long":
            return f"have at most {context['max_length']:,} entries, but has {len(given):,}"
        case "too_short":
            return f"have at least {context['min_length']}, but is empty" if not given else None
        case _:
            return None
    return f"{wanted}, but is {_shown(given)}{_quotes(kind, given)}"


def _shown(given: Any) -> str:
    match given:
        case dict():
            return "a group of keys"
        case list() | tuple():
            return "a list"
        case str():
            return redact(repr(given))[:_LONGEST_SHOWN]
        case _:
            return dump(given).splitlines()[0][:_LONGEST_SHOWN]


def _quotes(kind: str, given: Any) -> str:
    """What helps where a number is in quotes, or a string looks like another value without them."""
    if kind == "string_type" and isinstance(given, bool | int | float):
        return "; put it in quotes"
    if kind.startswith(("int_", "float_")) and isinstance(given, str):
        meant = _plain(given)
        if isinstance(meant, int | float) and not isinstance(meant, bool):
            return "; leave out the quotes"
    return ""


def _plain(text: str) -> Any:
    """The value of a string, read without quotes."""
    try:
        return load(text)
    except yaml.YAMLError:
        return text


def _no_such_word(keys: Keys, given: Any, words: Sequence[str]) -> Problem:
    plain = str(given).lower().replace(" ", "_").replace("-", "_").removesuffix("_sampler").removesuffix("_pruner")
    plain = plain.removesuffix("sampler").removesuffix("pruner")
    meant = [word for word in _SYNONYMS.get(plain, ()) if word in words]
    near = "` or `".join(meant) if meant else closest_match(given, words) or closest_match(plain, words)
    return Problem(keys, f" must be one of {', '.join(words)}, but is {given!r}", near=near, kind="word")


# Names under which other tools know a word, where the spelling would suggest another one.
_SYNONYMS: Mapping[str, Sequence[str]] = {
    **dict.fromkeys(("bayes", "bayesian", "bayesian_optimization", "bayesopt", "bo"), ("tpe", "gp")),
    **dict.fromkeys(("optuna", "hyperopt", "parzen"), ("tpe",)),
    **dict.fromkeys(("gaussian", "gaussian_process", "gaussian_processes", "botorch"), ("gp",)),
    **dict.fromkeys(("cma", "cma_es", "evolution_strategy"), ("cmaes",)),
    **dict.fromkeys(("nsga", "nsgaii", "nsga_ii", "genetic", "evolution"), ("nsga2",)),
    **dict.fromkeys(("halving", "sha", "successive_halving", "successivehalving"), ("asha",)),
    **dict.fromkeys(("off", "false"), ("none",)),
    "gpu": ("cuda",), "bf16": ("bfloat16",), "fp32": ("float32",),
}  # fmt: skip


def _without_other_branches(errors: Sequence[Any]) -> list[Any]:
    """Errors without those of union branches that the input does not resemble, such as a word that is no group.

    Of an input that resembles no branch, the error of the first branch is kept.
    """
    kept = []
    for found in errors:
        location = found["loc"]
        branch = next((n for n, step in enumerate(location) if _is_branch(step)), None)
        if branch is not None and len(location) == branch + 1:
            others = [str(each["loc"][branch]) for each in errors if each["loc"][:branch] == location[:branch]]
            meant = _BRANCH_OF.get(type(found["input"]), "")
            if not any(other.startswith(meant) for other in others if meant):
                meant = others[0]
            if not str(location[branch]).startswith(meant):
                continue
        kept.append(found)
    return kept


_NUMBER = "constrained-float"
_BRANCH_OF: dict[type, str] = {str: "literal[", dict: "dict[", list: "list[", int: _NUMBER, float: _NUMBER}


def _is_branch(step: str | int) -> bool:
    return isinstance(step, str) and step.startswith(tuple(_BRANCH_OF.values()))


def _as_written(keys: Keys, content: Mapping[str, Any]) -> Keys:
    """`keys` as they are written, where a short form leaves one out.

    It is the index of a list of one item that is written without its list, as in `objective: {metric: ...}`; or a group
    that is written as its only key, as in `share: {audio: 0.5, video: 0.5}`.
    """
    at: Any = content
    found: list[str | int] = []
    for key, following in zip(keys, (*keys, None)[1:], strict=True):
        if isinstance(key, int) and not isinstance(at, list | tuple):
            continue
        if isinstance(at, Mapping) and key not in at and following in at:
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


def _keys(model: type[BaseModel], location: Keys) -> Keys:
    """Pydantic's location as a path in the YAML: without the tags of unions."""
    at: Any = model
    keys: list[str | int] = []
    for step in location:
        if _is_branch(step) or step == "[key]":
            continue
        following = _enter(at, step)
        if following is None or following[1]:
            keys.append(step)
        at = following[0] if following else None
    return tuple(keys)


def _keys_at(model: type[BaseModel], location: Keys) -> list[str]:
    at: Any = model
    for step in location:
        following = _enter(at, step)
        at = following[0] if following else None
    if get_origin(at) in (Union, UnionType):  # such as a group of keys or null
        groups = [each for each in get_args(at) if each is not NoneType]
        at = groups[0] if len(groups) == 1 else None
    return list(keys_of(at)) if isinstance(at, type) and issubclass(at, BaseModel) else []


def keys_of(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields of a group of keys, by their keys in YAML."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _enter(at: Any, step: str | int) -> tuple[Any, bool] | None:
    """The type at `step` of type `at`, and whether `step` is a key of the YAML (False: the tag of a union)."""
    if isinstance(at, type) and issubclass(at, BaseModel):
        field = keys_of(at).get(str(step))
        return None if field is None else (field.annotation, True)
    if get_origin(at) is Annotated:
        return _enter(get_args(at)[0], step)
    if get_origin(at) in (dict, list, tuple):
        members = [each for each in get_args(at) if each is not Ellipsis]
        return members[-1], True
    for member in get_args(at):  # before the others, which may contain anything
        if get_origin(member) is Annotated and any(isinstance(e, Tag) and e.tag == step for e in get_args(member)):
            return get_args(member)[0], False
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
    groups = [each for each in get_args(at) if isinstance(each, type) and issubclass(each, BaseModel)]
    return _enter(groups[0], step) if len(groups) == 1 else None  # a group of keys, or null


def moved(problem: Problem, keys: Keys, near: str | None) -> Problem:
    """The problem, reported at other keys and with another suggestion."""
    message = f"`{dotted(keys)}`: {problem.message}" if problem.complete else problem.message
    return replace(problem, keys=keys, message=message, near=near)
