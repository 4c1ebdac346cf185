"""Helper that writes rows to shards"""

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from remix_study.media.presets import Part
from remix_study.media.shards import BLOCK_BYTES, MAX_OPEN_SHARDS, Layout, RowReader, RowWriter


def write_rows(
    folder: Path,
    part: Part,
    values: NDArray[Any],
    per_shard: int,
    *,
    max_open: int = MAX_OPEN_SHARDS,
    block_bytes: int = BLOCK_BYTES,
) -> RowReader:
    """Write rows one at a time, last row first, and return their reader."""
    layout = Layout("m", part, len(values), per_shard)
    for shard, name in enumerate(layout.names):
        with (folder / name).open("wb") as file:
            file.write(layout.header(shard))
            file.truncate(layout.size(shard))
    writer = RowWriter(folder, layout)
    for row in reversed(range(len(values))):
        writer.write(row, values[row])
    return RowReader(folder, layout, max_open=max_open, block_bytes=block_bytes)
