import re
from pathlib import Path

import pytest

from remix_study.datasets.manifest import refuse
from remix_study.datasets.published import PublishedList, absence, find_list, listing, shown, unrepresented
from remix_study.errors import ManifestError
from remix_study.media.source import source_at
from remix_study.sample import Clip, SampleId


def test_a_list_is_taken_from_its_folder_or_else_from_nearest_the_root(tmp_path: Path) -> None:
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


def test_byte_order_marks_and_line_ends_are_stripped(tmp_path: Path) -> None:
    (tmp_path / "stat.csv").write_bytes(b"\xef\xbb\xbfNEU\r\n\r\n HAP \n")
    found = find_list(("stat.csv",), source_at(tmp_path), ["stat.csv"])
    assert found is not None
    assert found.lines() == [(1, "NEU"), (3, "HAP")]


def test_rows_have_all_columns_despite_missing_or_surplus_cells() -> None:
    table = PublishedList("t.csv", '"a", b\n1\n" 2 ","3,4",5\n\n')
    assert table.rows() == [{"a": "1", "b": ""}, {"a": "2", "b": "3,4"}]
    assert PublishedList("t.csv", "").rows() == []


def test_a_table_that_is_not_csv_raises_with_its_name() -> None:
    with pytest.raises(ManifestError, match=r"^Cannot read t\.csv as a CSV file: .*\.$"):
        PublishedList("t.csv", "a,b\n" + "x" * 200_000).rows()


def test_an_unreadable_list_raises_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"^Cannot read gone\.csv: No such file"):
        find_list(("gone.csv",), source_at(tmp_path), ["gone.csv"])


def test_a_list_that_is_not_text_raises_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ManifestError, match=r"train\.csv must be UTF-8 text, but is not"):
        find_list(("train.csv",), source_at(tmp_path), ["train.csv"])
    with pytest.raises(ManifestError, match=re.escape(f"{tmp_path / 'train.csv'} must be UTF-8 text")):
        find_list(("train.csv",), source_at(tmp_path), [], tmp_path)


def test_all_problems_are_listed_up_to_a_limit() -> None:
    refuse("a.csv", [])
    with pytest.raises(ManifestError) as caught:
        refuse("a.csv", [f"line {n}: no" for n in range(1, 41)])
    lines = str(caught.value).splitlines()
    assert lines[0] == "a.csv has 40 problems:"
    assert lines[-1] == "  and 10 more"
    assert len(lines) == 32


def test_shown_abbreviates_long_lists() -> None:
    assert shown("abc") == "a, b, c"
    assert shown("abcd", most=2) == "a, b and 2 more"
    assert listing("letters", "ab") == "letters (2): a, b."


def test_absence_counts_missing_clips_by_class() -> None:
    assert absence({}, {"dog": 3}) == []
    assert absence({"x": "dog", "y": "cat", "z": "dog"}, {"dog": 3, "cat": 1}) == [
        "3 of 4 listed clips are missing or incomplete, by class: cat 1 of 1, dog 2 of 3."
    ]


def test_unrepresented_reports_splits_without_a_class() -> None:
    clips = [Clip(SampleId(f"{label}{split}"), {"audio": "a.wav"}, label, split)
             for label, split in (("dog", "train"), ("cat", "train"), ("dog", "val"))]  # fmt: skip
    assert unrepresented(clips) == [
        "the split val has no clips of cat, so its accuracy excludes them.",
        "the split test has no clips of cat, dog, so its accuracy excludes them.",
    ]
    assert unrepresented([]) == []
