"""Training for the epoch benchmarks: ResNet-18 encoders on clips of CREMA-D's shapes, with the package's training code

The clips are noise in an ordinary clip store: 257 x 188 spectrograms and 2 frames of 224 x 224 (preset `ogm`). Each
modality gets half of the samples, because the cost of an epoch depends on the shares.
"""

# N training samples

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from remix_study.balancing import FusedLoss, Method, Step, UnimodalLosses
from remix_study.datasets.clips import ClipReader
from remix_study.epoch import ScoreFunction, ScoringPass
from remix_study.media.presets import PRESETS, Preset
from remix_study.media.shards import shard_name
from remix_study.media.store import ClipStore
from remix_study.modality import AUDIO, VIDEO
from remix_study.models import ConcatFusion, Fusion, MultimodalModel, ResNet18, TinyEncoder
from remix_study.remix import (
    Argmin,
    ConstantPlan,
    FixedShare,
    Reassembly,
    RemixPlan,
    RemixSettings,
    everything_joint,
    rank_batches,
)
from remix_study.seeds import stream
from remix_study.training.scoring import scoring_pass
from remix_study.training.step import train_step
from remix_study.world import Collectives, Solo

CLASSES = 6
SCORING_BATCH = 256  # the default of `evaluation.batch`


class Scale(NamedTuple):
    """Size of a benchmark. Quick runs check that it runs; their ratios mean nothing."""

    samples: int
    batch: int
    rounds: int
    preset: str

    @classmethod
    def of(cls, quick: bool) -> "Scale":
        return cls(8, 4, 1, "tiny") if quick else cls(32, 16, 5, "ogm")


class EpochTime(NamedTuple):
    """Seconds of one epoch: `score_s` for the scoring pass and the decision, `train_s` for the training steps."""

    score_s: float
    train_s: float

    def scoring_every(self, epochs: int) -> float:
        """Return the mean seconds of an epoch if every `epochs`-th one starts with a scoring pass."""
        return self.score_s / epochs + self.train_s


@dataclass
class Trainer:
    """The parts of a run that train an epoch."""

    model: MultimodalModel
    method: Method
    optimizer: torch.optim.Optimizer
    reader: ClipReader
    collectives: Collectives
    batch: int
    zero_feature: bool
    score: "Callable[[Trainer, ScoreFunction], ScoringPass]"
    epochs: int = 0

    def epoch(self) -> EpochTime:
        """Train one more epoch: plan it, with a scoring pass if the plan needs one, then train every step."""
        self.collectives.barrier()
        started = time.perf_counter()
        planned = self.method.plan.plan(self.epochs, lambda score: self.score(self, score))
        scored = time.perf_counter()
        self.model.train()
        for part in rank_batches(planned.schedule, self.collectives.world):
            clips = self.reader.read(part.samples_b, part.active_bM, read_inactive=self.zero_feature)
            train_step(
                self.model, self.method, clips, part.global_count, self.optimizer, self.collectives,
                autocast=False, clip_norm=None, at=Step(self.epochs, part.step, part.multimodal, steps=part.steps),
            )  # fmt: skip
        self.collectives.barrier()
        self.epochs += 1
        return EpochTime(scored - started, time.perf_counter() - scored)


def batched_scores(trainer: Trainer, score: ScoreFunction) -> ScoringPass:
    """Run the scoring pass of remix_study."""
    rows_N = np.arange(len(trainer.reader.store))
    return scoring_pass(trainer.model, trainer.reader, rows_N, trainer.collectives, score, batch=SCORING_BATCH,
                   autocast=False)  # fmt: skip


def trainer(
    store: ClipStore,
    method: Method,
    batch: int,
    *,
    channels_last: bool = True,
    zero_feature: bool = False,
    score: Callable[[Trainer, ScoreFunction], ScoringPass] = batched_scores,
    collectives: Collectives | None = None,
    fusion: type[Fusion] = ConcatFusion,
) -> Trainer:
    """Return a trainer with Adam as released, and ResNet-18 encoders (tiny ones for tiny clips)."""
    model = new_model(store, fusion)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-5, weight_decay=1e-4)
    reader = ClipReader(store, torch.device("cpu"), channels_last=channels_last)
    return Trainer(model, method, optimizer, reader, collectives or Solo(), batch, zero_feature, score)


def new_model(store: ClipStore, fusion: Callable[[Mapping[str, int], int], Fusion] = ConcatFusion) -> MultimodalModel:
    """Return a model with its initial weights."""
    tiny = store.card["preset"] == "tiny"
    torch.manual_seed(0)
    encoders = {m: TinyEncoder(c) if tiny else ResNet18(c) for m, c in ((AUDIO, 1), (VIDEO, 3))}
    return MultimodalModel(encoders, fusion({m: e.out_features for m, e in encoders.items()}, CLASSES))


def remix(store: ClipStore, batch: int) -> Method:
    """Return Remix without warm-up, with a scoring pass in every epoch: KL, argmin, blocks."""
    settings = RemixSettings(
        warmup=0, score="kl", filter=Argmin(), how=Reassembly("blocks", (1, 0), batch), share=FixedShare((0.5, 0.5))
    )
    plan = RemixPlan(settings, store.modalities, store.labels_N, CLASSES, seed=0)
    return Method("remix", plan, (FusedLoss(), UnimodalLosses(0.5, 1.0)))


def joint(store: ClipStore, batch: int) -> Method:
    """Return joint training."""
    how = Reassembly("shuffled", (1, 0), batch)
    return Method("joint", ConstantPlan(everything_joint(len(store), 2), how, seed=0), (FusedLoss(),), False)


def noise_store(folder: Path, samples: int, preset: str) -> ClipStore:
    """Return a clip store of noise with the shapes of `preset`, and write its shards to `folder` unless they exist."""
    shapes: Preset = PRESETS[preset]
    draw = stream(0, "benchmark clips")
    for m in shapes.modalities:
        if (folder / shard_name(m, 0)).exists():
            continue
        shape = (samples, *shapes.shape(m))
        rows: Any = draw.integers(0, 256, shape, np.uint8) if m == VIDEO else draw.standard_normal(shape, np.float32)
        np.save(folder / shard_name(m, 0), rows.astype(shapes.dtype(m)))
    classes = [f"class-{number}" for number in range(CLASSES)]
    manifest = {
        "name": "noise", "fingerprint": "noise", "modalities": shapes.modalities, "classes": classes,
        "splits": ["train"], "card": {"preset": preset}, "manifest_digest": "noise",
        "preset": shapes.plain(), "per_shard": dict.fromkeys(shapes.modalities, samples),
        "statistics": {AUDIO: (0.0, 1.0), VIDEO: (0.5, 0.29)}, "files": {},
    }  # fmt: skip
    index: list[dict[str, Any]] = [
        {"id": f"{i}", "label": classes[i % CLASSES], "split": "train", "group": None, "truth": {}}
        for i in range(samples)
    ]
    return ClipStore(folder, manifest, index)
