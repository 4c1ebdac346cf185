"""Abstaining targets: a unimodal head learns the uniform distribution where its modality is uninformative

u_im     whether sample i is judged uninformative in modality m
q        the uniform distribution over the C classes
CE(q, h) -1/C sum_c ln softmax(h)_c

    unimodal loss of m   lambda_m CE(h_m)             where u_im is false, as without abstaining targets
                         lambda_m w v_y CE(q, h_m)    where it is true; v_y is the class weight of the sample's class

The weight w is `weight`. Only the heads and the encoders of modalities that are judged uninformative learn anything
else. The fused loss keeps the label: a fused prediction has the other modalities. Label smoothing does not change the
uniform target. Scores, metrics and measures of conflict use the labels.

Which samples are uninformative is known of a rendered corpus (`truth`), or judged by a detector
(`remix_study.balancing.uninformative`) before every `every`-th epoch from `begin` on, from passes over the training
samples and, for some detectors, over the control samples. All ranks judge alike.
"""

# N training samples, R rows of the clip store, M modalities, C classes, B samples of a micro-batch

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from remix_study.balancing.slots import EpochStart, StepBatch
from remix_study.balancing.uninformative import Detector
from remix_study.epoch import Statistic


class Abstain:
    """See the module docstring.

    Args:
        modalities: the modalities of the model, in its order.
        rows_N: row numbers of the training samples in the clip store.
        weight: factor of the loss of a judged sample, at least 0; a number, or a function of the epoch.
        truth_NM: whether each training sample is uninformative in each modality; None if it is not known.
        detector: judges the samples; None: `truth_NM` is the judgement.
        begin: the first epoch before which the detector judges.
        every: epochs between two judgements.
    """

    name = "targets"
    changes_model = False

    def __init__(
        self,
        modalities: Sequence[str],
        rows_N: NDArray[np.int64],
        weight: float | Callable[[int], float],
        truth_NM: NDArray[np.bool_] | None = None,
        detector: Detector | None = None,
        *,
        begin: int = 0,
        every: int = 1,
    ) -> None:
        if truth_NM is None and detector is None:
            raise ValueError("abstaining targets need the truth or a detector")
        self._modalities = tuple(modalities)
        self._rows_N, self._weight, self._truth_NM = rows_N, weight, truth_NM
        self._detector, self._begin, self._every = detector, begin, every
        self._judged_NM = np.zeros((len(rows_N), len(self._modalities)), np.bool_)
        self._judged_RM = torch.zeros(int(rows_N.max()) + 1, len(self._modalities), dtype=torch.bool)
        if detector is None and truth_NM is not None:
            self._set(truth_NM)

    @property
    def needs(self) -> frozenset[Statistic]:
        """The further statistics of the detector's passes."""
        return frozenset() if self._detector is None else self._detector.needs

    def due(self, epoch: int) -> bool:
        """Whether the detector judges before this epoch."""
        after = epoch - self._begin
        return self._detector is not None and after >= 0 and after % self._every == 0

    def begin(self, start: EpochStart) -> None:
        """Let the detector judge the training samples."""
        assert self._detector is not None
        control = start.passes.control() if self._detector.reads_control else None
        judged_NM = self._detector.judge(start.passes.train(), control)
        self._set(start.agreed(judged_NM.astype(np.float64)) > 0.5)  # sums may depend on the processor

    def abstains(self, modality: str, batch: StepBatch) -> torch.Tensor | None:
        """The samples of a batch that are judged uninformative in a modality, bool (B,); None if no sample is."""
        column = self._modalities.index(modality)
        if not self._judged_NM[:, column].any():
            return None
        self._judged_RM = self._judged_RM.to(batch.samples_B.device)  # copied in the first step only
        return self._judged_RM[batch.samples_B, column]

    def weight(self, epoch: int) -> float:
        """The factor of the loss of a judged sample."""
        return self._weight(epoch) if callable(self._weight) else self._weight

    def metrics(self) -> dict[str, float]:
        """The share of the training samples that is judged, and its precision and recall if the truth is known."""
        found: dict[str, float] = {}
        for column, m in enumerate(self._modalities):
            judged_N = self._judged_NM[:, column]
            found[f"targets/uninformative/{m}"] = float(judged_N.mean())
            if self._detector is None or self._truth_NM is None:
                continue
            true_N = self._truth_NM[:, column]
            if judged_N.any():
                found[f"targets/precision/{m}"] = float(true_N[judged_N].mean())
            if true_N.any():
                found[f"targets/recall/{m}"] = float(judged_N[true_N].mean())
        return found

    def state(self) -> dict[str, Any]:
        """What an exact resume needs."""
        return {
            "judged_NM": torch.from_numpy(self._judged_NM),
            "detector": {} if self._detector is None else self._detector.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""
        self._set(state["judged_NM"].numpy())
        if self._detector is not None:
            self._detector.restore(state["detector"])

    def _set(self, judged_NM: NDArray[np.bool_]) -> None:
        self._judged_NM = judged_NM
        judged_RM = torch.zeros_like(self._judged_RM, device="cpu")
        judged_RM[torch.from_numpy(self._rows_N)] = torch.from_numpy(judged_NM)
        self._judged_RM = judged_RM
