"""UCF-101: lists, groups, absent videos and layouts of precomputed flow, on a miniature with real AVI files"""

import collections
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from remix_study.datasets.corpus import prepare
from remix_study.datasets.ucf101 import Ucf101
from remix_study.errors import ConfigError, ManifestError
from remix_study.media.source import source_at
from tests.miniature import ucf101

pytestmark = pytest.mark.slow  # computes optical flow


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ucf101.write(tmp_path_factory.mktemp("ucf101"))


def corpus(root: Path, flow: Literal["computed", "given"] = "computed", seed: int = 0) -> Ucf101:
    return Ucf101(source_at(root), flow=flow, frames=2, side=16, seed=seed)


def listed(root: Path, name: str, *lines: str) -> Path:
    """Copy the lists of the miniature, and replace the lines of one of them."""
    folder = root / "lists"
    folder.mkdir()
    for file in (root / "ucfTrainTestlist").iterdir():
        (folder / file.name).write_text(file.read_text())
    (folder / name).write_text("\n".join(lines))
    return folder


def test_the_test_list_is_kept_and_validation_groups_come_from_training(root: Path) -> None:
    clips = corpus(root).find().clips
    assert len(clips) == 3 * 5 * 2
    for clip in clips:
        number = clip.id.split("_")[-2]
        assert clip.group == f"{clip.label}_{number}"
        assert (clip.split == "test") == (number in ("g01", "g02"))
    counts = collections.Counter((clip.label, clip.split) for clip in clips)
    assert {count for (_, split), count in counts.items() if split == "test"} == {4}
    assert {count for (_, split), count in counts.items() if split == "val"} == {2}  # one group of three
    groups = collections.defaultdict(set)
    for clip in clips:
        groups[clip.group].add(clip.split)
    assert all(len(splits) == 1 for splits in groups.values())


def test_the_class_is_the_folder_not_the_file_name(root: Path) -> None:
    spelt = {clip.id.split("_")[1]: clip.label for clip in corpus(root).find().clips}
    assert spelt == {"Archery": "Archery", "HandStandPushups": "HandstandPushups", "YoYo": "YoYo"}


def test_the_seed_determines_the_validation_groups(root: Path) -> None:
    def validating(seed: int) -> set[str | None]:
        return {clip.group for clip in corpus(root, seed=seed).find().clips if clip.split == "val"}

    assert validating(0) == validating(0)
    assert len({frozenset(validating(seed)) for seed in range(5)}) > 1


def test_missing_videos_are_listed_and_change_no_split(tmp_path: Path, root: Path) -> None:
    gone = ("v_Archery_g08_c01", "v_YoYo_g01_c02")
    found = corpus(ucf101.write(tmp_path / "part", without=gone)).find()
    assert dict(found.absent) == {"v_Archery_g08_c01": "Archery", "v_YoYo_g01_c02": "YoYo"}
    whole = {clip.id: clip.split for clip in corpus(root).find().clips}
    assert {clip.id: clip.split for clip in found.clips} == {id: s for id, s in whole.items() if id not in gone}


def test_lists_of_another_length_than_published_cause_a_warning(root: Path) -> None:
    (warning,) = corpus(root).find().warnings
    assert warning == "the lists of split 1 have 18 + 12 clips, but the published ones have 9537 + 3783"


def test_unlisted_videos_are_excluded_with_a_warning(tmp_path: Path) -> None:
    part = ucf101.write(tmp_path / "part")
    ucf101.write_video(part / "UCF-101" / "v_Other_g01_c01.avi", (1, 1), seed=1)
    found = corpus(part).find()
    assert len(found.clips) == 30
    assert "1 videos are in no list of split 1 and are excluded, such as v_Other_g01_c01" in found.warnings


def test_lists_can_be_in_another_folder(tmp_path: Path) -> None:
    part = ucf101.write(tmp_path / "part")
    (part / "ucfTrainTestlist").rename(tmp_path / "lists")
    with pytest.raises(ManifestError, match=r"Cannot find UCF-101's lists.*UCF101TrainTestSplits"):
        corpus(part).find()
    assert len(Ucf101(source_at(part), lists=tmp_path / "lists").find().clips) == 30


def test_all_problems_of_the_lists_are_listed_at_once(tmp_path: Path) -> None:
    part = ucf101.write(tmp_path / "part")
    lines = (
        "Archery/v_Archery_g08_c01.avi 1",
        "Archery/v_Archery_g08_c01.avi 1",
        "Archery/v_Archery_g09_c01.avi 2",
        "Arching/v_Archery_g09_c02.avi 1",
        "YoYo/yo.avi 3",
        "YoYo/v_YoYo_g01_c01.avi 3",
    )
    lists = listed(part, "trainlist01.txt", *lines)
    with pytest.raises(ManifestError) as raised:
        Ucf101(source_at(part), lists=lists).find()
    message = str(raised.value).splitlines()
    assert message[0] == "The lists of UCF-101 have problems:"
    assert [line.strip() for line in message[1:]] == [
        "trainlist01.txt, line 3: Archery must have number 1, but has 2",
        "trainlist01.txt, line 4: it must name a class of classInd.txt, but is 'Arching/v_Archery_g09_c02.avi 1'",
        "trainlist01.txt, line 5: it must look like `Archery/v_Archery_g01_c01.avi 3`, but is 'YoYo/yo.avi 3'",
        "v_Archery_g08_c01 must be listed once, but is listed twice",
        "v_YoYo_g01_c01 must be listed once, but is listed twice",
        "the group YoYo_g01 must be in one list, but v_YoYo_g01_c01 is in the other one",
        "the group YoYo_g01 must be in one list, but v_YoYo_g01_c02 is in the other one",
    ]


def test_a_class_with_a_single_training_group_raises(tmp_path: Path) -> None:
    part = ucf101.write(tmp_path / "part")
    lists = listed(part, "trainlist01.txt", "YoYo/v_YoYo_g08_c01.avi 3", "YoYo/v_YoYo_g08_c02.avi 3")
    with pytest.raises(ManifestError, match="The class YoYo must have at least two training groups"):
        Ucf101(source_at(part), lists=lists).find()


def test_invalid_class_numbers_and_missing_videos_raise(tmp_path: Path) -> None:
    part = ucf101.write(tmp_path / "part")
    lists = listed(part, "classInd.txt", "ApplyEyeMakeup")
    with pytest.raises(ManifestError, match=r"classInd.txt must have a number and a class on each line"):
        Ucf101(source_at(part), lists=lists).find()
    (part / "UCF-101").rename(tmp_path / "elsewhere")
    with pytest.raises(ManifestError, match=r"Cannot find videos below .*, such as UCF-101/Archery"):
        corpus(part).find()


@pytest.mark.parametrize("options", [{"split": 4}, {"side": 8}])
def test_invalid_options_raise(root: Path, options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=r"`(split|side)` must be"):
        Ucf101(source_at(root), **options)  # type: ignore[arg-type]  # integers both


@pytest.mark.parametrize("layout", ["uv", "xy", "mixed"])
def test_given_flow_is_found_in_every_layout(tmp_path: Path, layout: Literal["uv", "xy", "mixed"]) -> None:
    part = ucf101.write(tmp_path / "part", flow=layout)
    found = corpus(part, "given").find()
    assert len(found.clips) == 30
    assert all((part / clip.paths["flow"]).is_dir() for clip in found.clips)
    store = prepare(corpus(part, "given"), tmp_path / "out", workers=1)
    rows = store.rows("test")
    flow = store.gather("flow", rows).astype(int)
    for row, label in zip(flow, store.labels_N[rows], strict=True):
        motion = ucf101.MOTION[store.classes[label]]
        assert np.abs(row - [128 + 6 * pixels for pixels in motion]).max() <= 2


def test_a_clip_without_its_flow_is_absent(tmp_path: Path) -> None:
    part = ucf101.write(tmp_path / "part", flow="uv")
    (part / "tvl1_flow" / "v" / "v_Archery_g08_c01").rename(tmp_path / "elsewhere")
    found = corpus(part, "given").find()
    assert dict(found.absent) == {"v_Archery_g08_c01": "Archery"}


def test_missing_given_flow_raises(root: Path) -> None:
    with pytest.raises(ManifestError, match=r"Cannot find flow images below .*, such as u/v_Archery"):
        corpus(root, "given").find()


def test_flow_in_a_store_distinguishes_the_classes_by_motion(tmp_path: Path, root: Path) -> None:
    store = prepare(corpus(root), tmp_path / "out", workers=1)
    assert store.modalities == ("video", "flow")
    assert store.gather("video", store.rows("train")).shape == (12, 2, 16, 16, 3)
    flow = store.gather("flow", np.arange(30)).astype(float)
    medians = np.median(flow, axis=(1, 2, 3)) - 128
    for label, name in enumerate(store.classes):
        right, down = ucf101.MOTION[name]
        mean = medians[store.labels_N == label].mean(axis=0)
        # At the stored size, 16 of 64 pixels across and 16 of 48 down; 127 levels are 20 pixels.
        assert mean == pytest.approx((right / 4 * 6.35, down / 3 * 6.35), abs=1.5)
    assert "DIS medium" in corpus(root).find().facts["flow"]
