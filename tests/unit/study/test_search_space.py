"""Dimensions, grids and run configurations of a search space"""

from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from remix_study.config.assignment import MarginConfig
from remix_study.config.method import RemixConfig
from remix_study.errors import ConfigError
from remix_study.study.dimensions import all_values, count_of
from remix_study.study.search_space import (
    SpaceRow,
    configure,
    effective_space,
    grid,
    space_of,
    suggest,
)
from remix_study.study.study_file import check_study
from tests.examples import examples
from tests.unit.study.small_spaces import CONDITIONAL, conditional, study

property_test = examples(40)


def test_a_method_searches_the_shared_dimensions_and_its_own() -> None:
    s = study()
    assert list(space_of(s, s.methods["joint"])) == ["optimizer.learning_rate", "epochs"]
    assert list(space_of(s, s.methods["remix"])) == [
        "optimizer.learning_rate",
        "epochs",
        "method.order",
        "method.filter",
    ]


def test_suggestions_lie_in_the_space_and_choices_are_labels() -> None:
    s = study()
    space = space_of(s, s.methods["remix"])
    searcher = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    points = [suggest(searcher.ask(), space) for _ in range(20)]
    for point in points:
        assert 1e-4 <= float(str(point["optimizer.learning_rate"])) <= 1e-2
        assert point["epochs"] in (4, 5, 6)
    assert {point["method.filter"] for point in points} == {"plain", "close"}
    assert {point["method.order"] for point in points} == {"blocks", "mixed"}


def test_settings_override_hyperparameters_which_override_the_method_which_overrides_the_base() -> None:
    s = study()
    point = {"optimizer.learning_rate": 0.005, "epochs": 4, "method.order": "mixed", "method.filter": "close"}
    run = configure(s, "remix", point, seed=7, settings={"corpus": "elsewhere", "evaluation.test": True})
    assert isinstance(run.method, RemixConfig)
    assert (run.method.order, run.method.filter) == ("mixed", MarginConfig(rule="margin", threshold=0.5))
    assert (run.optimizer.learning_rate, run.epochs, run.seed) == (0.005, 4, 7)
    assert (run.corpus, run.evaluation.test, run.method.warmup) == ("elsewhere", True, 1)


def test_configure_does_not_change_the_study() -> None:
    """A chosen group of keys must be copied, or a setting below it would change the study."""
    s = study()
    before = s.model_dump()
    for number in range(2):
        configure(s, "remix", {"method.filter": "close"}, seed=0, settings={"method.filter.threshold": 0.1 + number})
    assert s.model_dump() == before


def test_an_unknown_label_is_an_error() -> None:
    with pytest.raises(ConfigError, match="a choice must be one of plain, close, but is far"):
        configure(study(), "remix", {"method.filter": "far"}, seed=0, settings={})


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
        assert isinstance(run.method, RemixConfig)
        assert run.method.filter.rule == point["method.filter.rule"]


def test_a_grid_has_every_combination_once_and_respects_conditions() -> None:
    s = conditional()
    points = grid(space_of(s, s.methods["remix"]))
    assert points == [
        {"method.filter.rule": "argmin"},
        *({"method.filter.rule": "margin", "method.filter.threshold": t} for t in (0.0, 0.25, 0.5, 0.75)),
    ]


@pytest.mark.parametrize(
    "dimension",
    [
        {"kind": "float", "low": 0.1, "high": 1.0, "log": True, "step": 0.1},
        {"kind": "int", "low": 0, "high": 8, "log": True},
        {"kind": "float", "low": 0.1, "high": float("inf")},
    ],
)
def test_an_invalid_dimension_is_an_error(dimension: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"step|at least 1|finite"):
        study(space={"optimizer.learning_rate": dimension})


def test_effective_space_describes_each_dimension() -> None:
    points = [
        {"method.filter.rule": "margin", "method.filter.threshold": 0.25},
        {"method.filter.rule": "argmin", "method.share": "free"},
    ]
    share = {"kind": "choice", "of": {"free": None, "progress": {"kind": "progress"}}}
    method = {**CONDITIONAL, "space": {**CONDITIONAL["space"], "method.share": share}, "first": points}  # type: ignore[dict-item]  # a literal of mixed values
    rows = effective_space(study(methods={"remix": method}), "remix")
    assert rows == [
        SpaceRow("optimizer.learning_rate", "float", "0.0001 to 0.01", "log", "", ()),
        SpaceRow("epochs", "int", "4 to 6", "", "", ()),
        SpaceRow("method.filter.rule", "choice", "argmin, margin", "", "", ("margin", "argmin")),
        SpaceRow(
            "method.filter.threshold", "float", "0 to 0.75", "step 0.25", "method.filter.rule is margin", ("0.25",)
        ),
        SpaceRow("method.share", "choice", "free, progress", "", "", ("free",)),
    ]


OPTIMIZERS = {"sgd": {"name": "sgd"}, "adam": {"name": "adam", "weight_decay": 0.001}}


@property_test
@given(st.permutations(["optimizer", "optimizer.learning_rate", "epochs", "method.order"]), st.data())
def test_what_is_recorded_is_what_is_trained_in_any_order_of_keys(keys: list[str], data: st.DataObject) -> None:
    dimensions: dict[str, Any] = {
        "optimizer": {"kind": "choice", "of": OPTIMIZERS},
        "optimizer.learning_rate": {"kind": "float", "low": 0.001, "high": 0.1},
        "epochs": {"kind": "int", "low": 4, "high": 6},
        "method.order": {"kind": "choice", "of": ["blocks", "mixed"]},
    }
    fixed: dict[str, Any] = {"optimizer.learning_rate": 0.5, "optimizer": {"name": "adam"}, "epochs": 9,
                             "method": {"name": "remix", "warmup": 2}}  # fmt: skip
    changes = {key: fixed[key] for key in data.draw(st.permutations(sorted(fixed)))}
    made = study(space={}, methods={"remix": {"set": changes, "space": {key: dimensions[key] for key in keys}}})
    params = {"optimizer": data.draw(st.sampled_from(["sgd", "adam"])), "epochs": data.draw(st.integers(4, 6)),
              "optimizer.learning_rate": data.draw(st.floats(0.001, 0.1)), "method.order": "mixed"}  # fmt: skip
    run = configure(made, "remix", {key: params[key] for key in data.draw(st.permutations(sorted(params)))}, 0, {})
    assert run.optimizer.name == params["optimizer"]
    assert run.optimizer.learning_rate == params["optimizer.learning_rate"]
    assert run.epochs == params["epochs"]
    assert isinstance(run.method, RemixConfig)
    assert (run.method.order, run.method.warmup) == ("mixed", 2)


def test_a_dimension_that_another_one_sets_is_refused() -> None:
    rate = {"kind": "float", "low": 0.001, "high": 0.1}
    groups = {"kind": "choice", "of": {"a": {"name": "sgd", "learning_rate": 0.1}, "b": {"name": "adam"}}}
    for space in (
        {"optimizer.learning_rate": rate, "optimizer": groups},
        {"optimizer": groups, "optimizer.learning_rate": rate},
    ):
        with pytest.raises(ConfigError, match=r"must not be searched, since `optimizer` sets it"):
            check_study(study(space=space), {})
    method = {"name": "remix", "warmup": 2}
    changes, groups = {"method": method, "optimizer.learning_rate": 0.1}, {"kind": "choice", "of": OPTIMIZERS}
    lost = study(space={}, methods={"remix": {"set": changes, "space": {"optimizer": groups}}})
    with pytest.raises(ConfigError, match="has no effect: the dimension `optimizer` replaces the whole group"):
        check_study(lost, {})


HUGE = {"kind": "float", "low": 0.0, "high": 1.0, "step": 1e-9}
MANY = {"kind": "int", "low": 1, "high": 400}


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({"optimizer.learning_rate": HUGE}, "`optimizer.learning_rate` has 1,000,000,001 values"),
        ({"epochs": MANY, "global_batch": MANY}, "A grid may have at most 100,000 combinations"),
    ],
)
def test_a_grid_that_is_too_large_is_refused_before_it_is_listed(space: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        grid(space_of(made := study(space=space), made.methods["joint"]))
    with pytest.raises(ConfigError, match=said):
        check_study(study(space=space, sampler="grid"), {})


@pytest.mark.parametrize(
    "dimension",
    [
        {"kind": "choice", "of": ["a", "b", "c"]}, {"kind": "int", "low": 3, "high": 11, "step": 4},
        {"kind": "float", "low": 0.1, "high": 0.7, "step": 0.1},
        {"kind": "float", "low": 0.2, "high": 0.2, "step": 1.0},
    ],
)  # fmt: skip
def test_the_number_of_values_is_that_of_the_listed_ones(dimension: dict[str, Any]) -> None:
    made = study(space={"optimizer.learning_rate": dimension})
    found = made.space["optimizer.learning_rate"]
    assert count_of(found) == len(all_values("optimizer.learning_rate", found))


def test_values_without_a_step_have_no_number() -> None:
    made = study(space={"optimizer.learning_rate": {"kind": "float", "low": 0.1, "high": 0.7}})
    assert count_of(made.space["optimizer.learning_rate"]) is None
