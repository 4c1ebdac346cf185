"""Reading a clip store through read-only memory maps

Each process opens a map when it first needs it. Processes that read the same store share its pages in memory.
"""

# N rows of the store, n requested rows, F bands and T frames of a spectrogram, T frames of H x W pixels

import array
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from remix_study.errors import StoreError
from remix_study.files.disk import checksum
from remix_study.media.plan import SCHEMA, manifest_digest
from remix_study.media.presets import Preset
from remix_study.media.shards import Layout, RowReader
from remix_study.media.statistics import Statistics
from remix_study.sample import SampleId, Truth

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
    """

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
    def open(cls, path: Path, *, verify: bool = False) -> "ClipStore":
        """Open the store at `path`, or in `path`/store.

        Args:
            verify: read all files and compare their checksums, instead of only their sizes.

        Raises:
            StoreError: there is no store, it is unfinished, or a file is missing or damaged.
        """
        folder = path if (path / "manifest.json").exists() else path / "store"
        if not (folder / "manifest.json").exists():
            raise StoreError(_why_not_found(path))
        try:
            manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
            if manifest["schema"] != SCHEMA:
                raise StoreError(
                    f"Cannot open the store {folder}: it has schema {manifest['schema']}, but this version needs "
                    f"{SCHEMA}. {_REBUILD}"
                )
            for name, expected in manifest["files"].items():
                _check_file(folder / name, expected, verify=verify)
            with (folder / "index.jsonl").open(encoding="utf-8") as lines:
                store = cls(folder, manifest, map(json.loads, lines))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(
                f"The store {folder} is damaged and cannot be read ({type(error).__name__}: {error}). {_REBUILD}"
            ) from error
        if len(store) != manifest["rows"]:
            raise StoreError(
                f"The store {folder} is damaged: its index has {len(store)} of {manifest['rows']} rows. {_REBUILD}"
            )
        return store

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
            raise StoreError(f"The {modality} arrays in {self.path} are damaged ({error}). {_REBUILD}") from error

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


def _check_file(path: Path, expected: Mapping[str, Any], *, verify: bool) -> None:
    if not path.is_file():
        raise StoreError(f"The store is damaged: {path} is missing. {_REBUILD}")
    if (size := path.stat().st_size) != expected["bytes"]:
        raise StoreError(
            f"The store is damaged: {path} must have {expected['bytes']} bytes, but has {size}. {_REBUILD}"
        )
    if verify and checksum(path)["sha256"] != expected["sha256"]:
        raise StoreError(f"The store is damaged: the checksum of {path} has changed. {_REBUILD}")
