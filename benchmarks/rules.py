"""(i) What a rule that reads several scoring passes adds to an epoch of Remix with random samples and a scoring pass

An epoch of a few clips is timed, and scaled to the 6698 training clips of CREMA-D; the rules are timed on as many
samples. `coalition_gain` also runs the fused head without each modality, which is timed on features of that size. What
the models of `reducible_loss` cost before the first epoch is not in its row: it is a part of `train/multiply_adds`.

`python -m benchmarks.run rules` takes about a minute of two idle cores.
"""

# N training samples, M modalities, C classes, P scoring passes, d features of one modality

import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.epochs import CLASSES, SCORING_BATCH, Scale, Trainer, batched_scores, noise_store, trainer
from benchmarks.measure import Result, in_turns, median, seconds
from remix_study.balancing import FusedLoss, Method, UnimodalLosses
from remix_study.epoch import SplitStatistics
from remix_study.metrics import subsets
from remix_study.models import MultimodalModel
from remix_study.remix import (
    ByCost,
    Cartography,
    CoalitionGain,
    FixedShare,
    History,
    LearningProgress,
    Random,
    Reassembly,
    ReducibleLoss,
    RemixPlan,
    RemixSettings,
    kl_from_uniform,
)
from remix_study.remix.rules import CostRule

SAMPLES = 6698  # training clips of CREMA-D
MODALITIES = ("audio", "video")
AT_MOST = 1.05  # of the time of an epoch with random samples


def measure(quick: bool) -> Iterator[Result]:
    """Measure all rules."""
    scale = Scale.of(quick)
    with tempfile.TemporaryDirectory() as folder:
        store = noise_store(Path(folder), scale.samples, scale.preset)
        settings = RemixSettings(warmup=0, score="kl", filter=Random(), how=Reassembly("blocks", (1, 0), scale.batch),
                                 share=FixedShare((0.5, 0.5)))  # fmt: skip
        plan = RemixPlan(settings, store.modalities, store.labels_N, CLASSES, seed=0)
        ours = trainer(store, Method("remix", plan, (FusedLoss(), UnimodalLosses(0.5, 1.0))), scale.batch)
        own = {name: partial(_rule_s, rule) for name, rule in _rules().items()}
        head = partial(_heads_s, ours.model)
        epoch = partial(_epoch_s, ours)
        rounds = in_turns([epoch, head, *own.values()], min(scale.rounds, 2))
    for number, name in enumerate(own):
        rule_s = [found[2 + number] + (found[1] if name == "coalition_gain" else 0.0) for found in rounds]
        epoch_s = [found[0] * SAMPLES / scale.samples for found in rounds]
        ratio = median([1 + rule / epoch for rule, epoch in zip(rule_s, epoch_s, strict=True)])
        what = f"(i) epoch with {name} / with random samples and a scoring pass"
        yield Result(what, ratio, at_most=AT_MOST, note=f"the rule alone: {1000 * median(rule_s):.0f} ms")


def _epoch_s(ours: Trainer) -> float:
    """An epoch with random samples, and the scoring pass that all rules share."""
    started = time.perf_counter()
    batched_scores(ours, lambda probs, labels: kl_from_uniform(probs))  # noqa: ARG005 - the labels are not used
    return time.perf_counter() - started + sum(ours.epoch())


def _rules() -> dict[str, CostRule]:
    reference_NM = np.random.default_rng(1).random((SAMPLES, len(MODALITIES))).astype(np.float32)
    return {
        "learning_progress": LearningProgress(),
        "cartography": Cartography(),
        "coalition_gain": CoalitionGain(),
        "reducible_loss": ReducibleLoss(lambda: reference_NM),
    }


def _rule_s(rule: CostRule) -> float:
    """Costs, metrics and the assignment within classes, for all samples."""
    draw = np.random.default_rng(0)
    labels_N = draw.integers(0, CLASSES, SAMPLES)
    losses_PNM = draw.gamma(1.0, 1.0, (rule.passes, SAMPLES, len(MODALITIES))).astype(np.float32)
    found = SplitStatistics(
        np.arange(SAMPLES), labels_N, np.ones(losses_PNM.shape[1:], np.bool_), losses_PNM[-1].astype(np.float64),
        right={subset: draw.random(SAMPLES) < 0.5 for subset in subsets(MODALITIES)},
        subset_cross_entropy={subset: draw.random(SAMPLES) for subset in subsets(MODALITIES)},
    )  # fmt: skip
    history = History(MODALITIES, labels_N, CLASSES, losses_PNM, found)
    assign, shares_M = ByCost(rule, 0.3, labels_N), np.full(len(MODALITIES), 0.5)

    def work() -> None:
        assign(rule.costs(history), shares_M, np.random.default_rng(2))
        rule.metrics(history)

    return seconds(work, calls=3)


@torch.inference_mode()
def _heads_s(model: MultimodalModel) -> float:
    """The fused head with every set of modalities, for all samples."""
    features = {m: torch.randn(SCORING_BATCH, model.widths[m]) for m in model.modalities}
    active = [torch.tensor([[m in subset for m in model.modalities]] * SCORING_BATCH) for subset in subsets(MODALITIES)]

    def of_a_batch(fuse: Callable[..., torch.Tensor]) -> None:
        for each_BM in active:
            logits_BC = fuse(features, each_BM)
            logits_BC.argmax(dim=1)
            logits_BC.log_softmax(dim=1).cpu()

    return seconds(lambda: of_a_batch(model.fuse), calls=5) * -(-SAMPLES // SCORING_BATCH)
