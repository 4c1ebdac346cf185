"""The decoded-clip store, as every trial reads it: read-only memory maps, opened when first used in a process

Processes that read one store share its pages; nothing has to be coordinated.
"""

# N rows of the store, n rows asked for, F bands and T frames of a spectrogram, T frames of H x W pixels

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

_REBUILD = "Build it again (`remix-study prepare`, with `--replace` if it asks for it)."


class ClipStore:
    """A published store; picklable (a copy maps the files anew). Make one with `ClipStore.open`."""

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
        """Row by row: a million of them as they are would be a gigabyte in every process."""
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
        """The store at `path`, or in `path`/store; `verify` reads all of it and compares checksums.

        Raises:
            StoreError: there is none, it is unfinished, or a file is missing or damaged.
        """
        folder = path if (path / "manifest.json").exists() else path / "store"
        if not (folder / "manifest.json").exists():
            raise StoreError(_absent(path))
        try:
            manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
            if manifest["schema"] != SCHEMA:
                raise StoreError(f"{folder} has schema {manifest['schema']}, but {SCHEMA} is needed. {_REBUILD}")
            for name, promised in manifest["files"].items():
                _check_file(folder / name, promised, verify=verify)
            with (folder / "index.jsonl").open(encoding="utf-8") as lines:
                store = cls(folder, manifest, map(json.loads, lines))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(
                f"{folder} is damaged: it cannot be read ({type(error).__name__}: {error}). {_REBUILD}"
            ) from error
        if len(store) != manifest["rows"]:
            raise StoreError(f"{folder} is damaged: its index has {len(store)} rows of {manifest['rows']}. {_REBUILD}")
        return store

    def __len__(self) -> int:
        return len(self.labels_N)

    def rows(self, split: str) -> NDArray[np.int64]:
        """Row numbers of a split, ascending.

        Raises:
            StoreError: the store has no such split.
        """
        if split not in self._rows:
            raise StoreError(f"the split must be one of {', '.join(self.splits)} in {self.path}, but is {split!r}.")
        return self._rows[split]

    def gather(
        self, modality: str, rows: NDArray[np.int64], frames_nT: NDArray[np.int64] | None = None
    ) -> NDArray[Any]:
        """A copy of these rows, in this order, as stored: audio float16 (n, F, T), video uint8 (n, T, H, W, 3).

        With `frames_nT`, of each row only these frames, in their order, and no others are read.

        Raises:
            StoreError: the store has no such modality, or a file of it has been damaged since it was opened.
        """
        if modality not in self._readers:
            raise StoreError(f"{self.path} holds {' and '.join(self.modalities)}, but not {modality!r}.")
        try:
            return self._readers[modality].gather(rows, frames_nT)
        except (OSError, ValueError) as error:
            raise StoreError(f"the arrays of {modality} in {self.path} are damaged ({error}). {_REBUILD}") from error

    def matches(self, manifest: Path) -> None:
        """Nothing if this store was built from this manifest.

        Raises:
            StoreError: it was built from another one.
        """
        if manifest_digest(manifest) != self._manifest_digest:
            raise StoreError(f"{self.path} must be built from {manifest}, but that has changed since. {_REBUILD}")


def _absent(path: Path) -> str:
    if not path.exists():
        return f"{path} must hold a clip store, but there is no such folder. Build one with `remix-study prepare`."
    if (path / "store.partial").exists() or (path / "store").exists() or path.name.endswith(".partial"):
        return f"{path} holds a clip store that is not finished. Run the command that builds it again; it goes on."
    return f"{path} must hold a clip store, but does not. Build one with `remix-study prepare`."


def _check_file(path: Path, promised: Mapping[str, Any], *, verify: bool) -> None:
    if not path.is_file():
        raise StoreError(f"{path} is missing, so the store is damaged. {_REBUILD}")
    if (size := path.stat().st_size) != promised["bytes"]:
        raise StoreError(
            f"{path} must have {promised['bytes']} bytes, but has {size}: the store is damaged. {_REBUILD}"
        )
    if verify and checksum(path)["sha256"] != promised["sha256"]:
        raise StoreError(f"{path} does not have the checksum it was written with: the store is damaged. {_REBUILD}")
