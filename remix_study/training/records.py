"""The metrics of an epoch and of a finished run"""

# N training samples, M modalities

import math
from collections.abc import Mapping

import numpy as np

from remix_study.balancing import Method
from remix_study.epoch import PlannedEpoch
from remix_study.training.evaluate import Evaluation
from remix_study.training.multiply_adds import BACKWARD
from remix_study.training.partial_epoch import PartialEpoch
from remix_study.training.run import Run
from remix_study.training.state import Progress, Record


def record_of_epoch(
    run: Run, part: PartialEpoch, found: Evaluation, cost_m: Mapping[str, int], central: int, evaluate_s: float
) -> Record:
    """The metrics of a trained and evaluated epoch.

    Args:
        found: the evaluation on the validation split.
        cost_m: modality -> multiply-adds of the forward pass of one sample.
        central: the same of a network between the encoders.
    """
    planned = part.planned
    samples = float(planned.schedule.counts_T.sum())
    return {
        **(part.record or {}),
        **planned.metrics,
        **run.scheduled(part.epoch),
        **found.metrics("val", run.method.trains_heads),
        **_training_of_encoders(run, part.epoch, planned, cost_m, central),
        "train/steps": float(planned.schedule.steps),
        "train/samples": samples,
        "time/score_s": part.score_s,
        "time/train_s": part.train_s,
        "time/evaluate_s": evaluate_s,
        "time/samples_per_s": samples / max(part.train_s, 1e-9),
    }


def record_of_training(part: PartialEpoch, rate: float, method: Method) -> Record:
    """The metrics of the steps of an epoch, whose loss is summed over the ranks."""
    samples = int(part.planned.schedule.counts_T.sum())
    record = {"train/loss": float(part.loss) / max(1, samples), "train/learning_rate": rate}
    for name, cosines in part.clashes.items():
        measure, m = name.split("/")
        record[f"clash/{measure}/{m}"] = float(np.mean(cosines))
        record[f"clash/{measure}_negative/{m}"] = float(np.mean(np.asarray(cosines) < 0))
    for rule in method.recorded:
        record |= rule.metrics()
    return record


def _training_of_encoders(
    run: Run, epoch: int, planned: PlannedEpoch, cost_m: Mapping[str, int], central: int
) -> Record:
    """Optimizer steps, samples and multiply-adds of the encoders, and of teachers, in an epoch.

    Args:
        cost_m: modality -> multiply-adds of the forward pass of one sample.
        central: the same of a network between the encoders.
    """
    schedule = planned.schedule
    sample_M = schedule.active_TBM.sum(axis=(0, 1))
    update_M, encoded_M = schedule.updates_M, sample_M
    if run.settings.masking in ("zero_feature", "zero_input"):
        # The optimizer moves an inactive encoder that runs, even if its gradients are zero.
        update_M = np.full(len(sample_M), schedule.steps)
    if run.settings.masking == "zero_feature":
        encoded_M = np.full(len(sample_M), schedule.counts_T.sum())
    if run.settings.masking == "zero_input":  # of all inactive samples of a step, one is encoded
        encoded_M = sample_M + (schedule.active_TBM.sum(axis=1) < schedule.counts_T[:, None]).sum(axis=0)
    # The central network runs for every training sample, and in a pass without heads once for every modality.
    central_passes = (1 + BACKWARD) * int(schedule.counts_T.sum())
    central_passes += 0 if run.method.trains_heads else planned.evaluated * len(sample_M)
    cost_M = np.asarray([cost_m[m] for m in run.reader.modalities], dtype=np.float64)
    if planned.trained_M:
        encoded_M = encoded_M + np.asarray(planned.trained_M)
    passes_M = (1 + BACKWARD) * encoded_M + run.method.further_passes(epoch) * sample_M + planned.evaluated
    return {
        "train/multiply_adds": float(cost_M @ passes_M + central * central_passes),
    } | {
        f"train/{name}/{m}": float(count)
        for name, count_M in (("updates", update_M), ("samples", sample_M))
        for m, count in zip(run.reader.modalities, count_M, strict=True)
    }


def summary_of_epochs(run: Run, progress: Progress) -> Record:
    """The metrics of a run that follow from those of its epochs."""
    history = progress.history
    best = {k: v for k, v in history[progress.best_epoch].items() if k.startswith(("val/", "balance/"))}
    summed = ["multiply_adds", *(f"{name}/{m}" for name in ("updates", "samples") for m in run.reader.modalities)]
    return {
        "best/epoch": float(progress.best_epoch),
        # Of a model that knows nothing, the cross-entropy is ln C.
        "train/loss_growth": max(r["train/loss"] for r in history) / math.log(len(run.reader.store.classes)),
        "last/val_accuracy": history[-1]["val/accuracy"],
        **{f"best/{key.replace('/', '_', 1)}": value for key, value in best.items()},
        **_own_best(run, progress),
        **_sizes(run),
        **{
            f"train/total_{name}": sum(r[f"train/{name}"] for r in history)
            for name in summed
            if all(f"train/{name}" in r for r in history)  # not so if an older version began the run
        },
        **{
            f"time/total_{part}": sum(r[f"time/{part}"] for r in history)
            for part in ("train_s", "score_s", "evaluate_s")
        },
    }


def _own_best(run: Run, progress: Progress) -> Record:
    """Validation accuracy of every unimodal head in its own best epoch."""
    if not run.method.trains_heads:
        return {}
    keys = {m: f"val/accuracy_uni/{m}" for m in run.model.modalities}
    return {f"best/own_epoch_accuracy_uni/{m}": max(r[key] for r in progress.history) for m, key in keys.items()}


def _sizes(run: Run) -> Record:
    """The number of clips on which the run trains, and of its control clips, if it has a control split."""
    if "control" not in run.rows:
        return {}
    return {"train/clips": float(len(run.rows["train"])), "train/control_clips": float(len(run.rows["control"]))}
