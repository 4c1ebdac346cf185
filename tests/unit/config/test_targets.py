"""Abstaining targets in configurations: what they need, what they read, and what old runs keep"""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from remix_study.config.run import RunConfig
from remix_study.errors import ConfigError
from remix_study.fit import require_fit
from remix_study.launch.run import unimodal_config
from remix_study.media.store import ClipStore
from remix_study.study.search_space import configure
from remix_study.study.study_file import check_study
from tests.studies import config
from tests.unit.stores import changed, with_text

Recipe = Callable[..., RunConfig]
HISTORY = {"kind": "abstain", "of": "history"}


def test_labels_as_targets_are_the_run_of_earlier_versions(recipe: Recipe) -> None:
    assert recipe({"targets": None}).digest("data") == recipe().digest("data")
    assert len({recipe({"targets": {"of": of}}).digest("data") for of in ("truth", "history", "held_out")}) == 3


@pytest.mark.parametrize(
    ("method", "lacks"),
    [
        ({"name": "joint"}, "joint"),
        ({"name": "ogm_ge"}, "ogm_ge"),
        ({"name": "mla"}, "mla"),
        ({"name": "remix", "warmup": 1, "predictions": "dropout"}, "predictions: dropout"),
    ],
)
def test_a_method_without_unimodal_losses_is_refused(recipe: Recipe, method: dict[str, Any], lacks: str) -> None:
    with pytest.raises(ConfigError, match=f"`targets` needs unimodal losses, which `{lacks}` does not have; use"):
        recipe({"method": method, "targets": HISTORY})


@pytest.mark.parametrize(
    "method",
    [
        {"name": "joint_unimodal"},
        {"name": "unimodal", "modality": "audio"},
        {"name": "gblend"},
        {"name": "joint", "with": ["dgl"]},
        {"name": "remix", "warmup": 1, "with": ["mla"]},
    ],
)
def test_a_method_with_unimodal_losses_may_abstain(recipe: Recipe, method: dict[str, Any]) -> None:
    assert recipe({"method": method, "targets": {"of": "history"}}).targets is not None


@pytest.mark.parametrize("key", ["begin", "every"])
def test_options_of_detectors_are_refused_with_the_truth(recipe: Recipe, key: str) -> None:
    with pytest.raises(ConfigError, match=f"`{key}` is for detectors, but `of: truth` knows every sample"):
        recipe({"targets": {"of": "truth", key: 3}})


def test_only_a_detector_that_reads_control_clips_has_a_control_split(recipe: Recipe) -> None:
    assert [recipe({"targets": {"of": of}}).control for of in ("truth", "history", "held_out")] == [0, 0, 0.1]
    said = "must be above 0, because `targets: {of: held_out}` reads the control split while training"
    with pytest.raises(ConfigError, match=said):
        recipe({"targets": {"of": "held_out"}, "control_fraction": 0})


@pytest.mark.parametrize(
    "space",
    [
        {"set": {"targets": {"of": "held_out"}}},
        {"set": {"targets": {"of": "history"}, "targets.of": "held_out"}},
        {"space": {"targets": {"kind": "choice", "of": {"none": None, "some": {"of": "held_out"}}}}},
        {
            "set": {"targets.kind": "abstain"},
            "space": {"targets.of": {"kind": "choice", "of": ["history", "held_out"]}},
        },
    ],
)
def test_all_methods_of_its_study_train_on_the_same_clips(space: Mapping[str, Any]) -> None:
    methods = config().model_dump(by_alias=True)["methods"]
    method = {"name": "joint_unimodal"}
    unequal = [{"key": "targets", "reason": "the question of the study"}]
    made = config(
        base={"corpus": "c", "epochs": 3},
        methods={**methods, "some": {**space, "set": {"method": method, **space.get("set", {})}}},
        unequal=unequal,
    )
    assert {configure(made, name, {}, 0, {}).control_fraction for name in methods} == {0.1}
    check_study(made, {})


def test_a_ceiling_learns_labels(recipe: Recipe) -> None:
    assert unimodal_config(recipe({"targets": HISTORY}), "audio").targets is None


def test_the_truth_needs_a_corpus_that_tells_it(recipe: Recipe, small_store: ClipStore) -> None:
    truth = recipe({"targets": {"of": "truth"}})
    require_fit(truth, small_store)
    untold = changed(small_store, truth=[{} for _ in small_store.truth])
    require_fit(recipe({"targets": HISTORY}), untold)
    for store in (untold, with_text(small_store)):
        with pytest.raises(
            ConfigError, match=r"needs a corpus that says which clips are informative.*history or held_out"
        ):
            require_fit(truth, store)


def test_a_problem_of_a_schedule_names_the_key_as_it_is_written(recipe: Recipe) -> None:
    with pytest.raises(ConfigError) as raised:
        recipe({"targets": {"of": "historyy", "weight": {"from": -1}}})
    assert "`targets.weight.from` must be at least 0, but is -1" in str(raised.value)
    assert "`targets.weight.to` is missing" in str(raised.value)
    assert "`targets.of` must be one of truth, history, held_out, but is 'historyy'" in str(raised.value)
