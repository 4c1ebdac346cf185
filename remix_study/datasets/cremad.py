"""CREMA-D: 91 actors speak 12 sentences in 6 emotions; crowd workers rated each clip by voice, by face, and by both

Cao, Cooper, Keutmann, Gur, Nenkova, Verma, "CREMA-D: Crowd-sourced Emotional Multimodal Actors Dataset", IEEE Trans.
Affective Computing 5(4), 2014. 7,442 clips of a few seconds (FLV with audio; WAV, 16 kHz). The database is under the
ODbL 1.0, its contents under the DbCL 1.0.

Names: `1001_IEO_NEU_XX` is actor, sentence, emotion and level (LO, MD, HI, or XX if unspecified). There are 1,271 clips
of each emotion, but 1,087 of NEU. Files with other names are excluded, except AudioWAV/1040_ITH_SAD_X.wav, which is
known to be misspelt.

Layouts, recognised by the files, whatever the names of the folders:

    VideoFlash/*.flv and AudioWAV/*.wav       as released; the FLV files also have the audio
    Image-01-FPS/<clip>/*.jpg and *.wav       as written by OGM-GE's programs
    visual/<clip>/*.jpg and audio/<clip>.npy  as read by the code of Data Remixing: spectrograms (F, T), not normalised
    VideoDemographics.csv                     sex and age of the actors; optional
    summaryTable.csv                          human ratings, also in processedResults/; optional
    SentenceFilenames.csv                     the names of all clips; optional, used to list absent clips

Videos are preferred to folders of frames, and WAV to NPY to MP3 to the audio of the video. Modalities that the preset
does not keep may be missing.

Splits:

    actor   no actor is in two parts (default): 70 / 10 / 20 % of the actors, stratified by sex
    folds   every clip is tested once, by models that were not trained on its actor
    ogm     train.csv and test.csv of OGM-GE (6,698 / 744), as in Data Remixing and most papers on balance. They were
            drawn by clip: all 91 actors are in both, so that models may have been trained on a test clip's actor. There
            is no validation split, and those papers choose the epoch on the test set. Here, 744 clips of train are
            drawn for validation, of each class in proportion: 5,954 / 744 / 744. The code of Diagnosing and Re-learning
            (ECCV 2024) has the same sizes, but other clips.

Labels are stored as names. OGM-GE numbers them NEU 0, HAP 1, SAD 2, FEA 3, DIS 4, ANG 5 (the order of stat.csv, which
begins with a byte order mark). Data Remixing and MMPareto number them alphabetically, ANG 0, DIS 1, FEA 2, HAP 3, NEU
4, SAD 5, as stores of this package do. Checkpoints with different orders cannot be mixed.

Human ratings become `truth`: `human_audio`, `human_video` and `human_both` are 1 if the vote on voice, face or both is
the label, 1/k if k emotions are tied and one of them is the label, and 0 otherwise. `human_level_audio` and so on are
the rated intensity of the winning emotion (0 to 1; the mean over a tie).

Pitfalls: a clone without Git LFS has pointers of 130 bytes instead of media (quarantined as `lfs-pointer`). Users
report four corrupt clips, which we have not verified: 1076_MTI_SAD_XX.wav is silent (quarantined as `silent`); its
video and 1076_MTI_NEU_XX are almost empty; 1064_TIE_SAD_XX has no duration; 1064_IEO_DIS_MD lasts a minute and holds
every emotion, which no check can detect. A warning names those that exist.
"""

import collections
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from remix_study.datasets.corpus import Found
from remix_study.datasets.manifest import SPLITS, refuse
from remix_study.datasets.published import (
    PublishedList,
    absence,
    find_list,
    listing,
    shown,
    sizes,
    unrepresented,
)
from remix_study.datasets.splits import draw_folds, draw_splits
from remix_study.errors import ConfigError, ManifestError, MediaError
from remix_study.media.features import open_array
from remix_study.media.images import is_image
from remix_study.media.presets import PRESETS, FeaturePreset, Preset
from remix_study.media.source import Source
from remix_study.modality import AUDIO, VIDEO
from remix_study.sample import Clip, Fact, SampleId, Truth

EMOTIONS = ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")
COUNTS: Mapping[str, int] = {emotion: 1087 if emotion == "NEU" else 1271 for emotion in EMOTIONS}
"""Number of clips of the complete corpus, by emotion"""
ACTORS = 91
PUBLISHED_TRAIN, PUBLISHED_VAL = 6698, 744
"""Clips in OGM-GE's training list, and how many of them are used for validation"""

_NAME = re.compile(
    r"^(?P<actor>\d{4})_(?P<sentence>IEO|TIE|IOM|IWW|TAI|MTI|IWL|ITH|DFA|ITS|TSI|WSI)"
    rf"_(?P<emotion>{'|'.join(EMOTIONS)})_(?P<level>LO|MD|HI|XX)$"
)
_MISSPELT = {"1040_ITH_SAD_X": "1040_ITH_SAD_XX"}
_CORRUPT = ("1064_IEO_DIS_MD", "1064_TIE_SAD_XX", "1076_MTI_NEU_XX", "1076_MTI_SAD_XX")
_SUFFIXES = {
    "video": (".flv", ".mp4", ".avi", ".mov", ".mkv", ".webm"),
    "sound": (".wav", ".flac"),
    "lossy": (".mp3", ".m4a", ".ogg"),
    "array": (".npy",),
}
_FRAMES = "frames"
_WITHOUT = {AUDIO: "none+2x224", VIDEO: "stft188+none"}
_PREFERRED = {VIDEO: ("video", _FRAMES), AUDIO: ("sound", "array", "lossy", "video")}
_LAYOUT = (
    "VideoFlash/1001_IEO_NEU_XX.flv with AudioWAV/1001_IEO_NEU_XX.wav, or frames as Image-01-FPS/1001_IEO_NEU_XX/*.jpg "
    "with a .wav or .npy of that name"
)
_VOTES = {AUDIO: "Voice", VIDEO: "Face", "both": "MultiModal"}
_SHAPE_SAMPLES = 9  # number of arrays that are opened to find their shape


class _Name(NamedTuple):
    actor: str
    sentence: str
    emotion: str
    level: str


class Cremad:
    """CREMA-D below a source.

    Args:
        source: the corpus's files.
        split: `actor`, `folds` or `ogm`, see above.
        lists: the folder of published lists and tables that are not in the source.
        preset: what to keep of each clip. Audio that is given as spectrograms is kept unchanged.
        folds: number of folds, at least 3: one is for testing, the next one for validation, the others for training.
        seed: seed of the random choice of actors, folds and validation clips.

    Raises:
        ConfigError: an option is invalid.
    """

    name = "cremad"

    def __init__(
        self,
        source: Source,
        *,
        split: Literal["actor", "ogm", "folds"] = "actor",
        lists: Path | None = None,
        preset: Preset = PRESETS["remix"],
        folds: int = 5,
        seed: int = 0,
    ) -> None:
        if split not in ("actor", "ogm", "folds"):
            raise ConfigError(f"`split` must be one of actor, ogm, folds, but is {split!r}.")
        if folds < 3:
            raise ConfigError(f"`folds` must be at least 3 (test, validation and training), but is {folds}.")
        if set(preset.modalities) - {AUDIO, VIDEO}:
            raise ConfigError(f"CREMA-D has only audio and video, but `preset` {preset.name} has other modalities.")
        self.source = source
        self.split = split
        self.lists = lists
        self.folds = folds
        self.seed = seed
        self._wanted = preset

    @cached_property
    def preset(self) -> Preset:
        """The requested preset; if audio is given as spectrograms, with their shape.

        Raises:
            ManifestError: as `find`.
        """
        if AUDIO not in self._wanted.parts or self._layout.kinds[AUDIO] != "array":
            return self._wanted
        arrays = self._layout.paths[AUDIO]
        part = FeaturePreset("image", _shape_of([arrays[clip] for clip in sorted(arrays)], self.source), "none")
        return Preset(f"{self._wanted.name}-npy", {**self._wanted.parts, AUDIO: part})

    @cached_property
    def _layout(self) -> "_Layout":
        return _layout_of(self.source.list(), self._wanted.modalities, self.source.root)

    def find(self) -> Found:
        """Find the clips that have a file for each modality of the preset, sorted by id.

        Raises:
            ManifestError: the root has another layout, or the lists of `ogm` are missing or have problems.
        """
        layout = self._layout
        present = sorted(set.intersection(*(set(layout.paths[m]) for m in self._wanted.modalities)))
        if not present:
            raise ManifestError(f"No clip below {self.source.root} has all its files. Expected {_LAYOUT}.")
        notes = [*layout.warnings, *_incomplete(layout.paths)]
        drawn = self._drawn(present)
        truths, about = self._truths(present, notes)
        clips = tuple(
            Clip(
                id=SampleId(each),
                paths={m: layout.paths[m][each] for m in self._wanted.modalities},
                label=_emotion(each),
                split=drawn.splits[each],
                group=None if self.split == "ogm" else _parsed(each).actor,
                truth=truths[each],
            )
            for each in present
            if each in drawn.splits
        )
        notes += drawn.warnings
        notes += absence(drawn.absent, collections.Counter(map(_emotion, drawn.listed)))
        notes += _differences(present)
        notes += unrepresented(clips)
        if corrupt := [each for each in _CORRUPT if each in drawn.splits]:
            notes.append(listing("clips reported to be corrupt, kept if they decode", corrupt))
        facts = {
            "corpus": "CREMA-D",
            "licence": "ODbL 1.0 (database), DbCL 1.0 (contents)",
            "citation": "Cao et al., IEEE Trans. Affective Computing 5(4), 2014, doi:10.1109/TAFFC.2014.2336244",
            "split": drawn.words if drawn.folds else f"{drawn.words}: {sizes(clips)}",
            "layout": layout.words,
            "actors": _actors_in_words(clips, drawn.folds, about),
        }
        listed = drawn.splits if self.split == "ogm" else {}
        return Found(clips, facts, tuple(notes), drawn.absent, drawn.folds, listed)

    # --- splits ------------------------------------------------------------------------------------------------------

    def _drawn(self, present: Sequence[str]) -> "_Drawn":
        if self.split == "ogm":
            return self._published(present)
        listed = self._listed(present)
        absent = {each: _emotion(each) for each in sorted(listed.difference(present))}
        actors = sorted({_parsed(each).actor for each in present})
        parts = len(SPLITS) if self.split == "actor" else self.folds
        if len(actors) < parts:
            raise ManifestError(
                f"`split` {self.split} needs at least {parts} actors, but the clips have only {len(actors)}."
            )
        # Actors are drawn, not clips, so that missing files do not change the actors of a part.
        if self.split == "actor":
            drawn = dict(zip(actors, draw_splits(actors, self._strata(actors), actors, seed=self.seed), strict=True))
            words = f"by actor (seed {self.seed}), no actor is in two parts"
            return _Drawn({each: drawn[_parsed(each).actor] for each in present}, words, listed, absent)
        numbers = draw_folds(actors, self._strata(actors), actors, self.folds, self.seed)
        fold_of = dict(zip(actors, numbers, strict=True))
        folds = tuple(
            {SampleId(each): _part(fold_of[_parsed(each).actor], fold, self.folds) for each in present}
            for fold in range(self.folds)
        )
        words = (
            f"{self.folds} folds by actor (seed {self.seed}); fold k is tested on part k and validated on part k + 1"
        )
        return _Drawn({str(each): part for each, part in folds[0].items()}, words, listed, absent, folds=folds)

    def _strata(self, actors: Sequence[str]) -> list[str]:
        """The strata of the actors: their sex, if enough actors of each sex are known. All act all emotions."""
        sexes = [str(self._demographics.get(actor, {}).get("sex", "")) for actor in actors]
        enough = "" not in sexes and min(collections.Counter(sexes).values()) >= 2 * self.folds
        return sexes if enough else [""] * len(actors)

    def _listed(self, present: Sequence[str]) -> frozenset[str]:
        """All clips of SentenceFilenames.csv, if it exists, and those that are present."""
        table = self._find("SentenceFilenames.csv")
        if table is None:
            return frozenset(present)
        names = (row.get("Filename", "") for row in table.rows())
        return frozenset(name for name in names if _NAME.match(name)) | frozenset(present)

    def _published(self, present: Sequence[str]) -> "_Drawn":
        train, test = (self._published_list(part) for part in ("train", "test"))
        both = sorted(set(train) & set(test))
        refuse("the published lists", [f"{each} must be in one of the lists, but is in both" for each in both])
        val = draw_validation(train, round(len(train) * PUBLISHED_VAL / PUBLISHED_TRAIN), self.seed)
        splits = {**{each: "val" if each in val else "train" for each in train}, **dict.fromkeys(test, "test")}
        absent = {each: _emotion(each) for each in sorted(set(splits).difference(present))}
        warnings = []
        actors = [{_parsed(each).actor for each in part} for part in (train, test)]
        if common := actors[0] & actors[1]:
            warnings.append(
                f"{len(common)} of {len(actors[0] | actors[1])} actors are in both published parts, train and test, so "
                "that a model may recognise faces and voices. `--split actor` separates the actors."
            )
        if unlisted := [each for each in present if each not in splits]:
            warnings.append(listing("clips in neither published list, excluded", unlisted))
        words = f"as published with OGM-GE, {len(val)} clips of train for validation (seed {self.seed})"
        return _Drawn(splits, words, frozenset(splits), absent, tuple(warnings))

    def _published_list(self, part: str) -> tuple[str, ...]:
        names = (f"{part}.csv", f"ogm_{part}.csv")
        found = self._find(*names)
        if found is None:
            raise ManifestError(
                f"`split` ogm needs the published list {names[0]}, which was not found. Take train.csv and test.csv "
                "from data/CREMAD of OGM-GE's code, and give their folder with `--lists`."
            )
        return _clips_of(found)

    # --- tables ------------------------------------------------------------------------------------------------------

    def _find(self, *names: str) -> PublishedList | None:
        return find_list(names, self.source, self._layout.others, self.lists)

    @cached_property
    def _demographics(self) -> dict[str, dict[str, Fact]]:
        """For each actor, `sex` (`female`, `male`) and `age` in years, as far as known."""
        table = self._find("VideoDemographics.csv")
        about: dict[str, dict[str, Fact]] = {}
        for row in [] if table is None else table.rows():
            known = about.setdefault(row.get("ActorID", ""), {})
            if sex := row.get("Sex", ""):
                known["sex"] = sex.lower()
            if (age := row.get("Age", "")).isdecimal():
                known["age"] = int(age)
        return about

    def _truths(
        self, present: Sequence[str], notes: list[str]
    ) -> tuple[dict[str, dict[str, Truth]], dict[str, dict[str, Fact]]]:
        """The `truth` of each clip, and the demographics of each actor."""
        about = self._demographics
        unknown = sorted({_parsed(each).actor for each in present}.difference(about))
        if about and unknown:
            notes.append(listing("actors that are missing in VideoDemographics.csv", unknown))
        table = self._find("summaryTable.csv")
        votes = {} if table is None else _votes(table, notes)
        if votes and (unrated := [each for each in present if each not in votes]):
            notes.append(listing("clips without votes in summaryTable.csv", unrated))
        truths: dict[str, dict[str, Truth]] = {}
        for each in present:
            name = _parsed(each)
            parts = {"actor": name.actor, "sentence": name.sentence, "level": name.level}
            truths[each] = {**parts, **about.get(name.actor, {}), **votes.get(each, {})}
        return truths, about


@dataclass(frozen=True)
class _Drawn:
    """The splits of present and of listed clips, and their description.

    Attributes:
        splits: split of each clip.
        words: a description for the card.
        listed: all clips that the corpus should have.
        absent: emotions of the clips without files, by id.
        folds: for each fold, the split of every clip.
    """

    splits: Mapping[str, str]
    words: str
    listed: frozenset[str]
    absent: Mapping[str, str]
    warnings: tuple[str, ...] = ()
    folds: tuple[Mapping[SampleId, str], ...] = ()


def _part(number: int, fold: int, folds: int) -> str:
    if number == fold:
        return "test"
    return "val" if number == (fold + 1) % folds else "train"


def draw_validation(ids: Iterable[str], count: int, seed: int) -> frozenset[str]:
    """Draw `count` of the clips, of each emotion in proportion (by largest remainders).

    Only ids and the seed determine the result.
    """
    members = collections.defaultdict(list)
    for each in ids:
        members[_emotion(each)].append(each)
    total = sum(map(len, members.values()))
    exact = {emotion: count * len(found) / total for emotion, found in members.items()}
    quotas = {emotion: int(share) for emotion, share in exact.items()}
    left = count - sum(quotas.values())
    for emotion in sorted(exact, key=lambda e: (quotas[e] - exact[e], e))[:left]:
        quotas[emotion] += 1

    def rank(each: str) -> str:
        return hashlib.sha256(f"{seed} {each}".encode()).hexdigest()

    return frozenset(each for emotion, found in members.items() for each in sorted(found, key=rank)[: quotas[emotion]])


# --- files -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Layout:
    """Where the files of each modality are.

    Attributes:
        paths: the file of each clip, by modality.
        kinds: the kind of file of each modality.
        words: a description for the card.
        others: files that are not media.
    """

    paths: Mapping[str, Mapping[str, str]]
    kinds: Mapping[str, str]
    words: str
    others: tuple[str, ...]
    warnings: tuple[str, ...]


def _layout_of(files: Sequence[str], modalities: Sequence[str], root: str) -> _Layout:
    """Assign the files to modalities and clips.

    Raises:
        ManifestError: a modality has no files.
    """
    places: dict[tuple[str, str], dict[str, str]] = collections.defaultdict(dict)
    strange: list[str] = []
    others: list[str] = []
    for file in files:
        path = PurePosixPath(file)
        kind = _kind(path)
        if kind is None:
            others.append(file)
            continue
        named = path.parent if kind == _FRAMES else path
        clip = _clip_of(named.name if kind == _FRAMES else named.stem)
        if clip is not None:
            places[kind, _place(named, kind)].setdefault(clip, named.as_posix())
        elif kind != _FRAMES:  # stray images are common, and not worth a warning
            strange.append(file)
    warnings = []
    if strange:
        warnings.append(listing("files whose names are not CREMA-D's, excluded", strange))
    paths: dict[str, Mapping[str, str]] = {}
    kinds: dict[str, str] = {}
    words: list[str] = []
    for m in modalities:
        kind = next((kind for kind in _PREFERRED[m] if any(kind == of for of, _ in places)), None)
        if kind is None:
            raise ManifestError(
                f"No {m} files found below {root}. Expected {_LAYOUT}. Give the folder that holds them (`--root`), or "
                f"keep only the other modality (`--preset {_WITHOUT[m]}`)."
            )
        found, used, unused = _joined({place: clips for (of, place), clips in places.items() if of == kind})
        kinds[m], paths[m] = kind, found
        words.append(f"{m} from {shown(used)}")
        if unused:
            warnings.append(f"{m} is taken from {shown(used)}; the same clips in {shown(unused)} are ignored.")
    return _Layout(paths, kinds, "; ".join(words), tuple(others), tuple(warnings))


def _kind(path: PurePosixPath) -> str | None:
    if is_image(path.name):
        return _FRAMES
    return next((kind for kind, suffixes in _SUFFIXES.items() if path.suffix.lower() in suffixes), None)


def _place(named: PurePosixPath, kind: str) -> str:
    """A pattern for messages, such as `VideoFlash/*.flv` or `Image-01-FPS/*/`."""
    where = "" if named.parent == PurePosixPath() else f"{named.parent.as_posix()}/"
    return f"{where}*/" if kind == _FRAMES else f"{where}*{named.suffix.lower()}"


def _joined(places: Mapping[str, Mapping[str, str]]) -> tuple[dict[str, str], list[str], list[str]]:
    """Join the clips of all places without common clips, largest first.

    Returns:
        The file of each clip, the places that are used, and the others, which hold copies.
    """
    found: dict[str, str] = {}
    used: list[str] = []
    unused: list[str] = []
    for place, clips in sorted(places.items(), key=lambda item: (-len(item[1]), item[0])):
        if found.keys() & clips.keys():
            unused.append(place)
        else:
            found |= clips
            used.append(place)
    return found, used, unused


def _shape_of(paths: Sequence[str], source: Source) -> tuple[int, ...]:
    """The most frequent shape of a few arrays. Arrays of other shapes are quarantined later."""
    step = max(1, len(paths) // _SHAPE_SAMPLES)
    shapes: collections.Counter[tuple[int, ...]] = collections.Counter()
    for path in paths[::step]:
        try:
            with source.local(path) as file:
                shapes[open_array(file).shape] += 1
        except MediaError:
            continue
    two_dimensional = [shape for shape, _ in shapes.most_common() if len(shape) == 2]
    if not two_dimensional:
        raise ManifestError(
            f"The arrays {shown(paths[::step], 3)} must be spectrograms of numbers (F, T), but "
            f"{'have the shapes ' + shown(str(shape) for shape in shapes) if shapes else 'none can be read'}."
        )
    return two_dimensional[0]


def _incomplete(paths: Mapping[str, Mapping[str, str]]) -> list[str]:
    warnings = []
    for m, others in ((m, [other for other in paths if other != m]) for m in paths):
        for other in others:
            if lacking := sorted(paths[m].keys() - paths[other].keys()):
                warnings.append(listing(f"clips with {m} but no {other}, excluded", lacking))
    return warnings


# --- names and tables ------------------------------------------------------------------------------------------------


def _clip_of(stem: str) -> str | None:
    stem = _MISSPELT.get(stem, stem)
    return stem if _NAME.match(stem) else None


def _parsed(clip: str) -> _Name:
    return _Name(*clip.split("_"))


def _emotion(clip: str) -> str:
    return _parsed(clip).emotion


def _clips_of(listed: PublishedList) -> tuple[str, ...]:
    """The clips of a list with lines such as `1088_IOM_NEU_XX,NEU`."""
    problems: list[str] = []
    found: dict[str, int] = {}
    for number, line in listed.lines():
        clip, *label = (cell.strip(' "') for cell in line.split(","))
        if _NAME.match(clip) is None:
            problems.append(f"line {number}: {clip!r} must be a name such as 1001_IEO_NEU_XX")
        elif label[:1] != [_emotion(clip)]:
            given = label[0] if label else "nothing"
            problems.append(
                f"line {number}: the label of {clip} must be {_emotion(clip)}, as in its name, but is {given}"
            )
        elif clip in found:
            problems.append(f"line {number}: {clip} must be listed once, but is also on line {found[clip]}")
        else:
            found[clip] = number
    if not found and not problems:
        problems.append("it has no clips")
    refuse(listed.where, problems)
    return tuple(found)


def _votes(table: PublishedList, notes: list[str]) -> dict[str, dict[str, Truth]]:
    """The human ratings of each clip: `human_audio`, `human_level_audio` and so on."""
    votes: dict[str, dict[str, Truth]] = {}
    unread: list[str] = []
    for row in table.rows():
        clip = _clip_of(row.get("FileName", ""))
        if clip is None:
            continue
        votes[clip] = {}
        for m, column in _VOTES.items():
            vote = _vote(row.get(f"{column}Vote", ""), row.get(f"{column}Level", ""), _emotion(clip))
            if vote is None:
                unread.append(f"{clip} ({column})")
            else:
                votes[clip] |= {f"human_{m}": vote[0], f"human_level_{m}": vote[1]}
    if not votes:
        notes.append(f"no clips were found in {table.where}, which must have the columns FileName, VoiceVote, ...")
    if unread:
        notes.append(listing(f"votes of {table.where} that cannot be read", unread))
    return votes


def _vote(vote: str, level: str, label: str) -> tuple[float, float] | None:
    """Parse a vote such as `A:F` with the levels `30.67:51.00`.

    Returns:
        How far the label won (1, 1/k in a tie of k, or 0), and the mean level of the winners, 0 to 1; None if the vote
        cannot be parsed.
    """
    winners = [each.strip() for each in vote.split(":")]
    try:
        levels = [float(each) for each in level.split(":")]
    except ValueError:
        return None
    initials = {emotion[0] for emotion in EMOTIONS}
    if len(levels) != len(winners) or not set(winners) <= initials or not all(0 <= each <= 100 for each in levels):
        return None
    recognised = 1 / len(winners) if label[0] in winners else 0.0
    return round(recognised, 6), round(sum(levels) / len(levels) / 100, 6)


def _differences(there: Iterable[str]) -> list[str]:
    """A warning if the numbers of clips or actors differ from the complete corpus."""
    clips = list(there)
    counts = collections.Counter(map(_emotion, clips))
    actors = len({_parsed(each).actor for each in clips})
    differences = [
        f"{emotion} {counts[emotion]} of {COUNTS[emotion]}"
        for emotion in EMOTIONS
        if counts[emotion] != COUNTS[emotion]
    ]
    differences += [f"actors {actors} of {ACTORS}"] if actors != ACTORS else []
    if not differences:
        return []
    return [f"CREMA-D has {sum(COUNTS.values())} clips, but {len(clips)} were found: {', '.join(differences)}."]


def _actors_in_words(
    clips: Sequence[Clip], folds: Sequence[Mapping[SampleId, str]], about: Mapping[str, Mapping[str, Fact]]
) -> str:
    """The numbers of actors in each split, or in the test part of each fold, for the card."""
    parts = {split: [clip for clip in clips if clip.split == split] for split in SPLITS}
    if folds:
        parts = {f"part {k}": [clip for clip in clips if fold[clip.id] == "test"] for k, fold in enumerate(folds)}
    descriptions = []
    for name, members in parts.items():
        actors = {str(clip.truth["actor"]) for clip in members}
        known = [about[actor] for actor in sorted(actors) if actor in about]
        sexes = collections.Counter(str(each["sex"]) for each in known if "sex" in each)
        ages = sorted(int(each["age"]) for each in known if "age" in each)
        words = [f"{count} {sex}" for sex, count in sorted(sexes.items())]
        words += [f"aged {ages[0]} to {ages[-1]}"] if ages else []
        descriptions.append(f"{name} {len(actors)}" + (f" ({', '.join(words)})" if words else ""))
    return "; ".join(descriptions)
