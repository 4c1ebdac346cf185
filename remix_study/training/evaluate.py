"""Evaluation of a split with one pass of the encoders

The fused head, each unimodal head, their late sum and every subset of modalities (with replacements for the features
of the others) are computed from the same features; a fusion inside the encoders needs one pass for each subset.
Unimodal heads classify the features of their modality alone. Each rank evaluates a part of the samples, without
padding; counts are summed over ranks.
"""

# N samples of a split, M modalities, C classes, B samples of one batch

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from remix_study import metrics as m_
from remix_study.datasets.clips import ClipReader
from remix_study.models import MultimodalModel
from remix_study.training.step import mixed_precision
from remix_study.world import Collectives

FUSED, LATE_SUM, LATE_CALIBRATED = "fused", "late_sum", "late_calibrated"
_TIMED_CLIPS, _TIMED_PASSES, _TIMED_S = 64, 3, 0.02


@dataclass(frozen=True)
class Evaluation:
    """Results on one split.

    `confusions`: view -> (C, C), where a view is `fused`, `late_sum` or a modality (its unimodal head).
    `subset_accuracy`: v(S) for every set S of modalities, with the others masked. `cross_entropies`: means in nats.
    `true_probability_M`: sum over samples of the probability of the true class. `log_probabilities`: view -> (N, C) in
    nats, in the order of the samples; None unless they were asked for.
    """

    modalities: tuple[str, ...]
    confusions: dict[str, NDArray[np.int64]]
    cross_entropies: dict[str, float]
    true_probability_M: NDArray[np.float64]
    subset_accuracy: dict[frozenset[str], float]
    log_probabilities: dict[str, NDArray[np.float32]] | None = None

    @property
    def accuracy(self) -> float:
        return m_.accuracy(self.confusions[FUSED])

    def accuracy_uni(self) -> dict[str, float]:
        return {m: m_.accuracy(self.confusions[m]) for m in self.modalities}

    def metrics(self, split: str, heads: bool) -> dict[str, float]:
        """All metrics by their names in docs/metrics.md; `balance/...` is of `val`, `test_balance/...` of `test`.

        If the unimodal heads are not trained (`heads=False`), their metrics are left out.
        """
        fused_CC = self.confusions[FUSED]
        found = {
            f"{split}/accuracy": self.accuracy,
            f"{split}/balanced_accuracy": m_.balanced_accuracy(fused_CC),
            f"{split}/macro_f1": m_.macro_f1(fused_CC),
            f"{split}/cross_entropy": self.cross_entropies[FUSED],
        }
        alone = self.accuracy_uni()
        for m in self.modalities if heads else ():
            found[f"{split}/accuracy_uni/{m}"] = alone[m]
            found[f"{split}/macro_f1_uni/{m}"] = m_.macro_f1(self.confusions[m])
            found[f"{split}/cross_entropy_uni/{m}"] = self.cross_entropies[m]
        if len(self.modalities) == 1:
            return found
        found |= {f"{split}/accuracy_only/{m}": self.subset_accuracy[frozenset({m})] for m in self.modalities}
        without = m_.missing(self.subset_accuracy, self.modalities)
        found |= {f"{split}/accuracy_without/{m}": value for m, value in without.items()}
        prefix = "balance" if split == "val" else f"{split}_balance"
        phi = m_.shapley(self.subset_accuracy, self.modalities)
        if heads:
            found[f"{split}/accuracy_late_sum"] = m_.accuracy(self.confusions[LATE_SUM])
            found[f"{prefix}/accuracy_gap"] = m_.accuracy_gap(alone)
            found[f"{prefix}/accuracy_ratio"] = m_.accuracy_ratio(alone)
            found[f"{prefix}/abs_log_rho"] = m_.abs_log_rho(self.true_probability_M)
        found[f"{prefix}/imbalance"] = m_.imbalance(phi)
        found[f"{prefix}/missing_drop"] = m_.drop(self.subset_accuracy, self.modalities)
        found |= {f"{prefix}/shapley/{m}": value for m, value in phi.items()}
        utilisation = m_.conditional_utilisation(self.subset_accuracy, self.modalities)
        found |= {f"{prefix}/utilisation/{m}": value for m, value in utilisation.items()}
        return found


@torch.inference_mode()
def evaluate(
    model: MultimodalModel,
    reader: ClipReader,
    rows_N: NDArray[np.int64],
    collectives: Collectives,
    *,
    batch: int,
    autocast: bool,
    keep: bool = False,
    between_batches: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Evaluate the clips at `rows_N`, each exactly once over all ranks. The result is the same on every rank.

    Args:
        keep: also return the log-probabilities of every sample.
        between_batches: called before each batch; may raise.
    """
    modalities, classes = model.modalities, model.num_classes
    everyone = m_.subsets(modalities)
    views = [FUSED, *modalities, *([LATE_SUM] if len(modalities) > 1 else [])]
    counts = {view: np.zeros((classes, classes), np.int64) for view in views}
    sums = np.zeros(len(views) + len(modalities) + len(everyone))
    loss_V, true_M, right_S = np.split(sums, [len(views), len(views) + len(modalities)])
    world = collectives.world
    mine = rows_N[world.rank :: world.size]
    kept: list[NDArray[np.float32]] = []  # (B, V, C) of each batch
    model.eval()
    for start in range(0, len(mine), batch):
        between_batches()
        rows_B = mine[start : start + batch]
        clips = reader.read(rows_B, np.ones((len(rows_B), len(modalities)), np.bool_))
        labels_B = clips.labels_B
        with mixed_precision(labels_B.device, autocast):
            features, fused = model.subsets(clips.inputs, everyone)
            heads = {m: model.classify(m, features[m]).log_softmax(dim=1) for m in modalities}
        logs = {FUSED: fused[frozenset(modalities)].log_softmax(dim=1), **heads}
        if len(modalities) > 1:
            logs[LATE_SUM] = torch.stack(list(heads.values())).sum(dim=0).log_softmax(dim=1)
        if keep:
            kept.append(torch.stack([logs[view] for view in views], dim=1).cpu().numpy())
        cpu_labels_B = labels_B.cpu().numpy()
        for v, view in enumerate(views):
            counts[view] += m_.confusion(cpu_labels_B, logs[view].argmax(dim=1).cpu().numpy(), classes)
            loss_V[v] -= float(logs[view].gather(1, labels_B[:, None]).double().sum())
        for i, m in enumerate(modalities):
            true_M[i] += float(heads[m].gather(1, labels_B[:, None]).exp().double().sum())
        for s, subset in enumerate(everyone):
            right_S[s] += int((fused[subset].argmax(dim=1) == labels_B).sum())
    model.train()
    counted = torch.from_numpy(np.stack(list(counts.values())))
    collectives.sum_(counted)
    summed = torch.from_numpy(sums)
    collectives.sum_(summed)
    total = len(rows_N)
    return Evaluation(
        modalities,
        dict(zip(views, counted.numpy(), strict=True)),
        {view: float(loss_V[v] / total) for v, view in enumerate(views)},
        true_M.copy(),
        {subset: float(right_S[s] / total) for s, subset in enumerate(everyone)},
        _gathered(kept, views, classes, len(rows_N), collectives) if keep else None,
    )


@torch.inference_mode()
def inference_s(
    model: MultimodalModel, shapes: Mapping[str, torch.Size], device: torch.device, autocast: bool
) -> float:
    """Seconds per clip that the model takes to predict with all modalities, without reading.

    It is the fastest pass over a batch of 64 samples of zeros, of at least three passes and 20 ms: other processes only
    make passes slower.

    Args:
        shapes: modality -> shape of the input of one sample, (1, ...).
        device: of the model.
    """
    inputs = {m: torch.zeros((_TIMED_CLIPS, *shapes[m][1:]), device=device) for m in model.modalities}
    times: list[float] = []
    model.eval()
    while len(times) < _TIMED_PASSES or sum(times) < _TIMED_S:
        started = _now(device)
        with mixed_precision(device, autocast):
            model.subsets(inputs, [frozenset(model.modalities)])
        times.append(_now(device) - started)
    model.train()
    return min(times) / _TIMED_CLIPS


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _gathered(
    kept: Sequence[NDArray[np.float32]], views: Sequence[str], classes: int, total: int, collectives: Collectives
) -> dict[str, NDArray[np.float32]]:
    """Return view -> (N, C) of the samples of all ranks, in their order."""
    world = collectives.world
    place_n = np.arange(world.rank, total, world.size)
    mine_nVC = np.concatenate([np.empty((0, len(views), classes), np.float32), *kept])
    flat = mine_nVC.reshape(len(place_n), len(views) * classes)  # not -1, which a rank without samples cannot infer
    table = collectives.gather_rows(np.column_stack([place_n, flat]).astype(np.float64))
    every_NVC = table[np.argsort(table[:, 0], kind="stable"), 1:].astype(np.float32).reshape(total, len(views), classes)
    return {view: every_NVC[:, v] for v, view in enumerate(views)}
