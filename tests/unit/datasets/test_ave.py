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
    """The miniature's lists without videos, with further lines."""
    everything = [miniature.video(label, n) for label in range(3) for n in range(5)]
    return miniature.write(folder, without=everything, more=more, header=header)


def said(of: Found, words: str) -> str:
    """The one warning with these words."""
    (warning,) = [each for each in of.warnings if words in each]
    return warning


def test_the_published_counts() -> None:
    assert sum(COUNTS.values()) == 4143
    assert len(set(CATEGORIES)) == 28


def test_the_published_split_is_used_as_it_is(root: Path, tmp_path: Path) -> None:
    corpus = Ave(source_at(root), preset=TINY)
    of = corpus.find()
    assert of.facts["split"] == "as published: 9 train, 3 val, 3 test"
    assert {clip.label for clip in of.clips} == set(miniature.CATEGORIES)
    clip = next(clip for clip in of.clips if clip.id == miniature.video(1, 3))
    assert (clip.label, clip.split, clip.group) == ("Church bell", "val", clip.id)
    assert dict(clip.truth) == {"quality": "good", "event_start": 3, "event_end": 10}
    assert clip.paths["audio"] == clip.paths["video"] == f"AVE/{clip.id}.mp4"
    assert len(prepare(corpus, tmp_path, decoder="pyav", workers=1)) == 15


def test_lists_with_and_without_a_header_are_alike(root: Path, tmp_path: Path) -> None:
    assert found(root, relisted(tmp_path, header=True)) == found(root)


def test_other_lists_than_the_published_ones_are_named(root: Path) -> None:
    assert said(found(root), "published ones") == (
        "the lists are not AVE's published ones, in lines: train 9 of 3339, val 3 of 402, test 3 of 402."
    )


def test_videos_that_are_not_there_are_counted_by_class(tmp_path: Path) -> None:
    gone = [miniature.video(0, 1), miniature.video(2, 4)]
    of = found(miniature.write(tmp_path, without=gone))
    assert of.absent == {gone[0]: "Bark", gone[1]: "Frying (food)"}
    assert said(of, "listed clips") == (
        "2 of 15 listed clips are not there or not whole, by class: Bark 1 of 5, Frying (food) 1 of 5."
    )
    assert (
        said(of, "the split test") == "the split test has no clip of Frying (food): its accuracy says nothing of them."
    )


def test_further_events_of_a_video_are_clips_of_their_own(root: Path, tmp_path: Path) -> None:
    video = miniature.video(0, 0)
    of = found(root, relisted(tmp_path, ("train", f"Church bell&{video}&good&1&2")))
    first, second = (clip for clip in of.clips if clip.id.startswith(video))
    assert (first.id, first.label, second.id, second.label) == (video, "Bark", f"{video}.2", "Church bell")
    assert first.paths == second.paths
    assert first.group == second.group == video


def test_a_video_in_two_published_splits_has_no_group_and_is_counted(root: Path, tmp_path: Path) -> None:
    video = miniature.video(0, 0)
    of = found(root, relisted(tmp_path, ("test", f"Bark&{video}&good&1&2")))
    assert [(clip.split, clip.group) for clip in of.clips if clip.id.startswith(video)] == [
        ("train", None),
        ("test", None),
    ]
    assert said(of, "more than one split") == (f"videos with events in more than one split, as published (1): {video}.")


def test_events_of_no_second_and_unknown_categories_are_named(root: Path, tmp_path: Path) -> None:
    video = miniature.video(0, 0)
    of = found(root, relisted(tmp_path, ("train", f"Barking&{video}&good&0&0")))
    assert said(of, "no second") == f"listed events that last no second, kept (1): {video}.2."
    assert said(of, "none of AVE's 28") == "categories of the lists that are none of AVE's 28 (1): Barking."


def test_two_files_of_a_video_are_one_clip(root: Path, tmp_path: Path) -> None:
    copy = miniature.write(tmp_path / "root")
    (copy / "again").mkdir()
    (copy / "again" / f"{miniature.video(0, 0)}.mp4").write_bytes(b"another")
    of = found(copy)
    assert of.clips == found(root).clips
    assert said(of, "not used") == f"files with the name of another, not used (1): again/{miniature.video(0, 0)}.mp4."


@pytest.mark.parametrize("line", ["Bark&video", "Bark&video&good&one&2", "&video&good&1&2", "Bark&&good&1&2", "Bark"])
def test_a_line_that_is_no_event_is_refused_with_its_number(root: Path, tmp_path: Path, line: str) -> None:
    with pytest.raises(ManifestError, match=r"valSet\.txt has 1 problem:\n  line 4: it must be such as Church bell&"):
        found(root, relisted(tmp_path, ("val", line)))


def test_a_list_that_is_not_there_is_named_with_where_it_comes_from(tmp_path: Path) -> None:
    relisted(tmp_path)
    (tmp_path / "valSet.txt").unlink()
    with pytest.raises(ManifestError, match=r"but valSet\.txt is not below .*`--lists`"):
        found(tmp_path)


def test_lists_without_any_video_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ManifestError, match=r"the videos of AVE must lie below .*, as AVE/-0ave_id0000\.mp4, but none does"
    ):
        found(relisted(tmp_path))
