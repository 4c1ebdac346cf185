"""How the features of the modalities are fused: `model.fusion`, a word or a group of keys with a name"""

from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, model_serializer, model_validator

from remix_study.config.part import Part


class PlainFusion(Part):
    """A fusion without options, as a word; `..._published` is as in the code of OGM-GE, without a residual path."""

    name: Literal["concat", "sum", "decision", "film", "film_published", "gated", "gated_published"]

    @model_serializer
    def _as_word(self) -> str:
        return self.name


class AttentionConfig(Part):
    """A Transformer encoder over one token per modality and a class token."""

    name: Literal["attention"]
    width: int = Field(default=64, ge=1, description="size of a token; a multiple of `heads`")
    layers: int = Field(default=2, ge=1)
    heads: int = Field(default=4, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _divisible(self) -> "AttentionConfig":
        if self.width % self.heads:
            raise ValueError(f"`width` must be a multiple of `heads` ({self.heads}), but is {self.width}")
        return self


class GreedyConfig(Part):
    """Greedy: rebalancing steps for the modality whose gates learn faster than its branch (Wu et al., ICML 2022)."""

    threshold: float = Field(default=0.01, gt=0, description="difference of learning speeds, in decades")
    steps: int = Field(default=5, ge=1, description="rebalancing steps, in which the gates are their running means")


class MMTMConfig(Part):
    """MMTM: squeeze and excitation across modalities inside the encoders, then decision fusion."""

    name: Literal["mmtm"]
    ratio: float = Field(default=4.0, gt=0, description="the hidden layer has 2 / `ratio` times all channels")
    gain: float = Field(default=2.0, gt=0, description="factor of the gates: 2 in the paper, 1 in its code")
    greedy: GreedyConfig | None = Field(default=None, description="balance the two modalities; `{}` for the defaults")


class CentralNetConfig(Part):
    """CentralNet: a network between the encoders, to whose stages theirs are added."""

    name: Literal["centralnet"]


def _word(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


FusionConfig = Annotated[
    PlainFusion | AttentionConfig | MMTMConfig | CentralNetConfig, Field(discriminator="name"), BeforeValidator(_word)
]

SPLITTING_FUSIONS = ("concat", "sum", "decision")
"""Fusions whose logits have a part for each modality."""
SELECTING_FUSIONS = ("decision", "attention", "mmtm", "centralnet")
"""Fusions that leave inactive modalities out."""
INSIDE = ("mmtm", "centralnet")
"""Fusions inside the encoders."""
PUBLISHED = {"film_published": 1, "gated_published": 0}
"""Published fusion -> which of the two encoders the fused loss of its unimodal batch reaches by a bias only."""


def words() -> list[str]:
    """The names of all fusions."""
    union, *_ = get_args(FusionConfig)
    return [word for part in get_args(union) for word in get_args(part.model_fields["name"].annotation)]
