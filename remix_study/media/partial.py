"""A store that is being built: rows on disk, and a journal of which of them are done

    store.partial/plan.json                fingerprint of what is being built, and the folder of its rows
    store.partial/rows-*/<modality>-*.npy  space for a row per clip, reserved at once: a full disk shows before the work
    store.partial/journal.jsonl            one line per finished clip, written only after its rows have reached the disk

A kill at any moment loses the rows since the last journal line, and nothing else. A worker that outlives a killed build
by one clip finds its folder again if the same build goes on (and writes the same bytes), else it finds none: each new
build has a folder of another name.
"""

# N rows, one per clip

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from remix_study.errors import StoreError
from remix_study.files.disk import sync, write_atomically
from remix_study.media.plan import Plan, canonical_json
from remix_study.media.shards import Layout, RowReader, RowWriter, rows_per_shard, shard_name

_RETRIED = ("timeout", "died", "memory")  # may have been the machine's fault: tried again by the next build
_MARGIN_BYTES = 16 * 2**20


class RowStatus(TypedDict):
    """`stage` is None for a good row; else the reason for quarantine, with a `message`."""

    row: int
    stage: str | None
    message: str
    meta: dict[str, float | int]


def refuse_other_settings(folder: Path, plan: Plan) -> None:
    """A mistyped option must not cost the hours of an unfinished build.

    Raises:
        StoreError: clips are done there under other settings: another preset, decoder or other checks.
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
            f"{folder} holds an unfinished build with other settings ({other}), of which {done} clips are done. Give "
            "the settings of that build to go on with it, choose another folder, or replace it (`--replace`)."
        )


class Partial:
    """The folder above. Of a finished row only its place in the journal is in memory."""

    def __init__(self, folder: Path, plan: Plan, shard_bytes: int) -> None:
        self.folder = folder
        self.layouts = {
            m: Layout(m, part, len(plan.clips), rows_per_shard(part, shard_bytes))
            for m, part in plan.preset.parts.items()
        }
        self.rows_folder = self._kept(plan) or self._begin(plan)
        self.writers = {m: RowWriter(self.rows_folder, layout) for m, layout in self.layouts.items()}
        self._at_N = np.full(len(plan.clips), -1, np.int64)  # where its line begins
        self._bad: set[int] = set()
        self._done = 0
        self._waiting: list[tuple[int, bytes]] = []
        self._journal = (folder / "journal.jsonl").open("a+b")
        self._end = self._read_journal()
        self._journal.truncate(self._end)

    def __contains__(self, row: int) -> bool:
        """Whether the row is done, this time or before."""
        return bool(self._at_N[row] >= 0)

    def __len__(self) -> int:
        return self._done

    def status(self, row: int) -> RowStatus:
        """Of a row that is done and flushed."""
        self._journal.seek(int(self._at_N[row]))
        found: RowStatus = json.loads(self._journal.readline())
        return found

    @property
    def bad(self) -> list[RowStatus]:
        """Rows for quarantine, ascending."""
        return [self.status(row) for row in sorted(self._bad)]

    @property
    def good_n(self) -> NDArray[np.int64]:
        """Numbers of the rows that are to be published, ascending."""
        good_N = self._at_N >= 0
        good_N[list(self._bad)] = False
        return np.flatnonzero(good_N)

    def reader(self, modality: str) -> RowReader:
        return RowReader(self.rows_folder, self.layouts[modality])

    def _kept(self, plan: Plan) -> Path | None:
        """The folder of rows that an earlier build of the same plan left."""
        try:
            kept = json.loads((self.folder / "plan.json").read_text())
            same, folder = kept["fingerprint"] == plan.fingerprint, self.folder / Path(kept["rows"]).name
        except (OSError, ValueError, TypeError, KeyError):
            return None
        sizes = {
            folder / name: layout.size(shard)
            for layout in self.layouts.values()
            for shard, name in enumerate(layout.names)
        }
        whole = all(path.is_file() and path.stat().st_size == size for path, size in sizes.items())
        return folder if same and whole else None

    def _begin(self, plan: Plan) -> Path:
        shutil.rmtree(self.folder, ignore_errors=True)
        rows = self.folder / f"rows-{secrets.token_hex(4)}"
        rows.mkdir(parents=True)
        try:
            self._reserve(rows)
        except (OSError, StoreError):
            shutil.rmtree(self.folder, ignore_errors=True)  # nothing is done yet, and it may fill the disk
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
                f"the store needs {needed / 1e9:.2f} GB in {self.folder.parent}, but {free / 1e9:.2f} GB are free. "
                "Free space, or choose a folder on another disk."
            )
        for layout in self.layouts.values():
            for shard, name in enumerate(layout.names):
                with (rows / name).open("wb") as file:
                    file.write(layout.header(shard))
                    file.flush()
                    if hasattr(os, "posix_fallocate"):
                        os.posix_fallocate(file.fileno(), 0, layout.size(shard))
                    else:
                        file.truncate(layout.size(shard))
                    os.fsync(file.fileno())

    def _read_journal(self) -> int:
        """Where the next line goes: after the last one that is whole."""
        end = 0
        self._journal.seek(0)
        for line in self._journal:
            if not line.endswith(b"\n"):  # the kill cut it short
                break
            try:
                status: RowStatus = json.loads(line)
                if status["stage"] not in _RETRIED:
                    self._keep(status, end)
            except (ValueError, TypeError, KeyError, IndexError):
                break  # what the machine's end has made of it; all after it is done again
            end += len(line)
        return end

    def _keep(self, status: RowStatus, at: int) -> None:
        row = status["row"]
        self._done += row not in self
        self._at_N[row] = at
        if status["stage"] is not None:
            self._bad.add(row)

    def record(self, status: RowStatus) -> None:
        """Take note of a finished row; durable after `flush`."""
        line = canonical_json(status).encode() + b"\n"
        self._keep(status, self._end)
        self._end += len(line)
        self._waiting.append((status["row"], line))

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def flush(self) -> None:
        """First the rows, then the lines that say they are there."""
        for path in self._written():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        self._journal.writelines(line for _, line in self._waiting)
        self._journal.flush()
        os.fsync(self._journal.fileno())
        self._waiting.clear()

    def _written(self) -> Iterator[Path]:
        """Files that hold rows which wait for their lines."""
        for modality, layout in self.layouts.items():
            for shard in sorted({row // layout.per_shard for row, _ in self._waiting}):
                yield self.rows_folder / shard_name(modality, shard)

    def close(self) -> None:
        self._journal.close()
        sync(self.folder)
