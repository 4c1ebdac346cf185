from pathlib import Path

import pytest

from remix_study.datasets.ave import CATEGORIES, COUNTS, Ave
from remix_study.datasets.corpus import Found, prepare
from remix_study.errors import ManifestError
from remix_study.media.presets import PRESETS
from remix_study.media.source import source_at
from tests.miniature import ave as miniature

TINY = PRESETS["tiny"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return miniature.write(tmp_path_factory.mktemp("ave"))


def found(root: Path, lists: Path | None = None) -> Found:
    return Ave(source_at(root), lists=lists, preset=TINY).find()


def relisted(folder: Path, *more: tuple[str, str], header: bool = False) -> Path:
    """Write a folder with the lists of the miniature plus further lines."""
    everything = [miniature.video(label, n) for label in range(3) for n in range(5)]
    return miniature.write(folder, without=everything, more=more, header=header)


def warning_with(of: Found, words: str) -> str:
    """Return the only warning that contains these words."""
    (warning,) = [each for each in of.warnings if words in each]
    return warning


def test_counts_match_the_publication() -> None:
    assert sum(COUNTS.values()) == 4143
    assert len(set(CATEGORIES)) == 28


def test_the_published_split_is_used_unchanged(root: Path, tmp_path: Path) -> None:
    corpus = Ave(source_at(root), preset=TINY)
    of = corpus.find()
    assert of.facts["split"] == "as published: 9 train, 3 val, 3 test"
    assert {clip.label for clip in of.clips} == set(miniature.CATEGORIES)
    clip = next(clip for clip in of.clips if clip.id == miniature.video(1, 3))
    assert (clip.label, clip.split, clip.group) == ("Church bell", "val", clip.id)
    assert dict(clip.truth) == {"quality": "good", "event_start": 3, "event_end": 10}
    assert clip.paths["audio"] == clip.paths["video"] == f"AVE/{clip.id}.mp4"
    assert len(prepare(corpus, tmp_path, decoder="pyav", workers=1)) == 15


def test_lists_with_and_without_a_header_are_equivalent(root: Path, tmp_path: Path) -> None:
    assert found(root, relisted(tmp_path, header=True)) == found(root)


def test_lists_of_another_length_than_published_cause_a_warning(root: Path) -> None:
    assert warning_with(found(root), "published ones") == (
        "the lists differ from AVE's published ones in their number of lines: train 9 of 3339, val 3 of 402, "
        "test 3 of 402."
    )


def test_missing_videos_are_counted_by_class(tmp_path: Path) -> None:
    gone = [miniature.video(0, 1), miniature.video(2, 4)]
    of = found(miniature.write(tmp_path, without=gone))
    assert of.absent == {gone[0]: "Bark", gone[1]: "Frying (food)"}
    assert warning_with(of, "listed clips") == (
        "2 of 15 listed clips are missing or incomplete, by class: Bark 1 of 5, Frying (food) 1 of 5."
    )
    assert (
        warning_with(of, "the split test")
        == "the split test has no clips of Frying (food), so its accuracy excludes them."
    )


def test_further_events_of_a_video_are_separate_clips(root: Path, tmp_path: Path) -> None:
    video = miniature.video(0, 0)
    of = found(root, relisted(tmp_path, ("train", f"Church bell&{video}&good&1&2")))
    first, second = (clip for clip in of.clips if clip.id.startswith(video))
    assert (first.id, first.label, second.id, second.label) == (video, "Bark", f"{video}.2", "Church bell")
    assert first.paths == second.paths
    assert first.group == second.group == video


def test_a_video_in_two_published_splits_has_no_group_and_causes_a_warning(root: Path, tmp_path: Path) -> None:
    video = miniature.video(0, 0)
    of = found(root, relisted(tmp_path, ("test", f"Bark&{video}&good&1&2")))
    assert [(clip.split, clip.group) for clip in of.clips if clip.id.startswith(video)] == [
        ("train", None),
        ("test", None),
    ]
    assert of.shared == {clip.id for clip in of.clips if clip.id.startswith(video)}
    assert warning_with(of, "more than one split") == (
        f"videos with events in more than one split, as published (1): {video}."
    )


def test_events_without_duration_and_unknown_categories_cause_warnings(root: Path, tmp_path: Path) -> None:
    video = miniature.video(0, 0)
    of = found(root, relisted(tmp_path, ("train", f"Barking&{video}&good&0&0")))
    assert warning_with(of, "duration of 0 s") == f"listed events with a duration of 0 s, kept (1): {video}.2."
    assert warning_with(of, "AVE's 28") == "categories in the lists that are not among AVE's 28 (1): Barking."


def test_two_files_of_a_video_are_one_clip(root: Path, tmp_path: Path) -> None:
    copy = miniature.write(tmp_path / "root")
    (copy / "again").mkdir()
    (copy / "again" / f"{miniature.video(0, 0)}.mp4").write_bytes(b"another")
    of = found(copy)
    assert of.clips == found(root).clips
    name = f"again/{miniature.video(0, 0)}.mp4"
    assert warning_with(of, "ignored") == f"files that have the name of another file, ignored (1): {name}."


@pytest.mark.parametrize("line", ["Bark&video", "Bark&video&good&one&2", "&video&good&1&2", "Bark&&good&1&2", "Bark"])
def test_an_invalid_line_raises_with_its_number(root: Path, tmp_path: Path, line: str) -> None:
    with pytest.raises(ManifestError, match=r"valSet\.txt has 1 problem:\n  line 4: it must look like Church bell&"):
        found(root, relisted(tmp_path, ("val", line)))


def test_a_missing_list_raises_with_its_origin(tmp_path: Path) -> None:
    relisted(tmp_path)
    (tmp_path / "valSet.txt").unlink()
    with pytest.raises(ManifestError, match=r"Cannot find valSet\.txt below .*`--lists`"):
        found(tmp_path)


def test_lists_without_any_video_raise(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"Cannot find the videos of AVE below .*, such as AVE/-0ave_id0000\.mp4"):
        found(relisted(tmp_path))
