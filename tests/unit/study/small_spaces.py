"""Studies with small search spaces"""

from typing import Any

from remix_study.config.study import StudyConfig

BASE = {"corpus": "corpus", "epochs": 5, "optimizer": {"name": "adam"}}


SPACE = {
    "optimizer.learning_rate": {"kind": "float", "low": 1e-4, "high": 1e-2, "log": True},
    "epochs": {"kind": "int", "low": 4, "high": 6},
}


REMIX = {
    "set": {"method": {"name": "remix", "warmup": 1}},
    "space": {
        "method.order": {"kind": "choice", "of": ["blocks", "mixed"]},
        "method.filter": {
            "kind": "choice",
            "of": {"plain": {"rule": "argmin"}, "close": {"rule": "margin", "threshold": 0.5}},
        },
    },
}


def study(**changes: Any) -> StudyConfig:
    content: dict[str, Any] = {
        "name": "s", "question": "q?", "base": BASE, "space": SPACE, "reference": "remix", "trials": 2, "replicates": 2,
        "methods": {"joint": {"set": {"method": {"name": "joint"}}}, "remix": REMIX},
    }  # fmt: skip
    return StudyConfig.model_validate(content | changes)


CONDITIONAL = {
    "set": {"method": {"name": "remix", "warmup": 1}},
    "space": {
        "method.filter.rule": {"kind": "choice", "of": ["argmin", "margin"]},
        "method.filter.threshold": {
            "kind": "float", "low": 0.0, "high": 0.75, "step": 0.25, "when": {"method.filter.rule": "margin"},
        },
    },
}  # fmt: skip


def conditional(**changes: Any) -> StudyConfig:
    return study(methods={"remix": CONDITIONAL | changes}, space={})
