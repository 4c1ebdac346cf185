"""UCF-101: clips of 101 human actions, seen as pictures and as optical flow

Soomro, Zamir, Shah (2012), "UCF101: A Dataset of 101 Human Actions Classes From Videos in The Wild", arXiv 1212.0402.
13,320 clips (320 x 240, 25 frames a second, AVI) cut from YouTube; given out for research, without a licence of its
own. Half of the classes have no sound, so that the modalities are `video` and `flow` (media/flow.py).

Layout of the root, or the lists in a folder of their own (`lists`):

    UCF-101/<Class>/v_<Class>_g01_c01.avi     25 groups of 4 to 7 clips in each class
    ucfTrainTestlist/classInd.txt             1 ApplyEyeMakeup
    ucfTrainTestlist/trainlist01.txt          ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1
    ucfTrainTestlist/testlist01.txt           ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi

and, where flow is given, one of the layouts in `_FLOW` below. Videos are found by name anywhere below `UCF-101/`, or
below the root where there is no such folder; another container than AVI is the same clip.

Splits: three published ones of training and test, by group: clips of a group show one person, or one background. They
have no validation part; here it is carved from training, a tenth of each class's groups (at least one) by lot, so that
the test list chooses nothing. The group of a clip is `<Class>_g01`.

Traps: the class `HandstandPushups` spells its files `v_HandStandPushups_...`, so a class is what its folder in the list
says; test lists have no class numbers.
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
"""Split -> clips in its training and its test list"""
_VALIDATION = 0.1
_LINE = re.compile(r"^(?P<folder>[^/\s]+)/(?P<stem>v_[A-Za-z]+_(?P<group>g\d+)_c\d+)\.\w+(?:\s+(?P<number>\d+))?$")
_VIDEOS = (".avi", ".mp4", ".mkv", ".webm", ".mov")
_FLOW = tuple(
    f"{top}{inner}"
    for inner in ("u/{clip}", "{clip}", "{folder}/{clip}")
    for top in ("", "flow/", "tvl1_flow/", "ucf101_tvl1_flow/", "ucf101_tvl1_flow/tvl1_flow/", "rawframes/")
)
"""Where the folder of a clip's flow pictures may lie; of `u/...`, its companion is `v/...`"""


@dataclass(frozen=True)
class Ucf101:
    """UCF-101 below `source`, in one of its three splits.

    Args:
        split: 1, 2 or 3.
        lists: the folder of the published lists, if not in the source.
        flow: `computed` from the videos, or `given` as pictures.
        frames: of each clip, in both modalities; each `side` x `side` pixels.
        seed: of the groups that validate.

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
            raise ConfigError(f"`side` must be at least {SMALLEST}, or flow cannot be computed, but is {self.side}.")

    @property
    def name(self) -> str:
        return "ucf101"

    @property
    def preset(self) -> Preset:
        video = VideoPreset(self.frames, self.side, self.side, "bilinear", normalise="imagenet")
        flow = FlowPreset(self.frames, self.side, self.side, source=self.flow)
        return Preset(f"ucf101-{self.flow}", {VIDEO: video, FLOW: flow})

    def find(self) -> Found:
        """
        Raises:
            ManifestError: lists or videos are not where they must be, or contradict each other.
            StoreError: flow is to be computed, but OpenCV is not installed.
        """
        maker = f"OpenCV {opencv_version()}, DIS medium" if self.flow == "computed" else "given as pictures"
        listed = self._listed()
        videos = self._videos()
        there = [each for each in listed if each.stem in videos]
        flow_of = self._flow_of(there) if self.flow == "given" else {}
        validating = _validating(listed, self.seed)
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
                "licence": "for research; the videos are their authors'",
                "citation": "Soomro, Zamir, Shah (2012). UCF101: A Dataset of 101 Human Actions Classes From Videos in "
                "The Wild. arXiv 1212.0402",
                "split": f"test as published; {len(validating)} groups of the training list, drawn with seed "
                f"{self.seed}, validate",
                "flow": maker,
            },
            warnings=tuple(self._doubts(listed, videos)),
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
                wrong.append(f"{each.stem} must be listed once, but is twice")
            if side.setdefault(each.group, each.test) != each.test:
                wrong.append(f"the group {each.group} must be in one list, but {each.stem} puts it into both")
        if wrong:
            more = f"\n  and {len(wrong) - 10} more" if len(wrong) > 10 else ""
            raise ManifestError("the lists of UCF-101 have problems:\n  " + "\n  ".join(wrong[:10]) + more)
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
            raise ManifestError(
                f"{name} must be a text file of UCF-101's lists, but cannot be read: {error}"
            ) from error
        raise ManifestError(
            f"{self.source.root} must hold UCF-101's lists, such as {places[0]}, but does not. Unpack "
            "UCF101TrainTestSplits-RecognitionTask.zip there, or name its folder with `lists`."
        )

    # --- files ---

    def _videos(self) -> dict[str, str]:
        """Clip -> its video; where a folder of it lies, not the millions of pictures beside."""
        below = "UCF-101" if self.source.exists("UCF-101") else ""
        found = {
            PurePosixPath(path).stem: path
            for path in reversed(self.source.list(below))  # of two, the first
            if path.lower().endswith(_VIDEOS) and PurePosixPath(path).name.startswith("v_")
        }
        if not found:
            raise ManifestError(
                f"{self.source.root} must hold videos such as UCF-101/Archery/v_Archery_g01_c01.avi, but has none. "
                "Unpack UCF101.rar there."
            )
        return found

    def _flow_of(self, listed: list["_Listed"]) -> dict[str, str]:
        """Clip -> its folder of flow pictures, all of them in the layout of the first that has one."""
        for each in listed:
            for layout in _FLOW:
                if self._has_flow(path := layout.format(folder=each.label, clip=each.stem)):
                    places = {e.stem: layout.format(folder=e.label, clip=e.stem) for e in listed}
                    return {stem: place for stem, place in places.items() if place == path or self._has_flow(place)}
        raise ManifestError(
            f"{self.source.root} must hold folders of flow pictures, such as u/v_Archery_g01_c01/frame000001.jpg with "
            "v/v_Archery_g01_c01/frame000001.jpg, or flow/v_Archery_g01_c01/flow_x_00001.jpg with flow_y_00001.jpg, "
            "but has none. Put them there, or let flow be computed."
        )

    def _has_flow(self, place: str) -> bool:
        if not self.source.exists(place):
            return False
        folder, _, clip = place.rpartition("/")
        return PurePosixPath(folder).name != "u" or self.source.exists(str(PurePosixPath(folder).parent / "v" / clip))

    def _doubts(self, listed: list["_Listed"], videos: Mapping[str, str]) -> Iterable[str]:
        tests = sum(each.test for each in listed)
        counts = (len(listed) - tests, tests)
        if counts != PUBLISHED[self.split]:
            now, then = ("{} + {}".format(*each) for each in (counts, PUBLISHED[self.split]))
            yield f"the lists of split {self.split} name {now} clips, but {then} were published"
        unlisted = sorted(videos.keys() - {each.stem for each in listed})
        if unlisted:
            yield f"{len(unlisted)} videos are in no list of split {self.split} and are left out, {unlisted[0]} first"


@dataclass(frozen=True, slots=True)
class _Listed:
    stem: str
    label: str
    group: str
    test: bool


def _numbers(text: str) -> dict[str, int]:
    """classInd.txt: class -> number."""
    rows = [line.split() for line in text.splitlines() if line.strip()]
    if not rows or any(len(row) != 2 or not row[0].isdigit() for row in rows):
        raise ManifestError("classInd.txt must have a number and a class on each line, such as `1 ApplyEyeMakeup`.")
    return {name: int(number) for number, name in rows}


def _entries(name: str, text: str, numbers: Mapping[str, int], wrong: list[str], *, test: bool) -> Iterable[_Listed]:
    for line_number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        entry = _LINE.match(line.strip())
        if entry is None or entry["folder"] not in numbers:
            what = "a class of classInd.txt" if entry else "a line such as `Archery/v_Archery_g01_c01.avi 3`"
            wrong.append(f"{name}, line {line_number}: it must be {what}, but is {line.strip()!r}")
            continue
        label = entry["folder"]
        if entry["number"] is not None and int(entry["number"]) != numbers[label]:
            wrong.append(
                f"{name}, line {line_number}: {label} must have number {numbers[label]}, but has {entry['number']}"
            )
            continue
        yield _Listed(entry["stem"], label, f"{label}_{entry['group']}", test)


def _validating(listed: Iterable[_Listed], seed: int) -> set[str]:
    """Groups of the training list that validate: of each class a tenth, at least one, and not all."""
    groups: dict[str, set[str]] = collections.defaultdict(set)
    for each in listed:
        if not each.test:
            groups[each.label].add(each.group)
    chosen: set[str] = set()
    for label in sorted(groups):
        order = stream(seed, f"ucf101 validation {label}").permutation(sorted(groups[label]))
        if len(order) < 2:
            raise ManifestError(
                f"the class {label} must have at least two groups in training, one of which validates, but has "
                f"{len(order)}. Add its other videos."
            )
        chosen.update(str(group) for group in order[: max(1, round(_VALIDATION * len(order)))])
    return chosen
