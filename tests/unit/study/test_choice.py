"""The trial that a study chooses, and the Pareto front of several objectives"""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from remix_study.config.study import StudyConfig
from remix_study.study.ledger import State, TrialRecord, choose, pareto_front
from tests.studies import config

BOTH = ["best/val_accuracy", {"metric": "best/balance_imbalance", "direction": "minimize"}]
Values = tuple[float, ...]


def trial(number: int, values: Values) -> TrialRecord:
    state: State = "complete" if values else "failed"
    return TrialRecord("remix", number, state, values, {}, None, None, False, 0.0, None, None, (), (), {})


def trials(*values: Values) -> tuple[TrialRecord, ...]:
    return tuple(trial(number, each) for number, each in enumerate(values))


def numbers(study: StudyConfig, *values: Values) -> list[int]:
    return [each.number for each in pareto_front(study, trials(*values))]


# Few different values, so that ties are common; () is a failed trial.
PAIRS = st.lists(
    st.just(()) | st.tuples(st.sampled_from([0.1, 0.2, 0.3]), st.sampled_from([0.1, 0.2, 0.3])), max_size=6
)


@given(PAIRS)
@example([(0.2, 0.1), (0.2, 0.1)])
def test_the_front_is_every_trial_than_which_none_is_better(values: list[Values]) -> None:
    """Better: as good in both objectives, and more in one. Equal trials are both on the front."""
    complete = [number for number, each in enumerate(values) if each]
    expected = [
        n
        for n in complete
        if not any(
            values[k][0] >= values[n][0] and values[k][1] <= values[n][1] and values[k] != values[n] for k in complete
        )
    ]
    assert numbers(config(objective=BOTH), *values) == expected


@given(PAIRS, st.sampled_from([0.0, 0.1, 0.2]))
@example([(0.2, 0.1), (0.2, 0.1)], 0.0)
def test_the_choice_is_the_best_second_objective_near_the_best_first_and_the_earliest_of_equals(
    values: list[Values], tolerance: float
) -> None:
    study = config(objective=BOTH, tolerance=tolerance)
    chosen = choose(study, trials(*values))
    front = numbers(study, *values)
    if not front:
        assert chosen is None
        return
    best = max(values[n][0] for n in front)
    near = [n for n in front if values[n][0] >= best - tolerance]
    assert chosen is not None
    assert chosen.number == sorted(near, key=lambda n: (values[n][1], -values[n][0], n))[0]


@pytest.mark.parametrize(("direction", "expected"), [("maximize", 1), ("minimize", 2)])
def test_the_earliest_of_equally_good_trials_is_chosen(direction: str, expected: int) -> None:
    study = config(objective=[{"metric": "best/val_accuracy", "direction": direction}])
    chosen = choose(study, trials((), (0.5,), (0.3,), (0.5,), (0.3,)))
    assert chosen is not None
    assert chosen.number == expected
