"""What published lists say, and how far the files that are there fall short of it

Lists come with a corpus, or lie in a folder of their own (`--lists`). Their problems are reported all at once, with
their lines. Clips that a list names and that are not there are counted per class: two groups that trained on what was
left of a corpus have not trained on the same corpus.
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
    """A text file of a corpus; `where` is how a message calls it."""

    where: str
    text: str

    def lines(self) -> list[tuple[int, str]]:
        """Its lines that are not empty, with their numbers, without spaces around them."""
        stripped = ((number, line.strip()) for number, line in enumerate(self.text.splitlines(), start=1))
        return [(number, line) for number, line in stripped if line]

    def rows(self) -> list[dict[str, str]]:
        """Of a CSV with a header: each row by column, without spaces around either; what a short row lacks is empty.

        Raises:
            ManifestError: it is no CSV.
        """
        try:
            read = list(csv.DictReader(self.text.splitlines(), restval=""))
        except csv.Error as error:
            raise ManifestError(f"{self.where} must be a CSV file, but cannot be read as one ({error}).") from error
        # Cells beyond the header are under None.
        return [{column.strip(): cell.strip() for column, cell in row.items() if column is not None} for row in read]


def find_list(
    names: Sequence[str], source: Source, files: Iterable[str], folder: Path | None = None
) -> PublishedList | None:
    """The first of `names` that is in `folder`, else in the source: there at the top, or the least deep of its `files`.

    Raises:
        ManifestError: `folder` is no folder, or the file cannot be read as UTF-8 text.
    """
    if folder is not None:
        if not folder.is_dir():
            raise ManifestError(f"`--lists` must be the folder that holds the published lists, but {folder} is none.")
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
        raise ManifestError(f"{where} must be a file that can be read, but is not ({error.strerror}).") from error


def shown(names: Iterable[str], most: int = _SHOWN) -> str:
    """`a, b, c`, and how many more there are."""
    given = list(names)
    return ", ".join(given[:most]) + (f" and {len(given) - most} more" if len(given) > most else "")


def listing(what: str, names: Iterable[str]) -> str:
    """A warning such as `clips without sound, left out (2): a, b.`"""
    given = list(names)
    return f"{what} ({len(given)}): {shown(given)}."


def absence(absent: Mapping[str, str], listed: Mapping[str, int]) -> list[str]:
    """A warning that counts what lists name and is not there, class by class; none if all is there.

    Args:
        absent: id -> class.
        listed: class -> how many clips the lists have.
    """
    if not absent:
        return []
    of_class = collections.Counter(absent.values())
    said = ", ".join(f"{label} {of_class[label]} of {listed[label]}" for label in sorted(of_class))
    return [f"{len(absent)} of {sum(listed.values())} listed clips are not there or not whole, by class: {said}."]


def unrepresented(clips: Iterable[Clip]) -> list[str]:
    """A warning for each split that lacks a class."""
    there = collections.defaultdict(set)
    for clip in clips:
        there[clip.split].add(clip.label)
    labels = set().union(*there.values())
    return [
        f"the split {split} has no clip of {shown(sorted(labels - there[split]))}: its accuracy says nothing of them."
        for split in SPLITS
        if there and labels - there[split]
    ]


def sizes(clips: Iterable[Clip]) -> str:
    """`5954 train, 744 val, 744 test`."""
    counts = collections.Counter(clip.split for clip in clips)
    return ", ".join(f"{counts[split]} {split}" for split in SPLITS)
