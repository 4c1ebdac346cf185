"""Warnings of settings that have no effect in a run, such as a method that starts after the last epoch"""

import logging

from remix_study.balancing import Method
from remix_study.config import balancing as b
from remix_study.config import fusion as f
from remix_study.config import run as c
from remix_study.config.method import RemixConfig, UnimodalConfig, expanded
from remix_study.config.phases import spans
from remix_study.planned import phases_of, trains_jointly
from remix_study.remix import ByCost, RemixPlan

log = logging.getLogger(__name__)


def warn_of_idle_settings(config: c.RunConfig, method: Method, modalities: tuple[str, ...]) -> None:
    """Log a warning for each setting of a run that has no effect.

    Args:
        config: the configuration.
        method: the method that it selects.
        modalities: those of the run.
    """
    _warn_of_methods(config)
    _warn_of_greedy(config)
    _warn_of_rule(config, method)
    _warn_of_share(config)
    _warn_of_phases(config, modalities)
    _warn_of_targets(config)
    _warn_of_blocked_encoder(config, modalities)


def _warn_of_methods(config: c.RunConfig) -> None:
    """Log a warning for each added method that never acts."""
    method = expanded(config.method)
    if isinstance(method, UnimodalConfig):
        return
    if isinstance(method, RemixConfig) and not trains_jointly(method):
        warmup, why = method.warmup, f"after the warm-up of {method.warmup} epochs"
    else:
        warmup, why = 0 if method.added.mla is not None else config.epochs, "with mla"
    for name in method.added.names():
        options = getattr(method.added, name)
        if isinstance(options, b.MLAOptions):
            continue  # its plan and its head act in all epochs
        begin, end = (options.first, options.end) if isinstance(options, b.Windowed) else (0, None)
        if begin >= config.epochs:
            log.warning("%s acts from epoch %d on, so it never acts in %d epochs", name, begin, config.epochs)
        elif end is not None and begin >= end:
            log.warning("%s acts from epoch %d on, but stops before epoch %d, so it never acts", name, begin, end)
        elif begin >= warmup and options.compares:
            log.warning(
                "%s acts on multimodal batches from epoch %d on, but %s all batches are unimodal, so it never acts",
                name, begin, why,
            )  # fmt: skip


def _warn_of_greedy(config: c.RunConfig) -> None:
    """Log a warning if no batch has samples that train both modalities, in which Greedy acts."""
    method, fusion = config.method, config.model.fusion
    greedy = isinstance(fusion, f.MMTMConfig) and fusion.greedy is not None
    if greedy and isinstance(method, RemixConfig) and method.warmup == 0 and not trains_jointly(method):
        log.warning("model.fusion.greedy never acts, because without a warm-up all batches are unimodal")


def _warn_of_share(config: c.RunConfig) -> None:
    """Log a warning if a share follows a drop between two assignments, but the run has only one."""
    method = config.method
    if not isinstance(method, RemixConfig) or method.share is None or not method.share.follows_drops:
        return
    if config.epochs - method.warmup <= method.rescore_every:
        log.warning(
            "method.share: %s never moves, because it compares two assignments, and the run has only one; train more "
            "epochs, or lower rescore_every",
            method.share.kind,
        )  # fmt: skip


def _warn_of_rule(config: c.RunConfig, method: Method) -> None:
    """Log a warning if the run has fewer scoring passes than its filter rule needs."""
    plan = method.plan
    if not isinstance(plan, RemixPlan) or not isinstance(plan.settings.filter, ByCost):
        return
    passes = -(-(config.epochs - plan.settings.warmup) // plan.settings.rescore_every)
    least = plan.settings.filter.rule.least
    if passes < least:
        log.warning(
            "method.filter needs %d scoring passes before it assigns by its costs, but the run has %d, so that all "
            "assignments are random; train more epochs, or lower rescore_every",
            least, passes,
        )  # fmt: skip


def _warn_of_phases(config: c.RunConfig, modalities: tuple[str, ...]) -> None:
    """Log a warning for each phase of Remix that is too short for an epoch."""
    if not isinstance(config.method, RemixConfig):
        return
    epochs = config.epochs - config.method.warmup
    for number, span in enumerate(spans(phases_of(config.method, modalities), config.method.warmup, config.epochs), 1):
        if span.first >= span.end:
            log.warning(
                "phase %d of method.phases has no epoch, because it is too short for %d epochs after the warm-up; "
                "train more epochs, or change where phases end",
                number, epochs,
            )  # fmt: skip


def _warn_of_targets(config: c.RunConfig) -> None:
    """Log a warning if no detector of uninformative samples ever judges."""
    targets = config.targets
    if targets is not None and targets.of != "truth" and targets.begin >= config.epochs:
        log.warning(
            "the detector `%s` judges from epoch %d on, so it never judges in %d epochs",
            targets.of, targets.begin, config.epochs,
        )  # fmt: skip


def _warn_of_blocked_encoder(config: c.RunConfig, modalities: tuple[str, ...]) -> None:
    """Log a warning if the fused loss of a unimodal batch reaches its encoder by a bias of the fusion only."""
    fusion = config.model.fusion.name
    if fusion in f.PUBLISHED and isinstance(config.method, RemixConfig) and not config.replaces:
        blocked = modalities[f.PUBLISHED[fusion]]
        log.warning(
            "with model.fusion: %s, the fused loss of a batch of %s alone reaches the encoder only through a bias, "
            "which is 0 at first, so that mostly the unimodal loss trains it; %s or masking: mean_feature has no such "
            "gap",
            fusion, blocked, fusion.removesuffix("_published"),
        )  # fmt: skip
