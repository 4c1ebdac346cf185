"""Reading a clip store through read-only memory maps

Each process opens a map when it first needs it. Processes that read the same store share its pages in memory.
"""

# N rows of the store, n requested rows, F bands and T frames of a spectrogram, T frames of H x W pixels

import array
import contextlib
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from remix_study.errors import DamagedStoreError, StoreError
from remix_study.media.integrity import Damage, IntegrityCheck, Reading, described, find_damage, unread_bytes
from remix_study.media.plan import SCHEMA, Progress, canonical_json, manifest_digest
from remix_study.media.presets import Preset
from remix_study.media.shards import Layout, RowReader, shard_name
from remix_study.media.statistics import Statistics
from remix_study.media.workers import available_cores
from remix_study.sample import SampleId, Truth

SMALL_BYTES = 2**28  # read within a second or two
_REBUILD = "Build it again with `remix-study prepare`, and with `--replace` if it asks for that."


class ClipStore:
    """A published store of decoded clips. Open one with `ClipStore.open`.

    Picklable: a copy maps the files anew.

    Attributes:
        path: the store's folder.
        name: the corpus's name.
        digest: the store's fingerprint.
        base: fingerprint of the store that this one is derived from, or None.
        preset: what is stored of each clip.
        modalities, classes, splits: names, in order.
        card: the store's description; see `media/card.py`.
        statistics: mean and standard deviation of each modality.
        ids, groups, truth: id, group and further facts of each row.
        labels_N: class number of each row, int64.
        remedy: what helps if the store is damaged, as a sentence.
    """

    remedy: str = _REBUILD

    def __init__(self, path: Path, manifest: Mapping[str, Any], index: Iterable[Mapping[str, Any]]) -> None:
        self.path = path
        self.name: str = manifest["name"]
        self.digest: str = manifest["fingerprint"]
        self.base: str | None = manifest.get("derived_from")
        self.preset = Preset.from_plain(manifest["preset"])
        self.modalities: tuple[str, ...] = tuple(manifest["modalities"])
        self.classes: tuple[str, ...] = tuple(manifest["classes"])
        self.splits: tuple[str, ...] = tuple(manifest["splits"])
        self.card: dict[str, Any] = manifest["card"]
        self.statistics: Mapping[str, Statistics] = {
            m: (np.asarray(mean, np.float64), np.asarray(deviation, np.float64))
            for m, (mean, deviation) in manifest["statistics"].items()
        }
        self._read(index)
        self._files: Mapping[str, Mapping[str, Any]] = manifest["files"]
        self._manifest_digest: str = manifest["manifest_digest"]
        self._readers = {
            m: RowReader(path, Layout(m, part, len(self), manifest["per_shard"][m]))
            for m, part in self.preset.parts.items()
        }

    def _read(self, index: Iterable[Mapping[str, Any]]) -> None:
        """Read the index row by row, because a million parsed rows would take a gigabyte in every process."""
        self.ids: list[SampleId] = []
        self.groups: list[str | None] = []
        self.truth: list[Mapping[str, Truth]] = []
        number = {label: position for position, label in enumerate(self.classes)}
        labels, nothing, known = array.array("q"), dict[str, Truth](), dict[str, str]()
        rows = {split: array.array("q") for split in self.splits}
        for row in index:
            rows[row["split"]].append(len(self.ids))
            labels.append(number[row["label"]])
            group = row["group"]
            self.groups.append(group if group is None else known.setdefault(group, group))
            self.truth.append(row["truth"] or nothing)
            self.ids.append(row["id"])
        self.labels_N: NDArray[np.int64] = np.array(labels, dtype=np.int64)
        self._rows = {split: np.array(found, dtype=np.int64) for split, found in rows.items()}

    @classmethod
    def open(cls, path: Path, *, verify: bool = False, progress: Progress | None = None) -> "ClipStore":
        """Open the store at `path`, or in `path`/store.

        Args:
            verify: read all files and compare their checksums, instead of only their sizes.
            progress: with `verify`, called as `progress(done, total)` with megabytes.

        Raises:
            StoreError: there is no store, it is unfinished, or a file is missing or damaged.
        """
        folder = store_folder(path)
        with _damage_explained(folder):
            manifest = store_manifest(folder)
            for name, expected in manifest["files"].items():
                _check_size(folder / name, expected)
            if verify:
                _refuse(folder, damage_of(folder, manifest, progress=progress), _REBUILD)
            with (folder / "index.jsonl").open(encoding="utf-8") as lines:
                store = cls(folder, manifest, map(json.loads, lines))
        if len(store) != manifest["rows"]:
            raise DamagedStoreError(
                f"The store {folder} is damaged: its index has {len(store)} of {manifest['rows']} rows. {_REBUILD}"
            )
        return store

    def require_intact(self, *, at_most_bytes: float = float("inf"), progress: Progress | None = None) -> bool:
        """Compare the checksums of the files that have changed since they were last read on this machine.

        Args:
            at_most_bytes: if the changed files are larger together, use only what is remembered of the others.
            progress: called as `progress(done, total)` with megabytes.

        Returns:
            Whether all files are compared.

        Raises:
            DamagedStoreError: a file is damaged, or holds values that are not finite.
        """
        complete = unread_bytes(self.path, self._files) <= at_most_bytes
        found = find_damage(
            self.path, self._files, self.preset.parts, reading="changed" if complete else "nothing",
            threads=available_cores(), progress=progress,
        )  # fmt: skip
        _refuse(self.path, found, self.remedy)
        return complete

    def begin_check(self) -> IntegrityCheck:
        """Begin `require_intact` in a thread; for a small store, and for files known as damaged, do it at once.

        Raises:
            DamagedStoreError: as for `require_intact`.
        """
        if self.require_intact(at_most_bytes=SMALL_BYTES):
            return IntegrityCheck()

        def check() -> None:
            _refuse(self.path, find_damage(self.path, self._files, self.preset.parts), self.remedy)

        return IntegrityCheck(check)

    def __len__(self) -> int:
        return len(self.labels_N)

    def rows(self, split: str) -> NDArray[np.int64]:
        """Ascending row numbers of a split.

        Raises:
            StoreError: the store has no such split.
        """
        if split not in self._rows:
            raise StoreError(f"The split of {self.path} must be one of {', '.join(self.splits)}, but is {split!r}.")
        return self._rows[split]

    def gather(
        self, modality: str, rows: NDArray[np.int64], frames_nT: NDArray[np.int64] | None = None
    ) -> NDArray[Any]:
        """Copy rows, in the given order, as stored.

        Args:
            rows: n row numbers.
            frames_nT: for each row, the frames to read; by default all of them.

        Returns:
            Audio float16 (n, F, T), video uint8 (n, T, H, W, 3), flow uint8 (n, T, H, W, 2), or features float32.

        Raises:
            StoreError: the store lacks this modality, or one of its files was damaged after it was opened.
        """
        if modality not in self._readers:
            raise StoreError(f"The store {self.path} has {' and '.join(self.modalities)}, but not {modality!r}.")
        try:
            return self._readers[modality].gather(rows, frames_nT)
        except (OSError, ValueError) as error:
            raise DamagedStoreError(
                f"The store {self.path} is damaged: its {modality} arrays cannot be read ({error}). {self.remedy}"
            ) from error

    def require_manifest(self, manifest: Path) -> None:
        """Check that this store was built from this manifest.

        Raises:
            StoreError: it was built from another manifest.
        """
        if manifest_digest(manifest) != self._manifest_digest:
            raise StoreError(
                f"Cannot open the store {self.path}: its manifest {manifest} has changed since it was built. {_REBUILD}"
            )


def _why_not_found(path: Path) -> str:
    build = "Build one with `remix-study prepare`."
    if not path.exists():
        return f"Cannot open corpus at {path}: no such folder. {build}"
    if (path / "store.partial").exists() or (path / "store").exists() or path.name.endswith(".partial"):
        return f"Cannot open corpus at {path}: its clip store is not finished. Rerun the command that builds it."
    return f"Cannot open corpus at {path}: no clip store found. {build}"


def store_folder(path: Path) -> Path:
    """The folder of the store at `path`, or in `path`/store.

    Raises:
        StoreError: there is no finished store.
    """
    folder = path if (path / "manifest.json").exists() else path / "store"
    if not (folder / "manifest.json").exists():
        raise StoreError(_why_not_found(path))
    return folder


def store_manifest(folder: Path) -> dict[str, Any]:
    """The content of a store's manifest.json.

    Raises:
        StoreError: the store has another schema, or its manifest is damaged.
    """
    with _damage_explained(folder):
        return _store_manifest(folder)


def _store_manifest(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    if manifest["schema"] != SCHEMA:
        raise StoreError(
            f"Cannot open the store {folder}: it has schema {manifest['schema']}, but this version needs "
            f"{SCHEMA}. {_REBUILD}"
        )
    if manifest.get("sha256", digest := manifest_checksum(manifest)) != digest:
        raise DamagedStoreError(f"The store {folder} is damaged: the checksum of manifest.json has changed. {_REBUILD}")
    files = checked_files(manifest)
    parts = Preset.from_plain(manifest["preset"]).parts
    layouts = [Layout(m, part, manifest["rows"], manifest["per_shard"][m]) for m, part in parts.items()]
    shards = (shard_name(each.modality, number) for each in layouts for number in range(each.shards))
    unlisted = next((name for name in itertools.chain(["index.jsonl"], shards) if name not in files), None)
    if unlisted is not None:
        raise DamagedStoreError(f"The store {folder} is damaged: manifest.json does not list {unlisted}. {_REBUILD}")
    return manifest


def manifest_checksum(manifest: Mapping[str, Any]) -> str:
    """The `sha256` of a manifest.json: that of its other keys as canonical JSON. Version 0.1 did not write it."""
    content = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def checked_files(manifest: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """The files of a store according to its manifest: name -> `bytes` and `sha256`.

    Raises:
        ValueError: a name is that of a file outside the store's folder.
        KeyError, TypeError, AttributeError: the manifest is not that of a store.
    """
    files: Mapping[str, Mapping[str, Any]] = manifest["files"]
    for name, of in files.items():
        if name in ("", ".", "..") or set("/\\\0") & set(name):
            raise ValueError(f"manifest.json lists {name!r}, which is not the name of a file in the store")
        int(of["bytes"]), str(of["sha256"])
    return files


def damage_of(
    folder: Path, manifest: Mapping[str, Any], *, known: bool = False, progress: Progress | None = None
) -> list[Damage]:
    """Read all files of a store, and return the damaged ones.

    Args:
        manifest: the content of its manifest.json.
        known: do not read files again that have not changed since they were last read.
        progress: called as `progress(done, total)` with megabytes.
    """
    parts = Preset.from_plain(manifest["preset"]).parts
    reading: Reading = "changed" if known else "all"
    return find_damage(folder, manifest["files"], parts, reading=reading, threads=available_cores(), progress=progress)


def _refuse(folder: Path, damages: list[Damage], remedy: str) -> None:
    if damages:
        raise DamagedStoreError(f"The store {folder} is damaged: {described(damages)}. {remedy}")


@contextlib.contextmanager
def _damage_explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
        reason = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
        raise DamagedStoreError(f"The store {folder} is damaged: it cannot be read ({reason}). {_REBUILD}") from error


def _check_size(path: Path, expected: Mapping[str, Any]) -> None:
    if not path.is_file():
        raise DamagedStoreError(f"The store {path.parent} is damaged: {path.name} is missing. {_REBUILD}")
    if (size := path.stat().st_size) != expected["bytes"]:
        raise DamagedStoreError(
            f"The store {path.parent} is damaged: {path.name} must have {expected['bytes']} bytes, but has {size}. "
            f"{_REBUILD}"
        )
