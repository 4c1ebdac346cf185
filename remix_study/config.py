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
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, model_validator

from remix_study.credentials import holds_password
from remix_study.errors import ConfigError
from remix_study.mistakes import ImpossibleError, Mistake, examine, meant, parse, refuse
from remix_study.written import Written, read

STORAGE = "REMIX_STUDY_STORAGE"  # of the environment: where trials are kept, for studies that do not say it


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


class VectorEncoderConfig(Part):
    """One hidden layer; for features that are one vector per clip."""

    name: Literal["vector"]
    hidden: int = Field(default=256, ge=1)
    width: int = Field(default=128, ge=1, description="of what it gives")


class SequenceEncoderConfig(Part):
    """A small Transformer encoder; for features that are a sequence of vectors."""

    name: Literal["sequence"]
    width: int = Field(default=64, ge=4, multiple_of=4, description="of each step, and of what it gives")
    layers: int = Field(default=2, ge=1)


EncoderConfig = Annotated[
    TinyEncoderConfig | ResNet18Config | VectorEncoderConfig | SequenceEncoderConfig,
    Field(discriminator="name"),
    _kind("name", "tiny"),
]


class ModelConfig(Part):
    """One kind of encoder for all modalities, or one for each; features that it does not fit get the kind that does."""

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


class AugmentConfig(Part):
    """What training does to a sample before each look at it; evaluation and scoring see it as it is stored."""

    crop: bool = Field(default=False, description="RandomResizedCrop of every video frame by itself; not of flow")
    flip: bool = Field(default=False, description="left and right, of every frame by itself")
    frames: Literal["middle", "random"] = Field(
        default="middle", description="random: one of each segment's candidates (presets such as 3x224r)"
    )
    time_mask: int = Field(default=0, ge=0, description="greatest width, frames of the spectrogram (SpecAugment)")
    frequency_mask: int = Field(default=0, ge=0, description="greatest width, bands of the spectrogram (SpecAugment)")
    shift: float = Field(default=0.0, ge=0, le=1, description="of spectrograms along time, part of their length")


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


def _no_password(helps: str) -> AfterValidator:
    """A configuration is copied wherever its runs are: to their folders, to MLflow, into the report."""

    def check(value: str | None) -> str | None:
        if value is not None and holds_password(value):
            raise ValueError(f"must not hold a password, which would be copied wherever the run is. {helps}")
        return value

    return AfterValidator(check)


_TRACKING_SECRETS = _no_password(
    "For a server, set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD; for a database, write $DB_PASSWORD in "
    "its place, and set that."
)
_CORPUS_SECRETS = _no_password(
    "Give credentials as the service's own tools take them; for S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a "
    "profile."
)


class TrackingConfig(Part):
    uri: Annotated[str | None, BeforeValidator(_off), _TRACKING_SECRETS] = Field(
        default=None,
        description="default: MLFLOW_TRACKING_URI, else mlflow.db in the workspace; `off` tracks nothing; "
        "`$NAME` is taken from the environment",
    )
    experiment: str = "remix"
    model: bool = Field(default=True, description="log the best model")


class RunConfig(Part):
    """One run: a method, on a corpus, with a recipe and a seed."""

    corpus: Annotated[str, _CORPUS_SECRETS] = Field(description="a folder or URL made by `remix-study prepare`")
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
    augment: AugmentConfig = AugmentConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    tracking: TrackingConfig = TrackingConfig()

    @property
    def smallest(self) -> int:
        return min(8, self.global_batch) if self.smallest_batch is None else self.smallest_batch

    @model_validator(mode="after")
    def _possible(self) -> "RunConfig":
        problems: list[tuple[str, str]] = []
        if self.global_batch % self.workers:
            fitting = [n for n in (self.global_batch // self.workers * self.workers,) if n] + [
                (self.global_batch // self.workers + 1) * self.workers
            ]
            said = (
                f"`global_batch` must be a multiple of the number of workers ({self.workers}), but is "
                f"{self.global_batch}; use {' or '.join(map(str, fitting))}, or change `workers`"
            )
            problems.append(("global_batch", said))
        if self.smallest > self.global_batch:
            said = f"`smallest_batch` must be at most `global_batch` ({self.global_batch}), but is {self.smallest}"
            problems.append(("smallest_batch", said))
        if self.smallest < self.workers:
            said = (
                f"`smallest_batch` must be at least `workers` ({self.workers}), so that no worker's part of a batch is "
                f"empty, but is {self.smallest}"
            )
            problems.append(("smallest_batch", said))
        if isinstance(self.method, RemixConfig) and self.method.warmup >= self.epochs:
            said = (
                f"`method.warmup` must be below `epochs` ({self.epochs}), or nothing is ever remixed, but is "
                f"{self.method.warmup}"
            )
            problems.append(("method.warmup", said))
        if isinstance(self.rate, CosineRateConfig) and self.rate.warmup >= self.epochs:
            said = (
                f"`rate.warmup` must be below `epochs` ({self.epochs}), or the full rate is never reached, but is "
                f"{self.rate.warmup}"
            )
            problems.append(("rate.warmup", said))
        if problems:
            raise ImpossibleError(problems)
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


# What a study settles itself, and why: no method sets it, and nobody searches it.
SETTLED: Mapping[str, str] = {
    "seed": "a study draws its seeds itself; see `seed`, `seeds_per_trial` and `replicates` of the study",
    "corpus": "trials on one corpus say nothing about another; run the study once for each",
    "tracking": "where runs are recorded changes nothing that they learn",
    "evaluation.test": "selection never sees the test split; replicates look at it, once",
}
# What a study is most often judged by; all are told in docs/metrics.md.
OBJECTIVES = (
    "best/val_accuracy", "best/val_macro_f1", "best/val_cross_entropy", "best/val_accuracy_late_sum",
    "best/val_accuracy_uni/audio", "best/val_accuracy_uni/video", "best/balance_accuracy_ratio",
    "best/balance_imbalance", "last/val_accuracy", "time/total_train_s",
)  # fmt: skip


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

    @model_validator(mode="after")
    def _named(self) -> "ChoiceDimension":
        nameless = [each for each in self.of if isinstance(each, dict | list)]
        if nameless:
            example = yaml.safe_dump({"one": nameless[0]}, default_flow_style=True).strip()
            raise ValueError(f"`of` must name whole parts, such as {example}, because a trial records the name")
        return self


Dimension = Annotated[FloatDimension | IntDimension | ChoiceDimension, Field(discriminator="kind")]


class MethodSpace(Part):
    """One contender: what it sets in the base configuration, and what is searched for it."""

    set: dict[str, Any] = Field(default_factory=dict)
    space: dict[str, Dimension] = Field(default_factory=dict)
    first: list[dict[str, Any]] = Field(default_factory=list, description="known-good points, tried first")
    ceiling_of: str | None = Field(default=None, description="the modality whose sufficiency this method bounds")
    control_of: str | None = Field(default=None, description="what the reference has and this control lacks, in words")


class Objective(Part):
    """What a trial is judged by: a number of the run's summary, on validation."""

    metric: str = "best/val_accuracy"
    direction: Literal["maximize", "minimize"] = "maximize"


def _objectives(value: Any) -> Any:
    """`best/val_accuracy`, one objective, or a list of either."""
    return [{"metric": each} if isinstance(each, str) else each for each in _as_list(value)]


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


class NoPrunerConfig(Part):
    """Every trial runs to its last epoch."""

    name: Literal["none"] = "none"


class EarlyEnd(Part):
    """`metric` is judged by its best value so far, which is what the best epoch's objective will be."""

    metric: str = Field(default="val/accuracy", description="of every epoch; higher is better")
    grace: int = Field(default=4, ge=1, description="epochs that every trial gets; more than Remix's warm-up")


class AshaConfig(EarlyEnd):
    """Asynchronous successive halving: at grace, grace * reduction, ... epochs only the best 1 / reduction go on."""

    name: Literal["asha"]
    reduction: int = Field(default=3, ge=2)


class MedianConfig(EarlyEnd):
    """A trial ends where it is below the median of the others at the same epoch."""

    name: Literal["median"]
    startup: int = Field(default=4, ge=1, description="trials that run to their end first")


class HyperbandConfig(EarlyEnd):
    """Successive halving with several graces at once."""

    name: Literal["hyperband"]
    reduction: int = Field(default=3, ge=2)


PrunerConfig = Annotated[
    NoPrunerConfig | AshaConfig | MedianConfig | HyperbandConfig, Field(discriminator="name"), _kind("name", "none")
]


def _pruner(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class BudgetConfig(Part):
    """What a study may use, over all its starts; `trials` says how many trials that is at most.

    When it is nearly used up no new trial begins, so that the replicates still fit.
    """

    hours: float | None = Field(default=None, gt=0, description="wall-clock, while somebody works on the study")
    cpu_hours: float | None = Field(default=None, gt=0)
    gpu_hours: float | None = Field(default=None, gt=0)


class ResourcesConfig(Part):
    """Of each worker of a run (`base.workers` says how many a run has)."""

    cpus: float = Field(default=1, gt=0, le=1024)
    gpus: float | None = Field(
        default=None, ge=0, le=64, description="0.25: four runs share a GPU; default: one where there are any"
    )


class StudyConfig(Part):
    """A question, its contenders, and the same budget for each of them."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    question: str
    base: dict[str, Any]
    space: dict[str, Dimension] = Field(default_factory=dict, description="searched for every method")
    methods: dict[str, MethodSpace] = Field(min_length=1)
    reference: str = Field(description="the method that the others are compared with, seed by seed")
    objective: Annotated[tuple[Objective, ...], BeforeValidator(_objectives), Field(min_length=1)] = (Objective(),)
    tolerance: float = Field(
        default=0.0,
        ge=0,
        description="of several objectives: how far below the best of the first a point may be to win by the second",
    )
    sampler: Literal["tpe", "gp", "cmaes", "nsga2", "random", "grid"] = "tpe"
    pruner: Annotated[PrunerConfig, BeforeValidator(_pruner)] = NoPrunerConfig()
    trials: int = Field(ge=1, description="per method")
    seeds_per_trial: int = Field(default=1, ge=1, description="a trial's value is the mean over so many seeds")
    replicates: int = Field(ge=1, description="seeds of the final comparison")
    budget: BudgetConfig = BudgetConfig()
    concurrency: int | None = Field(default=None, ge=1, description="runs at once; default: one per CPU core")
    resources: ResourcesConfig = ResourcesConfig()
    storage: str | None = Field(
        default=None,
        description="of the trials: default a file of the study; `journal` for a shared disk; or a database's URL; "
        f"where it is not said, ${STORAGE}",
    )
    seed: int = Field(default=0, ge=0)

    _written: Written = PrivateAttr(default_factory=Written)

    @model_validator(mode="after")
    def _possible(self) -> "StudyConfig":
        problems: list[tuple[str, str]] = []
        if self.reference not in self.methods:
            near = meant(self.reference, self.methods)
            said = f"`reference` must be one of {', '.join(self.methods)}, but is {self.reference}"
            problems.append(("reference", said + (f"; did you mean `{near}`?" if near else "")))
        several = len(self.objective) > 1
        if several and self.sampler == "cmaes":
            said = "`sampler: cmaes` needs one objective, but there are several; use tpe, gp or nsga2"
            problems.append(("sampler", said))
        if several and not isinstance(self.pruner, NoPrunerConfig):
            said = "`pruner` needs one objective, but there are several; leave it out, or search one of them"
            problems.append(("pruner", said))
        if self.tolerance and not several:
            problems.append(("tolerance", "`tolerance` needs several objectives, but there is one; leave it out"))
        if problems:
            raise ImpossibleError(problems)
        return self

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the objectives."""
        return tuple(objective.metric for objective in self.objective)

    def objectives_of(self, method: str) -> tuple[Objective, ...]:
        """What a method's trials are judged by: a unimodal ceiling has no balance, and is judged by the first alone."""
        return self.objective[:1] if self.methods[method].ceiling_of is not None else self.objective

    @property
    def written(self) -> Written:
        """The file that it was loaded from, with the line of each key; without lines where there was none."""
        return self._written if self._written.name else Written(f"the study `{self.name}`", self.model_dump())


# --- from YAML -------------------------------------------------------------------------------------------------------


def load_run(path: Path, changes: Sequence[str] = ()) -> RunConfig:
    """A run from a YAML file, with `a.b=value` changes applied to it.

    Raises:
        ConfigError: with all mistakes at once, each with its line.
    """
    written = read(path)
    for change in changes:
        key, found, value = change.partition("=")
        if not found:
            raise ConfigError(
                f"`--set` must look like a.b=value, but is {change!r}. For example: --set method.warmup=3"
            )
        try:
            put(written.content, key.strip(), yaml.safe_load(value))
        except yaml.YAMLError:
            raise ConfigError(f"the value of `--set {key}` must be YAML, but is {value!r}.") from None
        written = written.changed(tuple(key.strip().split(".")))
    return parse(RunConfig, written)


def parse_run(content: Mapping[str, Any], source: str) -> RunConfig:
    """
    Raises:
        ConfigError: with all mistakes at once; `source` is named first.
    """
    return parse(RunConfig, Written(source, dict(content)))


def load_study(path: Path) -> StudyConfig:
    """A study from a YAML file. What its methods make of it is checked where it is run (study/search_space.py).

    Raises:
        ConfigError: with all mistakes at once, each with its line.
    """
    written = read(path)
    study, mistakes = examine_study(written)
    if study is None or mistakes:
        refuse(written, mistakes)
    return study


def examine_study(written: Written) -> tuple[StudyConfig | None, list[Mistake]]:
    """A study, where what was written has the shape of one, and every mistake."""
    study, mistakes = examine(StudyConfig, written)
    if study is not None:
        study._written = written
    return study, mistakes


def put(content: dict[str, Any], dotted: str, value: Any) -> None:
    """Set `a.b.c` in nested dictionaries; a value that is itself a dictionary replaces what was there."""
    *parents, last = dotted.split(".")
    for parent in parents:
        inner = content.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"`{dotted}` cannot be set, because `{parent}` is {inner!r}, not a group of keys.")
        content = inner
    content[last] = value
