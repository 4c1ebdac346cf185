"""Where a corpus's files are: a folder of this machine, or a URL that fsspec knows (`s3://bucket/corpus`)

Everything that reads a corpus reads it through a `Source`, by paths relative to its root. A path may end in `#17`, the
row of an array in a `.npy` file; and it may be a folder, whose files are the frames of one clip.
"""

import collections
import contextlib
import hashlib
import os
import posixpath
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from remix_study.errors import SourceError
from remix_study.files.scratch import scratch
from remix_study.files.urls import is_url, no_bucket, open_url, path_of, shown, tag_of, url_errors

_ROW = re.compile(r"^(.*\.npy)#(\d+)$")
_ARRAYS_KEPT = 4  # an array of each modality: rows of one file follow each other


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
    return RemoteSource(str(where)) if is_url(where) else LocalSource(path_of(where))


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


class RemoteSource:
    """A folder at a URL, such as `s3://bucket/corpus`.

    The identity of a file is what its service says of it (bytes, and ETag or checksum): nothing is downloaded for it,
    and the same content stored in another way can count as another. It is that of the first look.

    Raises:
        SourceError: every method, where the service does not answer, does not let us in, or has no such bucket.
    """

    def __init__(self, url: str) -> None:
        self.root = url.rstrip("/")
        self._forget()
        self._connect()  # a misspelt protocol and a missing package show at once

    def _forget(self) -> None:
        self._connections: dict[tuple[int, int], tuple[Any, str]] = {}
        self._guard = threading.Lock()
        self._known: dict[str, tuple[int, str]] = {}
        self._looked_into: set[str] = set()
        self._arrays: collections.OrderedDict[str, Path] = collections.OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.root = state["root"]
        self._forget()

    def _connect(self) -> tuple[Any, str]:
        """A connection is neither shared with a forked process nor between threads."""
        mine = (os.getpid(), threading.get_ident())
        if mine not in self._connections:
            self._connections[mine] = open_url(self.root)
        return self._connections[mine]

    def list(self, below: str = "") -> Sequence[str]:
        with url_errors(self.root):
            found = self._files(_inside(below))
        self._known |= found
        self._looked_into |= {posixpath.dirname(path) for path in found}
        return sorted(found)

    def exists(self, path: str) -> bool:
        path = _inside(row_of(path)[0])
        system, root = self._connect()
        with url_errors(self.root):
            return path in self._known or bool(system.exists(f"{root}/{path}"))

    def identity(self, path: str) -> tuple[int, str] | None:
        path = _inside(row_of(path)[0])
        with url_errors(self.root):
            self._look_into(posixpath.dirname(path))
            if path in self._known:
                return self._known[path]
            system, root = self._connect()
            try:
                info = system.info(f"{root}/{path}")
            except FileNotFoundError:
                return None
            return self._of_folder(path) if info["type"] == "directory" else self._of_file(info, path)

    def read(self, path: str) -> bytes:
        system, root = self._connect()
        content: bytes | None = None
        with url_errors(self.root), contextlib.suppress(FileNotFoundError):  # said below
            content = system.cat_file(f"{root}/{_inside(path)}")
        if content is None:
            raise FileNotFoundError(f"there is no file {path!r} at {shown(self.root)}")
        return content

    @contextlib.contextmanager
    def local(self, path: str) -> Iterator[Path]:
        path = _inside(row_of(path)[0])
        if path.endswith(".npy"):
            yield self._array(path)
            return
        place = Path(tempfile.mkdtemp(dir=scratch()))
        try:
            yield self._download(path, place)
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def _look_into(self, folder: str) -> None:
        """One question about all files of a folder, instead of one for each."""
        with self._guard:
            if folder in self._looked_into:
                return
            system, root = self._connect()
            # Where nothing is listed (plain https cannot), files are asked for one by one.
            with contextlib.suppress(FileNotFoundError, NotADirectoryError, NotImplementedError):
                for info in system.ls(posixpath.join(root, folder), detail=True):
                    name = posixpath.join(folder, posixpath.basename(str(info["name"])))
                    if info["type"] == "file" and info.get("size") is not None and tag_of(info) is not None:
                        self._known[name] = self._of_file(info, name)
            self._looked_into.add(folder)

    def _files(self, below: str) -> dict[str, tuple[int, str]]:
        """Identities of all files below a folder."""
        system, root = self._connect()
        start = posixpath.join(root, below).rstrip("/")
        try:
            found = system.find(start, detail=True)
        except FileNotFoundError as error:
            if no_bucket(error):
                raise
            return {}
        paths = {posixpath.relpath(name, root): info for name, info in found.items() if name != start}
        return {path: self._of_file(info, path) for path, info in paths.items() if _is_plain(path)}

    def _of_file(self, info: Mapping[str, Any], path: str) -> tuple[int, str]:
        tag = tag_of(info)
        if tag is None or info.get("size") is None:  # a service that says nothing: then the content must
            content = self.read(path)
            return len(content), hashlib.sha256(content).hexdigest()
        return int(info["size"]), tag

    def _of_folder(self, folder: str) -> tuple[int, str]:
        digest, size = hashlib.sha256(), 0
        for path, (length, tag) in sorted(self._files(folder).items()):
            digest.update(f"{posixpath.relpath(path, folder)} {length} {tag}\n".encode())
            size += length
        return size, digest.hexdigest()

    def _download(self, path: str, place: Path) -> Path:
        """The file or folder in `place`; where there is none, a path to nothing."""
        system, root = self._connect()
        target = place / (posixpath.basename(path) or "root")
        with url_errors(self.root):
            try:
                system.get_file(f"{root}/{path}", str(target))
            except (FileNotFoundError, IsADirectoryError):
                target.unlink(missing_ok=True)
            if target.is_file():
                return target
            if target.is_dir():  # what some file systems make of a folder
                shutil.rmtree(target)
            names = sorted(self._files(path))
            targets = [target / posixpath.relpath(name, path) for name in names]
            for folder in {each.parent for each in targets}:
                folder.mkdir(parents=True, exist_ok=True)
            if names:
                system.get([f"{root}/{name}" for name in names], [str(each) for each in targets])
        return target

    def _array(self, path: str) -> Path:
        """A `.npy` file is kept for the next rows, until others have been asked for."""
        with self._guard:
            if path not in self._arrays:
                self._arrays[path] = self._download(path, Path(tempfile.mkdtemp(dir=scratch())))
            self._arrays.move_to_end(path)
            while len(self._arrays) > _ARRAYS_KEPT:
                _, oldest = self._arrays.popitem(last=False)
                shutil.rmtree(oldest.parent, ignore_errors=True)
            return self._arrays[path]


def _is_plain(path: str) -> bool:
    """Services allow names that would lead out of a folder of this machine."""
    return not {"", ".", ".."} & set(path.split("/"))


def _inside(path: str) -> str:
    """
    Raises:
        SourceError: the path leads out of the root.
    """
    normal = posixpath.normpath(path) if path else ""
    if normal == ".." or normal.startswith(("/", "../")):
        raise SourceError(f"a path must lead to a file below the root of its corpus, but is {path!r}.")
    return "" if normal == "." else normal
