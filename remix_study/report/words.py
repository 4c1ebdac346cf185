"""Readable names and units of metrics: `best/val_accuracy` is "validation accuracy, best epoch (%)"

The definitions are in docs/metrics.md.
"""

import re
from typing import NamedTuple

from remix_study.figures.quantities import quantity_of

_KINDS = {
    "accuracy": ("accuracy", "%"),
    "accuracy_uni": ("accuracy of the {m} head", "%"),
    "accuracy_only": ("accuracy, {m} alone", "%"),
    "accuracy_without": ("accuracy without {m}", "%"),
    "accuracy_late_sum": ("accuracy, late sum of heads", "%"),
    "accuracy_late_calibrated": ("accuracy, calibrated late product", "%"),
    "accuracy_best": ("accuracy, best epoch", "%"),
    "accuracy_last": ("accuracy, last epoch", "%"),
    "balanced_accuracy": ("balanced accuracy", "%"),
    "macro_f1": ("macro-F1", "%"),
    "macro_f1_uni": ("macro-F1 of the {m} head", "%"),
    "cross_entropy": ("cross-entropy", "nats"),
    "cross_entropy_uni": ("cross-entropy of the {m} head", "nats"),
    "cross_entropy_late_sum": ("cross-entropy, late sum of heads", "nats"),
    "cross_entropy_late_calibrated": ("cross-entropy, calibrated late product", "nats"),
    "calibration_error": ("calibration error", "%"),
    "calibration_error_uni": ("calibration error of the {m} head", "%"),
    "calibration_error_late_sum": ("calibration error, late sum of heads", "%"),
    "calibration_error_late_calibrated": ("calibration error, calibrated late product", "%"),
}
_NAMED = {
    "balance/accuracy_gap": ("accuracy gap of the heads", "points"),
    "balance/accuracy_ratio": ("accuracy ratio of the heads", "1 is balanced"),
    "balance/abs_log_rho": ("|ln rho|", "0 is balanced"),
    "balance/imbalance": ("Shapley imbalance", "0 to 1"),
    "balance/missing_drop": ("accuracy drop without a modality", "points"),
    "balance/shapley": ("Shapley value of {m}", "-1 to 1"),
    "balance/utilisation": ("utilisation of {m}", "share of the accuracy"),
    "probe/accuracy": ("linear probe of {m}", "%"),
    "best/own_epoch_accuracy_uni": ("validation accuracy of the {m} head, own best epoch", "%"),
    "sufficiency/ratio": ("sufficiency of the {m} head", "%"),
    "sufficiency/gap": ("sufficiency gap of the {m} head", "points"),
    "sufficiency/probe_ratio": ("sufficiency of the {m} probe", "%"),
    "sufficiency/own_epoch_ratio": ("sufficiency of the {m} head, own best epoch", "%"),
    "sufficiency/ratio_above_chance": ("sufficiency of the {m} head above chance", "%"),
    "late_calibrated/exponent": ("exponent of {m} in the calibrated late product", "1 in the late sum"),
    "remix/share": ("samples that train {m} alone", "%"),
    "remix/joint_share": ("samples that train all modalities", "%"),
    "remix/resting_share": ("samples that train nothing", "%"),
    "remix/entropy": ("evenness of the shares", "0 to 1"),
    "remix/churn": ("reassigned samples", "%"),
    "remix/train_cross_entropy": ("training cross-entropy of the {m} head", "nats"),
    "remix/control_cross_entropy": ("control cross-entropy of the {m} head", "nats"),
    "remix/share_gain": ("drop of the loss that the share of {m} follows", "nats"),
    "remix/exponent": ("exponent of {m} on the control split", "1 in the late sum"),
    "clash/c1": ("cosine of the fused and the unimodal gradient of {m}", "-1 to 1"),
    "clash/c1_negative": ("steps with a negative cosine, fused and unimodal, {m}", "%"),
    "clash/c2": ("cosine of the gradients of {m} with all modalities and alone", "-1 to 1"),
    "clash/c2_negative": ("steps with a negative cosine, all modalities and alone, {m}", "%"),
    "train/multiply_adds": ("multiply-adds of the encoders", ""),
    "train/loss": ("training loss", "nats"),
    "train/learning_rate": ("learning rate", ""),
    "train/updates": ("updates of the {m} encoder", ""),
    "train/samples": ("samples that train {m}", ""),
    "train/total_updates": ("updates of the {m} encoder, all epochs", ""),
    "train/total_samples": ("samples that train {m}, all epochs", ""),
}
_SPLITS = {"val": "validation", "test": "test"}


class Unit(NamedTuple):
    """Name and unit of a metric for people; shown values are `scale` times the metric's own."""

    name: str
    unit: str
    scale: float

    @property
    def label(self) -> str:
        return f"{self.name} ({self.unit})" if self.unit else self.name

    def shown(self, value: float, digits: int = 1) -> str:
        """`93.4 %`, `0.0312 nats`: a value of the metric, scaled."""
        if self.scale != 1:
            text = f"{self.scale * value:.{digits}f}"
        else:
            text = f"{value:.0f}" if float(value).is_integer() else f"{value:.4g}"
        return f"{text} {self.unit}" if self.unit in ("%", "points", "nats", "s") else text


def unit_of(metric: str) -> Unit:
    """The name and unit of a metric; an unknown metric keeps its own name."""
    base = re.sub(r"^(test_|best/|last/)?balance[/_]", "balance/", metric)
    where = {"t": ", test", "b": ", best epoch", "l": ", last epoch"}[metric[0]] if base != metric else ""
    for name, (words, unit) in _NAMED.items():
        if base.startswith(f"{name}/") or (base == name and "{m}" not in words):
            return _unit(words.format(m=base.removeprefix(f"{name}/")) + where, unit)
    found = re.fullmatch(r"(?:(best|last)/)?(val|test)[/_]([a-z0-9_]+?)(?:/(.+))?", metric)
    if found and found[3] in _KINDS:
        words, unit = _KINDS[found[3]]
        when = {"best": ", best epoch", "last": ", last epoch", None: ""}[found[1]]
        return _unit(f"{_SPLITS[found[2]]} {words.format(m=found[4])}{when}", unit)
    if (quantity := quantity_of(metric)) is not None:
        of = f" of {quantity.part}" if quantity.part else ""
        return Unit(f"{quantity.words}{of}", quantity.unit, 1.0)
    if metric.startswith("schedule/"):
        return Unit(f"planned {metric.removeprefix('schedule/').replace('/', ' ').replace('_', ' ')}", "", 1.0)
    return Unit(metric, "s" if metric.startswith("time/") else "", 1.0)


def _unit(name: str, unit: str) -> Unit:
    return Unit(name, unit, 100.0 if unit == "%" else 1.0)


def plural(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
