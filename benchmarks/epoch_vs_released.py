"""(a) A Remix epoch after warm-up vs the same epoch with the semantics of the released code

Released code: both encoders run in every step, and the inactive feature is zeroed (`zero_feature`). All inputs are
read. Scoring runs the whole model at the training batch size in every epoch, then loops over single samples.
remix_study: the inactive modality is neither read nor encoded, convolutions run channels-last, and scores are computed
for whole batches.
"""

# N training samples, M modalities, C classes, B samples of one batch

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.decisions import bits_of_one
from benchmarks.epochs import Scale, Trainer, noise_store, remix, trainer
from benchmarks.measure import Result, in_turns, median
from remix_study.epoch import ScoreFunction, ScoringPass


def measure(quick: bool) -> Iterator[Result]:
    scale = Scale.of(quick)
    with tempfile.TemporaryDirectory() as folder:
        store = noise_store(Path(folder), scale.samples, scale.preset)
        ours = trainer(store, remix(store, scale.batch), scale.batch)
        released = trainer(
            store,
            remix(store, scale.batch),
            scale.batch,
            channels_last=False,
            zero_feature=True,
            score=scores_one_by_one,
        )  # fmt: skip
        rounds = in_turns([ours.epoch, released.epoch], scale.rounds)
    for every, bound in ((1, 0.50), (5, 0.36)):
        yield Result(
            f"(a) Remix epoch, scoring every {'epoch' if every == 1 else f'{every} epochs'} / as released",
            median([o.scoring_every(every) / r.scoring_every(1) for o, r in rounds]),
            at_most=bound,
        )
    yield Result("(a) of which training steps alone", median([o.train_s / r.train_s for o, r in rounds]))
    yield Result("(a) of which a scoring pass alone", median([o.score_s / r.score_s for o, r in rounds]))


@torch.no_grad()
def scores_one_by_one(trainer: Trainer, score: ScoreFunction) -> ScoringPass:  # noqa: ARG001 - always KL
    """Run the scoring pass of the released code. It computes no cross-entropies; they are returned as zeros."""
    model, samples = trainer.model, len(trainer.reader.store)
    scores_NM = np.zeros((samples, len(model.modalities)))
    model.eval()
    for start in range(0, samples, trainer.batch):
        rows_B = np.arange(start, min(start + trainer.batch, samples))
        outputs = model(trainer.reader.read(rows_B, np.ones((len(rows_B), len(model.modalities)), np.bool_)))
        probs = [outputs.head_logits[m].softmax(dim=1) for m in model.modalities]
        for position, row in enumerate(rows_B):
            for m, probs_BC in enumerate(probs):
                scores_NM[row, m] = bits_of_one(probs_BC[position])
    model.train()
    return ScoringPass(scores_NM, np.zeros_like(scores_NM))
