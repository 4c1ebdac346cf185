from pathlib import Path
from typing import Any

import pytest

from remix_study.datasets.corpus import Found, prepare
from remix_study.datasets.kinetics_sounds import CLASSES, RENAMED, UNRELEASED, KineticsSounds
from remix_study.errors import ConfigError, ManifestError
from remix_study.media.presets import PRESETS, preset_named
from remix_study.media.source import LocalSource, source_at
from tests.miniature import kinetics_sounds as miniature

TINY = PRESETS["tiny"]


class Named(LocalSource):
    """A source that only lists names: finding clips must not open media."""

    def __init__(self, root: Path, names: list[str]) -> None:
        super().__init__(root)
        self._names = names

    def list(self, below: str = "") -> list[str]:
        return sorted([*self._names, *super().list(below)])


def found(root: Path, names: list[str], **options: Any) -> Found:
    root.mkdir(exist_ok=True)
    return KineticsSounds(Named(root, names), preset=TINY, **options).find()


def clips(each: int) -> list[str]:
    return [miniature.clip(label, number) for label in miniature.LABELS for number in range(each)]


def warning_with(of: Found, words: str) -> str:
    """Return the only warning that contains these words."""
    (warning,) = [each for each in of.warnings if words in each]
    return warning


def splits(of: Found) -> dict[str, str]:
    return {clip.id: clip.split for clip in of.clips}


# --- classes ---------------------------------------------------------------------------------------------------------


def test_published_numbers_are_alphabetical() -> None:
    assert len(CLASSES) == 31
    assert list(CLASSES) == sorted(CLASSES)
    underscored = [label.replace(" ", "_") for label in CLASSES]
    assert underscored == sorted(underscored)  # as published code spells and sorts them
    assert all(CLASSES[number] == label for label, number in miniature.LABELS.items())


def test_the_31_classes_are_those_of_the_34_that_were_released() -> None:
    assert len(CLASSES) + len(UNRELEASED) == 34
    assert set(RENAMED.values()) <= set(CLASSES)
    assert not set(UNRELEASED) & set(CLASSES)


def test_classes_that_kinetics_no_longer_has_are_reported(tmp_path: Path) -> None:
    names = [f"{label}/-vid_{10 * n + i:06d}.mp4" for n, label in enumerate(CLASSES) for i in range(3)]
    of = found(tmp_path, names, classes=34)
    assert warning_with(of, "without clips") == "classes without clips, of 34 (3): fingerpicking, patting, typing."
    assert {clip.label for clip in of.clips} == set(CLASSES)
    assert of.facts["corpus"] == "Kinetics-Sounds, 31 classes"


def test_a_file_can_name_classes_in_either_spelling(tmp_path: Path) -> None:
    chosen = tmp_path / "classes.txt"
    chosen.write_text("\ufeffPlaying_Bass_Guitar\r\n\r\n stomping \r\n", encoding="utf-8")
    names = [f"{folder}/-vid_{10 * n + i:06d}.mp4" for n, folder in enumerate(
        ("playing_bass_guitar", "stomping grapes", "bowling")) for i in range(3)]  # fmt: skip
    of = found(tmp_path / "root", names, classes=chosen)
    assert {clip.label for clip in of.clips} == {"playing bass guitar", "stomping grapes"}


def test_invalid_classes_and_presets_raise(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="`classes` must be 31, 34 or a file"):
        KineticsSounds(source_at(tmp_path), classes=32)
    with pytest.raises(ManifestError, match=r"`classes` must be 31, 34 or a text file, but .*none\.txt cannot be read"):
        found(tmp_path, [], classes=tmp_path / "none.txt")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(ManifestError, match="must name one class per line, but is empty"):
        found(tmp_path, [], classes=tmp_path / "empty.txt")


# --- folders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelt", ["{label}", "{underscored}"])
def test_class_folders_define_the_class_and_videos_the_group(tmp_path: Path, spelt: str) -> None:
    root = miniature.write(tmp_path / "root", each=3, spelt=spelt)
    corpus = KineticsSounds(source_at(root), preset=TINY)
    of = corpus.find()
    assert {clip.label for clip in of.clips} == set(miniature.LABELS)
    assert of.clips[0].group == of.clips[0].id[:11]
    assert of.facts["split"] == "drawn by video (seed 0): 3 train, 3 val, 3 test"
    assert len(prepare(corpus, tmp_path / "out", decoder="pyav", workers=1)) == 9


def test_clips_of_one_video_are_in_the_same_split(tmp_path: Path) -> None:
    names = [f"{label}/-{n}_vid{i:05d}_{second:06d}_{second + 10:06d}.mp4"
             for n, label in enumerate(CLASSES[:3]) for i in range(8) for second in (0, 30)]  # fmt: skip
    of = found(tmp_path, names)
    assert len({(clip.group, clip.split) for clip in of.clips}) == len({clip.group for clip in of.clips}) == 24


def test_folders_of_all_three_splits_are_used_as_splits(tmp_path: Path) -> None:
    names = [f"{folder}/{label}/{miniature.clip(label, n)}.mp4" for label in miniature.LABELS
             for n, folder in enumerate(("train", "train", "validate", "test"))]  # fmt: skip
    of = found(tmp_path, names)
    assert of.facts["split"] == "as the folders say: 6 train, 3 val, 3 test"


@pytest.mark.parametrize("other", ["val", "test"])
def test_a_single_val_or_test_folder_is_the_test_split(tmp_path: Path, other: str) -> None:
    names = [f"{'train' if n < 10 else other}/{label}/{miniature.clip(label, n)}.mp4"
             for label in miniature.LABELS for n in range(12)]  # fmt: skip
    of = found(tmp_path, names)
    assert of.facts["split"] == (
        f"test is the folder {other}, validation a tenth of the training videos (seed 0): 27 train, 3 val, 6 test"
    )
    assert {clip.id for clip in of.clips if clip.split == "test"} == {
        each for each in clips(12) if int(each[7:11]) >= 10
    }


def test_a_video_in_two_folders_stays_in_test(tmp_path: Path) -> None:
    names = [f"{folder}/{label}/{miniature.clip(label, n)}.mp4" for label in miniature.LABELS
             for n, folder in enumerate(("train", "train", "val", "test"))]  # fmt: skip
    twice = miniature.clip("bowling", 3)
    of = found(tmp_path, [*names, f"train/bowling/{twice[:11]}_000050_000060.mp4", f"train/bowling/{twice}.mp4"])
    assert splits(of)[twice] == "test"
    assert f"{twice[:11]}_000050_000060" not in splits(of)
    assert warning_with(of, "another split").endswith(f"in another split, excluded (1): {twice[:11]}_000050_000060.")


def test_folders_of_other_classes_are_ignored_and_invalid_names_reported(tmp_path: Path) -> None:
    names = [f"bowling/{miniature.clip('bowling', n)}.mp4" for n in range(3)]
    of = found(tmp_path, [*names, f"yoga/{miniature.clip('tickling', 1)}.mp4", "bowling/mine.mp4", "bowling/notes.txt"])
    assert len(of.clips) == 3
    assert (
        warning_with(of, "Kinetics")
        == "files whose names are not those of Kinetics clips, excluded (1): bowling/mine.mp4."
    )


def test_a_clip_in_folders_of_two_classes_raises(tmp_path: Path) -> None:
    clip = miniature.clip("bowling", 1)
    with pytest.raises(ManifestError, match="must be in the folder of one class, but is also bowling/"):
        found(tmp_path, [f"bowling/{clip}.mp4", f"tickling/{clip}.mp4"])


def test_a_second_file_of_the_same_clip_is_ignored(tmp_path: Path) -> None:
    names = [f"bowling/{miniature.clip('bowling', n)}.{suffix}" for n in range(3) for suffix in ("mp4", "webm")]
    of = found(tmp_path, names)
    assert len(of.clips) == 3
    assert warning_with(of, "ignored").startswith("files that have the name of another file, ignored (3): ")


def test_files_in_neither_layout_raise_with_both_layouts(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"Expected train/<class>/<clip>\.mp4 .* or published lists"):
        found(tmp_path, ["holiday.mp4"])


# --- lists -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["my_", "ogm_", ""])
def test_listed_clips_are_found_anywhere_by_either_form_of_their_name(tmp_path: Path, prefix: str) -> None:
    names = clips(12)
    test, train = names[::4], [name for name in names if name not in names[::4]]
    lists = miniature.write_lists(tmp_path / "lists", train, test, prefix=prefix)
    # One copy has the training names for all, another has shortened them.
    for files in ([f"deep/down/{name}.mp4" for name in names], [f"{miniature.short(name)}.mp4" for name in names]):
        of = found(tmp_path / "root", files, lists=lists)
        assert {clip.id for clip in of.clips if clip.split == "test"} == {miniature.short(name) for name in test}
        assert {clip.id for clip in of.clips if clip.split != "test"} == set(train)
        assert {clip.label for clip in of.clips} == set(miniature.LABELS)
        assert {clip.split for clip in of.clips} == {"train", "val", "test"}
        assert not of.absent


def test_a_clip_is_not_found_by_its_video_alone(tmp_path: Path) -> None:
    names = clips(12)
    lists = miniature.write_lists(tmp_path / "lists", names[1:], names[:1])
    elsewhere = f"{names[1][:11]}_000200_000210"
    of = found(
        tmp_path / "root", [f"{elsewhere}.mp4", *(f"{name}.mp4" for name in (names[0], *names[2:]))], lists=lists
    )
    assert of.absent == {names[1]: "bowling"}


def test_missing_clips_are_counted_by_class_and_change_no_split(tmp_path: Path) -> None:
    names = clips(20)
    test, train = names[::4], [name for name in names if name not in names[::4]]
    lists = miniature.write_lists(tmp_path / "lists", train, test)
    files = [f"{name}.mp4" for name in names]
    whole, part = (found(tmp_path / "root", there, lists=lists) for there in (files, files[3:]))
    assert splits(part) == {each: split for each, split in splits(whole).items() if each in splits(part)}
    assert set(part.absent.values()) == {"bowling"}
    assert (
        warning_with(part, "listed clips")
        == "3 of 60 listed clips are missing or incomplete, by class: bowling 3 of 20."
    )


def test_a_video_in_both_lists_is_only_tested(tmp_path: Path) -> None:
    names = clips(12)
    again = f"{names[0][:11]}_000070_000080"
    lists = miniature.write_lists(tmp_path / "lists", [*names[1:], again], names[:1])
    of = found(tmp_path / "root", [f"{name}.mp4" for name in (*names, again)], lists=lists)
    assert again not in splits(of)
    assert splits(of)[miniature.short(names[0])] == "test"
    assert warning_with(of, "test list") == (
        f"training clips of videos that are also in the test list, excluded (1): {again}."
    )


def test_without_a_training_video_that_is_not_tested_there_is_an_error(tmp_path: Path) -> None:
    lists = miniature.write_lists(tmp_path / "lists", clips(3), clips(3))
    with pytest.raises(ManifestError, match="the videos of all training clips are also in the test list"):
        found(tmp_path / "root", [], lists=lists)
    names = [f"{folder}/bowling/{miniature.clip('bowling', n)}.mp4" for folder in ("train", "val") for n in range(3)]
    with pytest.raises(ManifestError, match="all videos of the folder train are also in another folder"):
        found(tmp_path / "root", names)


def test_lists_can_be_in_the_root_and_classes_chosen_from_them(tmp_path: Path) -> None:
    names = clips(12)
    miniature.write_lists(tmp_path / "root", names[1:], names[:1])
    (tmp_path / "chosen.txt").write_text("tickling\n")
    of = found(tmp_path / "root", [f"{name}.mp4" for name in names], classes=tmp_path / "chosen.txt")
    assert {clip.label for clip in of.clips} == {"tickling"}
    assert (
        warning_with(of, "the split test") == "the split test has no clips of tickling, so its accuracy excludes them."
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("short,10,3", "line 1: 'short' must be a clip such as"),
        ("-3Mwkq-7TV4_2,10,31", "line 1: the label must be 0 to 30 or one of the classes, but is '31'"),
        ("-3Mwkq-7TV4_2", "line 1: the label must be 0 to 30 or one of the classes, but is ''"),
        ("-3Mwkq-7TV4_2,10,²", "line 1: the label must be 0 to 30"),
        ("-3Mwkq-7TV4_2,10,1\n-3Mwkq-7TV4_2,10,2", "line 2: -3Mwkq-7TV4_2 must have one label, but has 'blowing out"),
        ("", "it has no clips"),
    ],
)
def test_a_list_with_problems_raises_with_their_lines(tmp_path: Path, line: str, message: str) -> None:
    lists = miniature.write_lists(tmp_path / "lists", clips(3), clips(3))
    (lists / "my_train.txt").write_text(line, encoding="utf-8")
    with pytest.raises(ManifestError, match=message):
        found(tmp_path / "root", [], lists=lists)


def test_a_single_list_raises(tmp_path: Path) -> None:
    lists = miniature.write_lists(tmp_path / "lists", clips(3), clips(3))
    (lists / "my_test.txt").unlink()
    with pytest.raises(ManifestError, match="the list for training is there, and the list for test is missing"):
        found(tmp_path / "root", [], lists=lists)


def test_a_single_modality_can_be_kept(tmp_path: Path) -> None:
    names = [f"bowling/{miniature.clip('bowling', n)}.mp4" for n in range(3)]
    corpus = KineticsSounds(Named(tmp_path, names), preset=preset_named("none+tiny"))
    assert {tuple(clip.paths) for clip in corpus.find().clips} == {("video",)}
