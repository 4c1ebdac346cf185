"""Studies that search schedules and phases: dotted paths, conditions and first configurations"""

from typing import Any

from remix_study.config.method import RemixConfig
from remix_study.config.schedule import Schedule
from remix_study.config.study import StudyConfig
from remix_study.study.search_space import configure

RANGE = {"kind": "float", "low": 0.2, "high": 0.8}


def configured(method: dict[str, Any], space: dict[str, Any], params: dict[str, Any]) -> RemixConfig:
    content = {
        "name": "s", "question": "q", "base": {"corpus": "c", "epochs": 20}, "reference": "a", "trials": 1,
        "replicates": 1, "methods": {"a": {"set": {"method": {"name": "remix", **method}}, "space": space}},
    }  # fmt: skip
    found = configure(StudyConfig.model_validate(content), "a", params, 0, {}).method
    assert isinstance(found, RemixConfig)
    return found


def test_the_ends_of_a_schedule_can_be_searched() -> None:
    space = {f"method.share.audio.{end}": RANGE for end in ("from", "to")}
    found = configured(
        {"share": {"video": "rest"}}, space, {"method.share.audio.from": 0.3, "method.share.audio.to": 0.7}
    )
    short = configured({"share": {"audio": {"from": 0.3, "to": 0.7}, "video": "rest"}}, {}, {})
    assert found == short


def test_keys_of_a_phase_can_be_searched() -> None:
    space = {"method.phases.0.until": RANGE, "method.phases.0.weight.to": RANGE}
    method = {"phases": [{"weight": {"from": 1.0}}, {"joint": True}]}
    found = configured(method, space, {"method.phases.0.until": 0.5, "method.phases.0.weight.to": 0.4}).phases
    assert isinstance(found, tuple)
    assert found[0].until == 0.5
    assert isinstance(found[0].weight, Schedule)
    assert found[0].weight.to == 0.4


def test_a_preset_can_be_a_choice_whose_key_has_a_condition() -> None:
    space = {
        "method.phases": {"kind": "choice", "of": ["paper", "smp"]},
        "method.phases.alone": {**RANGE, "when": {"method.phases": "smp"}},
    }
    smp = configured({}, space, {"method.phases": "smp", "method.phases.alone": 0.4})
    assert smp == configured({"phases": {"preset": "smp", "alone": 0.4}}, {}, {})
    assert configured({}, space, {"method.phases": "paper"}) == configured({}, {}, {})
