"""The steps of a run: learning rates, batches, and what ranks share after an epoch"""

from functools import partial
from itertools import chain

import torch

from remix_study.augment import Draws
from remix_study.balancing import Method, Step
from remix_study.metrics import modality_interference, objective_conflict
from remix_study.models import dropout_from
from remix_study.remix.sampler import RankBatch
from remix_study.sample import Batch
from remix_study.seeds import device_stream
from remix_study.training.accumulate import Accumulation
from remix_study.training.run import Run
from remix_study.training.step import SharedFlags, train_step


def set_rates(run: Run, method: Method, epoch: int) -> float:
    """Set the learning rates of an epoch; return that of parameters without a factor."""
    rate = run.settings.learning_rate * run.rate(epoch)
    factors, scheduled = method.rate_factors(), run.encoder_rates(epoch)
    for group in run.optimizer.param_groups:
        m = group.get("modality", "")
        group["lr"] = rate * factors.get(m, 1.0) * scheduled.get(m, 1.0)
    return rate


def run_step(
    run: Run,
    method: Method,
    epoch: int,
    mine: RankBatch,
    flags: SharedFlags,
    accumulation: Accumulation | None = None,
    clashes: dict[str, list[float]] | None = None,
) -> torch.Tensor:
    """Train this rank's part of a step; see `train_step`.

    Args:
        clashes: where the gradient conflicts of this step are recorded; None: they are not measured.
    """
    first, *others = mine.split(run.settings.micro_batch)
    batch = _read(run, first, epoch)
    if clashes is not None:  # with other numbers, so that measuring does not change the training
        with dropout_from(run.model.fusion, partial(_dropout_stream, run, "clash dropout", epoch, mine.step)):
            _measure_clash(run, batch, clashes)
    with dropout_from(run.model.fusion, partial(_dropout_stream, run, "dropout", epoch, mine.step)):
        return train_step(
            run.model,
            method,
            chain([batch], (_read(run, other, epoch) for other in others)) if others else batch,
            mine.global_count,
            run.optimizer,
            run.collectives,
            at=Step(epoch, mine.step, mine.multimodal, mine.global_count, mine.steps),
            autocast=run.settings.autocast,
            clip_norm=run.settings.clip_norm,
            accumulation=accumulation,
            flags=flags,
        )


def _dropout_stream(run: Run, purpose: str, epoch: int, step: int) -> torch.Generator:
    """Of this rank: the samples of ranks differ, and so does what is dropped from them."""
    return device_stream(run.reader.device, run.settings.seed, purpose, epoch, step, run.collectives.world.rank)


def _read(run: Run, part: RankBatch, epoch: int) -> Batch:
    rows_N = run.rows["train"]
    draws = None
    if run.augmentation:
        draws = Draws(run.augmentation, run.settings.seed, epoch, len(rows_N), part.samples_b)
    zero_feature = run.settings.masking == "zero_feature"
    return run.reader.read(rows_N[part.samples_b], part.active_bM, read_inactive=zero_feature, draws=draws)


def _measure_clash(run: Run, batch: Batch, clashes: dict[str, list[float]]) -> None:
    measures = [("c2", modality_interference)]
    if run.method.trains_heads:  # C1 needs a trained head
        measures.insert(0, ("c1", objective_conflict))
    for measure, of in measures:
        for m, cosine in of(run.model, batch, run.collectives.sum_).items():
            clashes.setdefault(f"{measure}/{m}", []).append(cosine)


def average_statistics(run: Run) -> None:
    """Average statistics of the samples over ranks, since each rank updates them from its own batches.

    They are BatchNorm's running statistics, and the means of `masking: mean_feature`.
    """
    size = run.collectives.world.size
    for buffer in run.model.buffers() if size > 1 else ():
        if buffer.is_floating_point():
            run.collectives.sum_(buffer)
            buffer.div_(size)
    run.model.end_epoch()
