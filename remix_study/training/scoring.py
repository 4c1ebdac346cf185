"""Scoring: what every modality alone says about every training sample

A deterministic pass: evaluation mode, every sample once, in the order of the training split. Ranks share the samples;
every rank receives the whole table.
"""

# N training samples, M modalities, C classes, B samples of one batch

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
) -> ScoringPass:
    """Scores and cross-entropies (nats) of the heads, both (N, M), float64, for the clips at `rows_N`."""
    world = collectives.world
    modalities = model.modalities
    mine = np.arange(world.rank, len(rows_N), world.size)
    table = np.empty((len(mine), 1 + 2 * len(modalities)))
    table[:, 0] = mine
    model.eval()
    for start in range(0, len(mine), batch):
        chosen = mine[start : start + batch]
        seen = reader.read(rows_N[chosen], np.ones((len(chosen), len(modalities)), np.bool_))
        with mixed_precision(seen.labels_B.device, autocast):
            logits = [model.heads[m](model.encode(m, seen.inputs[m])) for m in modalities]
        # The softmax runs where the logits are; only probabilities travel to the CPU, where the scores are defined.
        probs_BMC = torch.stack(logits, dim=1).float().softmax(dim=2).cpu().numpy()
        labels_B = seen.labels_B.cpu().numpy()
        true_BM = probs_BMC[np.arange(len(chosen)), :, labels_B].astype(np.float64)
        part = table[start : start + batch]
        part[:, 1 : 1 + len(modalities)] = score(probs_BMC, labels_B)
        part[:, 1 + len(modalities) :] = -np.log(np.clip(true_BM, SMALLEST_PROBABILITY, 1.0))
    model.train()
    whole = collectives.gather_rows(table)
    whole = whole[np.argsort(whole[:, 0], kind="stable")]
    return ScoringPass(whole[:, 1 : 1 + len(modalities)].copy(), whole[:, 1 + len(modalities) :].copy())
