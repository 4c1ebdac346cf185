"""(h) What a controller of the shares adds to an epoch of Remix with random samples, fixed shares and a scoring pass

The control split is a tenth of the training split, on which an epoch then does not train: 670 of CREMA-D's 6698
training clips. A pass over it costs a forward pass of both encoders, as the scoring pass does for all other clips. A
training step costs three forward passes of one encoder, so that the pass adds 2/9 to 3 + 2: 4 %. `block_gain` takes a
pass for each modality, in which only the encoder of the last block runs.

The pass is timed over as many clips as an epoch trains on, and divided by nine, because a few clips take longer than
their part of a batch. What a rule computes is timed with CREMA-D's numbers of clips.
"""

# N training samples, M modalities, C classes

import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.epochs import CLASSES, SCORING_BATCH, Scale, Trainer, noise_store, trainer
from benchmarks.measure import Result, in_turns, median
from remix_study.balancing import FusedLoss, Method, UnimodalLosses
from remix_study.epoch import ScoringPass, SplitStatistics
from remix_study.remix import (
    ArgminShare,
    BlockGainShare,
    CalibratedProgressShare,
    FixedShare,
    HeldOutProgressShare,
    ProgressShare,
    Random,
    Reassembly,
    RemixPlan,
    RemixSettings,
    ShareInputs,
    ShareRule,
    kl_from_uniform,
)
from remix_study.remix.share import LOSS
from remix_study.training.scoring import KeptFeatures, SplitPasses
from remix_study.world import Solo

TRAINING, CONTROL = 6028, 670  # the 6698 training clips of CREMA-D, with a control split of a tenth
RULES: dict[str, ShareRule] = {
    "progress": ProgressShare(),
    "by_score": ArgminShare(),
    "held_out_progress": HeldOutProgressShare(),
    "calibrated_progress": CalibratedProgressShare(),
    "block_gain": BlockGainShare(),
}
AT_MOST = 1.05  # of the time of the epoch with fixed shares


class Round(NamedTuple):
    """Seconds of an epoch with fixed shares, and of passes over a control split of as many clips.

    `pass_s` is one pass of all encoders, `each_s` one for each encoder, which runs alone.
    """

    epoch_s: float
    pass_s: float
    each_s: float

    def control_s(self, rule: ShareRule) -> float:
        """Seconds of the passes that a rule takes in an epoch."""
        if rule.of_control is None:
            return 0.0
        return self.each_s if rule.after_blocks else self.pass_s


def measure(quick: bool) -> Iterator[Result]:
    """Measure all controllers."""
    scale = Scale.of(quick)
    with tempfile.TemporaryDirectory() as folder:
        store = noise_store(Path(folder), scale.samples, scale.preset)
        how = Reassembly("blocks", (1, 0), scale.batch)
        settings = RemixSettings(warmup=0, score="kl", filter=Random(), how=how, share=FixedShare((0.5, 0.5)))
        plan = RemixPlan(settings, store.modalities, store.labels_N, CLASSES, seed=0)
        ours = trainer(store, Method("remix", plan, (FusedLoss(), UnimodalLosses(0.5, 1.0))), scale.batch)
        rounds = [found for (found,) in in_turns([partial(_round, ours)], min(scale.rounds, 3))]
    for name, rule in RULES.items():
        decision_s = _decision_s(rule)
        ratio = median([
            1 + (found.control_s(rule) * CONTROL / TRAINING + decision_s * scale.samples / TRAINING) / found.epoch_s
            for found in rounds
        ])  # fmt: skip
        yield Result(f"(h) epoch with {name} / with fixed shares and a scoring pass", ratio, at_most=AT_MOST)
        if name == "calibrated_progress":  # the only one that takes more than a millisecond
            yield Result(f"(h) of which {name} computes, without passes", decision_s, unit="s")


def _round(ours: Trainer) -> Round:
    """Time a scoring pass and an epoch, then a pass over the control split with all that rules read."""
    every = np.arange(len(ours.reader.store))
    rows = {"train": every, "control": every}
    passes = SplitPasses(ours.model, ours.reader, rows, Solo(), SCORING_BATCH, False)
    started = time.perf_counter()
    passes.score(lambda probs, labels: kl_from_uniform(probs))  # noqa: ARG005 - the labels are not used
    epoch_s = time.perf_counter() - started + sum(ours.epoch())
    passes.wanted_of_control = frozenset(("fused", "probabilities"))
    started = time.perf_counter()
    passes.control()
    pass_s = time.perf_counter() - started
    kept = KeptFeatures()
    each_s = 0.0
    for changed in [ours.model.modalities, *([m] for m in ours.model.modalities)]:
        passes = SplitPasses(ours.model, ours.reader, rows, Solo(), SCORING_BATCH, False, kept=kept)
        passes.wanted_of_control = frozenset(("fused",))
        kept.forget(changed)
        started = time.perf_counter()
        passes.control()
        each_s += (time.perf_counter() - started) * (len(changed) == 1)  # the first keeps the features
    return Round(epoch_s, pass_s, each_s)


def _decision_s(rule: ShareRule) -> float:
    """The seconds of a decision, given all that the rule reads."""
    draw = np.random.default_rng(0)
    logits_NMC = draw.standard_normal((CONTROL, 2, CLASSES))
    logs_NMC = logits_NMC - np.log(np.exp(logits_NMC).sum(axis=2, keepdims=True))
    labels_N = draw.integers(0, CLASSES, CONTROL)
    control = SplitStatistics(np.arange(CONTROL), labels_N, np.ones((CONTROL, 2), np.bool_), draw.random((CONTROL, 2)),
                              log_probabilities_NMC=logs_NMC)  # fmt: skip
    scored = ScoringPass(draw.random((TRAINING, 2)), draw.random((TRAINING, 2)))
    seen = ShareInputs(1, np.full(2, 0.5), {LOSS: np.ones(2)}, (1, 0), scored, np.full(2, 0.1), lambda: control)
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        rule.next(seen)
        seconds.append(time.perf_counter() - started)
    return median(seconds)
