from typing import Any

import optuna
import pytest

from remix_study import config as c
from remix_study.config import StudyConfig
from remix_study.errors import ConfigError
from remix_study.study.search_space import check_study, configure, grid, space_of, suggest

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


def test_a_method_searches_what_all_search_and_its_own() -> None:
    s = study()
    assert list(space_of(s, s.methods["joint"])) == ["optimizer.learning_rate", "epochs"]
    assert list(space_of(s, s.methods["remix"])) == [
        "optimizer.learning_rate",
        "epochs",
        "method.order",
        "method.filter",
    ]


def test_points_lie_in_the_space_and_choices_are_told_by_their_labels() -> None:
    s = study()
    space = space_of(s, s.methods["remix"])
    searcher = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    points = [suggest(searcher.ask(), space) for _ in range(20)]
    for point in points:
        assert 1e-4 <= float(str(point["optimizer.learning_rate"])) <= 1e-2
        assert point["epochs"] in (4, 5, 6)
    assert {point["method.filter"] for point in points} == {"plain", "close"}
    assert {point["method.order"] for point in points} == {"blocks", "mixed"}


def test_a_point_becomes_a_run_base_then_method_then_point_then_settings() -> None:
    s = study()
    point = {"optimizer.learning_rate": 0.005, "epochs": 4, "method.order": "mixed", "method.filter": "close"}
    run = configure(s, "remix", point, seed=7, settings={"corpus": "elsewhere", "evaluation.test": True})
    assert isinstance(run.method, c.RemixConfig)
    assert (run.method.order, run.method.filter) == ("mixed", c.MarginConfig(rule="margin", threshold=0.5))
    assert (run.optimizer.learning_rate, run.epochs, run.seed) == (0.005, 4, 7)
    assert (run.corpus, run.evaluation.test, run.method.warmup) == ("elsewhere", True, 1)


def test_points_do_not_leak_into_each_other() -> None:
    """A whole part that is chosen must not be shared: a later `a.b` would change the study itself."""
    s = study()
    before = s.model_dump()
    for number in range(2):
        configure(s, "remix", {"method.filter": "close"}, seed=0, settings={"method.filter.threshold": 0.1 + number})
    assert s.model_dump() == before


def test_a_label_that_is_no_choice_is_refused() -> None:
    with pytest.raises(ConfigError, match="a choice must be one of plain, close, but is far"):
        configure(study(), "remix", {"method.filter": "far"}, seed=0, settings={})


def test_a_study_is_checked_at_its_corners_and_its_first_points() -> None:
    remix = REMIX | {"first": [{"optimizer.learning_rate": 0.001}]}
    runs = check_study(study(methods={"joint": {"set": {"method": {"name": "joint"}}}, "remix": remix}), {})
    assert [run.method.name for run in runs] == ["joint", "joint", "remix", "remix", "remix"]
    assert [run.epochs for run in runs] == [4, 6, 5, 4, 6]


def test_all_methods_mistakes_are_told_at_once() -> None:
    methods = {
        "joint": {
            "set": {"method": {"name": "joint"}},
            "space": {"optimizer.learnin_rate": {"kind": "float", "low": 0, "high": 1}},
        },
        "late": {"set": {"method": {"name": "remix", "warmup": 5}}},
        "remix": REMIX | {"first": [{"method.odrer": "blocks"}]},
        "never": {"set": {"method": {"name": "remix", "warmup": 9}}},
    }
    with pytest.raises(ConfigError) as raised:
        check_study(study(methods=methods), {})
    told = str(raised.value)
    assert "the method `joint` of the study `s`" in told
    assert "did you mean `learning_rate`?" in told
    assert "`methods.remix.first` names method.odrer, which this method does not search" in told
    assert "`method.warmup` must be below `epochs` (4)" in told
    assert "the method `never` of the study `s`" in told


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


def test_a_conditional_dimension_is_searched_only_under_its_condition() -> None:
    s = conditional()
    space = space_of(s, s.methods["remix"])
    sampled = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    points = [suggest(sampled.ask(), space) for _ in range(30)]
    assert {len(point) for point in points} == {1, 2}
    for point in points:
        assert ("method.filter.threshold" in point) == (point["method.filter.rule"] == "margin")
        assert point.get("method.filter.threshold", 0.0) in (0.0, 0.25, 0.5, 0.75)
        run = configure(s, "remix", point, 0, {})
        assert isinstance(run.method, c.RemixConfig)
        assert run.method.filter.rule == point["method.filter.rule"]


def test_a_grid_is_every_point_once_and_knows_conditions() -> None:
    s = conditional()
    points = grid(space_of(s, s.methods["remix"]))
    assert points == [
        {"method.filter.rule": "argmin"},
        *({"method.filter.rule": "margin", "method.filter.threshold": t} for t in (0.0, 0.25, 0.5, 0.75)),
    ]


def test_a_grid_needs_ends_and_enough_points() -> None:
    with pytest.raises(ConfigError, match=r"`optimizer.learning_rate` has no end of values"):
        check_study(study(sampler="grid"), {})
    with pytest.raises(ConfigError, match="`trials` must be at most the 5 points of the grid of `remix`, but is 6"):
        check_study(conditional().model_copy(update={"sampler": "grid", "trials": 6}), {})
    assert check_study(conditional().model_copy(update={"sampler": "grid", "trials": 5}), {})


def test_a_condition_that_cannot_hold_is_refused() -> None:
    for when, said in (
        ({"method.order": "blocks"}, r"must name a dimension that is searched before it.*method\.filter\.rule"),
        ({"method.filter.rule": "marign"}, r"waits for `method\.filter\.rule: marign`, which never comes"),
    ):
        space: dict[str, Any] = {"method.filter.rule": {"kind": "choice", "of": ["argmin", "margin"]}}
        space["method.filter.threshold"] = {"kind": "float", "low": 0.0, "high": 1.0, "when": when}
        with pytest.raises(ConfigError, match=said):
            check_study(conditional(space=space), {})


@pytest.mark.parametrize(
    ("point", "said"),
    [
        ({"method.filter.rule": "argmax"}, r"`methods\.remix\.first\[0\]\.method\.filter\.rule`.*argmax"),
        ({"method.filter.rule": "margin", "method.filter.threshold": 0.3}, r"must lie in its dimension, but is 0\.3"),
        ({"method.filter.rule": "margin", "method.filter.threshold": 2.0}, r"must lie in its dimension, but is 2\.0"),
    ],
)
def test_a_first_point_outside_its_space_is_refused(point: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_study(conditional(first=[point]), {})


@pytest.mark.parametrize(
    "dimension",
    [
        {"kind": "float", "low": 0.1, "high": 1.0, "log": True, "step": 0.1},
        {"kind": "int", "low": 0, "high": 8, "log": True},
        {"kind": "float", "low": 0.1, "high": float("inf")},
    ],
)
def test_an_impossible_dimension_is_refused(dimension: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"step|at least 1|finite"):
        study(space={"optimizer.learning_rate": dimension})
