"""Kinetics-Sounds: clips of Kinetics with actions that are both visible and audible

Arandjelovic, Zisserman, "Look, Listen and Learn", ICCV 2017, arXiv 1705.08168: 34 of the classes of Kinetics (Kay et
al., 2017, arXiv 1705.06950), about 19,000 clips of 10 s from YouTube. Kinetics' annotations are under CC BY 4.0; the
videos belong to their uploaders.

Classes: the code of OGM-GE and of AdaMML uses 31 classes, numbered alphabetically (`CLASSES`); others use 32 or 33. Of
the paper's 34 classes (its appendix A), four have other names (`RENAMED`), and three, `fingerpicking`, `patting` and
`typing`, are not in the released Kinetics; the others are the 31. The 34 names come from a public program that cites
the appendix, and were not verified with the paper. A text file can name other classes, one per line.

Names: a clip's name is its YouTube video (11 characters) and its position: `--4-0ihtnBU_000058_000068` (start and end
in seconds) or `-3Mwkq-7TV4_2`. We assume that the number of the short form is the start in seconds, which is
undocumented. A listed clip is found by its name, or else by video and second in the other form, but never by the video
alone. The group of a clip is its video.

Layouts:

    lists     `my_train.txt` and `my_test.txt` of OGM-GE (14,799 / 2,597; also `ogm_train.txt`, `train.txt`), with lines
              such as `--4-0ihtnBU_000058_000068,10,4` (clip, seconds, label); files are anywhere below the root
    folders   `train/playing drums/<clip>.mp4` and so on, or `playing_drums/<clip>.mp4`; other folders are ignored, so
              that the root may hold all of Kinetics

Splits: with lists, as published; a tenth of the training videos of each class are used for validation. Folders named
train, val and test are the splits. If only one of val and test exists, it is the test split, and a tenth of the
training videos are used for validation. Without such folders, 70 / 10 / 20 % of the videos are drawn. No video is in
two splits.

Pitfalls: videos vanish from YouTube, so that copies differ. Listed clips without a file are counted by class and
written to absent.csv. Compare results only on the same clips. Published code chooses the epoch on the 2,597 test clips,
and other published lists train on them.
"""

import collections
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar, NamedTuple

from remix_study.datasets.corpus import Found
from remix_study.datasets.manifest import refuse
from remix_study.datasets.published import (
    PublishedList,
    absence,
    find_list,
    listing,
    shown,
    sizes,
    unrepresented,
)
from remix_study.datasets.splits import draw_splits
from remix_study.errors import ConfigError, ManifestError
from remix_study.media.presets import PRESETS, Preset
from remix_study.media.source import Source
from remix_study.modality import AUDIO, VIDEO
from remix_study.sample import Clip, SampleId

CLASSES = (
    "blowing nose", "blowing out candles", "bowling", "chopping wood", "dribbling basketball", "laughing",
    "mowing lawn", "playing accordion", "playing bagpipes", "playing bass guitar", "playing clarinet",
    "playing drums", "playing guitar", "playing harmonica", "playing keyboard", "playing organ", "playing piano",
    "playing saxophone", "playing trombone", "playing trumpet", "playing violin", "playing xylophone",
    "ripping paper", "shoveling snow", "shuffling cards", "singing", "stomping grapes", "tap dancing",
    "tapping guitar", "tapping pen", "tickling",
)  # fmt: skip
"""The 31, in the order of the published label numbers"""
RENAMED: Mapping[str, str] = {
    "blowing out": "blowing out candles",
    "dribbling ball": "dribbling basketball",
    "mowing the lawn by pushing lawnmower": "mowing lawn",
    "stomping": "stomping grapes",
}
"""Names in the released Kinetics, by the paper's names"""
UNRELEASED = ("fingerpicking", "patting", "typing")
"""Classes of the paper that the released Kinetics does not have"""

_CLIP = re.compile(r"^(?P<video>[\w-]{11})(?:_(?P<start>\d+)(?:_\d+)?)?$", re.ASCII)
_VIDEOS = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".flv")
_FOLDERS = {
    "train": "train", "training": "train", "test": "test", "testing": "test",
    **dict.fromkeys(("val", "valid", "validate", "validation"), "val"),
}  # fmt: skip
_TRAIN_LISTS = ("my_train.txt", "ogm_train.txt", "train.txt")
_TEST_LISTS = ("my_test.txt", "ogm_test.txt", "test.txt")
_TRAIN_AND_VAL = {"train": 0.9, "val": 0.1}
_PRECEDENCE = ("test", "val", "train")  # the first split that a video is in keeps the video


class _Listed(NamedTuple):
    label: str
    split: str


@dataclass(frozen=True)
class KineticsSounds:
    """Kinetics-Sounds below a source.

    Args:
        source: the corpus's files.
        classes: 31, 34, or a file with one class per line, with spaces or underscores.
        lists: the folder of the published lists, if they are not in the source.
        preset: what to keep of each clip.
        seed: seed of the random choice of videos.

    Raises:
        ConfigError: `classes` is another number, or the preset has other modalities than audio and video.
    """

    name: ClassVar[str] = "kinetics-sounds"

    source: Source
    classes: int | Path = 31
    lists: Path | None = None
    preset: Preset = PRESETS["kinetics_sounds"]
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.classes, int) and self.classes not in (31, 34):
            raise ConfigError(f"`classes` must be 31, 34 or a file with one class per line, but is {self.classes}.")
        if set(self.preset.modalities) - {AUDIO, VIDEO}:
            raise ConfigError(
                f"Kinetics-Sounds has only audio and video, but `preset` {self.preset.name} has other modalities."
            )

    def find(self) -> Found:
        """Find the clips of the classes, sorted by id.

        Raises:
            ManifestError: the root has neither layout, or the lists have problems.
        """
        classes = self._classes()
        files = self.source.list()
        notes: list[str] = []
        train, test = (find_list(names, self.source, files, self.lists) for names in (_TRAIN_LISTS, _TEST_LISTS))
        if train is not None and test is not None:
            listed, words = self._as_listed(train, test, classes, notes)
            paths = _by_lists(files, listed, notes)
        elif train is not None or test is not None or self.lists is not None:
            raise ManifestError(
                f"Cannot find both published lists, such as {_TRAIN_LISTS[0]} and {_TEST_LISTS[0]}: the list for "
                f"training is {'missing' if train is None else 'there'}, and the list for test is "
                f"{'missing' if test is None else 'there'}. Give their folder with `--lists`."
            )
        else:
            listed, paths, words = self._in_folders(files, classes, notes)
        absent = {each: listed[each].label for each in sorted(listed) if each not in paths}
        clips = tuple(
            Clip(
                id=SampleId(each),
                paths=dict.fromkeys(self.preset.modalities, paths[each]),
                label=listed[each].label,
                split=listed[each].split,
                group=_video(each),
            )
            for each in sorted(paths)
        )
        notes += absence(absent, collections.Counter(of.label for of in listed.values()))
        if empty := [label for label in classes if label not in {clip.label for clip in clips}]:
            notes.append(listing(f"classes without clips, of {len(classes)}", empty))
        notes += unrepresented(clips)
        facts = {
            "corpus": f"Kinetics-Sounds, {len({clip.label for clip in clips})} classes",
            "licence": "annotations of Kinetics: CC BY 4.0; the videos belong to their uploaders",
            "citation": "Arandjelovic, Zisserman, ICCV 2017, arXiv:1705.08168; Kay et al., 2017, arXiv:1705.06950",
            "split": f"{words}: {sizes(clips)}",
        }
        by_lists = train is not None and test is not None
        return Found(
            clips, facts, tuple(notes), absent, listed={k: v.split for k, v in listed.items()} if by_lists else {}
        )

    def _classes(self) -> tuple[str, ...]:
        if self.classes == 31:
            return CLASSES
        if self.classes == 34:
            return tuple(sorted((*CLASSES, *UNRELEASED)))
        path = Path(str(self.classes))
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ManifestError(f"`classes` must be 31, 34 or a text file, but {path} cannot be read.") from error
        named = sorted({_plain(line) for line in lines if line.strip()})
        if not named:
            raise ManifestError(f"{path} must name one class per line, but is empty.")
        return tuple(named)

    # --- lists -------------------------------------------------------------------------------------------------------

    def _as_listed(
        self, train: PublishedList, test: PublishedList, classes: Sequence[str], notes: list[str]
    ) -> tuple[dict[str, _Listed], str]:
        """The class and split of each listed clip of the classes, and a description of the split."""
        labels = {"train": _labels_of(train), "test": _labels_of(test)}
        tested = {_video(each) for each in labels["test"]}
        if twice := sorted(each for each in labels["train"] if _video(each) in tested):
            notes.append(listing("training clips of videos that are also in the test list, excluded", twice))
        # Drawn from all listed clips, so that vanished videos do not change the split.
        rest = sorted(labels["train"].keys() - set(twice))
        if not rest:
            raise ManifestError(
                "There must be clips to train on, but the videos of all training clips are also in the test list. Give "
                "different lists."
            )
        drawn = draw_splits(
            rest,
            [labels["train"][each] for each in rest],
            list(map(_video, rest)),
            parts=_TRAIN_AND_VAL,
            seed=self.seed,
        )
        listed = {each: _Listed(labels["train"][each], split) for each, split in zip(rest, drawn, strict=True)}
        listed |= {each: _Listed(label, "test") for each, label in labels["test"].items()}
        known = {each: of for each, of in listed.items() if of.label in classes}
        return known, f"as published, a tenth of the training videos for validation (seed {self.seed})"

    # --- folders -----------------------------------------------------------------------------------------------------

    def _in_folders(
        self, files: Sequence[str], classes: Sequence[str], notes: list[str]
    ) -> tuple[dict[str, _Listed], dict[str, str], str]:
        """The class and split of each clip, its file, and a description of the split."""
        found, strange = _of_folders(files, set(classes))
        if strange:
            notes.append(listing("files whose names are not those of Kinetics clips, excluded", strange))
        if not found:
            raise ManifestError(
                f"Cannot find clips below {self.source.root}. Expected train/<class>/<clip>.mp4 or <class>/<clip>.mp4, "
                f"with clips such as --4-0ihtnBU_000058_000068 of classes such as {shown(classes, 3)}; or published "
                "lists that name the clips (`--lists`)."
            )
        given = {each.folder for each in found}
        if "train" in given and given & {"val", "test"}:
            kept, splits, words = self._given_splits(found, notes)
        else:
            kept = _one_each(found, notes)
            ids = sorted(kept)
            drawn = draw_splits(ids, [kept[each][0] for each in ids], list(map(_video, ids)), seed=self.seed)
            splits = dict(zip(ids, drawn, strict=True))
            words = f"drawn by video (seed {self.seed})"
        listed = {each: _Listed(label, splits[each]) for each, (label, _) in kept.items()}
        return listed, {each: path for each, (_, path) in kept.items()}, words

    def _given_splits(
        self, found: Sequence["_Filed"], notes: list[str]
    ) -> tuple[dict[str, tuple[str, str]], dict[str, str], str]:
        """Use the folders as splits. A video in several of them stays in test, or else in validation."""
        if loose := [each.path for each in found if each.folder is None]:
            notes.append(listing("clips outside the folders of the splits, excluded", loose))
        place: dict[str, str] = {}
        for split in reversed(_PRECEDENCE):
            place |= {_video(_id(each.path)): split for each in found if each.folder == split}
        kept = _one_each([each for each in found if place.get(_video(_id(each.path))) == each.folder], notes)
        twice = {_id(each.path) for each in found if each.folder is not None} - kept.keys()
        if twice:
            notes.append(listing("clips of videos that are kept only in another split, excluded", sorted(twice)))
        splits = {each: place[_video(each)] for each in kept}
        if {"val", "test"} <= set(splits.values()):
            return kept, splits, "as the folders say"
        rest = sorted(each for each, split in splits.items() if split == "train")
        if not rest:
            raise ManifestError(
                "There must be clips to train on, but all videos of the folder train are also in another folder. "
                "Remove them from one of the two."
            )
        drawn = draw_splits(
            rest, [kept[each][0] for each in rest], list(map(_video, rest)), parts=_TRAIN_AND_VAL, seed=self.seed
        )
        tested = dict.fromkeys(splits.keys() - set(rest), "test")
        (other,) = set(splits.values()) - {"train"}
        words = f"test is the folder {other}, validation a tenth of the training videos (seed {self.seed})"
        return kept, tested | dict(zip(rest, drawn, strict=True)), words


class _Filed(NamedTuple):
    """A clip's file in the folder of its class. `folder` is its split, or None."""

    folder: str | None
    label: str
    path: str


def _plain(name: str) -> str:
    """Normalise a class name: `Playing_Drums` becomes `playing drums`, and a name of the paper the released one."""
    plain = " ".join(name.replace("_", " ").split()).lower()
    return RENAMED.get(plain, plain)


def _id(path: str) -> str:
    return PurePosixPath(path).stem


def _video(clip: str) -> str:
    """The YouTube id."""
    return clip[:11]


def _place(clip: str) -> tuple[str, int | None] | None:
    """A clip's video and start in seconds, from either form of its name; None if it is not the name of a clip."""
    match = _CLIP.match(clip)
    return None if match is None else (match["video"], None if match["start"] is None else int(match["start"]))


def _videos(files: Iterable[str]) -> list[str]:
    return [file for file in files if PurePosixPath(file).suffix.lower() in _VIDEOS]


def _labels_of(listed: PublishedList) -> dict[str, str]:
    """The class of each clip of a list with lines such as `--4-0ihtnBU_000058_000068,10,4`."""
    problems: list[str] = []
    labels: dict[str, str] = {}
    for number, line in listed.lines():
        clip, *others = (cell.strip() for cell in line.split(","))
        given = others[-1] if others else ""
        is_number = given.isascii() and given.isdigit() and int(given) < len(CLASSES)
        label = CLASSES[int(given)] if is_number else _plain(given)
        if _place(clip) is None:
            problems.append(
                f"line {number}: {clip!r} must be a clip such as --4-0ihtnBU_000058_000068 or -3Mwkq-7TV4_2"
            )
        elif label not in CLASSES:
            problems.append(
                f"line {number}: the label must be 0 to {len(CLASSES) - 1} or one of the classes, but is {given!r}"
            )
        elif labels.setdefault(clip, label) != label:
            problems.append(
                f"line {number}: {clip} must have one label, but has {labels[clip]!r} before and {label!r} here"
            )
    if not labels and not problems:
        problems.append("it has no clips")
    refuse(listed.where, problems)
    return labels


def _by_lists(files: Sequence[str], listed: Mapping[str, _Listed], notes: list[str]) -> dict[str, str]:
    """The file of each clip, by its name, or else by its video and second."""
    named: dict[str, str] = {}
    placed: dict[tuple[str, int], set[str]] = collections.defaultdict(set)
    copies: list[str] = []
    for file in _videos(files):
        clip = _id(file)
        if named.setdefault(clip, file) != file:
            copies.append(file)
        elif (place := _place(clip)) is not None and place[1] is not None:
            placed[place[0], place[1]].add(clip)
    if copies:
        notes.append(listing("files that have the name of another file, ignored", copies))
    paths: dict[str, str] = {}
    for each in listed:
        place = _place(each)
        same = placed.get((place[0], place[1]), set()) if place is not None and place[1] is not None else set()
        if each in named:
            paths[each] = named[each]
        elif len(same) == 1:
            paths[each] = named[next(iter(same))]
    return paths


def _of_folders(files: Sequence[str], classes: set[str]) -> tuple[list[_Filed], list[str]]:
    """The clips in folders of the classes, and the files there that are not clips."""
    found: list[_Filed] = []
    strange: list[str] = []
    for file in _videos(files):
        parts = PurePosixPath(file).parts
        if len(parts) < 2 or (label := _plain(parts[-2])) not in classes:
            continue
        if _place(_id(file)) is None:
            strange.append(file)
        else:
            found.append(_Filed(_FOLDERS.get(parts[-3].lower()) if len(parts) > 2 else None, label, file))
    return found, strange


def _one_each(found: Iterable[_Filed], notes: list[str]) -> dict[str, tuple[str, str]]:
    """The class and file of each clip; of files with the same name, the first.

    Raises:
        ManifestError: files with the same name are in folders of different classes.
    """
    kept: dict[str, tuple[str, str]] = {}
    copies: list[str] = []
    problems: list[str] = []
    for _, label, path in found:
        first, where = kept.setdefault(_id(path), (label, path))
        if first != label:
            problems.append(f"{path} must be in the folder of one class, but is also {where}")
        elif where != path:
            copies.append(path)
    refuse("the class folders", problems)
    if copies:
        notes.append(listing("files that have the name of another file, ignored", copies))
    return kept
