"""The only shape of YAML: RunConfig (one run) and StudyConfig (a question), strict at the door

Unknown keys are mistakes, and all mistakes are reported at once with their paths and, where there is one, the key that
was probably meant. What only the corpus can tell (is a threshold in the score's range?) is checked in `assemble.py`.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from remix_study.errors import ConfigError
from remix_study.mistakes import parse


class Part(BaseModel):
    """A part of a configuration: unchangeable, and without room for misspelt keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _kind(tag: str, default: str) -> BeforeValidator:
    """A part without its tag is of the default kind: `optimizer: {learning_rate: 0.01}` is Adam's."""

    def fill(value: Any) -> Any:
        return {tag: default, **value} if isinstance(value, dict) and tag not in value else value

    return BeforeValidator(fill)


# --- model -----------------------------------------------------------------------------------------------------------


class TinyEncoderConfig(Part):
    """Four strided convolutions; for small spectrograms and frames."""

    name: Literal["tiny"] = "tiny"


class ResNet18Config(Part):
    """ResNet-18 from scratch; 64 channels in the first stage is the published width."""

    name: Literal["resnet18"]
    width: int = Field(default=64, ge=1)


EncoderConfig = Annotated[TinyEncoderConfig | ResNet18Config, Field(discriminator="name"), _kind("name", "tiny")]


class ModelConfig(Part):
    """One kind of encoder for all modalities, or one for each."""

    encoder: EncoderConfig = TinyEncoderConfig()
    encoders: dict[str, EncoderConfig] = Field(default_factory=dict, description="modality -> another encoder")
    fusion: Literal["concat", "sum", "decision", "film", "gated"] = "concat"


# --- method ----------------------------------------------------------------------------------------------------------


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
    temperature: float = Field(ge=0, description="score units; 0 is argmin, .inf is random")


class MarginConfig(Part):
    rule: Literal["margin"]
    threshold: float = Field(ge=0, description="score units")
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
    lower: float = Field(description="score units")
    upper: float = Field(description="score units")
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
    _kind("rule", "argmin"),
]


class FixedShareConfig(Part):
    """The part of the samples that each modality gets; parts sum to 1."""

    kind: Literal["fixed"]
    parts: dict[str, Annotated[float, Field(ge=0, le=1)]]

    @model_validator(mode="after")
    def _whole(self) -> "FixedShareConfig":
        total = sum(self.parts.values())
        if abs(total - 1) > 1e-6:
            raise ValueError(f"`parts` must sum to 1, but sum to {total:g}")
        return self


class ProgressShareConfig(Part):
    """Shares that follow each modality's learning progress."""

    kind: Literal["progress"]
    rate: float = Field(default=0.5, gt=0, le=5)
    lowest: float = Field(default=0.2, ge=0, lt=0.5)


ShareConfig = Annotated[FixedShareConfig | ProgressShareConfig, Field(discriminator="kind")]


class JointConfig(Part):
    """Cross-entropy of the fused head only."""

    name: Literal["joint"]


class JointUnimodalConfig(Part):
    """Joint training with unimodal losses beside it: L = CE(z) + weight * sum_m CE(h_m)."""

    name: Literal["joint_unimodal"]
    weight: float = Field(default=1.0, ge=0)


class UnimodalConfig(Part):
    """One modality alone: the ceiling that sufficiency is measured against."""

    name: Literal["unimodal"]
    modality: str


class RemixConfig(Part):
    """Data Remixing; the defaults are the released choices, but for what `masking` and `smallest_batch` say."""

    name: Literal["remix"] = "remix"
    warmup: int = Field(default=10, ge=0, description="epochs of joint training first")
    score: Literal["kl", "kl_normalised", "cross_entropy", "true_class"] = "kl"
    filter: FilterConfig = ArgminConfig()
    share: ShareConfig | None = None
    order: Literal["blocks", "alternate", "shuffled", "proportional", "mixed"] = "blocks"
    training_order: tuple[str, ...] | None = Field(default=None, description="default: video first, as released")
    joint_share: float = Field(default=0.0, ge=0, lt=1)
    rescore_every: int = Field(default=1, ge=1, description="epochs")
    warmup_weight: float = Field(default=0.5, ge=0, description="alpha = beta: unimodal losses of multimodal samples")
    weight: float = Field(default=1.0, ge=0, description="gamma: the unimodal loss of a unimodal batch")


MethodConfig = Annotated[JointConfig | JointUnimodalConfig | UnimodalConfig | RemixConfig, Field(discriminator="name")]


# --- training --------------------------------------------------------------------------------------------------------


class SGDConfig(Part):
    name: Literal["sgd"]
    learning_rate: float = Field(gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=1e-4, ge=0)


class AdamConfig(Part):
    """Weight decay is coupled (L2 in the gradient), as in the released code."""

    name: Literal["adam"] = "adam"
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)


class AdamWConfig(Part):
    name: Literal["adamw"]
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(default=1e-2, ge=0)


OptimizerConfig = Annotated[SGDConfig | AdamConfig | AdamWConfig, Field(discriminator="name"), _kind("name", "adam")]


class ConstantRateConfig(Part):
    name: Literal["constant"]


class StepRateConfig(Part):
    """Times `factor` after every `every` of the training (a fraction of the epochs)."""

    name: Literal["step"] = "step"
    every: float = Field(default=0.67, gt=0, le=1)
    factor: float = Field(default=0.1, gt=0, le=1)


class CosineRateConfig(Part):
    """Half a cosine from the full rate to `final` of it, after `warmup` epochs of linear rise."""

    name: Literal["cosine"]
    warmup: int = Field(default=0, ge=0)
    final: float = Field(default=0.0, ge=0, le=1)


RateConfig = Annotated[
    ConstantRateConfig | StepRateConfig | CosineRateConfig, Field(discriminator="name"), _kind("name", "step")
]


class EvaluationConfig(Part):
    batch: int = Field(default=256, ge=1)
    test: bool = Field(default=False, description="evaluate the test split, once, after the last epoch")
    probe: bool = Field(default=True, description="linear probe of every encoder after the last epoch")
    clash_every: int = Field(default=0, ge=0, description="steps between gradient-conflict measurements; 0: never")
    ceilings: Literal["none", "train"] | dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(
        default="none", description="`train` also trains each modality alone; or accuracies that are known already"
    )


def _off(value: Any) -> Any:
    return "off" if value is False else value  # YAML reads a bare `off` as false


class TrackingConfig(Part):
    uri: Annotated[str | None, BeforeValidator(_off)] = Field(
        default=None, description="default: mlflow.db in the workspace; `off` tracks nothing"
    )
    experiment: str = "remix"
    model: bool = Field(default=True, description="log the best model")


class RunConfig(Part):
    """One run: a method, on a corpus, with a recipe and a seed."""

    corpus: str = Field(description="a folder made by `remix-study prepare`")
    method: MethodConfig
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = AdamConfig()
    rate: RateConfig = StepRateConfig()
    epochs: int = Field(default=60, ge=1)
    global_batch: int = Field(default=64, ge=1)
    incomplete: Literal["keep", "drop", "fill"] = "keep"
    smallest_batch: int | None = Field(default=None, ge=1, description="default: the lesser of 8 and the global batch")
    masking: Literal["skip_encoder", "zero_feature"] = "skip_encoder"
    clip_norm: float | None = Field(default=None, gt=0)
    precision: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool = True
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int = Field(default=1, ge=1)
    seed: int = Field(default=0, ge=0)
    evaluation: EvaluationConfig = EvaluationConfig()
    tracking: TrackingConfig = TrackingConfig()

    @property
    def smallest(self) -> int:
        return min(8, self.global_batch) if self.smallest_batch is None else self.smallest_batch

    @model_validator(mode="after")
    def _possible(self) -> "RunConfig":
        problems = []
        if self.global_batch % self.workers:
            fitting = [n for n in (self.global_batch // self.workers * self.workers,) if n] + [
                (self.global_batch // self.workers + 1) * self.workers
            ]
            problems.append(
                f"`global_batch` must be a multiple of the number of workers ({self.workers}), but is "
                f"{self.global_batch}; use {' or '.join(map(str, fitting))}, or change `workers`"
            )
        if self.smallest > self.global_batch:
            problems.append(
                f"`smallest_batch` must be at most `global_batch` ({self.global_batch}), but is {self.smallest}"
            )
        if self.smallest < self.workers:
            problems.append(
                f"`smallest_batch` must be at least `workers` ({self.workers}), so that no worker's part of a batch is "
                f"empty, but is {self.smallest}"
            )
        if isinstance(self.method, RemixConfig) and self.method.warmup >= self.epochs:
            problems.append(
                f"`method.warmup` must be below `epochs` ({self.epochs}), or nothing is ever remixed, but is "
                f"{self.method.warmup}"
            )
        if isinstance(self.rate, CosineRateConfig) and self.rate.warmup >= self.epochs:
            problems.append(
                f"`rate.warmup` must be below `epochs` ({self.epochs}), or the full rate is never reached, but is "
                f"{self.rate.warmup}"
            )
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def digest(self, data: str) -> str:
        """What makes two runs the same run: the configuration and the digest of its clip store.

        Not where the run is tracked, nor under which path its corpus lies: another corpus there is another run.
        """
        content = self.model_dump(mode="json", exclude={"tracking", "corpus"})
        return hashlib.sha256(f"{data} {json.dumps(content, sort_keys=True)}".encode()).hexdigest()[:12]

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


# --- study -----------------------------------------------------------------------------------------------------------


class Searched(Part):
    """`when`: other dimensions and the values (a list: any of them) under which this one is searched at all."""

    when: dict[str, Any] = Field(default_factory=dict)


class FloatDimension(Searched):
    kind: Literal["float"]
    low: float = Field(allow_inf_nan=False)
    high: float = Field(allow_inf_nan=False)
    log: bool = False
    step: float | None = Field(default=None, gt=0, description="distance of neighbouring values; not on a log scale")

    @model_validator(mode="after")
    def _ordered(self) -> "FloatDimension":
        if self.low > self.high or (self.log and self.low <= 0):
            raise ValueError(f"`low` must not exceed `high`, nor be 0 on a log scale; they are {self.low}, {self.high}")
        if self.log and self.step is not None:
            raise ValueError("`step` must be left out on a log scale; list the values as a choice instead")
        return self


class IntDimension(Searched):
    kind: Literal["int"]
    low: int
    high: int
    log: bool = False
    step: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> "IntDimension":
        if self.low > self.high:
            raise ValueError(f"`low` must not exceed `high`, but {self.low} > {self.high}")
        if self.log and (self.low < 1 or self.step != 1):
            raise ValueError("`low` must be at least 1, and `step` left out, on a log scale")
        return self


class ChoiceDimension(Searched):
    """`of`: values, each a number, a word, or a whole part of the configuration; names of parts are their labels."""

    kind: Literal["choice"]
    of: list[Any] | dict[str, Any] = Field(min_length=1)


Dimension = Annotated[FloatDimension | IntDimension | ChoiceDimension, Field(discriminator="kind")]


class MethodSpace(Part):
    """One contender: what it sets in the base configuration, and what is searched for it."""

    set: dict[str, Any] = Field(default_factory=dict)
    space: dict[str, Dimension] = Field(default_factory=dict)
    first: list[dict[str, Any]] = Field(default_factory=list, description="known-good points, tried first")
    ceiling_of: str | None = Field(default=None, description="the modality whose sufficiency this method bounds")
    control_of: str | None = Field(default=None, description="what the reference has and this control lacks, in words")


class StudyConfig(Part):
    """A question, its contenders, and the same budget for each of them."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    question: str
    base: dict[str, Any]
    space: dict[str, Dimension] = Field(default_factory=dict, description="searched for every method")
    methods: dict[str, MethodSpace] = Field(min_length=1)
    reference: str = Field(description="the method that the others are compared with, seed by seed")
    objective: str = "best/val_accuracy"
    sampler: Literal["tpe", "gp", "random", "grid"] = "tpe"
    trials: int = Field(ge=1, description="per method")
    replicates: int = Field(ge=1, description="seeds of the final comparison")
    concurrency: int | None = Field(default=None, ge=1, description="trials at once; default: one per CPU core")
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _known_reference(self) -> "StudyConfig":
        if self.reference not in self.methods:
            raise ValueError(f"`reference` must be one of {', '.join(self.methods)}, but is {self.reference}")
        return self


# --- from YAML -------------------------------------------------------------------------------------------------------


def load_run(path: Path, changes: Sequence[str] = ()) -> RunConfig:
    """A run from a YAML file, with `a.b=value` changes applied to it.

    Raises:
        ConfigError: with all mistakes at once.
    """
    content = read_yaml(path)
    for change in changes:
        key, found, value = change.partition("=")
        if not found:
            raise ConfigError(
                f"`--set` must look like a.b=value, but is {change!r}. For example: --set method.warmup=3"
            )
        try:
            put(content, key.strip(), yaml.safe_load(value))
        except yaml.YAMLError:
            raise ConfigError(f"the value of `--set {key}` must be YAML, but is {value!r}.") from None
    return parse_run(content, str(path))


def parse_run(content: Mapping[str, Any], source: str) -> RunConfig:
    return parse(RunConfig, content, source)


def load_study(path: Path) -> StudyConfig:
    """A study from a YAML file.

    Raises:
        ConfigError: with all mistakes at once.
    """
    return parse(StudyConfig, read_yaml(path), str(path))


def read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"the configuration {path} must be a readable file, but: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} must be YAML, but: {' '.join(str(error).split())}.") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold `key: value` lines, but holds {type(content).__name__}.")
    return content


def put(content: dict[str, Any], dotted: str, value: Any) -> None:
    """Set `a.b.c` in nested dictionaries; a value that is itself a dictionary replaces what was there."""
    *parents, last = dotted.split(".")
    for parent in parents:
        inner = content.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"`{dotted}` cannot be set, because `{parent}` is {inner!r}, not a group of keys.")
        content = inner
    content[last] = value
