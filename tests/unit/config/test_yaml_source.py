from pathlib import Path

import pytest
import yaml

from remix_study.config.yaml_source import dotted, number_in, read, read_text
from remix_study.errors import ConfigError

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


def test_the_content_is_what_yaml_says() -> None:
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
        (("base", "optimizer", "momentum"), 4),  # absent: of the nearest group
        (("methods", "joint", "set"), 6),
        (("trials",), None),
    ],
)
def test_every_key_has_its_line(keys: tuple[str | int, ...], line: int | None) -> None:
    written = read_text(TEXT, "study.yaml")
    assert written.line(keys) == line
    assert written.place(keys) == ("" if line is None else f"study.yaml:{line}: ")


def test_what_was_changed_stands_in_no_line() -> None:
    written = read_text(TEXT, "study.yaml").changed(("base", "optimizer"))
    assert written.place(("base", "optimizer", "name")) == "--set: "
    assert written.place(("base",)) == "study.yaml:3: "


def test_a_key_that_stands_twice_is_found_at_any_depth_and_told_once() -> None:
    written = read_text("a:\n  b: {c: 1}\n  b: {c: 2}\nd: [{e: 1, e: 2}]\n", "x")
    assert written.twice == ((("a", "b"), 2, 3), (("d", 0, "e"), 4, 4))


def test_what_a_merge_brings_may_be_covered() -> None:
    text = "one: &one\n  a: 1\n  b: 2\ntwo:\n  <<: *one\n  b: 3\n"
    written = read_text(text, "x")
    assert written.content["two"] == {"a": 1, "b": 3}
    assert written.twice == ()
    assert (written.line(("two", "a")), written.line(("two", "b"))) == (2, 6)


def test_what_is_written_once_and_used_twice_has_one_spot() -> None:
    written = read_text("one: &one {a: 1}\ntwo: *one\nthree: {a: 1}\n", "x")
    assert written.spots["one", "a"] == written.spots["two", "a"] != written.spots["three", "a"]


@pytest.mark.parametrize("text", ["a: &a\n  b: *a\n", "a: &a [*a]\n"])
def test_what_contains_itself_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"must be YAML, but: `a.*` contains itself"):
        read(path)


@pytest.mark.parametrize(
    ("word", "number"),
    [("1e-3", "1.0e-3"), ("1e3", "1.0e+3"), ("2.5e4", "2.5e+4"), ("-1E-3", "-1.0e-3"), ("many", None), (0.1, None)],
)
def test_a_number_that_yaml_takes_for_a_word_is_told_as_yaml_wants_it(word: object, number: str | None) -> None:
    assert number_in(word) == number
    if number is not None:
        assert isinstance(yaml.safe_load(str(word)), str)
        assert yaml.safe_load(number) == float(str(word))


def test_keys_are_told_as_a_person_writes_them() -> None:
    assert dotted(("methods", "remix", "first", 0, "method.order")) == "methods.remix.first[0].method.order"
