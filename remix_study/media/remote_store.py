"""Stores at a URL: uploading a local store, and downloading a copy once per machine

    CACHE/<url>/                  where a store for that URL is built; an interrupted build resumes
    CACHE/<url>.uploaded          journal of uploaded files; an interrupted upload resumes
    CACHE/<url>.copies/<digest>/  downloaded stores, by the digest of their manifest.json

CACHE is `REMIX_STUDY_CACHE`, or `~/.cache/remix_study`; `<url>` is a digest. On both sides a store's manifest.json is
written last, and states the size and checksum of all other files. A folder without it is not a store.
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
from remix_study.files import operations
from remix_study.files.disk import checksum, exclusive_lock, storage_errors, write_atomically
from remix_study.files.remote_folder import RemoteFolder, cache_folder
from remix_study.files.urls import shown, tag_of
from remix_study.media.integrity import Reading, examine, recall, unread_bytes
from remix_study.media.plan import Megabytes, Progress
from remix_study.media.store import SMALL_BYTES, checked_files, store_manifest

_MANIFEST = "manifest.json"
_NEXT_TO_STORE = ("manifest.jsonl", "absent.csv")  # files of a corpus folder that are uploaded with its store
_ATTEMPTS = 3  # a store may be replaced while it is downloaded
_in_use: dict[Path, IO[str]] = {}  # locks on the copies that this process reads, held until it ends


def require_writable(url: str) -> None:
    """Check that a URL can be written, before hours of work.

    Raises:
        SourceError: it cannot be written.
    """
    site = RemoteFolder(url)
    site.put(".writable", b"remix_study checked whether it may write here\n")
    site.remove(".writable")


@dataclass(frozen=True)
class _Piece:
    """A file to upload. `path` is relative to the folder and to the URL."""

    path: str
    bytes: int
    sha256: str


def upload_store(folder: Path, url: str, progress: Progress | None = None, *, again: bool = False) -> None:
    """Upload a corpus folder: its store, manifest, list of absent clips, and folds.

    Unchanged stores are skipped. An interrupted upload resumes with the missing files. Folds and a list of absent clips
    that only the URL has are removed there, because they belong to an earlier store.

    Args:
        again: upload unchanged stores, too, because a file at the URL is damaged.
        progress: called as `progress(done, total)` with megabytes.

    Raises:
        StoreError: `folder` has no finished store.
        SourceError: the service does not answer, or denies access.
    """
    if not (folder / "store" / _MANIFEST).exists():
        raise StoreError(
            f"Cannot upload {folder}: it has no finished store. Run `remix-study prepare` with this folder first."
        )
    places = [folder, *sorted(path for path in folder.glob("fold-*") if (path / "store" / _MANIFEST).exists())]
    site, journal = RemoteFolder(url), cache_folder(url).with_suffix(".uploaded")
    with storage_errors(journal.parent):
        journal.parent.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(journal.with_suffix(".uploading"), wait=True):
            changed = [place for place in places if again or not _is_uploaded(site, folder, place)]
            manifests = [place / "store" / _MANIFEST for place in changed]
            for manifest in manifests:  # first, so that no reader opens a mixture of old and new files
                site.remove(_below(folder, manifest))
            if changed:
                _remove_outdated_files(site, folder, places)
            _upload(site, folder, [piece for place in changed for piece in _pieces(folder, place)], journal, progress)
            for manifest in manifests:
                site.upload(manifest, _below(folder, manifest))
            journal.unlink(missing_ok=True)


def _remove_outdated_files(site: RemoteFolder, folder: Path, places: Sequence[Path]) -> None:
    for place in places:
        for name in _NEXT_TO_STORE:
            if not (place / name).exists() and site.info(_below(folder, place / name)) is not None:
                site.remove(_below(folder, place / name))
    current = {_below(folder, place / "store" / _MANIFEST) for place in places}
    for manifest in sorted(set(site.matching(f"fold-*/store/{_MANIFEST}")) - current):
        site.remove(manifest)  # first, so that no reader opens a store that lacks files
        for path in site.listing(posixpath.dirname(manifest)):
            site.remove(path)


def _is_uploaded(site: RemoteFolder, folder: Path, place: Path) -> bool:
    """Whether the URL has the same manifest.json, which covers the store's files, and the same files next to it."""
    names = [f"store/{_MANIFEST}", *(name for name in _NEXT_TO_STORE if (place / name).exists())]
    return all(site.content(_below(folder, place / name)) == (place / name).read_bytes() for name in names)


def _pieces(folder: Path, place: Path) -> list[_Piece]:
    outside = {place / name: checksum(place / name) for name in _NEXT_TO_STORE if (place / name).exists()}
    files = store_manifest(place / "store")["files"]
    inside = {place / "store" / name: known for name, known in sorted(files.items())}
    return [_Piece(_below(folder, path), of["bytes"], of["sha256"]) for path, of in {**outside, **inside}.items()]


def _upload(
    site: RemoteFolder, folder: Path, pieces: Sequence[_Piece], journal: Path, progress: Progress | None
) -> None:
    before = _uploaded(journal)
    count = Megabytes(sum(piece.bytes for piece in pieces), progress)
    with operations.extend(journal) as file:
        for piece in pieces:
            if not _is_complete(site, piece, before.get(piece.path)):
                site.upload(folder / piece.path, piece.path)
                line = {"path": piece.path, "sha256": piece.sha256, "tag": tag_of(site.info(piece.path) or {})}
                file.write(json.dumps(line).encode() + b"\n")
                file.flush()
            count.add(piece.bytes)


def _uploaded(journal: Path) -> dict[str, Mapping[str, Any]]:
    """The files that an earlier, interrupted upload finished, by path."""
    found: dict[str, Mapping[str, Any]] = {}
    if journal.exists():
        for line in journal.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):  # a line that a kill truncated
                entry = json.loads(line)
                found[entry["path"]] = entry
    return found


def _is_complete(site: RemoteFolder, piece: _Piece, known: Mapping[str, Any] | None) -> bool:
    if known is None or known["sha256"] != piece.sha256 or known["tag"] is None:
        return False
    info = site.info(piece.path)
    return info is not None and bool(info["size"] == piece.bytes) and tag_of(info) == known["tag"]


def local_copy(url: str, *, verify: bool = False, progress: Progress | None = None) -> Path:
    """A local copy of the corpus folder (or store) at `url`, which is downloaded if this machine has none.

    Processes of one machine share one download.

    Args:
        verify: read all files and download those again whose checksums differ. By default, only files that have changed
            since they were last read are compared, and those of a large store only if that is known without reading.
        progress: called as `progress(done, total)` with megabytes.

    Raises:
        SourceError: the service does not answer or denies access; the store is damaged, or changes during each attempt.
        StoreError: the URL has no finished store, or the disk of this machine is full.
    """
    site, copies = RemoteFolder(url), cache_folder(url).with_suffix(".copies")
    for _ in range(_ATTEMPTS):
        remote = _find(site)
        if _is_copy(built := cache_folder(url), remote, verify=verify):
            return built  # this machine built the store
        with storage_errors(copies):
            copies.mkdir(parents=True, exist_ok=True)
            folder = _use(copies, remote.digest)
            if _is_copy(folder, remote, verify=verify):
                return folder
            with exclusive_lock(copies / ".lock", wait=True):
                if _download(site, remote, folder, progress, verify=verify):
                    _remove_outdated(copies)
                    return folder
    raise SourceError(
        f"Cannot download the store at {shown(url)}: it changed during {_ATTEMPTS} attempts. Try again when it is no "
        "longer written."
    )


@dataclass(frozen=True)
class _Remote:
    """A remote store according to its manifest.json. `below` is its folder: `store`, or empty for a bare store."""

    below: str
    manifest: bytes
    files: Mapping[str, Mapping[str, Any]]

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.manifest).hexdigest()[:16]


def _find(site: RemoteFolder) -> _Remote:
    for below in ("store", ""):
        manifest = site.content(below, _MANIFEST)
        if manifest is None:
            continue
        try:
            files = checked_files(json.loads(manifest))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(
                f"Cannot open the store at {shown(site.url)}: its {_MANIFEST} is not that of a clip store. Upload the "
                "store again: rerun `remix-study prepare` with `--replace`."
            ) from error
        return _Remote(below, manifest, files)
    raise StoreError(
        f"Cannot open a corpus at {shown(site.url)}: no finished clip store found. Check the address, or rerun "
        "`remix-study prepare ... --out URL` to finish the store."
    )


def _is_copy(folder: Path, remote: _Remote, *, verify: bool) -> bool:
    place = folder / remote.below
    same = (place / _MANIFEST).exists() and (place / _MANIFEST).read_bytes() == remote.manifest
    reading = _reading(place, remote, verify=verify)
    return same and all(_matches(place / name, of, reading) for name, of in remote.files.items())


def _reading(place: Path, remote: _Remote, *, verify: bool) -> Reading:
    if verify:
        return "all"
    return "changed" if unread_bytes(place, remote.files) <= SMALL_BYTES else "nothing"


def _matches(path: Path, expected: Mapping[str, Any], reading: Reading) -> bool:
    """Whether a file has the size and the checksum of the manifest, as far as `reading` allows to know."""
    if not path.is_file() or path.stat().st_size != expected["bytes"]:
        return False
    found = None if reading == "all" else recall(path)
    if found is None:
        if reading == "nothing":
            return True
        found = examine(path)
    return found.sha256 == str(expected["sha256"])


def _download(site: RemoteFolder, remote: _Remote, folder: Path, progress: Progress | None, *, verify: bool) -> bool:
    """Download a store. Returns False, and leaves no manifest.json, if the store changed meanwhile."""
    place = folder / remote.below
    place.mkdir(exist_ok=True)
    _require_space(place, remote)
    count = Megabytes(sum(of["bytes"] for of in remote.files.values()), progress)
    reading = _reading(place, remote, verify=verify)
    for name, of in sorted(remote.files.items()):
        if not _matches(place / name, of, reading):
            site.download(posixpath.join(remote.below, name), place / name)
            if not _matches(place / name, of, "all"):
                (place / name).unlink(missing_ok=True)
                _require_change(site, remote, name)
                return False
        count.add(of["bytes"])
    for name in _NEXT_TO_STORE if remote.below else ():
        if (content := site.content(name)) is not None:
            write_atomically(folder / name, content)
    if _find(site).manifest != remote.manifest:
        return False
    write_atomically(place / _MANIFEST, remote.manifest)
    return True


def _require_change(site: RemoteFolder, remote: _Remote, name: str) -> None:
    if _find(site).manifest == remote.manifest:
        raise SourceError(
            f"The store at {shown(site.url)} is damaged: {name} does not match {_MANIFEST}. Upload the store "
            "again: rerun `remix-study prepare` with `--replace`."
        )


def _require_space(place: Path, remote: _Remote) -> None:
    needed = sum(of["bytes"] for name, of in remote.files.items() if not _matches(place / name, of, "nothing"))
    free = shutil.disk_usage(place).free
    if free < needed:
        raise StoreError(
            f"Cannot download the store: it needs {needed / 1e9:.2f} GB in {place.parent}, but {free / 1e9:.2f} GB are "
            "free. Free space, or set REMIX_STUDY_CACHE to a folder on another disk."
        )


def _use(copies: Path, name: str) -> Path:
    """The folder of a copy. Its lock keeps other processes from removing it until this process ends."""
    folder = copies / name
    if folder not in _in_use:
        with exclusive_lock(copies / ".use", wait=True):  # not while another process removes outdated copies
            folder.mkdir(exist_ok=True)
            lock = (folder / ".in-use").open("a")
            fcntl.flock(lock, fcntl.LOCK_SH)
        _in_use[folder] = lock
    return folder


def _remove_outdated(copies: Path) -> None:
    """Remove the copies of replaced stores that no process reads."""
    with exclusive_lock(copies / ".use", wait=True):
        for folder in copies.iterdir():
            if not folder.is_dir() or folder in _in_use:
                continue
            with (folder / ".in-use").open("a") as lock, contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)


def _below(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()
