"""One optimizer step over all ranks

Data-parallel training with one all-reduce of the parameters that were trained in the step. The gradient is that of the
mean loss over the global batch, for any batch size and any distribution of the batch over ranks. torch's DDP does not
fit: it needs `find_unused_parameters` for skipped encoders, averages over ranks even if their batches differ in size,
and hides gradients from methods that compare them.
"""

# B samples of this rank, P parameters

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import nn

from remix_study.balancing import GradientRule, Mask, Method, Step, StepBatch, Terms
from remix_study.balancing.slots import MaskRule, Summing
from remix_study.errors import NotANumberError
from remix_study.models import MultimodalModel, Outputs
from remix_study.sample import Batch
from remix_study.training.accumulate import Accumulation
from remix_study.training.unimodal_gradients import SeparateGradient, UnimodalGradients
from remix_study.world import Collectives


class SharedFlags:
    """Flags that ranks share in the all-reduce of every step, which they need anyway.

    Args:
        own: returns this rank's flags, always as many. It is called once per step.

    Attributes:
        counts: for each flag, the number of ranks that set it in the last step; equal on every rank.
    """

    def __init__(self, own: Callable[[], Sequence[bool]]) -> None:
        self.own = own
        self.counts: tuple[int, ...] = ()


def train_step(
    model: MultimodalModel,
    method: Method,
    batch: Batch | Iterable[Batch],
    global_count: int,
    optimizer: torch.optim.Optimizer,
    collectives: Collectives,
    *,
    at: Step,
    autocast: bool,
    clip_norm: float | None,
    accumulation: Accumulation | None = None,
    flags: SharedFlags | None = None,
) -> torch.Tensor:
    """Train on this rank's part of a global batch.

    Args:
        batch: this rank's samples, or micro-batches of them, which go through the model one after the other. Their
            gradients add up to that of the whole batch.
        global_count: number of samples of the global batch, over all ranks.
        at: the step; equal on every rank.
        accumulation: accumulates the gradients of encoders over steps, and has begun this one. None: every step updates
            the encoders that it trains. Gradient rules do not act on accumulated gradients.
        flags: further flags to share, such as the notice of a preemption.

    Returns:
        The sum of the losses of this rank's samples (a detached scalar, in nats).

    Raises:
        NotANumberError: a loss is not finite, on any rank.
    """
    optimizer.zero_grad(set_to_none=True)
    batches = (batch,) if isinstance(batch, Batch) else batch
    rules = [rule for rule in method.gradients if accumulation is None and rule.acts(at)]
    combine = method.combine if accumulation is None and method.combine and method.combine.acts(at) else None
    alone = UnimodalGradients(model) if combine is not None else None
    computed = []
    for each in batches:
        seen = _forward(model, method, each, collectives, at, autocast)
        left = _samples_left(method, seen, collectives)
        computed.append(_backward(method, rules, seen, global_count if left is None else left, accumulation, alone))
    total = torch.stack([each.total for each in computed]).sum()
    sums = [torch.stack(parts).sum(dim=0) for parts in zip(*(each.sums for each in computed), strict=True)]
    for _ in (None,) if accumulation is None else accumulation.load():
        parameters = [*model.parameters(), *(() if alone is None else alone.gradients())]
        sums = _reduce(parameters, total, sums, collectives, lambda: _problem(computed, at), flags)
        flags = None  # one answer per step, even if it completes several updates
        if combine is not None and alone is not None:
            combine.combine(alone.by_modality())
        for rule, sums_K in zip(rules, sums, strict=True):
            rule.apply(model, sums_K, at)
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        optimizer.step()
    return total


class _Losses(NamedTuple):
    """Losses of a micro-batch, detached, the modalities that it trains, and the sums of the gradient rules."""

    total: torch.Tensor
    terms: dict[str, torch.Tensor]
    trained: list[str]
    sums: list[torch.Tensor]


def _forward(
    model: MultimodalModel, method: Method, batch: Batch, collectives: Collectives, at: Step, autocast: bool
) -> StepBatch:
    """The outputs of a micro-batch, after the mask rules."""
    with mixed_precision(batch.labels_B.device, autocast):
        outputs = model(batch)
    seen = step_batch(model, batch, outputs, at)
    summing = [rule for rule in method.summing if rule.acts(at)]
    seen = _with_totals([rule for rule in summing if isinstance(rule, MaskRule)], seen, collectives)
    for rule in method.masks:
        if rule.acts(at):
            seen = _masked(model, seen, rule.mask(seen), autocast)
    # After the masks, so that sums for losses are of what trains.
    return _with_totals([rule for rule in summing if not isinstance(rule, MaskRule)], seen, collectives)


@torch.no_grad()
def _samples_left(method: Method, seen: StepBatch, collectives: Collectives) -> torch.Tensor | None:
    """The number of samples of the global batch that still train, if a mask rule may have removed some."""
    if not any(rule.acts(seen.at) for rule in method.removing):
        return None
    left = seen.active_BM.any(dim=1).sum().float()
    collectives.sum_(left)
    return left.clamp(min=1)


def step_batch(model: MultimodalModel, batch: Batch, outputs: Outputs, at: Step) -> StepBatch:
    """What the rules of a method see of a micro-batch and its outputs.

    A modality that is encoded but inactive (`zero_feature`) gives its head no gradient, as in the released code.
    """
    active_BM = batch.active_BM
    if batch.modalities != model.modalities:
        active_BM = active_BM[:, [batch.modalities.index(m) for m in model.modalities]]
    return StepBatch(
        model, outputs, batch.labels_B, active_BM, _by_modality(model, active_BM), torch.ones_like(active_BM),
        batch.samples_B, batch.inputs, at,
    )  # fmt: skip


def _by_modality(model: MultimodalModel, active_BM: torch.Tensor) -> dict[str, torch.Tensor]:
    """Modality -> bool (B,), without modalities that no sample trains."""
    trained_M = active_BM.any(dim=0).tolist()  # one wait for the device, not one of each modality
    columns = zip(model.modalities, active_BM.unbind(dim=1), trained_M, strict=True)
    return {m: rows_B for m, rows_B, trained in columns if trained}


@torch.no_grad()
def _with_totals(summing: Sequence[Summing], seen: StepBatch, collectives: Collectives) -> StepBatch:
    """The batch with the sums over the global batch for which rules ask before they act."""
    if not summing:
        return seen
    sums = [rule.sums_before(seen) for rule in summing]
    together = torch.cat(sums)
    collectives.sum_(together)
    parts = torch.split(together, [len(each) for each in sums])
    # In float64 together, if one of them is.
    found = {rule.name: part.to(own.dtype) for rule, own, part in zip(summing, sums, parts, strict=True)}
    return replace(seen, totals={**seen.totals, **found})


def _masked(model: MultimodalModel, seen: StepBatch, mask: Mask, autocast: bool) -> StepBatch:
    """The batch with fewer active modalities. The unimodal logits stay as they are, since their losses are masked."""
    features = seen.outputs.features
    if mask.factor is not None:
        features = {m: features_Bd * mask.factor for m, features_Bd in features.items()}
    active_BM = seen.active_BM & mask.active_BM
    active = _by_modality(model, active_BM)
    with mixed_precision(active_BM.device, autocast):
        logits_BC = model.fuse(features, active_BM, heads=active)
        hidden = model.mask(features, active_BM)
    outputs = Outputs(logits_BC, seen.outputs.head_logits, hidden)
    return replace(seen, outputs=outputs, active_BM=active_BM, active=active, before=seen.before or seen)


def _backward(
    method: Method,
    rules: Sequence[GradientRule],
    seen: StepBatch,
    count: int | torch.Tensor,
    accumulation: Accumulation | None,
    alone: UnimodalGradients | None,
) -> _Losses:
    """Add the gradients of a micro-batch. Nothing that is returned keeps its graph in memory.

    Args:
        count: number of samples of the global batch; a tensor, if only the samples that still train count.
    """
    terms: Terms = {}
    for rule in method.losses:
        terms = rule.loss(seen, terms)
    if isinstance(count, torch.Tensor):
        trains_B = seen.active_BM.any(dim=1)
        terms = {name: term * trains_B for name, term in terms.items()}
    total = torch.stack([term.sum() for term in terms.values()]).sum()
    if alone is not None:
        alone.backward(terms, seen.before or seen, count)
    elif accumulation is None:
        torch.autograd.backward(total / count)
    else:
        assert isinstance(count, int)  # neither takes all samples of an update at once
        accumulation.backward(torch.stack(list(terms.values())).sum(dim=0), count)
    with torch.no_grad():
        sums = [rule.sums(seen) for rule in rules]
    return _Losses(total.detach(), {name: term.detach() for name, term in terms.items()}, list(seen.active), sums)


@contextmanager
def mixed_precision(device: torch.device, enabled: bool) -> Iterator[None]:
    """Autocast to bfloat16 if `enabled`; unlike float16, it needs no loss scaling."""
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled):
        yield


def _reduce(
    parameters: Iterable[nn.Parameter | SeparateGradient],
    total: torch.Tensor,
    sums: list[torch.Tensor],
    collectives: Collectives,
    problem: Callable[[], str],
    shared: SharedFlags | None,
) -> list[torch.Tensor]:
    """Sum gradients over ranks, and return `sums` summed over ranks.

    A parameter that no rank trained keeps None, so the optimizer skips it.
    """
    every = list(parameters)
    own = [] if shared is None else [int(flag) for flag in shared.own()]
    if collectives.world.size == 1:
        if shared is not None:
            shared.counts = tuple(own)
        if not torch.isfinite(total):
            raise NotANumberError(problem())
        return sums
    # Share which parameters any rank trained, and whether any loss is not finite. Ranks can differ: a mixed batch may
    # give a rank no sample of some modality.
    flags = torch.tensor([0.0, *own, *(float(p.grad is not None) for p in every)], device=total.device)
    flags[0] = (~torch.isfinite(total)).float()
    together = torch.cat([flags, *sums])
    collectives.sum_(together)
    flags, *summed = torch.split(together, [len(flags), *map(len, sums)])
    broken, *answers = flags.tolist()
    if shared is not None:
        shared.counts = tuple(map(int, answers[: len(own)]))
    if broken > 0:
        raise NotANumberError(problem())
    trained = [p for p, count in zip(every, answers[len(own) :], strict=True) if count > 0]
    if trained:  # else no update is complete, and the fusion has no parameters
        like = [p.parameter if isinstance(p, SeparateGradient) else p for p in trained]
        mine = [torch.zeros_like(of) if p.grad is None else p.grad for p, of in zip(trained, like, strict=True)]
        flat = torch.cat([gradient.flatten() for gradient in mine])
        collectives.sum_(flat)
        parts = torch.split(flat, [of.numel() for of in like])
        for p, of, gradient in zip(trained, like, parts, strict=True):
            p.grad = gradient.view_as(of).clone(memory_format=torch.preserve_format)
    return summed


def _problem(computed: list[_Losses], at: Step) -> str:
    broken = {name: None for each in computed for name, term in each.terms.items() if not torch.isfinite(term).all()}
    trained = {m: None for each in computed for m in each.trained}
    losses = ", ".join(broken) if broken else "on another worker"
    return (
        f"{at}: the loss must be a number, but is not (loss terms: {losses}; modalities trained in this step: "
        f"{', '.join(trained)}). Lower `optimizer.learning_rate`, or set `clip_norm`, e.g. 1.0."
    )
