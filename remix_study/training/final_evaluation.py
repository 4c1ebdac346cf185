"""Final evaluation: once, after the last epoch, of the selected epoch (the best on validation, or the last)

test              metrics on the held-out test split, and the test accuracies of the best and of the last epoch
probe             a new linear classifier on the frozen features of every encoder
late_calibrated   the calibrated late product of the unimodal heads, or of the probes if the heads are not trained
sufficiency       accuracy of every unimodal head relative to its modality trained alone
"""

# N samples of a split, M modalities, C classes, d features

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from remix_study import metrics as m_
from remix_study.datasets.clips import ClipReader
from remix_study.models import MultimodalModel
from remix_study.seeds import stream
from remix_study.training.evaluate import FUSED, LATE_CALIBRATED, LATE_SUM, Evaluation, evaluate
from remix_study.training.step import mixed_precision
from remix_study.world import Collectives

Predictions = dict[str, NDArray[np.float32]]
"""View (`fused`, `late_sum`, `late_calibrated`, or a modality for its head) -> log-probabilities (N, C) in nats."""

Selection = Literal["best", "last"]
"""The epoch whose weights are evaluated: the best on validation, or the last."""


class FinalEvaluation(NamedTuple):
    """Metrics of a finished run, and the predictions for each clip.

    Without a test split, there are no predictions.

    Attributes:
        predictions: of the selected epoch, for the splits `val` and `test`. If the unimodal heads are not trained,
            theirs are left out. On `val`, `late_calibrated` is cross-fitted.
        predicted: `best` or `last` -> class that the fused head of that epoch predicts for each test clip, (N,).
    """

    metrics: dict[str, float]
    predictions: dict[str, Predictions]
    predicted: dict[Selection, NDArray[np.int64]]


def evaluate_finished(
    model: MultimodalModel,
    reader: ClipReader,
    rows: Mapping[str, NDArray[np.int64]],
    collectives: Collectives,
    best: Mapping[str, Any],
    *,
    batch: int,
    autocast: bool,
    test: bool,
    probe: bool,
    ceilings: Mapping[str, float] | None,
    seed: int,
    heads: bool,
    select: Selection = "best",
    between_batches: Callable[[], None] = lambda: None,
) -> FinalEvaluation:
    """Evaluate a finished run; the result is the same on every rank.

    `model` has the weights of the last epoch; afterwards, it has those of the selected one. Without `test`, probes and
    sufficiency use the validation split, which also selected the best epoch, so they are slightly optimistic.

    Args:
        best: the checkpoint of the best epoch.
        seed: of the probes, and of the folds of the calibrated late product.
        between_batches: called before each batch of every pass; may raise.
    """
    how: dict[str, Any] = {"batch": batch, "autocast": autocast, "between_batches": between_batches}
    found: dict[str, float] = {}
    split = "test" if test else "val"
    other: Selection = "last" if select == "best" else "best"
    weights = {"best": best["model"], "last": {name: value.clone() for name, value in model.state_dict().items()}}
    predicted: dict[Selection, NDArray[np.int64]] = {}
    for epoch in (other, select) if test else (select,):
        model.load_state_dict(weights[epoch])
        chosen = evaluate(model, reader, rows[split], collectives, keep=True, **how)
        if test:
            found[f"test/accuracy_{epoch}"] = chosen.accuracy
            predicted[epoch] = _logs(chosen)[FUSED].argmax(axis=1)
    evaluated = {split: chosen}
    if test:
        found |= chosen.metrics("test", heads)
        evaluated = {"val": evaluate(model, reader, rows["val"], collectives, keep=True, **how), "test": chosen}
    predictions: dict[str, Predictions] = {
        name: {view: logs for view, logs in _logs(result).items() if heads or view == FUSED}
        for name, result in evaluated.items()
    }
    if ceilings and heads:
        found |= sufficiency(chosen.accuracy_uni(), ceilings, m_.majority_rate(chosen.confusions["fused"]))
    unimodal: dict[str, NDArray[np.floating]] = {}
    if probe:
        accuracies, unimodal = _probe(model, reader, rows, split, collectives, seed=seed, **how)
        found |= accuracies
    if heads:
        unimodal = {name: np.stack([of[m] for m in model.modalities], axis=1) for name, of in predictions.items()}
    labels = {name: reader.store.labels_N[rows[name]] for name in predictions}
    if unimodal:
        exponents_M, products = _late_product(unimodal, labels, seed)
        for name, logs_NC in products.items():
            predictions[name][LATE_CALIBRATED] = logs_NC
        found |= {f"late_calibrated/exponent/{m}": float(w) for m, w in zip(model.modalities, exponents_M, strict=True)}
        found[f"{select}/val_accuracy_late_calibrated"] = _accuracy(products["val"], labels["val"])
    if test:
        found |= _calibration(predictions["test"], labels["test"])
    return FinalEvaluation(found, predictions if test else {}, predicted)


def _logs(result: Evaluation) -> Predictions:
    assert result.log_probabilities is not None  # they were asked for
    return result.log_probabilities


def _accuracy(logs_NC: NDArray[np.float32], labels_N: NDArray[np.int64]) -> float:
    return float(np.mean(logs_NC.argmax(axis=1) == labels_N))


def _late_product(
    unimodal: Mapping[str, NDArray[np.floating]], labels: Mapping[str, NDArray[np.int64]], seed: int
) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float32]]]:
    """The exponents (M,) fitted on the validation split, and the log-probabilities of the product for each split.

    Those of the validation split are cross-fitted: the exponents for each half of it are fitted on the other.

    Args:
        unimodal: split -> log-probabilities of the unimodal predictions, (N, M, C).
        labels: split -> the classes, (N,).
    """
    exponents_M = m_.fit_exponents(unimodal["val"], labels["val"])
    fold_N = m_.two_folds(labels["val"], stream(seed, "late_product"))
    products = {"val": m_.cross_fitted(unimodal["val"], labels["val"], fold_N)}
    if "test" in unimodal:
        products["test"] = m_.late_product(unimodal["test"], exponents_M)
    return exponents_M, {name: logs_NC.astype(np.float32) for name, logs_NC in products.items()}


def _calibration(predictions: Predictions, labels_N: NDArray[np.int64]) -> dict[str, float]:
    """Calibration errors on the test split, and the accuracy and cross-entropies that no evaluation has."""
    found = {}
    for view, logs_NC in predictions.items():
        suffix = "" if view == FUSED else f"_{view}" if view in (LATE_SUM, LATE_CALIBRATED) else f"_uni/{view}"
        found[f"test/calibration_error{suffix}"] = m_.calibration_error(logs_NC, labels_N)
        if view in (LATE_SUM, LATE_CALIBRATED):
            found[f"test/cross_entropy{suffix}"] = m_.cross_entropy(logs_NC, labels_N)
        if view == LATE_CALIBRATED:
            found[f"test/accuracy{suffix}"] = _accuracy(logs_NC, labels_N)
    return found


def sufficiency(alone: Mapping[str, float], ceilings: Mapping[str, float], chance: float) -> dict[str, float]:
    """Sufficiency metrics of each modality.

    Args:
        alone: modality -> accuracy of its unimodal head, in [0, 1].
        ceilings: modality -> accuracy on the same split when it is trained alone, in [0, 1].
        chance: the rate of the most frequent class.
    """
    found: dict[str, float] = {}
    for m, ceiling in ceilings.items():
        if m not in alone:
            continue
        found[f"sufficiency/gap/{m}"] = m_.sufficiency_gap(alone[m], ceiling)
        ratio = m_.sufficiency_ratio(alone[m], ceiling)
        corrected = m_.chance_corrected(alone[m], ceiling, chance)
        if ratio is not None:
            found[f"sufficiency/ratio/{m}"] = ratio
        if corrected is not None:
            found[f"sufficiency/ratio_above_chance/{m}"] = corrected
    return found


def _probe(
    model: MultimodalModel,
    reader: ClipReader,
    rows: Mapping[str, NDArray[np.int64]],
    split: str,
    collectives: Collectives,
    *,
    batch: int,
    autocast: bool,
    between_batches: Callable[[], None],
    seed: int,
) -> tuple[dict[str, float], dict[str, NDArray[np.floating]]]:
    """Metrics of the probes, and their log-probabilities: `val`, and the last split -> (N, M, C)."""
    found = {}
    wanted = ["train", "val", split]
    labels = [reader.store.labels_N[rows[name]] for name in wanted]
    # Ranks must gather in the same order, and the order of a set differs between processes.
    features = {
        name: _features(model, reader, rows[name], collectives, batch, autocast, between_batches)
        for name in dict.fromkeys(wanted)
    }
    predicted: dict[str, list[NDArray[np.float64]]] = {name: [] for name in dict.fromkeys(wanted[1:])}
    for m in model.modalities:
        (train_Nd, val_Nd, eval_Nd) = (features[name][m] for name in wanted)
        result = m_.linear_probe(train_Nd, labels[0], val_Nd, labels[1], eval_Nd, labels[2], seed)
        found[f"probe/accuracy/{m}"] = result.accuracy
        for name, logs_NK in {"val": result.val_logs_NK, split: result.eval_logs_NK}.items():
            logs_NC = np.full((len(logs_NK), model.num_classes), -np.inf)
            logs_NC[:, result.classes_K] = logs_NK
            predicted[name].append(logs_NC)
    return found, {name: np.stack(logs, axis=1) for name, logs in predicted.items()}


@torch.inference_mode()
def _features(
    model: MultimodalModel,
    reader: ClipReader,
    rows_N: NDArray[np.int64],
    collectives: Collectives,
    batch: int,
    autocast: bool,
    between_batches: Callable[[], None],
) -> dict[str, NDArray[np.float64]]:
    world = collectives.world
    mine = np.arange(world.rank, len(rows_N), world.size)
    parts: dict[str, list[NDArray[np.float64]]] = {m: [] for m in model.modalities}
    model.eval()
    for start in range(0, len(mine), batch):
        between_batches()
        chosen = mine[start : start + batch]
        clips = reader.read(rows_N[chosen], np.ones((len(chosen), len(model.modalities)), np.bool_))
        with mixed_precision(clips.labels_B.device, autocast):
            encoded = {m: model.encode(m, clips.inputs[m]) for m in model.modalities}
        for m, features_Bd in encoded.items():
            parts[m].append(np.column_stack([chosen, features_Bd.double().cpu().numpy()]))
    model.train()
    nothing = {m: np.empty((0, 1 + model.widths[m])) for m in model.modalities}  # a rank without samples
    gathered = {m: collectives.gather_rows(np.concatenate([nothing[m], *rows])) for m, rows in parts.items()}
    return {m: table[np.argsort(table[:, 0], kind="stable"), 1:] for m, table in gathered.items()}
