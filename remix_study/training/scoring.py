"""Passes over a split before an epoch: scores of every modality alone, and further statistics

A pass is deterministic: evaluation mode, every sample once, in the order of the split. Each rank evaluates a part of
the samples, and every rank receives the complete table. Features are computed once, and everything else from them.
"""

# N samples of a split, M modalities, C classes, B samples of one batch, K columns of a table

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from remix_study import metrics as m_
from remix_study.datasets.clips import ClipReader
from remix_study.epoch import ScoreFunction, ScoringPass, SplitStatistics, Statistic
from remix_study.models import InnerFusion, MultimodalModel
from remix_study.remix.separability import SMALLEST_PROBABILITY
from remix_study.training.step import mixed_precision
from remix_study.world import Collectives


class KeptFeatures:
    """Features of the samples of a rank in a split, kept between passes until an encoder is trained

    A pass after a block of batches, which trained one encoder, then runs that encoder only.
    """

    def __init__(self) -> None:
        self._features: dict[int, dict[str, torch.Tensor]] = {}

    def at(self, start: int) -> Mapping[str, torch.Tensor]:
        """Modality -> features of the batch that begins with this sample, of those that are kept."""
        return self._features.get(start, {})

    def keep(self, start: int, features: Mapping[str, torch.Tensor]) -> None:
        """Keep the features of a batch."""
        self._features[start] = dict(features)

    def forget(self, modalities: Iterable[str]) -> None:
        """Forget the features of encoders that have changed."""
        changed = set(modalities)
        for features in self._features.values():
            for m in changed & set(features):
                del features[m]


class SplitPasses:
    """The passes before an epoch (`remix_study.epoch.Passes`), each made once and shared by all who ask for it.

    Args:
        rows: split -> rows of the clip store.
        batch: samples of one rank that are evaluated at once.
        between_batches: called before each batch; may raise.
        heads: see `split_pass`.
        kept: features of the control samples; None: they are not kept.

    Attributes:
        wanted: the further statistics that anyone asks for.
        wanted_of_control: those that are asked for of the control samples only.
        evaluated: number of samples that passes have evaluated.
    """

    def __init__(
        self,
        model: MultimodalModel,
        reader: ClipReader,
        rows: Mapping[str, NDArray[np.int64]],
        collectives: Collectives,
        batch: int,
        autocast: bool,
        between_batches: Callable[[], None] = lambda: None,
        *,
        heads: bool = True,
        kept: KeptFeatures | None = None,
    ) -> None:
        self.wanted: frozenset[Statistic] = frozenset()
        self.wanted_of_control: frozenset[Statistic] = frozenset()
        self.evaluated = 0
        self._model, self._reader, self._rows, self._collectives = model, reader, rows, collectives
        self._batch, self._autocast, self._between_batches, self._heads = batch, autocast, between_batches, heads
        self._kept = kept
        self._found: dict[str, SplitStatistics] = {}

    def score(self, score: ScoreFunction) -> ScoringPass:
        """Score the training samples. A pass over them that is asked for later has the statistics of this one."""
        scores_NM, self._found["train"] = self._pass("train", score)
        assert scores_NM is not None
        return ScoringPass(scores_NM, self._found["train"].cross_entropy_NM, self._found["train"])

    def train(self) -> SplitStatistics:
        """Statistics of the training samples."""
        return self._statistics("train")

    def control(self) -> SplitStatistics:
        """Statistics of the control samples."""
        return self._statistics("control")

    def agreed(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Rank 0's values, on every rank."""
        shared = torch.from_numpy(values if self._collectives.world.leads else np.zeros_like(values)).clone()
        self._collectives.sum_(shared)
        return shared.numpy()

    def afresh(self) -> tuple[SplitStatistics, SplitStatistics]:
        """Statistics of the training and of the control samples, which are not shared: of a copy of the model."""
        return self._pass("train", None)[1], self._pass("control", None)[1]

    def losses_afresh(self, samples: NDArray[np.int64]) -> NDArray[np.float64]:
        """Cross-entropies (n, M) of the training samples at these positions, which are not shared: of a copy."""
        return self._pass_over(self._rows["train"][samples], None, frozenset())[1].cross_entropy_NM

    def forget(self) -> None:
        """Forget all passes, after the model changed."""
        self._found.clear()
        if self._kept is not None:
            self._kept.forget(self._model.modalities)

    def _statistics(self, split: str) -> SplitStatistics:
        if split not in self._found:
            _, self._found[split] = self._pass(split, None, self._kept if split == "control" else None)
        return self._found[split]

    def _pass(
        self, split: str, score: ScoreFunction | None, kept: KeptFeatures | None = None
    ) -> tuple[NDArray[np.float64] | None, SplitStatistics]:
        wanted = self.wanted | self.wanted_of_control if split == "control" else self.wanted
        return self._pass_over(self._rows[split], score, wanted, kept)

    def _pass_over(
        self,
        rows_N: NDArray[np.int64],
        score: ScoreFunction | None,
        wanted: frozenset[Statistic],
        kept: KeptFeatures | None = None,
    ) -> tuple[NDArray[np.float64] | None, SplitStatistics]:
        self.evaluated += len(rows_N)
        return split_pass(
            self._model, self._reader, rows_N, self._collectives, score, wanted, batch=self._batch,
            autocast=self._autocast, between_batches=self._between_batches, heads=self._heads, kept=kept,
        )  # fmt: skip


def scoring_pass(
    model: MultimodalModel,
    reader: ClipReader,
    rows_N: NDArray[np.int64],
    collectives: Collectives,
    score: ScoreFunction,
    *,
    batch: int,
    autocast: bool,
    between_batches: Callable[[], None] = lambda: None,
) -> ScoringPass:
    """Scores and cross-entropies (nats) of the unimodal heads, both (N, M) float64, for the clips at `rows_N`.

    Args:
        between_batches: called before each batch; may raise.
    """
    scores_NM, statistics = split_pass(
        model, reader, rows_N, collectives, score, frozenset(), batch=batch, autocast=autocast,
        between_batches=between_batches,
    )  # fmt: skip
    assert scores_NM is not None
    return ScoringPass(scores_NM, statistics.cross_entropy_NM)


@torch.inference_mode()
def split_pass(
    model: MultimodalModel,
    reader: ClipReader,
    rows_N: NDArray[np.int64],
    collectives: Collectives,
    score: ScoreFunction | None,
    wanted: frozenset[Statistic],
    *,
    batch: int,
    autocast: bool,
    between_batches: Callable[[], None] = lambda: None,
    heads: bool = True,
    kept: KeptFeatures | None = None,
) -> tuple[NDArray[np.float64] | None, SplitStatistics]:
    """Evaluate every modality alone on the clips at `rows_N`.

    Args:
        score: computes the scores, (N, M) float64; None: there are none.
        wanted: further statistics.
        between_batches: called before each batch; may raise.
        heads: whether a modality alone predicts with its unimodal head; if not, with the fused head, with all other
            modalities masked.
        kept: features of the clips at `rows_N` from earlier passes, and of this one afterwards; not read with a fusion
            inside the encoders, whose features depend on all of them.
    """
    modalities = model.modalities
    if isinstance(model.fusion, InnerFusion):
        kept = None
    singles = {m: frozenset({m}) for m in modalities}
    fused_from = _fused_from(modalities, wanted) if heads else {*singles.values(), *_fused_from(modalities, wanted)}
    mine = np.arange(collectives.world.rank, len(rows_N), collectives.world.size)
    parts: list[dict[str, NDArray[np.float64]]] = []
    model.eval()
    for start in range(0, len(mine), batch):
        between_batches()
        chosen = mine[start : start + batch]
        known = {} if kept is None else kept.at(start)
        clips = reader.read(rows_N[chosen], np.tile([m not in known for m in modalities], (len(chosen), 1)))
        with mixed_precision(clips.labels_B.device, autocast):
            features, fused = model.subsets(clips.inputs, fused_from, known)
            if kept is not None:
                kept.keep(start, features)
            alone = [model.classify(m, features[m]) if heads else fused[singles[m]] for m in modalities]
            logits_BMC = torch.stack(alone, dim=1)
        # Softmax runs on the device; scores are computed on the CPU.
        probs_BMC = logits_BMC.softmax(dim=2).cpu().numpy()
        labels_B = clips.labels_B.cpu().numpy()
        true_BM = probs_BMC[np.arange(len(chosen)), :, labels_B].astype(np.float64)
        found = {"cross_entropy": -np.log(np.clip(true_BM, SMALLEST_PROBABILITY, 1.0))}
        if score is not None:
            found["score"] = score(probs_BMC, labels_B)
        if "probabilities" in wanted:
            found["probabilities"] = _columns(logits_BMC.log_softmax(dim=2).flatten(1))
        found |= _of_fusion(modalities, fused, clips.labels_B, wanted)
        if "features" in wanted:
            found |= {f"features/{m}": _columns(features_Bd) for m, features_Bd in features.items()}
        parts.append(found)
    model.train()
    sizes = _sizes(model, score is not None, wanted)
    mine_n = {name: np.concatenate([np.empty((0, size)), *(part[name] for part in parts)])
              for name, size in sizes.items()}  # fmt: skip
    table = _gathered(mine, mine_n, collectives)
    return table.get("score"), _statistics(model, reader, rows_N, table)


def _sizes(model: MultimodalModel, scored: bool, wanted: frozenset[Statistic]) -> dict[str, int]:
    """The number of columns of each part of the table, in an order that is the same on every rank."""
    modalities = model.modalities
    sizes = {"cross_entropy": len(modalities)}
    if scored:
        sizes["score"] = len(modalities)
    if "probabilities" in wanted:
        sizes["probabilities"] = len(modalities) * model.num_classes
    if "fused" in wanted:
        sizes["fused"] = 1
    if "subsets" in wanted:
        sizes["subsets"] = len(m_.subsets(modalities))
    if "subset_losses" in wanted:
        sizes["subset_losses"] = len(m_.subsets(modalities))
    if "features" in wanted:
        sizes |= {f"features/{m}": model.widths[m] for m in modalities}
    return sizes


def _fused_from(modalities: Sequence[str], wanted: frozenset[Statistic]) -> set[frozenset[str]]:
    """The sets of modalities whose fused logits are wanted."""
    return {
        *({frozenset(modalities)} if "fused" in wanted else ()),
        *(m_.subsets(modalities) if wanted & {"subsets", "subset_losses"} else ()),
    }


def _of_fusion(
    modalities: Sequence[str],
    fused: Mapping[frozenset[str], torch.Tensor],
    labels_B: torch.Tensor,
    wanted: frozenset[Statistic],
) -> dict[str, NDArray[np.float64]]:
    """Cross-entropies of the fused head, and whether it is right with each set of modalities, if they are wanted."""
    found: dict[str, NDArray[np.float64]] = {}
    if "fused" in wanted:
        found["fused"] = _columns(_cross_entropy(fused[frozenset(modalities)], labels_B))
    if "subset_losses" in wanted:
        losses = [_cross_entropy(fused[subset], labels_B) for subset in m_.subsets(modalities)]
        found["subset_losses"] = _columns(torch.cat(losses, dim=1))
    if "subsets" in wanted:
        right = [fused[subset].argmax(dim=1) == labels_B for subset in m_.subsets(modalities)]
        found["subsets"] = _columns(torch.stack(right, dim=1))
    return found


def _cross_entropy(logits_BC: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
    """(B, 1), in nats, at most that of the smallest probability."""
    lowest = float(np.log(SMALLEST_PROBABILITY))
    return -logits_BC.log_softmax(dim=1).gather(1, labels_B[:, None]).clamp(min=lowest)


def _columns(values_BK: torch.Tensor) -> NDArray[np.float64]:
    columns: NDArray[np.float64] = values_BK.double().cpu().numpy()
    return columns


def _gathered(
    mine: NDArray[np.int64], parts: Mapping[str, NDArray[np.float64]], collectives: Collectives
) -> dict[str, NDArray[np.float64]]:
    """The parts of the table for all samples, in their order; `mine`: the positions of this rank's samples."""
    table = collectives.gather_rows(np.column_stack([mine, *parts.values()]))
    table = table[np.argsort(table[:, 0], kind="stable")]
    ends = np.cumsum([1, *(part.shape[1] for part in parts.values())])
    return {name: table[:, start:end].copy() for name, start, end in zip(parts, ends, ends[1:], strict=False)}


def _statistics(
    model: MultimodalModel, reader: ClipReader, rows_N: NDArray[np.int64], table: Mapping[str, NDArray[np.float64]]
) -> SplitStatistics:
    samples, M = len(rows_N), len(model.modalities)
    logs = table.get("probabilities")

    def by_subset(name: str) -> dict[frozenset[str], NDArray[np.float64]] | None:
        return {s: table[name][:, k] for k, s in enumerate(m_.subsets(model.modalities))} if name in table else None

    right = by_subset("subsets")
    features = {m: table[f"features/{m}"].astype(np.float32) for m in model.modalities if f"features/{m}" in table}
    return SplitStatistics(
        rows_N=rows_N,
        labels_N=reader.store.labels_N[rows_N],
        available_NM=np.ones((samples, M), np.bool_),  # a clip store has all modalities of every clip
        cross_entropy_NM=table["cross_entropy"],
        fused_cross_entropy_N=table["fused"][:, 0] if "fused" in table else None,
        log_probabilities_NMC=None if logs is None else logs.reshape(samples, M, model.num_classes),
        right=None if right is None else {subset: found_N > 0 for subset, found_N in right.items()},
        subset_cross_entropy=by_subset("subset_losses"),
        features=features or None,
    )
