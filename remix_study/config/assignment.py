"""Filter rules and shares of Remix: which samples train which modality, and how many

To add a rule, add its class, one line in the union below it, and its case in `remix_study/planned.py`.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from remix_study.config.part import Modality, Part, kind_or


class ArgminConfig(Part):
    rule: Literal["argmin"] = "argmin"


class InvertedConfig(Part):
    rule: Literal["inverted"]


class RandomConfig(Part):
    rule: Literal["random"]


class PermutedConfig(Part):
    rule: Literal["permuted"]


class TemperedConfig(Part):
    rule: Literal["tempered"]
    temperature: float = Field(
        ge=0, allow_inf_nan=True, description="in the unit of the score; 0 is argmin, .inf is random"
    )


class MarginConfig(Part):
    rule: Literal["margin"]
    threshold: float = Field(ge=0, description="in the unit of the score")
    close: Literal["joint", "each"] = "joint"


class QuantileConfig(Part):
    rule: Literal["quantile"]
    fraction: float = Field(gt=0, le=1)
    otherwise: Literal["joint", "rest"] = "joint"


class MaxShareConfig(Part):
    rule: Literal["max_share"]
    share: float = Field(gt=0, le=1)


class BandConfig(Part):
    rule: Literal["band"]
    lower: float = Field(description="in the unit of the score")
    upper: float = Field(description="in the unit of the score")
    otherwise: Literal["joint", "rest"] = "joint"

    @model_validator(mode="after")
    def _ordered(self) -> "BandConfig":
        if self.lower >= self.upper:
            raise ValueError(f"`lower` must be below `upper`, but {self.lower} is not below {self.upper}")
        return self


FilterConfig = Annotated[
    ArgminConfig
    | InvertedConfig
    | RandomConfig
    | PermutedConfig
    | TemperedConfig
    | MarginConfig
    | QuantileConfig
    | MaxShareConfig
    | BandConfig,
    Field(discriminator="rule"),
    kind_or("rule", "argmin"),
]


class FixedShareConfig(Part):
    """The fraction of the samples that is assigned to each modality; the fractions sum to 1."""

    kind: Literal["fixed"]
    parts: dict[Modality, Annotated[float, Field(ge=0, le=1)]]

    @model_validator(mode="after")
    def _sums_to_one(self) -> "FixedShareConfig":
        total = sum(self.parts.values())
        if abs(total - 1) > 1e-6:
            raise ValueError(f"`parts` must sum to 1, but sum to {total:g}")
        return self


class ProgressShareConfig(Part):
    """Fractions that follow each modality's learning progress."""

    kind: Literal["progress"]
    rate: float = Field(default=0.5, gt=0, le=5)
    lowest: float = Field(default=0.2, ge=0, lt=0.5)


ShareConfig = Annotated[FixedShareConfig | ProgressShareConfig, Field(discriminator="kind")]
