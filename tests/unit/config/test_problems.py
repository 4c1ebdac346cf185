"""Messages about problems in a configuration"""

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, model_validator

from remix_study.config.problems import (
    ContradictionError,
    Problem,
    closest_match,
    moved,
    parse,
    raise_problems,
    validate,
)
from remix_study.config.yaml_source import YamlSource, read_text
from remix_study.errors import ConfigError


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Near(Strict):
    kind: Literal["near"]
    distance: float = 1.0


class Far(Strict):
    kind: Literal["far"]


class Model(Strict):
    place: Annotated[Near | Far, Field(discriminator="kind")] | None = None
    colour: Literal["red", "green", "blue"] = "red"
    either: Literal["none", "all"] | dict[str, float] = "none"
    points: list[Near] = []
    low: int = 0
    high: int = 1

    @model_validator(mode="after")
    def _possible(self) -> "Model":
        problems = []
        if self.low > self.high:
            problems.append(("low", f"`low` must not exceed `high` ({self.high})"))
        if self.high > 9:
            problems.append(("high", "`high` must be below 10"))
        if problems:
            raise ContradictionError(problems)
        return self


def messages(content: dict[str, Any]) -> list[str]:
    found, problems = validate(Model, YamlSource("x.yaml", content))
    assert found is None
    return [each.text() for each in problems]


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ({"colour": "gren"}, ["`colour` must be one of red, green, blue, but is 'gren'; did you mean `green`?"]),
        ({"place": {"kind": "nera"}}, ["`place.kind` must be one of near, far, but is 'nera'; did you mean `near`?"]),
        ({"place": {}}, ["`place` needs a key 'kind' that selects its type"]),
        ({"place": {"kind": "near", "distnce": 1}}, ["`place.distnce` is not a known key; did you mean `distance`?"]),
        ({"either": "alll"}, ["`either` must be one of none, all, but is 'alll'; did you mean `all`?"]),
        ({"either": {"a": "b"}}, ["`either.a` must be a number, but is 'b'"]),
        ({"points": [{"kind": "near"}, {"kind": "far"}]}, ["`points[1].kind` must be one of near, but is 'far'"]),
        ({"low": "ten"}, ["`low` must be an integer, but is 'ten'"]),
        ({"low": 20, "high": 10}, ["`low` must not exceed `high` (10)", "`high` must be below 10"]),
        ({"zzz": 1}, ["`zzz` is not a known key; known keys: place, colour, either, points, low, high"]),
    ],
)  # fmt: skip
def test_a_problem_has_its_path_its_reason_and_a_suggestion(content: dict[str, Any], wanted: list[str]) -> None:
    assert messages(content) == wanted


def test_a_contradiction_has_the_key_to_change() -> None:
    _, problems = validate(Model, YamlSource("x", {"low": 20, "high": 10}))
    assert [(each.keys, each.complete) for each in problems] == [(("low",), True), (("high",), True)]


def test_problems_are_listed_in_the_order_of_their_lines() -> None:
    source = read_text("high: many\ncolour: rde\nzzz: 1\ncolour: red\n", "x.yaml")
    with pytest.raises(ConfigError) as raised:
        parse(Model, source)
    head, *lines = str(raised.value).splitlines()
    assert head == "x.yaml has 3 problems:"
    assert [line.split(": ")[0] for line in lines] == ["  - x.yaml:1", "  - x.yaml:2", "  - x.yaml:3"]
    assert "`colour` occurs twice, in lines 2 and 4; remove one of them" in lines[1]


def test_a_key_that_occurs_twice_is_a_problem() -> None:
    with pytest.raises(ConfigError, match=r"x\.yaml has 1 problem:"):
        parse(Model, read_text("low: 0\nlow: 1\n", "x.yaml"))


def test_a_problem_of_an_alias_is_listed_once() -> None:
    source = read_text("a: &a\n  b: 1\nc: *a\n", "x.yaml")
    with pytest.raises(ConfigError) as raised:
        raise_problems(source, [Problem(keys, " is wrong") for keys in (("a", "b"), ("c", "b"), ("c",))])
    assert str(raised.value).splitlines()[1:] == ["  - x.yaml:2: `a.b` is wrong", "  - x.yaml:3: `c` is wrong"]


def test_a_moved_problem_has_the_new_path() -> None:
    here = ("methods", "remix", "set", "low")
    assert moved(Problem(("low",), " is wrong"), here, "high").text() == (
        "`methods.remix.set.low` is wrong; did you mean `high`?"
    )
    assert moved(Problem(("low",), "`low` must not", complete=True), here, None).text() == (
        "`methods.remix.set.low`: `low` must not"
    )


def test_only_similar_words_are_suggested() -> None:
    assert closest_match("wramup", ["warmup", "weight"]) == "warmup"
    assert closest_match("xyz", ["warmup", "weight"]) is None
