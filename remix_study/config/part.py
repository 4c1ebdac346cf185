"""Part: a group of keys of a configuration"""

from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from remix_study.config.problems import LARGEST_INTEGER, Misfit, keys_of
from remix_study.names import MODALITY


class Part(BaseModel):
    """A group of keys: immutable; unknown keys are errors.

    Values mean what they are in YAML: no text or boolean is a number, and no text or number a boolean. Numbers are
    finite, unless a field allows infinity.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, serialize_by_alias=True)

    @classmethod
    def claims(cls, value: Any) -> bool:  # noqa: ARG003 - for groups that may stand in place of another value
        """Whether a value in a union can only be meant as this group of keys."""
        return False

    @model_validator(mode="before")
    @classmethod
    def _as_written(cls, content: Any) -> Any:
        if not isinstance(content, dict):
            return content
        fields = keys_of(cls)
        return {key: _fitting(fields[key].annotation, v) if key in fields else v for key, v in content.items()}


def _fitting(kind: Any, value: Any) -> Any:
    """`value`, with a `Misfit` in place of what pydantic would convert to a field's type `kind`."""
    arguments = get_args(kind)
    match get_origin(kind) or kind:
        case origin if origin is Annotated:
            return _fitting(arguments[0], value)
        case origin if origin is bool:
            return value if isinstance(value, bool) else Misfit(value)
        case origin if origin in (int, float):
            large = origin is int and isinstance(value, int) and abs(value) > LARGEST_INTEGER
            return Misfit(value) if large or isinstance(value, bool | str) else value
        case origin if origin is dict and isinstance(value, dict):
            return {key: _fitting(arguments[1], inner) for key, inner in value.items()}
        case origin if origin in (list, tuple) and isinstance(value, list | tuple):
            return [_fitting(arguments[0], inner) for inner in value]
        case origin if origin in (Union, UnionType):
            if any(_claims(each, value) for each in arguments):
                return value
            members = [each for each in arguments if _resembles(each, value)]
            return _fitting(members[0], value) if len(members) == 1 else value
    return value


def _claims(kind: Any, value: Any) -> bool:
    """Whether this member of a union is a group of keys that the value can only be meant for."""
    if get_origin(kind) is Annotated:
        return _claims(get_args(kind)[0], value)
    return isinstance(kind, type) and issubclass(kind, Part) and kind.claims(value)


def _resembles(kind: Any, value: Any) -> bool:
    """Whether a value may have been meant for this member of a union."""
    match get_origin(kind) or kind:
        case origin if origin is Annotated:
            return _resembles(get_args(kind)[0], value)
        case origin if origin in (dict, list, tuple):
            return isinstance(value, origin)
        case origin if origin in (bool, int, float):
            return value is not None and not isinstance(value, dict | list | tuple)
        case origin if origin is Literal:
            return isinstance(value, str)
    return False


def kind_or(tag: str, default: str) -> BeforeValidator:
    """Fill in the key that selects the type: `optimizer: {learning_rate: 0.01}` has the default `name: adam`."""

    def fill(value: Any) -> Any:
        return {tag: default, **value} if isinstance(value, dict) and tag not in value else value

    return BeforeValidator(fill)


Modality = Annotated[str, Field(pattern=f"^{MODALITY}$")]
