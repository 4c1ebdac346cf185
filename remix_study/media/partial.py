"""Unfinished stores: the rows on disk, and a journal of the finished ones

    store.partial/plan.json                fingerprint of the store, and the folder of its rows
    store.partial/rows-*/<modality>-*.npy  space for one row per clip, reserved at the start, so that a full disk shows
                                           before decoding begins
    store.partial/journal.jsonl            one line per finished clip, written after its rows have reached the disk

A killed build loses only the rows since the last journal line. Its workers may outlive it by one clip. If the build is
resumed, they write the same bytes as the resumed build. A new build has a row folder of another name, which they do not
know.
"""

# N rows, one per clip

import json
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from remix_study.errors import StoreError
from remix_study.files import operations
from remix_study.files.disk import sync, write_atomically
from remix_study.media.plan import Plan, canonical_json
from remix_study.media.shards import Layout, RowReader, RowWriter, rows_per_shard, shard_name

RETRIED = ("timeout", "died", "memory")
"""Reasons for a quarantine that the machine may have caused: the next build tries these clips again"""
_MARGIN_BYTES = 16 * 2**20


class RowStatus(TypedDict):
    """The result of decoding one clip.

    `stage` is None for a good row, or else the reason for the quarantine. `path` is the file that cannot be used,
    relative to the root of the source, if it is known. Journals of older versions lack it.
    """

    row: int
    stage: str | None
    message: str
    path: NotRequired[str | None]
    meta: dict[str, float | int]


def require_same_settings(folder: Path, plan: Plan) -> None:
    """Keep a mistyped option from discarding an unfinished build.

    Raises:
        StoreError: `folder` holds finished clips with another preset, decoder or checks.
    """
    try:
        settings = json.loads((folder / "plan.json").read_text())["settings"]
        done = (folder / "journal.jsonl").read_bytes().count(b"\n")
    except (OSError, ValueError, TypeError, KeyError):
        return
    now = json.loads(canonical_json(plan.settings))
    if done and settings != now:
        other = ", ".join(key for key in now if settings.get(key) != now[key])
        raise StoreError(
            f"Cannot build in {folder}: it holds an unfinished build with other settings ({other}), of which {done} "
            "clips are done. Use its settings to resume it, choose another folder, or replace it (`--replace`)."
        )


class Partial:
    """An unfinished store. It resumes an earlier build of the same plan, if `folder` holds one.

    Memory holds only the journal position of each finished row.

    Args:
        folder: `store.partial`.
        plan: what to build.
        shard_bytes: size of a shard.

    Raises:
        StoreError: the disk has too little space.
    """

    def __init__(self, folder: Path, plan: Plan, shard_bytes: int) -> None:
        self.folder = folder
        self.layouts = {
            m: Layout(m, part, len(plan.clips), rows_per_shard(part, shard_bytes))
            for m, part in plan.preset.parts.items()
        }
        self.rows_folder = self._resumable(plan) or self._begin(plan)
        self.writers = {m: RowWriter(self.rows_folder, layout) for m, layout in self.layouts.items()}
        self._at_N = np.full(len(plan.clips), -1, np.int64)  # offset of the row's line in the journal, or -1
        self._bad: set[int] = set()
        self._done = 0
        self._waiting: list[tuple[int, bytes]] = []
        self._journal = operations.extend(folder / "journal.jsonl")
        self._end = self._read_journal()
        self._journal.truncate(self._end)

    def __contains__(self, row: int) -> bool:
        """Whether the row is finished, in this build or an earlier one."""
        return bool(self._at_N[row] >= 0)

    def __len__(self) -> int:
        return self._done

    def status(self, row: int) -> RowStatus:
        """The status of a row that is finished and flushed."""
        self._journal.seek(int(self._at_N[row]))
        found: RowStatus = json.loads(self._journal.readline())
        return found

    @property
    def bad(self) -> list[RowStatus]:
        """The statuses of the rows for the quarantine, in row order."""
        return [self.status(row) for row in sorted(self._bad)]

    @property
    def good_n(self) -> NDArray[np.int64]:
        """Ascending numbers of the rows to publish."""
        good_N = self._at_N >= 0
        good_N[list(self._bad)] = False
        return np.flatnonzero(good_N)

    def reader(self, modality: str) -> RowReader:
        """A reader of all rows of a modality, also of rows without content."""
        return RowReader(self.rows_folder, self.layouts[modality])

    def _resumable(self, plan: Plan) -> Path | None:
        """The row folder of an earlier build of the same plan, if all its files are there."""
        try:
            earlier = json.loads((self.folder / "plan.json").read_text())
            same, folder = earlier["fingerprint"] == plan.fingerprint, self.folder / Path(earlier["rows"]).name
        except (OSError, ValueError, TypeError, KeyError):
            return None
        sizes = {
            folder / name: layout.size(shard)
            for layout in self.layouts.values()
            for shard, name in enumerate(layout.names)
        }
        complete = all(path.is_file() and path.stat().st_size == size for path, size in sizes.items())
        return folder if same and complete else None

    def _begin(self, plan: Plan) -> Path:
        operations.remove_folder(self.folder)
        rows = self.folder / f"rows-{secrets.token_hex(4)}"
        rows.mkdir(parents=True)
        try:
            self._reserve(rows)
        except (OSError, StoreError):
            operations.remove_folder(self.folder)  # nothing is decoded yet, and it may fill the disk
            raise
        sync(rows)
        known = {"fingerprint": plan.fingerprint, "rows": rows.name, "settings": plan.settings}
        write_atomically(self.folder / "plan.json", canonical_json(known))
        sync(self.folder)
        return rows

    def _reserve(self, rows: Path) -> None:
        needed = sum(layout.bytes for layout in self.layouts.values())
        free = shutil.disk_usage(rows).free
        if free < needed + _MARGIN_BYTES:
            raise StoreError(
                f"Cannot build the store: it needs {needed / 1e9:.2f} GB in {self.folder.parent}, but "
                f"{free / 1e9:.2f} GB are free. Free space, or choose a folder on another disk."
            )
        for layout in self.layouts.values():
            for shard, name in enumerate(layout.names):
                with operations.create(rows / name) as file:
                    file.write(layout.header(shard))
                    file.flush()
                    operations.reserve(file.fileno(), layout.size(shard))
                    operations.fsync(file.fileno())

    def _read_journal(self) -> int:
        """Read the finished rows, and return the offset behind the last complete line."""
        end = 0
        self._journal.seek(0)
        for line in self._journal:
            if not line.endswith(b"\n"):  # truncated by a kill
                break
            try:
                status: RowStatus = json.loads(line)
                if status["stage"] not in RETRIED:
                    self._keep(status, end)
            except (ValueError, TypeError, KeyError, IndexError):
                break  # damaged by a power cut; the rows of this and all later lines are decoded again
            end += len(line)
        return end

    def _keep(self, status: RowStatus, at: int) -> None:
        row = status["row"]
        self._done += row not in self
        self._at_N[row] = at
        if status["stage"] is not None:
            self._bad.add(row)

    def record(self, status: RowStatus) -> None:
        """Note a finished row. It is durable after `flush`."""
        line = canonical_json(status).encode() + b"\n"
        self._keep(status, self._end)
        self._end += len(line)
        self._waiting.append((status["row"], line))

    @property
    def waiting(self) -> int:
        """Number of recorded rows that are not flushed."""
        return len(self._waiting)

    def flush(self) -> None:
        """Sync the rows to disk, and then write their journal lines."""
        for path in self._written():
            sync(path)
        self._journal.writelines(line for _, line in self._waiting)
        self._journal.flush()
        operations.fsync(self._journal.fileno())
        self._waiting.clear()

    def _written(self) -> Iterator[Path]:
        """The shards of the rows that are not flushed."""
        for modality, layout in self.layouts.items():
            for shard in sorted({row // layout.per_shard for row, _ in self._waiting}):
                yield self.rows_folder / shard_name(modality, shard)

    def close(self) -> None:
        """Close the journal."""
        self._journal.close()
        sync(self.folder)
