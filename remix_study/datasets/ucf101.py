"""UCF-101: clips of 101 human actions, as video and optical flow

Soomro, Zamir, Shah (2012), "UCF101: A Dataset of 101 Human Actions Classes From Videos in The Wild", arXiv 1212.0402.
13,320 clips (320 x 240, 25 frames per second, AVI) cut from YouTube; distributed for research, without a licence. Half
of the classes have no audio, so that the modalities are `video` and `flow` (media/flow.py).

Layout of the root (the lists may be in a separate folder, `lists`):

    UCF-101/<Class>/v_<Class>_g01_c01.avi     25 groups of 4 to 7 clips in each class
    ucfTrainTestlist/classInd.txt             1 ApplyEyeMakeup
    ucfTrainTestlist/trainlist01.txt          ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1
    ucfTrainTestlist/testlist01.txt           ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi

and, for given flow, one of the layouts in `_FLOW` below. Videos are found by name anywhere below `UCF-101/`, or below
the root if there is no such folder. Other containers than AVI are accepted.

Splits: three published splits into training and test, by group; the clips of a group show the same person or
background. There is no published validation split. This module draws a tenth of each class's training groups (at least
one) at random for validation, so that the test list is used only for testing. The group of a clip is `<Class>_g01`.

Pitfalls: the files of class `HandstandPushups` are named `v_HandStandPushups_...`, so the class is taken from the
folder in the list. Test lists have no class numbers.
"""

import collections
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from remix_study.datasets.corpus import Found
from remix_study.errors import ConfigError, ManifestError
from remix_study.media.flow import SMALLEST, opencv_version
from remix_study.media.presets import FlowPreset, Preset, VideoPreset
from remix_study.media.source import Source
from remix_study.modality import FLOW, VIDEO
from remix_study.sample import Clip, SampleId
from remix_study.seeds import stream

PUBLISHED = {1: (9537, 3783), 2: (9586, 3734), 3: (9624, 3696)}
"""Number of clips in the training and test list of each split"""
_VALIDATION = 0.1
_LINE = re.compile(r"^(?P<folder>[^/\s]+)/(?P<stem>v_[A-Za-z]+_(?P<group>g\d+)_c\d+)\.\w+(?:\s+(?P<number>\d+))?$")
_VIDEOS = (".avi", ".mp4", ".mkv", ".webm", ".mov")
_FLOW = tuple(
    f"{top}{inner}"
    for inner in ("u/{clip}", "{clip}", "{folder}/{clip}")
    for top in ("", "flow/", "tvl1_flow/", "ucf101_tvl1_flow/", "ucf101_tvl1_flow/tvl1_flow/", "rawframes/")
)
"""Possible places of the folder of a clip's flow images; the vertical motion of `u/...` is in `v/...`"""


@dataclass(frozen=True)
class Ucf101:
    """UCF-101 below a source, in one of its three splits.

    Args:
        source: the corpus's files.
        split: 1, 2 or 3.
        lists: the folder of the published lists, if they are not in the source.
        flow: `computed` from the videos, or `given` as images.
        frames: frames of each clip, in both modalities.
        side: height and width of a frame in pixels, at least 16.
        seed: seed of the random choice of validation groups.

    Raises:
        ConfigError: there is no such split, or `side` is too small for flow.
    """

    source: Source
    split: int = 1
    lists: Path | None = None
    flow: Literal["computed", "given"] = "computed"
    frames: int = 3
    side: int = 224
    seed: int = 0

    def __post_init__(self) -> None:
        if self.split not in PUBLISHED:
            raise ConfigError(f"`split` must be one of {', '.join(map(str, PUBLISHED))}, but is {self.split}.")
        if self.side < SMALLEST:
            raise ConfigError(f"`side` must be at least {SMALLEST} to compute flow, but is {self.side}.")

    @property
    def name(self) -> str:
        return "ucf101"

    @property
    def preset(self) -> Preset:
        video = VideoPreset(self.frames, self.side, self.side, "bilinear", normalise="imagenet")
        flow = FlowPreset(self.frames, self.side, self.side, source=self.flow)
        return Preset(f"ucf101-{self.flow}", {VIDEO: video, FLOW: flow})

    def find(self) -> Found:
        """Find the listed clips whose files exist, in the order of the lists.

        Raises:
            ManifestError: lists or videos are missing, or the lists have problems.
            StoreError: flow is to be computed, but OpenCV is not installed.
        """
        maker = f"OpenCV {opencv_version()}, DIS medium" if self.flow == "computed" else "given as images"
        listed = self._listed()
        videos = self._videos()
        present = [each for each in listed if each.stem in videos]
        flow_of = self._flow_of(present) if self.flow == "given" else {}
        validating = _validation_groups(listed, self.seed)
        clips, absent = [], {}
        for each in listed:
            video = videos.get(each.stem)
            flow = flow_of.get(each.stem) if self.flow == "given" else video
            if video is None or flow is None:
                absent[each.stem] = each.label
                continue
            split = "test" if each.test else "val" if each.group in validating else "train"
            paths = {VIDEO: video, FLOW: flow}
            clips.append(Clip(SampleId(each.stem), paths, each.label, split, group=each.group))
        return Found(
            tuple(clips),
            facts={
                "corpus": f"UCF-101, published split {self.split}",
                "licence": "for research; the videos belong to their authors",
                "citation": "Soomro, Zamir, Shah (2012). UCF101: A Dataset of 101 Human Actions Classes From Videos in "
                "The Wild. arXiv 1212.0402",
                "split": f"test as published; {len(validating)} groups of the training list, drawn with seed "
                f"{self.seed}, for validation",
                "flow": maker,
            },
            warnings=tuple(self._warnings(listed, videos)),
            absent=absent,
        )

    # --- lists ---

    def _listed(self) -> list["_Listed"]:
        names = [f"{part}list{self.split:02d}.txt" for part in ("train", "test")]
        numbers = _numbers(self._text("classInd.txt"))
        wrong: list[str] = []
        listed = [
            each
            for name, test in zip(names, (False, True), strict=True)
            for each in _entries(name, self._text(name), numbers, wrong, test=test)
        ]
        seen: dict[str, _Listed] = {}
        side: dict[str, bool] = {}
        for each in listed:
            if seen.setdefault(each.stem, each) is not each:
                wrong.append(f"{each.stem} must be listed once, but is listed twice")
            if side.setdefault(each.group, each.test) != each.test:
                wrong.append(f"the group {each.group} must be in one list, but {each.stem} is in the other one")
        if wrong:
            more = f"\n  and {len(wrong) - 10} more" if len(wrong) > 10 else ""
            raise ManifestError("The lists of UCF-101 have problems:\n  " + "\n  ".join(wrong[:10]) + more)
        return listed

    def _text(self, name: str) -> str:
        places = [f"ucfTrainTestlist/{name}", name, f"UCF-101/{name}"]
        try:
            if self.lists is not None:
                return (self.lists / name).read_text(encoding="utf-8-sig")
            for place in places:
                if self.source.exists(place):
                    return self.source.read(place).decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise ManifestError(f"Cannot read UCF-101's list {name}: {error}.") from error
        raise ManifestError(
            f"Cannot find UCF-101's lists below {self.source.root}, such as {places[0]}. Unpack "
            "UCF101TrainTestSplits-RecognitionTask.zip there, or give their folder with `--lists`."
        )

    # --- files ---

    def _videos(self) -> dict[str, str]:
        """The video of each clip. Only the folder UCF-101 is listed, if it exists, to skip millions of flow images."""
        below = "UCF-101" if self.source.exists("UCF-101") else ""
        found = {
            PurePosixPath(path).stem: path
            for path in reversed(self.source.list(below))  # so that the first of two files with one name is kept
            if path.lower().endswith(_VIDEOS) and PurePosixPath(path).name.startswith("v_")
        }
        if not found:
            raise ManifestError(
                f"Cannot find videos below {self.source.root}, such as UCF-101/Archery/v_Archery_g01_c01.avi. Unpack "
                "UCF101.rar there."
            )
        return found

    def _flow_of(self, listed: list["_Listed"]) -> dict[str, str]:
        """The folder of each clip's flow images, all in the layout of the first clip that has one."""
        for each in listed:
            for layout in _FLOW:
                if self._has_flow(path := layout.format(folder=each.label, clip=each.stem)):
                    places = {e.stem: layout.format(folder=e.label, clip=e.stem) for e in listed}
                    return {stem: place for stem, place in places.items() if place == path or self._has_flow(place)}
        raise ManifestError(
            f"Cannot find flow images below {self.source.root}, such as u/v_Archery_g01_c01/frame000001.jpg with "
            "v/v_Archery_g01_c01/frame000001.jpg, or flow/v_Archery_g01_c01/flow_x_00001.jpg with flow_y_00001.jpg. "
            "Put them there, or compute the flow (`--flow computed`)."
        )

    def _has_flow(self, place: str) -> bool:
        if not self.source.exists(place):
            return False
        folder, _, clip = place.rpartition("/")
        return PurePosixPath(folder).name != "u" or self.source.exists(str(PurePosixPath(folder).parent / "v" / clip))

    def _warnings(self, listed: list["_Listed"], videos: Mapping[str, str]) -> Iterable[str]:
        tests = sum(each.test for each in listed)
        counts = (len(listed) - tests, tests)
        if counts != PUBLISHED[self.split]:
            found, published = ("{} + {}".format(*each) for each in (counts, PUBLISHED[self.split]))
            yield f"the lists of split {self.split} have {found} clips, but the published ones have {published}"
        unlisted = sorted(videos.keys() - {each.stem for each in listed})
        if unlisted:
            yield f"{len(unlisted)} videos are in no list of split {self.split} and are excluded, such as {unlisted[0]}"


@dataclass(frozen=True, slots=True)
class _Listed:
    stem: str
    label: str
    group: str
    test: bool


def _numbers(text: str) -> dict[str, int]:
    """The number of each class, from classInd.txt."""
    rows = [line.split() for line in text.splitlines() if line.strip()]
    if not rows or any(len(row) != 2 or not row[0].isdecimal() for row in rows):
        raise ManifestError("classInd.txt must have a number and a class on each line, such as `1 ApplyEyeMakeup`.")
    return {name: int(number) for number, name in rows}


def _entries(name: str, text: str, numbers: Mapping[str, int], wrong: list[str], *, test: bool) -> Iterable[_Listed]:
    for line_number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        entry = _LINE.match(line.strip())
        if entry is None or entry["folder"] not in numbers:
            what = "name a class of classInd.txt" if entry else "look like `Archery/v_Archery_g01_c01.avi 3`"
            wrong.append(f"{name}, line {line_number}: it must {what}, but is {line.strip()!r}")
            continue
        label = entry["folder"]
        if entry["number"] is not None and int(entry["number"]) != numbers[label]:
            wrong.append(
                f"{name}, line {line_number}: {label} must have number {numbers[label]}, but has {entry['number']}"
            )
            continue
        yield _Listed(entry["stem"], label, f"{label}_{entry['group']}", test)


def _validation_groups(listed: Iterable[_Listed], seed: int) -> set[str]:
    """Draw the groups of the training list for validation: a tenth of each class, at least one."""
    groups: dict[str, set[str]] = collections.defaultdict(set)
    for each in listed:
        if not each.test:
            groups[each.label].add(each.group)
    chosen: set[str] = set()
    for label in sorted(groups):
        order = stream(seed, f"ucf101 validation {label}").permutation(sorted(groups[label]))
        if len(order) < 2:
            raise ManifestError(
                f"The class {label} must have at least two training groups, of which one is for validation, but has "
                f"{len(order)}. Add the missing videos."
            )
        chosen.update(str(group) for group in order[: max(1, round(_VALIDATION * len(order)))])
    return chosen
