"""Scoring pass: evaluate every modality alone on every training sample

The pass is deterministic: evaluation mode, every sample once, in the order of the training split. Each rank evaluates a
part of the samples, and every rank receives the complete table.
"""

# N training samples, M modalities, C classes, B samples of one batch

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from remix_study.datasets.clips import ClipReader
from remix_study.epoch import ScoreFunction, ScoringPass
from remix_study.models import MultimodalModel
from remix_study.remix.separability import SMALLEST_PROBABILITY
from remix_study.training.step import mixed_precision
from remix_study.world import Collectives


@torch.inference_mode()
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
    world = collectives.world
    modalities = model.modalities
    mine = np.arange(world.rank, len(rows_N), world.size)
    table = np.empty((len(mine), 1 + 2 * len(modalities)))
    table[:, 0] = mine
    model.eval()
    for start in range(0, len(mine), batch):
        between_batches()
        chosen = mine[start : start + batch]
        clips = reader.read(rows_N[chosen], np.ones((len(chosen), len(modalities)), np.bool_))
        with mixed_precision(clips.labels_B.device, autocast):
            logits = [model.classify(m, model.encode(m, clips.inputs[m])) for m in modalities]
        # Softmax runs on the device; scores are computed on the CPU.
        probs_BMC = torch.stack(logits, dim=1).softmax(dim=2).cpu().numpy()
        labels_B = clips.labels_B.cpu().numpy()
        true_BM = probs_BMC[np.arange(len(chosen)), :, labels_B].astype(np.float64)
        part = table[start : start + batch]
        part[:, 1 : 1 + len(modalities)] = score(probs_BMC, labels_B)
        part[:, 1 + len(modalities) :] = -np.log(np.clip(true_BM, SMALLEST_PROBABILITY, 1.0))
    model.train()
    gathered = collectives.gather_rows(table)
    gathered = gathered[np.argsort(gathered[:, 0], kind="stable")]
    return ScoringPass(gathered[:, 1 : 1 + len(modalities)].copy(), gathered[:, 1 + len(modalities) :].copy())
