"""Manifests: JSON Lines with one clip per line; paths are relative to the manifest's folder

    {"id": "a1", "path": "clips/a1.mp4", "label": "dog", "split": "train"}
    {"id": "a2", "paths": {"audio": "a2.wav", "video": "a2.mp4"}, "label": "cat", "split": "test",
     "group": "actor 7", "start": 1.5, "end": 4.5, "truth": {"muted": false}}

`path` is one file with both tracks. Clips of one `group` must be in the same split. `start` and `end` are in seconds.
"""

import difflib
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from remix_study.errors import ManifestError
from remix_study.files.disk import write_atomically
from remix_study.files.urls import is_url
from remix_study.modality import AUDIO, VIDEO
from remix_study.names import is_modality, name_problem
from remix_study.sample import Clip, SampleId

SPLITS = ("train", "val", "test")
_KEYS = ("id", "path", "paths", "label", "split", "group", "start", "end", "truth")
_SHOWN = 30


def read_manifest(path: Path) -> list[Clip]:
    """Read the clips of a manifest.

    Raises:
        ManifestError: the file cannot be read, or has problems; all of them are listed, with their lines.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # `splitlines` would also split at U+2028 within a text
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ManifestError(f"The manifest {path} cannot be read: {reason}.") from error
    problems: list[str] = []
    clips: list[tuple[str, Clip]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        found: list[str] = []
        row = json_row(line, found)
        clip = None if row is None else clip_of(row, path.parent, found)
        problems += [f"line {number}: {problem}" for problem in found]
        if clip is not None:
            clips.append((f"line {number}", clip))
    return checked(str(path), clips, problems)


def checked(name: str, clips: Sequence[tuple[str, Clip]], problems: list[str]) -> list[Clip]:
    """Check that clips form a corpus: unique ids, no group in several splits, every class in every split.

    Args:
        name: the file's name, for the message.
        clips: each with its place in the file, such as `line 3`.
        problems: problems that were found before.

    Raises:
        ManifestError: there are problems; all of them are listed.
    """
    problems = problems + _conflicts(clips)
    if not clips and not problems:
        problems.append("it has no clips")
    if not problems:
        problems += _absent_classes([clip for _, clip in clips])
    refuse(name, problems)
    return [clip for _, clip in clips]


def refuse(name: str, problems: Sequence[str]) -> None:
    """Raise an error that lists the problems, if there are any.

    Raises:
        ManifestError: `problems` is not empty.
    """
    if problems:
        shown = "\n".join(f"  {problem}" for problem in problems[:_SHOWN])
        more = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise ManifestError(f"{name} has {len(problems)} problem{'s' * (len(problems) > 1)}:\n{shown}{more}")


def write_manifest(path: Path, clips: Iterable[Clip]) -> None:
    """Write clips as a manifest, atomically. `read_manifest` returns equal clips."""
    write_atomically(path, "".join(json.dumps(row_of_clip(clip), ensure_ascii=False) + "\n" for clip in clips))


def row_of_clip(clip: Clip) -> dict[str, Any]:
    """A line of the manifest, as JSON data."""
    row: dict[str, Any] = {"id": clip.id}
    if set(clip.paths) == {AUDIO, VIDEO} and clip.paths[AUDIO] == clip.paths[VIDEO]:
        row["path"] = clip.paths[AUDIO]
    else:
        row["paths"] = dict(clip.paths)
    row |= {"label": clip.label, "split": clip.split}
    row |= {key: value for key in ("group", "start", "end") if (value := getattr(clip, key)) is not None}
    return row | ({"truth": dict(clip.truth)} if clip.truth else {})


def json_row(line: str, problems: list[str]) -> dict[str, Any] | None:
    """Parse a line of JSON Lines; None if it is not an object, which is added to `problems`."""
    try:
        row = json.loads(line, parse_constant=_no_constant)
    except ValueError as error:
        problems.append(f"it must be one JSON object, but is not ({error})")
        return None
    if not isinstance(row, dict):
        problems.append(f"it must be one JSON object, but is a {type(row).__name__}")
        return None
    return row


def clip_of(row: Mapping[str, Any], root: Path | str, problems: list[str]) -> Clip | None:
    """The clip of a manifest's line; None if there are problems, which are added to `problems`.

    Args:
        root: the folder or URL that paths are relative to, and must stay below.
    """
    for key in row:
        if key not in _KEYS:
            near = difflib.get_close_matches(key, _KEYS, n=1)
            problems.append(
                f"unknown key {key!r}; " + (f"did you mean `{near[0]}`?" if near else f"keys are {', '.join(_KEYS)}")
            )
    for key in ("id", "label", "split"):
        if key not in row:
            problems.append(f"`{key}` is missing")
        elif not isinstance(row[key], str) or not row[key]:
            problems.append(f"`{key}` must be a string that is not empty, but is {row[key]!r}")
    if isinstance(row.get("split"), str) and row["split"] and row["split"] not in SPLITS:
        near = difflib.get_close_matches(row["split"], SPLITS, n=1)
        problems.append(
            f"`split` must be one of {', '.join(SPLITS)}, but is {row['split']!r}"
            + (f"; did you mean {near[0]}?" if near else "")
        )
    paths = _paths(row, root, problems)
    _check_optional(row, problems)
    if problems:
        return None
    return Clip(
        id=SampleId(row["id"]), paths=paths, label=row["label"], split=row["split"], group=row.get("group"),
        start=_seconds(row.get("start")), end=_seconds(row.get("end")), truth=row.get("truth") or {},
    )  # fmt: skip


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _seconds(value: float | None) -> float | None:
    return None if value is None else float(value)


def _check_optional(row: Mapping[str, Any], problems: list[str]) -> None:
    group, start, end, truth = (row.get(key) for key in ("group", "start", "end", "truth"))
    if group is not None and not isinstance(group, str):
        problems.append(f"`group` must be a string, but is {group!r}")
    for key, value in (("start", start), ("end", end)):
        if value is not None and (not _is_number(value) or value < 0):
            problems.append(f"`{key}` must be seconds, 0 or more, but is {value!r}")
    if start is not None and end is not None and _is_number(start) and _is_number(end) and start >= end:
        problems.append(f"`start` must be before `end`, but {start} is not before {end}")
    if truth is not None and not (isinstance(truth, dict) and all(map(_is_fact, truth.values()))):
        problems.append("`truth` must be an object of finite numbers, strings and booleans, or of objects of these")


def _is_fact(value: object, *, nested: bool = False) -> bool:
    if isinstance(value, dict) and not nested:
        return all(_is_fact(each, nested=True) for each in value.values())
    return isinstance(value, str | bool) or _is_number(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _paths(row: Mapping[str, Any], root: Path | str, problems: list[str]) -> dict[str, str]:
    if ("path" in row) == ("paths" in row):
        problems.append(
            "one of `path` and `paths` must be given" + (", not both" if "path" in row else ", but neither is")
        )
        return {}
    given = row["paths"] if "paths" in row else {AUDIO: row["path"], VIDEO: row["path"]}
    if not isinstance(given, dict) or not given:
        problems.append('`paths` must be an object such as {"audio": "a.wav", "video": "a.mp4"}')
        return {}
    result: dict[str, str] = {}
    wrong: dict[str, None] = {}
    for modality in given:
        if not is_modality(modality):
            problems.append(f"the modality{name_problem(modality, dots=False)}")
    for modality, path in given.items():
        if not isinstance(path, str) or not path or "\0" in path:
            wrong[f"a path must be a string that is not empty, but is {path!r}"] = None
            continue
        inside = _inside(root, path)
        if inside is None:
            wrong[
                f"a path must lie within the manifest's folder, but {path!r} does not; move or link the file there"
            ] = None
        else:
            result[modality] = inside
    problems += wrong
    return result


def _inside(root: Path | str, path: str) -> str | None:
    if is_url(root):
        path = path.removeprefix(f"{root}/")
    if is_url(path):
        return None
    if is_url(root):  # treat its path like that of a folder
        root = Path("/", str(root).partition("://")[2])
    # Links are not resolved, because the owner of a corpus may link to another disk.
    absolute = os.path.normpath(Path(root).absolute() / path)
    base = os.path.normpath(Path(root).absolute())
    if not PurePath(absolute).is_relative_to(base) or absolute == base:
        return None
    return PurePath(absolute).relative_to(base).as_posix()


def _conflicts(clips: Sequence[tuple[str, Clip]]) -> list[str]:
    problems: list[str] = []
    first_with: dict[str, str] = {}
    split_of: dict[str, tuple[str, str]] = {}
    for place, clip in clips:
        if clip.id in first_with:
            problems.append(f"{place}: the id {clip.id!r} must occur once, but {first_with[clip.id]} has it too")
        first_with.setdefault(clip.id, place)
        if clip.group is None:
            continue
        first, split = split_of.setdefault(clip.group, (place, clip.split))
        if split != clip.split:
            problems.append(
                f"{place}: the group {clip.group!r} must stay in one split, but is in {clip.split!r} here and in "
                f"{split!r} on {first}"
            )
    return problems


def _absent_classes(clips: list[Clip]) -> list[str]:
    splits = [split for split in SPLITS if any(clip.split == split for clip in clips)]
    there = {(clip.split, clip.label) for clip in clips}
    return [
        f"the class {label!r} has no clip in the split {split!r}; add some, or remove the class"
        for split in splits
        for label in sorted({clip.label for clip in clips})
        if (split, label) not in there
    ]
