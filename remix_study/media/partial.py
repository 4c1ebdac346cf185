"""A store that is being built: rows on disk, and a journal of which of them are done

    store.partial/plan.json         fingerprint of what is being built
    store.partial/<modality>-*.npy  space for a row per clip, reserved at once: a full disk shows before the work
    store.partial/journal.jsonl     one line per finished clip, written only after its rows have reached the disk

A kill at any moment loses the rows since the last journal line, and nothing else.
"""

import json
import os
import shutil
from pathlib import Path
from typing import TypedDict

from remix_study.errors import StoreError
from remix_study.media.disk import sync_folder, write_whole
from remix_study.media.plan import Plan, canonical_json
from remix_study.media.shards import Layout, RowReader, RowWriter, rows_per_shard

_RETRIED = ("timeout", "died", "memory")  # may have been the machine's fault: tried again by the next build
_MARGIN_BYTES = 16 * 2**20


class RowStatus(TypedDict):
    """`stage` is None for a good row; else the reason for quarantine, with a `message`."""

    row: int
    stage: str | None
    message: str
    meta: dict[str, float | int]


class Partial:
    """The folder above. What is known of a row is kept as its journal line: a million of them are not many bytes."""

    def __init__(self, folder: Path, plan: Plan, shard_bytes: int) -> None:
        self.folder = folder
        self.layouts = {
            m: Layout(m, part, len(plan.clips), rows_per_shard(part, shard_bytes))
            for m, part in plan.preset.parts.items()
        }
        self._lines: dict[int, str] = {}
        self._bad: set[int] = set()
        self._waiting: list[str] = []
        if not self._is_of(plan):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            self._reserve()
            write_whole(folder / "plan.json", canonical_json({"fingerprint": plan.fingerprint}))
        self.writers = {m: RowWriter(folder, layout) for m, layout in self.layouts.items()}
        self._read_journal()
        self._journal = (folder / "journal.jsonl").open("a", encoding="utf-8")

    def __contains__(self, row: int) -> bool:
        """Whether the row is done, this time or before."""
        return row in self._lines

    def __len__(self) -> int:
        return len(self._lines)

    def status(self, row: int) -> RowStatus:
        found: RowStatus = json.loads(self._lines[row])
        return found

    @property
    def bad(self) -> list[RowStatus]:
        """Rows for quarantine, ascending."""
        return [self.status(row) for row in sorted(self._bad)]

    @property
    def good(self) -> list[int]:
        return [row for row in sorted(self._lines) if row not in self._bad]

    def reader(self, modality: str) -> RowReader:
        return RowReader(self.folder, self.layouts[modality])

    def _is_of(self, plan: Plan) -> bool:
        try:
            kept = json.loads((self.folder / "plan.json").read_text())
        except (OSError, ValueError):
            return False
        sizes = {
            self.folder / name: layout.size(shard)
            for layout in self.layouts.values()
            for shard, name in enumerate(layout.names)
        }
        whole = all(path.is_file() and path.stat().st_size == size for path, size in sizes.items())
        return whole and isinstance(kept, dict) and kept.get("fingerprint") == plan.fingerprint

    def _reserve(self) -> None:
        needed = sum(layout.bytes for layout in self.layouts.values())
        free = shutil.disk_usage(self.folder).free
        if free < needed + _MARGIN_BYTES:
            raise StoreError(
                f"the store needs {needed / 1e9:.2f} GB in {self.folder.parent}, but {free / 1e9:.2f} GB are free. "
                "Free space, or choose a folder on another disk."
            )
        for layout in self.layouts.values():
            for shard, name in enumerate(layout.names):
                with (self.folder / name).open("wb") as file:
                    file.write(layout.header(shard))
                    file.flush()
                    if hasattr(os, "posix_fallocate"):
                        os.posix_fallocate(file.fileno(), 0, layout.size(shard))
                    else:
                        file.truncate(layout.size(shard))

    def _read_journal(self) -> None:
        path = self.folder / "journal.jsonl"
        if not path.exists():
            return
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                status: RowStatus = json.loads(line)
            except ValueError:
                continue  # the line that the kill cut short
            if status["stage"] not in _RETRIED:
                self._keep(status, line)
        write_whole(path, "".join(f"{line}\n" for line in self._lines.values()))

    def _keep(self, status: RowStatus, line: str) -> None:
        self._lines[status["row"]] = line
        if status["stage"] is not None:
            self._bad.add(status["row"])

    def record(self, status: RowStatus) -> None:
        """Take note of a finished row; durable after `flush`."""
        line = canonical_json(status)
        self._keep(status, line)
        self._waiting.append(line)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def flush(self) -> None:
        """First the rows, then the lines that say they are there."""
        for layout in self.layouts.values():
            for name in layout.names:
                descriptor = os.open(self.folder / name, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
        self._journal.writelines(line + "\n" for line in self._waiting)
        self._journal.flush()
        os.fsync(self._journal.fileno())
        self._waiting.clear()

    def close(self) -> None:
        self._journal.close()
        sync_folder(self.folder)
