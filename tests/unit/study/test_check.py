# ruff: noqa: E501 - a table with one row per problem
"""Problems that involve several keys of a study"""

from typing import Any

import pytest

from remix_study.config.study import StudyConfig
from remix_study.errors import ConfigError
from remix_study.study.study_file import check_study

RATE = {"optimizer.learning_rate": {"kind": "float", "low": 1e-4, "high": 1e-2, "log": True}}
CHOICE = {"method.order": {"kind": "choice", "of": ["blocks", "mixed"]}}
METHODS: dict[str, Any] = {
    "joint": {"set": {"method": {"name": "joint"}}},
    "both": {"set": {"method": {"name": "joint_unimodal"}}},
    "remix": {"set": {"method": {"name": "remix", "warmup": 3}}},
    "audio": {"set": {"method": {"name": "unimodal", "modality": "audio"}}, "ceiling_of": "audio"},
}


def study(**changes: Any) -> StudyConfig:
    content: dict[str, Any] = {
        "name": "s", "question": "q?", "base": {"corpus": "corpus", "epochs": 10}, "space": RATE, "reference": "remix",
        "trials": 2, "replicates": 2, "methods": METHODS,
    }  # fmt: skip
    return StudyConfig.model_validate(content | changes)


def with_method(name: str, **changes: Any) -> dict[str, Any]:
    return {"methods": METHODS | {name: METHODS.get(name, {}) | changes}}


def without(*names: str) -> dict[str, Any]:
    return {key: value for key, value in METHODS.items() if key not in names}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pruner": {"name": "asha", "grace": 4}},
        {"pruner": {"name": "median", "metric": "val/macro_f1"}},
        {"objective": {"metric": "best/val_cross_entropy", "direction": "minimize"},
         "pruner": {"name": "asha", "metric": "val/cross_entropy"}},
        {"objective": ["best/val_accuracy", {"metric": "best/balance_imbalance", "direction": "minimize"}],
         "methods": without("audio")},
        {"objective": ["best/val_accuracy", "best/balance_accuracy_ratio"], "methods": without("audio", "joint")},
        {"objective": "best/val_accuracy_uni/audio", "methods": without("joint")},
        {"objective": "best/val_accuracy_late_calibrated", "methods": without("joint")},
        {"objective": "last/val_accuracy_late_calibrated", "methods": without("joint"),
         "base": {"corpus": "c", "epochs": 10, "evaluation": {"select": "last"}}},
        {"objective": ["last/val_accuracy", {"metric": "time/total_train_s", "direction": "minimize"}]},
        {"sampler": "cmaes"},
        {"sampler": "tpe", **with_method("remix", space=CHOICE)},
        {"resources": {"gpus": 0.5}, "budget": {"gpu_hours": 2}},
    ],
)  # fmt: skip
def test_a_valid_study_has_no_problem(changes: dict[str, Any]) -> None:
    assert len(check_study(study(**changes), {})) >= 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        # keys that a study sets itself
        ({"space": RATE | {"seed": {"kind": "int", "low": 0, "high": 3}}}, "`space.seed` cannot be searched: a study"),
        ({"space": {"evaluation.test": {"kind": "choice", "of": [True]}}}, "`space.evaluation.test` cannot be searched: trials must not use"),
        ({"space": {"evaluation": {"kind": "choice", "of": {"a": {}}}}}, "`space.evaluation` cannot be searched: trials must not use"),
        ({"space": {"corpus": {"kind": "choice", "of": ["a"]}}}, "`space.corpus` cannot be searched: results on different corpora"),
        (with_method("joint", space={"tracking.uri": {"kind": "choice", "of": ["off"]}}), "`methods.joint.space.tracking.uri` cannot be searched"),
        ({"base": {"corpus": "c", "epochs": 10, "evaluation": {"test": True}}}, "`base.evaluation.test` must be left out: trials must not use"),
        ({"base": {"corpus": "c", "epochs": 10, "seed": 3}}, "`base.seed` must be left out: a study draws its seeds itself"),
        (with_method("joint", set={"method": {"name": "joint"}, "evaluation.test": True}), "`methods.joint.set.evaluation.test` must be left out"),
        # ceilings and controls
        (with_method("video", set={"method": {"name": "joint"}}, ceiling_of="video"), "`methods.video.ceiling_of` must be the modality that the method trains alone"),
        (with_method("video", set={"method": {"name": "unimodal", "modality": "audio"}}, ceiling_of="video"), "but it trains audio alone"),
        (with_method("again", set={"method": {"name": "unimodal", "modality": "audio"}}, ceiling_of="audio"), "but 2 methods set audio"),
        (with_method("remix", control_of="luck"), "`methods.remix.control_of` must not be set for the `reference`"),
        ({"reference": "audio"}, "`methods.audio.ceiling_of` must not be set for the `reference`"),
        # the objective
        ({"objective": "test/accuracy"}, "`objective[0].metric` must be measured on validation: the test set is not used for selection"),
        ({"objective": "probe/accuracy/audio"}, "probes and sufficiency are only measured for replicates"),
        ({"objective": "best/val_acuracy"}, "such as best/val_accuracy, best/val_macro_f1, best/val_cross_entropy (docs/metrics.md), but is best/val_acuracy; did you mean `best/val_accuracy`?"),
        ({"objective": "val/accuracy"}, "must be a metric of a run's summary"),
        ({"objective": "best/val_cross_entropy"}, "`objective[0].direction` must be minimize for best/val_cross_entropy, but is maximize; write {metric: best/val_cross_entropy, direction: minimize}"),
        ({"objective": "best/val_accuracy_uni/audio"}, "`joint` does not have best/val_accuracy_uni/audio: it trains no unimodal heads"),
        ({"objective": "best/val_accuracy_uni/video"}, "`audio` does not have best/val_accuracy_uni/video: it has only audio"),
        ({"objective": "best/val_accuracy_late_calibrated"}, "`joint` does not have best/val_accuracy_late_calibrated: it trains no unimodal heads; use joint_unimodal"),
        ({"objective": "last/val_accuracy_late_calibrated"}, "`both` does not have last/val_accuracy_late_calibrated: it has `evaluation.select: best`; use best/val_accuracy_late_calibrated"),
        ({"pruner": {"name": "asha", "metric": "val/accuracy_late_calibrated"}}, "`pruner.metric` must be a validation metric of every epoch"),
        ({"objective": "best/val_accuracy_late_sum"}, "`audio` does not have best/val_accuracy_late_sum: it has one modality"),
        # the pruner
        ({"pruner": {"name": "asha", "grace": 10}}, "`pruner.grace` must be below the epochs of the shortest run (10), or no trial ends early, but is 10"),
        ({"pruner": {"name": "asha", "grace": 5}, "space": {"epochs": {"kind": "int", "low": 5, "high": 20}}}, "shortest run (5)"),
        ({"pruner": {"name": "median", "grace": 3}}, "before Remix begins, but is 3 with the warm-up of `remix` (3); use 4 or more"),
        ({"pruner": {"name": "asha", "metric": "test/accuracy"}}, "`pruner.metric` must be a validation metric of every epoch"),
        ({"pruner": {"name": "asha", "metric": "best/val_accuracy"}}, "`pruner.metric` must be a validation metric of every epoch"),
        ({"pruner": {"name": "asha", "metric": "val/cross_entropy"}}, "(maximize best/val_accuracy), but val/cross_entropy has the other one; use val/accuracy"),
        ({"pruner": {"name": "asha", "metric": "val/accuracy_late_sum"}}, "`joint` does not have val/accuracy_late_sum"),
        # the sampler
        ({"sampler": "cmaes", **with_method("remix", space=CHOICE)}, "`methods.remix.space.method.order` is a choice, which `sampler: cmaes` samples at random"),
        ({"sampler": "gp", **with_method("remix", space=CHOICE | {"method.joint_share": {"kind": "float", "low": 0, "high": 0.5, "when": {"method.order": "mixed"}}})}, "has a `when`, but `sampler: gp` samples a dimension at random"),
        # resources
        ({"resources": {"gpus": 1}, "base": {"corpus": "c", "epochs": 10, "device": "cpu"}}, "`resources.gpus` must be 0 if a run has `device: cpu`"),
        ({"resources": {"gpus": 0}, "budget": {"gpu_hours": 1}}, "`budget.gpu_hours` has no effect without GPUs"),
        # the known-good configurations
        (with_method("joint", first=[{"optimizer.learning_rate": "1e-3"}]), "`methods.joint.first[0].optimizer.learning_rate` must lie in its dimension (0.0001 to 0.01), but is '1e-3'"),
    ],
)  # fmt: skip
def test_each_problem_is_reported_with_its_remedy(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        check_study(study(**changes), {})
    assert message in str(raised.value)


def test_a_choice_among_groups_of_keys_needs_labels() -> None:
    space = {"method.filter": {"kind": "choice", "of": [{"rule": "argmin"}, {"rule": "random"}]}}
    with pytest.raises(ValueError, match=r"`of` must name groups of keys, as in {one: {rule: argmin}}"):
        study(space=space)


def test_a_problem_that_all_methods_share_is_reported_once() -> None:
    space = RATE | {"optimizer.weight_dceay": {"kind": "float", "low": 0, "high": 1}}
    with pytest.raises(ConfigError) as raised:
        check_study(study(space=space), {})
    assert str(raised.value).splitlines() == [
        "the study `s` has 1 problem:",
        "  - `space.optimizer.weight_dceay` is not a known key; did you mean `optimizer.weight_decay`?",
    ]
