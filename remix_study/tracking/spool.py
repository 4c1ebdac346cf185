"""Everything a run tells its tracker, as lines of a local file, before anything is sent

    spool.jsonl    one JSON object per line, only ever appended to
    spool.offset   how many of its bytes have arrived; moved on only after the server said so

A line may be sent twice (its answer was lost, or the process died before the offset moved): what a line does must be
idempotent, which is the sender's part (`mlflow.py`).
"""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

Line = dict[str, Any]
_log = logging.getLogger(__name__)


class Spool:
    """The lines of one run folder; one process writes at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lines = folder / "spool.jsonl"
        self._offset = folder / "spool.offset"
        if self._lines.exists() and not self._lines.read_bytes().endswith(b"\n") and self._lines.stat().st_size:
            # The last writer was killed inside a line; closing it keeps the next line whole.
            with self._lines.open("ab") as file:
                file.write(b"\n")

    @property
    def offset(self) -> int:
        return int(self._offset.read_text()) if self._offset.exists() else 0

    @property
    def pending(self) -> int:
        """Bytes that have not arrived yet."""
        return (self._lines.stat().st_size if self._lines.exists() else 0) - self.offset

    def append(self, line: Line) -> None:
        with self._lines.open("ab") as file:
            file.write(json.dumps(line).encode() + b"\n")

    def drain(self, send: Callable[[Line], None]) -> None:
        """Give each waiting line to `send`, in order; stops where it raises, and raises the same."""
        if self.pending <= 0:
            return
        with self._lines.open("rb") as file:
            file.seek(self.offset)
            for raw in iter(file.readline, b""):
                try:
                    line = json.loads(raw)
                except json.JSONDecodeError:
                    _log.warning("a line cut short by a kill was left out of the tracking of %s", self.folder.name)
                else:
                    send(line)
                self._advance(file.tell())

    def _advance(self, offset: int) -> None:
        # Written beside and renamed: a kill leaves the old offset or the new one, never half of one.
        beside = self._offset.with_suffix(".new")
        beside.write_text(str(offset))
        beside.replace(self._offset)
