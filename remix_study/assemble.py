"""Build the objects of a run from its configuration and its corpus

This module maps every config class to the class it selects; `networks.py` does so for models, `added.py` and
`planned.py` for methods. `fit.py` checks a configuration against a corpus first; `assemble` assumes that this check
passed.
"""

# N training samples, M modalities

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, assert_never

import numpy as np
import torch
from numpy.typing import NDArray

from remix_study.added import Facts, plan_of, rules_of
from remix_study.augment import Augmentation
from remix_study.balancing import CrossEntropy, FusedLoss, Method, UnimodalLosses, balanced_weights
from remix_study.balancing.abstain import Abstain
from remix_study.balancing.greedy import Greedy
from remix_study.balancing.losses import AloneLoss
from remix_study.balancing.slots import RateRule
from remix_study.balancing.uninformative import DETECTORS
from remix_study.config import fusion as f
from remix_study.config import run as c
from remix_study.config.method import (
    JointConfig,
    JointUnimodalConfig,
    MethodConfig,
    RemixConfig,
    UnimodalConfig,
    expanded,
    trains_heads,
)
from remix_study.config.schedule import EachNotNegative
from remix_study.datasets.clips import ClipReader
from remix_study.datasets.control import divide_training
from remix_study.datasets.truth import informative_NM
from remix_study.idle import warn_of_idle_settings
from remix_study.media.store import ClipStore
from remix_study.models import Encoder, MultimodalModel
from remix_study.networks import build_model, modalities_of
from remix_study.planned import abstaining_weight, cross_fit, loss_weights, rate_factors, remix_plan, scheduled
from remix_study.remix import Assignment, ConstantPlan, Reassembly, everything_joint
from remix_study.remix.assignment import column_order
from remix_study.remix.course import Course
from remix_study.tracking.tracker import Tracker
from remix_study.training import learning_rate as rates
from remix_study.training.checkpoint import Checkpoints
from remix_study.training.run import EpochCallback, LoopSettings, Run
from remix_study.world import Collectives


def assemble(
    config: c.RunConfig,
    store: ClipStore,
    collectives: Collectives,
    device: torch.device,
    tracker: Tracker,
    folder: Path,
    *,
    digest: str | None = None,
    teachers: Mapping[str, Encoder] | None = None,
    course: Course | None = None,
    ceilings: Mapping[str, float] | None = None,
    callback: EpochCallback | None = None,
    at_most: int | None = None,
    preempted: Callable[[], bool] = lambda: False,
) -> Run:
    """Build this rank's part of a run.

    Args:
        config: a configuration that fits `store` (see `fit.require_fit`).
        store: the clip store.
        collectives: the communication between ranks; it knows this rank and the number of ranks.
        device: where the model and the batches are.
        tracker: receives parameters, metrics and artifacts.
        folder: the run folder, for checkpoints and `history.jsonl`.
        digest: of the run; by default that of `config` and `store`, without the runs that it needs.
        teachers: modality -> frozen encoder, of a method that learns from teachers.
        course: of the run that the filter rule of Remix replays, if it replays one.
        ceilings: modality -> accuracy of a unimodal run, in [0, 1].
        callback: called after every epoch.
        at_most: use at most this many clips of each split, to time a part of an epoch.
        preempted: returns whether this rank's node or process is about to be preempted.
    """
    modalities = modalities_of(config, store)
    model = build_model(config, store).to(device)
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)
    rows = {split: _spread(rows_N, at_most) for split, rows_N in split_rows(config, store).items()}
    method = _method(
        config, modalities, rows["train"], store.labels_N[rows["train"]], len(store.classes),
        lambda: build_model(config, store), teachers or {}, course,
        None if config.targets is None else informative_NM(store, rows["train"], modalities),
    )  # fmt: skip
    optimizer = _optimizer(config.optimizer, _parameter_groups(model, method, config.learning_rate_factor))
    if collectives.world.leads:
        warn_of_idle_settings(config, method, modalities)
    settings = LoopSettings(
        digest=config.digest(store.digest) if digest is None else digest,
        epochs=config.epochs,
        seed=config.seed,
        learning_rate=config.optimizer.learning_rate,
        evaluation_batch=config.evaluation.batch,
        clash_every=config.evaluation.clash_every,
        clip_norm=config.clip_norm,
        micro_batch=config.micro_batch,
        autocast=config.precision == "bfloat16",
        masking=config.masking,
        test=config.evaluation.test,
        probe=config.evaluation.probe,
        ceilings=ceilings,
        select_by=config.evaluation.select_by,
        select=config.evaluation.select,
    )
    return Run(
        settings=settings,
        method=method,
        model=model,
        optimizer=optimizer,
        rate=_rate(config),
        reader=ClipReader(store, device, channels_last=config.channels_last, modalities=modalities),
        rows=rows,
        augmentation=_augmentation(config.augment),
        collectives=collectives,
        checkpoints=Checkpoints(folder / "checkpoints"),
        tracker=tracker,
        history_file=folder / "history.jsonl",
        callback=callback,
        preempted=preempted,
        encoder_rates=_encoder_rates(config),
        scheduled=scheduled(config),
    )


def split_rows(config: c.RunConfig, store: ClipStore) -> dict[str, NDArray[np.int64]]:
    """Rows of the store, by split: `train` are those on which the run trains, `control` those that it leaves out."""
    rows = {split: store.rows(split) for split in store.splits}
    if config.control:
        rows["train"], rows["control"] = divide_training(store, config.control, config.seed)
    return rows


def _spread(rows: NDArray[np.int64], at_most: int | None) -> NDArray[np.int64]:
    """At most `at_most` of `rows`, evenly spaced, since manifests are often sorted by class."""
    if at_most is None or len(rows) <= at_most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, at_most).astype(np.int64)]


def _method(
    config: c.RunConfig,
    modalities: tuple[str, ...],
    rows_N: NDArray[np.int64],
    labels_N: NDArray[np.int64],
    classes: int,
    initial: Callable[[], MultimodalModel],
    teachers: Mapping[str, Encoder],
    course: Course | None,
    informative_NM: NDArray[np.bool_] | None,
) -> Method:
    method = expanded(config.method)
    samples, M = len(labels_N), len(modalities)
    order = training_order(method, modalities)
    how = Reassembly(
        order=method.order if isinstance(method, RemixConfig) else "shuffled",
        columns=tuple(column_order(modalities, order)),
        batch=config.global_batch,
        incomplete=config.incomplete,
        smallest=config.smallest,
        accumulate=isinstance(method, RemixConfig) and method.accumulate,
    )
    joint = ConstantPlan(everything_joint(samples, M), how, config.seed)
    weights = balanced_weights(labels_N, classes) if config.loss.class_weights == "balanced" else None
    ce = CrossEntropy(config.loss.label_smoothing, weights)
    abstain = _abstain(config, modalities, rows_N, classes, informative_NM)
    targets = () if abstain is None else (abstain,)
    if isinstance(method, UnimodalConfig):
        alone = Assignment(np.ones((samples, 1), np.bool_), np.zeros(samples, np.bool_))
        rule = FusedLoss(ce) if abstain is None else AloneLoss(method.modality, ce, abstain)
        return Method("unimodal", ConstantPlan(alone, how, config.seed), (rule, *targets))
    facts = Facts(
        modalities, config.seed, config.epochs, rows_N, labels_N, classes, ce, initial,
        partial(_plan_of, modalities, samples, replace(how, order="shuffled", accumulate=False), config.seed),
        heads=trains_heads(config.method),
        unimodal_from=method.warmup if isinstance(method, RemixConfig) else None,
        teachers=teachers,
        autocast=config.precision == "bfloat16",
        targets=abstain,
    )  # fmt: skip
    added = (*targets, *rules_of(method.added, facts), *_greedy(config.model.fusion, modalities))
    match method:
        case JointConfig():
            plan = plan_of(method.added, joint, facts)
            return Method(config.method.name, plan, (FusedLoss(ce), *added), trains_heads=facts.heads)
        case JointUnimodalConfig():
            plan = plan_of(method.added, joint, facts)
            losses = (FusedLoss(ce), UnimodalLosses(*loss_weights(method, config.epochs), ce, abstain))
            return Method(config.method.name, plan, (*losses, *added))
        case RemixConfig():
            apart = config.model.fusion.name in f.INSIDE
            fitted = cross_fit(method, modalities, labels_N, how, config.seed, ce, apart=apart)
            reference = None if fitted is None else fitted.losses
            remix = remix_plan(
                method, modalities, labels_N, classes, how, config.seed, config.epochs, course, reference
            )
            if method.predictions == "dropout":
                return Method("remix", remix, (FusedLoss(ce), *added), trains_heads=False)
            losses = (FusedLoss(ce), UnimodalLosses(*loss_weights(method, config.epochs), ce, abstain))
            return Method("remix", remix, (*losses, *(() if fitted is None else (fitted,)), *added))
        case unreachable:
            assert_never(unreachable)


def _abstain(
    config: c.RunConfig,
    modalities: tuple[str, ...],
    rows_N: NDArray[np.int64],
    classes: int,
    informative_NM: NDArray[np.bool_] | None,
) -> Abstain | None:
    """The rule of abstaining targets, if there are any."""
    if config.targets is None:
        return None
    of, begin, every = config.targets.of, config.targets.begin, config.targets.every
    detector = None if of == "truth" else DETECTORS[of](classes)
    truth_NM = None if informative_NM is None else ~informative_NM
    return Abstain(modalities, rows_N, abstaining_weight(config), truth_NM, detector, begin=begin, every=every)


def _greedy(fusion: f.FusionConfig, modalities: tuple[str, ...]) -> tuple[Greedy, ...]:
    """The rule of `model.fusion.greedy`, if it is set."""
    match fusion:
        case f.MMTMConfig(greedy=f.GreedyConfig(threshold=threshold, steps=steps)):
            return (Greedy(modalities, threshold, steps),)
        case _:
            return ()


def _plan_of(
    modalities: tuple[str, ...], samples: int, how: Reassembly, seed: int, trained: tuple[str, ...]
) -> ConstantPlan:
    """A plan in which every sample trains all modalities, or the only one in `trained`."""
    if trained == modalities:
        return ConstantPlan(everything_joint(samples, len(modalities)), how, seed)
    assigned_NM = np.tile([m in trained for m in modalities], (samples, 1))
    return ConstantPlan(Assignment(assigned_NM, np.zeros(samples, np.bool_)), how, seed)


def training_order(method: MethodConfig, modalities: tuple[str, ...]) -> tuple[str, ...]:
    """The order in which modalities train in an epoch; by default video before audio, as in the released code."""
    given = method.training_order if isinstance(method, RemixConfig) else None
    return tuple(reversed(modalities)) if given is None else given


def _parameter_groups(model: MultimodalModel, method: Method, factors: EachNotNegative = 1.0) -> list[dict[str, Any]]:
    """All parameters; one group per encoder, named by its modality, only if their learning rates differ."""
    if not isinstance(factors, dict) and not any(isinstance(rule, RateRule) for rule in method.rules):
        return [{"params": list(model.parameters())}]
    groups = [{"params": list(model.encoder_parameters(m)), "modality": m} for m in model.modalities]
    encoders = {p for group in groups for p in group["params"]}
    return [{"params": [p for p in model.parameters() if p not in encoders]}, *groups]


def _optimizer(config: c.OptimizerConfig, parameters: list[dict[str, Any]]) -> torch.optim.Optimizer:
    rate = config.learning_rate
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


def _rate(config: c.RunConfig) -> rates.RateFactor:
    """The factor of the learning rate of all parameters."""
    follows, factors = _rate_of(config.rate, config.epochs), rate_factors(config)
    if isinstance(factors, Mapping) or factors == 1:
        return follows
    if not callable(factors):
        return lambda epoch: follows(epoch) * factors
    return lambda epoch: follows(epoch) * (1.0 if isinstance(now := factors(epoch), Mapping) else now)


def _encoder_rates(config: c.RunConfig) -> Callable[[int], Mapping[str, float]]:
    """A function of the epoch: modality -> a further factor of the learning rate of its encoder."""
    factors = rate_factors(config)
    if callable(factors):
        return lambda epoch: now if isinstance(now := factors(epoch), Mapping) else {}
    return lambda epoch: factors if isinstance(factors, Mapping) else {}  # noqa: ARG005 - a function of the epoch


def _rate_of(config: c.RateConfig, epochs: int) -> rates.RateFactor:
    match config:
        case c.ConstantRateConfig():
            return rates.constant()
        case c.StepRateConfig(every=every, factor=factor):
            return rates.step(epochs, every, factor)
        case c.CosineRateConfig(warmup=warmup, final=final):
            return rates.cosine(epochs, warmup, final)
        case unreachable:
            assert_never(unreachable)
