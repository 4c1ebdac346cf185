"""Metrics of multimodal learning

    accuracy.py      confusion matrix -> accuracy, balanced accuracy, macro-F1, majority rate
    balance.py       balance of modalities: accuracy gaps, |ln rho|, Shapley values, missing modalities
    sufficiency.py   accuracy of each modality relative to training it alone; linear probe
    clash.py         conflict between the gradients of two objectives
    calibration.py   expected calibration error, cross-entropy
    late_product.py  product of the unimodal predictions, with exponents fitted on held-out samples

All functions are pure. Callers sum over ranks first, or pass a function that does (`clash`).
"""

from remix_study.metrics.accuracy import accuracy, balanced_accuracy, confusion, macro_f1, majority_rate
from remix_study.metrics.balance import (
    abs_log_rho,
    accuracy_gap,
    accuracy_ratio,
    average_missing,
    conditional_utilisation,
    drop,
    imbalance,
    missing,
    shapley,
    subsets,
)
from remix_study.metrics.calibration import calibration_error, cross_entropy
from remix_study.metrics.clash import modality_interference, objective_conflict
from remix_study.metrics.late_product import cross_fitted, fit_exponents, late_product, two_folds
from remix_study.metrics.sufficiency import (
    ProbeResult,
    chance_corrected,
    linear_probe,
    sufficiency_gap,
    sufficiency_ratio,
)

__all__ = [
    "ProbeResult",
    "abs_log_rho",
    "accuracy",
    "accuracy_gap",
    "accuracy_ratio",
    "average_missing",
    "balanced_accuracy",
    "calibration_error",
    "chance_corrected",
    "conditional_utilisation",
    "confusion",
    "cross_entropy",
    "cross_fitted",
    "drop",
    "fit_exponents",
    "imbalance",
    "late_product",
    "linear_probe",
    "macro_f1",
    "majority_rate",
    "missing",
    "modality_interference",
    "objective_conflict",
    "shapley",
    "subsets",
    "sufficiency_gap",
    "sufficiency_ratio",
    "two_folds",
]
