"""Keeping a local copy of a workspace at a URL up to date in both directions

    CACHE/<url>.workspace/      local copy of a workspace; the file `.url` in it contains the URL
    .mirror.json                in a copied folder: the state of every file when both sides were last equal

The remote files are authoritative. A process pulls a folder before it works there, and pushes changed files, in an
order in which a reader never finds a file that refers to one that is not uploaded yet.
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
from remix_study.files import operations
from remix_study.files.disk import is_temporary, storage_errors, sync, temporary_path, write_atomically
from remix_study.files.remote_folder import RemoteFolder, cache_folder
from remix_study.files.urls import is_url, path_of, shown, tag_of

_URL, _INDEX = ".url", ".mirror.json"
_TRANSFERS = 16  # at once: each waits for the service most of the time
_PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0)  # four minutes, besides the packages' own retries
# Files that refer to others, in the order in which they are transferred, after all others: result.json comes last,
# because it marks a run as complete.
_LATE = ("history.jsonl", "spool.jsonl", "best.pt", "last.pt", "step.pt", "ended.json", "result.json")
_log = logging.getLogger(__name__)


def workspace_at(where: str | Path) -> Path:
    """The local folder of a workspace: `where` itself, or the folder for the copy of a URL.

    Raises:
        StoreError: the folder for the copy cannot be created.
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
    """The URL that `folder` is a copy of; None if it is not a copy."""
    for parent in (folder, *folder.parents):
        mark = parent / _URL
        if mark.is_file():
            below = folder.relative_to(parent).as_posix()
            url = mark.read_text(encoding="utf-8")
            return url if below == "." else f"{url}/{below}"
    return None


def place_of(folder: Path) -> str:
    """The location of a folder for messages: its path, or the URL that it is a copy of."""
    url = url_of(folder)
    return str(folder) if url is None else shown(url)


class _Known(NamedTuple):
    """The state of a file when both sides were equal: the service's tag, and its local size and modification time."""

    tag: str | None
    size: int
    changed_ns: int


class Mirror:
    """A local folder and the remote folder that it is a copy of. Methods that transfer files lock out other threads.

    Every method raises `SourceError` if the service does not answer or refuses access.

    Args:
        skip: returns True for paths, relative to the folder, that are not transferred.
    """

    def __init__(self, url: str, folder: Path, *, skip: Callable[[str], bool] = lambda _: False) -> None:
        self.url, self.folder = url, folder
        self._skip = skip
        self._remote = RemoteFolder(url)
        self._index: dict[str, _Known] = _read_index(folder / _INDEX)
        self._lock = threading.RLock()
        self._next_index_s = 0.0

    # --- download -----------------------------------------------------------------------------------------------------

    def pull(
        self,
        below: str = "",
        *,
        skip: Callable[[str], bool] | None = None,
        flat: bool = False,
        restore: bool = False,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> bool:
        """Download files that differ, and delete local files that were deleted remotely.

        Args:
            below: transfer only this folder.
            skip: further paths to leave alone.
            flat: leave out subfolders.
            restore: download files again that were deleted locally. Otherwise the next `push` deletes them remotely.
            on_progress: called with the number of downloaded files and their total.

        Returns:
            Whether the remote folder contains files.
        """
        with self._lock:
            there = self._there(below, skip, flat)
            wanted = [path for path in there if self._differs(path, there[path], restore)]
            late = [path for path in wanted if PurePosixPath(path).name in _LATE]
            if late:
                # Download them before listing the others again: all files that they refer to exist by then.
                parts = list(self._in_parallel(self._download, [(path, there[path]) for path in late]))
                there = self._there(below, skip, flat) | {path: there[path] for path in late}
                wanted = [path for path in there if path not in late and self._differs(path, there[path], restore)]
            done, total = len(late), len(late) + len(wanted)
            for part, known in self._in_parallel(self._download, [(path, there[path]) for path in wanted]):
                self._settle(part, known)
                done += 1
                if on_progress is not None:
                    on_progress(done, total)
            if late:
                for part, known in sorted(parts, key=lambda each: _LATE.index(PurePosixPath(each[1][0]).name)):
                    self._settle(part, known)
            # Paths that this call skips were not deleted.
            deleted = [path for path in self._index if self._is_of(path, below, flat) and path not in there
                    and not self._left_out(path) and not (skip is not None and skip(path))]  # fmt: skip
            for path in deleted:
                if self._known_now(path) == self._index[path][1:]:
                    (self.folder / path).unlink(missing_ok=True)
                del self._index[path]
            if wanted or late or deleted:
                self._write_index()
            return bool(there)

    def _there(self, below: str, skip: Callable[[str], bool] | None, flat: bool) -> dict[str, Mapping[str, Any]]:
        found = self._remote.listing(below, flat=flat)
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
        if not self._remote.fetch(path, part):
            part.unlink(missing_ok=True)  # deleted remotely in the meantime; `part` may be left from a killed process
        else:
            sync(part)
        return part, (path, tag_of(info))

    def _settle(self, part: Path, known: tuple[str, str | None]) -> None:
        path, tag = known
        if part.exists():
            operations.rename(part, self.folder / path)
            self._index[path] = _Known(tag, *(self._known_now(path) or (0, 0)))

    # --- upload -------------------------------------------------------------------------------------------------------

    def push(self, below: str = "", *, flat: bool = False) -> int:
        """Upload files that have changed, and delete remote files that were deleted locally; the number of both."""
        with self._lock:
            here = {path for path in _files(self.folder, below, flat) if not self._left_out(path)}
            changed = [
                path for path in here if path not in self._index or self._known_now(path) != self._index[path][1:]
            ]
            early = [path for path in changed if PurePosixPath(path).name not in _LATE]
            late = sorted((path for path in changed if path not in early),
                          key=lambda path: _LATE.index(PurePosixPath(path).name))  # fmt: skip
            deleted = [path for path in self._index if self._is_of(path, below, flat) and path not in here
                    and not self._left_out(path)]  # fmt: skip
            for path, known in self._in_parallel(self._upload, [(path,) for path in early]):
                self._note(path, known)
            for path in late:
                self._note(*self._upload(path))
            for path in deleted:  # last: until here, files in the folder may refer to them
                self._remote.remove(path)
                del self._index[path]
            if changed or deleted:
                self._write_index()
            return len(changed) + len(deleted)

    def _upload(self, path: str) -> tuple[str, _Known | None]:
        now = self._known_now(path)  # before reading: the next push sends what is appended meanwhile
        if now is None:
            return path, None  # deleted in the meantime
        self._remote.upload(self.folder / path, path)
        return path, _Known(tag_of(self._remote.info(path) or {}), *now)

    def _note(self, path: str, known: _Known | None) -> None:
        if known is not None:
            self._index[path] = known

    # --- single files -------------------------------------------------------------------------------------------------

    def read(self, path: str) -> bytes | None:
        """The content of a remote file, not of the local copy; None if it does not exist."""
        return self._remote.content(path)

    def write(self, path: str, content: bytes) -> None:
        """Write a remote file, but not the local copy."""
        self._remote.put(path, content)

    def remove(self, path: str) -> None:
        """Delete a remote file, but not the local copy."""
        self._remote.remove(path)

    # --- both ---------------------------------------------------------------------------------------------------------

    def _left_out(self, path: str) -> bool:
        parts = PurePosixPath(path).parts
        if not parts or ".." in parts or path.startswith("/"):
            return True  # a bucket may contain any name; none may lead out of the local folder
        name = parts[-1]
        if name.rpartition(".")[2] == "lock" or name in (LEASE, OWNER) or name.startswith(".") or is_temporary(name):
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

    def _in_parallel(self, what: Callable[..., Any], calls: list[tuple[Any, ...]]) -> Iterator[Any]:
        if len(calls) < 2:
            yield from (what(*call) for call in calls)
            return
        with ThreadPoolExecutor(min(_TRANSFERS, len(calls))) as pool:
            yield from pool.map(lambda call: what(*call), calls)

    def close(self) -> None:
        """Save the index, so that the next process downloads only changed files."""
        self._write_index(soon=True)

    def _write_index(self, *, soon: bool = False) -> None:
        """Save the index, unless the last save was recent: a stale index only costs downloads."""
        started = time.monotonic()
        if started < self._next_index_s and not soon:
            return
        with storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self.folder / _INDEX, json.dumps(self._index))
        self._next_index_s = time.monotonic() + 50 * (time.monotonic() - started)


def with_retries(what: Callable[[], object], wait: Callable[[float], object]) -> None:
    """Call `what`, and retry it for four minutes while the service fails.

    Args:
        wait: called with the seconds to wait before each retry.

    Raises:
        SourceError: the last try failed.
    """
    for pause in _PAUSES_S:
        try:
            what()
            return
        except SourceError as error:
            _log.warning("%s; retrying in %.0f s", str(error).rstrip("."), pause)
            wait(pause)
    what()


LEASE = "lease.json"  # which process drives a study (study/remote.py)
OWNER = "owner"  # which process works on a run (launch/working_copy.py)


def _files(folder: Path, below: str, flat: bool) -> Iterator[str]:
    place = folder / below
    for path in place.glob("*") if flat else place.rglob("*"):
        if path.is_file() and not path.is_symlink():
            yield path.relative_to(folder).as_posix()


def _read_index(path: Path) -> dict[str, _Known]:
    with contextlib.suppress(OSError, ValueError, TypeError):  # without an index, all files are downloaded again
        return {key: _Known(*value) for key, value in json.loads(path.read_text(encoding="utf-8")).items()}
    return {}
