"""The published schemas are up to date, and accept the same files as the loader"""

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from remix_study.config import schema
from remix_study.config.load import validate_study
from remix_study.config.problems import validate
from remix_study.config.run import RunConfig
from remix_study.config.study import StudyConfig
from remix_study.config.yaml_source import YamlSource
from remix_study.errors import ConfigError
from tests.pages import PAGES, blocks_in

SEARCH_SPACES = Path(__file__).parents[3] / "search_spaces"
FILES = sorted(SEARCH_SPACES.glob("*.yaml"))
RUN = jsonschema.Draft7Validator(schema.run_schema())
STUDY = jsonschema.Draft7Validator(schema.study_schema())


@pytest.mark.parametrize("kind", ["run", "study"])
def test_the_published_schema_is_up_to_date(kind: str) -> None:
    path = SEARCH_SPACES / f"{kind}.schema.json"
    assert path.read_text() == schema.text(kind), f"run: remix-study schema {kind} > search_spaces/{path.name}"


def test_an_unknown_kind_of_schema_raises() -> None:
    with pytest.raises(ConfigError, match="must be `study` or `run`, but is 'trial'"):
        schema.text("trial")


@pytest.mark.parametrize("validator", [RUN, STUDY])
def test_a_schema_is_valid(validator: Any) -> None:
    validator.check_schema(validator.schema)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_shipped_file_is_valid_and_names_its_schema(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("# yaml-language-server: $schema=study.schema.json\n")
    assert [error.message for error in STUDY.iter_errors(yaml.safe_load(text))] == []


def test_every_example_in_the_documents_is_valid() -> None:
    examples = [yaml.safe_load(block.text) for page in PAGES for block in blocks_in("yaml", page)]
    assert {"methods" in example for example in examples} == {True, False}
    for example in examples:
        validator = STUDY if "methods" in example else RUN
        assert [error.message for error in validator.iter_errors(example)] == []


def study(**changes: Any) -> dict[str, Any]:
    return {
        "name": "s", "question": "q", "base": {"corpus": "c"}, "methods": {"a": {"set": {"method": {"name": "joint"}}}},
        "reference": "a", "trials": 1, "replicates": 1,
    } | changes  # fmt: skip


def method(**changes: Any) -> dict[str, Any]:
    return study(methods={"a": changes})


RATE = {"kind": "float", "low": 0.1, "high": 1.0}


@pytest.mark.parametrize(
    "content",
    [
        study(),
        study(base={"method": {"warmup": 3}, "optimizer": {"momentum": 0.5}, "evaluation": {"probe": False}}),
        study(objective="last/val_accuracy"),
        study(objective={"metric": "best/val_cross_entropy", "direction": "minimize"}),
        study(objective=["best/val_accuracy", {"metric": "best/balance_imbalance", "direction": "minimize"}]),
        study(pruner="asha"),
        study(pruner={"name": "median", "grace": 3}),
        study(budget={"hours": 2}, resources={"gpus": 0.25}, storage=None),
        method(set={"method.filter": {"rule": "random"}, "model.fusion": "film", "method": {"name": "remix"}}),
        method(set={"model.encoders.audio": {"name": "resnet18", "width": 16}}),
        method(set={"method": {"name": "remix", "with": ["ogm_ge"]}, "model.fusion": {"name": "mmtm", "greedy": {}}}),
        method(set={"model.fusion": "attention"}, space={"model.fusion.width": {"kind": "choice", "of": [16, 64]}}),
        method(space={"method.filter.threshold": RATE, "epochs": {"kind": "int", "low": 1, "high": 2}}),
        method(space={"method.share.parts.audio": RATE, "model.encoders.video.width": {"kind": "choice", "of": [8]}}),
        method(space={"method.share": {"kind": "choice", "of": {"free": None}}}, first=[{"method.share": "free"}]),
        method(space={"method.order": {"kind": "choice", "of": ["blocks"]},
                      "method.warmup": {"kind": "int", "low": 1, "high": 2, "when": {"method.order": "blocks"}}}),
    ],
)  # fmt: skip
def test_a_study_that_loads_is_valid(content: dict[str, Any]) -> None:
    StudyConfig.model_validate(content)
    assert [error.message for error in STUDY.iter_errors(content)] == []


@pytest.mark.parametrize(
    "content",
    [
        study(base={"metod": {}}),
        study(base={"method": {"warmpu": 3}}),
        study(objective="test/accuracy"),
        study(objective=[]),
        study(pruner="asah"),
        study(pruner={"name": "asha", "startup": 3}),
        study(sampler="tpee"),
        study(trails=1),
        study(trials=0),
        study(space={"method.orderr": RATE}),
        study(space={"seed": RATE}),
        study(space={"evaluation.test": RATE}),
        study(space={"optimizer.learning_rate": {"kind": "flaot", "low": 0, "high": 1}}),
        method(set={"seed": 1}),
        method(set={"model.fusion": "atention"}),
        method(set={"method": {"name": "remix", "with": ["ogm_gee"]}}),
        method(set={"method.warmpu": 3}),
        method(set={"method.warmup": -3}),
        method(first=[{"method.orderr": 1}]),
        {key: value for key, value in study().items() if key != "trials"},
    ],
)
def test_a_wrong_study_is_invalid(content: dict[str, Any]) -> None:
    assert list(STUDY.iter_errors(content))


@pytest.mark.parametrize(
    ("content", "good"),
    [
        ({"corpus": "c", "method": {"name": "joint"}, "optimizer": {"learning_rate": 0.1}}, True),
        ({"corpus": "c", "method": {"name": "remix"}, "tracking": {"uri": "off"}}, True),
        ({"corpus": "c", "method": {"warmup": 3}}, False),
        ({"corpus": "c", "method": {"name": "unimodal"}}, False),
        ({"corpus": "c", "method": {"name": "remix", "filter": {"rule": "margin"}}}, False),
        ({"method": {"name": "joint"}}, False),
    ],
)
def test_the_schema_accepts_a_run_if_it_loads(content: dict[str, Any], good: bool) -> None:
    assert RUN.is_valid(content) == good
    assert (validate(RunConfig, YamlSource("x", content))[0] is not None) == good


def test_a_space_offers_every_path_of_a_run_that_may_be_searched() -> None:
    paths = set(schema.study_schema()["$defs"]["Space"]["properties"])
    assert {"epochs", "method.order", "method.filter.threshold", "method.share", "optimizer.momentum"} <= paths
    assert not {"seed", "corpus", "tracking.uri", "evaluation.test", "evaluation"} & paths
    for path in paths:  # each may be the key of a dimension
        content = study(space={path: {"kind": "choice", "of": [1]}})
        assert STUDY.is_valid(content), path
        assert validate_study(YamlSource("x", content))[0] is not None
