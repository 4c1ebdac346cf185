"""Mistakes in a configuration, as a person reads them: all at once, where they were written, and what was meant

pydantic finds the mistakes; here its findings become lines with the path as it stands in the YAML (without the tags of
unions, which nobody wrote) and, where there is one, the key that was probably meant.
"""

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from remix_study.errors import ConfigError

T = TypeVar("T", bound=BaseModel)


def parse(shape: type[T], content: Mapping[str, Any], source: str) -> T:
    """
    Raises:
        ConfigError: with all mistakes at once; `source` is named first.
    """
    try:
        return shape.model_validate(content)
    except ValidationError as error:
        lines = [_mistake(shape, problem) for problem in error.errors()]
        head = "one mistake" if len(lines) == 1 else f"{len(lines)} mistakes"
        raise ConfigError(f"{source} has {head}:\n" + "\n".join(f"  - {line}" for line in lines)) from None


def _mistake(shape: type[BaseModel], problem: Any) -> str:
    location: tuple[str | int, ...] = problem["loc"]
    path = _path(shape, location)
    match problem["type"]:
        case "extra_forbidden":
            known = _keys_at(shape, location[:-1])
            near = difflib.get_close_matches(str(location[-1]), known, n=1)
            help_ = f"did you mean `{near[0]}`?" if near else f"known keys: {', '.join(known)}"
            return f"`{path}` is not a known key; {help_}"
        case "missing":
            return f"`{path}` is missing"
        case "union_tag_invalid":
            context = problem["ctx"]
            expected = context["expected_tags"].replace("'", "")
            near = difflib.get_close_matches(str(context["tag"]), expected.split(", "), n=1)
            hint = f"; did you mean `{near[0]}`?" if near else ""
            key = context["discriminator"].strip("'")
            return f"`{path}.{key}` must be one of {expected}, but is {context['tag']!r}{hint}"
        case "union_tag_not_found":
            return f"`{path}` must have a key {problem['ctx']['discriminator']} that says which kind it is"
        case _:
            message = problem["msg"].removeprefix("Value error, ")
            given = problem.get("input")
            plain = isinstance(given, str | int | float | bool | None)
            return f"{f'`{path}`: ' if path else ''}{message}" + (f" (is {given!r})" if plain else "")


def _path(shape: type[BaseModel], location: tuple[str | int, ...]) -> str:
    """The location as the person wrote it: without the tags of unions."""
    at: Any = shape
    parts: list[str] = []
    for step in location:
        if str(step).startswith(("literal[", "dict[")):  # the members of a union without tags
            continue
        following = _enter(at, step)
        if (following is not None and following[1]) or following is None:
            parts.append(str(step))
        at = following[0] if following else None
    return ".".join(parts)


def _keys_at(shape: type[BaseModel], location: tuple[str | int, ...]) -> list[str]:
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
        return get_args(at)[-1], True
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
