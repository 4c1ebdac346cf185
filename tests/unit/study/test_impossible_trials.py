"""Hyperparameters that are valid alone, but contradict each other: a schedule that ends before it begins"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from remix_study.config.study import StudyConfig
from remix_study.errors import ConfigError
from remix_study.study.study_file import check_study
from tests.small_studies import StoppingRunner, quick_studies, run_small, small, trials_of


@pytest.fixture(autouse=True)
def _quick() -> Iterator[None]:
    with quick_studies():
        yield


def searching(begin: tuple[float, float], end: tuple[float, float]) -> StudyConfig:
    """A study that searches where the schedule of a threshold begins and ends."""
    threshold = {"rule": "margin", "threshold": {"from": 0.8, "to": 0.3}}
    space = {
        f"method.filter.threshold.{name}": {"kind": "float", "low": low, "high": high}
        for name, (low, high) in {"begin": begin, "end": end}.items()
    }
    remix = {"set": {"method": {"name": "remix", "warmup": 1, "filter": threshold}}, "space": space}
    joint = {"set": {"method": {"name": "joint"}}}
    return small(methods={"joint": joint, "remix": remix}, reference="joint", trials=12)


def test_ranges_that_overlap_are_refused_before_training() -> None:
    check_study(searching((0.0, 0.4), (0.5, 1.0)), {})
    with pytest.raises(ConfigError, match=r"`begin` must be below `end` \(0\.1\), but is 0\.8") as caught:
        check_study(searching((0.0, 0.8), (0.1, 1.0)), {})
    assert str(caught.value).count("\n") <= 2


def test_an_impossible_trial_fails_and_the_study_ends(tmp_path: Path) -> None:
    """The study is not checked first here: no check of a space finds every contradiction in it."""
    study = searching((0.0, 0.8), (0.1, 1.0))
    run_small(tmp_path, study)
    found = trials_of(tmp_path)
    failed = [t for t in found["remix"] if t.state == "failed"]
    assert {t.state for t in found["joint"]} == {"complete"}
    assert 0 < len(failed) < 12 == len(found["remix"])
    for trial in failed:
        begin, end = (trial.params[f"method.filter.threshold.{name}"] for name in ("begin", "end"))
        assert begin >= end
        assert trial.cause == "bad configuration"
        assert f"`begin` must be below `end` ({end:g}" in str(trial.reason)
    again = StoppingRunner()
    run_small(tmp_path, study, again)
    assert again.ran == []
