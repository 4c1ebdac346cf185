"""Parts and controls of combinations, found from the configurations of a study"""

from typing import Any

import pytest

from remix_study.config.study import StudyConfig
from remix_study.study.combinations import Pair, components, configs_of, family_of, of_combinations, planned

RATE = {"optimizer.learning_rate": {"kind": "float", "low": 0.001, "high": 0.01}}
PERMUTED = {"method.filter": {"rule": "permuted"}}


def method(name: str, *added: str, **options: Any) -> dict[str, Any]:
    return {"method": {"name": name, **({"with": list(added)} if added else {}), **options}}


def study(*, reference: str = "c", **methods: dict[str, Any]) -> StudyConfig:
    """A study whose methods have neutral names: `a`, `b`, `c` ..."""
    whole = {name: each if "set" in each else {"set": each} for name, each in methods.items()}
    return StudyConfig.model_validate(
        {
            "name": "s", "question": "q?", "base": {"corpus": "c", "epochs": 20}, "space": RATE, "methods": whole,
            "reference": reference, "trials": 1, "replicates": 5,
        }
    )  # fmt: skip


def parts(found: StudyConfig) -> dict[str, dict[str, str]]:
    """Combination -> what a part lacks -> the part."""
    pairs: dict[str, dict[str, str]] = {}
    for pair in of_combinations(found, configs_of(found)):
        pairs.setdefault(pair.first, {})[pair.lacks] = pair.second
    return pairs


@pytest.mark.parametrize(
    ("given", "family", "expected"),
    [
        (method("joint"), ("joint",), set()),
        (method("joint_unimodal"), ("joint_unimodal",), {"joint_unimodal"}),
        (method("remix"), ("remix",), {"remix"}),
        (method("ogm_ge"), ("joint", "ogm_ge"), {"ogm_ge"}),
        (method("joint", "ogm_ge"), ("joint", "ogm_ge"), {"ogm_ge"}),
        (method("joint_unimodal", "ogm_ge"), ("joint_unimodal", "ogm_ge"), {"joint_unimodal", "ogm_ge"}),
        # MMPareto needs unimodal losses anyway.
        (method("mmpareto"), ("joint_unimodal", "mmpareto"), {"mmpareto"}),
        (method("remix", "mmpareto"), ("remix", "mmpareto"), {"remix", "mmpareto"}),
        (method("unimodal", modality="audio"), ("unimodal",), set()),
    ],
)  # fmt: skip
def test_components_distinguish_a_method_from_joint_training(
    given: dict[str, Any], family: tuple[str, ...], expected: set[str]
) -> None:
    (config,) = configs_of(study(a=given, reference="a")).values()
    assert (family_of(config), components(config)) == (family, frozenset(expected))


def test_the_parts_of_a_combination_lack_one_component_each() -> None:
    found = study(
        a=method("joint"), b=method("ogm_ge"), c=method("remix"), d=method("remix", "ogm_ge"),
        e=method("mmpareto"), f=method("remix", "mmpareto"), g=method("joint_unimodal"),
        h=method("remix", "ogm_ge", "mmpareto"),
    )  # fmt: skip
    assert parts(found) == {
        "d": {"ogm_ge": "c", "remix": "b"},
        "f": {"mmpareto": "c", "remix": "e"},
        "h": {"ogm_ge": "f", "mmpareto": "d"},  # ogm_ge with mmpareto, without Remix, is not in the study
    }


@pytest.mark.parametrize(
    ("combination", "part", "agree"),
    [
        (method("remix", "ogm_ge"), method("remix"), True),
        (method("remix", "ogm_ge", warmup=3), method("remix"), False),
        (method("remix", "ogm_ge"), method("remix", filter={"rule": "permuted"}), False),
        (method("remix", "ogm_ge"), method("remix") | {"model.fusion": "sum"}, False),
        (method("remix", "ogm_ge"), method("ogm_ge"), True),
        (method("remix", "ogm_ge", warmup=3), method("joint", "ogm_ge"), True),
        (method("remix", "ogm_ge"), method("ogm_ge", alpha=0.3), False),
        (method("remix", "ogm_ge"), method("ogm_ge") | {"epochs": 10}, False),
        (method("remix", "ogm_ge"), method("ogm_ge") | {"channels_last": False}, True),
    ],
)  # fmt: skip
def test_a_part_agrees_in_all_settings_but_those_of_what_it_lacks(
    combination: dict[str, Any], part: dict[str, Any], agree: bool
) -> None:
    found = study(d=combination, b=part, c=method("joint"))
    assert ("b" in parts(found).get("d", {}).values()) == agree


def test_searched_settings_may_differ_also_under_another_key() -> None:
    alpha, number = {"kind": "float", "low": 0.1, "high": 1.0}, {"kind": "int", "low": 1, "high": 5}
    found = study(
        b={"set": method("ogm_ge"), "space": {"method.alpha": alpha}},
        c={"set": method("remix"), "space": {"method.warmup": number}},
        d={"set": method("remix", "ogm_ge", warmup=8), "space": {"method.with.ogm_ge.alpha": alpha}},
    )
    assert parts(found) == {"d": {"ogm_ge": "c", "remix": "b"}}


def test_the_reference_with_other_settings_is_compared_with_joint_training_with_these() -> None:
    other = {"model.fusion": "sum"}
    found = study(a=method("joint"), b=method("joint") | other, c=method("remix"), d=method("remix") | other,
                  e=method("remix", warmup=3))  # fmt: skip
    assert parts(found) == {"d": {"remix": "b"}}
    assert len(planned(found, configs_of(found))) == 5


def test_controls_are_compared_with_what_they_control() -> None:
    found = study(
        b=method("ogm_ge"), c=method("remix"), d=method("remix", "ogm_ge"),
        e={"set": method("remix") | PERMUTED, "control_of": "the scores"},
        f={"set": method("remix", "ogm_ge") | PERMUTED, "control_of": "the scores"},
        g={"set": method("joint_unimodal"), "control_of": "one modality a sample"},
    )  # fmt: skip
    pairs = planned(found, configs_of(found))
    of_reference, others = pairs[:5], pairs[5:]
    assert [pair.second for pair in of_reference] == ["b", "d", "e", "f", "g"]
    assert others == [Pair("d", "b", "remix"), Pair("d", "f", "the scores", control=True)]


def test_a_control_belongs_to_the_method_that_it_shares_most_with_and_else_to_the_reference() -> None:
    permuted = {"set": method("remix", score="true_class") | PERMUTED, "control_of": "the scores"}
    found = study(b=method("remix", score="true_class"), c=method("remix"), d=permuted)
    assert planned(found, configs_of(found))[2:] == [Pair("b", "d", "the scores", control=True)]
    # Without scores, it is as close to the reference.
    random = {"set": method("remix", score="true_class", filter={"rule": "random"}), "control_of": "the scores"}
    found = study(b=method("remix", score="true_class"), c=method("remix"), d=random)
    assert planned(found, configs_of(found))[2:] == []


def test_planned_comparisons_are_different_pairs_without_ceilings() -> None:
    found = study(
        a=method("joint"), b=method("ogm_ge"), c=method("remix"), d=method("remix", "ogm_ge"),
        e={"set": method("unimodal", modality="audio"), "ceiling_of": "audio"},
    )  # fmt: skip
    pairs = [frozenset(pair[:2]) for pair in planned(found, configs_of(found))]
    assert len(pairs) == len(set(pairs)) == 4  # of c with a, b and d, and of d with b
    assert not any("e" in pair for pair in pairs)


def test_methods_that_are_not_valid_are_no_parts() -> None:
    found = study(b=method("ogm_ge", gone=1), c=method("remix"), d=method("remix", "ogm_ge"))
    assert parts(found) == {"d": {"ogm_ge": "c"}}
    assert len(planned(found, configs_of(found))) == 2
