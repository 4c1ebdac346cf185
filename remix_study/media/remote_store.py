"""Stores at a URL: built here and uploaded, downloaded once per machine and opened from there

    CACHE/<url>/               where a store for that URL is built: a kill resumes as in any folder
    CACHE/<url>.uploaded       what has been uploaded of it, line by line: an interrupted upload goes on
    CACHE/<url>.copies/<of>/   downloaded stores, by the digest of their manifest.json: a changed store is another one

CACHE is `REMIX_STUDY_CACHE`, or `~/.cache/remix_study`; `<url>` is a digest. A store's manifest.json is written last on
either side, and names size and checksum of all other files: without it there is no store.
"""

import contextlib
import fcntl
import hashlib
import json
import posixpath
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from remix_study.errors import SourceError, StoreError
from remix_study.files.disk import checksum, exclusive_lock, storage_errors, write_atomically
from remix_study.files.remote_folder import RemoteFolder, cache_folder
from remix_study.files.urls import shown, tag_of
from remix_study.media.plan import Progress

_SEAL = "manifest.json"
_BESIDE = ("manifest.jsonl", "absent.csv")  # of a corpus folder, beside its store
_TRIES = 3  # a store may be replaced while it is downloaded
_MB = 10**6
_in_use: dict[Path, IO[str]] = {}  # locks on copies that this process reads, until it ends


def require_writable(url: str) -> None:
    """Before hours of work: whether something can be written there.

    Raises:
        SourceError: it cannot.
    """
    site = RemoteFolder(url)
    site.put(".writable", b"remix_study looked whether it may write here\n")
    site.remove(".writable")


@dataclass(frozen=True)
class _Piece:
    """A file to upload: its path below the folder and below the URL, and its content."""

    path: str
    bytes: int
    sha256: str


def upload_store(folder: Path, url: str, progress: Progress | None = None) -> None:
    """Upload a corpus folder: its store, its manifest, its list of absent clips, and its folds; not what is there.

    `progress(done, total)` counts megabytes. Interrupted, it goes on with the files that are missing.

    Raises:
        StoreError: there is no finished store in `folder`.
        SourceError: the service does not answer, or refuses.
    """
    if not (folder / "store" / _SEAL).exists():
        raise StoreError(f"{folder} must hold a finished store to be uploaded, but does not. Prepare it first.")
    places = [folder, *sorted(path for path in folder.glob("fold-*") if (path / "store" / _SEAL).exists())]
    site, journal = RemoteFolder(url), cache_folder(url).with_suffix(".uploaded")
    with storage_errors(journal.parent):
        journal.parent.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(journal.with_suffix(".uploading"), wait=True):
            changed = [place for place in places if not _is_there(site, folder, place)]
            seals = [place / "store" / _SEAL for place in changed]
            for seal in seals:  # first of all: no reader takes a mixture of old and new for a store
                site.remove(_below(folder, seal))
            _upload(site, folder, [piece for place in changed for piece in _pieces(folder, place)], journal, progress)
            for seal in seals:
                site.upload(seal, _below(folder, seal))
            journal.unlink(missing_ok=True)


def _is_there(site: RemoteFolder, folder: Path, place: Path) -> bool:
    """A manifest.json says all about the files of its store, and was written after what lies beside it."""
    names = [f"store/{_SEAL}", *(name for name in _BESIDE if (place / name).exists())]
    return all(site.content(_below(folder, place / name)) == (place / name).read_bytes() for name in names)


def _pieces(folder: Path, place: Path) -> list[_Piece]:
    beside = {place / name: checksum(place / name) for name in _BESIDE if (place / name).exists()}
    promised = json.loads((place / "store" / _SEAL).read_text(encoding="utf-8"))["files"]
    inside = {place / "store" / name: known for name, known in sorted(promised.items())}
    return [_Piece(_below(folder, path), of["bytes"], of["sha256"]) for path, of in {**beside, **inside}.items()]


def _upload(
    site: RemoteFolder, folder: Path, pieces: Sequence[_Piece], journal: Path, progress: Progress | None
) -> None:
    before = _uploaded(journal)
    count = _Megabytes(sum(piece.bytes for piece in pieces), progress)
    with journal.open("a", encoding="utf-8") as file:
        for piece in pieces:
            if not _arrived(site, piece, before.get(piece.path)):
                site.upload(folder / piece.path, piece.path)
                line = {"path": piece.path, "sha256": piece.sha256, "tag": tag_of(site.info(piece.path) or {})}
                file.write(json.dumps(line) + "\n")
                file.flush()
            count.add(piece.bytes)


def _uploaded(journal: Path) -> dict[str, Mapping[str, Any]]:
    """What an upload before this one has brought there, by path."""
    found: dict[str, Mapping[str, Any]] = {}
    if journal.exists():
        for line in journal.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):  # the line that a kill cut short
                entry = json.loads(line)
                found[entry["path"]] = entry
    return found


def _arrived(site: RemoteFolder, piece: _Piece, known: Mapping[str, Any] | None) -> bool:
    if known is None or known["sha256"] != piece.sha256 or known["tag"] is None:
        return False
    info = site.info(piece.path)
    return info is not None and bool(info["size"] == piece.bytes) and tag_of(info) == known["tag"]


def local_copy(url: str, *, verify: bool = False, progress: Progress | None = None) -> Path:
    """The corpus folder (or store) at `url` as a folder of this machine, downloaded if it is not here yet.

    Processes of one machine wait for one download. `verify` compares checksums, not only sizes, and what does not fit
    is downloaded again. `progress(done, total)` counts megabytes.

    Raises:
        SourceError: the service does not answer or refuses; the store there is damaged, or changes all the time.
        StoreError: there is no finished store, or this machine's disk is full.
    """
    site, copies = RemoteFolder(url), cache_folder(url).with_suffix(".copies")
    for _ in range(_TRIES):
        remote = _find(site)
        if _is_whole(built := cache_folder(url), remote, verify=verify):
            return built  # by this machine
        with storage_errors(copies):
            copies.mkdir(parents=True, exist_ok=True)
            folder = _use(copies, remote.digest)
            if _is_whole(folder, remote, verify=verify):
                return folder
            with exclusive_lock(copies / ".lock", wait=True):
                if _fetch(site, remote, folder, progress, verify=verify):
                    _clear(copies)
                    return folder
    raise SourceError(f"the store at {shown(url)} must stay as it is while it is downloaded, but changes. Try again.")


@dataclass(frozen=True)
class _Remote:
    """A store as its manifest.json tells it; `below` is `store`, or nothing for a store on its own."""

    below: str
    seal: bytes
    files: Mapping[str, Mapping[str, Any]]

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.seal).hexdigest()[:16]


def _find(site: RemoteFolder) -> _Remote:
    for below in ("store", ""):
        seal = site.content(below, _SEAL)
        if seal is None:
            continue
        try:
            files = json.loads(seal)["files"]
            fine = all(name == Path(name).name and {"bytes", "sha256"} <= set(of) for name, of in files.items())
        except (ValueError, KeyError, TypeError, AttributeError):
            fine = False
        if not fine:
            raise StoreError(f"{shown(site.url)} must hold a clip store, but its {_SEAL} is of none. Upload it again.")
        return _Remote(below, seal, files)
    raise StoreError(
        f"{shown(site.url)} must hold a finished clip store, but does not. Check the address, or run the command that "
        "prepares it (`remix-study prepare ... --out URL`) to its end."
    )


def _is_whole(folder: Path, remote: _Remote, *, verify: bool) -> bool:
    place = folder / remote.below
    same = (place / _SEAL).exists() and (place / _SEAL).read_bytes() == remote.seal
    return same and all(_fits(place / name, of, verify=verify) for name, of in remote.files.items())


def _fits(path: Path, promised: Mapping[str, Any], *, verify: bool) -> bool:
    if not path.is_file() or path.stat().st_size != promised["bytes"]:
        return False
    return not verify or checksum(path)["sha256"] == promised["sha256"]


def _fetch(site: RemoteFolder, remote: _Remote, folder: Path, progress: Progress | None, *, verify: bool) -> bool:
    """Whether the store was still the same at the end; if not, nothing here counts as a store."""
    place = folder / remote.below
    place.mkdir(exist_ok=True)
    _require_space(place, remote)
    count = _Megabytes(sum(of["bytes"] for of in remote.files.values()), progress)
    for name, of in sorted(remote.files.items()):
        if not _fits(place / name, of, verify=verify):
            site.download(posixpath.join(remote.below, name), place / name)
            if not _fits(place / name, of, verify=verify):
                (place / name).unlink(missing_ok=True)
                _require_change(site, remote, name)
                return False
        count.add(of["bytes"])
    for name in _BESIDE if remote.below else ():
        if (content := site.content(name)) is not None:
            write_atomically(folder / name, content)
    if _find(site).seal != remote.seal:
        return False
    write_atomically(place / _SEAL, remote.seal)
    return True


def _require_change(site: RemoteFolder, remote: _Remote, name: str) -> None:
    if _find(site).seal == remote.seal:
        raise SourceError(
            f"{name} of the store at {shown(site.url)} must be what its {_SEAL} says, but is not: the store is "
            "damaged. Upload it again."
        )


def _require_space(place: Path, remote: _Remote) -> None:
    needed = sum(of["bytes"] for name, of in remote.files.items() if not _fits(place / name, of, verify=False))
    free = shutil.disk_usage(place).free
    if free < needed:
        raise StoreError(
            f"the copy of the store needs {needed / 1e9:.2f} GB in {place.parent}, but {free / 1e9:.2f} GB are free. "
            "Free space, or let REMIX_STUDY_CACHE name a folder on another disk."
        )


def _use(copies: Path, name: str) -> Path:
    """The copy of this name, which nobody removes while this process lives: a lock ends with its process."""
    folder = copies / name
    if folder not in _in_use:
        with exclusive_lock(copies / ".use", wait=True):  # not while somebody clears
            folder.mkdir(exist_ok=True)
            lock = (folder / ".in-use").open("a")
            fcntl.flock(lock, fcntl.LOCK_SH)
        _in_use[folder] = lock
    return folder


def _clear(copies: Path) -> None:
    """Remove copies of stores that are no longer there, but for those that a process reads."""
    with exclusive_lock(copies / ".use", wait=True):
        for folder in copies.iterdir():
            if not folder.is_dir() or folder in _in_use:
                continue
            with (folder / ".in-use").open("a") as lock, contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)


def _below(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


class _Megabytes:
    """Adds up bytes, and tells megabytes."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done, self._total, self._progress = 0, total, progress

    def add(self, count: int) -> None:
        self._done += count
        if self._progress is not None:
            self._progress(-(-self._done // _MB), -(-self._total // _MB))
