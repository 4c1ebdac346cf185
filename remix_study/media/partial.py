"""A store that is being built: rows on disk, and a journal of which of them are done

    store.partial/plan.json        fingerprint of what is being built
    store.partial/<modality>.npy   space for a row per clip, reserved at once, so that a full disk shows before the work
    store.partial/journal.jsonl    one line per finished clip, written only after its rows have reached the disk

A kill at any moment loses the rows since the last journal line, and nothing else.
"""

import io
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from remix_study.errors import StoreError
from remix_study.media.disk import sync_folder, write_whole
from remix_study.media.plan import Plan, canonical_json
from remix_study.media.presets import Preset

_RETRIED = ("timeout", "died")  # may have been the machine's fault: tried again by the next build
_MARGIN_BYTES = 16 * 2**20


class RowStatus(TypedDict):
    """`stage` is None for a good row; else the reason for quarantine, with a `message`."""

    row: int
    stage: str | None
    message: str
    meta: dict[str, float | int]


@dataclass(frozen=True)
class RowFile:
    """Where worker processes put rows; picklable."""

    path: Path
    offset: int
    row_bytes: int

    def write(self, row: int, values: NDArray[Any]) -> None:
        content = values.tobytes()
        if len(content) != self.row_bytes:
            raise ValueError(f"a row has {self.row_bytes} bytes, but got {len(content)}")
        descriptor = os.open(self.path, os.O_WRONLY)
        try:  # not through a map: there a full disk is a SIGBUS, here it is an OSError
            written = os.pwrite(descriptor, content, self.offset + row * self.row_bytes)
            if written < len(content):  # the disk filled up within this row: say so
                os.pwrite(descriptor, content[written:], self.offset + row * self.row_bytes + written)
        finally:
            os.close(descriptor)


class Partial:
    """The folder above; `statuses` are the rows that are done, this time or before."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder = folder
        self.statuses: dict[int, RowStatus] = {}
        self._waiting: list[RowStatus] = []
        preset, count = plan.preset, len(plan.clips)
        if not self._is_of(plan):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            self._reserve(preset, count)
            write_whole(folder / "plan.json", canonical_json({"fingerprint": plan.fingerprint}))
        self.files = {
            m: RowFile(folder / f"{m}.npy", len(npy_header(preset, m, count)), preset.row_bytes(m))
            for m in preset.modalities
        }
        self._read_journal()
        self._journal = (folder / "journal.jsonl").open("a", encoding="utf-8")

    def _is_of(self, plan: Plan) -> bool:
        try:
            kept = json.loads((self.folder / "plan.json").read_text())
        except (OSError, ValueError):
            return False
        sizes = {
            m: len(npy_header(plan.preset, m, len(plan.clips))) + len(plan.clips) * plan.preset.row_bytes(m)
            for m in plan.preset.modalities
        }
        files = {m: self.folder / f"{m}.npy" for m in sizes}
        whole = all(files[m].is_file() and files[m].stat().st_size == sizes[m] for m in sizes)
        return whole and isinstance(kept, dict) and kept.get("fingerprint") == plan.fingerprint

    def _reserve(self, preset: Preset, count: int) -> None:
        needed = sum(count * preset.row_bytes(m) for m in preset.modalities)
        free = shutil.disk_usage(self.folder).free
        if free < needed + _MARGIN_BYTES:
            raise StoreError(
                f"the store needs {needed / 1e9:.2f} GB in {self.folder.parent}, but {free / 1e9:.2f} GB are free. "
                "Free space, or choose a folder on another disk."
            )
        for m in preset.modalities:
            header = npy_header(preset, m, count)
            with (self.folder / f"{m}.npy").open("wb") as file:
                file.write(header)
                file.flush()
                size = len(header) + count * preset.row_bytes(m)
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, size)
                else:
                    file.truncate(size)

    def _read_journal(self) -> None:
        path = self.folder / "journal.jsonl"
        if not path.exists():
            return
        kept: list[str] = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                status: RowStatus = json.loads(line)
            except ValueError:
                continue  # the line that the kill cut short
            if status["stage"] not in _RETRIED:
                self.statuses[status["row"]] = status
                kept.append(line)
        write_whole(path, "".join(f"{line}\n" for line in kept))

    def record(self, status: RowStatus) -> None:
        """Take note of a finished row; durable after `flush`."""
        self.statuses[status["row"]] = status
        self._waiting.append(status)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def flush(self) -> None:
        """First the rows, then the lines that say they are there."""
        for file in self.files.values():
            descriptor = os.open(file.path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        self._journal.writelines(canonical_json(status) + "\n" for status in self._waiting)
        self._journal.flush()
        os.fsync(self._journal.fileno())
        self._waiting.clear()

    def close(self) -> None:
        self._journal.close()
        sync_folder(self.folder)


def npy_header(preset: Preset, modality: str, count: int) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer,
        {
            "descr": np.lib.format.dtype_to_descr(preset.dtype(modality)),
            "fortran_order": False,
            "shape": (count, *preset.shape(modality)),
        },
    )
    return buffer.getvalue()
