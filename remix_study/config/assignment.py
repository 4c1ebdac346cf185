"""Filter rules and shares of Remix: which samples train which modality, and how many

To add a rule, add its class, one line in the union below it, and its case in `remix_study/planned.py`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from remix_study.config.identity import Elsewhere, Introduced
from remix_study.config.part import Modality, Part, kind_or
from remix_study.config.schedule import (
    AboveZeroToOne,
    Deviation,
    NotNegative,
    Number,
    ShareOrRest,
    Temperature,
    ZeroToOne,
    positions,
    value_at,
)

Within = Literal["all", "class"]
_WITHIN = "where the shares hold: over all samples, or also within each class (needs `share`)"


class ArgminConfig(Part):
    rule: Literal["argmin"] = "argmin"


class InvertedConfig(Part):
    rule: Literal["inverted"]


class RandomConfig(Part):
    rule: Literal["random"]
    within: Annotated[Within, Introduced("all")] = Field(default="all", description=_WITHIN)


class PermutedConfig(Part):
    rule: Literal["permuted"]
    within: Annotated[Within, Introduced("all")] = Field(
        default="all",
        description="the samples over which the assignment of argmin is permuted: all, or those of each class, which "
        "keeps the classes of each modality",
    )


class RotationConfig(Part):
    """Samples take turns, so that each sees every modality in proportion to its share."""

    rule: Literal["rotation"]


class ReplayConfig(Part):
    """As many samples of each modality as another run of Remix assigned, at random.

    `random_at_share_of` has the numbers of each epoch, `random_at_mean_share_of` their mean over all epochs after the
    warm-up.
    """

    rule: Literal["random_at_share_of", "random_at_mean_share_of"]
    run: Annotated[str | None, Elsewhere()] = Field(
        default=None, description="the complete run: its folder or URL; in a study, name a method instead"
    )


class TemperedConfig(Part):
    rule: Literal["tempered"]
    temperature: Temperature = Field(description="in the unit of the score; 0 is argmin, .inf is random")


class MarginConfig(Part):
    rule: Literal["margin"]
    threshold: NotNegative = Field(description="in the unit of the score")
    close: Literal["joint", "each"] = "joint"


class QuantileConfig(Part):
    rule: Literal["quantile"]
    fraction: AboveZeroToOne
    otherwise: Literal["joint", "rest"] = "joint"


class MaxShareConfig(Part):
    rule: Literal["max_share"]
    share: AboveZeroToOne


class BandConfig(Part):
    rule: Literal["band"]
    lower: Number = Field(description="in the unit of the score")
    upper: Number = Field(description="in the unit of the score")
    otherwise: Literal["joint", "rest"] = "joint"

    @model_validator(mode="after")
    def _ordered(self) -> "BandConfig":
        for position in positions(self.lower, self.upper):
            lower, upper = value_at(self.lower, position), value_at(self.upper, position)
            if lower >= upper:
                raise ValueError(f"`lower` must be below `upper`, but {lower:g} is not below {upper:g}")
        return self


class CostConfig(Part):
    """A rule that computes costs from several scoring passes."""

    within: Within = Field(default="all", description=_WITHIN)
    explore: ZeroToOne = Field(default=0.0, description="probability with which a sample is assigned at random instead")


class LearningProgressConfig(CostConfig):
    """Samples train the modality in which their loss falls most, compared with how much it varies."""

    rule: Literal["learning_progress"]
    passes: int = Field(default=5, ge=2, le=100, description="scoring passes that are compared")
    decay: float = Field(default=0.5, ge=0, lt=1, description="of the moving average over scoring passes")
    explore: ZeroToOne = Field(default=0.3, description="probability with which a sample is assigned at random instead")


class CartographyConfig(CostConfig):
    """Samples train the modality in which their probability of the true class varies most."""

    rule: Literal["cartography"]
    passes: int = Field(default=5, ge=2, le=100, description="scoring passes whose standard deviation is taken")
    penalty: NotNegative = Field(
        default=0.5, description="cost of a sample that stays below chance and varies less than `still`"
    )
    still: Deviation = Field(default=0.1, description="standard deviation below which a sample hardly varies")


class CoalitionGainConfig(CostConfig):
    """Samples train the modality that corrects the fused head most where the other modalities alone are wrong."""

    rule: Literal["coalition_gain"]
    tau: NotNegative = Field(
        default=0.1, description="weight of the probabilities that the other modalities alone give; decides ties"
    )


class ReducibleLossConfig(CostConfig):
    """Samples train the modality in which their loss is furthest above that of a model that did not train on them."""

    rule: Literal["reducible_loss"]
    reference_epochs: int = Field(
        default=10,
        ge=1,
        description="epochs for which these models, one for each half of the training split, are trained first; "
        "the best epoch is used",
    )


CostRuleConfig = LearningProgressConfig | CartographyConfig | CoalitionGainConfig | ReducibleLossConfig

FilterConfig = Annotated[
    ArgminConfig
    | InvertedConfig
    | RandomConfig
    | PermutedConfig
    | RotationConfig
    | ReplayConfig
    | TemperedConfig
    | MarginConfig
    | QuantileConfig
    | MaxShareConfig
    | BandConfig
    | CostRuleConfig,
    Field(discriminator="rule"),
    kind_or("rule", "argmin"),
]


class SharePart(Part):
    """The options of a share rule.

    reads_control: it reads the control samples, which are held out from the training split.
    follows_drops: it follows only how much a loss fell since the assignment before.
    """

    reads_control: ClassVar[bool] = False
    follows_drops: ClassVar[bool] = False


class FixedShareConfig(SharePart):
    """The fraction of the samples that is assigned to each modality; the fractions sum to 1.

    `share: {audio: 0.2, video: 0.8}` is short for `{kind: fixed, parts: {audio: 0.2, video: 0.8}}`.
    """

    kind: Literal["fixed"]
    parts: dict[Modality, ShareOrRest] = Field(description="modality -> its fraction; one may be `rest`")

    @model_validator(mode="after")
    def _sums_to_one(self) -> "FixedShareConfig":
        values = [part for part in self.parts.values() if part != "rest"]
        rests = len(self.parts) - len(values)
        if rests > 1:
            raise ValueError("only one of its parts may be `rest`")
        for position in positions(*values):
            total = sum(value_at(part, position) for part in values)
            at = "" if len(positions(*values)) == 1 else f" at position {position:g} of the schedules"
            if rests and total > 1 + 1e-6:
                raise ValueError(f"its parts must leave at least 0 for `rest`, but sum to {total:g}{at}")
            if not rests and abs(total - 1) > 1e-6:
                raise ValueError(f"its parts must sum to 1, but sum to {total:g}{at}")
        return self

    def at(self, position: float) -> dict[str, float]:
        """Modality -> its fraction, at a position of the schedules (`config/schedule.py`)."""
        found = {m: value_at(part, position) for m, part in self.parts.items() if part != "rest"}
        return {m: found[m] if m in found else max(0.0, 1.0 - sum(found.values())) for m in self.parts}


class ProgressShareConfig(SharePart):
    """Fractions that follow each modality's learning progress."""

    follows_drops = True

    kind: Literal["progress"]
    rate: float = Field(default=0.5, gt=0, le=5)
    lowest: float = Field(default=0.2, ge=0, lt=0.5)


_Rate = Annotated[float, Field(gt=0, le=5, description="how far the shares move at each assignment")]
_Lowest = Annotated[
    float | None, Field(ge=0, lt=0.5, description="lowest share of a modality; default: 0.4 / number of modalities")
]


class CalibratedProgressShareConfig(SharePart):
    """Fractions that follow learning progress and the exponents of the calibrated late product."""

    reads_control = True

    kind: Literal["calibrated_progress"]
    rate: _Rate = 0.5
    calibration: float = Field(
        default=0.5, ge=0, le=5, description="how far the exponents move the shares; 0: not at all"
    )
    lowest: _Lowest = None


class HeldOutProgressShareConfig(SharePart):
    """Fractions that follow each modality's learning progress on the control split."""

    reads_control = True
    follows_drops = True

    kind: Literal["held_out_progress"]
    rate: _Rate = 0.5
    lowest: _Lowest = None


class ArgminShareConfig(SharePart):
    """The fractions that `argmin` would give; with `filter: {rule: random}`, only its choice of samples is missing."""

    kind: Literal["by_score"]


class BlockGainShareConfig(SharePart):
    """Fractions that follow how much each modality's block of batches lowers the fused loss on the control split."""

    reads_control = True
    follows_drops = True

    kind: Literal["block_gain"]
    rate: _Rate = 0.5
    lowest: _Lowest = None


def _fixed(value: Any) -> Any:
    """`{audio: 0.2, video: 0.8}` is a fixed share."""
    if not isinstance(value, Mapping) or "kind" in value or value.keys() & _OPTIONS:
        return value
    return {"kind": "fixed", "parts": dict(value)}


_Shares = (
    FixedShareConfig
    | ProgressShareConfig
    | CalibratedProgressShareConfig
    | HeldOutProgressShareConfig
    | ArgminShareConfig
    | BlockGainShareConfig
)
_OPTIONS = {key for each in get_args(_Shares) for key in each.model_fields}  # no modality has such a name
ShareConfig = Annotated[_Shares, Field(discriminator="kind"), BeforeValidator(_fixed)]

READING_CONTROL = tuple(
    get_args(share.model_fields["kind"].annotation)[0] for share in get_args(_Shares) if share.reads_control
)
"""The kinds of shares that read the control split."""


def shares_reading_control(content: Any) -> list[str]:
    """The shares in a part of a configuration, which may be invalid, that read the control split while training."""
    found: list[str] = []
    if isinstance(content, Mapping):
        share = content.get("share")
        if isinstance(share, Mapping) and share.get("kind") in READING_CONTROL:
            found.append(f"`share: {{kind: {share['kind']}}}`")
    if isinstance(content, Mapping | list | tuple):
        for inner in content.values() if isinstance(content, Mapping) else content:
            found += [name for name in shares_reading_control(inner) if name not in found]
    return found
