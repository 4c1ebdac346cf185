"""Accumulated gradients: updates of an encoder whose samples are spread over several steps (`method.accumulate`)

A schedule with `update_TB` assigns each sample to an update. The gradient of an update is that of the mean loss over
its samples, for the encoders that they train and their unimodal heads. It is accumulated step by step, and applied in
the step of the last sample. The parameters of the fusion and learned tokens are updated in every step, with the
gradient of the mean loss over the samples of the step. All updates are complete at the end of an epoch.
"""

# B samples of this rank, n samples of an epoch, U updates of an epoch, M modalities

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from remix_study.epoch import NO_SAMPLE, Schedule
from remix_study.models import MultimodalModel
from remix_study.remix.sampler import RankBatch


class Accumulation:
    """The accumulated gradients of one epoch.

    Args:
        model: the model that is trained.
        modalities: names of the M columns of the schedule.
        schedule: a schedule with `update_TB`.
    """

    def __init__(self, model: MultimodalModel, modalities: Sequence[str], schedule: Schedule) -> None:
        assert schedule.update_TB is not None
        held_TB = schedule.update_TB != NO_SAMPLE
        update_n, step_n = schedule.update_TB[held_TB], np.nonzero(held_TB)[0]
        _, first_U, self._count_U = np.unique(update_n, return_index=True, return_counts=True)
        self._active_UM: NDArray[np.bool_] = schedule.active_TBM[held_TB][first_U]
        last_U = len(update_n) - 1 - np.unique(update_n[::-1], return_index=True)[1]
        self._complete: dict[int, list[int]] = defaultdict(list)  # step -> the updates that it completes
        for update in np.argsort(last_U):
            self._complete[int(step_n[last_U[update]])].append(int(update))
        self._model = model
        replacements = () if model.masking is None else model.masking.parameters()
        self._fusion = [*model.fusion.parameters(), *replacements]
        self._own = [[*model.encoders[m].parameters(), *model.heads[m].parameters()] for m in modalities]
        self._gradients: dict[int, dict[nn.Parameter, torch.Tensor]] = {}  # of the updates that are not complete
        self._step, self._update_B = -1, np.zeros(0, np.int64)

    def begin(self, part: RankBatch) -> None:
        """Begin a step; its samples follow in calls of `backward`."""
        assert part.update_b is not None
        self._step, self._update_B = part.step, part.update_b

    def backward(self, losses_B: torch.Tensor, global_count: int) -> None:
        """Add the gradients of the next samples of the step: those of the fusion to `.grad`, all others here.

        Args:
            losses_B: the loss of each sample, with its graph.
            global_count: number of samples of the step, over all ranks.
        """
        update_B, self._update_B = np.split(self._update_B, [len(losses_B)])
        for update in np.unique(update_B).tolist():
            own = [p for m in np.flatnonzero(self._active_UM[update]) for p in self._own[m]]
            rows = torch.from_numpy(np.flatnonzero(update_B == update)).to(losses_B.device)
            loss = losses_B[rows].sum() / int(self._count_U[update])
            gradients = torch.autograd.grad(loss, own, retain_graph=True, allow_unused=True)
            sums = self._gradients.setdefault(update, {})
            for p, gradient in zip(own, gradients, strict=True):
                if gradient is not None:
                    sums[p] = sums[p] + gradient if p in sums else gradient
        if self._fusion:
            torch.autograd.backward(losses_B.sum() / global_count, inputs=self._fusion)

    def state(self) -> dict[int, dict[int, torch.Tensor]]:
        """The gradients of the incomplete updates: update -> position of a parameter in the model -> its sum."""
        position = {p: n for n, p in enumerate(self._model.parameters())}
        return {
            update: {position[p]: gradient for p, gradient in sums.items()} for update, sums in self._gradients.items()
        }

    def restore(self, state: Mapping[int, Mapping[int, torch.Tensor]]) -> None:
        """Restore what `state` returned."""
        every = list(self._model.parameters())
        self._gradients = {
            update: {every[n]: gradient.to(every[n].device) for n, gradient in sums.items()}
            for update, sums in state.items()
        }

    def load(self) -> Iterator[None]:
        """Set `.grad` for each optimizer step of this step: one for every update that is complete, at least one.

        The first also has the gradients of the fusion. All ranks take the same number of optimizer steps.
        """
        for number, update in enumerate(self._complete.get(self._step, [-1])):
            if number > 0:
                self._model.zero_grad(set_to_none=True)
            for p, gradient in self._gradients.pop(update, {}).items():
                p.grad = gradient
            yield
