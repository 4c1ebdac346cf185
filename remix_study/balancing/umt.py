"""UMT: features close to those of encoders that were trained alone (Du et al., ICML 2023, arXiv 2305.01233)

    f_m      the features of modality m, (B, d)
    f_m^T    those of its teacher, the encoder of a complete run that trained modality m alone
    loss     the losses of the base method + weight * sum over m of the mean over B x d of (f_m - f_m^T)^2

A teacher sees the same input as the encoder that learns from it, after augmentation. It is in evaluation mode and gets
no gradient; it is no part of the model, so the optimizer, checkpoints and sums over ranks leave it out. In a sample
that does not train a modality, that modality is not compared, and in a batch without such samples its teacher does not
run. The mean is always over all samples of the global batch.
"""

# B samples of a micro-batch, M modalities, d features, K sums

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from remix_study.balancing.acting import Window
from remix_study.balancing.slots import Model, Step, StepBatch, Terms


class UMT:
    """See the module docstring.

    Args:
        teachers: modality -> encoder, whose features have the size of the model's.
        weight: of the mean squared distance.
        window: the epochs in which it acts.
        autocast: whether the teachers compute in bfloat16, as the encoders do.
    """

    name = "umt"

    def __init__(self, teachers: Mapping[str, nn.Module], weight: float, *, window: Window, autocast: bool) -> None:
        self._teachers = {m: teacher.eval().requires_grad_(False) for m, teacher in teachers.items()}
        self._weight, self._window, self._autocast = weight, window, autocast
        self._of_batch_K: torch.Tensor | None = None  # sums of distances and numbers of samples, of the last batch
        self._total_K: torch.Tensor | None = None  # the same of all batches, in float64

    def acts(self, step: Step) -> bool:
        """Whether the step is within the window."""
        return step.epoch in self._window

    def passes(self, epoch: int) -> int:
        """Each teacher runs once for each sample that trains its modality."""
        return int(epoch in self._window)

    def loss(self, batch: StepBatch, terms: Terms) -> Terms:
        """Add a term `umt/m` for each modality that the batch trains."""
        if not self.acts(batch.at):
            return terms
        batch = batch.before or batch  # masks act between the encoders and the fusion
        distances = {m: self._distance(batch, m) for m in self._teachers if m in batch.active}
        with torch.no_grad():
            none_B = torch.zeros_like(batch.labels_B, dtype=torch.float32)
            sums = [distances.get(m, none_B).sum() for m in self._teachers]
            counts = [batch.active.get(m, none_B).sum() for m in self._teachers]
            self._of_batch_K = torch.stack([*sums, *(count.float() for count in counts)])
        return terms | {f"umt/{m}": self._weight * distance_B for m, distance_B in distances.items()}

    def _distance(self, batch: StepBatch, modality: str) -> torch.Tensor:
        """The mean squared distance of each sample's features from the teacher's, (B,); 0 if it is not compared."""
        x, active_B = batch.inputs[modality], batch.active[modality]
        features_Bd = batch.outputs.features[modality].float()
        with torch.no_grad(), torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=self._autocast):
            teacher_Bd = self._teachers[modality](x).float()
        if len(x) < len(active_B):
            rows = active_B.nonzero().squeeze(1)
            teacher_Bd = torch.zeros_like(features_Bd).index_copy(0, rows, teacher_Bd)
        return torch.where(active_B, (features_Bd - teacher_Bd).square().mean(dim=1), 0.0)

    def sums(self, batch: StepBatch) -> torch.Tensor:  # noqa: ARG002 - required by GradientRule
        """The sum of the distances and the number of samples, for each modality: (2 M,)."""
        assert self._of_batch_K is not None, "the sums are of the batch whose loss was computed last"
        return self._of_batch_K

    def apply(self, model: Model, sums_K: torch.Tensor, step: Step) -> None:  # noqa: ARG002 - required by GradientRule
        """Change no gradient; record the distances."""
        before_K = 0.0 if self._total_K is None else self._total_K.to(sums_K.device)
        self._total_K = before_K + sums_K.double()

    def metrics(self) -> dict[str, float]:
        """The mean squared distance of each modality's features from its teacher's, over samples that were compared."""
        if self._total_K is None:
            return {}
        sums, counts = self._total_K.chunk(2)
        self._total_K = None
        pairs = zip(self._teachers, sums.tolist(), counts.tolist(), strict=True)
        return {f"method/umt/distance/{m}": total / count for m, total, count in pairs if count}

    def state(self) -> dict[str, Any]:
        """What an exact resume needs."""
        return {"total_K": self._total_K}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""
        self._total_K = state["total_K"]
