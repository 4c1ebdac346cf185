"""The parts and the results of one run"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from remix_study.augment import Augmentation
from remix_study.balancing import Method
from remix_study.datasets.clips import ClipReader
from remix_study.models import MultimodalModel
from remix_study.tracking.tracker import Tracker
from remix_study.training.checkpoint import Checkpoints
from remix_study.training.final_evaluation import Predictions, Selection
from remix_study.training.learning_rate import RateFactor
from remix_study.training.state import Record
from remix_study.world import Collectives

# Called with the metrics of all epochs so far, after every epoch; raises RunPruned or StudyStopped to end the run.
EpochCallback = Callable[[Sequence[Record]], None]


@dataclass(frozen=True)
class LoopSettings:
    """Plain values of a run.

    `evaluation_batch` and `micro_batch` are per rank, `clash_every` counts steps (0: never), `masking` is that of
    `RunConfig`, `select_by` is the validation metric that chooses the best epoch, `select` the epoch whose weights the
    final evaluation uses.
    """

    digest: str
    epochs: int
    seed: int
    learning_rate: float
    evaluation_batch: int = 256
    clash_every: int = 0
    clip_norm: float | None = None
    micro_batch: int | None = None
    autocast: bool = False
    masking: str = "skip_encoder"
    test: bool = False
    probe: bool = True
    ceilings: Mapping[str, float] | None = None
    select_by: str = "accuracy"
    select: Selection = "best"


@dataclass(frozen=True)
class Run:
    """All parts of one run; built by `assemble.py`."""

    settings: LoopSettings
    method: Method
    model: MultimodalModel
    optimizer: torch.optim.Optimizer
    rate: RateFactor
    reader: ClipReader
    rows: Mapping[str, NDArray[np.int64]]  # split -> rows of the clip store; `control` is no part of `train`
    augmentation: Augmentation
    collectives: Collectives
    checkpoints: Checkpoints
    tracker: Tracker
    history_file: Path
    callback: EpochCallback | None = None  # called on rank 0 only
    preempted: Callable[[], bool] = lambda: False  # whether this rank's node or process is about to be preempted
    # Of an epoch: modality -> a factor of its encoder's learning rate; and the values of schedules, as metrics.
    encoder_rates: Callable[[int], Mapping[str, float]] = lambda _: {}
    scheduled: Callable[[int], Mapping[str, float]] = lambda _: {}


@dataclass(frozen=True)
class RunResult:
    """Results of a finished run.

    `history[e]`: metrics of epoch e. `summary`: metrics of the run, such as `best/...` and `test/...`. `predictions`:
    split -> predictions of the selected epoch, if the test split was evaluated; `predicted`: `best` or `last` -> class
    that the fused head of that epoch predicts for each test clip.
    """

    history: list[Record]
    summary: Record
    predictions: dict[str, Predictions]
    predicted: dict[Selection, NDArray[np.int64]]


def now(run: Run) -> float:
    """Seconds of a clock, after all work of the device that was started before."""
    if run.reader.device.type == "cuda":
        torch.cuda.synchronize(run.reader.device)
    return time.perf_counter()
