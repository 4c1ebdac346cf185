"""Rows of one modality in files of limited size: `video-00000.npy`, `video-00001.npy`, ...

Row r lies in shard r // rows_per_shard. Every shard is a plain `.npy` file, which anything can read.
"""

# n rows asked for, T chosen frames

import collections
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from remix_study.media.presets import Part

SHARD_BYTES = 2**30
_BLOCK_BYTES = 2**22  # of rows that are read one after the other
_MAPS_OPEN = 128  # of a modality: each map holds a file descriptor, of which a process often may have 1024


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
    """Read-only memory maps, opened when they are first used in a process; a copy maps the files anew.

    What is read stays in memory only as long as the system has no better use for it.
    """

    def __init__(self, folder: Path, layout: Layout) -> None:
        self.folder = folder
        self.layout = layout
        self._maps: collections.OrderedDict[int, NDArray[Any]] = collections.OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": collections.OrderedDict()}

    def gather(self, rows_n: NDArray[np.int64], frames_nT: NDArray[np.int64] | None = None) -> NDArray[Any]:
        """A copy of these rows in this order; of each only its frames `frames_nT`, where they are given.

        Raises:
            OSError, ValueError: a file is gone or damaged.
        """
        part = self.layout.part
        shape = part.shape if frames_nT is None else (frames_nT.shape[1], *part.shape[1:])
        gathered = np.empty((len(rows_n), *shape), part.dtype)
        for at in np.argsort(rows_n, kind="stable").tolist():  # one sweep over the files
            shard, place = divmod(int(rows_n[at]), self.layout.per_shard)
            row = self.shard(shard)[place]  # rows are large: one by one, each is copied once
            gathered[at] = row if frames_nT is None else row[frames_nT[at]]
        return gathered

    def blocks(self, rows_n: NDArray[np.int64]) -> Iterator[NDArray[Any]]:
        """`gather`, a few megabytes at a time."""
        block = max(1, _BLOCK_BYTES // row_bytes(self.layout.part))
        for first in range(0, len(rows_n), block):
            yield self.gather(rows_n[first : first + block])

    def shard(self, number: int) -> NDArray[Any]:
        """
        Raises:
            OSError, ValueError: the file is gone, or is not what the layout says.
        """
        stored = self._maps.pop(number, None)
        if stored is None:
            name = shard_name(self.layout.modality, number)
            # A plain view: indexing a `memmap` makes another one each time, which costs more than the row.
            stored = np.load(self.folder / name, mmap_mode="r").view(np.ndarray)
            wanted = (self.layout.rows_of(number), *self.layout.part.shape)
            if stored.shape != wanted or stored.dtype != self.layout.part.dtype:  # replaced since the store was opened
                raise ValueError(f"{name} holds {stored.dtype} {stored.shape}, not {self.layout.part.dtype} {wanted}")
        self._maps[number] = stored  # the last one used is the last one closed
        while len(self._maps) > _MAPS_OPEN:
            self._maps.popitem(last=False)
        return stored
