"""Sources: the files of a corpus, in a folder of this machine or at a URL that fsspec supports (`s3://bucket/corpus`)

All code reads a corpus through a `Source`, by paths relative to its root. A path may end in `#17`, which names a row of
the array in a `.npy` file. A path may also be a folder, whose files are the frames of one clip.
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
_CACHED_ARRAYS = 4  # `.npy` files, about one per modality: consecutive clips are often rows of the same file


class Source(Protocol):
    """Files below one root. Picklable, so that worker processes read the same source."""

    @property
    def root(self) -> str:
        """An absolute path, or a URL."""
        ...

    def list(self, below: str = "") -> Sequence[str]:
        """All files below a folder, as sorted paths relative to the root; empty if there is no such folder."""
        ...

    def exists(self, path: str) -> bool:
        """Whether there is a file or folder at a path."""
        ...

    def identity(self, path: str) -> tuple[int, str] | None:
        """Size in bytes and digest of a file, or of all files of a folder; None if there is none."""
        ...

    def read(self, path: str) -> bytes:
        """The content of a file.

        Raises:
            FileNotFoundError: there is no such file.
        """
        ...

    def local(self, path: str) -> AbstractContextManager[Path]:
        """The file or folder on this machine, for use in a `with` block. It may not exist."""
        ...


def source_at(where: str | Path) -> Source:
    """The source at a folder or URL.

    Raises:
        SourceError: fsspec does not support the URL, or the package for it is not installed.
    """
    return RemoteSource(str(where)) if is_url(where) else LocalSource(path_of(where))


def row_of(path: str) -> tuple[str, int | None]:
    """Split `features/audio.npy#17` into (`features/audio.npy`, 17); any other path gives (path, None)."""
    found = _ROW.match(path)
    return (path, None) if found is None else (found[1], int(found[2]))


class LocalSource:
    """A folder of this machine."""

    def __init__(self, root: Path) -> None:
        self.root = str(root.absolute())

    def list(self, below: str = "") -> Sequence[str]:
        root = Path(self.root)
        return sorted(path.relative_to(root).as_posix() for path in _files_below(root / below))

    def exists(self, path: str) -> bool:
        return (Path(self.root) / row_of(path)[0]).exists()

    def identity(self, path: str) -> tuple[int, str] | None:
        absolute = Path(self.root) / row_of(path)[0]
        try:
            if absolute.is_dir():
                return _folder_identity(absolute)
            if not absolute.is_file():
                return None
            with absolute.open("rb") as file:
                return absolute.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:  # an unreadable file must not stop the others; decoding it reports the reason
            return None

    def read(self, path: str) -> bytes:
        return (Path(self.root) / path).read_bytes()

    @contextlib.contextmanager
    def local(self, path: str) -> Iterator[Path]:
        yield Path(self.root) / row_of(path)[0]


def _files_below(folder: str | Path, above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """All files below a folder, also in linked folders: a corpus may be spread over several disks.

    Folders that are missing or cannot be read are left out.

    Args:
        above: the folders that hold it, to which a link may lead back.
    """
    real = Path(folder).resolve()
    if real in above:
        return
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        if entry.is_dir():
            yield from _files_below(entry.path, above | {real})
        elif entry.is_file():
            yield Path(entry.path)


def _folder_identity(folder: Path) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    for path in sorted(_files_below(folder)):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder).as_posix()} {len(content)}\n".encode())
        digest.update(hashlib.sha256(content).digest())
        size += len(content)
    return size, digest.hexdigest()


class RemoteSource:
    """A folder at a URL, such as `s3://bucket/corpus`.

    The identity of a file is the size and the ETag or checksum that the service states, so that nothing is downloaded.
    Therefore the same content stored in another way can have another identity. Identities are cached.

    Raises:
        SourceError: raised by every method if the service does not answer or denies access, or the bucket is missing.
    """

    def __init__(self, url: str) -> None:
        self.root = url.rstrip("/")
        self._reset()
        self._connect()  # so that a misspelt protocol or a missing package raises at once

    def _reset(self) -> None:
        self._connections: dict[tuple[int, int], tuple[Any, str]] = {}
        self._guard = threading.Lock()
        self._known: dict[str, tuple[int, str]] = {}
        self._listed: set[str] = set()
        self._arrays: collections.OrderedDict[str, Path] = collections.OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.root = state["root"]
        self._reset()

    def _connect(self) -> tuple[Any, str]:
        """The file system and the root's path in it, opened once per process and thread."""
        mine = (os.getpid(), threading.get_ident())
        if mine not in self._connections:
            self._connections[mine] = open_url(self.root)
        return self._connections[mine]

    def list(self, below: str = "") -> Sequence[str]:
        with url_errors(self.root):
            found = self._files(_inside(below))
        self._known |= found
        self._listed |= {posixpath.dirname(path) for path in found}
        return sorted(found)

    def exists(self, path: str) -> bool:
        path = _inside(row_of(path)[0])
        system, root = self._connect()
        with url_errors(self.root):
            return path in self._known or bool(system.exists(f"{root}/{path}"))

    def identity(self, path: str) -> tuple[int, str] | None:
        path = _inside(row_of(path)[0])
        with url_errors(self.root):
            self._list_folder(posixpath.dirname(path))
            if path in self._known:
                return self._known[path]
            system, root = self._connect()
            try:
                info = system.info(f"{root}/{path}")
            except FileNotFoundError:
                return None
            return self._folder_identity(path) if info["type"] == "directory" else self._file_identity(info, path)

    def read(self, path: str) -> bytes:
        system, root = self._connect()
        content: bytes | None = None
        with url_errors(self.root), contextlib.suppress(FileNotFoundError):  # raised below, with the URL
            content = system.cat_file(f"{root}/{_inside(path)}")
        if content is None:
            raise FileNotFoundError(f"No file {path!r} at {shown(self.root)}")
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

    def _list_folder(self, folder: str) -> None:
        """Cache the identities of all files of a folder with one request, instead of one request per file."""
        with self._guard:
            if folder in self._listed:
                return
            system, root = self._connect()
            # If the service cannot list (plain https), `identity` asks for each file.
            with contextlib.suppress(FileNotFoundError, NotADirectoryError, NotImplementedError):
                for info in system.ls(posixpath.join(root, folder), detail=True):
                    name = posixpath.join(folder, posixpath.basename(str(info["name"])))
                    if info["type"] == "file" and info.get("size") is not None and tag_of(info) is not None:
                        self._known[name] = self._file_identity(info, name)
            self._listed.add(folder)

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
        return {path: self._file_identity(info, path) for path, info in paths.items() if _is_safe(path)}

    def _file_identity(self, info: Mapping[str, Any], path: str) -> tuple[int, str]:
        tag = tag_of(info)
        if tag is None or info.get("size") is None:  # the service states no identity, so download the content
            content = self.read(path)
            return len(content), hashlib.sha256(content).hexdigest()
        return int(info["size"]), tag

    def _folder_identity(self, folder: str) -> tuple[int, str]:
        digest, size = hashlib.sha256(), 0
        for path, (length, tag) in sorted(self._files(folder).items()):
            digest.update(f"{posixpath.relpath(path, folder)} {length} {tag}\n".encode())
            size += length
        return size, digest.hexdigest()

    def _download(self, path: str, place: Path) -> Path:
        """Download a file or folder into `place`. The returned path does not exist if there is neither."""
        system, root = self._connect()
        target = place / (posixpath.basename(path) or "root")
        with url_errors(self.root):
            try:
                system.get_file(f"{root}/{path}", str(target))
            except (FileNotFoundError, IsADirectoryError):
                target.unlink(missing_ok=True)
            if target.is_file():
                return target
            if target.is_dir():  # some fsspec file systems create an empty folder here
                shutil.rmtree(target)
            names = sorted(self._files(path))
            targets = [target / posixpath.relpath(name, path) for name in names]
            for folder in {each.parent for each in targets}:
                folder.mkdir(parents=True, exist_ok=True)
            if names:
                system.get([f"{root}/{name}" for name in names], [str(each) for each in targets])
        return target

    def _array(self, path: str) -> Path:
        """A downloaded `.npy` file, cached because the next clips are often rows of the same file."""
        with self._guard:
            if path not in self._arrays:
                self._arrays[path] = self._download(path, Path(tempfile.mkdtemp(dir=scratch())))
            self._arrays.move_to_end(path)
            while len(self._arrays) > _CACHED_ARRAYS:
                _, oldest = self._arrays.popitem(last=False)
                shutil.rmtree(oldest.parent, ignore_errors=True)
            return self._arrays[path]


def _is_safe(path: str) -> bool:
    """Whether a path stays below its folder: object stores allow names such as `../a`."""
    return not {"", ".", ".."} & set(path.split("/"))


def _inside(path: str) -> str:
    """Normalise a path relative to the root.

    Raises:
        SourceError: the path is not below the root.
    """
    normal = posixpath.normpath(path) if path else ""
    if normal == ".." or normal.startswith(("/", "../")):
        raise SourceError(f"A path must be below the root of its corpus, but is {path!r}.")
    return "" if normal == "." else normal
