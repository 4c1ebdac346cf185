"""InfoReg: hold back encoders ahead while they acquire information (Huang et al., CVPR 2025, arXiv 2503.18595)

    theta_0   the weights of encoder m at the beginning of the epoch
    s_m       the mean probability that modality m's part of the fused logits gives to the true class
    b_m       strength exp(tanh(s_m - mean of the other modalities' s)) if m is ahead of them, else 0
    Tr_m      the mean over the steps of an epoch of the sum over m's parameters of their mean squared gradient

While the window of m is open, b_m (theta_m - theta_0) is added to the gradients of its encoder, which pulls the weights
back to where the epoch began. The trace of the Fisher information, Tr_m, rises while an encoder acquires information.
The window is open in an epoch if (recent - before) / recent > threshold, where `recent` is the mean of Tr_m over the
last 10 epochs and `before` over the 10 epochs before them. Only epochs that exist count: after n < 20 epochs, both are
means over n // 2 epochs. In the first two epochs there is nothing to compare, and the window is open.

Each encoder has its own trace and window. For more than two modalities, the mean over the others is ours. In unimodal
batches, s_m cannot be compared within the batch: the scoring pass before the epoch gives the mean probabilities of the
true class under the unimodal heads.
"""

# B samples of a micro-batch, M modalities

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from remix_study.balancing.acting import StepMeans, Window
from remix_study.balancing.ogm import true_probabilities
from remix_study.balancing.slots import EpochStart, Model, Step, StepBatch
from remix_study.epoch import Statistic

_EPOCHS = 10  # of a mean of traces, as in the released code


class InfoReg:
    """See the module docstring.

    Args:
        modalities: the modalities of the model, in its order.
        strength: of the pull; 0 changes nothing.
        threshold: relative growth of the trace above which the window of an encoder is open.
        window: epochs in which the rule acts.
        unimodal_from: the first epoch that may have unimodal batches; None: there are none.
    """

    name = "inforeg"
    needs: frozenset[Statistic] = frozenset()
    changes_model = False

    def __init__(
        self,
        modalities: Sequence[str],
        strength: float,
        threshold: float,
        *,
        window: Window,
        unimodal_from: int | None,
    ) -> None:
        self._modalities = tuple(modalities)
        self._strength, self._threshold = strength, threshold
        self._window, self._unimodal_from = window, unimodal_from
        self._traces: dict[str, list[float]] = {m: [] for m in modalities}  # of the epochs before
        self._open = dict.fromkeys(modalities, True)
        self._start: dict[str, list[torch.Tensor]] = {}
        self._alone_M: torch.Tensor | None = None  # s_M of the scoring pass
        self._trace = {m: StepMeans(["trace"]) for m in modalities}
        self._pull = {m: StepMeans([f"method/inforeg/coefficient/{m}"]) for m in modalities}

    def due(self, epoch: int) -> bool:
        return epoch in self._window

    def begin(self, start: EpochStart) -> None:
        self._open = {m: window_is_open(traces, self._threshold) for m, traces in self._traces.items()}
        self._start = {m: [p.detach().clone() for p in start.model.encoder_parameters(m)] for m in self._modalities}
        if self._unimodal_from is not None and start.epoch >= self._unimodal_from:
            self._alone_M = torch.from_numpy(np.exp(-start.passes.train().cross_entropy_NM).mean(axis=0)).float()

    def acts(self, step: Step) -> bool:
        return step.epoch in self._window

    def sums(self, batch: StepBatch) -> torch.Tensor:
        """The sum of the true class's probability and the number of samples, for each modality: (2 M,)."""
        if batch.at.multimodal == 0:
            return batch.labels_B.new_zeros(2 * len(self._modalities), dtype=torch.float32)
        return true_probabilities(batch, self._modalities)

    def apply(self, model: Model, sums_K: torch.Tensor, step: Step) -> None:
        coefficient_M = self._coefficients(sums_K, step)
        for column, m in enumerate(self._modalities):
            trained = [(n, p) for n, p in enumerate(model.encoder_parameters(m)) if p.grad is not None]
            if not trained:
                continue
            gradients = [p.grad for _, p in trained if p.grad is not None]
            norms = torch._foreach_norm(gradients)
            squares = [norm.square() / gradient.numel() for norm, gradient in zip(norms, gradients, strict=True)]
            self._trace[m].add(torch.stack(squares).sum()[None])
            if not self._open[m]:
                continue
            self._pull[m].add(coefficient_M[column][None])
            moved = torch._foreach_sub([p.detach() for _, p in trained], [self._start_of(m, n, p) for n, p in trained])
            torch._foreach_mul_(moved, coefficient_M[column])
            torch._foreach_add_(gradients, moved)

    def metrics(self) -> dict[str, float]:
        """What the rule did in the epoch, at whose end it is called."""
        if not self._start:
            return {}
        found = {name: value for means in self._pull.values() for name, value in means.take().items()}
        for m, means in self._trace.items():
            found[f"method/inforeg/open/{m}"] = float(self._open[m])
            for trace in means.take().values():
                self._traces[m].append(trace)
                found[f"method/inforeg/trace/{m}"] = trace
        self._start = {}  # no step needs it any more, and a checkpoint would be twice as large
        return found

    def state(self) -> dict[str, Any]:
        return {
            "traces": self._traces,
            "open": self._open,
            "start": self._start,
            "alone_M": self._alone_M,
            "trace": {m: means.state() for m, means in self._trace.items()},
            "pull": {m: means.state() for m, means in self._pull.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self._traces = {m: list(traces) for m, traces in state["traces"].items()}
        self._open, self._start, self._alone_M = dict(state["open"]), dict(state["start"]), state["alone_M"]
        for m in self._modalities:
            self._trace[m].restore(state["trace"][m])
            self._pull[m].restore(state["pull"][m])

    def _coefficients(self, sums_K: torch.Tensor, step: Step) -> torch.Tensor:
        """b_m of each modality, as if all windows were open."""
        sum_M, count_M = sums_K.chunk(2)
        if step.multimodal == 0 and self._alone_M is not None:
            self._alone_M = self._alone_M.to(sum_M.device)  # copied in the first step only
            sum_M, count_M = self._alone_M, torch.ones_like(count_M)
        seen_M = count_M > 0
        mean_M = sum_M / count_M.clamp(min=1)
        others_M = seen_M.sum() - seen_M.long()
        lead_M = mean_M - (mean_M.sum() - mean_M) / others_M.clamp(min=1)
        ahead_M = seen_M & (others_M > 0) & (lead_M > 0)
        return torch.where(ahead_M, self._strength * torch.exp(torch.tanh(lead_M)), 0.0)

    def _start_of(self, m: str, number: int, like: torch.Tensor) -> torch.Tensor:
        if self._start[m][number].device != like.device:  # after a resume
            self._start[m][number] = self._start[m][number].to(like.device)
        return self._start[m][number]


def window_is_open(traces: Sequence[float], threshold: float) -> bool:
    """Whether the trace of the epochs so far still grows by more than `threshold`, relative to its recent mean."""
    span = min(_EPOCHS, len(traces) // 2)
    if span == 0:
        return True
    recent, before = float(np.mean(traces[-span:])), float(np.mean(traces[-2 * span : -span]))
    return recent > 0 and (recent - before) / recent > threshold
