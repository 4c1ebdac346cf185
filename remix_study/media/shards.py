"""Shards: the rows of one modality, in `.npy` files of limited size (`video-00000.npy`, `video-00001.npy`, ...)

Row r is in shard r // rows_per_shard. Every shard is a plain `.npy` file that `numpy.load` reads.
"""

# n requested rows, T chosen frames

import collections
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from remix_study.files import operations
from remix_study.media.presets import Part

SHARD_BYTES = 2**30
BLOCK_BYTES = 2**22
MAX_OPEN_SHARDS = 128  # each map holds a file descriptor, of which a process is often allowed 1024


def shard_name(modality: str, number: int) -> str:
    """File name of a shard."""
    return f"{modality}-{number:05d}.npy"


def rows_per_shard(part: Part, shard_bytes: int = SHARD_BYTES) -> int:
    """How many rows fit into a shard; at least one."""
    return max(1, shard_bytes // row_bytes(part))


def row_bytes(part: Part) -> int:
    """Bytes of one row."""
    return int(np.prod(part.shape)) * part.dtype.itemsize


def npy_header(part: Part, count: int) -> bytes:
    """The `.npy` header of a file with `count` rows."""
    buffer = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(part.dtype)
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": descr, "fortran_order": False, "shape": (count, *part.shape)}
    )
    return buffer.getvalue()


@dataclass(frozen=True)
class Layout:
    """How the `count` rows of a modality are divided into shards of `per_shard` rows."""

    modality: str
    part: Part
    count: int
    per_shard: int

    @property
    def names(self) -> list[str]:
        """File names of all shards, in order."""
        return [shard_name(self.modality, number) for number in range(self.shards)]

    @property
    def shards(self) -> int:
        """Number of shards; at least one."""
        return max(1, -(-self.count // self.per_shard))

    def rows_of(self, shard: int) -> int:
        """Number of rows in a shard."""
        return min(self.per_shard, self.count - shard * self.per_shard)

    def header(self, shard: int) -> bytes:
        """The `.npy` header of a shard."""
        return npy_header(self.part, self.rows_of(shard))

    def size(self, shard: int) -> int:
        """Bytes of a shard's file."""
        return len(self.header(shard)) + self.rows_of(shard) * row_bytes(self.part)

    @property
    def bytes(self) -> int:
        """Bytes of all shards."""
        return sum(self.size(shard) for shard in range(self.shards))


@dataclass(frozen=True)
class RowWriter:
    """Writes single rows into existing shards. Picklable; several processes may write at once."""

    folder: Path
    layout: Layout

    def write(self, row: int, values: NDArray[Any]) -> None:
        """Write one row in its place.

        Raises:
            ValueError: `values` does not have the size of a row.
            OSError: the file cannot be written, or the disk is full.
        """
        wanted = row_bytes(self.layout.part)
        content = np.ascontiguousarray(values).tobytes()
        if len(content) != wanted:
            raise ValueError(f"a row has {wanted} bytes, but got {len(content)}")
        shard, place = divmod(row, self.layout.per_shard)
        offset = len(self.layout.header(shard)) + place * wanted
        descriptor = os.open(self.folder / shard_name(self.layout.modality, shard), os.O_WRONLY)
        try:  # not through a memory map, where a full disk raises SIGBUS instead of an OSError
            written = operations.write_at(descriptor, content, offset)
            if written < len(content):  # the disk filled up within this row: the second call raises
                operations.write_at(descriptor, content[written:], offset + written)
        finally:
            os.close(descriptor)


class RowReader:
    """Reads rows through read-only memory maps, each opened when a process first needs it.

    Picklable: a copy maps the files anew. Pages that were read belong to the operating system, which may reclaim them.

    Args:
        folder: where the shards are.
        layout: how the rows are divided into shards.
        max_open: how many shards stay mapped; the least recently used one is closed first.
        block_bytes: upper bound of a block of `blocks`, unless a single row is larger.
    """

    def __init__(
        self, folder: Path, layout: Layout, *, max_open: int = MAX_OPEN_SHARDS, block_bytes: int = BLOCK_BYTES
    ) -> None:
        self.folder = folder
        self.layout = layout
        self._max_open, self._block_bytes = max_open, block_bytes
        self._maps: collections.OrderedDict[int, NDArray[Any]] = collections.OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": collections.OrderedDict()}

    def gather(self, rows_n: NDArray[np.int64], frames_nT: NDArray[np.int64] | None = None) -> NDArray[Any]:
        """Copy rows, in the order of `rows_n`.

        Args:
            rows_n: row numbers.
            frames_nT: for each row, the frames to read; by default all of them.

        Returns:
            (n, *part.shape), or (n, T, *part.shape[1:]) with `frames_nT`.

        Raises:
            OSError, ValueError: a file is missing or damaged.
        """
        part = self.layout.part
        shape = part.shape if frames_nT is None else (frames_nT.shape[1], *part.shape[1:])
        gathered = np.empty((len(rows_n), *shape), part.dtype)
        for at in np.argsort(rows_n, kind="stable").tolist():  # each file is visited once
            shard, place = divmod(int(rows_n[at]), self.layout.per_shard)
            row = self.shard(shard)[place]  # rows are large; one at a time, each is copied only once
            gathered[at] = row if frames_nT is None else row[frames_nT[at]]
        return gathered

    def blocks(self, rows_n: NDArray[np.int64]) -> Iterator[NDArray[Any]]:
        """Yield the rows of `gather` in blocks of at most `block_bytes`."""
        block = max(1, self._block_bytes // row_bytes(self.layout.part))
        for first in range(0, len(rows_n), block):
            yield self.gather(rows_n[first : first + block])

    def shard(self, number: int) -> NDArray[Any]:
        """A read-only view of one shard.

        Raises:
            OSError, ValueError: the file is missing, or does not have the shape or dtype of the layout.
        """
        stored = self._maps.pop(number, None)
        if stored is None:
            name = shard_name(self.layout.modality, number)
            # A plain view: indexing a `memmap` creates another `memmap` each time, which costs more than the row.
            stored = np.load(self.folder / name, mmap_mode="r").view(np.ndarray)
            wanted = (self.layout.rows_of(number), *self.layout.part.shape)
            # The file may have been replaced since the store was opened.
            if stored.shape != wanted or stored.dtype != self.layout.part.dtype:
                raise ValueError(f"{name} holds {stored.dtype} {stored.shape}, not {self.layout.part.dtype} {wanted}")
        self._maps[number] = stored  # moved to the end, so that the least recently used map is closed first
        while len(self._maps) > self._max_open:
            self._maps.popitem(last=False)
        return stored
