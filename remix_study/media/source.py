"""Where a corpus's files are: a folder of this machine, or a URL that fsspec knows (`s3://bucket/corpus`)

Everything that reads a corpus reads it through a `Source`, by paths relative to its root. A path may end in `#17`, the
row of an array in a `.npy` file; and it may be a folder, whose files are the frames of one clip.
"""

import contextlib
import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

_ROW = re.compile(r"^(.*\.npy)#(\d+)$")
_URL = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]+://")


class Source(Protocol):
    """Files below one root. Picklable: worker processes read the same source."""

    @property
    def root(self) -> str: ...

    def list(self, below: str = "") -> Sequence[str]:
        """Every file below a folder, as sorted paths relative to the root; none where there is no such folder."""
        ...

    def exists(self, path: str) -> bool:
        """Whether there is a file or a folder."""
        ...

    def identity(self, path: str) -> tuple[int, str] | None:
        """Bytes and a digest of the content of a file, or of all files of a folder; None where there is none."""
        ...

    def read(self, path: str) -> bytes:
        """
        Raises:
            FileNotFoundError: there is no such file.
        """
        ...

    def local(self, path: str) -> AbstractContextManager[Path]:
        """The file or folder as one of this machine, while in the block; it need not exist."""
        ...


def source_at(where: str | Path) -> Source:
    """
    Raises:
        SourceError: it is a URL that fsspec does not know, or whose package is not installed.
    """
    if isinstance(where, str) and is_url(where):
        raise NotImplementedError(where)
    return LocalSource(Path(where))


def is_url(where: str | Path) -> bool:
    return isinstance(where, str) and _URL.match(where) is not None


def row_of(path: str) -> tuple[str, int | None]:
    """`features/audio.npy#17` -> (`features/audio.npy`, 17); any other path -> (path, None)."""
    found = _ROW.match(path)
    return (path, None) if found is None else (found[1], int(found[2]))


class LocalSource:
    """A folder of this machine."""

    def __init__(self, root: Path) -> None:
        self.root = str(root.absolute())

    def list(self, below: str = "") -> Sequence[str]:
        root = Path(self.root)
        return sorted(path.relative_to(root).as_posix() for path in (root / below).rglob("*") if path.is_file())

    def exists(self, path: str) -> bool:
        return (Path(self.root) / row_of(path)[0]).exists()

    def identity(self, path: str) -> tuple[int, str] | None:
        whole = Path(self.root) / row_of(path)[0]
        try:
            if whole.is_dir():
                return _of_folder(whole)
            if not whole.is_file():
                return None
            with whole.open("rb") as file:
                return whole.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:  # one file that may not be read must not stop the others: decoding it says what is wrong
            return None

    def read(self, path: str) -> bytes:
        return (Path(self.root) / path).read_bytes()

    @contextlib.contextmanager
    def local(self, path: str) -> Iterator[Path]:
        yield Path(self.root) / row_of(path)[0]


def _of_folder(folder: Path) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder).as_posix()} {len(content)}\n".encode())
        digest.update(hashlib.sha256(content).digest())
        size += len(content)
    return size, digest.hexdigest()
