"""MILES against its formula"""

# N control samples, M modalities

import itertools
from typing import Any

import numpy as np
import pytest

from remix_study.balancing import Window
from remix_study.balancing.miles import MILES
from remix_study.epoch import SplitStatistics
from remix_study.models import ConcatFusion
from tests.unit.balancing.linear import model_of
from tests.unit.balancing.passes import FixedPasses, start

TWO, THREE = ("audio", "video"), ("audio", "text", "video")


def split_of(modalities: tuple[str, ...], right: dict[str, int]) -> SplitStatistics:
    """Ten samples, of which the fused head classifies `right[subset]` correctly with a subset, such as "audio"."""
    subsets = [s for n in range(len(modalities) + 1) for s in itertools.combinations(modalities, n)]
    found = {frozenset(s): np.arange(10) < right.get("+".join(s), 0) for s in subsets}
    held = np.ones((10, len(modalities)), np.bool_)
    return SplitStatistics(np.arange(10), np.zeros(10, np.int64), held, np.zeros(held.shape), right=found)


def begun(modalities: tuple[str, ...], right: dict[str, int], epoch: int = 1, **others: Any) -> MILES:
    rule = MILES(modalities, others.get("threshold", 0.2), others.get("factor", 0.5),
                 window=others.get("window", Window()))  # fmt: skip
    rule.begin(start(epoch, model_of(ConcatFusion), FixedPasses(control_split=split_of(modalities, right))))
    return rule


@pytest.mark.parametrize(
    ("modalities", "right", "used"),
    [
        (TWO, {"audio+video": 8, "audio": 7, "video": 4}, {"audio": 4 / 8, "video": 1 / 8}),
        (TWO, {"audio+video": 8, "audio": 9, "video": 4}, {"audio": 4 / 8, "video": -1 / 8}),
        (TWO, {"audio+video": 8, "audio": 6, "video": 5}, {"audio": 3 / 8, "video": 2 / 8}),  # within the threshold
        (
            THREE,
            {"audio+text+video": 10, "audio+text": 9, "audio+video": 8, "text+video": 4},
            {"audio": 0.6, "text": 0.2, "video": 0.1},
        ),
        (TWO, {"audio": 3}, {"audio": 0.0, "video": 0.0}),  # never right with both: 0/0 is not a number
    ],
)
def test_encoders_whose_modality_is_used_more_learn_at_a_lower_rate(
    modalities: tuple[str, ...], right: dict[str, int], used: dict[str, float]
) -> None:
    rule = begun(modalities, right)
    for m in modalities:
        others = [used[other] for other in modalities if other != m]
        slowed = used[m] - sum(others) / len(others) > 0.2
        assert rule.factors()[m] == (0.5 if slowed else 1.0)
    assert rule.metrics() == pytest.approx(
        {f"method/miles/utilisation/{m}": value for m, value in used.items()}
        | {f"method/miles/factor/{m}": value for m, value in rule.factors().items()}
    )
    assert rule.metrics() == {}


def test_a_factor_lasts_for_one_epoch() -> None:
    model = model_of(ConcatFusion)
    rule = begun(TWO, {"audio+video": 8, "audio": 7, "video": 4})
    for right, factor in (
        ({"audio+video": 8, "audio": 7, "video": 4}, 0.5),
        ({"audio+video": 8, "audio": 7, "video": 7}, 1.0),
    ):
        rule.begin(start(2, model, FixedPasses(control_split=split_of(TWO, right))))
        assert rule.factors()["audio"] == factor


def test_it_acts_within_its_window_and_not_before_the_first_epoch() -> None:
    assert [epoch for epoch in range(5) if MILES(TWO, 0.2, 0.5, window=Window()).due(epoch)] == [1, 2, 3, 4]
    rule = begun(TWO, {"audio+video": 8, "audio": 7}, epoch=3, window=Window(2, 4))
    assert [epoch for epoch in range(8) if rule.due(epoch)] == [2, 3, 4]
    assert rule.factors()["audio"] == 0.5
    rule.begin(start(4, model_of(ConcatFusion), FixedPasses()))
    assert rule.factors() == {}


def test_its_state_resumes_exactly() -> None:
    rule = begun(TWO, {"audio+video": 8, "audio": 7, "video": 4})
    again = MILES(TWO, 0.2, 0.5, window=Window())
    again.restore(rule.state())
    assert again.factors() == rule.factors() == {"audio": 0.5, "video": 1.0}
    assert again.metrics() == rule.metrics()
