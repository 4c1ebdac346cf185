"""One optimizer step of the whole world

Data-parallel training by one all-reduce of exactly the parameters that were trained. torch's DDP would have to be told
which encoder sits out (`find_unused_parameters`), would divide by the number of ranks where the last batch is uneven,
and hides the gradients from methods that compare them; here a step's gradient is the gradient of the mean loss over the
global batch, whatever its size and however it is dealt to ranks.
"""

# B samples of this rank, P parameters

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from remix_study.balancing import Method
from remix_study.errors import NotANumberError
from remix_study.models import MultimodalModel
from remix_study.sample import Batch
from remix_study.world import Collectives


def train_step(
    model: MultimodalModel,
    method: Method,
    batch: Batch,
    whole: int,
    optimizer: torch.optim.Optimizer,
    collectives: Collectives,
    *,
    autocast: bool,
    clip_norm: float | None,
    where: str,
) -> torch.Tensor:
    """Train on this rank's `batch` of a global batch of `whole` samples; the sum of its losses (a scalar, detached).

    Raises:
        NotANumberError: a loss is not finite, on any rank; `where` (epoch and step) and the modalities are named.
    """
    optimizer.zero_grad(set_to_none=True)
    with mixed_precision(batch.labels_B.device, autocast):
        outputs = model(batch)
    # Only what is trained: the head of a modality merely encoded (`zero_feature`) keeps no gradient, as released.
    columns = {m: batch.active_BM[:, i] for i, m in enumerate(batch.modalities)}
    active = {m: rows_B for m, rows_B in columns.items() if rows_B.any()}
    terms: dict[str, torch.Tensor] = {}
    for rule in method.losses:
        terms |= rule(outputs, batch.labels_B, active)
    total = torch.stack([term.sum() for term in terms.values()]).sum()
    torch.autograd.backward(total / whole)
    _add_up(model.parameters(), total.detach(), collectives, lambda: _problem(terms, active, where))
    if clip_norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    optimizer.step()
    return total.detach()


@contextmanager
def mixed_precision(device: torch.device, enabled: bool) -> Iterator[None]:
    """bfloat16 where it pays; it needs no loss scaling, unlike float16."""
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled):
        yield


def _add_up(
    parameters: Iterable[nn.Parameter], total: torch.Tensor, collectives: Collectives, problem: Callable[[], str]
) -> None:
    """Sum gradients over ranks; a parameter that no rank trained keeps None, so that the optimizer leaves it alone."""
    every = list(parameters)
    if collectives.world.size == 1:
        if not torch.isfinite(total):
            raise NotANumberError(problem())
        return
    # Which parameters were trained by anyone, and whether any loss went wrong: small enough to ask in every step. Ranks
    # differ in the answer when a mixed batch gives one of them no sample of some modality.
    flags = torch.tensor([float(p.grad is not None) for p in every] + [0.0], device=total.device)
    flags[-1] = (~torch.isfinite(total)).float()
    collectives.sum_(flags)
    answers = flags.tolist()
    if answers[-1] > 0:
        raise NotANumberError(problem())
    trained = [p for p, count in zip(every, answers[:-1], strict=True) if count > 0]
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in trained])
    collectives.sum_(flat)
    for p, summed in zip(trained, torch.split(flat, [p.numel() for p in trained]), strict=True):
        p.grad = summed.view_as(p).clone(memory_format=torch.preserve_format)


def _problem(terms: dict[str, torch.Tensor], active: dict[str, torch.Tensor], where: str) -> str:
    broken = [name for name, term in terms.items() if not torch.isfinite(term).all()]
    trained = [m for m, rows_B in active.items() if rows_B.any()]
    losses = ", ".join(broken) if broken else "on another worker"
    return (
        f"{where}: the loss must be a number, but is not (loss terms: {losses}; modalities trained in this step: "
        f"{', '.join(trained)}). Lower `optimizer.learning_rate`, or set `clip_norm`, e.g. 1.0."
    )
