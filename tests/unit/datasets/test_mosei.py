"""CMU-MOSEI: three layouts with the same clips, labels and missing values"""

import collections
import dataclasses
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from remix_study.datasets.corpus import prepare
from remix_study.datasets.mosei import CLASSES, Mosei, class_of, mosei_at, unpack
from remix_study.errors import ManifestError, StoreError
from remix_study.files.disk import exclusive_lock
from remix_study.media.presets import FeaturePreset
from remix_study.media.source import source_at
from remix_study.sample import Clip
from tests.miniature import mosei

SHAPES = {"audio": (7, 4), "video": (6, 3), "text": (5, 6)}


def opened(root: Path, layout: str) -> Mosei:
    if layout == "pickle":
        return mosei_at(mosei.write_pickle(root / "unaligned_50.pkl"), root / "features")
    return mosei_at(
        (mosei.write_splits if layout == "splits" else mosei.write_clips)(root / "given"), root / "features"
    )


@pytest.mark.parametrize("layout", ["pickle", "splits", "clips"])
def test_every_layout_gives_the_same_clips(tmp_path: Path, layout: str) -> None:
    corpus = opened(tmp_path, layout)
    found = corpus.find()
    assert {m: part.shape for m, part in corpus.preset.parts.items()} == SHAPES
    assert corpus.preset.modalities == ("audio", "video", "text")
    assert collections.Counter(clip.split for clip in found.clips) == {"train": 56, "val": 28, "test": 28}
    made = mosei.parts()
    for name, split in (("train", "train"), ("valid", "val"), ("test", "test")):
        clips = [clip for clip in found.clips if clip.split == split]
        assert [clip.id for clip in clips] == made[name].ids
        assert [clip.truth["sentiment"] for clip in clips] == pytest.approx(made[name].sentiments.tolist())
        assert [clip.label for clip in clips] == [class_of(s, 2) for s in made[name].sentiments]
        by = "by " if layout == "clips" else ""
        assert [clip.group for clip in clips] == [by + clip.id.split("$_$")[0] for clip in clips]


@pytest.mark.parametrize("layout", ["pickle", "splits", "clips"])
def test_the_store_has_every_clips_own_features(tmp_path: Path, layout: str) -> None:
    store = prepare(opened(tmp_path, layout), tmp_path / "out", workers=1)
    made = mosei.parts()
    for name, split in (("train", "train"), ("valid", "val"), ("test", "test")):
        part, rows = made[name], store.rows(split)
        for m, key in (("audio", "audio"), ("video", "vision"), ("text", "text")):
            stored = store.gather(m, rows)
            there = np.arange(stored.shape[1]) < part.lengths[key][:, None]
            wanted = np.where(np.isfinite(part.arrays[key]), part.arrays[key], np.nan).astype(np.float32)
            np.testing.assert_array_equal(stored[there], wanted[there])
            if layout == "pickle":  # only pickles have padding, marked by lengths or zeros
                seen = part.arrays[key].any(axis=(1, 2))
                assert np.isnan(stored[seen][~there[seen]]).all()
                assert not stored[~seen].any()  # the front end saw no face
            if layout == "clips":
                assert np.isnan(stored[~there]).all()


@pytest.mark.parametrize("given", [False, True])
def test_the_length_of_text_takes_precedence_over_zero_padding(tmp_path: Path, given: bool) -> None:
    """Text features of padding may be nonzero, because BERT also encodes padding tokens."""
    wanted = mosei.parts()["train"].lengths["text"]

    def fill(content: Any) -> None:
        for split, part in content.items():
            part["text"] = np.where(part["text"] == 0, 9.0, part["text"])
            if given:
                part["text_lengths"] = mosei.parts()[split].lengths["text"].tolist()
                del part["text_bert"]

    root = unpack(mosei.write_pickle(tmp_path / "a.pkl", change=fill), tmp_path / "features")
    text = np.load(root / "train" / "text.npy")
    assert (np.isfinite(text).all(axis=2).sum(axis=1) == wanted).all()


@pytest.mark.parametrize("padding", ["end", "front"])
def test_steps_after_a_frame_without_a_face_are_kept(tmp_path: Path, padding: str) -> None:
    """MMSA's lengths count the steps before the first one that is all zero, and at least one."""
    steps = np.zeros((56, 6, 3))
    if padding == "end":
        steps[:, :5] = 1.0
        steps[0, 2] = 0.0  # no face
        steps[1, 0] = 0.0
    else:
        steps[:, 1:] = 1.0
    empty = (steps == 0).all(axis=2)

    def change(content: Any) -> None:
        content["train"]["vision"] = steps
        content["train"]["vision_lengths"] = np.maximum(1, empty.argmax(axis=1)).tolist()

    root = unpack(mosei.write_pickle(tmp_path / "a.pkl", change=change), tmp_path / "features")
    stored = np.load(root / "train" / "video.npy")
    assert (np.isnan(stored).all(axis=2) == empty).all()
    assert (stored[~empty] == 1.0).all()


def test_classes_have_names_that_follow_the_sentiment() -> None:
    values = np.linspace(-3, 3, 61)
    for labels, names in CLASSES.items():
        classes = [names.index(class_of(value, labels)) for value in values]
        assert classes == sorted(classes)
        assert set(classes) == set(range(labels))
    assert [class_of(value, 2) for value in (-1e-9, 0.0)] == ["negative", "non-negative"]
    assert [class_of(value, 3) for value in (-0.1, 0.0, 0.1)] == ["negative", "neutral", "positive"]
    assert [class_of(value, 7) for value in (-3.0, -0.5, 0.5, 1.5, 2.6)] == [
        "highly negative", "neutral", "neutral", "positive", "highly positive",
    ]  # fmt: skip


@pytest.mark.parametrize("labels", [3, 7])
def test_more_classes_are_chosen_by_number(tmp_path: Path, labels: Literal[3, 7]) -> None:
    corpus = dataclasses.replace(opened(tmp_path, "pickle"), labels=labels)
    assert {clip.label for clip in corpus.find().clips} == set(CLASSES[labels])


def test_another_split_than_the_published_one_causes_a_warning(tmp_path: Path) -> None:
    (warning,) = opened(tmp_path, "splits").find().warnings
    assert warning == (
        "there are 56 / 28 / 28 clips in train, val, test, but 16326 / 1871 / 4659 in the published split"
    )


def test_videos_in_two_splits_are_counted_and_clips_have_no_group(tmp_path: Path) -> None:
    def mix(content: Any) -> None:
        content["test"]["id"][:2] = ["train-video00$_$8", "train-video01$_$8"]

    found = mosei_at(mosei.write_pickle(tmp_path / "a.pkl", change=mix), tmp_path / "features").find()
    assert found.warnings[1].startswith("2 of 28 videos have clips in several splits, such as train-video00")
    assert {clip.group for clip in found.clips} == {None}
    assert found.clips[0].truth["video"] == "train-video00"


@pytest.mark.parametrize(
    ("ids", "group"), [("-3g5yACwYnA$_$4", "-3g5yACwYnA"), ("-3g5yACwYnA[4]", "-3g5yACwYnA"), ("alone", None)]
)
def test_the_group_is_the_video(tmp_path: Path, ids: str, group: str | None) -> None:
    def name(content: Any) -> None:
        content["train"]["id"][0] = ids

    found = mosei_at(mosei.write_pickle(tmp_path / "a.pkl", change=name), tmp_path / "features").find()
    assert found.clips[0].group == group


def test_ids_of_the_sdks_own_loader_are_video_start_and_end(tmp_path: Path) -> None:
    def name(content: Any) -> None:
        for part in content.values():
            part["id"] = np.array(
                [[clip.split("$_$")[0].encode(), i, i + 1.5] for i, clip in enumerate(part["id"])], "O"
            )
            part["labels"] = part.pop("regression_labels").reshape(-1, 1, 1)

    found = mosei_at(mosei.write_pickle(tmp_path / "a.pkl", change=name), tmp_path / "features").find()
    assert (found.clips[5].id, found.clips[5].group) == ("train-video01$_$5$_$6.5", "train-video01")


def test_features_can_be_one_vector_per_clip(tmp_path: Path) -> None:
    def pool(content: Any) -> None:
        for part in content.values():
            part["text"] = part["text"].mean(axis=1)

    corpus = mosei_at(mosei.write_pickle(tmp_path / "a.pkl", change=pool), tmp_path / "features")
    assert corpus.preset.parts["text"] == FeaturePreset("vector", (6,))
    store = prepare(corpus, tmp_path / "out", workers=1)
    assert store.gather("text", np.arange(2)).shape == (2, 6)


# --- unpacking -------------------------------------------------------------------------------------------------------


def test_a_pickle_is_unpacked_once_and_again_when_it_changes(tmp_path: Path) -> None:
    path, folder = mosei.write_pickle(tmp_path / "a.pkl"), tmp_path / "features"
    assert unpack(path, folder) == folder / "arrays"
    first = {file.name: file.stat().st_ino for file in folder.rglob("*.npy")}
    unpack(path, folder)
    assert {file.name: file.stat().st_ino for file in folder.rglob("*.npy")} == first
    mosei.write_pickle(path, change=lambda content: content["train"]["audio"].fill(5.0))
    assert np.nanmax(np.load(unpack(path, folder) / "train" / "audio.npy")) == 5.0
    assert sorted(each.name for each in folder.iterdir()) == [".lock", "arrays"]


def test_an_interrupted_unpacking_restarts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, folder = mosei.write_pickle(tmp_path / "a.pkl"), tmp_path / "features"
    real, written = np.save, []

    def interrupted(*given: Any, **others: Any) -> None:
        written.append(given)
        if len(written) == 4:
            raise KeyboardInterrupt
        real(*given, **others)

    monkeypatch.setattr(np, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        unpack(path, folder)
    assert not (folder / "arrays").exists()
    monkeypatch.undo()
    assert len(list(unpack(path, folder).rglob("*.npy"))) == 9


def test_other_files_in_the_folder_are_not_deleted(tmp_path: Path) -> None:
    (tmp_path / "features" / "arrays").mkdir(parents=True)
    (tmp_path / "features" / "arrays" / "thesis.txt").write_text("the only copy")
    with pytest.raises(ManifestError, match=r"Cannot unpack a\.pkl into .*: it holds other files"):
        unpack(mosei.write_pickle(tmp_path / "a.pkl"), tmp_path / "features")
    assert (tmp_path / "features" / "arrays" / "thesis.txt").exists()


def test_a_second_unpacking_at_the_same_time_raises(tmp_path: Path) -> None:
    path = mosei.write_pickle(tmp_path / "a.pkl")
    (tmp_path / "features").mkdir()
    with exclusive_lock(tmp_path / "features" / ".lock"), pytest.raises(StoreError, match="only one process at a time"):
        unpack(path, tmp_path / "features")


def test_a_folder_with_one_pickle_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    mosei.write_pickle(tmp_path / "root" / "aligned_50.pkl", aligned=True)
    assert len(mosei_at(tmp_path / "root", tmp_path / "work" / "features").find().clips) == 112
    mosei.write_pickle(tmp_path / "root" / "unaligned_50.pkl")
    with pytest.raises(ManifestError, match=r"must hold one pickle, but has aligned_50.pkl, unaligned_50.pkl"):
        mosei_at(tmp_path / "root", tmp_path / "features")


def drop(key: str) -> Any:
    return lambda content: content["train"].pop(key)


def put(key: str, value: Any) -> Any:
    return lambda content: content["train"].__setitem__(key, value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("valid"), "must have train, valid and test"),
        (drop("audio"), "train: it must have `audio`, but has none."),
        (drop("text"), "it must have `text`, but has none, and `text_bert` is not a feature"),
        (drop("regression_labels"), "it must have `regression_labels`, but has annotations, audio, audio_lengths"),
        (put("regression_labels", np.zeros((56, 2))), "must be one number per clip, but has shape"),
        (put("regression_labels", ["good"] * 56), "`regression_labels` must be numbers, but is not"),
        (put("regression_labels", np.full(56, 9.0)), "line 2: `label` must be a sentiment from -3 to 3, but is '9.0'"),
        (drop("id"), "`id` must name each of the 56 clips, but does not"),
        (put("id", ["a$_$1"] * 56), "the id 'a$_$1' must occur once, but occurs 56 times"),
        (put("id", ["../a"] * 56), "line 2: `id` must be a name, but is '../a'"),
        (put("vision", np.zeros((55, 6, 3))), "`vision` must have a row for each of 56 clips, but has 55"),
        (put("vision", np.array(["no"] * 56)), "`vision` must be an array of numbers"),
        (put("text_lengths", [1, 2]), "`text_lengths` must be 56 numbers, but is not"),
        (put("text_lengths", "long"), "`text_lengths` must be 56 numbers, but is not"),
        (put("vision", np.ones((56, 6, 5))), "arrays of video must be (T, D) or (D,), with the same D, but there are"),
    ],
)
def test_a_pickle_with_other_content_raises(tmp_path: Path, change: Any, message: str) -> None:
    path = mosei.write_pickle(tmp_path / "a.pkl", change=change)
    with pytest.raises(ManifestError) as raised:
        mosei_at(path, tmp_path / "features").find()
    assert message in str(raised.value)


def test_a_malicious_pickle_runs_no_code_and_leaves_no_files(tmp_path: Path) -> None:
    proof = tmp_path / "it ran"

    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (proof,)

    path = mosei.write_pickle(tmp_path / "a.pkl", change=put("annotations", Evil()))
    with pytest.raises(ManifestError, match="Reading stopped before any of its code ran"):
        mosei_at(path, tmp_path / "features")
    assert not proof.exists()
    assert not (tmp_path / "features" / "arrays").exists()


# --- folders ---------------------------------------------------------------------------------------------------------


def test_a_clip_without_all_its_arrays_is_absent(tmp_path: Path) -> None:
    root = mosei.write_clips(tmp_path)
    gone: Clip = Mosei(source_at(root)).find().clips[3]
    (root / "text" / f"{gone.id}.npy").unlink()
    found = Mosei(source_at(root)).find()
    assert dict(found.absent) == {gone.id: gone.label}
    assert len(found.clips) == 111


def test_arrays_that_do_not_match_the_labels_raise(tmp_path: Path) -> None:
    root = mosei.write_splits(tmp_path / "a")
    np.save(root / "test" / "text.npy", np.zeros((27, 5, 6)))
    with pytest.raises(ManifestError, match=r"test/text.npy must have a row for each of the 28 clips of test"):
        Mosei(source_at(root)).find()
    np.save(root / "test" / "text.npy", np.float32(1))
    with pytest.raises(ManifestError, match=r"must have a row for each of the 28 clips of test .*, but has none"):
        Mosei(source_at(root)).find()
    np.save(root / "test" / "text.npy", np.array([{}] * 28), allow_pickle=True)
    with pytest.raises(ManifestError, match=r"test/text.npy: .*pickled objects, which could run code"):
        Mosei(source_at(root)).find()
    (root / "test" / "text.npy").unlink()
    with pytest.raises(ManifestError, match=r"Cannot find test/text.npy at .*, for 28 clips"):
        Mosei(source_at(root)).find()
    (root / "labels.csv").unlink()
    with pytest.raises(ManifestError, match=r"Cannot find labels.csv .* or a pickle such as unaligned_50.pkl"):
        Mosei(source_at(root)).find()
    root = mosei.write_clips(tmp_path / "b")
    (root / "video").mkdir(exist_ok=True)
    (root / "vision").rename(tmp_path / "elsewhere")
    (root / "video").rmdir()
    with pytest.raises(ManifestError, match=r"Cannot find arrays of video at"):
        Mosei(source_at(root)).find()


def test_every_problem_of_the_labels_is_listed(tmp_path: Path) -> None:
    root = mosei.write_splits(tmp_path)
    (root / "labels.csv").write_text("id,label,split\na,1,train\nb,good,train\nc,0,training\n,1,test\n")
    with pytest.raises(ManifestError) as raised:
        Mosei(source_at(root)).find()
    assert [line.strip() for line in str(raised.value).splitlines()[1:]] == [
        "line 3: `label` must be a sentiment from -3 to 3, but is 'good'",
        "line 4: `split` must be one of train, val, test, but is 'training'",
        "line 5: `id` must be a name, but is ''",
    ]
    (root / "labels.csv").write_text("id,split\na,train\n")
    with pytest.raises(ManifestError, match="column `label` is missing"):
        Mosei(source_at(root)).find()
    (root / "labels.csv").write_text("id,label,split\n")
    with pytest.raises(ManifestError, match="it has no clips"):
        Mosei(source_at(root)).find()
