"""Build the model of a run from its configuration and the preset of its corpus

Every config class of an encoder, fusion or masking is mapped to the class that it selects.
"""

from collections.abc import Mapping
from typing import assert_never

import torch

from remix_study.balancing.acting import Window
from remix_study.balancing.aug import checks
from remix_study.config import fusion as f
from remix_study.config import run as c
from remix_study.config.method import UnimodalConfig, expanded, shares_head
from remix_study.config.part import Part as KeyGroup
from remix_study.datasets.clips import input_shape
from remix_study.media.presets import AudioPreset, FeaturePreset, FlowPreset, Part, VideoPreset
from remix_study.media.store import ClipStore
from remix_study.models import (
    AttentionFusion,
    CentralNetFusion,
    ConcatFusion,
    CosineFusion,
    DecisionFusion,
    Encoder,
    EntropyFusion,
    FiLMFusion,
    Fusion,
    GatedFusion,
    ImageEncoder,
    Layout,
    LearnedToken,
    Masking,
    MeanFeature,
    MMTMFusion,
    MultimodalModel,
    PublishedFiLMFusion,
    PublishedGatedFusion,
    ResNet18,
    SequenceEncoder,
    SumFusion,
    TinyEncoder,
    VectorEncoder,
    ZeroInput,
)
from remix_study.seeds import DrawFrom, torch_stream

# Config class -> encoder class, whose constructor takes the input's size and the config's fields as keyword arguments.
# An encoder is added by a line here and by its config class in `config/run.py`.
ENCODERS: Mapping[type[KeyGroup], type[Encoder]] = {
    c.TinyEncoderConfig: TinyEncoder,
    c.ResNet18Config: ResNet18,
    c.VectorEncoderConfig: VectorEncoder,
    c.SequenceEncoderConfig: SequenceEncoder,
}


def modalities_of(config: c.RunConfig, store: ClipStore) -> tuple[str, ...]:
    """The modalities of a run, in the order of its M axis: all of the corpus, or the one of a unimodal run."""
    return (config.method.modality,) if isinstance(config.method, UnimodalConfig) else store.modalities


def build_model(config: c.RunConfig, store: ClipStore) -> MultimodalModel:
    """Build a new model. Its initial weights depend on the model configuration and the seed only."""
    modalities = modalities_of(config, store)
    with DrawFrom(torch_stream(config.seed, "model")):
        parts = store.preset.parts
        encoders = {m: _encoder(encoder_of(config.model, m, parts[m]), parts[m]) for m in modalities}
        widths = {m: encoder.out_features for m, encoder in encoders.items()}
        alone = isinstance(config.method, UnimodalConfig)  # always active, so that nothing is masked
        fusion = _brought_fusion(config, widths, len(store.classes)) or _fusion(
            f.PlainFusion(name="decision") if alone else config.model.fusion, encoders, len(store.classes), parts
        )
        masking = None if alone else _masking(config.masking, widths, {m: input_shape(parts[m]) for m in modalities})
        model = MultimodalModel(encoders, fusion, masking)
        if further := heads_to_add(config):
            model.prepare_heads(further)
        return model


def heads_to_add(config: c.RunConfig) -> int:
    """The number of heads that a modality may get while it is trained."""
    method = expanded(config.method)
    options = None if isinstance(method, UnimodalConfig) else method.added.aug
    return 0 if options is None else len(checks(Window(options.begin, options.end), options.every, config.epochs))


def widths_of(config: c.RunConfig, store: ClipStore) -> dict[str, int]:
    """Modality -> size of its features."""
    parts = store.preset.parts
    with torch.device("meta"):  # without memory for weights
        return {m: _encoder(encoder_of(config.model, m, parts[m]), parts[m]).out_features for m in store.modalities}


def encoder_of(config: c.ModelConfig, modality: str, part: Part) -> c.EncoderConfig:
    """The encoder's configuration for one modality.

    `model.encoders` comes first, then `model.encoder`. Features that `model.encoder` cannot take get the default
    encoder of their layout.
    """
    own = config.encoders.get(modality)
    if own is not None:
        return own
    if isinstance(part, FeaturePreset) and not takes(config.encoder, part):
        return default_encoder(part)
    return config.encoder


def default_encoder(part: Part) -> c.EncoderConfig:
    """The encoder for a modality whose layout the configured encoder cannot take."""
    match layout_of(part):
        case "vector":
            return c.VectorEncoderConfig(name="vector")
        case "sequence":
            return c.SequenceEncoderConfig(name="sequence")
        case "image":
            return c.TinyEncoderConfig()


def takes(config: c.EncoderConfig, part: Part) -> bool:
    """Whether the encoder that `config` selects takes this modality's layout."""
    return layout_of(part) in ENCODERS[type(config)].takes


def layout_of(part: Part) -> Layout:
    """The layout of a modality's input; spectrograms, frames and optical flow are images."""
    return part.layout if isinstance(part, FeaturePreset) else "image"


def _encoder(config: c.EncoderConfig, part: Part) -> Encoder:
    size = _channels(part) if layout_of(part) == "image" else part.shape[-1]
    return ENCODERS[type(config)](size, **config.model_dump(exclude={"name"}))


def _channels(part: Part) -> int:
    match part:
        case AudioPreset() | FeaturePreset():
            return 1
        case VideoPreset():
            return 3
        case FlowPreset():
            return 2
        case unreachable:
            assert_never(unreachable)


def has_stages(config: c.EncoderConfig) -> bool:
    """Whether the encoder that `config` selects has stages, between which modalities can be fused."""
    return issubclass(ENCODERS[type(config)], ImageEncoder)


def _height_and_width(part: Part) -> tuple[int, int]:
    """Of an image; the bands and frames of a spectrogram."""
    match part:
        case VideoPreset() | FlowPreset():
            return part.height, part.width
        case _:
            height, width = part.shape
            return height, width


PLAIN_FUSIONS: Mapping[str, type[Fusion]] = {
    "concat": ConcatFusion,
    "sum": SumFusion,
    "decision": DecisionFusion,
    "film": FiLMFusion,
    "film_published": PublishedFiLMFusion,
    "gated": GatedFusion,
    "gated_published": PublishedGatedFusion,
}


def _masking(name: str, widths: Mapping[str, int], shapes: Mapping[str, tuple[int, ...]]) -> Masking | None:
    match name:
        case "skip_encoder" | "zero_feature":
            return None
        case "zero_input":
            return ZeroInput(shapes)
        case "mean_feature":
            return MeanFeature(widths)
        case "learned_token":
            return LearnedToken(widths)
        case _:
            raise AssertionError(name)  # the configuration accepts no other name


def _brought_fusion(config: c.RunConfig, widths: Mapping[str, int], classes: int) -> Fusion | None:
    """The fusion that an added method brings in the place of `model.fusion`."""
    if shares_head(config.method):
        return EntropyFusion(widths, classes)
    whole = expanded(config.method)
    cosine = None if isinstance(whole, UnimodalConfig) else whole.added.mmcosine
    return None if cosine is None else CosineFusion(widths, classes, cosine.scale)


def _fusion(config: f.FusionConfig, encoders: Mapping[str, Encoder], classes: int, parts: Mapping[str, Part]) -> Fusion:
    widths = {m: encoder.out_features for m, encoder in encoders.items()}
    staged = {m: encoder for m, encoder in encoders.items() if isinstance(encoder, ImageEncoder)}
    match config:
        case f.PlainFusion(name=name):
            return PLAIN_FUSIONS[name](widths, classes)
        case f.AttentionConfig():
            return AttentionFusion(widths, classes, **config.model_dump(exclude={"name"}))
        case f.MMTMConfig(ratio=ratio, gain=gain, greedy=greedy):
            return MMTMFusion(staged, classes, ratio, gain, holds=greedy is not None)
        case f.CentralNetConfig():
            return CentralNetFusion(staged, classes, {m: _height_and_width(parts[m]) for m in staged})
        case unreachable:
            assert_never(unreachable)
