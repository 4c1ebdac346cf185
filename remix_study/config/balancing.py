"""Methods that are added to a way of training: `with` of joint, joint_unimodal and remix

Each is also a method of its own (`method: {name: ogm_ge}`), which adds it to joint training. To add one, write its
options here, one field in `Additions`, and its class in `remix_study/balancing`.
"""

from types import NoneType
from typing import Annotated, Any, NamedTuple, get_args

from pydantic import BeforeValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from remix_study.config.identity import Introduced
from remix_study.config.part import Part


class Windowed(Part):
    """Acts in the epochs `begin` to `end`."""

    begin: int = Field(default=0, ge=0, description="the first epoch in which it acts, from 0")
    end: int | None = Field(default=None, ge=1, description="the epoch before which it stops; default: never")

    @model_validator(mode="after")
    def _ordered(self) -> "Windowed":
        if self.end is not None and self.end <= self.begin:
            raise ValueError(f"`end` must be greater than `begin` ({self.begin}), but is {self.end}")
        return self


class OGMOptions(Windowed):
    """OGM: smaller gradients for the encoder whose modality is ahead (Peng et al., CVPR 2022)."""

    alpha: float = Field(default=0.8, ge=0, description="strength; 0 changes nothing. Published: 0.8, 0.1 for VGGSound")


class OGMGEOptions(Windowed):
    """OGM-GE: OGM, and noise added to the gradients of all encoders (Peng et al., CVPR 2022)."""

    alpha: float = Field(default=0.8, ge=0, description="strength; 0 adds noise only. Published: 0.8, 0.1 for VGGSound")


class OGMPlusOptions(Windowed):
    """A control for OGM: larger gradients for the encoders whose modalities are behind."""

    factor: float = Field(default=4.0, gt=0, description="of these gradients; 1 changes nothing. Released: 4")


class AGMOptions(Windowed):
    """AGM: smaller gradients the further ahead a modality is, compared with earlier steps (Li et al., ICCV 2023)."""

    alpha: float = Field(default=1.0, ge=0, description="strength; 0 changes nothing. Published: 1, 2.5 for AV-MNIST")


class MMParetoOptions(Windowed):
    """MMPareto: the gradients of the fused and of the unimodal losses in one direction (Wei and Hu, ICML 2024)."""

    gain: float = Field(default=1.5, gt=0, description="factor of the gradients of the encoders. Published: 1.5")


def _switched_on(value: Any) -> Any:
    """`ogm_ge:` without options means the defaults."""
    return {} if value is None else value


def _mapping(value: Any) -> Any:
    """`[ogm_ge]` means `{ogm_ge: {}}`."""
    return {name: {} for name in value} if is_names(value) else value


def is_names(value: Any) -> bool:
    """Whether a value of `with` is a list of different names."""
    return (
        isinstance(value, list | tuple)
        and all(isinstance(each, str) for each in value)
        and (len(set(value)) == len(value))
    )


class Additions(Part):
    """The added methods, by name, with their options; or a list of their names."""

    mmpareto: Annotated[MMParetoOptions | None, BeforeValidator(_switched_on), Introduced(None)] = None
    ogm: Annotated[OGMOptions | None, BeforeValidator(_switched_on)] = None
    ogm_ge: Annotated[OGMGEOptions | None, BeforeValidator(_switched_on)] = None
    ogm_plus: Annotated[OGMPlusOptions | None, BeforeValidator(_switched_on)] = None
    agm: Annotated[AGMOptions | None, BeforeValidator(_switched_on)] = None

    @model_validator(mode="after")
    def _compatible(self) -> "Additions":
        scaling = [name for name in self.names() if name in _SCALING]
        if len(scaling) > 1:
            raise ValueError(
                f"{' and '.join(scaling)} must not be combined, because each decides how much an encoder learns; "
                "keep one of them"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_absent(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: options for name, options in handler(self).items() if options is not None}

    def names(self) -> list[str]:
        """The names of the added methods, in the order in which they act."""
        return [name for name in type(self).model_fields if getattr(self, name) is not None]


class Card(NamedTuple):
    """A method in a list of methods.

    `with_remix`: the batches of Remix in which it acts, or why it cannot be added to Remix.
    """

    name: str
    does: str
    changes: str
    needs: str
    with_remix: str
    options: dict[str, Any]  # the defaults


_COMPARES = "in the warm-up and on multimodal batches"
_CARDS = {
    "ogm": ("gradients", "concat, sum or decision fusion", _COMPARES),
    "ogm_ge": ("gradients", "concat, sum or decision fusion", _COMPARES),
    "ogm_plus": ("gradients", "concat, sum or decision fusion", _COMPARES),
    "agm": ("gradients", "concat, sum or decision fusion", _COMPARES),
    "mmpareto": ("gradients", "unimodal losses (joint_unimodal, remix)", "in every batch, on the encoders in training"),
}


def cards() -> list[Card]:
    """Return the card of every added method, in the order in which they act."""
    found = []
    for name, field in Additions.model_fields.items():
        options = next(each for each in get_args(field.annotation) if each is not NoneType)
        does = options.__doc__.splitlines()[0].rstrip(".")
        found.append(Card(name, does, *_CARDS[name], options().model_dump()))
    return found


_SCALING = ("ogm", "ogm_ge", "ogm_plus", "agm")  # of these, a run has one
SPLITTING = ("ogm", "ogm_ge", "ogm_plus", "agm")
"""Methods that need the part of each modality in the fused logits."""
ON_UNIMODAL_LOSSES = ("mmpareto",)
"""Methods that need unimodal losses; as methods of their own, they are added to `joint_unimodal`."""
WithKey = Annotated[Additions, BeforeValidator(_mapping), Introduced({})]
"""The type of the key `with`."""
