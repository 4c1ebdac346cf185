"""Rows of one modality in files of limited size: `video-00000.npy`, `video-00001.npy`, ...

Row r lies in shard r // rows_per_shard. Every shard is a plain `.npy` file, which anything can read.
"""

# n rows asked for, T chosen frames

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from remix_study.media.presets import Part

SHARD_BYTES = 2**30


def shard_name(modality: str, number: int) -> str:
    return f"{modality}-{number:05d}.npy"


def rows_per_shard(part: Part, shard_bytes: int = SHARD_BYTES) -> int:
    return max(1, shard_bytes // row_bytes(part))


def row_bytes(part: Part) -> int:
    return int(np.prod(part.shape)) * part.dtype.itemsize


def npy_header(part: Part, count: int) -> bytes:
    buffer = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(part.dtype)
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": descr, "fortran_order": False, "shape": (count, *part.shape)}
    )
    return buffer.getvalue()


@dataclass(frozen=True)
class Layout:
    """Where the `count` rows of a modality are."""

    modality: str
    part: Part
    count: int
    per_shard: int

    @property
    def names(self) -> list[str]:
        return [shard_name(self.modality, number) for number in range(self.shards)]

    @property
    def shards(self) -> int:
        return max(1, -(-self.count // self.per_shard))

    def rows_of(self, shard: int) -> int:
        return min(self.per_shard, self.count - shard * self.per_shard)

    def header(self, shard: int) -> bytes:
        return npy_header(self.part, self.rows_of(shard))

    def size(self, shard: int) -> int:
        """Bytes of the file."""
        return len(self.header(shard)) + self.rows_of(shard) * row_bytes(self.part)

    @property
    def bytes(self) -> int:
        return sum(self.size(shard) for shard in range(self.shards))


@dataclass(frozen=True)
class RowWriter:
    """Puts single rows in their places, also from several processes; picklable."""

    folder: Path
    layout: Layout

    def write(self, row: int, values: NDArray[Any]) -> None:
        wanted = row_bytes(self.layout.part)
        content = np.ascontiguousarray(values).tobytes()
        if len(content) != wanted:
            raise ValueError(f"a row has {wanted} bytes, but got {len(content)}")
        shard, place = divmod(row, self.layout.per_shard)
        offset = len(self.layout.header(shard)) + place * wanted
        descriptor = os.open(self.folder / shard_name(self.layout.modality, shard), os.O_WRONLY)
        try:  # not through a map: there a full disk is a SIGBUS, here it is an OSError
            written = os.pwrite(descriptor, content, offset)
            if written < len(content):  # the disk filled up within this row: say so
                os.pwrite(descriptor, content[written:], offset + written)
        finally:
            os.close(descriptor)


class RowReader:
    """Read-only memory maps, opened when they are first used in a process; a copy maps the files anew."""

    def __init__(self, folder: Path, layout: Layout) -> None:
        self.folder = folder
        self.layout = layout
        self._maps: dict[int, NDArray[Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}

    def gather(self, rows_n: NDArray[np.int64], frames_nT: NDArray[np.int64] | None = None) -> NDArray[Any]:
        """A copy of these rows in this order; of each only its frames `frames_nT`, where they are given.

        Raises:
            OSError, ValueError: a file is gone or damaged.
        """
        part = self.layout.part
        shape = part.shape if frames_nT is None else (frames_nT.shape[1], *part.shape[1:])
        gathered = np.empty((len(rows_n), *shape), part.dtype)
        order = np.argsort(rows_n, kind="stable")  # one sweep over the files
        shards_n = rows_n[order] // self.layout.per_shard
        for shard in np.unique(shards_n):
            here = order[slice(*np.searchsorted(shards_n, [shard, shard + 1]))]
            places = rows_n[here] - shard * self.layout.per_shard
            stored = self.shard(int(shard))
            gathered[here] = stored[places] if frames_nT is None else stored[places[:, None], frames_nT[here]]
        return gathered

    def blocks(self, rows_n: Sequence[int] | NDArray[np.int64], block: int) -> Any:
        """`gather` for so many rows at a time."""
        rows = np.asarray(rows_n, dtype=np.int64)
        for first in range(0, len(rows), block):
            yield self.gather(rows[first : first + block])

    def shard(self, number: int) -> NDArray[Any]:
        if number not in self._maps:
            self._maps[number] = np.load(self.folder / shard_name(self.layout.modality, number), mmap_mode="r")
        return self._maps[number]
