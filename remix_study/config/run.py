"""RunConfig: the configuration of one run

Unknown keys are errors. What depends on the corpus, such as whether a threshold lies in the range of the scores, is
checked in `fit.py`, and keys that contradict each other in `contradictions.py`. To add an encoder or another variant,
add its class and one line in the union below it (`EncoderConfig` ...). Methods are in `method.py`.
"""

import hashlib
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from remix_study.config.assignment import shares_reading_control
from remix_study.config.balancing import CONTROL_FRACTION, options_of, reading_control
from remix_study.config.contradictions import contradictions
from remix_study.config.fusion import FusionConfig, PlainFusion
from remix_study.config.identity import Introduced, identity
from remix_study.config.method import REPLAYED, MethodConfig, RemixConfig, names_of
from remix_study.config.part import Modality, Part, kind_or
from remix_study.config.problems import ContradictionError
from remix_study.config.schedule import EachNotNegative
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
        if problems := contradictions(self):
            raise ContradictionError(problems)
        return self

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


def with_remix(name: str) -> Literal["every batch", "multimodal batches", "no"]:
    """The batches of Remix in which an added method acts, or `no` if it cannot be added to Remix."""
    try:
        RunConfig.model_validate({"corpus": "", "method": {"name": "remix", "with": [name]}})
    except ValueError:
        return "no"
    return "multimodal batches" if options_of(name).compares else "every batch"
