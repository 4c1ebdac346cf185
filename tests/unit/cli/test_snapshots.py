"""Help, error messages and JSON output change only on purpose"""

from pathlib import Path

import pytest

from tests.golden.make_snapshots import FOLDER, RENEW, error_text, help_text, json_text, shape


def assert_known(name: str, found: str) -> None:
    assert found == (FOLDER / f"{name}.txt").read_text(), RENEW


def test_the_help_of_all_commands_is_known() -> None:
    found, written_with = help_text(), (FOLDER / "help.txt").read_text().splitlines()[0]
    if found.splitlines()[0] != written_with:
        pytest.skip(f"help.txt was written with {written_with}, which words some lines in another way")
    assert_known("help", found)


def test_error_messages_are_known(tmp_path: Path, small_corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REMIX_STUDY_WORKSPACE", raising=False)
    assert_known("errors", error_text(tmp_path, small_corpus))


@pytest.mark.slow
def test_the_shapes_of_json_output_are_known(tmp_path: Path, small_corpus: Path) -> None:
    assert_known("json", json_text(tmp_path, small_corpus))


def test_a_shape_names_every_type_of_every_value() -> None:
    content = {"a": [{"b": 1}, {"b": None, "c": []}], "d": {}, "e": True}
    assert shape(content) == {"a[].b": "int or null", "a[].c": "list", "d": "dict", "e": "bool"}
