"""From words to objects: RunConfig + corpus + World -> Run. The only file that knows all classes

What a configuration and a corpus must agree on is checked here, all at once, before anything is trained.
"""

# N training samples, M modalities

from collections.abc import Mapping
from pathlib import Path
from typing import assert_never

import numpy as np
import torch
from numpy.typing import NDArray

from remix_study.augment import Augmentation
from remix_study.balancing import FusedLoss, LossRule, Method, UnimodalLosses
from remix_study.config import run as c
from remix_study.datasets.clips import ClipReader
from remix_study.errors import ConfigError
from remix_study.media.presets import AudioPreset, FeaturePreset, FlowPreset, Part, VideoPreset
from remix_study.media.store import ClipStore
from remix_study.modality import canonical_order
from remix_study.models import (
    ConcatFusion,
    DecisionFusion,
    Encoder,
    FiLMFusion,
    Fusion,
    GatedFusion,
    MultimodalModel,
    ResNet18,
    SequenceEncoder,
    SumFusion,
    TinyEncoder,
    VectorEncoder,
)
from remix_study.remix import (
    Argmin,
    Assignment,
    Band,
    ConstantPlan,
    Filter,
    FixedShare,
    Inverted,
    Margin,
    MaxShare,
    Permuted,
    ProgressShare,
    Quantile,
    Random,
    Reassembly,
    RemixPlan,
    RemixSettings,
    Tempered,
    everything_joint,
    score_range,
)
from remix_study.remix.assignment import column_order
from remix_study.remix.share import ShareRule
from remix_study.seeds import torch_stream
from remix_study.tracking.tracker import Tracker
from remix_study.training import learning_rate as rates
from remix_study.training.checkpoint import Checkpoints
from remix_study.training.loop import EpochCallback, LoopSettings, Run
from remix_study.world import Collectives


def check(config: c.RunConfig, store: ClipStore) -> None:
    """
    Raises:
        ConfigError: every way in which the configuration does not fit the corpus.
    """
    problems = [
        *_split_problems(config, store), *_method_problems(config, store), *_model_problems(config, store),
        *_augment_problems(config, store),
    ]  # fmt: skip
    if config.device == "cuda" and not torch.cuda.is_available():
        problems.append("`device: cuda` needs a GPU that torch can use, but there is none; use `auto` or `cpu`")
    if problems:
        raise ConfigError(f"the configuration does not fit {store.path}:\n" + "\n".join(f"  - {p}" for p in problems))


def assemble(
    config: c.RunConfig,
    store: ClipStore,
    collectives: Collectives,
    device: torch.device,
    tracker: Tracker,
    folder: Path,
    *,
    ceilings: Mapping[str, float] | None = None,
    callback: EpochCallback | None = None,
    at_most: int | None = None,
) -> Run:
    """The run of `config` for this rank; `folder` is the run's own. `at_most`: clips of each split, to time a part."""
    modalities = modalities_of(config, store)
    model = build_model(config, store).to(device)
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    rows = {split: _spread(store.rows(split), at_most) for split in store.splits}
    optimizer = _optimizer(config.optimizer, model)
    settings = LoopSettings(
        digest=config.digest(store.digest),
        epochs=config.epochs,
        seed=config.seed,
        learning_rate=config.optimizer.learning_rate,
        evaluation_batch=config.evaluation.batch,
        clash_every=config.evaluation.clash_every,
        clip_norm=config.clip_norm,
        autocast=config.precision == "bfloat16",
        zero_feature=config.masking == "zero_feature",
        test=config.evaluation.test,
        probe=config.evaluation.probe,
        ceilings=ceilings,
    )
    return Run(
        settings=settings,
        method=_method(config, modalities, store.labels_N[rows["train"]], len(store.classes)),
        model=model,
        optimizer=optimizer,
        rate=_rate(config.rate, config.epochs),
        reader=ClipReader(store, device, channels_last=config.channels_last, modalities=modalities),
        rows=rows,
        augmentation=_augmentation(config.augment),
        collectives=collectives,
        checkpoints=Checkpoints(folder / "checkpoints"),
        tracker=tracker,
        history_file=folder / "history.jsonl",
        callback=callback,
    )


def _spread(rows: NDArray[np.int64], at_most: int | None) -> NDArray[np.int64]:
    """At most so many of `rows`, from all over them: a store lies in the order of its manifest, often by class."""
    if at_most is None or len(rows) <= at_most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, at_most).astype(np.int64)]


def modalities_of(config: c.RunConfig, store: ClipStore) -> tuple[str, ...]:
    """The M axis of a run: what the corpus has, or the one that a unimodal run is about."""
    return (config.method.modality,) if isinstance(config.method, c.UnimodalConfig) else store.modalities


def build_model(config: c.RunConfig, store: ClipStore) -> MultimodalModel:
    """A new model, whose initial weights depend on the seed alone."""
    modalities = modalities_of(config, store)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_stream(config.seed, "model").initial_seed())
        parts = store.preset.parts
        encoders = {m: _encoder(encoder_of(config.model, m, parts[m]), parts[m]) for m in modalities}
        widths = {m: encoder.out_features for m, encoder in encoders.items()}
        fusion = "decision" if isinstance(config.method, c.UnimodalConfig) else config.model.fusion
        return MultimodalModel(encoders, _fusion(fusion, widths, len(store.classes)))


def encoder_of(config: c.ModelConfig, modality: str, part: Part) -> c.EncoderConfig:
    """A modality's own, or the common one; but features that the common one does not fit get one that does."""
    named = config.encoders.get(modality)
    if named is None and isinstance(part, FeaturePreset) and not _fits(config.encoder, part):
        return _fitting(part)
    return config.encoder if named is None else named


def _fitting(part: Part) -> c.EncoderConfig:
    match part:
        case FeaturePreset(layout="vector"):
            return c.VectorEncoderConfig(name="vector")
        case FeaturePreset(layout="sequence"):
            return c.SequenceEncoderConfig(name="sequence")
        case _:
            return c.TinyEncoderConfig()


def _fits(config: c.EncoderConfig, part: Part) -> bool:
    layout = part.layout if isinstance(part, FeaturePreset) else "image"
    match config:
        case c.VectorEncoderConfig():
            return layout == "vector"
        case c.SequenceEncoderConfig():
            return layout == "sequence"
        case _:
            return layout == "image"


def _encoder(config: c.EncoderConfig, part: Part) -> Encoder:
    match config:
        case c.TinyEncoderConfig():
            return TinyEncoder(_channels(part))
        case c.ResNet18Config(width=width):
            return ResNet18(_channels(part), width=width)
        case c.VectorEncoderConfig(hidden=hidden, width=width):
            return VectorEncoder(part.shape[-1], out_features=width, hidden=hidden)
        case c.SequenceEncoderConfig(width=width, layers=layers):
            return SequenceEncoder(part.shape[-1], width=width, layers=layers)
        case unreachable:
            assert_never(unreachable)


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


def _fusion(name: str, widths: Mapping[str, int], classes: int) -> Fusion:
    match name:
        case "concat":
            return ConcatFusion(widths, classes)
        case "sum":
            return SumFusion(widths, classes)
        case "decision":
            return DecisionFusion(widths, classes)
        case "film":
            return FiLMFusion(widths, classes)
        case "gated":
            return GatedFusion(widths, classes)
        case _:
            raise AssertionError(name)  # the configuration admits no other


def _method(config: c.RunConfig, modalities: tuple[str, ...], labels_N: np.ndarray, classes: int) -> Method:
    method = config.method
    samples, M = len(labels_N), len(modalities)
    order = training_order(method, modalities)
    how = Reassembly(
        order=method.order if isinstance(method, c.RemixConfig) else "shuffled",
        columns=tuple(column_order(modalities, order)),
        batch=config.global_batch,
        incomplete=config.incomplete,
        smallest=config.smallest,
    )
    joint = ConstantPlan(everything_joint(samples, M), how, config.seed)
    losses: tuple[LossRule, ...]
    match method:
        case c.JointConfig():
            return Method("joint", joint, (FusedLoss(),), trains_heads=False)
        case c.JointUnimodalConfig(weight=weight):
            return Method("joint_unimodal", joint, (FusedLoss(), UnimodalLosses(weight, weight)))
        case c.UnimodalConfig():
            alone = Assignment(np.ones((samples, 1), np.bool_), np.zeros(samples, np.bool_))
            return Method("unimodal", ConstantPlan(alone, how, config.seed), (FusedLoss(),))
        case c.RemixConfig():
            settings = RemixSettings(
                warmup=method.warmup,
                score=method.score,
                filter=_filter(method.filter),
                how=how,
                share=_share(method.share, modalities),
                joint_share=method.joint_share,
                rescore_every=method.rescore_every,
            )
            losses = (FusedLoss(), UnimodalLosses(method.warmup_weight, method.weight))
            return Method("remix", RemixPlan(settings, modalities, labels_N, classes, config.seed), losses)
        case unreachable:
            assert_never(unreachable)


def training_order(method: c.MethodConfig, modalities: tuple[str, ...]) -> tuple[str, ...]:
    """Released: video before audio, that is, the canonical order reversed."""
    given = method.training_order if isinstance(method, c.RemixConfig) else None
    return tuple(reversed(modalities)) if given is None else given


def _filter(config: c.FilterConfig) -> Filter:
    match config:
        case c.ArgminConfig():
            return Argmin()
        case c.InvertedConfig():
            return Inverted()
        case c.RandomConfig():
            return Random()
        case c.PermutedConfig():
            return Permuted()
        case c.TemperedConfig(temperature=temperature):
            return Tempered(temperature)
        case c.MarginConfig(threshold=threshold, close=close):
            return Margin(threshold, close)
        case c.QuantileConfig(fraction=fraction, otherwise=otherwise):
            return Quantile(fraction, otherwise)
        case c.MaxShareConfig(share=share):
            return MaxShare(share)
        case c.BandConfig(lower=lower, upper=upper, otherwise=otherwise):
            return Band(lower, upper, otherwise)
        case unreachable:
            assert_never(unreachable)


def _share(config: c.ShareConfig | None, modalities: tuple[str, ...]) -> ShareRule | None:
    match config:
        case None:
            return None
        case c.FixedShareConfig(parts=parts):
            return FixedShare(tuple(parts.get(m, 0.0) for m in modalities))
        case c.ProgressShareConfig(rate=rate, lowest=lowest):
            return ProgressShare(rate, lowest)
        case unreachable:
            assert_never(unreachable)


def _optimizer(config: c.OptimizerConfig, model: MultimodalModel) -> torch.optim.Optimizer:
    parameters, rate = model.parameters(), config.learning_rate
    match config:
        case c.SGDConfig(momentum=momentum, weight_decay=decay):
            return torch.optim.SGD(parameters, lr=rate, momentum=momentum, weight_decay=decay)
        case c.AdamConfig(weight_decay=decay):
            return torch.optim.Adam(parameters, lr=rate, weight_decay=decay)
        case c.AdamWConfig(weight_decay=decay):
            return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)
        case unreachable:
            assert_never(unreachable)


def _augmentation(config: c.AugmentConfig) -> Augmentation:
    return Augmentation(
        crop=config.crop,
        flip=config.flip,
        random_frames=config.frames == "random",
        time_mask=config.time_mask,
        frequency_mask=config.frequency_mask,
        shift=config.shift,
    )


def _rate(config: c.RateConfig, epochs: int) -> rates.RateFactor:
    match config:
        case c.ConstantRateConfig():
            return rates.constant()
        case c.StepRateConfig(every=every, factor=factor):
            return rates.step(epochs, every, factor)
        case c.CosineRateConfig(warmup=warmup, final=final):
            return rates.cosine(epochs, warmup, final)
        case unreachable:
            assert_never(unreachable)


def _split_problems(config: c.RunConfig, store: ClipStore) -> list[str]:
    needed = ["train", "val", *(["test"] if config.evaluation.test else [])]
    problems = [f"the corpus must have a split `{split}`, but has {', '.join(store.splits)}" for split in needed
                if split not in store.splits]  # fmt: skip
    if problems:
        return problems
    for split in needed:
        present = set(store.labels_N[store.rows(split)].tolist())
        absent = [name for label, name in enumerate(store.classes) if label not in present]
        if absent:
            problems.append(f"every class must occur in `{split}`, but {', '.join(absent)} does not; split it anew")
    samples = len(store.rows("train"))
    if samples < config.smallest:
        problems.append(f"`smallest_batch` must be at most the {samples} training clips, but is {config.smallest}")
    return problems


def _method_problems(config: c.RunConfig, store: ClipStore) -> list[str]:
    method = config.method
    have = store.modalities
    if isinstance(method, c.UnimodalConfig):
        known = method.modality in have
        return [] if known else [f"`method.modality` must be one of {', '.join(have)}, but is {method.modality}"]
    problems = []
    if isinstance(method, c.JointConfig) and config.evaluation.ceilings != "none":
        problems.append(
            "`evaluation.ceilings` compares unimodal heads, which `joint` does not train; use `joint_unimodal`, or none"
        )
    if len(have) < 2:
        problems.append(f"`{method.name}` needs at least two modalities, but the corpus has only {', '.join(have)}")
    if isinstance(method, c.RemixConfig):
        if method.training_order is not None and sorted(method.training_order) != sorted(have):
            problems.append(f"`method.training_order` must name {', '.join(have)} once each")
        if isinstance(method.share, c.FixedShareConfig) and sorted(method.share.parts) != sorted(have):
            problems.append(f"`method.share.parts` must name {', '.join(have)} once each")
        if isinstance(method.share, c.ProgressShareConfig) and method.share.lowest * len(have) >= 1:
            problems.append(f"`method.share.lowest` must be below 1/{len(have)}, but is {method.share.lowest:g}")
        problems += _threshold_problems(method, len(store.classes), len(have))
    return problems


def _threshold_problems(method: c.RemixConfig, classes: int, modalities: int) -> list[str]:
    low, high = score_range(method.score, classes)
    span = f"the score `{method.score}` lies in [{low:.3g}, {high:.3g}] for {classes} classes"
    match method.filter:
        case c.MarginConfig(threshold=threshold) if threshold > high - low:
            return [f"`method.filter.threshold` must be at most {high - low:.3g}, but is {threshold:g}: {span}"]
        case c.BandConfig(lower=lower, upper=upper) if upper <= low or lower >= high:
            return [f"`method.filter` must let some scores through, but [{lower:g}, {upper:g}] does not: {span}"]
        case c.MaxShareConfig(share=share) if share * modalities < 1:
            return [
                f"`method.filter.share` must be at least 1/{modalities}, or samples are left over, but is {share:g}"
            ]
        case _:
            return []


def _augment_problems(config: c.RunConfig, store: ClipStore) -> list[str]:
    """Every transform must have something to act on: in the corpus, since a run of one modality shares a recipe."""
    augment, parts = config.augment, [store.preset.parts[m] for m in store.modalities]
    pictures = any(isinstance(part, VideoPreset | FlowPreset) for part in parts)
    sounds = any(isinstance(part, AudioPreset) for part in parts)
    needs = {
        "crop": (augment.crop, any(isinstance(part, VideoPreset) for part in parts), "video"),
        "flip": (augment.flip, pictures, "video or flow"),
        "time_mask": (augment.time_mask > 0, sounds, "spectrograms"),
        "frequency_mask": (augment.frequency_mask > 0, sounds, "spectrograms"),
        "shift": (augment.shift > 0, sounds, "spectrograms"),
    }
    kinds = {m: store.preset.parts[m].kind for m in store.modalities}
    have = ", ".join(m if m == kind else f"{m} ({kind})" for m, kind in kinds.items())
    problems = [
        f"`augment.{name}` is for {of}, but the corpus has {have}; leave it out"
        for name, (asked, there, of) in needs.items()
        if asked and not there
    ]
    for part in parts:
        if isinstance(part, AudioPreset):
            problems += _mask_problems(augment, part)
    if augment.frames == "random" and not any(isinstance(p, VideoPreset) and p.candidates > 1 for p in parts):
        problems.append(
            "`augment.frames: random` needs several frames of each segment, but the store has one; prepare it with a "
            "preset such as 3x224r, or leave it out"
        )
    return problems


def _mask_problems(augment: c.AugmentConfig, part: AudioPreset) -> list[str]:
    frames, bands = part.shape[part.time_axis], part.shape[1 - part.time_axis]
    masks = (
        ("time_mask", augment.time_mask, frames, "frames"),
        ("frequency_mask", augment.frequency_mask, bands, "bands"),
    )
    return [
        f"`augment.{name}` must be below the {there} {of} of a spectrogram, but is {most}; a mask could hide all of it"
        for name, most, there, of in masks
        if most >= there
    ]


def _model_problems(config: c.RunConfig, store: ClipStore) -> list[str]:
    problems = [
        f"`model.encoders` names {m}, but the corpus has {', '.join(store.modalities)}"
        for m in canonical_order(config.model.encoders)
        if m not in store.modalities
    ]
    problems += [
        f"the encoder of {m} must take {_looks(part)}, but `{encoder.name}` does not; "
        f"use `model.encoders: {{{m}: {{name: {_fitting(part).name}}}}}`"
        for m in modalities_of(config, store)
        if m in store.modalities
        for part in (store.preset.parts[m],)
        for encoder in (encoder_of(config.model, m, part),)
        if not _fits(encoder, part)
    ]
    if isinstance(config.evaluation.ceilings, dict):
        problems += [
            f"`evaluation.ceilings` names {m}, but the corpus has {', '.join(store.modalities)}"
            for m in canonical_order(config.evaluation.ceilings)
            if m not in store.modalities
        ]
    if config.model.fusion == "film" and len(store.modalities) != 2 and not isinstance(config.method, c.UnimodalConfig):
        problems.append(f"`model.fusion: film` needs two modalities, but the corpus has {len(store.modalities)}")
    return problems


def _looks(part: Part) -> str:
    if not isinstance(part, FeaturePreset) or part.layout == "image":
        return "pictures" if isinstance(part, VideoPreset | FlowPreset) else "spectrograms"
    return f"a {part.layout} of {'values' if part.layout == 'vector' else 'vectors'}"
