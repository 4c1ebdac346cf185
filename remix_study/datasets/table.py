"""Your own clips: a table with one line per clip, as CSV, JSON Lines or Parquet

    path                 a file with video and audio; or, instead,
    audio, video, ...    a file for each modality: media, an image or a folder of frames for video, or a feature array
                         (`.npy`, or a row of one: `features.npy#17`); the column may also be named `audio_path`
    label                the class
    split                train, val or test; without this column, splits are drawn
    group                clips of one group must be in the same split, for example those of a person or a place
    id                   a unique name; by default the file's name without its suffix
    start, end           seconds within the file

A manifest (datasets/manifest.py) is such a table. Other columns are ignored, unless `keep` names them: then their
values are stored in each clip's `truth`. Paths are relative to the root of the source, and must stay below it.
"""

import collections
import difflib
import functools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from remix_study.datasets.corpus import Found
from remix_study.datasets.manifest import SPLITS, checked, clip_of
from remix_study.datasets.raw_table import Line, Raw, Row, read_raw
from remix_study.datasets.splits import draw_splits
from remix_study.errors import ManifestError, MediaError
from remix_study.media.features import open_array
from remix_study.media.presets import FeaturePreset, FlowPreset, Part, Preset
from remix_study.media.source import Source, row_of
from remix_study.modality import AUDIO, FLOW, VIDEO, canonical_order
from remix_study.names import is_modality, name_problem
from remix_study.sample import Clip

_MEDIA = (AUDIO, VIDEO, FLOW)
_FACTS = ("id", "label", "split", "group", "start", "end")
_OURS = (*_FACTS, "path", "paths", "truth")  # the last two only in formats whose cells can be objects
_SYNONYMS = {"valid": "val", "validation": "val", "dev": "val", "training": "train", "eval": "test", "testing": "test"}
_ARRAYS_SAMPLED = 200
_NAMED = 10


class Columns(NamedTuple):
    """The meaning of the columns.

    Attributes:
        facts: the table's column for each of our names.
        paths: the table's column for each modality.
        left_out: the other columns, which are ignored.
    """

    facts: dict[str, str]
    paths: dict[str, str]
    left_out: list[str]


@dataclass(frozen=True)
class Table:
    """A table of clips, as a corpus.

    Args:
        source: the files.
        path: the table in `source`.
        base: what to keep of audio and video.
        columns: the table's name of each of our columns, if it differs.
        keep: further columns to store; as numbers, if all their values are numbers.
        lengths: number of steps of sequences, by modality; by default the 95th percentile.
        images: modalities whose arrays are images such as spectrograms (F, T), not sequences.
        seed: seed of the splits, if they are drawn.

    Raises:
        ManifestError: raised by `find` and `preset`: the table cannot be read, or has problems; all of them are listed.
    """

    source: Source
    path: str
    base: Preset
    columns: Mapping[str, str] = field(default_factory=dict)
    keep: tuple[str, ...] = ()
    lengths: Mapping[str, int] = field(default_factory=dict)
    images: tuple[str, ...] = ()
    seed: int = 0

    @property
    def name(self) -> str:
        return PurePosixPath(self.source.root.rstrip("/")).name or "clips"

    @property
    def preset(self) -> Preset:
        return self._read[1]

    def find(self) -> Found:
        return self._read[0]

    @functools.cached_property
    def _read(self) -> tuple[Found, Preset]:
        warnings: list[str] = []
        raw = read_raw(self.path, self._content())
        columns = self._columns(raw)
        warnings += _left_out(columns)
        rows = self._rows(raw, columns, warnings)
        drawn = all(row.get("split") is None for _, row in rows)
        problems, clips = list(raw.problems), list[tuple[str, Clip]]()
        for line, (place, row) in zip(raw.lines, rows, strict=True):
            found: list[str] = []
            clip = clip_of({**row, "split": "train"} if drawn else row, self.source.root, found)
            if "label" not in row:
                near = difflib.get_close_matches("label", [key for key in columns.left_out if line.row.get(key)], n=1)
                found += [f"did you mean column {name!r} as the label?" for name in near]
            problems += [f"{place}: {problem}" for problem in found]
            if clip is not None:
                clips.append((place, clip))
        problems += self._without_files(clips)
        problems.sort(key=_number_of)
        corpus = checked(self.path, clips, problems)
        split = "as in the table"
        if drawn:
            corpus, split = self._drawn(corpus), f"drawn by {_by(corpus)}, 70 / 10 / 20 percent, seed {self.seed}"
            warnings.append(f"the table has no splits, so they are {split}")
        preset = self._preset(corpus, warnings)
        return Found(tuple(corpus), {"corpus": self.name, "split": split}, tuple(warnings)), preset

    def _drawn(self, clips: Sequence[Clip]) -> list[Clip]:
        labels, groups = [clip.label for clip in clips], [clip.group for clip in clips]
        splits = draw_splits([clip.id for clip in clips], labels, groups, seed=self.seed)
        return [replace(clip, split=split) for clip, split in zip(clips, splits, strict=True)]

    def _content(self) -> bytes:
        try:
            return self.source.read(self.path)
        except OSError as error:
            raise ManifestError(
                f"Cannot read the table {self.source.root}/{self.path}: {error.strerror or 'no such file'}. Give a "
                ".csv, .jsonl or .parquet file."
            ) from error

    # --- columns -----------------------------------------------------------------------------------------------------

    def _columns(self, raw: Raw) -> Columns:
        self._require_named(raw.columns)
        taken = set(self.columns.values())
        facts = {name: name for name in _OURS if name in raw.columns and name not in taken}
        facts |= {ours: theirs for ours, theirs in self.columns.items() if ours in _OURS}
        paths = self._named_paths(raw)
        for column in raw.columns:
            modality = column.removesuffix("_path")
            if not modality or column in {*facts.values(), *taken, *self.keep}:
                continue
            if modality in _MEDIA or _all_arrays(raw, column):
                if modality in paths and modality not in self.columns:
                    raise ManifestError(
                        f"{self.path} must have one column for {modality}, but has {paths[modality]} and {column}. "
                        f"Choose one, such as `--column {modality}={column}`."
                    )
                paths.setdefault(modality, column)
        used = {*facts.values(), *paths.values(), *self.keep, ""}
        found = Columns(facts, paths, [name for name in raw.columns if name not in used])
        self._require_enough(raw, found)
        for modality, column in paths.items():
            if not is_modality(modality):
                raise ManifestError(
                    f"{self.path}: the modality of the column {column!r}{name_problem(modality, dots=False)}. Rename "
                    f"the column, or name its modality with `--column NAME={column}`."
                )
        return found

    def _require_named(self, columns: Sequence[str]) -> None:
        absent = [theirs for theirs in [*self.columns.values(), *self.keep] if theirs not in columns]
        if absent:
            raise ManifestError(
                f"{self.path} must have the column{'s' * (len(absent) > 1)} {', '.join(absent)}, but has "
                f"{', '.join(columns) or 'none'}."
            )

    def _named_paths(self, raw: Raw) -> dict[str, str]:
        """The columns that `columns` assigns to modalities."""
        named = {ours: theirs for ours, theirs in self.columns.items() if ours not in _OURS}
        for ours, theirs in named.items():
            if ours not in _MEDIA and not _all_arrays(raw, theirs):
                raise ManifestError(
                    f"`{ours}={theirs}` must name one of {', '.join(_OURS[:-2])}, audio, video and flow, or a modality "
                    f"of feature arrays (.npy), but {ours} is none of these, and {theirs} does not hold arrays."
                )
        return named

    def _require_enough(self, raw: Raw, found: Columns) -> None:
        if not raw.lines:
            return
        has = ", ".join(name for name in raw.columns if name)
        if "label" not in found.facts:
            raise ManifestError(
                f"{self.path} must have a column `label` (the class), but has {has}. If the column has another name, "
                "use `--column label=NAME`."
            )
        if not found.paths and not {"path", "paths"} & set(found.facts):
            raise ManifestError(
                f"{self.path} must have a column `path` (a file with video and audio), or one for each modality such "
                f"as `audio` and `video`, but has {has}. If the column has another name, use `--column path=NAME`."
            )

    # --- rows --------------------------------------------------------------------------------------------------------

    def _rows(self, raw: Raw, columns: Columns, warnings: list[str]) -> list[Line]:
        """The lines with the keys of a manifest."""
        understood: dict[str, str] = {}
        kept = _numbers_where_all_are(raw, self.keep)
        found = [
            Line(line.place, _row(line.row, columns, kept[number], understood)) for number, line in enumerate(raw.lines)
        ]
        if understood:
            synonyms = ", ".join(f"{given} as {ours}" for given, ours in understood.items())
            warnings.append(f"names of splits were read as synonyms: {synonyms}")
        return _with_ids(found)

    def _without_files(self, clips: Sequence[tuple[str, Clip]]) -> list[str]:
        """Problems of clips that lack a modality which other clips have and the store would keep."""
        every = canonical_order({m for _, clip in clips for m in clip.paths})
        problems = []
        for m in every:
            lacking = [place for place, clip in clips if m not in clip.paths]
            if lacking and (m in self.base.parts or m not in (AUDIO, VIDEO)):
                more = f" and {len(lacking) - _NAMED} more" if len(lacking) > _NAMED else ""
                problems.append(
                    f"every clip must have a file of {m}, but {len(lacking)} of {len(clips)} have none "
                    f"({', '.join(lacking[:_NAMED])}{more}); complete these lines, or remove them"
                )
        return problems

    # --- preset ------------------------------------------------------------------------------------------------------

    def _preset(self, clips: Sequence[Clip], warnings: list[str]) -> Preset:
        """The base preset's parts for media, and the shapes of feature arrays."""
        parts: dict[str, Part] = {}
        alike = [clip for clip in clips if AUDIO in clip.paths and clip.paths[AUDIO] == clip.paths.get(VIDEO)]
        if any(_is_array(clip.paths[AUDIO]) for clip in alike):
            raise ManifestError(
                f"{self.path}: `path` must be a file with video and audio, not an array (.npy). Name the column of "
                "arrays after their modality."
            )
        for m in canonical_order({m for clip in clips for m in clip.paths}):
            paths = [clip.paths[m] for clip in clips if m in clip.paths]
            if all(_is_array(path) for path in paths):
                parts[m] = self._feature_part(m, paths, warnings)
            elif m in self.base.parts:
                parts[m] = self.base.parts[m]
            elif m == FLOW:
                parts[m] = FlowPreset(3, 224, 224, source="given")
            elif m not in (AUDIO, VIDEO):
                raise ManifestError(
                    f"{self.path}: {m} must be feature arrays (.npy); only audio, video and flow are read from media."
                )
        if not parts:
            raise ManifestError(f"The preset {self.base.name!r} keeps none of the modalities of {self.path}.")
        self._require_used(parts)
        missing = [m for m in canonical_order(self.base.parts) if m not in parts]
        if missing and set(parts) & set(self.base.parts):
            warnings.append(f"the table has no {' and no '.join(missing)}; the store will have {' and '.join(parts)}")
        name = self.base.name if parts == dict(self.base.parts) else f"{self.base.name} of {self.name}"
        return Preset(name, parts)

    def _require_used(self, parts: Mapping[str, Part]) -> None:
        """Check that `lengths` and `images` name existing modalities, because others are misspelt.

        Raises:
            ManifestError: one of them is not a modality of feature arrays with two dimensions.
        """
        layouts = {m: part.layout for m, part in parts.items() if isinstance(part, FeaturePreset)}
        for option, given, wanted in (("length", self.lengths, "sequence"), ("image", self.images, "image")):
            fitting = [m for m, layout in layouts.items() if layout == wanted]
            wrong = [m for m in given if m not in fitting]
            if wrong:
                raise ManifestError(
                    f"`--{option}` must name a modality of feature arrays with two dimensions, but names "
                    f"{', '.join(wrong)}; {self.path} has {' and '.join(fitting) or 'none'}."
                )

    def _feature_part(self, modality: str, paths: Sequence[str], warnings: list[str]) -> FeaturePreset:
        chosen = [paths[i] for i in np.linspace(0, len(paths) - 1, min(len(paths), _ARRAYS_SAMPLED)).astype(int)]
        if len({clip.partition("#")[0] for clip in chosen}) == 1:
            chosen = chosen[:1]  # rows of one array
        shapes = self._shapes(modality, chosen)
        ndim = collections.Counter(len(shape) for shape in shapes).most_common(1)[0][0]
        alike = [shape for shape in shapes if len(shape) == ndim]
        usual = collections.Counter(alike).most_common(1)[0][0]
        if ndim == 1:
            return FeaturePreset("vector", usual)
        if ndim != 2:
            raise ManifestError(
                f"{self.path}: an array of {modality} must be a vector (D,) or a sequence (T, D), but has {ndim} "
                "dimensions."
            )
        if modality in self.images:
            return FeaturePreset("image", usual)
        width = collections.Counter(shape[1] for shape in alike).most_common(1)[0][0]
        lengths = [shape[0] for shape in alike]
        length = self.lengths.get(modality) or int(np.percentile(lengths, 95, method="inverted_cdf"))
        if min(lengths) < max(lengths):
            sampled = f" (in a sample of {len(lengths)})" if len(lengths) < len(paths) else ""
            warnings.append(
                f"sequences of {modality} have {min(lengths)} to {max(lengths)} steps{sampled}; {length} are kept of "
                f"each (change this with `--length {modality}=N`)"
            )
        return FeaturePreset("sequence", (length, width))

    def _shapes(self, modality: str, paths: Sequence[str]) -> list[tuple[int, ...]]:
        """The shapes of the arrays that can be read. The others will be quarantined."""
        shapes, why = [], ""
        for path in paths:
            name, row = row_of(path)
            with self.source.local(name) as local:
                try:
                    shape = open_array(local).shape
                except MediaError as error:
                    why = why or f"{name}: {error}"
                    continue
            shape = shape if row is None else shape[1:]
            if 0 not in shape:
                shapes.append(shape)
        if not shapes:
            raise ManifestError(
                f"Cannot read any of {len(paths)} sampled arrays of {modality} in {self.path} "
                f"({why or 'they are empty'})."
            )
        return shapes


# --- values of a table -----------------------------------------------------------------------------------------------


def _row(raw: Row, columns: Columns, kept: Row, understood: dict[str, str]) -> Row:
    """A line with the keys of a manifest. `understood` collects synonyms of splits."""
    row: Row = {name: raw[column] for name, column in columns.facts.items() if raw.get(column) is not None}
    row |= {name: _text(row[name]) for name in ("id", "label", "group") if name in row}
    row |= {name: _number(row[name]) for name in ("start", "end") if name in row}
    if isinstance(word := row.get("split"), str):
        row["split"] = _split(word, understood)
    paths = {m: raw[column] for m, column in columns.paths.items() if raw.get(column) is not None}
    if paths and "path" in row and not {AUDIO, VIDEO} & set(paths):  # a clip with further feature arrays
        row["paths"] = {AUDIO: row["path"], VIDEO: row.pop("path"), **paths}
    elif paths:
        given = row.get("paths")
        row["paths"] = {**given, **paths} if isinstance(given, dict) else paths
    if kept:
        truth = row.get("truth")
        row["truth"] = {**truth, **kept} if isinstance(truth, dict) else kept
    return row


def _split(word: str, understood: dict[str, str]) -> str:
    lower = word.strip().lower()
    if lower in _SYNONYMS:
        understood[word] = _SYNONYMS[lower]
    return _SYNONYMS.get(lower, lower if lower in SPLITS else word)


def _text(value: Any) -> Any:
    """Numbers and booleans as text, because a class may be named 3."""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, int | float | Decimal) or not math.isfinite(value):
        return value
    return str(int(value)) if value == int(value) else str(value)


def _number(value: Any) -> Any:
    if isinstance(value, Decimal):
        return float(value)
    # `clip_of` reports any other text as a problem.
    return float(value) if isinstance(value, str) and _NUMBER.fullmatch(value.strip()) else value


def _numbers_where_all_are(raw: Raw, keep: Sequence[str]) -> list[Row]:
    """The kept columns of each line. A column becomes numbers if all its texts are numbers; 007 is a name."""
    kept = [{column: line.row[column] for column in keep if line.row.get(column) is not None} for line in raw.lines]
    for column in keep:
        numbers = [_parsed_number(row[column]) for row in kept if column in row]
        if all(number is not None for number in numbers):
            for row, number in zip([row for row in kept if column in row], numbers, strict=True):
                row[column] = number
    return kept


# Python also reads digits in groups (`1_12`) and of other scripts, which are rather names.
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def _parsed_number(text: object) -> int | float | None:
    if not isinstance(text, str) or not _NUMBER.fullmatch(text.strip()):
        return None
    if text.lstrip("-").startswith("0") and text.lstrip("-").partition(".")[0] != "0":
        return None
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        return number if math.isfinite(number) else None
    return None


def _all_arrays(raw: Raw, column: str) -> bool:
    values = [value for _, row in raw.lines if (value := row.get(column)) is not None]
    return bool(values) and all(_is_array(value) for value in values)


def _is_array(path: object) -> bool:
    return isinstance(path, str) and row_of(path)[0].endswith(".npy")


def _left_out(columns: Columns) -> list[str]:
    if not columns.left_out:
        return []
    hints = []
    for name in columns.left_out:
        near = difflib.get_close_matches(name.lower(), _OURS[:-2], n=1, cutoff=0.8)
        if near and near[0] not in columns.facts:
            hints.append(f"; if {name} is the {near[0]}, use `--column {near[0]}={name}`")
    return [f"unknown columns are ignored: {', '.join(columns.left_out)} (store them with `--keep`){''.join(hints)}"]


def _with_ids(lines: list[Line]) -> list[Line]:
    """Add ids, if there are none: the file's name without its suffix; or its path, or path and times, if not unique."""
    if any("id" in line.row for line in lines):
        return lines
    for name_of in (_stem, _file, _file_and_times):
        names = [name_of(line.row) for line in lines]
        if len(set(names)) == len(names):
            break
    return [Line(line.place, {"id": name or line.place, **line.row}) for line, name in zip(lines, names, strict=True)]


def _file(row: Row) -> str | None:
    paths = row.get("paths")
    file = row.get("path") or (next(iter(paths.values()), None) if isinstance(paths, dict) else None)
    return None if file is None else str(file)


def _stem(row: Row) -> str | None:
    file = _file(row)
    if file is None:
        return None
    name, number = row_of(file)
    stem = PurePosixPath(name).stem
    return stem if number is None else f"{stem}-{number}"


def _file_and_times(row: Row) -> str | None:
    file = _file(row)
    times = "-".join("" if row.get(key) is None else str(row[key]) for key in ("start", "end"))
    return None if file is None else f"{file} {times}" if times != "-" else file


def _by(clips: Sequence[Clip]) -> str:
    return "group" if any(clip.group is not None for clip in clips) else "clip"


def _number_of(problem: str) -> int:
    """Sort key of problems: by line; those of the whole table come last."""
    place = problem.partition(":")[0].rpartition(" ")[2]
    return int(place) if place.isdigit() else 2**62
