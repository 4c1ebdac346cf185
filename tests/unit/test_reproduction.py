"""The study that repeats a published protocol"""

import pytest

from remix_study.config.load import load_study
from remix_study.demo import shipped
from remix_study.errors import ConfigError
from remix_study.reproduction import reproduction_study
from remix_study.study.study_file import check_study


@pytest.mark.parametrize("protocol", ["cremad", "kinetics_sounds"])
def test_it_has_the_released_recipe_and_is_valid(protocol: str) -> None:
    study = reproduction_study(protocol, ["ogm_ge"], 3, ceilings=True)
    recipe = load_study(shipped("cremad_ogm.yaml"))
    assert {k: v for k, v in study.base.items() if k != "tracking"} == {
        k: v for k, v in recipe.base.items() if k != "tracking"
    }
    assert list(study.methods) == [
        "joint", "joint_unimodal", "remix", "audio_alone", "video_alone", "ogm_ge", "remix_ogm_ge",
    ]  # fmt: skip
    assert study.replicates == 3
    check_study(study, {"corpus": "corpus"})


def test_changes_apply_to_all_methods() -> None:
    study = reproduction_study("cremad", [], 1, ceilings=False, changes=["epochs=12", "model.encoder.name=tiny"])
    configs = check_study(study, {"corpus": "corpus"})
    assert {(c.epochs, c.model.encoder.name) for c in configs} == {(12, "tiny")}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("ave", []), "must be one of cremad, kinetics_sounds, but is ave"),
        (("cremad", ["ogm_eg"]), "ogm_eg is none. Did you mean ogm_ge?"),
    ],
)
def test_unknown_names_are_one_sentence(arguments: tuple[str, list[str]], said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace(".", r"\.").replace("?", r"\?")):
        reproduction_study(*arguments, 1, ceilings=False)


def test_a_change_without_a_value_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match="it has no `=`"):
        reproduction_study("cremad", [], 1, ceilings=False, changes=["epochs"])


def test_a_change_of_a_method_applies_to_all_that_set_it() -> None:
    study = reproduction_study("cremad", ["ogm_ge"], 1, ceilings=False, changes=["epochs=6", "method.warmup=2"])
    warmups = {name: method.set["method"].get("warmup") for name, method in study.methods.items()}
    assert warmups == {"joint": None, "joint_unimodal": None, "remix": 2, "ogm_ge": None, "remix_ogm_ge": 2}
    again = reproduction_study("cremad", [], 1, ceilings=False)
    assert again.methods["remix"].set["method"]["warmup"] == 10


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["epochs=6"], "`method.warmup` must be below `epochs`"),
        (["method.alpha=1"], "no method of this recipe sets it"),
    ],
)
def test_a_recipe_that_is_not_valid_is_refused_before_clips_are_decoded(changes: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        reproduction_study("cremad", [], 1, ceilings=False, changes=changes)
