"""(h) What a controller of the shares adds to an epoch of Remix with random samples, fixed shares and a scoring pass

The control split is a tenth of the training split, on which an epoch then does not train: 670 of CREMA-D's 6698
training clips. A pass over it costs a forward pass of both encoders, as the scoring pass does for all other clips. A
training step costs three forward passes of one encoder, so that the pass adds 2/9 to 3 + 2: 4 %. `block_gain` takes a
pass for each modality, and no scoring pass.

All controllers read the same model. `python -m benchmarks.run shares` takes about a minute of two idle cores.
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
from remix_study.epoch import ScoringPass
from remix_study.media.store import ClipStore
from remix_study.metrics import fit_exponents
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
    ShareRule,
    kl_from_uniform,
)
from remix_study.training.scoring import SplitPasses
from remix_study.world import Solo

CONTROL = 670  # a tenth of CREMA-D's training clips
RULES: dict[str, ShareRule] = {
    "progress": ProgressShare(),
    "by_score": ArgminShare(),
    "held_out_progress": HeldOutProgressShare(),
    "calibrated_progress": CalibratedProgressShare(),
    "block_gain": BlockGainShare(),
}
AT_MOST = 1.05  # of the time of the epoch with fixed shares; `block_gain` is reported without a bound


class Round(NamedTuple):
    """Seconds: of the epoch with fixed shares, and what each controller adds to it."""

    epoch_s: float
    added_s: dict[str, float]


def measure(quick: bool) -> Iterator[Result]:
    """Measure all controllers."""
    scale = Scale.of(quick)
    with tempfile.TemporaryDirectory() as folder:
        store = noise_store(Path(folder), scale.samples + round(scale.samples / 9), scale.preset)
        fixed = Method("remix", _plan(store, scale, FixedShare((0.5, 0.5))), (FusedLoss(), UnimodalLosses(0.5, 1.0)))
        ours = trainer(store, fixed, scale.batch)
        rounds = [found for (found,) in in_turns([partial(_round, ours, scale)], min(scale.rounds, 3))]
    for name in RULES:
        ratio = median([1 + found.added_s[name] / found.epoch_s for found in rounds])
        bound = None if name == "block_gain" else AT_MOST
        yield Result(f"(h) epoch with {name} / with fixed shares and a scoring pass", ratio, at_most=bound)
    yield Result(f"(h) fitting the exponents of {CONTROL} control clips", _exponents_s(), unit="s")


def _plan(store: ClipStore, scale: Scale, share: ShareRule) -> RemixPlan:
    how = Reassembly("blocks", (1, 0), scale.batch)
    settings = RemixSettings(warmup=0, score="kl", filter=Random(), how=how, share=share)
    return RemixPlan(settings, store.modalities, store.labels_N[: scale.samples], CLASSES, seed=0)


def _round(ours: Trainer, scale: Scale) -> Round:
    """Time an epoch with a scoring pass, then what each controller does before and within an epoch."""
    rows = {"train": np.arange(scale.samples), "control": np.arange(scale.samples, len(ours.reader.store))}
    passes = SplitPasses(ours.model, ours.reader, rows, Solo(), SCORING_BATCH, autocast=False)
    started = time.perf_counter()
    scored = passes.score(lambda probs, labels: kl_from_uniform(probs))  # noqa: ARG005 - the labels are not used
    score_s = time.perf_counter() - started
    epoch_s = score_s + sum(ours.epoch())
    return Round(epoch_s, {name: _added_s(_plan(ours.reader.store, scale, rule), passes, scored)
                           for name, rule in RULES.items()})  # fmt: skip


def _added_s(plan: RemixPlan, passes: SplitPasses, scored: ScoringPass) -> float:
    """The seconds that a controller takes for the second epoch, given the scoring pass."""
    for epoch in range(2):
        passes.forget()
        passes.wanted_of_control = plan.needs_of_control
        started = time.perf_counter()
        if plan.due(epoch):
            plan.inform(passes)
        planned = plan.plan(epoch, lambda _: scored)
        for _ in planned.observed_at:
            passes.forget()
            plan.observe(passes.control())
    return time.perf_counter() - started


def _exponents_s() -> float:
    draw = np.random.default_rng(0)
    logits_NMC = draw.standard_normal((CONTROL, 2, CLASSES))
    logs_NMC = logits_NMC - np.log(np.exp(logits_NMC).sum(axis=2, keepdims=True))
    labels_N = draw.integers(0, CLASSES, CONTROL)
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        fit_exponents(logs_NMC, labels_N)
        seconds.append(time.perf_counter() - started)
    return median(seconds)
