"""Methods that are added to a way of training: `with` of joint, joint_unimodal and remix

Each is also a method of its own (`method: {name: ogm_ge}`), which adds it to joint training. To add one, write its
options here (and in `AnyOptions`), one field in `Additions`, its configuration as a method of its own in
`added_methods.py`, its rule in `remix_study/balancing`, and its case in `remix_study/added.py`.
"""

from collections.abc import Iterable
from types import NoneType
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, get_args

from pydantic import BeforeValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from remix_study.config.identity import Elsewhere, Introduced
from remix_study.config.part import Modality, Part

_SPLIT = "concat, sum or decision fusion"
_UNIMODAL = "unimodal losses (joint_unimodal, remix)"
_WHERE_SEVERAL_TRAIN = "in the warm-up and on multimodal batches"
_COMBINES_LOSSES = "combines the gradients of the fused and of the unimodal losses"
_ENCODERS_SHARE = "decides how much an encoder learns"
_PLANS = "plans the epochs"


class Options(Part):
    """The options of an added method.

    Class variables say where a method fits: what it `changes`; what it `needs`; `with_remix`, the batches of Remix in
    which it acts, or why it cannot be added to Remix.

    splits: it needs the part of each modality in the fused logits.
    additive: the fused logits must be the sum of these parts, which they are not with decision fusion.
    on_unimodal_losses: it needs unimodal losses; as a method of its own, it is added to `joint_unimodal`.
    compares: it acts only where samples train several modalities.
    decides: what only one method of a run may do: "owns the plan", say.
    whole_batch: it needs the whole batch at once, so it excludes `micro_batch`.
    reads_control: it reads the control samples, which are held out from the training split.
    modalities: the only number of modalities that it takes, if not any.
    replaces_fused: it replaces the fused loss by another, as only one method of a run may.
    inside: it also works with a fusion inside the encoders, such as MMTM.
    excludes_remix: it cannot be added to Remix, for the reason that `decides` says.
    """

    changes: ClassVar[str]
    needs: ClassVar[str] = "nothing"
    with_remix: ClassVar[str]
    splits: ClassVar[bool] = False
    additive: ClassVar[bool] = False
    on_unimodal_losses: ClassVar[bool] = False
    compares: ClassVar[bool] = False
    decides: ClassVar[str] = ""
    whole_batch: ClassVar[bool] = False
    reads_control: ClassVar[bool] = False
    modalities: ClassVar[int | None] = None
    replaces_fused: ClassVar[bool] = False
    inside: ClassVar[bool] = False
    excludes_remix: ClassVar[bool] = False


class Windowed(Options):
    """Acts in the epochs `begin` to `end`."""

    begin: int = Field(default=0, ge=0, description="the first epoch in which it acts, from 0")
    end: int | None = Field(default=None, ge=1, description="the epoch before which it stops; default: never")

    @property
    def first(self) -> int:
        """The first epoch that it may change."""
        return self.begin

    @model_validator(mode="after")
    def _ordered(self) -> "Windowed":
        if self.end is not None and self.end <= self.begin:
            raise ValueError(f"`end` must be greater than `begin` ({self.begin}), but is {self.end}")
        return self


class ModalityDropoutOptions(Windowed):
    """Modality dropout: random subsets of a sample's modalities (Neverova et al., TPAMI 2016)."""

    changes = "masks"
    with_remix = _WHERE_SEVERAL_TRAIN
    compares = True

    probability: float = Field(default=0.3, ge=0, le=1, description="of dropping a modality of a sample; 0: never")


class MLAOptions(Windowed):
    """MLA: one modality per step, and a head that they share (Zhang et al., CVPR 2024)."""

    changes = "plan"
    needs = "encoders with features of the same size"
    with_remix = "in every batch; the plan is that of Remix, and unimodal batches are projected"
    decides = _PLANS

    project_from: Literal["previous", "current"] = Field(
        default="previous",
        description="the features that the head should still fit: of the steps before, or also of the step itself, as "
        "released",
    )


class SMVOptions(Windowed):
    """SMV: copies of samples for the modalities that contribute less to them (Wei et al., CVPR 2024)."""

    changes = "plan"
    needs = "a pass over the training samples per epoch"
    with_remix = "not with Remix, since each plans the epochs"
    decides = _PLANS
    excludes_remix = True

    begin: int = Field(default=5, ge=0, description="the first epoch with copies, from 0. Published: 5")
    level: Literal["sample", "modality"] = Field(
        default="sample",
        description="copies of a sample by the contributions of its own modalities, or of random samples by the mean "
        "contributions",
    )
    strength: float = Field(default=1.0, ge=0, description="factor of the number of copies; 0: none. Published: 1")


class OPMOptions(Windowed):
    """OPM: features of the modality that is ahead are dropped (Wei et al., TPAMI 2024)."""

    changes = "masks"
    needs = _SPLIT
    with_remix = _WHERE_SEVERAL_TRAIN
    splits = True
    compares = True
    whole_batch = True

    begin: int = Field(default=6, ge=0, description="the first epoch in which it acts, from 0. Released: 6")
    base: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="probability of dropping a modality that is barely ahead; 0 changes nothing",
    )
    strength: float = Field(default=0.5, ge=0, description="how much more a modality far ahead is dropped")
    execute: float = Field(default=0.7, ge=0, le=1, description="probability of acting on a batch")


class _Scaling(Windowed):
    """Scales the gradients of the encoders by a comparison of the modalities' parts of the fused logits."""

    changes = "gradients"
    needs = _SPLIT
    with_remix = _WHERE_SEVERAL_TRAIN
    splits = True
    compares = True
    decides = _ENCODERS_SHARE


class OGMOptions(_Scaling):
    """OGM: smaller gradients for the encoder whose modality is ahead (Peng et al., CVPR 2022)."""

    alpha: float = Field(default=0.8, ge=0, description="strength; 0 changes nothing. Published: 0.8, 0.1 for VGGSound")


class OGMGEOptions(_Scaling):
    """OGM-GE: OGM, and noise added to the gradients of all encoders (Peng et al., CVPR 2022)."""

    alpha: float = Field(default=0.8, ge=0, description="strength; 0 adds noise only. Published: 0.8, 0.1 for VGGSound")


class OGMPlusOptions(_Scaling):
    """A control for OGM: larger gradients for the encoders whose modalities are behind."""

    factor: float = Field(default=4.0, gt=0, description="of these gradients; 1 changes nothing. Released: 4")


class AGMOptions(_Scaling):
    """AGM: smaller gradients the further ahead a modality is, compared with earlier steps (Li et al., ICCV 2023)."""

    alpha: float = Field(default=1.0, ge=0, description="strength; 0 changes nothing. Published: 1, 2.5 for AV-MNIST")


class PDMPOptions(Windowed):
    """PDMP: larger gradients for the encoder of the modality that is best alone (Wei et al., 2026)."""

    changes = "gradients"
    needs = "to know the modality that is best alone"
    with_remix = _WHERE_SEVERAL_TRAIN
    compares = True
    decides = _ENCODERS_SHARE

    dominant: Modality | None = Field(
        default=None,
        description="the modality that is best alone, from unimodal runs; default: ranked within the model before "
        "every epoch but the first, which costs a pass over the training samples",
    )
    boost: float = Field(default=2.0, ge=1, description="factor of the gradients of its encoder")
    others: float = Field(default=0.5, ge=0, le=1, description="factor of the gradients of all other encoders")

    @property
    def first(self) -> int:
        return max(self.begin, 1) if self.dominant is None else self.begin


class InfoRegOptions(Windowed):
    """InfoReg: encoders ahead are held back while they acquire information (Huang et al., CVPR 2025)."""

    changes = "gradients"
    needs = _SPLIT
    with_remix = "in every batch, on the encoders in training"
    splits = True

    strength: float = Field(
        default=0.95, ge=0, description="of the pull to the weights at the beginning of the epoch; 0 changes nothing"
    )
    threshold: float = Field(
        default=0.05, ge=0, description="growth of the gradient's trace that keeps the window of an encoder open"
    )


class DGLOptions(Windowed):
    """DGL: encoders learn from unimodal losses only, the fusion from the fused loss (Wei et al., ICCV 2025)."""

    changes = "losses"
    needs = "a fusion after the encoders"
    with_remix = "in every batch"
    decides = _COMBINES_LOSSES
    replaces_fused = True

    alpha: float = Field(
        default=4.0,
        ge=0,
        description="weight of the losses of the encoders through the fusion; 0 leaves the encoders to the unimodal "
        "losses of joint_unimodal or remix. Published: 4 to 5 for CREMA-D, 2 to 3 for Kinetics-Sounds",
    )


class ReconBoostOptions(Windowed):
    """ReconBoost's weights: unimodal losses weigh less where the others are right (Hua et al., ICML 2024)."""

    changes = "losses"
    needs = f"{_UNIMODAL}, a pass over the training samples per epoch"
    with_remix = "in every batch, on the modalities in training"
    on_unimodal_losses = True

    base: float = Field(default=5.0, gt=0, description="w_1. Published: 5, 4 for AVE")
    strength: float = Field(default=1.0, ge=0, description="w_2, at most `base`; 0: all samples weigh the same")

    @model_validator(mode="after")
    def _positive(self) -> "ReconBoostOptions":
        if self.strength > self.base:
            raise ValueError(
                f"`strength` must be at most `base` ({self.base:g}), or losses are negative, but is {self.strength:g}"
            )
        return self


class TCMaxOptions(Windowed):
    """TCMax: the fused loss, normalised over all combinations of modalities in a batch (Yu et al., ICLR 2026)."""

    changes = "losses"
    needs = "concat or sum fusion, no micro-batches"
    with_remix = "in every batch, over the samples that train the same modalities"
    splits = True
    additive = True
    whole_batch = True
    replaces_fused = True


class LFMOptions(Windowed):
    """LFM: aligned predictions of the modalities first, labels later (Yang et al., NeurIPS 2024)."""

    changes = "losses"
    needs = _SPLIT
    with_remix = _WHERE_SEVERAL_TRAIN
    splits = True
    compares = True


class MMCosineOptions(Options):
    """MMCosine: fused logits that are cosines, so that norms do not matter (Xu et al., ICASSP 2023)."""

    changes = "fused head"
    needs = "concat fusion"
    with_remix = "in every batch"
    splits = True

    scale: float = Field(
        default=10.0, gt=0, description="s, the factor of the cosines. Published: 10; tuned by others: 1 for AVE"
    )


class MMParetoOptions(Windowed):
    """MMPareto: the gradients of the fused and of the unimodal losses in one direction (Wei and Hu, ICML 2024)."""

    changes = "gradients"
    needs = _UNIMODAL
    with_remix = "in every batch, on the encoders in training"
    on_unimodal_losses = True
    decides = _COMBINES_LOSSES

    gain: float = Field(default=1.5, gt=0, description="factor of the gradients of the encoders. Published: 1.5")


class PMROptions(Windowed):
    """PMR: features of modalities that are behind, pulled towards class prototypes (Fan et al., CVPR 2023)."""

    changes = "losses"
    needs = "a pass over the training samples per epoch"
    with_remix = "in every batch; with a constant weight on samples that train one modality"
    whole_batch = True

    weight: float = Field(default=1.0, ge=0, description="of the prototype loss; 0 changes nothing. Released: 1")
    momentum: float = Field(default=0.2, ge=0, lt=1, description="weight of earlier prototypes. Released: 0.2")
    coefficient: Literal["hard", "smooth"] = Field(
        default="hard",
        description="hard: the full weight for every modality that is behind, as released; smooth: the further behind, "
        "the larger, up to it",
    )


class _Blending(Windowed):
    """Weighs the fused and the unimodal losses by their losses on the training and the control samples."""

    changes = "loss weights"
    with_remix = "in every batch; on samples that train one modality, the weights of two losses"
    on_unimodal_losses = True
    decides = "weighs the fused and the unimodal losses"
    reads_control = True

    every: int = Field(default=10, ge=1, description="epochs between two estimates of the weights")
    least: float = Field(default=0.05, gt=0, description="smallest overfitting of a loss, in nats")


class GBlendLiteOptions(_Blending):
    """Gradient-Blending whose estimates cost two passes: losses that generalise weigh more (Wang et al., CVPR 2020)."""

    needs = "unimodal losses, the control split"

    @property
    def first(self) -> int:
        return self.begin + self.every


class RelearningOptions(Windowed):
    """Diagnosing & Re-learning: encoders moved back towards their initial weights (Wei et al., ECCV 2024)."""

    changes = "weights of the encoders"
    needs = "the control split"
    with_remix = "before an epoch, before the assignment"
    reads_control = True

    every: int = Field(
        default=20, ge=1,
        description="epochs between two re-initialisations; the first is as many epochs after `begin`. Published: 20",
    )  # fmt: skip
    times: int = Field(default=3, ge=1, description="number of re-initialisations. Published: 3")
    strength: float = Field(
        default=3.0, ge=0, description="of the difference of purities; 0 changes nothing. Published: 3"
    )

    @property
    def first(self) -> int:
        return self.begin + self.every


class UMTOptions(Windowed):
    """UMT: features close to those of encoders that were trained alone, the teachers (Du et al., ICML 2023)."""

    changes = "losses"
    needs = "a run of each modality alone (its teacher)"
    with_remix = "in every batch, for the modalities that it trains"

    weight: float = Field(default=10.0, ge=0, description="of the distance to the teachers; 0 changes nothing")
    teachers: Annotated[Literal["train"] | dict[Modality, str], Elsewhere()] = Field(
        default="train",
        description="`train`: trained first; in a study, the runs of the methods with `ceiling_of`. Or modality -> "
        "folder of a complete run with `method: {name: unimodal}`",
    )


class MILESOptions(Windowed):
    """MILES: lower learning rates for encoders whose modality is used more (Guerra-Manzanares, Shamout, IJCNN 2025)."""

    changes = "learning rates of the encoders"
    needs = "the control split"
    with_remix = "in every batch, with factors set before the epoch"
    reads_control = True

    threshold: float = Field(
        default=0.2,
        ge=0,
        description="difference of utilisations above which an encoder is slowed down. Published: 0.2",
    )
    factor: float = Field(
        default=0.5, gt=0, le=1, description="of its learning rate; 1 changes nothing. Published: 0.5"
    )

    @property
    def first(self) -> int:
        return max(self.begin, 1)


class GBlendOptions(_Blending):
    """Gradient-Blending: losses that generalise weigh more, from copies trained with each alone (Wang et al., 2020)."""

    needs = "unimodal losses, the control split, M + 1 more models to train"


class AUGOptions(Windowed):
    """AUG: more heads for the modality that is behind, each learning what is left (Jiang et al., NeurIPS 2025)."""

    changes = "heads and losses"
    needs = _UNIMODAL
    with_remix = "in every batch, on the heads of the modalities in training"
    on_unimodal_losses = True

    every: int = Field(
        default=20, ge=1, description="epochs between two checks, the first as many after `begin`. Published: 20"
    )
    threshold: float = Field(
        default=0.01, ge=0, description="how much further ahead the best modality must be. Published: 0.01"
    )
    weight: float = Field(default=1.0, ge=0, description="of the losses of the heads. Published: 1")
    residual: float = Field(
        default=0.5, ge=0, le=1,
        description="how much less a head learns of what the heads before it know. Released: 0.5",
    )  # fmt: skip
    fused_weight: float = Field(
        default=1.0, ge=0,
        description="factor of the fused loss; 0 trains the modalities apart, as published, with decision fusion",
    )  # fmt: skip

    @property
    def first(self) -> int:
        return self.begin + self.every


AnyOptions = (
    UMTOptions
    | RelearningOptions
    | PMROptions
    | DGLOptions
    | ReconBoostOptions
    | TCMaxOptions
    | LFMOptions
    | MMCosineOptions
    | MMParetoOptions
    | OGMOptions
    | OGMGEOptions
    | OGMPlusOptions
    | AGMOptions
    | ModalityDropoutOptions
    | OPMOptions
    | GBlendLiteOptions
    | PDMPOptions
    | InfoRegOptions
    | MILESOptions
    | GBlendOptions
    | SMVOptions
    | AUGOptions
    | MLAOptions
)


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

    # In the order in which they act: a fused loss must be replaced before it is scaled.
    dgl: Annotated[DGLOptions | None, BeforeValidator(_switched_on), Introduced(None)] = None
    tcmax: Annotated[TCMaxOptions | None, BeforeValidator(_switched_on), Introduced(None)] = None
    gblend: Annotated[GBlendOptions | None, BeforeValidator(_switched_on), Introduced(None)] = None
    gblend_lite: Annotated[GBlendLiteOptions | None, BeforeValidator(_switched_on), Introduced(None)] = None
    relearning: Annotated[RelearningOptions | None, BeforeValidator(_switched_on), Introduced(None)] = None
    miles: Annotated[MILESOptions | None, BeforeValidator(_switched_on), Introduced(None)] = None
    aug: Annotated[AUGOptions | None, BeforeValidator(_switched_on), Introduced(None)] = None
    pmr: Annotated[PMROptions | None, BeforeValidator(_switched_on), Introduced(None)] = None
    modality_dropout: Annotated[ModalityDropoutOptions | None, BeforeValidator(_switched_on), Introduced(None)] = None
    smv: Annotated[SMVOptions | None, BeforeValidator(_switched_on), Introduced(None)] = None
    mla: Annotated[MLAOptions | None, BeforeValidator(_switched_on), Introduced(None)] = None
    opm: Annotated[OPMOptions | None, BeforeValidator(_switched_on), Introduced(None)] = None
    inforeg: Annotated[InfoRegOptions | None, BeforeValidator(_switched_on), Introduced(None)] = None
    umt: Annotated[UMTOptions | None, BeforeValidator(_switched_on), Introduced(None)] = None
    reconboost: Annotated[ReconBoostOptions | None, BeforeValidator(_switched_on), Introduced(None)] = None
    mmpareto: Annotated[MMParetoOptions | None, BeforeValidator(_switched_on), Introduced(None)] = None
    ogm: Annotated[OGMOptions | None, BeforeValidator(_switched_on)] = None
    ogm_ge: Annotated[OGMGEOptions | None, BeforeValidator(_switched_on)] = None
    ogm_plus: Annotated[OGMPlusOptions | None, BeforeValidator(_switched_on)] = None
    pdmp: Annotated[PDMPOptions | None, BeforeValidator(_switched_on), Introduced(None)] = None
    agm: Annotated[AGMOptions | None, BeforeValidator(_switched_on)] = None
    lfm: Annotated[LFMOptions | None, BeforeValidator(_switched_on), Introduced(None)] = None
    mmcosine: Annotated[MMCosineOptions | None, BeforeValidator(_switched_on), Introduced(None)] = None

    @model_validator(mode="after")
    def _compatible(self) -> "Additions":
        names = self.names()
        for number, name in enumerate(names):
            decides = getattr(self, name).decides
            others = [other for other in names[:number] if decides and getattr(self, other).decides == decides]
            if others:
                raise ValueError(
                    f"{others[0]} and {name} must not be combined, because each {decides}; keep one of them"
                )
        replacing = [name for name in names if getattr(self, name).replaces_fused]
        if len(replacing) > 1:
            raise ValueError(
                f"{replacing[0]} and {replacing[1]} must not be combined, because each replaces the fused loss; keep "
                "one of them"
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


def options_of(name: str) -> type[Options]:
    """The class of an added method's options."""
    found: type[Options] = next(
        each for each in get_args(Additions.model_fields[name].annotation) if each is not NoneType
    )
    return found


def cards() -> list[Card]:
    """Return the card of every added method, in the order in which they act."""
    found = []
    for name in Additions.model_fields:
        options = options_of(name)
        does = (options.__doc__ or "").splitlines()[0].rstrip(".")
        card = Card(name, does, options.changes, options.needs, options.with_remix, options().model_dump())
        found.append(card)
    return found


SPLITTING = tuple(name for name in Additions.model_fields if options_of(name).splits)
"""Methods that need the part of each modality in the fused logits."""
ON_UNIMODAL_LOSSES = tuple(name for name in Additions.model_fields if options_of(name).on_unimodal_losses)
"""Methods that need unimodal losses; as methods of their own, they are added to `joint_unimodal`."""
CONTROL_FRACTION = 0.1
"""The default of `control_fraction` where a method of the run or of its study reads the control split."""


def reading_control(names: Iterable[str]) -> list[str]:
    """Those of the methods `names` that read the control split; names that are no methods are left out."""
    return [name for name in names if name in Additions.model_fields and options_of(name).reads_control]


WithKey = Annotated[Additions, BeforeValidator(_mapping), Introduced({})]
"""The type of the key `with`."""
