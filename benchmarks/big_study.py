"""A study of ten thousand recorded trials with made-up results, stored like a real one

    python -m benchmarks.big_study FOLDER [--trials 10000] [--epochs 50]

Writes FOLDER/studies/big. `remix-study status` and `report` read it like any other study (`--workspace FOLDER`).
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import sqlalchemy as sa
from optuna.distributions import CategoricalDistribution, FloatDistribution, distribution_to_json
from optuna.trial import TrialState

from remix_study import optuna_private
from remix_study.config.study import StudyConfig
from remix_study.study.question import write_question
from remix_study.study.storage import open_storage, optuna_name

METHODS = ("joint", "joint_unimodal", "remix", "remix_random")
SPACE = {
    "optimizer.learning_rate": {"kind": "float", "low": 5e-4, "high": 1e-2, "log": True},
    "optimizer.weight_decay": {"kind": "float", "low": 1e-6, "high": 1e-2, "log": True},
    "model.fusion": {"kind": "choice", "of": ["concat", "sum", "gated"]},
    "clip_norm": {"kind": "float", "low": 0.1, "high": 10.0},
}
DISTRIBUTIONS = {
    "optimizer.learning_rate": FloatDistribution(5e-4, 1e-2, log=True),
    "optimizer.weight_decay": FloatDistribution(1e-6, 1e-2, log=True),
    "model.fusion": CategoricalDistribution(["concat", "sum", "gated"]),
    "clip_norm": FloatDistribution(0.1, 10.0),
}
_ROWS = 50_000


def record_study(workspace: Path, trials: int = 10_000, epochs: int = 50) -> Path:
    """Write the study and return its folder. Of ten trials, seven are complete, two pruned, and one failed."""
    folder = workspace / "studies" / "big"
    folder.mkdir(parents=True)
    each = trials // len(METHODS)
    study = _config(each, epochs)
    write_question(study, {}, "0" * 12, folder)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = open_storage(None, folder)
    created = [optuna.create_study(study_name=optuna_name(study.name, name), storage=storage, direction="maximize")
               for name in METHODS]  # fmt: skip
    rng = np.random.default_rng(0)
    with sa.create_engine(f"sqlite:///{folder / 'optuna.db'}").begin() as connection:
        for index, one in enumerate(created):
            for table, content in rows_of(optuna_private.study_id(one), index * each, each, epochs, rng):
                connection.execute(sa.insert(table), content)
    return folder


def _config(trials: int, epochs: int) -> StudyConfig:
    methods = {
        "joint": {"set": {"method": {"name": "joint"}}},
        "joint_unimodal": {"set": {"method": {"name": "joint_unimodal"}}},
        "remix": {"set": {"method": {"name": "remix", "warmup": 3}}},
        "remix_random": {
            "set": {"method": {"name": "remix", "warmup": 3, "filter": {"rule": "random"}}},
            "control_of": "choosing samples by their scores",
        },
    }
    content = {
        "name": "big", "question": "How fast is a large study read?", "base": {"corpus": "corpus", "epochs": epochs},
        "space": SPACE, "methods": methods, "reference": "remix", "trials": trials, "replicates": 5,
        "pruner": {"name": "asha", "grace": 4},
    }  # fmt: skip
    return StudyConfig.model_validate(content)


def rows_of(
    study: int, first: int, trials: int, epochs: int, rng: np.random.Generator | None = None
) -> Iterator[tuple[Any, Sequence[dict[str, Any]]]]:
    """Yield the rows of Optuna's tables for `trials` ended trials, in chunks small enough for one statement.

    Args:
        study: Optuna's id of the study.
        first: trial ids start after this one.

    Yields:
        A table of Optuna, and rows for it.
    """
    m = optuna_private.database_models()
    rng = rng or np.random.default_rng(0)
    first_start = datetime(2026, 1, 1)
    heads, params, values, attrs, steps = [], [], [], [], []
    for number in range(trials):
        trial = first + number + 1
        end = "complete" if number % 10 < 7 else "pruned" if number % 10 < 9 else "failed"
        state = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}[end]
        start = first_start + timedelta(seconds=15 * number)
        heads.append({"trial_id": trial, "number": number, "study_id": study, "state": state,
                      "datetime_start": start, "datetime_complete": start + timedelta(seconds=15)})  # fmt: skip
        rate, decay = 10 ** rng.uniform(-3.3, -2), 10 ** rng.uniform(-6, -2)
        values_of = {"optimizer.learning_rate": rate, "optimizer.weight_decay": decay,
                     "model.fusion": float(rng.integers(3)), "clip_norm": rng.uniform(0.1, 10)}  # fmt: skip
        params += [{"trial_id": trial, "param_name": path, "param_value": value,
                    "distribution_json": distribution_to_json(DISTRIBUTIONS[path])}
                   for path, value in values_of.items()]  # fmt: skip
        top = 0.9 - 0.1 * (np.log10(rate) + 2.6) ** 2 + 0.02 * rng.standard_normal()
        trained = epochs if end == "complete" else max(4, int(epochs * rng.uniform(0.1, 0.6)))
        curve = np.maximum.accumulate(top * (1 - np.exp(-np.arange(1, trained + 1) / 8)))
        steps += [{"trial_id": trial, "step": step + 1, "intermediate_value": float(value),
                   "intermediate_value_type": m.TrialIntermediateValueModel.TrialIntermediateValueType.FINITE}
                  for step, value in enumerate(curve)]  # fmt: skip
        if end == "complete":
            values.append({"trial_id": trial, "objective": 0, "value": float(curve[-1]),
                           "value_type": m.TrialValueModel.TrialValueType.FINITE})  # fmt: skip
        attributes: dict[str, Any] = {"seconds": 0.3 * trained, "folders": {"0": f"/gone/{trial}"}}
        if end == "failed":
            attributes |= {"reason": "NotANumberError: the loss must be a number", "cause": "not a number"}
        elif end == "pruned":
            attributes["reason"] = f"pruned by asha after {trained} epochs"
        attrs += [{"trial_id": trial, "key": key, "value_json": json.dumps(value)} for key, value in attributes.items()]
    tables: list[tuple[Any, list[dict[str, Any]]]] = [
        (m.TrialModel, heads),
        (m.TrialParamModel, params),
        (m.TrialValueModel, values),
        (m.TrialUserAttributeModel, attrs),
        (m.TrialIntermediateValueModel, steps),
    ]
    for table, rows in tables:
        for begin in range(0, len(rows), _ROWS):
            yield table, rows[begin : begin + _ROWS]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.big_study")
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=50)
    given = parser.parse_args()
    print(record_study(given.workspace, given.trials, given.epochs))
