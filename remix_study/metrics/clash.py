"""Clash: the angle between the gradients of two objectives for one encoder

    C1  objective conflict     cos( grad CE(z), grad CE(h_m) )    fused and unimodal head: MMPareto (arXiv 2405.17730)
    C2  modality interference  cos( grad CE(z), grad CE(z_{m}) )  fused and fused with m alone, same samples

Gradients are with respect to all parameters of encoder m, flattened, heads excluded. Both are in [-1, 1]: 1 is the same
direction, below 0 is conflict. C2 is our definition of the clash that Data Remixing aims to remove, since the paper's
own measurement is not published. Undefined cosines (no gradient, no row with a second modality) are left out.

Measuring does not change the model: `.grad`, BatchNorm statistics and the mode are kept. Losses are sums over samples,
not means, so that gradients can be summed over ranks with different numbers of active rows; cosines are the same.
"""

# B samples, M modalities, C classes, P parameters of one encoder

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn import functional

from remix_study.sample import Batch

Sum = Callable[[torch.Tensor], None]


class LateFusionOutputs(Protocol):
    """Fused logits (B, C); unimodal logits m -> (B, C) of encoders that ran; features m -> (B, d_m), masked."""

    @property
    def logits_BC(self) -> torch.Tensor: ...
    @property
    def head_logits(self) -> dict[str, torch.Tensor]: ...
    @property
    def features(self) -> dict[str, torch.Tensor]: ...


class LateFusionModel(Protocol):
    """A model with an encoder for each modality, a forward pass, and fused logits of only some of its modalities."""

    encoders: nn.ModuleDict

    @property
    def modalities(self) -> tuple[str, ...]: ...
    def __call__(self, batch: Batch, /) -> LateFusionOutputs: ...
    def only(self, batch: Batch, outputs: Any, kept: Collection[str], /) -> torch.Tensor: ...
    def buffers(self) -> Iterator[torch.Tensor]: ...


def objective_conflict(model: LateFusionModel, batch: Batch, sum_: Sum | None = None) -> dict[str, float]:
    """C1 of each modality, over the batch's rows where it is active.

    Args:
        model: not wrapped in DistributedDataParallel; its mode (training, evaluation) is kept.
        batch: on the model's device.
        sum_: replaces a tensor by its sum over ranks; then every rank must call this function, with its own batch.
    """
    active_BM = _active(model, batch)
    with torch.enable_grad(), _buffers_kept(model):
        outputs = model(batch)
        fused = _cross_entropy(outputs.logits_BC, batch.labels_B, active_BM.any(dim=1))
        # Of each head, the gradient in its own encoder only: with a fusion inside the encoders, others have one, too.
        own = {
            m: _cross_entropy(outputs.head_logits[m], batch.labels_B, active_BM[:, column])
            for column, m in enumerate(model.modalities)
            if m in outputs.head_logits
        }
        nothing = outputs.logits_BC.new_zeros(())
        alone = {m: _gradients(model, own.get(m, nothing), [m]).get(m) for m in model.modalities}
        return _cosines(_gradients(model, fused), {m: found for m, found in alone.items() if found is not None}, sum_)


def modality_interference(model: LateFusionModel, batch: Batch, sum_: Sum | None = None) -> dict[str, float]:
    """C2 of each modality, over the rows where it and at least one other are active.

    1 means that the other modalities do not change the direction of the gradient. Arguments: see `objective_conflict`.
    """
    active_BM = _active(model, batch)
    together_B = active_BM.sum(dim=1) > 1
    with torch.enable_grad(), _buffers_kept(model):
        outputs = model(batch)
        everything = _cross_entropy(outputs.logits_BC, batch.labels_B, together_B)
        alone = outputs.logits_BC.new_zeros(())
        for column, m in enumerate(model.modalities):
            logits_BC = model.only(batch, outputs, {m})
            alone = alone + _cross_entropy(logits_BC, batch.labels_B, active_BM[:, column] & together_B)
        # What replaces a masked feature passes no gradient, so each term reaches its own encoder only.
        return _cosines(_gradients(model, everything), _gradients(model, alone), sum_)


def _active(model: LateFusionModel, batch: Batch) -> torch.Tensor:
    return batch.active_BM[:, [batch.modalities.index(m) for m in model.modalities]]


def _cross_entropy(logits_BC: torch.Tensor, labels_B: torch.Tensor, counted_B: torch.Tensor) -> torch.Tensor:
    # float32 also under mixed precision, where small gradients would underflow.
    losses_B = functional.cross_entropy(logits_BC.float(), labels_B, reduction="none")
    return losses_B.masked_fill(~counted_B, 0.0).sum()


def _gradients(
    model: LateFusionModel, loss: torch.Tensor, modalities: Sequence[str] | None = None
) -> dict[str, torch.Tensor]:
    """Encoder -> its flattened gradient (P,), float32; zeros if the loss does not depend on it."""
    wanted = model.modalities if modalities is None else modalities
    parameters = {m: [p for p in model.encoders[m].parameters() if p.requires_grad] for m in wanted}
    everything = [p for group in parameters.values() for p in group]
    if not everything:
        return {}
    if loss.requires_grad:
        gradients = iter(torch.autograd.grad(loss, everything, retain_graph=True, materialize_grads=True))
    else:
        gradients = iter([torch.zeros_like(p) for p in everything])
    return {
        m: torch.cat([next(gradients).flatten().float() for _ in group]) for m, group in parameters.items() if group
    }


def _cosines(
    first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor], sum_: Sum | None
) -> dict[str, float]:
    cosines = {}
    for m in first:
        pair_2P = torch.stack([first[m], second[m]])
        if sum_ is not None:
            sum_(pair_2P)  # even if all zero, since another rank may have rows of this modality and waits
        largest_2 = pair_2P.abs().amax(dim=1, keepdim=True)
        if bool(((largest_2 == 0) | ~torch.isfinite(largest_2)).any()):
            continue
        one_P, other_P = pair_2P / largest_2  # squares of tiny gradients would underflow
        cosine = torch.dot(one_P, other_P) / (one_P.norm() * other_P.norm())
        cosines[m] = float(cosine.clamp(-1, 1))  # rounding can exceed [-1, 1] by a few ulp
    return cosines


@contextmanager
def _buffers_kept(model: LateFusionModel) -> Iterator[None]:
    """Restore buffers afterwards, since a forward pass in training mode updates running statistics."""
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, before in kept:
                buffer.copy_(before)
