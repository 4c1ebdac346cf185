"""Keys of a run that contradict each other, or have no effect together

A problem is the dotted key to change, and a sentence that says what is wrong and what helps. What needs the corpus to
be decided is in `fit.py`.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from remix_study.config.assignment import (
    ArgminShareConfig,
    BlockGainShareConfig,
    CostConfig,
    RandomConfig,
    ReducibleLossConfig,
    ReplayConfig,
)
from remix_study.config.balancing import AUGOptions, DGLOptions, MMCosineOptions, Options
from remix_study.config.fusion import INSIDE, PUBLISHED, SELECTING_FUSIONS, SPLITTING_FUSIONS, MMTMConfig
from remix_study.config.method import (
    Extensible,
    JointConfig,
    RemixConfig,
    UnimodalConfig,
    each_of,
    expanded,
    has_heads_to_abstain,
    has_unimodal_losses,
    replayed_of,
    shares_head,
)
from remix_study.config.phases import PhaseConfig, SMPConfig

if TYPE_CHECKING:
    from remix_study.config.run import RunConfig

Problem = tuple[str, str]


def contradictions(run: "RunConfig") -> list[Problem]:
    """Every problem of a run."""
    problems = [*_control(run), *_batches(run)]
    if isinstance(run.method, RemixConfig):
        problems += [*_remix(run, run.method), *_share(run.method), *_dropout(run.method)]
    problems += [*_fusion(run), *_additions(run), *_targets(run)]
    if isinstance(run.method, RemixConfig):
        problems += _phases(run.method)
    return [*problems, *_rate(run)]


def _control(run: "RunConfig") -> Iterator[Problem]:
    reading = run.reading_control
    if reading and not run.control:
        message = (
            f"`control_fraction` must be above 0, because {' and '.join(reading)} "
            f"{'reads' if len(reading) == 1 else 'read'} the control split while training, but is 0"
        )
        yield "control_fraction", message


def _batches(run: "RunConfig") -> Iterator[Problem]:
    if run.global_batch % run.workers:
        fitting = [n for n in (run.global_batch // run.workers * run.workers,) if n] + [
            (run.global_batch // run.workers + 1) * run.workers
        ]
        message = (
            f"`global_batch` must be a multiple of the number of workers ({run.workers}), but is "
            f"{run.global_batch}; use {' or '.join(map(str, fitting))}, or change `workers`"
        )
        yield "global_batch", message
    if run.smallest > run.global_batch:
        message = f"`smallest_batch` must be at most `global_batch` ({run.global_batch}), but is {run.smallest}"
        yield "smallest_batch", message
    if run.smallest < run.workers:
        message = (
            f"`smallest_batch` must be at least `workers` ({run.workers}), so that no worker's part of a batch is "
            f"empty, but is {run.smallest}"
        )
        yield "smallest_batch", message


def _remix(run: "RunConfig", method: RemixConfig) -> Iterator[Problem]:
    if method.warmup >= run.epochs:
        message = (
            f"`method.warmup` must be below `epochs` ({run.epochs}), because samples are assigned only after it, "
            f"but is {method.warmup}"
        )
        yield "method.warmup", message
    if (replayed := replayed_of(method)) is not None:
        for key in ("share", "joint_share"):
            if getattr(method, key) != RemixConfig.model_fields[key].default:
                message = (
                    f"`method.{key}` has no effect with `filter: {replayed.rule}`, whose shares are those of another "
                    "run; leave it out"
                )
                yield f"method.{key}", message
    if not method.accumulate:
        return
    if method.order != "mixed":
        message = (
            f"`method.accumulate` needs `order: mixed`, but `method.order` is {method.order}, in which batches are not "
            "mixed"
        )
        yield "method.accumulate", message
    if run.masking in ("zero_feature", "zero_input"):
        message = (
            f"`method.accumulate` needs `masking: skip_encoder`, because with `{run.masking}` the optimizer moves "
            "every encoder in every step"
        )
        yield "method.accumulate", message


_AS_ARGMIN = ("argmin", "permuted", "max_share", "margin")  # filter rules that assign as many samples as argmin


def _share(method: RemixConfig) -> list[Problem]:
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


def _dropout(method: RemixConfig) -> Iterator[Problem]:
    if method.predictions != "dropout":
        return
    if isinstance(method.filter, ReducibleLossConfig):
        message = (
            "`method.filter.rule: reducible_loss` compares the losses of unimodal heads, which `predictions: "
            "dropout` does not have; use `predictions: heads`"
        )
        yield "method.filter.rule", message
    for key in ("warmup_weight", "weight"):
        if getattr(method, key) != RemixConfig.model_fields[key].default:
            message = f"`method.{key}` weighs unimodal losses, which `predictions: dropout` does not have; leave it out"
            yield f"method.{key}", message


def _fusion(run: "RunConfig") -> Iterator[Problem]:
    method, fusion = run.method, run.model.fusion.name
    greedy = isinstance(run.model.fusion, MMTMConfig) and run.model.fusion.greedy is not None
    if greedy and isinstance(method, RemixConfig) and method.accumulate:
        message = (
            "`model.fusion.greedy` needs the gradient of a whole step, which `method.accumulate` does not compute; "
            "leave one of them out"
        )
        yield "model.fusion.greedy", message
    if run.replaces and fusion in SELECTING_FUSIONS and not isinstance(method, UnimodalConfig):
        message = (
            f"`masking: {run.masking}` has no effect with `model.fusion: {fusion}`, which leaves inactive "
            "modalities out; use another fusion, or `masking: skip_encoder`"
        )
        yield "masking", message
    if isinstance(method, RemixConfig) and fusion in PUBLISHED and not run.replaces:
        headless = method.predictions == "dropout"
        remedy = "`method.predictions: heads`" if headless else "`method.weight` above 0"
        phases = method.phases if isinstance(method.phases, tuple) else ()
        weights = [method.weight, *(phase.weight for phase in phases if phase.weight is not None)]
        if headless or any(0 in each_of(each) for each in weights):
            message = (
                f"`model.fusion: {fusion}` needs unimodal losses with Remix, because the fused loss of a unimodal "
                f"batch may reach its encoder by a bias only; use {remedy}, `masking: mean_feature` or "
                f"`model.fusion: {fusion.removesuffix('_published')}`"
            )
            yield "method.predictions" if headless else "method.weight", message


def _additions(run: "RunConfig") -> Iterator[Problem]:
    method = run.method
    whole = expanded(method)
    if isinstance(whole, UnimodalConfig):
        return
    for name in whole.added.names():
        key = f"method.with.{name}" if isinstance(method, Extensible) else "method.name"
        options: Options = getattr(whole.added, name)
        if options.splits and run.model.fusion.name not in SPLITTING_FUSIONS:
            message = (
                f"`{name}` needs the part of each modality in the fused logits, which `model.fusion: "
                f"{run.model.fusion.name}` does not have; use concat, sum or decision"
            )
            yield key, message
        elif not options.inside and run.model.fusion.name in INSIDE:
            message = (
                f"`{name}` needs features of each modality alone, which `model.fusion: {run.model.fusion.name}` "
                "mixes inside the encoders; use a fusion after the encoders, such as concat"
            )
            yield key, message
        if options.splits and shares_head(method):
            message = f"`{name}` needs the part of each modality in the fused logits, which `mla` does not have"
            yield key, f"{message}; leave one of them out"
        if isinstance(options, AUGOptions) and shares_head(method):
            message = (
                "`aug` adds to the head of each modality, but with `mla` all modalities share one; keep one of them"
            )
            yield key, message
        if isinstance(options, MMCosineOptions) and whole.added.mla is not None:
            message = "`mmcosine` and `mla` must not be combined, because each brings its fusion; keep one of them"
            yield key, message
        if isinstance(options, MMCosineOptions) and run.model.fusion.name != "concat":
            message = (
                f"`mmcosine` is a form of `model.fusion: concat`, but the fusion is {run.model.fusion.name}; use "
                "concat, or leave one of them out"
            )
            yield key, message
        if options.on_unimodal_losses and not has_unimodal_losses(method):
            joint = isinstance(whole, JointConfig)
            lacks, helps = (
                ("joint", "joint_unimodal or remix") if joint else ("predictions: dropout", "`predictions: heads`")
            )
            message = f"`{name}` needs unimodal losses, which `{lacks}` does not have; use {helps}"
            yield key, message
        if isinstance(options, AUGOptions) and options.fused_weight == 0 and run.model.fusion.name != "decision":
            message = (
                f"`aug` with `fused_weight: 0` leaves `model.fusion: {run.model.fusion.name}` without a loss; use "
                "decision, or a greater weight"
            )
            yield key, message
        if isinstance(options, DGLOptions) and options.alpha == 0 and isinstance(whole, JointConfig):
            message = (
                "`dgl` with `alpha: 0` leaves the encoders of `joint` without a loss; use a greater alpha, or "
                "joint_unimodal or remix"
            )
            yield key, message
        if options.whole_batch and run.micro_batch is not None:
            message = f"`{name}` needs the whole batch at once, which `micro_batch` divides; leave one of them out"
            yield key, message
        if isinstance(method, RemixConfig) and options.excludes_remix:
            message = (
                f"`{name}` and `remix` must not be combined, because each {options.decides}; use joint or "
                "joint_unimodal, or leave one of them out"
            )
            yield key, message
        if isinstance(method, RemixConfig) and method.accumulate:
            message = (
                f"`{name}` needs the gradient of a whole step, which `method.accumulate` does not compute; leave "
                "one of them out"
            )
            yield key, message


def _targets(run: "RunConfig") -> Iterator[Problem]:
    if run.targets is not None and not has_heads_to_abstain(run.method):
        lacks = "predictions: dropout" if isinstance(run.method, RemixConfig) else run.method.name
        message = (
            f"`targets` needs unimodal losses, which `{lacks}` does not have; use joint_unimodal, or remix with "
            "`predictions: heads`"
        )
        yield "targets", message


def _rate(run: "RunConfig") -> Iterator[Problem]:
    if run.rate.name == "cosine" and run.rate.warmup >= run.epochs:
        message = (
            f"`rate.warmup` must be below `epochs` ({run.epochs}), because the full rate is reached after it, "
            f"but is {run.rate.warmup}"
        )
        yield "rate.warmup", message


def _phases(method: RemixConfig) -> list[Problem]:
    """Keys that phases leave without effect, and phases that need others: keys to change, and sentences."""
    problems: list[Problem] = []
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
