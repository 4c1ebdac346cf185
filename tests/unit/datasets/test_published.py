import re
from pathlib import Path

import pytest

from remix_study.datasets.manifest import refuse
from remix_study.datasets.published import PublishedList, absence, find_list, listing, shown, unrepresented
from remix_study.errors import ManifestError
from remix_study.media.source import source_at
from remix_study.sample import Clip, SampleId


def test_a_list_is_taken_from_its_folder_before_the_root_and_from_the_top_before_the_depths(tmp_path: Path) -> None:
    for where in ("lists", "root", "root/b/c", "root/a"):
        (tmp_path / where).mkdir(parents=True, exist_ok=True)
        (tmp_path / where / "train.csv").write_text(where)
    source = source_at(tmp_path / "root")
    files = source.list()
    given = find_list(("ogm.csv", "train.csv"), source, files, tmp_path / "lists")
    assert given == PublishedList(str(tmp_path / "lists" / "train.csv"), "lists")
    assert find_list(("train.csv",), source, files) == PublishedList("train.csv", "root")
    assert find_list(("train.csv",), source, [f for f in files if "/" in f]) == PublishedList("a/train.csv", "root/a")
    assert find_list(("test.csv",), source, files, tmp_path / "lists") is None


def test_a_byte_order_mark_and_line_ends_of_any_system_are_no_content(tmp_path: Path) -> None:
    (tmp_path / "stat.csv").write_bytes(b"\xef\xbb\xbfNEU\r\n\r\n HAP \n")
    found = find_list(("stat.csv",), source_at(tmp_path), ["stat.csv"])
    assert found is not None
    assert found.lines() == [(1, "NEU"), (3, "HAP")]


def test_rows_of_a_table_have_all_columns_whatever_a_line_lacks_or_has_too_much() -> None:
    table = PublishedList("t.csv", '"a", b\n1\n" 2 ","3,4",5\n\n')
    assert table.rows() == [{"a": "1", "b": ""}, {"a": "2", "b": "3,4"}]
    assert PublishedList("t.csv", "").rows() == []


def test_a_table_that_is_no_csv_is_refused_by_name() -> None:
    with pytest.raises(ManifestError, match=r"^t\.csv must be a CSV file, but cannot be read as one \(.*\)\.$"):
        PublishedList("t.csv", "a,b\n" + "x" * 200_000).rows()


def test_a_list_that_may_not_be_read_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"^gone\.csv must be a file that can be read, but is not \(No such file"):
        find_list(("gone.csv",), source_at(tmp_path), ["gone.csv"])


def test_a_list_that_is_no_text_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ManifestError, match=r"train\.csv must be UTF-8 text, but is not"):
        find_list(("train.csv",), source_at(tmp_path), ["train.csv"])
    with pytest.raises(ManifestError, match=re.escape(f"{tmp_path / 'train.csv'} must be UTF-8 text")):
        find_list(("train.csv",), source_at(tmp_path), [], tmp_path)


def test_all_mistakes_are_said_but_no_more_than_a_screen_of_them() -> None:
    refuse("a.csv", [])
    with pytest.raises(ManifestError) as refused:
        refuse("a.csv", [f"line {n}: no" for n in range(1, 41)])
    lines = str(refused.value).splitlines()
    assert lines[0] == "a.csv has 40 problems:"
    assert lines[-1] == "  and 10 more"
    assert len(lines) == 32


def test_of_many_names_some_are_shown() -> None:
    assert shown("abc") == "a, b, c"
    assert shown("abcd", most=2) == "a, b and 2 more"
    assert listing("letters", "ab") == "letters (2): a, b."


def test_absence_is_counted_by_class_and_silent_where_nothing_is_absent() -> None:
    assert absence({}, {"dog": 3}) == []
    assert absence({"x": "dog", "y": "cat", "z": "dog"}, {"dog": 3, "cat": 1}) == [
        "3 of 4 listed clips are not there or not whole, by class: cat 1 of 1, dog 2 of 3."
    ]


def test_a_split_that_lacks_a_class_or_is_empty_is_named() -> None:
    clips = [Clip(SampleId(f"{label}{split}"), {"audio": "a.wav"}, label, split)
             for label, split in (("dog", "train"), ("cat", "train"), ("dog", "val"))]  # fmt: skip
    assert unrepresented(clips) == [
        "the split val has no clip of cat: its accuracy says nothing of them.",
        "the split test has no clip of cat, dog: its accuracy says nothing of them.",
    ]
    assert unrepresented([]) == []
