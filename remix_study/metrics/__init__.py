"""Metrics of multimodal learning

    accuracy.py      confusion matrix -> accuracy, balanced accuracy, macro-F1, majority rate
    balance.py       balance of modalities: accuracy gaps, |ln rho|, Shapley values, missing modalities
    sufficiency.py   accuracy of each modality relative to training it alone; linear probe
    clash.py         conflict between the gradients of two objectives

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
from remix_study.metrics.clash import modality_interference, objective_conflict
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
    "chance_corrected",
    "conditional_utilisation",
    "confusion",
    "drop",
    "imbalance",
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
]
