"""Importances of hyperparameters, on trials with known importances"""

from typing import Any

import numpy as np
import optuna
import pytest

from remix_study.config.study import StudyConfig
from remix_study.study.importance import FANOVA_UP_TO, FEWEST, evaluator_name, importances, why_unknown
from remix_study.study.ledger import TrialRecord

SPACE = {
    "rate": {"kind": "float", "low": 1e-4, "high": 1e-1, "log": True},
    "noise": {"kind": "float", "low": 0, "high": 1},
    "kind": {"kind": "choice", "of": ["plain", "deep", None]},
    "depth": {"kind": "int", "low": 1, "high": 5, "when": {"kind": "deep"}},
}


def study(space: dict[str, Any] | None = None, **changes: Any) -> StudyConfig:
    content: dict[str, Any] = {
        "name": "s", "question": "q", "base": {}, "methods": {"m": {}}, "reference": "m", "trials": 1, "replicates": 1,
        "space": SPACE if space is None else space,
    }  # fmt: skip
    return StudyConfig.model_validate(content | changes)


def trial(number: int, value: float | None, **changes: Any) -> TrialRecord:
    known: dict[str, Any] = {
        "method": "m", "number": number, "state": "pruned" if value is None else "complete",
        "values": () if value is None else (value,), "params": {}, "reason": None, "cause": None, "retried": False,
        "seconds": 1.0, "started": None, "ended": None, "folders": (), "seed_values": (), "intermediate": {},
    }  # fmt: skip
    return TrialRecord(**(known | changes))


def trials(number: int) -> list[TrialRecord]:
    """Return trials whose values depend on `rate` and, where it exists, on `depth`, but not on `noise`."""
    draw = np.random.default_rng(0)
    found = []
    for n in range(number):
        params: dict[str, Any] = {
            "rate": float(10 ** draw.uniform(-4, -1)), "noise": float(draw.random()),
            "kind": ["plain", "deep", None][draw.integers(3)],
        }  # fmt: skip
        value = -abs(np.log10(params["rate"]) + 2)
        if params["kind"] == "deep":
            params["depth"] = int(draw.integers(1, 6))
            value += 0.4 * params["depth"] - 1.2
        found.append(trial(n, float(value), params=params))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("number", [60, FANOVA_UP_TO + 200])
def test_the_parameter_that_decides_is_the_most_important(number: int) -> None:
    found = importances(study(), "m", trials(number))
    assert found is not None
    assert evaluator_name(study(), "m", trials(number)) == ("fANOVA" if number == 60 else "PED-ANOVA")
    assert sum(found[path] for path in ("rate", "noise", "kind")) == pytest.approx(1)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert found["rate"] > 3 * found["noise"]
    assert found["depth"] > found["noise"]  # from the trials with this hyperparameter


@pytest.mark.slow
def test_pruned_and_failed_trials_are_ignored() -> None:
    complete = trials(40)
    others = [trial(100 + n, None, params={"rate": 0.1, "noise": 0.5, "kind": "plain"}) for n in range(40)]
    others += [t._replace(state="failed", number=200 + t.number, values=(9.0,)) for t in complete[:5]]
    assert importances(study(), "m", [*complete, *others]) == importances(study(), "m", complete)


def test_importances_are_deterministic_and_print_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    level = optuna.logging.get_verbosity()
    assert importances(study(), "m", trials(30)) == importances(study(), "m", trials(30))
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == level


def test_the_name_of_the_importances_is_that_of_the_trials_in_the_search_space() -> None:
    """Trials outside a search space that has been narrowed do not count."""
    outside = [trial(n, 0.5, params={"rate": 1e9, "noise": 0.5, "kind": "plain"}) for n in range(FANOVA_UP_TO)]
    assert evaluator_name(study(), "m", [*outside, *trials(30)]) == "fANOVA"


@pytest.mark.slow
def test_importances_of_a_minimised_objective() -> None:
    flipped = [t._replace(values=(-t.values[0],)) for t in trials(FANOVA_UP_TO + 100)]
    less = study(objective={"metric": "best/val_cross_entropy", "direction": "minimize"})
    assert importances(less, "m", flipped) == importances(study(), "m", trials(FANOVA_UP_TO + 100))


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ([], "0 complete trials; at least 8 are needed"),
        (trials(1), "1 complete trial; at least 8 are needed"),
        (trials(FEWEST - 1), "7 complete trials; at least 8 are needed"),
        ([t._replace(values=(0.5,)) for t in trials(20)], "all complete trials have the same value"),
        ([t._replace(params={"rate": 0.01}) for t in trials(20)], "no parameter was varied in all trials"),
        ([t._replace(params={"rate": t.params["rate"]}) for t in trials(20)], "only one parameter was varied"),
    ],
)
def test_the_reason_for_missing_importances_is_given(given: list[TrialRecord], why: str) -> None:
    assert importances(study(), "m", given) is None
    assert why_unknown(study(), "m", given) == why


def test_trials_outside_the_current_space_are_ignored() -> None:
    """A storage may hold trials with values that an edited study file no longer has."""
    found = importances(study(), "m", [*trials(30), trial(90, 0.1, params={"rate": 0.5, "noise": 0.5, "kind": "old"})])
    assert found == importances(study(), "m", trials(30))
