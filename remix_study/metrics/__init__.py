"""Metrics of multimodal learning: did every modality learn enough, does none dominate, do they hinder each other?

    accuracy.py      confusion matrix -> accuracy, macro-F1, majority rate
    balance.py       is one modality ahead? gaps, |ln rho|, Shapley contributions, missing modalities
    sufficiency.py   did each modality learn as much as it would alone? ratios to the unimodal ceiling, linear probe
    clash.py         do the gradients of two objectives pull an encoder in different directions?

Pure functions: no files, no processes. What sums over ranks is summed before it comes here (or, in `clash`, by a
function that the caller gives).
"""

from remix_study.metrics.accuracy import accuracy, confusion, macro_f1, majority_rate
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
