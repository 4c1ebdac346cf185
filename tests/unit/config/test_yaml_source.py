"""YAML files: scalars of the YAML 1.2 core schema, line numbers of keys, and output for all YAML readers"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from remix_study.config.load import load_run, load_study, parse_run
from remix_study.config.run import RunConfig
from remix_study.config.study import StudyConfig
from remix_study.config.yaml_source import dotted, dump, load, read, read_text
from remix_study.errors import ConfigError
from tests.examples import examples

TEXT = """\
# a comment
name: s
base:
  optimizer: {name: adam,
              learning_rate: 1.0e-3}
methods:
  remix:
    first:
      - {a.b: 1}
      - a.b: 2
        c: 3
"""
STUDY = {"name": "s", "question": "q", "base": {}, "methods": {"joint": {}}, "reference": "joint", "trials": 1,
         "replicates": 1}  # fmt: skip

# --- scalars ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001), ("1E5", 1e5), ("-2.5e+3", -2500.0), (".5", 0.5), ("-.5", -0.5), ("5.", 5.0), ("1.0e-05", 1e-5),
        ("01.5", 1.5), (".inf", math.inf), ("-.INF", -math.inf),
        ("12", 12), ("-3", -3), ("+3", 3), ("0", 0), ("-0", 0), ("0o17", 15), ("0x1F", 31),
        ("true", True), ("True", True), ("FALSE", False), ("null", None), ("~", None), ("", None),
        ("yes", "yes"), ("no", "no"), ("on", "on"), ("off", "off"), ("y", "y"), ("tRUE", "tRUE"),
        ("1_000", "1_000"), ("1:30", "1:30"), ("0b11", "0b11"), ("2026-11-28", "2026-11-28"), ("=", "="),
        ("1e", "1e"), ("e3", "e3"), ("0x", "0x"), ("08x", "08x"), ("'012'", "012"), ("'1e-3'", "1e-3"),
    ],
)  # fmt: skip
def test_a_scalar_has_the_type_of_the_core_schema(text: str, value: object) -> None:
    source = read_text(f"a: {text}\n", "x").content["a"]
    assert (source, type(source)) == (value, type(value))
    assert (load(text), type(load(text))) == (value, type(value))


def test_not_a_number_is_read() -> None:
    assert math.isnan(load(".nan"))


@pytest.mark.parametrize(("text", "number"), [("012", "12"), ("-08", "-8"), ("+00", "+0"), ("0777", "777")])
def test_an_integer_with_a_leading_zero_raises_with_its_line(text: str, number: str) -> None:
    wanted = f"the number {text} has a leading zero. Write {number}, or '{text}' for a string"
    with pytest.raises(ConfigError) as raised:
        read_text(f"a: 1\nb: [{text}]\n", "x.yaml")
    assert str(raised.value) == f"Cannot read x.yaml:2: {wanted}."
    with pytest.raises(yaml.YAMLError) as invalid:
        load(text)
    assert str(invalid.value) == wanted


def test_a_leading_zero_in_a_set_option_raises(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("corpus: c\nmethod: {name: joint}\n")
    with pytest.raises(ConfigError, match=r"`--set epochs=010` as YAML: the number 010 has a leading zero\. Write 10"):
        load_run(path, ["epochs=010"])
    assert load_run(path, ["optimizer.learning_rate=1e-4", "tracking.uri=off"]).tracking.uri == "off"


def test_keys_are_strings() -> None:
    text = "{1: a, yes: b, 012: c, 1e3: d, ~: e, true: f}"
    keys = ["1", "yes", "012", "1e3", "~", "true"]
    assert read_text(text, "x").content == load(text) == dict(zip(keys, "abcdef", strict=True))


def test_a_boolean_is_not_a_number() -> None:
    with pytest.raises(ConfigError) as raised:
        parse_run({"corpus": "c", "method": {"name": "joint"}, "epochs": True, "optimizer": {"weight_decay": False},
                   "clip_norm": True}, "run.yaml")  # fmt: skip
    lines = str(raised.value).splitlines()[1:]
    assert lines == [
        "  - `optimizer.weight_decay` must be a number, but is false", "  - `epochs` must be an integer, but is true",
        "  - `clip_norm` must be a number, but is true",
    ]  # fmt: skip


# --- writing ---------------------------------------------------------------------------------------------------------


@examples(100)
@given(st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S", "Zs"]), max_size=12) | st.from_regex(
    r"[-+]?(0o?|0x|\.)?[0-9_:]{1,4}(\.[0-9]*)?([eE][-+]?[0-9]+)?", fullmatch=True))  # fmt: skip
def test_a_written_string_is_a_string_for_every_reader(text: str) -> None:
    written = dump({"a": text, "b": [text]})
    for value in (read_text(written, "x").content, load(written), yaml.safe_load(written)):
        assert value == {"a": text, "b": [text]}


KEYS = st.sampled_from(["off", "a", "1e3"])
VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False)


@examples(100)
@given(st.recursive(VALUES, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner)))
def test_files_of_other_versions_are_read_identically(value: Any) -> None:
    """Version 0.1 used `yaml.safe_dump` and `yaml.safe_load`."""
    assert load(yaml.safe_dump(value)) == load(dump(value)) == yaml.safe_load(dump(value)) == value


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer.learning_rate": 1e-5, "optimizer.weight_decay": 1e22},
        {"tracking.uri": "off", "tracking.experiment": "012", "corpus": "yes"},
        {"method.filter": {"rule": "tempered", "temperature": 0.0}, "model.encoders": {"1": {"name": "tiny"}}},
        {"method": {"name": "unimodal", "modality": "012"}, "clip_norm": None, "corpus": "2026-11-28"},
    ],
)
def test_a_configuration_that_an_old_version_wrote_is_the_same(
    recipe: Callable[..., RunConfig], changes: dict[str, Any], tmp_path: Path
) -> None:
    run = recipe(changes)
    old = yaml.safe_dump(run.model_dump(mode="json"), sort_keys=False)
    (tmp_path / "config.yaml").write_text(old)
    assert load_run(tmp_path / "config.yaml") == run
    assert run.to_yaml() == old
    study = StudyConfig.model_validate(STUDY | {"base": run.model_dump(mode="json"), "storage": "journal"})
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False))
    assert load_study(tmp_path / "study.yaml") == study


def test_a_study_that_an_old_version_recorded_without_tracking_is_not_tracked(tmp_path: Path) -> None:
    """Version 0.1 read `uri: off` as false, and recorded that."""
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY | {"base": {"tracking": {"uri": False, "model": False}}}))
    assert load_study(tmp_path / "study.yaml").base == {"tracking": {"uri": "off", "model": False}}


# --- lines -----------------------------------------------------------------------------------------------------------


def test_the_content_is_that_of_the_text() -> None:
    assert read_text(TEXT, "study.yaml").content == yaml.safe_load(TEXT)


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (("name",), 2),
        (("base",), 3),
        (("base", "optimizer", "name"), 4),
        (("base", "optimizer", "learning_rate"), 5),
        (("methods", "remix", "first", 0, "a.b"), 9),
        (("methods", "remix", "first", 1), 10),
        (("methods", "remix", "first", 1, "c"), 11),
        (("base", "optimizer", "momentum"), 4),  # absent: the line of the nearest group
        (("methods", "joint", "set"), 6),
        (("trials",), None),
    ],
)
def test_every_key_has_its_line(keys: tuple[str | int, ...], line: int | None) -> None:
    source = read_text(TEXT, "study.yaml")
    assert source.line(keys) == line
    assert source.place(keys) == f"study.yaml:{line or 1}: "


def test_a_changed_value_is_attributed_to_set() -> None:
    source = read_text(TEXT, "study.yaml").changed(("base", "optimizer"))
    assert source.place(("base", "optimizer", "name")) == "--set: "
    assert source.place(("base",)) == "study.yaml:3: "


def test_a_key_that_occurs_twice_is_found_at_any_depth_and_reported_once() -> None:
    source = read_text("a:\n  b: {c: 1}\n  b: {c: 2}\nd: [{e: 1, e: 2}]\n", "x")
    assert source.twice == ((("a", "b"), 2, 3), (("d", 0, "e"), 4, 4))


def test_a_merged_key_may_be_overridden() -> None:
    text = "one: &one\n  a: 1\n  b: 2\ntwo:\n  <<: *one\n  b: 3\n"
    source = read_text(text, "x")
    assert source.content["two"] == {"a": 1, "b": 3}
    assert source.twice == ()
    assert (source.line(("two", "a")), source.line(("two", "b"))) == (2, 6)


def test_an_alias_has_the_offset_of_its_anchor() -> None:
    source = read_text("one: &one {a: 1}\ntwo: *one\nthree: {a: 1}\n", "x")
    assert source.spots["one", "a"] == source.spots["two", "a"] != source.spots["three", "a"]


@pytest.mark.parametrize("text", ["a: &a\n  b: *a\n", "a: &a [*a]\n"])
def test_a_value_that_contains_itself_raises(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"Cannot read .*x.yaml:[12]: `&a` contains itself\."):
        read(path)


def test_aliases_that_expand_to_millions_of_items_raise() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    with pytest.raises(ConfigError, match=r"x\.yaml:5: it has more than 50,000 keys and values, counting aliases"):
        read_text("\n".join(lines), "x.yaml")


NESTED = st.recursive(st.integers(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner))


def expanded(value: Any) -> int:
    """Return the number of keys and values, aliases expanded."""
    if isinstance(value, dict):
        return 1 + sum(1 + expanded(each) for each in value.values())
    return 1 + sum(map(expanded, value)) if isinstance(value, list) else 1


@examples(30)
@given(st.dictionaries(KEYS, NESTED, min_size=1), st.integers(0, 3))
def test_keys_and_values_are_counted_with_aliases_expanded(content: dict[str, Any], times: int) -> None:
    for _ in range(times):
        content = {"a": content, "off": [content, content]}  # written as aliases
    text, size = yaml.safe_dump(content), expanded(content)
    assert read_text(text, "x.yaml", size).content == content
    with pytest.raises(ConfigError, match=f"it has more than {size - 1:,} keys and values"):
        read_text(text, "x.yaml", size - 1)


def test_a_hundred_levels_are_read() -> None:
    assert read_text("a: " + "[" * 99 + "]" * 99, "x.yaml").content
    with pytest.raises(ConfigError, match="it nests more than 100 levels deep"):
        read_text("a: " + "[" * 100 + "]" * 100, "x.yaml")


def test_deep_nesting_raises() -> None:
    with pytest.raises(ConfigError, match=r"x\.yaml:1: it nests more than 100 levels deep"):
        read_text("a: " + "[" * 5000 + "]" * 5000, "x.yaml")


def test_a_path_is_written_with_dots_and_indices() -> None:
    assert dotted(("methods", "remix", "first", 0, "method.order")) == "methods.remix.first[0].method.order"
