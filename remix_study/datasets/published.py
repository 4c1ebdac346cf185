"""Published lists of a corpus: reading them, and reporting the listed clips that are missing

Lists come with a corpus, or are in a separate folder (`--lists`). All problems of a list are reported at once, with
their lines. Missing clips are counted by class, because results on different subsets of a corpus are not comparable.
"""

import collections
import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from remix_study.datasets.manifest import SPLITS
from remix_study.errors import ManifestError
from remix_study.media.source import Source
from remix_study.sample import Clip

_SHOWN = 10


@dataclass(frozen=True)
class PublishedList:
    """A text file of a corpus. `where` is its name in messages."""

    where: str
    text: str

    def lines(self) -> list[tuple[int, str]]:
        """The lines that are not empty, stripped, with their numbers."""
        stripped = ((number, line.strip()) for number, line in enumerate(self.text.splitlines(), start=1))
        return [(number, line) for number, line in stripped if line]

    def rows(self) -> list[dict[str, str]]:
        """The rows of a CSV file with a header, as stripped values by column; missing cells are empty.

        Raises:
            ManifestError: it is not a CSV file.
        """
        try:
            read = list(csv.DictReader(self.text.splitlines(), restval=""))
        except csv.Error as error:
            raise ManifestError(f"Cannot read {self.where} as a CSV file: {error}.") from error
        # `DictReader` stores surplus cells under None.
        return [{column.strip(): cell.strip() for column, cell in row.items() if column is not None} for row in read]


def find_list(
    names: Sequence[str], source: Source, files: Iterable[str], folder: Path | None = None
) -> PublishedList | None:
    """Find a list by its names, first in `folder`, then among `files`, where the one nearest to the root wins.

    Args:
        names: possible file names, in order of preference.
        files: all files of the source.
        folder: a separate folder with lists.

    Returns:
        The list; None if it is not found.

    Raises:
        ManifestError: `folder` is not a folder, or the file cannot be read as UTF-8 text.
    """
    if folder is not None:
        if not folder.is_dir():
            raise ManifestError(
                f"`--lists` must be the folder that holds the published lists, but {folder} is not a folder."
            )
        for name in names:
            if (path := folder / name).is_file():
                return PublishedList(str(path), _text(str(path), path.read_bytes))
    named = collections.defaultdict(list)
    for file in files:
        named[PurePosixPath(file).name].append(file)
    for name in names:
        if named[name]:
            inside = min(named[name], key=lambda file: (file.count("/"), file))
            return PublishedList(inside, _text(inside, partial(source.read, inside)))
    return None


def _text(where: str, read: Callable[[], bytes]) -> str:
    try:
        return read().decode("utf-8-sig")  # some published lists begin with a byte order mark
    except UnicodeDecodeError as error:
        raise ManifestError(f"{where} must be UTF-8 text, but is not. Save it again as UTF-8.") from error
    except OSError as error:
        raise ManifestError(f"Cannot read {where}: {error.strerror}.") from error


def shown(names: Iterable[str], most: int = _SHOWN) -> str:
    """The first names and the number of the others, such as `a, b, c and 4 more`."""
    given = list(names)
    return ", ".join(given[:most]) + (f" and {len(given) - most} more" if len(given) > most else "")


def listing(what: str, names: Iterable[str]) -> str:
    """A warning such as `clips without audio, excluded (2): a, b.`"""
    given = list(names)
    return f"{what} ({len(given)}): {shown(given)}."


def absence(absent: Mapping[str, str], listed: Mapping[str, int]) -> list[str]:
    """A warning that counts the missing clips by class; no warning if none is missing.

    Args:
        absent: class of each missing clip, by id.
        listed: number of listed clips, by class.
    """
    if not absent:
        return []
    of_class = collections.Counter(absent.values())
    counts = ", ".join(f"{label} {of_class[label]} of {listed[label]}" for label in sorted(of_class))
    return [f"{len(absent)} of {sum(listed.values())} listed clips are missing or incomplete, by class: {counts}."]


def unrepresented(clips: Iterable[Clip]) -> list[str]:
    """A warning for each split that lacks a class."""
    present = collections.defaultdict(set)
    for clip in clips:
        present[clip.split].add(clip.label)
    labels = set().union(*present.values())
    return [
        f"the split {split} has no clips of {shown(sorted(labels - present[split]))}, so its accuracy excludes them."
        for split in SPLITS
        if present and labels - present[split]
    ]


def sizes(clips: Iterable[Clip]) -> str:
    """Number of clips in each split, such as `5954 train, 744 val, 744 test`."""
    counts = collections.Counter(clip.split for clip in clips)
    return ", ".join(f"{counts[split]} {split}" for split in SPLITS)
