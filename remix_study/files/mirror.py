"""A workspace at a URL: folders of this machine, and their twins there

    CACHE/<url>.workspace/      the copy of a workspace on this machine; `.url` in it says of what
    .mirror.json                in a copied folder: what was last known to be the same on both sides

What is at the URL is the truth. Who works on something pulls it first, and pushes what it writes: small files whole,
again and again, in an order in which whoever reads in between finds nothing that refers to what is not there yet.
"""

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from remix_study.errors import SourceError
from remix_study.files.disk import is_temporary, storage_errors, sync, temporary_path, write_atomically
from remix_study.files.remote_folder import RemoteFolder, cache_folder
from remix_study.files.urls import is_url, path_of, shown, tag_of

_URL, _INDEX = ".url", ".mirror.json"
_AT_ONCE = 16  # files on their way: each waits for the service most of the time
_PATIENCE_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0)  # after the packages' own tries: four minutes
# What refers to other files, in the order in which it may be seen: a run that says it is complete is so.
_LATE = ("history.jsonl", "spool.jsonl", "best.pt", "last.pt", "ended.json", "result.json")
_log = logging.getLogger(__name__)


def workspace_at(where: str | Path) -> Path:
    """A folder as it is given; of a URL, the folder of this machine that is the copy of what lies there.

    Raises:
        StoreError: the folder for copies cannot be written.
    """
    if not is_url(where):
        return path_of(where)
    url = str(where).rstrip("/")
    folder = cache_folder(url).with_suffix(".workspace")
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / _URL).exists():
            write_atomically(folder / _URL, url)
    return folder


def url_of(folder: Path) -> str | None:
    """The URL of which `folder` is the copy; None: it is no copy."""
    for parent in (folder, *folder.parents):
        mark = parent / _URL
        if mark.is_file():
            below = folder.relative_to(parent).as_posix()
            url = mark.read_text(encoding="utf-8")
            return url if below == "." else f"{url}/{below}"
    return None


def place_of(folder: Path) -> str:
    """Where a folder is, for a person: its path, or the URL of which it is the copy."""
    home = url_of(folder)
    return str(folder) if home is None else shown(home)


class _Known(NamedTuple):
    """A file as both sides had it: the service's tag, and size and time of change here."""

    tag: str | None
    size: int
    changed_ns: int


class Mirror:
    """`folder` here and `url` there. One thread at a time; `skip(path)` says which paths stay out of it.

    Every method raises `SourceError` where the service does not answer or refuses.
    """

    def __init__(self, url: str, folder: Path, *, skip: Callable[[str], bool] = lambda _: False) -> None:
        self.url, self.folder = url, folder
        self._skip = skip
        self._site = RemoteFolder(url)
        self._index: dict[str, _Known] = _read_index(folder / _INDEX)
        self._lock = threading.RLock()
        self._next_index_s = 0.0

    # --- from there --------------------------------------------------------------------------------------------------

    def pull(
        self,
        below: str = "",
        *,
        skip: Callable[[str], bool] | None = None,
        flat: bool = False,
        restore: bool = False,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> bool:
        """Bring here what differs there, and remove what was removed there; whether there is anything.

        Args:
            below: of one folder only. flat: without the folders in it.
            restore: also what was removed here, which otherwise is for `push` to remove there.
            on_progress: is told of files, (done, all).
        """
        with self._lock:
            there = self._there(below, skip, flat)
            wanted = [path for path in there if self._differs(path, there[path], restore)]
            late = [path for path in wanted if PurePosixPath(path).name in _LATE]
            if late:
                # Read before the others are looked for: all that they refer to is there by then.
                parts = list(self._side_by_side(self._download, [(path, there[path]) for path in late]))
                there = self._there(below, skip, flat) | {path: there[path] for path in late}
                wanted = [path for path in there if path not in late and self._differs(path, there[path], restore)]
            done, total = len(late), len(late) + len(wanted)
            for part, known in self._side_by_side(self._download, [(path, there[path]) for path in wanted]):
                self._settle(part, known)
                done += 1
                if on_progress is not None:
                    on_progress(done, total)
            if late:
                for part, known in sorted(parts, key=lambda each: _LATE.index(PurePosixPath(each[1][0]).name)):
                    self._settle(part, known)
            # What is left out of this look is not gone.
            gone = [path for path in self._index if self._is_of(path, below, flat) and path not in there
                    and not self._left_out(path) and not (skip is not None and skip(path))]  # fmt: skip
            for path in gone:
                if self._known_now(path) == self._index[path][1:]:
                    (self.folder / path).unlink(missing_ok=True)
                del self._index[path]
            if wanted or late or gone:
                self._write_index()
            return bool(there)

    def _there(self, below: str, skip: Callable[[str], bool] | None, flat: bool) -> dict[str, Mapping[str, Any]]:
        found = self._site.listing(below, flat=flat)
        return {path: info for path, info in found.items()
                if not self._left_out(path) and not (skip is not None and skip(path))}  # fmt: skip

    def _differs(self, path: str, info: Mapping[str, Any], restore: bool) -> bool:
        known = self._index.get(path)
        tag = tag_of(info)
        if known is None or known.tag != tag or tag is None:
            return True
        return restore and not (self.folder / path).exists()

    def _download(self, path: str, info: Mapping[str, Any]) -> tuple[Path, tuple[str, str | None]]:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        part = temporary_path(target, "pulled")  # the run itself may be writing `target` at this moment
        if not self._site.fetch(path, part):
            part.unlink(missing_ok=True)  # removed in the meantime; it may be one that a kill left behind
        else:
            sync(part)
        return part, (path, tag_of(info))

    def _settle(self, part: Path, known: tuple[str, str | None]) -> None:
        path, tag = known
        if part.exists():
            part.replace(self.folder / path)
            self._index[path] = _Known(tag, *(self._known_now(path) or (0, 0)))

    # --- to there ----------------------------------------------------------------------------------------------------

    def push(self, below: str = "", *, flat: bool = False) -> int:
        """Bring there what has changed here, and remove what was removed here; how many files."""
        with self._lock:
            here = {path for path in _files(self.folder, below, flat) if not self._left_out(path)}
            changed = [
                path for path in here if path not in self._index or self._known_now(path) != self._index[path][1:]
            ]
            early = [path for path in changed if PurePosixPath(path).name not in _LATE]
            late = sorted((path for path in changed if path not in early),
                          key=lambda path: _LATE.index(PurePosixPath(path).name))  # fmt: skip
            gone = [path for path in self._index if self._is_of(path, below, flat) and path not in here
                    and not self._left_out(path)]  # fmt: skip
            for path in gone:
                self._site.remove(path)
                del self._index[path]
            for path, known in self._side_by_side(self._upload, [(path,) for path in early]):
                self._note(path, known)
            for path in late:
                self._note(*self._upload(path))
            if changed or gone:
                self._write_index()
            return len(changed) + len(gone)

    def _upload(self, path: str) -> tuple[str, _Known | None]:
        now = self._known_now(path)  # before it is read: what is appended meanwhile is sent the next time
        if now is None:
            return path, None  # removed in the meantime
        self._site.upload(self.folder / path, path)
        return path, _Known(tag_of(self._site.info(path) or {}), *now)

    def _note(self, path: str, known: _Known | None) -> None:
        if known is not None:
            self._index[path] = known

    # --- single files ------------------------------------------------------------------------------------------------

    def read(self, path: str) -> bytes | None:
        """A file there, past all copies; None: there is none."""
        return self._site.content(path)

    def write(self, path: str, content: bytes) -> None:
        """A file there alone."""
        self._site.put(path, content)

    def remove(self, path: str) -> None:
        self._site.remove(path)

    # --- both --------------------------------------------------------------------------------------------------------

    def _left_out(self, path: str) -> bool:
        parts = PurePosixPath(path).parts
        if not parts or ".." in parts or path.startswith("/"):
            return True  # a bucket may hold any name, and nobody's may lead out of the folder here
        name = parts[-1]
        if name in ("lock", LEASE, OWNER) or name.startswith(".") or is_temporary(name):
            return True
        return self._skip(path)

    def _is_of(self, path: str, below: str, flat: bool) -> bool:
        parent = str(PurePosixPath(path).parent)
        if flat:
            return parent == (below or ".")
        return not below or path.startswith(f"{below}/")

    def _known_now(self, path: str) -> tuple[int, int] | None:
        try:
            stat = (self.folder / path).stat()
        except OSError:
            return None
        return stat.st_size, stat.st_mtime_ns

    def _side_by_side(self, what: Callable[..., Any], calls: list[tuple[Any, ...]]) -> Iterator[Any]:
        if len(calls) < 2:
            yield from (what(*call) for call in calls)
            return
        with ThreadPoolExecutor(min(_AT_ONCE, len(calls))) as pool:
            yield from pool.map(lambda call: what(*call), calls)

    def close(self) -> None:
        """What is known is on disk: the next process fetches nothing twice."""
        self._write_index(soon=True)

    def _write_index(self, *, soon: bool = False) -> None:
        """An index of ten thousand runs takes a while: without its last lines, something is fetched again."""
        started = time.monotonic()
        if started < self._next_index_s and not soon:
            return
        with storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self.folder / _INDEX, json.dumps(self._index))
        self._next_index_s = time.monotonic() + 50 * (time.monotonic() - started)


def patiently(what: Callable[[], object], wait: Callable[[float], object]) -> None:
    """`what` with a service, tried again for minutes: what it is about took hours, and services come back.

    `wait(seconds)` is called between tries.

    Raises:
        SourceError: after the last of them.
    """
    for pause in _PATIENCE_S:
        try:
            what()
            return
        except SourceError as error:
            _log.warning("%s; tried again in %.0f s", str(error).rstrip("."), pause)
            wait(pause)
    what()


LEASE = "lease.json"  # who drives a study (study/home.py)
OWNER = "owner"  # whose run it is (launch/working_copy.py)


def _files(folder: Path, below: str, flat: bool) -> Iterator[str]:
    place = folder / below
    for path in place.glob("*") if flat else place.rglob("*"):
        if path.is_file() and not path.is_symlink():
            yield path.relative_to(folder).as_posix()


def _read_index(path: Path) -> dict[str, _Known]:
    with contextlib.suppress(OSError, ValueError, TypeError):  # without it everything is fetched again
        return {key: _Known(*value) for key, value in json.loads(path.read_text(encoding="utf-8")).items()}
    return {}
