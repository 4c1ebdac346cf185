import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from remix_study.datasets.manifest import SPLITS, read_manifest, write_manifest
from remix_study.errors import ManifestError
from remix_study.sample import Clip, SampleId
from tests.examples import examples


def row(**changes: Any) -> dict[str, Any]:
    return {"id": "a", "path": "a.mp4", "label": "dog", "split": "train"} | changes


def problems(folder: Path, *rows: Any) -> str:
    path = folder / "manifest.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in rows))
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    return str(caught.value)


words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)
names = st.from_regex(r"[a-z0-9 äöü_-]{1,8}\.mp4", fullmatch=True)
seconds = st.floats(0, 1e4, allow_nan=False)
facts = st.booleans() | st.integers(-(2**53), 2**53) | seconds | words
truths = st.dictionaries(words, facts | st.dictionaries(words, facts, max_size=2), max_size=3)


@st.composite
def clips(draw: st.DrawFn) -> list[Clip]:
    ids = draw(st.lists(words, min_size=1, max_size=5, unique=True))
    found = []
    for name in ids:
        both = draw(names)
        paths = draw(
            st.sampled_from([{"audio": both, "video": both}, {"audio": "x.wav", "video": both}, {"text": both}])
        )
        start = draw(st.none() | seconds)
        found.append(
            Clip(
                SampleId(name),
                paths,
                "dog",
                draw(st.sampled_from(SPLITS)),
                draw(st.none() | st.just(f"group of {name}")),
                start,
                None if start is None else start + 1,
                draw(truths),
            )
        )
    return found


@examples(40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(clips())
def test_a_manifest_survives_writing_and_reading(tmp_path: Path, written: list[Clip]) -> None:
    write_manifest(tmp_path / "manifest.jsonl", written)
    assert read_manifest(tmp_path / "manifest.jsonl") == written


def test_all_problems_are_listed_at_once_with_their_lines(tmp_path: Path) -> None:
    message = problems(
        tmp_path,
        row(),
        row(),
        {"id": "b", "path": "b.mp4", "lable": "dog", "split": "train"},
        row(id="c", split="trian"),
        "not json",
        row(id="d", path="../../etc/passwd"),
        row(id="e", start=3, end=2),
        row(id="f", paths={"audio": "f.wav"}),
        row(id="g", start="1"),
        row(id="h", truth={"x": [1]}),
    )
    for part in [
        "line 2: the id 'a' must occur once, but line 1 has it too",
        "line 3: unknown key 'lable'; did you mean `label`?",
        "line 3: `label` is missing",
        "line 4: `split` must be one of train, val, test, but is 'trian'; did you mean train?",
        "line 5: it must be one JSON object",
        "line 6: a path must lie within the manifest's folder, but '../../etc/passwd' does not",
        "line 7: `start` must be before `end`",
        "line 8: one of `path` and `paths` must be given, not both",
        "line 9: `start` must be seconds",
        "line 10: `truth` must be an object",
    ]:
        assert part in message
    assert "has 10 problems" in message


@pytest.mark.parametrize("path", ["/etc/passwd", "..", ".", "clips/../../x.mp4", "", "a\0b"])
def test_a_path_outside_the_manifests_folder_is_a_problem(tmp_path: Path, path: str) -> None:
    assert "line 1: a path must" in problems(tmp_path, row(path=path))


@pytest.mark.parametrize("path", ["s3://bucket/a.mp4", "https://host/a.mp4"])
def test_a_url_is_not_a_path_in_a_folder(tmp_path: Path, path: str) -> None:
    assert "line 1: a path must lie within the manifest's folder" in problems(tmp_path, row(path=path))


def test_texts_can_contain_unicode_line_separators(tmp_path: Path) -> None:
    written = [Clip(SampleId("a\u2028b"), {"audio": "a.wav"}, "dog\u0085", "train")]
    write_manifest(tmp_path / "manifest.jsonl", written)
    assert read_manifest(tmp_path / "manifest.jsonl") == written


def test_truth_must_be_finite(tmp_path: Path) -> None:
    for value in ("1e999", '{"audio": 1e999}', '{"audio": {"left": true}}'):
        said = problems(tmp_path, f'{{"id": "a", "truth": {{"x": {value}}}}}')
        assert "`truth` must be an object of finite numbers" in said


def test_paths_within_the_folder_are_made_relative(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text(json.dumps(row(path=str(tmp_path / "clips" / "a.mp4"))) + "\n")
    assert read_manifest(manifest)[0].paths == {"audio": "clips/a.mp4", "video": "clips/a.mp4"}


def test_a_class_missing_in_a_split_is_a_problem(tmp_path: Path) -> None:
    message = problems(tmp_path, row(), row(id="b", label="cat"), row(id="c", split="val"))
    assert "the class 'cat' has no clip in the split 'val'" in message


def test_a_group_in_two_splits_is_a_problem(tmp_path: Path) -> None:
    message = problems(tmp_path, row(group="ann"), row(id="b", split="test", group="ann"))
    assert "line 2: the group 'ann' must stay in one split, but is in 'test' here and in 'train' on line 1" in message


@pytest.mark.parametrize("line", ['{"id": "a", "path": "a", "label": "x", "split": "train", "start": NaN}', "[]", "3"])
def test_a_line_that_is_not_an_object_is_a_problem(tmp_path: Path, line: str) -> None:
    assert "line 1: it must be one JSON object" in problems(tmp_path, line)


def test_an_empty_or_missing_manifest_raises(tmp_path: Path) -> None:
    assert "it has no clips" in problems(tmp_path, "")
    with pytest.raises(ManifestError, match="cannot be read: No such file"):
        read_manifest(tmp_path / "nowhere.jsonl")
