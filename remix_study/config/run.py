"""RunConfig: the configuration of one run

Unknown keys are errors. What depends on the corpus, such as whether a threshold lies in the range of the scores, is
checked in `fit.py`. To add an encoder, a method or another variant, add its class and one line in the union below it
(`EncoderConfig`, `MethodConfig` ...). Filter rules are in `assignment.py`, added methods in `balancing.py`.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from remix_study.config.added_methods import AddedConfig
from remix_study.config.assignment import (
    ArgminConfig,
    ArgminShareConfig,
    BlockGainShareConfig,
    CostConfig,
    FilterConfig,
    RandomConfig,
    ReducibleLossConfig,
    ReplayConfig,
    ShareConfig,
    shares_reading_control,
)
from remix_study.config.balancing import (
    CONTROL_FRACTION,
    Additions,
    AUGOptions,
    DGLOptions,
    MMCosineOptions,
    Options,
    WithKey,
    options_of,
    reading_control,
)
from remix_study.config.fusion import (
    INSIDE,
    PUBLISHED,
    SELECTING_FUSIONS,
    SPLITTING_FUSIONS,
    FusionConfig,
    MMTMConfig,
    PlainFusion,
)
from remix_study.config.identity import Introduced, identity
from remix_study.config.part import Modality, Part, kind_or
from remix_study.config.phases import PhaseConfig, PhasesKey, SMPConfig
from remix_study.config.problems import ContradictionError
from remix_study.config.schedule import BelowOne, EachNotNegative, ends_of
from remix_study.config.targets import AbstainConfig, targets_reading_control
from remix_study.config.yaml_source import dump
from remix_study.credentials import holds_password

# --- model -----------------------------------------------------------------------------------------------------------


class TinyEncoderConfig(Part):
    """Four strided convolutions, for small spectrograms and frames."""

    name: Literal["tiny"] = "tiny"


class ResNet18Config(Part):
    """ResNet-18 without pretrained weights; the published width is 64 channels in the first stage."""

    name: Literal["resnet18"]
    width: int = Field(default=64, ge=1)


class VectorEncoderConfig(Part):
    """One hidden layer, for features that are one vector per clip."""

    name: Literal["vector"]
    hidden: int = Field(default=256, ge=1)
    width: int = Field(default=128, ge=1, description="size of the output vector")


class SequenceEncoderConfig(Part):
    """A small Transformer encoder, for features that are a sequence of vectors."""

    name: Literal["sequence"]
    width: int = Field(
        default=64, ge=4, multiple_of=4, description="size of each step's vector and of the output vector"
    )
    layers: int = Field(default=2, ge=1)


EncoderConfig = Annotated[
    TinyEncoderConfig | ResNet18Config | VectorEncoderConfig | SequenceEncoderConfig,
    Field(discriminator="name"),
    kind_or("name", "tiny"),
]


class ModelConfig(Part):
    """One type of encoder for all modalities, or one per modality; replaced for features that it cannot encode."""

    encoder: EncoderConfig = TinyEncoderConfig()
    encoders: dict[Modality, EncoderConfig] = Field(
        default_factory=dict, description="modality -> its encoder, if not `encoder`"
    )
    fusion: FusionConfig = PlainFusion(name="concat")


# --- method ----------------------------------------------------------------------------------------------------------


class Extensible(Part):
    """A way of training, to which methods are added by `with`."""

    added: WithKey = Field(default=Additions(), alias="with", description="added methods, such as [ogm_ge]")


class JointConfig(Extensible):
    """Joint training with the cross-entropy of the fused head only."""

    name: Literal["joint"]


def each_of(weights: EachNotNegative) -> list[float]:
    """All weights that are given; of a schedule, both ends."""
    given = weights.values() if isinstance(weights, dict) else [weights]
    return [value for each in given for value in ends_of(each)]


class JointUnimodalConfig(Extensible):
    """Joint training with additional unimodal losses: L = CE(z) + sum_m weight_m CE(h_m)."""

    name: Literal["joint_unimodal"]
    weight: EachNotNegative = Field(default=1.0, description="a number, or one of each modality; or a schedule")


class UnimodalConfig(Part):
    """Training one modality alone: the ceiling that sufficiency is measured against."""

    name: Literal["unimodal"]
    modality: Modality


class RemixConfig(Extensible):
    """Data Remixing; the defaults are those of the released code, except `masking` and `smallest_batch` of the run."""

    name: Literal["remix"] = "remix"
    warmup: int = Field(default=10, ge=0, description="epochs of joint training before the first assignment")
    score: Literal["kl", "kl_normalised", "cross_entropy", "true_class"] = "kl"
    predictions: Annotated[Literal["heads", "dropout"], Introduced("heads")] = Field(
        default="heads",
        description="how a modality alone predicts: with its unimodal head, or with the fused head and all other "
        "modalities masked (dropout; there are no unimodal losses then)",
    )
    filter: FilterConfig = ArgminConfig()
    share: ShareConfig | None = None
    order: Literal["blocks", "alternate", "shuffled", "proportional", "mixed"] = "blocks"
    training_order: tuple[Modality, ...] | None = Field(
        default=None, description="default: video first, as in the released code"
    )
    accumulate: Annotated[bool, Introduced(False)] = Field(
        default=False,
        description="with `order: mixed`: update each encoder with the batches that `blocks` would give it",
    )
    joint_share: BelowOne = Field(
        default=0.0, description="fraction of the samples that train all modalities after the warm-up; or a schedule"
    )
    rescore_every: int = Field(default=1, ge=1, description="epochs")
    warmup_weight: EachNotNegative = Field(
        default=0.5,
        description="alpha and beta, the unimodal losses of multimodal samples: a number, or one of each modality; or "
        "a schedule",
    )
    weight: EachNotNegative = Field(
        default=1.0,
        description="gamma, the unimodal loss of a unimodal batch: a number, or one of each modality; or a schedule",
    )
    phases: Annotated[PhasesKey, Introduced(None)] = Field(
        default=None,
        description="phases after the warm-up, in their order; or a preset: `smp` (the weakest modality alone, then "
        "the next, then all), `paper` (none)",
    )


def problems_of_phases(method: RemixConfig) -> list[tuple[str, str]]:
    """Keys that phases leave without effect, and phases that need others: keys to change, and sentences."""
    problems: list[tuple[str, str]] = []
    if isinstance(method.phases, SMPConfig):
        if method.phases.order is None and method.warmup == 0:
            message = (
                "`method.phases: smp` ranks the modalities at the end of the warm-up, but `method.warmup` is 0; set "
                "`method.phases.order`, or a warm-up"
            )
            problems.append(("method.phases", message))
        used = dict.fromkeys(("filter", "share", "joint_share"), False)
    else:
        phases = method.phases or (PhaseConfig(),)
        assigning = [each for each in phases if not each.joint and len(each.only or ("", "")) > 1]
        used = {key: any(getattr(each, key) is None for each in assigning) for key in ("filter", "share")}
        if isinstance(method.filter, ReplayConfig):
            used = {}
            problems += [
                (f"method.phases.{number}.{key}", f"`{key}` of phase {number + 1} has no effect with `filter: "
                 f"{method.filter.rule}`, whose shares are those of another run; leave it out")
                for number, phase in enumerate(phases)
                for key in ("joint", "only", "filter", "share", "joint_share")
                if getattr(phase, key)
            ]  # fmt: skip
        problems += [
            (f"method.phases.{number}.filter", f"`filter` of phase {number + 1} must not be {phase.filter.rule}, which "
             "needs other runs or models; set it as `method.filter`, and other filters in the other phases")
            for number, phase in enumerate(phases)
            if isinstance(phase.filter, ReplayConfig | ReducibleLossConfig)
        ]  # fmt: skip
        used["joint_share"] = any(each.joint_share is None and each.only is None for each in assigning)
        shares = [("method.share", method.share)]
        shares += [(f"method.phases.{number}.share", phase.share) for number, phase in enumerate(phases)]
        problems += [
            (key, "`share: {kind: block_gain}` compares the blocks of all epochs, so that it must not be combined with "
             "`method.phases`; use held_out_progress")
            for key, share in shares
            if method.phases is not None and isinstance(share, BlockGainShareConfig)
        ]  # fmt: skip
        if method.predictions == "dropout":
            problems += [
                (f"method.phases.{number}.{key}", f"`{key}` of phase {number + 1} weighs unimodal losses, which "
                 "`predictions: dropout` does not have; leave it out")
                for number, phase in enumerate(phases)
                for key in ("warmup_weight", "weight")
                if getattr(phase, key) is not None
            ]  # fmt: skip
    for key, needed in used.items():
        if not needed and getattr(method, key) != RemixConfig.model_fields[key].default:
            message = f"`method.{key}` has no effect, because no phase of `method.phases` uses it; leave it out"
            problems.append((f"method.{key}", message))
    return problems


MethodConfig = Annotated[
    JointConfig | JointUnimodalConfig | UnimodalConfig | RemixConfig | AddedConfig, Field(discriminator="name")
]


def names_of(method: MethodConfig) -> tuple[str, ...]:
    """The name of a method and those of the methods that are added to it: `("remix", "ogm_ge")`."""
    return (method.name, *(method.added.names() if isinstance(method, Extensible) else ()))


def with_remix(name: str) -> Literal["every batch", "multimodal batches", "no"]:
    """The batches of Remix in which an added method acts, or `no` if it cannot be added to Remix."""
    try:
        RunConfig.model_validate({"corpus": "", "method": {"name": "remix", "with": [name]}})
    except ValueError:
        return "no"
    return "multimodal batches" if options_of(name).compares else "every batch"


def base_of(added: Iterable[str]) -> Literal["joint", "joint_unimodal"]:
    """The joint training that added methods need."""
    return "joint_unimodal" if any(options_of(name).on_unimodal_losses for name in added) else "joint"


def expanded(method: MethodConfig) -> JointConfig | JointUnimodalConfig | UnimodalConfig | RemixConfig:
    """A method as a way of training, with methods that are added to it: `ogm_ge` is `joint` with `ogm_ge`."""
    if not isinstance(method, AddedConfig):
        return method
    options = method.model_dump(exclude={"name"})
    if base_of([method.name]) == "joint_unimodal":
        return JointUnimodalConfig.model_validate({"name": "joint_unimodal", "with": {method.name: options}})
    return JointConfig.model_validate({"name": "joint", "with": {method.name: options}})


def trains_heads(method: MethodConfig) -> bool:
    """Whether a method trains unimodal heads."""
    return has_unimodal_losses(method) or shares_head(method)


def shares_head(method: MethodConfig) -> bool:
    """Whether all modalities have the same head, whatever the fusion of the model (MLA)."""
    return "mla" in names_of(method)


def has_unimodal_losses(method: MethodConfig) -> bool:
    """Whether a method has unimodal losses beside the fused one."""
    whole = expanded(method)
    return not isinstance(whole, JointConfig) and not (
        isinstance(whole, RemixConfig) and whole.predictions == "dropout"
    )


def has_heads_to_abstain(method: MethodConfig) -> bool:
    """Whether a method has a loss of each modality alone: of its unimodal head, or the encoders' own loss of DGL."""
    return has_unimodal_losses(method) or "dgl" in names_of(method)


def teachers_of(method: MethodConfig) -> Literal["train"] | dict[Modality, str] | None:
    """The teachers that a method is given: modality -> run folder, or `train`; None if it needs none."""
    whole = expanded(method)
    options = None if isinstance(whole, UnimodalConfig) else whole.added.umt
    return None if options is None else options.teachers


REPLAYED = "filter.run"
"""Names the run that a filter rule replays, beside the modalities of teachers, among the runs that a run needs"""


def replayed_of(method: MethodConfig) -> ReplayConfig | None:
    """The filter rule that replays the shares of another run; None if the method has another one."""
    return method.filter if isinstance(method, RemixConfig) and isinstance(method.filter, ReplayConfig) else None


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


OptimizerConfig = Annotated[SGDConfig | AdamConfig | AdamWConfig, Field(discriminator="name"), kind_or("name", "adam")]


class ConstantRateConfig(Part):
    name: Literal["constant"]


class StepRateConfig(Part):
    """Multiplied by `factor` after each fraction `every` of the epochs."""

    name: Literal["step"] = "step"
    every: float = Field(default=0.67, gt=0, le=1)
    factor: float = Field(default=0.1, gt=0, le=1)


class CosineRateConfig(Part):
    """Half a cosine from the full rate down to the fraction `final` of it, after `warmup` epochs of linear increase."""

    name: Literal["cosine"]
    warmup: int = Field(default=0, ge=0)
    final: float = Field(default=0.0, ge=0, le=1)


RateConfig = Annotated[
    ConstantRateConfig | StepRateConfig | CosineRateConfig, Field(discriminator="name"), kind_or("name", "step")
]


class LossConfig(Part):
    """The cross-entropy in all training losses of every method; evaluation and scores always use the plain one."""

    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    class_weights: Literal["none", "balanced"] = Field(
        default="none", description="balanced: N / (C n_c) for class c, from the training split"
    )


class AugmentConfig(Part):
    """Random transforms of training samples; evaluation and scoring use samples as they are stored."""

    crop: bool = Field(default=False, description="RandomResizedCrop of every video frame independently; not of flow")
    flip: bool = Field(default=False, description="horizontal flip of every frame independently")
    frames: Literal["middle", "random"] = Field(
        default="middle", description="random: one of each segment's candidates (presets such as 3x224r)"
    )
    time_mask: int = Field(default=0, ge=0, description="maximum width in frames of the spectrogram (SpecAugment)")
    frequency_mask: int = Field(default=0, ge=0, description="maximum width in bands of the spectrogram (SpecAugment)")
    shift: float = Field(
        default=0.0, ge=0, le=1, description="maximum shift of spectrograms along time, as a fraction of their length"
    )


class EvaluationConfig(Part):
    batch: int = Field(default=256, ge=1)
    select_by: Annotated[
        Literal["accuracy", "balanced_accuracy", "macro_f1", "cross_entropy"], Introduced("accuracy")
    ] = Field(default="accuracy", description="validation metric of the fused head that chooses the best epoch")
    select: Annotated[Literal["best", "last"], Introduced("best")] = Field(
        default="best",
        description="epoch whose weights the final evaluation uses: the best on validation, or the last. With few "
        "validation clips, the best epoch is a noisy choice.",
    )
    test: bool = Field(default=False, description="evaluate the held-out test set once, after the last epoch")
    probe: bool = Field(default=True, description="train a linear probe on every encoder after the last epoch")
    clash_every: int = Field(default=0, ge=0, description="steps between gradient-conflict measurements; 0: never")
    ceilings: Literal["none", "train"] | dict[Modality, Annotated[float, Field(ge=0, le=1)]] = Field(
        default="none", description="`train` also trains each modality alone; or known accuracies of the modalities"
    )


def _no_password(helps: str) -> AfterValidator:
    """Configurations are copied to run folders, to MLflow and into the report."""

    def check(value: str | None) -> str | None:
        if value is not None and holds_password(value):
            raise ValueError(
                f"must not hold a password, because configurations are copied to logs and reports. {helps}"
            )
        return value

    return AfterValidator(check)


_TRACKING_SECRETS = _no_password(
    "For a server, set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD. For a database, write $DB_PASSWORD "
    "instead, and set that variable."
)
_CORPUS_SECRETS = _no_password(
    "Set credentials as for the service's own tools; for S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile."
)


class TrackingConfig(Part):
    uri: Annotated[str | None, _TRACKING_SECRETS] = Field(
        default=None,
        description="default: MLFLOW_TRACKING_URI, else mlflow.db in the workspace; `off` disables tracking; "
        "`$NAME` is read from the environment",
    )
    experiment: str = Field(default="remix", min_length=1, max_length=500, description="any name that MLflow takes")
    model: bool = Field(default=True, description="log the best model")


_AS_ARGMIN = ("argmin", "permuted", "max_share", "margin")  # filter rules that assign as many samples as argmin


def _problems_of_share(method: RemixConfig) -> list[tuple[str, str]]:
    """The problems of a share with the filter and the order of batches, by key."""
    if isinstance(method.share, BlockGainShareConfig) and method.order != "blocks":
        message = (
            "`method.share: {kind: block_gain}` needs `order: blocks`, in which each modality has one block of batches "
            f"that can be judged, but `method.order` is {method.order}"
        )
        return [("method.order", message)]
    problems: dict[str, str] = {}
    phases = method.phases if isinstance(method.phases, tuple) else (PhaseConfig(),)
    for number, phase in enumerate(phases):
        share, filter_ = phase.share or method.share, phase.filter or method.filter
        rule = filter_.rule
        alone = phase.joint or (phase.only is not None and len(phase.only) == 1)
        if isinstance(share, ArgminShareConfig) and rule in _AS_ARGMIN and not alone:
            key = "method.share" if phase.share is None else f"method.phases.{number}.share"
            problems[key] = (
                f"`{key}: {{kind: by_score}}` has no effect with the filter `{rule}`, which gives each modality these "
                "shares anyway; use `filter: {rule: random}`, or leave the share out"
            )
        if isinstance(filter_, RandomConfig | CostConfig) and filter_.within == "class" and share is None and not alone:
            at = "method" if phase.filter is None else f"method.phases.{number}"
            problems[f"{at}.filter.within"] = (
                f"`{at}.filter.within: class` gives every class the shares of the whole, so it needs `{at}.share`, but "
                "there is none; set it, or use `within: all`"
            )
    return list(problems.items())


class RunConfig(Part):
    """One run: the training of a model with a method on a corpus."""

    corpus: Annotated[str, _CORPUS_SECRETS] = Field(description="a folder or URL created by `remix-study prepare`")
    method: MethodConfig
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = AdamConfig()
    rate: RateConfig = StepRateConfig()
    learning_rate_factor: Annotated[EachNotNegative, Introduced(1.0)] = Field(
        default=1.0,
        description="multiplies the learning rate that `rate` gives: of all parameters, or of the encoder of each "
        "modality; or a schedule",
    )
    loss: Annotated[LossConfig, Introduced({"label_smoothing": 0.0, "class_weights": "none"})] = LossConfig()
    targets: Annotated[AbstainConfig | None, Introduced(None)] = Field(
        default=None,
        description="let heads abstain on samples that are judged uninformative; default: every target is the label",
    )
    epochs: int = Field(default=60, ge=1)
    global_batch: int = Field(default=64, ge=1)
    micro_batch: Annotated[int | None, Introduced(None)] = Field(
        default=None, ge=1, description="samples of a worker that go through the model at once; default: all of a batch"
    )
    incomplete: Literal["keep", "drop", "fill"] = "keep"
    smallest_batch: int | None = Field(
        default=None, ge=1, description="default: 8, or the global batch if it is smaller"
    )
    masking: Literal["skip_encoder", "zero_feature", "zero_input", "mean_feature", "learned_token"] = Field(
        default="skip_encoder",
        description="what the fusion reads for a modality that a sample does not train: zeros (zero_feature runs the "
        "encoder first), the feature of an input of zeros, the mean feature, or a learned vector",
    )
    clip_norm: float | None = Field(default=None, gt=0)
    precision: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool = True
    deterministic: Annotated[bool, Introduced(False)] = Field(
        default=False, description="use only deterministic kernels on a GPU, which is slower"
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int = Field(default=1, ge=1)
    seed: int = Field(default=0, ge=0)
    control_fraction: Annotated[float | None, Introduced(None)] = Field(
        default=None, ge=0, le=0.5,
        description=f"part of the training split that is not trained on; default: {CONTROL_FRACTION} if a method of "
        "the run, or of its study, reads such data while it trains, else 0",
    )  # fmt: skip
    augment: AugmentConfig = AugmentConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    tracking: TrackingConfig = TrackingConfig()

    @property
    def smallest(self) -> int:
        """The smallest batch that is trained on."""
        return min(8, self.global_batch) if self.smallest_batch is None else self.smallest_batch

    @property
    def control(self) -> float:
        """The fraction of the training split that is its control split, in [0, 0.5]."""
        if self.control_fraction is not None:
            return self.control_fraction
        return CONTROL_FRACTION if self.reading_control else 0.0

    @property
    def reading_control(self) -> list[str]:
        """What of the run reads the control split while it trains: added methods, shares and targets."""
        shares = shares_reading_control(self.method.model_dump()) if isinstance(self.method, RemixConfig) else []
        targets = [] if self.targets is None else targets_reading_control({"targets": self.targets.model_dump()})
        return [*reading_control(names_of(self.method)), *shares, *targets]

    @property
    def replaces(self) -> bool:
        """Whether the fusion reads something else than zeros for a modality that a sample does not train."""
        return self.masking in ("zero_input", "mean_feature", "learned_token")

    @model_validator(mode="after")
    def _consistent(self) -> "RunConfig":
        problems: list[tuple[str, str]] = []
        reading = self.reading_control
        if reading and not self.control:
            message = (
                f"`control_fraction` must be above 0, because {' and '.join(reading)} "
                f"{'reads' if len(reading) == 1 else 'read'} the control split while training, but is 0"
            )
            problems.append(("control_fraction", message))
        if self.global_batch % self.workers:
            fitting = [n for n in (self.global_batch // self.workers * self.workers,) if n] + [
                (self.global_batch // self.workers + 1) * self.workers
            ]
            message = (
                f"`global_batch` must be a multiple of the number of workers ({self.workers}), but is "
                f"{self.global_batch}; use {' or '.join(map(str, fitting))}, or change `workers`"
            )
            problems.append(("global_batch", message))
        if self.smallest > self.global_batch:
            message = f"`smallest_batch` must be at most `global_batch` ({self.global_batch}), but is {self.smallest}"
            problems.append(("smallest_batch", message))
        if self.smallest < self.workers:
            message = (
                f"`smallest_batch` must be at least `workers` ({self.workers}), so that no worker's part of a batch is "
                f"empty, but is {self.smallest}"
            )
            problems.append(("smallest_batch", message))
        if isinstance(self.method, RemixConfig) and self.method.warmup >= self.epochs:
            message = (
                f"`method.warmup` must be below `epochs` ({self.epochs}), because samples are assigned only after it, "
                f"but is {self.method.warmup}"
            )
            problems.append(("method.warmup", message))
        if isinstance(self.method, RemixConfig) and (replayed := replayed_of(self.method)) is not None:
            for key in ("share", "joint_share"):
                if getattr(self.method, key) != RemixConfig.model_fields[key].default:
                    message = f"`method.{key}` has no effect with `filter: {replayed.rule}`, whose shares are those of "
                    problems.append((f"method.{key}", f"{message}another run; leave it out"))
        if isinstance(self.method, RemixConfig) and self.method.accumulate:
            if self.method.order != "mixed":
                message = (
                    f"`method.accumulate` needs `order: mixed`, but `method.order` is {self.method.order}, in which "
                    "batches are not mixed"
                )
                problems.append(("method.accumulate", message))
            if self.masking in ("zero_feature", "zero_input"):
                message = (
                    f"`method.accumulate` needs `masking: skip_encoder`, because with `{self.masking}` the optimizer "
                    "moves every encoder in every step"
                )
                problems.append(("method.accumulate", message))
        if isinstance(self.method, RemixConfig):
            problems += _problems_of_share(self.method)
        if isinstance(self.method, RemixConfig) and self.method.predictions == "dropout":
            if isinstance(self.method.filter, ReducibleLossConfig):
                message = (
                    "`method.filter.rule: reducible_loss` compares the losses of unimodal heads, which `predictions: "
                    "dropout` does not have; use `predictions: heads`"
                )
                problems.append(("method.filter.rule", message))
            fields = RemixConfig.model_fields
            for key in ("warmup_weight", "weight"):
                if getattr(self.method, key) != fields[key].default:
                    message = (
                        f"`method.{key}` weighs unimodal losses, which `predictions: dropout` does not have; leave it "
                        "out"
                    )
                    problems.append((f"method.{key}", message))
        greedy = isinstance(self.model.fusion, MMTMConfig) and self.model.fusion.greedy is not None
        if greedy and isinstance(self.method, RemixConfig) and self.method.accumulate:
            message = (
                "`model.fusion.greedy` needs the gradient of a whole step, which `method.accumulate` does not compute; "
                "leave one of them out"
            )
            problems.append(("model.fusion.greedy", message))
        fusion = self.model.fusion.name
        if self.replaces and fusion in SELECTING_FUSIONS and not isinstance(self.method, UnimodalConfig):
            message = (
                f"`masking: {self.masking}` has no effect with `model.fusion: {fusion}`, which leaves inactive "
                "modalities out; use another fusion, or `masking: skip_encoder`"
            )
            problems.append(("masking", message))
        published = fusion in PUBLISHED and not self.replaces
        if isinstance(self.method, RemixConfig) and published:
            headless = self.method.predictions == "dropout"
            remedy = "`method.predictions: heads`" if headless else "`method.weight` above 0"
            phases = self.method.phases if isinstance(self.method.phases, tuple) else ()
            weights = [self.method.weight, *(phase.weight for phase in phases if phase.weight is not None)]
            if headless or any(0 in each_of(each) for each in weights):
                message = (
                    f"`model.fusion: {fusion}` needs unimodal losses with Remix, because the fused loss of a unimodal "
                    f"batch may reach its encoder by a bias only; use {remedy}, `masking: mean_feature` or "
                    f"`model.fusion: {fusion.removesuffix('_published')}`"
                )
                problems.append(("method.predictions" if headless else "method.weight", message))
        problems += self._problems_of_additions()
        if self.targets is not None and not has_heads_to_abstain(self.method):
            lacks = "predictions: dropout" if isinstance(self.method, RemixConfig) else self.method.name
            message = (
                f"`targets` needs unimodal losses, which `{lacks}` does not have; use joint_unimodal, or remix with "
                "`predictions: heads`"
            )
            problems.append(("targets", message))
        problems += problems_of_phases(self.method) if isinstance(self.method, RemixConfig) else []
        if isinstance(self.rate, CosineRateConfig) and self.rate.warmup >= self.epochs:
            message = (
                f"`rate.warmup` must be below `epochs` ({self.epochs}), because the full rate is reached after it, "
                f"but is {self.rate.warmup}"
            )
            problems.append(("rate.warmup", message))
        if problems:
            raise ContradictionError(problems)
        return self

    def _problems_of_additions(self) -> list[tuple[str, str]]:
        method = self.method
        whole = expanded(method)
        if isinstance(whole, UnimodalConfig):
            return []
        problems = []
        for name in whole.added.names():
            key = f"method.with.{name}" if isinstance(method, Extensible) else "method.name"
            options: Options = getattr(whole.added, name)
            if options.splits and self.model.fusion.name not in SPLITTING_FUSIONS:
                message = (
                    f"`{name}` needs the part of each modality in the fused logits, which `model.fusion: "
                    f"{self.model.fusion.name}` does not have; use concat, sum or decision"
                )
                problems.append((key, message))
            elif not options.inside and self.model.fusion.name in INSIDE:
                message = (
                    f"`{name}` needs features of each modality alone, which `model.fusion: {self.model.fusion.name}` "
                    "mixes inside the encoders; use a fusion after the encoders, such as concat"
                )
                problems.append((key, message))
            if options.splits and shares_head(method):
                message = f"`{name}` needs the part of each modality in the fused logits, which `mla` does not have"
                problems.append((key, f"{message}; leave one of them out"))
            if isinstance(options, MMCosineOptions) and whole.added.mla is not None:
                message = "`mmcosine` and `mla` must not be combined, because each brings its fusion; keep one of them"
                problems.append((key, message))
            if isinstance(options, MMCosineOptions) and self.model.fusion.name != "concat":
                message = (
                    f"`mmcosine` is a form of `model.fusion: concat`, but the fusion is {self.model.fusion.name}; use "
                    "concat, or leave one of them out"
                )
                problems.append((key, message))
            if options.on_unimodal_losses and not has_unimodal_losses(method):
                joint = isinstance(whole, JointConfig)
                lacks, helps = (
                    ("joint", "joint_unimodal or remix") if joint else ("predictions: dropout", "`predictions: heads`")
                )
                message = f"`{name}` needs unimodal losses, which `{lacks}` does not have; use {helps}"
                problems.append((key, message))
            if isinstance(options, AUGOptions) and options.fused_weight == 0 and self.model.fusion.name != "decision":
                message = (
                    f"`aug` with `fused_weight: 0` leaves `model.fusion: {self.model.fusion.name}` without a loss; use "
                    "decision, or a greater weight"
                )
                problems.append((key, message))
            if isinstance(options, DGLOptions) and options.alpha == 0 and isinstance(whole, JointConfig):
                message = (
                    "`dgl` with `alpha: 0` leaves the encoders of `joint` without a loss; use a greater alpha, or "
                    "joint_unimodal or remix"
                )
                problems.append((key, message))
            if options.whole_batch and self.micro_batch is not None:
                message = f"`{name}` needs the whole batch at once, which `micro_batch` divides; leave one of them out"
                problems.append((key, message))
            if isinstance(method, RemixConfig) and options.excludes_remix:
                message = (
                    f"`{name}` and `remix` must not be combined, because each {options.decides}; use joint or "
                    "joint_unimodal, or leave one of them out"
                )
                problems.append((key, message))
            if isinstance(method, RemixConfig) and method.accumulate:
                message = (
                    f"`{name}` needs the gradient of a whole step, which `method.accumulate` does not compute; leave "
                    "one of them out"
                )
                problems.append((key, message))
        return problems

    def digest(self, data: str, needed: Mapping[str, str] = MappingProxyType({})) -> str:
        """Return 12 hex digits that two runs share if and only if they are the same run.

        They cover the configuration, the semantics of this version (config/identity.py), `data`, the digest of the
        clip store, and `needed`, the digests of the runs that it needs: of the teacher of each modality, and of the run
        that it replays (`REPLAYED`). Neither where the run is tracked nor the paths of its corpus and of those runs.
        """
        content = identity(self, exclude={"tracking", "corpus"})
        if teachers := {m: digest for m, digest in needed.items() if m != REPLAYED}:
            content["teachers"] = teachers
        if REPLAYED in needed:
            content["replayed"] = needed[REPLAYED]
        return hashlib.sha256(f"{data} {json.dumps(content, sort_keys=True)}".encode()).hexdigest()[:12]

    def to_yaml(self) -> str:
        """The configuration as YAML, with all defaults."""
        return dump(self.model_dump(mode="json"))
