"""CMU-MOSEI: the sentiment of YouTube speakers, as feature arrays of three modalities

Zadeh, Liang, Poria, Cambria, Morency (2018), "Multimodal Language Analysis in the Wild: CMU-MOSEI Dataset and
Interpretable Dynamic Fusion Graph", ACL. Distributed by the CMU-MultimodalSDK; the videos belong to their owners. There
are 22,856 utterances of 3,228 videos, 16,326 / 1,871 / 4,659 in the published split, each with a sentiment between -3
and 3. Features: `audio` COVAREP (74), `video` FACET (35), `text` GloVe (300) or BERT (768).

Layouts of the root:

    unaligned_50.pkl, aligned_50.pkl    as distributed by MMSA: {train, valid, test} of {audio, vision, text,
                                        regression_labels, id, and lengths}; `unpack` converts it to the second layout
    <split>/<modality>.npy, labels.csv  one array for a split, (N, T, D) or (N, D), rows in the order of labels.csv
    <modality>/<id>.npy, labels.csv     one array for a clip, (T, D) or (D,)

labels.csv has the columns id, label (the sentiment), split (train, val, test; valid means val), and optionally group.
By default the group of a clip is its video: the id before `$_$`, as in `-3g5yACwYnA$_$4`, or before `[4]`.

Classes (`labels`): 2 is negative (below 0) and non-negative; 3 is negative, neutral (0) and positive; 7 is the rounded
sentiment, with halves rounded to even, as in NumPy and MMSA.

Pitfalls: COVAREP has -inf for the logarithm of silence. It counts as missing, and missing values are replaced by the
training mean (MMSA writes 0). Sequences in pickles are padded with zeros, some at the front and some at the end.
Therefore a step whose columns are all zero counts as missing. But if a clip has only such steps, its front end detected
nothing, such as no face, and the zeros are kept. In arrays, NaN means missing. `text_bert` is not a feature: it holds
tokens and their mask, which gives the number of steps of `text`. Lengths of audio and vision are ignored, because they
count only the steps before the first one that is all zero.
"""

import collections
import csv
import functools
import hashlib
import io
import json
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from remix_study.datasets import pickled_arrays
from remix_study.datasets.corpus import Found
from remix_study.datasets.manifest import SPLITS
from remix_study.errors import ManifestError, MediaError
from remix_study.files.disk import exclusive_lock, move_into_place, storage_errors, temporary_path, write_atomically
from remix_study.media.features import open_array
from remix_study.media.presets import FeaturePreset, Preset
from remix_study.media.source import Source, source_at
from remix_study.modality import AUDIO, VIDEO, canonical_order
from remix_study.sample import Clip, SampleId

# N clips of one split, T steps of D values

CLASSES: Mapping[int, tuple[str, ...]] = {
    2: ("negative", "non-negative"),
    3: ("negative", "neutral", "positive"),
    7: (
        "highly negative", "negative", "weakly negative", "neutral", "weakly positive", "positive", "highly positive",
    ),
}  # fmt: skip
"""Names of the classes, from negative to positive, by their number"""
PUBLISHED = {"train": 16326, "val": 1871, "test": 4659}
TEXT = "text"
_FILES = {AUDIO: ("audio",), VIDEO: ("video", "vision", "visual"), TEXT: ("text",)}
_SPLITS = {"train": "train", "val": "val", "valid": "val", "dev": "val", "test": "test"}
_SEGMENT = re.compile(r"(?P<video>.+?)(\$_\$.+|\[\d+\])$")


def class_of(sentiment: float, labels: int) -> str:
    """The class of a sentiment, which is clipped to [-3, 3]. `labels` is the number of classes: 2, 3 or 7."""
    names = CLASSES[labels]
    if labels == 2:
        return names[int(sentiment >= 0)]
    if labels == 3:
        return names[int(np.sign(sentiment)) + 1]
    return names[int(np.rint(np.clip(sentiment, -3, 3))) + 3]


@dataclass(frozen=True)
class Mosei:
    """CMU-MOSEI as arrays below a source. `mosei_at` also opens pickles.

    Args:
        source: the corpus's files.
        labels: number of classes.
    """

    source: Source
    labels: Literal[2, 3, 7] = 2

    @property
    def name(self) -> str:
        return "mosei"

    @property
    def preset(self) -> Preset:
        """The shapes of the arrays.

        Raises:
            ManifestError: as `find`.
        """
        return Preset("mosei", self._arrays.parts)

    def find(self) -> Found:
        """Find the labelled clips that have all their arrays, in the order of labels.csv.

        Raises:
            ManifestError: labels or arrays are missing, or do not match.
        """
        arrays, rows = self._arrays, self._rows
        clips = tuple(
            Clip(
                SampleId(row.id), paths, class_of(row.sentiment, self.labels), row.split, group=row.group,
                truth={"sentiment": row.sentiment},
            )
            for row, paths in zip(rows, arrays.paths, strict=True)
            if paths
        )  # fmt: skip
        present = {clip.id for clip in clips}
        divided = _divided(rows)
        if divided:
            clips = tuple(_without_group(clip) for clip in clips)
        shapes = ", ".join(f"{m} {' x '.join(map(str, part.shape))}" for m, part in arrays.parts.items())
        return Found(
            clips,
            facts={
                "corpus": f"CMU-MOSEI, {self.labels} classes",
                "licence": "as the CMU-MultimodalSDK states; the videos belong to their owners",
                "citation": "Zadeh, Liang, Poria, Cambria, Morency (2018). Multimodal Language Analysis in the Wild: "
                "CMU-MOSEI Dataset and Interpretable Dynamic Fusion Graph. ACL",
                "split": "as in the files",
                "features": shapes,
            },
            warnings=tuple(_warnings(rows, divided)),
            absent={row.id: class_of(row.sentiment, self.labels) for row in rows if row.id not in present},
        )

    @functools.cached_property
    def _rows(self) -> tuple["_Row", ...]:
        where = f"{self.source.root}/labels.csv"
        try:
            text = self.source.read("labels.csv").decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise ManifestError(
                f"Cannot find labels.csv (id, label, split) at {self.source.root}. Give a folder with labels.csv and "
                "arrays, or a pickle such as unaligned_50.pkl."
            ) from error
        return _labels(text, where)

    @functools.cached_property
    def _arrays(self) -> "_Arrays":
        for split in _SPLITS:
            if any(self.source.exists(f"{split}/{file}.npy") for file in _FILES[AUDIO]):
                return _arrays_of_splits(self.source, self._rows)
        return _arrays_of_clips(self.source, self._rows)


def mosei_at(where: str | Path, work: Path, *, labels: Literal[2, 3, 7] = 2) -> Mosei:
    """Open CMU-MOSEI.

    Args:
        where: a folder or URL of arrays; or a pickle, or a folder with one, which is unpacked into `work`.
        work: a folder of this machine.
        labels: number of classes.

    Raises:
        ManifestError: the pickle does not hold this corpus, or is unsafe.
        StoreError: `work` cannot be written.
    """
    folder, _, file = str(where).rstrip("/").rpartition("/")
    if file.endswith((".pkl", ".pickle")):
        source = source_at(folder or ("/" if str(where).startswith("/") else "."))
        names = [file]
    else:
        source = source_at(where)
        pickles = [] if source.exists("labels.csv") else source.list()
        names = [path for path in pickles if path.endswith((".pkl", ".pickle"))]
        if len(names) > 1:
            raise ManifestError(f"{where} must hold one pickle, but has {', '.join(names)}. Give one of these files.")
    if not names:
        return Mosei(source, labels)
    with source.local(names[0]) as path:
        return Mosei(source_at(unpack(path, work)), labels)


# --- pickles ---------------------------------------------------------------------------------------------------------


def unpack(path: Path, work: Path) -> Path:
    """Unpack a pickle into arrays in `work`/arrays. Arrays of the same pickle are kept.

    Reads the whole pickle into memory. No code of the pickle is run.

    Returns:
        The folder `work`/arrays.

    Raises:
        ManifestError: it is not a pickle of CMU-MOSEI.
        StoreError: `work` cannot be written, or another process writes it.
    """
    if not path.is_file():
        raise ManifestError(f"Cannot open the pickle {path}: no such file.")
    with path.open("rb") as file:
        origin = json.dumps({"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "layout": 2})
    folder, part = work / "arrays", temporary_path(work / "arrays")
    mark = folder / "unpacked.json"
    with storage_errors(work):
        work.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(work / ".lock"):
            if mark.exists() and mark.read_text() == origin:
                return folder
            if folder.exists() and not mark.exists():
                raise ManifestError(
                    f"Cannot unpack {path.name} into {folder}: it holds other files. Choose another folder."
                )
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            _write_splits(pickled_arrays.load(path), part, path)
            write_atomically(part / mark.name, origin)
            shutil.rmtree(folder, ignore_errors=True)
            move_into_place(part, folder)
    return folder


def _write_splits(content: Any, folder: Path, path: Path) -> None:
    parts = {key: part for key, part in content.items() if key in _SPLITS} if isinstance(content, dict) else {}
    if {_SPLITS[key] for key in parts} != set(SPLITS) or not all(isinstance(part, dict) for part in parts.values()):
        raise ManifestError(f"The pickle {path} must have train, valid and test, as distributed by MMSA, but has not.")
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["id", "label", "split"])
    for key, part in parts.items():
        split = _SPLITS[key]
        (folder / split).mkdir()
        sentiments = _sentiments(part, f"{path}, {key}")
        ids = _ids(part.get("id"), len(sentiments), f"{path}, {key}")
        for m in _FILES:
            array, lengths = _array(part, m, len(sentiments), f"{path}, {key}")
            np.save(folder / split / f"{m}.npy", _mark_missing(array, lengths), allow_pickle=False)
        writer.writerows([clip, repr(float(label)), split] for clip, label in zip(ids, sentiments, strict=True))
    write_atomically(folder / "labels.csv", table.getvalue())


def _sentiments(part: Mapping[str, Any], where: str) -> NDArray[np.float64]:
    for key in ("regression_labels", "labels"):
        if key in part:
            try:
                values = np.asarray(part[key], np.float64)
            except (TypeError, ValueError) as error:
                raise ManifestError(f"{where}: `{key}` must be numbers, but is not.") from error
            if values.ndim == 0 or values.size != len(values):
                raise ManifestError(f"{where}: `{key}` must be one number per clip, but has shape {values.shape}.")
            return values.reshape(-1)
    raise ManifestError(f"{where}: it must have `regression_labels`, but has {', '.join(sorted(map(str, part)))}.")


def _ids(given: Any, count: int, where: str) -> list[str]:
    """The ids. They are texts, or rows of video, start and end, as written by the SDK's own loader."""
    rows = given.tolist() if isinstance(given, np.ndarray) else given
    if not isinstance(rows, list | tuple) or len(rows) != count:
        raise ManifestError(f"{where}: `id` must name each of the {count} clips, but does not.")
    return ["$_$".join(map(_text, row)) if isinstance(row, list | tuple) else _text(row) for row in rows]


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _array(
    part: Mapping[str, Any], modality: str, count: int, where: str
) -> tuple[NDArray[np.generic], NDArray[np.float64] | None]:
    """An array (N, T, D) or (N, D), and for text the number of steps of each clip, if known.

    MMSA writes lengths for audio and vision, too: the number of steps before the first one that is all zero, which may
    be a frame without a face. They say no more than the zeros, and would drop the steps after it.
    """
    key = next((name for name in _FILES[modality] if name in part), None)
    if key is None:
        more = ", and `text_bert` is not a feature" if modality == TEXT and "text_bert" in part else ""
        raise ManifestError(f"{where}: it must have `{_FILES[modality][-1]}`, but has none{more}.")
    array = part[key]
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu" or array.ndim not in (2, 3):
        raise ManifestError(f"{where}: `{key}` must be an array of numbers (N, T, D) or (N, D), but is not.")
    if len(array) != count:
        raise ManifestError(f"{where}: `{key}` must have a row for each of {count} clips, but has {len(array)}.")
    if modality != TEXT or array.ndim == 2:
        return array, None
    lengths, tokens = part.get(f"{key}_lengths"), part.get("text_bert")
    if lengths is None and isinstance(tokens, np.ndarray) and tokens.shape[1:] == (3, len(array[0])):
        lengths = tokens[:, 1].sum(axis=1)
    if lengths is None:
        return array, None
    try:
        steps = np.asarray(lengths, np.float64).reshape(-1)
    except (TypeError, ValueError):
        steps = np.empty(0)
    if len(steps) != count:
        raise ManifestError(f"{where}: `{key}_lengths` must be {count} numbers, but is not.")
    return array, steps


def _mark_missing(array: NDArray[np.generic], lengths: NDArray[np.float64] | None) -> NDArray[np.float32]:
    """Replace infinities, padding and steps whose columns are all zero by NaN."""
    with np.errstate(over="ignore"):  # values beyond float32 become infinite
        values = array.astype(np.float32)
    values[~np.isfinite(values)] = np.nan
    if values.ndim == 2:
        return values
    empty_NT = (np.nan_to_num(values, nan=0.0) == 0).all(axis=2)
    if lengths is not None:
        empty_NT |= np.arange(values.shape[1]) >= lengths[:, None]
    undetected_N = empty_NT.all(axis=1)  # the front end detected nothing in the whole clip
    values[empty_NT & ~undetected_N[:, None]] = np.nan
    values[undetected_N] = 0.0
    return values


# --- labels ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Row:
    id: str
    sentiment: float
    split: str
    group: str | None


def _labels(text: str, where: str) -> tuple[_Row, ...]:
    reader = csv.DictReader(io.StringIO(text))
    wrong = [f"column `{key}` is missing" for key in ("id", "label", "split") if key not in (reader.fieldnames or ())]
    rows = [] if wrong else [_row(line, reader.line_num, wrong) for line in reader]
    counts = collections.Counter(row.id for row in rows if row is not None)
    wrong += [f"the id {clip!r} must occur once, but occurs {n} times" for clip, n in counts.items() if n > 1]
    if not rows and not wrong:
        wrong.append("it has no clips")
    if wrong:
        more = f"\n  and {len(wrong) - 10} more" if len(wrong) > 10 else ""
        raise ManifestError(f"{where} has problems:\n  " + "\n  ".join(wrong[:10]) + more)
    return tuple(row for row in rows if row is not None)


def _row(line: Mapping[str, str | None], number: int, wrong: list[str]) -> _Row | None:
    clip, label, split = ((line[key] or "").strip() for key in ("id", "label", "split"))
    try:
        sentiment = float(label)
    except ValueError:
        sentiment = np.nan
    if not -3.5 <= sentiment <= 3.5:
        wrong.append(f"line {number}: `label` must be a sentiment from -3 to 3, but is {label!r}")
    if split not in _SPLITS:
        wrong.append(f"line {number}: `split` must be one of {', '.join(SPLITS)}, but is {split!r}")
    if not clip or "/" in clip or "\\" in clip or clip in (".", ".."):
        wrong.append(f"line {number}: `id` must be a name, but is {clip!r}")
    if wrong:
        return None
    segment = _SEGMENT.match(clip)
    group = (line.get("group") or "").strip() or (segment["video"] if segment else None)
    return _Row(clip, sentiment, _SPLITS[split], group)


def _divided(rows: Iterable[_Row]) -> list[str]:
    """Videos with clips in several splits."""
    splits: dict[str, set[str]] = collections.defaultdict(set)
    for row in rows:
        if row.group is not None:
            splits[row.group].add(row.split)
    return sorted(group for group, where in splits.items() if len(where) > 1)


def _without_group(clip: Clip) -> Clip:
    video = {} if clip.group is None else {"video": clip.group}
    return Clip(clip.id, clip.paths, clip.label, clip.split, truth={**clip.truth, **video})


def _warnings(rows: Sequence[_Row], divided: Sequence[str]) -> Iterable[str]:
    counts = collections.Counter(row.split for row in rows)
    if counts != PUBLISHED:
        found, published = (" / ".join(str(numbers[split]) for split in SPLITS) for numbers in (counts, PUBLISHED))
        yield f"there are {found} clips in {', '.join(SPLITS)}, but {published} in the published split"
    if divided:
        videos = len({row.group for row in rows} - {None})
        yield (
            f"{len(divided)} of {videos} videos have clips in several splits, such as {divided[0]}: test clips share "
            "speakers with training clips, and clips have no group"
        )


# --- arrays ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Arrays:
    """The features of each modality, and the files of each labelled clip; empty if one of its arrays is missing."""

    parts: Mapping[str, FeaturePreset]
    paths: tuple[Mapping[str, str], ...]


def _arrays_of_splits(source: Source, rows: Sequence[_Row]) -> _Arrays:
    folders = {_SPLITS[name]: name for name in _SPLITS if source.exists(name)}
    counts = collections.Counter(row.split for row in rows)
    shapes: dict[str, set[tuple[int, ...]]] = collections.defaultdict(set)
    files: dict[tuple[str, str], str] = {}
    for split in counts:
        for m, names in _FILES.items():
            here = [f"{folders.get(split, split)}/{name}.npy" for name in names]
            path = next((each for each in here if source.exists(each)), None)
            if path is None:
                raise ManifestError(f"Cannot find {here[0]} at {source.root}, for {counts[split]} clips of labels.csv.")
            shape = _shape(source, path)
            if shape[:1] != (counts[split],):
                raise ManifestError(
                    f"{path} must have a row for each of the {counts[split]} clips of {split} in labels.csv, but has "
                    f"{shape[0] if shape else 'none'}."
                )
            shapes[m].add(shape[1:])
            files[split, m] = path
    number: collections.Counter[str] = collections.Counter()
    paths = []
    for row in rows:
        paths.append({m: f"{files[row.split, m]}#{number[row.split]}" for m in canonical_order(_FILES)})
        number[row.split] += 1
    return _Arrays(_parts(shapes), tuple(paths))


def _arrays_of_clips(source: Source, rows: Sequence[_Row]) -> _Arrays:
    folders = {m: next((name for name in names if source.exists(name)), None) for m, names in _FILES.items()}
    lacking = [m for m, folder in folders.items() if folder is None]
    if lacking:
        raise ManifestError(
            f"Cannot find arrays of {' and '.join(lacking)} at {source.root}. Expected files such as train/audio.npy, "
            "or folders audio, video and text with an array for each clip."
        )
    files = {m: set(source.list(str(folder))) for m, folder in folders.items()}
    shapes: dict[str, set[tuple[int, ...]]] = collections.defaultdict(set)
    paths: list[Mapping[str, str]] = []
    for row in rows:
        own = {m: f"{folders[m]}/{row.id}.npy" for m in canonical_order(_FILES)}
        complete = all(path in files[m] for m, path in own.items())
        paths.append(own if complete else {})
        for m, path in own.items() if complete else ():
            shapes[m].add(_shape(source, path))
    if not shapes:
        raise ManifestError(f"Cannot find any array at {source.root} that labels.csv names. Check the folder.")
    return _Arrays(_parts(shapes), tuple(paths))


def _shape(source: Source, path: str) -> tuple[int, ...]:
    try:
        with source.local(path) as local:
            return open_array(local).shape
    except MediaError as error:
        raise ManifestError(f"{source.root}/{path}: {error}.") from error


def _parts(shapes: Mapping[str, set[tuple[int, ...]]]) -> dict[str, FeaturePreset]:
    """Presets of vectors (D,), or of sequences (T, D) with the length of the longest one."""
    parts = {}
    for m in canonical_order(shapes):
        widths = {shape[-1:] for shape in shapes[m]}
        ranks = {len(shape) for shape in shapes[m]}
        if len(widths) > 1 or len(ranks) > 1 or not ranks <= {1, 2}:
            several = " and ".join(map(str, sorted(shapes[m])[:3]))
            raise ManifestError(f"All arrays of {m} must be (T, D) or (D,), with the same D, but there are {several}.")
        longest = max(shapes[m])
        parts[m] = FeaturePreset("sequence" if ranks == {2} else "vector", longest)
    return parts
