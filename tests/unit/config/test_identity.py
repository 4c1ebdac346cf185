"""Digests and study questions stay the same in new versions, unless their semantics differ"""

import json
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import BaseModel, Field

from remix_study import version
from remix_study.config.identity import Introduced, identity
from remix_study.config.problems import parse
from remix_study.config.run import RunConfig
from remix_study.config.study import StudyConfig
from remix_study.config.yaml_source import read_text
from remix_study.errors import StudyError
from remix_study.study.question import QUESTION, differences, question_of, require_same_question, write_question

RECORDED = json.loads((Path(__file__).parents[2] / "fixtures" / "0.1.0" / "digests.json").read_text())
DATA: str = RECORDED["data"]


def run_of(text: str) -> RunConfig:
    return parse(RunConfig, read_text(text, "a recorded run"))


def study_of(text: str) -> StudyConfig:
    return parse(StudyConfig, read_text(text, "a recorded study"))


@pytest.fixture
def first_semantics(monkeypatch: pytest.MonkeyPatch) -> None:
    """The semantics of 0.1.0, so that only the options since then could change a digest."""
    monkeypatch.setattr(version, "SEMANTICS", 1)


@pytest.mark.usefixtures("first_semantics")
@pytest.mark.parametrize("name", RECORDED["runs"])
def test_a_run_of_an_older_version_keeps_its_digest(name: str) -> None:
    recorded = RECORDED["runs"][name]
    assert run_of(recorded["yaml"]).digest(DATA) == recorded["digest"]


@pytest.mark.usefixtures("first_semantics")
@pytest.mark.parametrize("name", RECORDED["studies"])
def test_a_study_of_an_older_version_keeps_its_question(name: str) -> None:
    recorded = RECORDED["studies"][name]
    assert question_of(study_of(recorded["yaml"]), DATA) == recorded["question"]


class Part(BaseModel):
    kind: str = "old"


class LaterPart(Part):
    deep: Annotated[int, Introduced(3)] = 3


class Config(BaseModel):
    known: int = 1
    part: Part = Part()
    parts: list[Part] = []
    named: dict[str, Part] = {}


class LaterConfig(BaseModel):
    known: int = 1
    # Its default has changed since it was introduced; older records without this key mean False.
    later: Annotated[bool, Introduced(False)] = Field(default=True)
    part: LaterPart = LaterPart()
    parts: list[LaterPart] = []
    named: dict[str, LaterPart] = {}


def test_a_new_key_at_its_recorded_default_is_omitted_at_every_depth() -> None:
    before = Config(parts=[Part()], named={"audio": Part()})
    same = LaterConfig(later=False, parts=[LaterPart()], named={"audio": LaterPart()})
    assert identity(same, exclude=set()) == identity(before, exclude=set())


def test_an_introduced_part_that_gets_a_further_key_is_omitted_at_its_recorded_default() -> None:
    class WithPart(BaseModel):
        known: int = 1
        extra: Annotated[LaterPart, Introduced({"kind": "old"})] = LaterPart()

    assert identity(WithPart(), exclude=set()) == identity(Config(), exclude={"part", "parts", "named"})
    changed = identity(WithPart(extra=LaterPart(deep=4)), exclude=set())
    assert changed["extra"] == {"kind": "old", "deep": 4}


@pytest.mark.parametrize(
    "changed",
    [
        LaterConfig(),
        LaterConfig(later=False, part=LaterPart(deep=4)),
        LaterConfig(later=False, parts=[LaterPart(deep=4)]),
        LaterConfig(later=False, named={"audio": LaterPart(deep=4)}),
        LaterConfig(later=False, known=2),
    ],
)
def test_any_other_value_is_part_of_the_identity(changed: LaterConfig) -> None:
    assert identity(changed, exclude=set()) != identity(LaterConfig(later=False), exclude=set())


def test_semantics_separate_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(RECORDED["runs"]["defaults"]["yaml"])
    before = run.digest(DATA)
    monkeypatch.setattr(version, "SEMANTICS", version.SEMANTICS + 1)
    assert run.digest(DATA) != before


@pytest.mark.usefixtures("first_semantics")
def test_a_study_with_other_semantics_is_not_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = study_of(RECORDED["studies"]["search_spaces/demo.yaml"]["yaml"])
    write_question(study, {"corpus": "corpus"}, DATA, tmp_path)
    assert "semantics" not in json.loads((tmp_path / QUESTION).read_text())
    require_same_question(study, DATA, tmp_path)
    monkeypatch.setattr(version, "SEMANTICS", 2)
    with pytest.raises(StudyError, match=r"began under semantics 1 .* has semantics 2.*another `name`"):
        require_same_question(study, DATA, tmp_path)
    write_question(study, {"corpus": "corpus"}, DATA, tmp_path)  # like a new study
    require_same_question(study, DATA, tmp_path)
    monkeypatch.setattr(version, "SEMANTICS", 1)  # after a downgrade
    with pytest.raises(StudyError, match=r"began under semantics 2 .* has semantics 1"):
        require_same_question(study, DATA, tmp_path)


def test_a_number_that_an_older_version_read_as_a_string_is_the_same() -> None:
    """Version 0.1 read YAML 1.1, in which `1e-3` is a string."""
    assert differences({"base": {"optimizer.learning_rate": "1e-3"}}, {"base": {"optimizer.learning_rate": 1e-3}}) == {}
    assert differences({"a": "1e-3"}, {"a": 1e-4}) == {"a": ('"1e-3"', "0.0001")}
