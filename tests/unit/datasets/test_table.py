"""Tables of clips in all formats, and their error messages"""

import contextlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from remix_study.datasets.corpus import Found, open_corpus, prepare
from remix_study.datasets.manifest import read_manifest, write_manifest
from remix_study.datasets.raw_table import read_raw
from remix_study.datasets.table import Table
from remix_study.errors import ManifestError
from remix_study.media.presets import AUDIO_FRONT_ENDS, PRESETS, FeaturePreset, FlowPreset, preset_named
from remix_study.media.source import LocalSource
from tests.corrupt_media import Picture, Sound, write_clip
from tests.examples import examples

SPLITS = ("train", "val", "test")
Write = Callable[..., Table]


@pytest.fixture
def written(tmp_path: Path) -> Write:
    def write(content: str | bytes, name: str = "clips.csv", preset: str = "tiny", **options: Any) -> Table:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return Table(LocalSource(tmp_path), name, preset_named(preset), **options)

    return write


def error_of(table: Table) -> str:
    with pytest.raises(ManifestError) as caught:
        table.find()
    return str(caught.value)


def lines(*cells: str, header: str = "path,label,split") -> str:
    return "\n".join([header, *cells]) + "\n"


def clips_of(found: Found) -> list[tuple[str, str, str]]:
    return [(str(clip.id), clip.label, clip.split) for clip in found.clips]


PLAIN = lines("a.mp4,dog,train", "b.mp4,dog,val", "c.mp4,dog,test")
READ = [("a", "dog", "train"), ("b", "dog", "val"), ("c", "dog", "test")]


# --- formats ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        "\ufeff" + PLAIN,
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "\r"),
        PLAIN.replace(",", ";"),
        PLAIN.replace(",", "\t"),
        "\n\n" + PLAIN.replace("\n", "\n\n,,\n"),
        PLAIN.replace("dog", ' "dog" ').replace(' "', '"').replace('" ', '"'),
        lines("0,a.mp4,dog,train", "1,b.mp4,dog,val", "2,c.mp4,dog,test", header=",path,label,split"),
        PLAIN.replace("train", "Train ").replace("a.mp4", " a.mp4 "),
        PLAIN.replace(",dog", ', "dog"').replace(",label", ", label"),
    ],
    ids=[
        "plain",
        "bom",
        "crlf",
        "cr",
        "semicolons",
        "tabs",
        "empty-lines",
        "quotes",
        "index-of-pandas",
        "spaces",
        "quotes-after-spaces",
    ],
)
def test_csv_dialects_are_read(written: Write, content: str) -> None:
    found = written(content).find()
    assert clips_of(found) == READ
    assert found.clips[0].paths == {"audio": "a.mp4", "video": "a.mp4"}
    assert found.warnings == ()
    assert found.facts["split"] == "as in the table"


def test_quoted_cells_can_contain_commas_quotes_and_line_ends(written: Write) -> None:
    content = lines('"a, b.mp4","a ""dog"", big",train', '"x.mp4","two\nlines",train', "y.mp4,,train")
    assert "line 5: `label` is missing" in error_of(written(content))  # the line number in the file, not the row number
    clip = written(lines('"a, b.mp4","a ""dog"", big",train')).find().clips[0]
    assert (clip.id, clip.label) == ("a, b", 'a "dog", big')


def test_a_manifest_is_a_table(written: Write, tmp_path: Path) -> None:
    rows = [
        {"id": "a", "path": "a.mp4", "label": "dog", "split": "train", "group": "ann", "start": 1, "end": 2.5},
        {"id": "b", "paths": {"audio": "b.wav", "video": "b.mp4"}, "label": "dog", "split": "val", "truth": {"x": 1}},
    ]
    table = written("".join(json.dumps(row) + "\n" for row in rows), "manifest.jsonl")
    assert list(table.find().clips) == read_manifest(tmp_path / "manifest.jsonl")


def test_texts_can_contain_unicode_line_separators(written: Write) -> None:
    row = {"id": "a\u2028b", "path": "a.mp4", "label": "dog\u0085", "split": "train"}
    clip = written(json.dumps(row, ensure_ascii=False) + "\n", "m.jsonl").find().clips[0]
    assert (clip.id, clip.label) == ("a\u2028b", "dog\u0085")


def test_parquet_is_read_with_its_types(written: Write, tmp_path: Path) -> None:
    columns = {
        "path": ["a.mp4", "b.mp4", "c.mp4"],
        "label": [0, 1, 1],
        "group": [7.0, 8.5, None],
        "start": pa.array([1.25, math.nan, None]),
        "end": pa.array(["2.50", None, None]).cast(pa.decimal128(6, 2)),
        "age": [21, 22, None],
    }
    pyarrow.parquet.write_table(pa.table({**columns, "split": ["train", "train", "val"]}), tmp_path / "t.parquet")
    content = (tmp_path / "t.parquet").read_bytes()
    assert "the class '0' has no clip in the split 'val'" in error_of(written(content, "t.parquet"))
    pyarrow.parquet.write_table(pa.table({**columns, "split": ["train"] * 3}), tmp_path / "t.parquet")
    found = Table(LocalSource(tmp_path), "t.parquet", PRESETS["tiny"], keep=("age",)).find()
    assert [(c.label, c.group, c.start, c.end, c.truth) for c in found.clips] == [
        ("0", "7", 1.25, 2.5, {"age": 21}),
        ("1", "8.5", None, None, {"age": 22}),
        ("1", None, None, None, {}),
    ]


@examples(30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([b"", b"path,label\n"]), st.binary(max_size=99), st.sampled_from(["csv", "jsonl", "parquet"]))
def test_any_bytes_are_read_or_raise_a_manifest_error(written: Write, head: bytes, rest: bytes, kind: str) -> None:
    with contextlib.suppress(ManifestError):
        assert written(head + rest, f"x.{kind}").find().clips


# --- columns ---------------------------------------------------------------------------------------------------------


def test_columns_can_have_other_names(written: Write) -> None:
    text = lines(
        "a.wav,a.mp4,happy,1001,label of an annotator",
        "b.wav,b.mp4,happy,1002,x",
        "c.wav,c.mp4,happy,1003,y",
        header="sound,clip,emotion,speaker,label",
    )
    columns = {"audio": "sound", "video": "clip", "label": "emotion", "group": "speaker", "id": "speaker"}
    found = written(text, columns=columns).find()
    assert found.clips[0].paths == {"audio": "a.wav", "video": "a.mp4"}
    assert [(c.id, c.label, c.group) for c in found.clips[:1]] == [("1001", "happy", "1001")]
    assert "ignored: label (store them with `--keep`)" in found.warnings[0]


@pytest.mark.parametrize(
    ("header", "columns", "error"),
    [
        ("file,label,split", {}, "must have a column `path` (a file with video and audio), or one for each modality"),
        ("path,emotion,split", {}, "must have a column `label` (the class), but has path, emotion, split"),
        ("path,label,split", {"label": "emotion"}, "must have the column emotion, but has path, label, split"),
        ("path,emotion,split", {"lable": "emotion"}, "`lable=emotion` must name one of id, label, split"),
        ("path,label,path", {}, "must name each column once, but repeats path"),
        ("audio,label,audio_path", {}, "must have one column for audio, but has audio and audio_path"),
    ],
)
def test_invalid_columns_raise_once(written: Write, header: str, columns: Mapping[str, str], error: str) -> None:
    message = error_of(written(lines("a.mp4,dog,train", "b.mp4,dog,val", header=header), columns=columns))
    assert error in message
    assert "\n" not in message


def test_unknown_columns_are_ignored_unless_they_are_kept(written: Write) -> None:
    text = lines(
        "a.mp4,dog,21,007,x,ann", "b.mp4,dog,22.5,008,,bob", "c.mp4,dog,,009,z,cid",
        header="path,label,age,badge,note,gruop",
    )  # fmt: skip
    found = written(text, keep=("age", "badge", "note")).find()
    truths: dict[str, Mapping[str, Any]] = {str(clip.id): clip.truth for clip in found.clips}
    assert truths["a"] == {"age": 21, "badge": "007", "note": "x"}
    assert truths["b"] == {"age": 22.5, "badge": "008"}
    assert truths["c"] == {"badge": "009", "note": "z"}
    left = (
        "unknown columns are ignored: gruop (store them with `--keep`); if gruop is the group, use "
        "`--column group=gruop`"
    )
    assert found.warnings[0] == left
    assert "must have the column speaker, but has" in error_of(written(text, keep=("speaker",)))


def test_synonyms_of_splits_are_accepted(written: Write) -> None:
    found = written(lines("a.mp4,dog,training", "b.mp4,dog,Validation", "c.mp4,dog,TEST", "d.mp4,dog,dev")).find()
    assert [clip.split for clip in found.clips] == ["train", "val", "test", "val"]
    assert found.warnings == (
        "names of splits were read as synonyms: training as train, Validation as val, dev as val",
    )
    assert "did you mean train?" in error_of(written(lines("a.mp4,dog,trian")))


def test_ids_are_as_short_as_possible(written: Write) -> None:
    def ids(*files: str, header: str = "path,label,split") -> list[str]:
        rows = [f"{file},dog,train" if header == "path,label,split" else file for file in files]
        return [str(clip.id) for clip in written(lines(*rows, header=header)).find().clips]

    assert ids("x/a.mp4", "x/b.mp4") == ["a", "b"]
    assert ids("x/a.mp4", "y/a.mp4") == ["x/a.mp4", "y/a.mp4"]
    header = "path,label,split,start,end"
    assert ids("a.mp4,dog,train,0,1", "a.mp4,dog,train,1,", header=header) == ["a.mp4 0.0-1.0", "a.mp4 1.0-"]


# --- problems --------------------------------------------------------------------------------------------------------


def test_all_problems_are_listed_at_once_in_line_order(written: Write) -> None:
    message = error_of(
        written(
            lines(
                "1,a.mp4,dog,train,,",
                "2,../b.mp4,dog,train,,",
                "3,c.mp4,dog,train",
                "4,/etc/passwd,dog,train,,",
                "5,s3://elsewhere/d.mp4,dog,train,,",
                "6,e.mp4,,train,,",
                "7,f.mp4,dog,somewhere,,",
                "8,g.mp4,dog,train,soon,",
                "9,h.mp4,dog,train,3,2",
                "1,i.mp4,dog,train,,",
                "10,,dog,train,,",
                header="id,path,label,split,start,end",
            )
        )
    )
    expected = [
        "line 3: a path must lie within the manifest's folder, but '../b.mp4' does not",
        "line 4: it must have 6 cells, like the first line, but has 4",
        "line 5: a path must lie within the manifest's folder, but '/etc/passwd' does not",
        "line 6: a path must lie within the manifest's folder, but 's3://elsewhere/d.mp4' does not",
        "line 7: `label` is missing",
        "line 8: `split` must be one of train, val, test, but is 'somewhere'",
        "line 9: `start` must be seconds, 0 or more, but is 'soon'",
        "line 10: `start` must be before `end`",
        "line 12: one of `path` and `paths` must be given",
        "line 11: the id '1' must occur once, but line 2 has it too",
    ]
    positions = [message.find(each) for each in expected]
    assert -1 not in positions
    assert positions == sorted(positions)
    assert f"has {len(expected)} problems" in message


def test_at_most_thirty_problems_are_shown(written: Write) -> None:
    message = error_of(written(lines(*(f"../{number}.mp4,dog,train" for number in range(50)))))
    assert message.count("\n") == 31
    assert message.endswith("and 20 more")


@pytest.mark.parametrize(
    ("content", "name", "error"),
    [
        (b"path,label\nh\xf6hle.mp4,dog\n", "x.csv", "must be UTF-8 text, but has another byte on line 2"),
        (PLAIN.encode("utf-16"), "x.csv", "must be UTF-8 text"),
        (b'path,label\n"a.mp4,dog\nb.mp4,dog\n', "x.csv", "line 2: from here on it is not CSV"),
        (b"path,label,split\n", "x.csv", "it has no clips"),
        (b"", "x.csv", "it has no clips"),
        (b"", "x.jsonl", "it has no clips"),
        (b"not parquet", "x.parquet", "as a Parquet file"),
        (b"", "x.xlsx", "its name must end in .csv, .jsonl or .parquet"),
        (b'{"path": "a.mp4", "label": "dog"}\n[1]\n', "x.jsonl", "line 2: it must be one JSON object, but is a list"),
        (
            b'{"path": "a.mp4", "label": "dog"}\n{"path": "b.mp4", "lable": "dog"}\n', "x.jsonl",
            "line 2: did you mean column 'lable' as the label?",
        ),
        (b'{"path": 3, "label": "dog"}\n', "x.jsonl", "a path must be a string that is not empty, but is 3"),
        (b'{"paths": {"audio": 3}, "label": "dog"}\n', "x.jsonl", "a path must be a string"),
        (b'{"paths": "a.mp4", "label": "dog"}\n', "x.jsonl", "`paths` must be an object"),
        (b'{"path": "a.mp4", "label": 1e999}\n', "x.jsonl", "`label` must be a string that is not empty, but is inf"),
        (b'{"path": "a.mp4", "label": "dog", "truth": {"x": 1e999}}\n', "x.jsonl", "finite numbers"),
        (b'{"path": "a.mp4", "paths": {"audio": "b"}, "label": "dog"}\n', "x.jsonl", "must be given, not both"),
    ],
)  # fmt: skip
def test_content_that_is_not_a_table_raises(written: Write, content: bytes, name: str, error: str) -> None:
    assert error in error_of(written(content, name))


def test_a_missing_table_raises_with_its_name(tmp_path: Path) -> None:
    assert "nowhere.csv: No such file" in error_of(Table(LocalSource(tmp_path), "nowhere.csv", PRESETS["tiny"]))
    assert "Is a directory" in error_of(Table(LocalSource(tmp_path), "", PRESETS["tiny"]))


def test_clips_without_a_modality_are_listed(written: Write) -> None:
    text = lines("a.wav,a.mp4,dog,train", ",b.mp4,dog,train", "c.wav,,dog,train", header="audio,video,label,split")
    message = error_of(written(text))
    assert "every clip must have a file of audio, but 1 of 3 have none (line 3); complete these lines" in message
    assert "every clip must have a file of video, but 1 of 3 have none (line 4)" in message
    pictures = lines("a.wav,a.mp4,dog,train", ",b.mp4,dog,train", header="audio,video,label,split")
    assert len(written(pictures, preset="none+3x224").find().clips) == 2  # audio is not required


def test_urls_below_the_root_are_paths(tmp_path: Path) -> None:
    class Bucket(LocalSource):
        """Local files behind the URL of a bucket."""

        def __init__(self) -> None:
            self.root = "s3://bucket/corpus"

        def read(self, path: str) -> bytes:
            return (tmp_path / path).read_bytes()

    (tmp_path / "t.csv").write_text(
        lines("s3://bucket/corpus/x/a.mp4,dog,train", "x/b.mp4,dog,val", "s3://bucket/other/c.mp4,dog,test")
    )
    message = error_of(Table(Bucket(), "t.csv", PRESETS["tiny"]))
    assert "has 1 problem:" in message
    assert "line 4: a path must lie within the manifest's folder, but 's3://bucket/other/c.mp4' does not" in message
    (tmp_path / "t.csv").write_text(lines("s3://bucket/corpus/x/a.mp4,dog,train", "x/b.mp4,dog,val"))
    table = Table(Bucket(), "t.csv", PRESETS["tiny"])
    assert [clip.paths["video"] for clip in table.find().clips] == ["x/a.mp4", "x/b.mp4"]
    assert table.name == "corpus"


# --- splits ----------------------------------------------------------------------------------------------------------


def grouped(order: Sequence[int]) -> str:
    return lines(
        *(f"{i}.mp4,{'dog' if i % 2 else 'cat'},actor {i // 6}" for i in order), header="path,label,group"
    )  # fmt: skip


def test_splits_are_drawn_by_group_in_any_order_of_lines(written: Write) -> None:
    found = written(grouped(range(120))).find()
    again = written(grouped(range(119, -1, -1))).find()
    other = written(grouped(range(120)), seed=1).find()
    drawn = {clip.id: clip.split for clip in found.clips}
    assert drawn == {clip.id: clip.split for clip in again.clips}
    assert drawn != {clip.id: clip.split for clip in other.clips}
    assert {clip.group: clip.split for clip in found.clips} == {clip.group: drawn[clip.id] for clip in found.clips}
    assert len({(clip.split, clip.label) for clip in found.clips}) == 6
    split = "drawn by group, 70 / 10 / 20 percent, seed 0"
    assert found.facts["split"] == split
    assert found.warnings == (f"the table has no splits, so they are {split}",)


def test_lines_without_a_split_among_others_with_one_are_problems(written: Write) -> None:
    assert "line 3: `split` is missing" in error_of(written(lines("a.mp4,dog,train", "b.mp4,dog,")))


def test_a_class_with_too_few_clips_to_split_raises(written: Write) -> None:
    text = lines(*(f"{i}.mp4,{'rare' if i < 2 else 'dog'}" for i in range(30)), header="path,label")
    assert "rare has fewer" in error_of(written(text))


# --- presets ---------------------------------------------------------------------------------------------------------


def arrays(folder: Path, **shapes: Sequence[tuple[int, ...]]) -> str:
    """Write array files of each modality, and return a table of them."""
    count = len(next(iter(shapes.values())))
    for modality, of in shapes.items():
        for number, shape in enumerate(of):
            np.save(folder / f"{modality}{number}.npy", np.ones(shape, np.float32))
    rows = [",".join([*(f"{m}{n}.npy" for m in shapes), "dog", SPLITS[n % 3]]) for n in range(count)]
    return lines(*rows, header=",".join([*shapes, "label", "split"]))


def test_feature_presets_follow_the_shapes_of_arrays(written: Write, tmp_path: Path) -> None:
    text = arrays(tmp_path, audio=[(5, 4)] * 3, text=[(7, 300)] * 3, face=[(35,)] * 3)
    table = written(text, images=("audio",))
    parts = table.preset.parts
    assert parts["audio"] == FeaturePreset("image", (5, 4))
    assert parts["text"] == FeaturePreset("sequence", (7, 300))
    assert parts["face"] == FeaturePreset("vector", (35,))
    assert table.preset.modalities == ("audio", "face", "text")
    assert table.find().clips[0].paths == {"audio": "audio0.npy", "text": "text0.npy", "face": "face0.npy"}


def test_the_length_of_sequences_is_their_95th_percentile_or_given(written: Write, tmp_path: Path) -> None:
    text = arrays(tmp_path, text=[(length, 3) for length in [*[10] * 18, 4, 90, 0]])
    table = written(text)
    assert table.preset.parts["text"] == FeaturePreset("sequence", (10, 3))
    wanted = (
        "sequences of text have 4 to 90 steps (in a sample of 20); 10 are kept of each (change this with `--length text"
    )
    assert any(wanted in warning for warning in table.find().warnings)
    assert written(text, lengths={"text": 50}).preset.parts["text"] == FeaturePreset("sequence", (50, 3))


def test_rows_of_one_array_can_be_a_modality(written: Write, tmp_path: Path) -> None:
    np.save(tmp_path / "text.npy", np.ones((3, 9, 6), np.float32))
    np.save(tmp_path / "face.npy", np.ones((3, 5), np.float32))
    rows = [f"text.npy#{n},face.npy#{n},dog,{split}" for n, split in enumerate(SPLITS)]
    table = written(lines(*rows, header="text_path,face_path,label,split"))
    assert table.preset.parts == {"text": FeaturePreset("sequence", (9, 6)), "face": FeaturePreset("vector", (5,))}
    assert [str(clip.id) for clip in table.find().clips] == ["text-0", "text-1", "text-2"]


def test_media_and_arrays_can_be_combined(written: Write, tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", np.ones(4, np.float32))
    rows = [f"{n}.mp4,t.npy,flow/{n},dog,{split}" for n, split in enumerate(SPLITS)]
    table = written(lines(*rows, header="path,words,flow,label,split"), columns={"text": "words"}, preset="ogm")
    parts = table.preset.parts
    assert parts["audio"] == AUDIO_FRONT_ENDS["stft188"]
    assert parts["text"] == FeaturePreset("vector", (4,))
    assert parts["flow"] == FlowPreset(3, 224, 224, source="given")
    assert table.preset.modalities == ("audio", "video", "flow", "text")
    assert table.preset.name != "ogm"


def test_a_preset_keeps_only_existing_modalities(written: Write) -> None:
    table = written(lines("a.mp4,dog,train", "b.mp4,dog,val", header="video,label,split"), preset="ogm")
    assert table.preset.modalities == ("video",)
    assert "the table has no audio; the store will have video" in table.find().warnings
    message = error_of(written(lines("a.mp4,dog,train", header="video,label,split"), preset="stft188+none"))
    assert "The preset 'stft188+none' keeps none of the modalities of clips.csv" in message


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (
            {"lengths": {"txet": 50}},
            "`--length` must name a modality of feature arrays with two dimensions, but names txet",
        ),
        ({"lengths": {"face": 50}}, "but names face; clips.csv has text"),
        ({"images": ("face",)}, "`--image` must name a modality of feature arrays with two dimensions, but names face"),
    ],
)
def test_options_for_missing_modalities_raise(
    written: Write, tmp_path: Path, options: Mapping[str, Any], error: str
) -> None:
    assert error in error_of(written(arrays(tmp_path, text=[(7, 3)] * 3, face=[(3,)] * 3), **options))


def test_unusable_arrays_raise(written: Write, tmp_path: Path) -> None:
    assert "must be a vector (D,) or a sequence (T, D), but has 3" in error_of(
        written(arrays(tmp_path, x=[(2, 2, 2)] * 3))
    )
    (tmp_path / "bad.npy").write_bytes(b"not an array")
    message = error_of(written(lines("bad.npy,dog,train", header="text,label,split")))
    assert "Cannot read any of 1 sampled arrays of text in clips.csv (bad.npy: it must be a .npy file" in message
    message = error_of(written(lines("bad.npy,dog,train")))
    assert "`path` must be a file with video and audio, not an array" in message
    mixed = lines("bad.npy,dog,train", "b.txt,dog,val", header="text_path,label,split")
    assert "must have a column `path`" in error_of(written(mixed))


# --- from a table to a store -----------------------------------------------------------------------------------------


def test_a_table_converts_to_an_equal_manifest(written: Write, tmp_path: Path) -> None:
    clips = list(written(grouped(range(60)), keep=("group",)).find().clips)
    write_manifest(tmp_path / "out.jsonl", clips)
    assert read_manifest(tmp_path / "out.jsonl") == clips


def test_a_table_can_be_prepared(written: Write, tmp_path: Path) -> None:
    for number in range(3):
        write_clip(tmp_path / f"{number}.mp4", [Picture(shade=number)], [Sound()])
        np.save(tmp_path / f"{number}.npy", np.full((2 + number, 4), number, np.float32))
    rows = [f"{n}.mp4,{n}.npy,dog,{split},0.5,1.5,{n}" for n, split in enumerate(SPLITS)]
    table = written(lines(*rows, header="path,text,label,split,start,end,age"), keep=("age",))
    store = prepare(table, tmp_path / "out", workers=1)
    assert store.modalities == ("audio", "video", "text")
    assert store.gather("text", np.array([2]))[0].tolist() == [[2.0] * 4] * 4
    assert [truth["age"] for truth in store.truth] == [0, 1, 2]
    assert open_corpus(tmp_path / "out").digest == store.digest


def test_line_numbers_are_those_of_the_file() -> None:
    raw = read_raw("x.csv", b"\n\npath,label\n\na,dog\n")
    assert [location for location, _ in raw.lines] == ["line 5"]


def test_a_number_is_written_with_plain_digits(written: Write) -> None:
    """Python reads 1_12 as 112, which would make one session of two, and digits of other scripts."""
    content = lines("a.mp4,dog,train,1_12", "b.mp4,dog,val,11_2", "c.mp4,dog,test,3", header="path,label,split,session")
    kept = [clip.truth["session"] for clip in written(content, keep=("session",)).find().clips]
    assert kept == ["1_12", "11_2", "3"]
    content = lines("a.mp4,dog,train,1_5,20", "b.mp4,dog,val,٣,20", header="path,label,split,start,end")
    assert error_of(written(content)).count("start") == 2
