"""The spool: local file to which a run writes all of its tracking data before it is sent to MLflow

    spool.jsonl    one JSON object per line; append-only
    spool.offset   number of bytes that MLflow has confirmed
    run.json       the MLflow run id, once the sender has created the run

A training process only writes, so a server that is down or slow does not delay it. The sender (`mlflow.py`) reads
complete lines while others are being written. It may send a line twice, if the answer was lost or the process died
before it wrote the offset; therefore applying a line must be idempotent.

This module does not import MLflow, so that trials start faster.
"""

import contextlib
import fcntl
import json
import logging
import math
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from remix_study.files import operations
from remix_study.files.disk import replacing, write_atomically
from remix_study.tracking.tracker import FAILURE_CAUSE, FAILURE_REASON, STATE, RunInfo, Status

if TYPE_CHECKING:  # as in tracker.py
    from matplotlib.figure import Figure
    from torch import nn

    from remix_study.sample import Batch

Line = dict[str, Any]
MODEL, MODEL_NOTES = "model", "model.json"  # next to the spool: folder of the trained model; its id in MLflow
_RUN = "run.json"
_BLOCK = 1 << 14
_log = logging.getLogger(__name__)


class Spool:
    """The spool in one folder. Any process may append; one process at a time reads and advances the offset."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lines = folder / "spool.jsonl"
        self._offset = folder / "spool.offset"

    @property
    def offset(self) -> int:
        """Number of confirmed bytes. 0 if the file cannot be read: sending everything again is harmless."""
        try:
            return int(self._offset.read_text())
        except (OSError, ValueError):
            return 0

    @property
    def size(self) -> int:
        try:
            return self._lines.stat().st_size
        except FileNotFoundError:
            return 0

    @property
    def has_unsent(self) -> bool:
        """Whether a complete line is not confirmed yet."""
        return self.size > self.offset and next(self.read(self.offset), None) is not None

    def append(self, *lines: Line) -> None:
        """Append lines and fsync, since an epoch that is in a checkpoint is not reported again after a power cut."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with operations.extend(self._lines) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            end = file.seek(0, os.SEEK_END)
            if end:
                file.seek(end - 1)
                if file.read(1) != b"\n":
                    file.write(b"\n")  # a writer was killed within a line: end it, so that only that line is lost
            file.write(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
            file.flush()
            operations.fsync(file.fileno())

    def read(self, begin: int = 0) -> Iterator[tuple[Line | None, int]]:
        """Yield complete lines from byte `begin` on, each with the offset of its end; None for an incomplete line."""
        if not self._lines.exists():
            return
        with self._lines.open("rb") as file:
            file.seek(begin)
            end = begin
            for raw in file:
                if not raw.endswith(b"\n"):
                    return  # it is being written
                end += len(raw)
                try:
                    line = json.loads(raw)
                except ValueError:
                    _log.warning("Skipping an incomplete line in %s: its writer was killed.", self._lines)
                    line = None
                yield line, end

    def advance(self, offset: int) -> None:
        write_atomically(self._offset, str(offset))

    @property
    def key(self) -> str | None:
        """The key of the first start, by which a sender that lost run.json finds the run in MLflow; None: no start."""
        return next((str(line["key"]) for line, _ in self.read() if line is not None and "start" in line), None)

    @property
    def is_open(self) -> bool:
        """Whether the last start in the spool has no end after it."""
        # Read from the end and not parsed: a starting study checks thousands of spools, most of which have ended.
        with contextlib.suppress(FileNotFoundError), self._lines.open("rb") as file:
            for raw in _backwards(file):
                if raw.startswith((b'{"start"', b'{"status"')):
                    return raw.startswith(b'{"start"')
        return False


def _backwards(file: BinaryIO) -> Iterator[bytes]:
    """Yield complete lines without newline, the last one first."""
    begin, first, complete = file.seek(0, os.SEEK_END), b"", False
    while begin > 0:
        end, begin = begin, max(0, begin - _BLOCK)
        file.seek(begin)
        first, *lines = (file.read(end - begin) + first).split(b"\n")
        if lines and not complete:
            del lines[-1]  # empty, or a line that is being written
            complete = True
        yield from reversed(lines)
    if complete:
        yield first


class SpoolTracker:
    """Tracker that writes to the spool only; the study's driver sends it (`syncer.py`).

    Args:
        folder: the run folder. The spool and copies of all artifacts are in its subfolder `tracking`.
        experiment: name of the MLflow experiment.
    """

    def __init__(self, folder: Path, experiment: str) -> None:
        self._run_folder = folder
        self._folder = folder / "tracking"
        self._experiment = experiment
        self._spool = Spool(self._folder)
        self._warned: set[str] = set()

    @property
    def run_id(self) -> str | None:
        """The MLflow run id; None until the start was sent."""
        return run_id_of(self._run_folder)

    def start(self, info: RunInfo, resume_run_id: str | None = None) -> str | None:
        """Start or resume the run. A run folder always belongs to the same MLflow run."""
        known = self.run_id
        line: Line = {
            "start": asdict(info) | {"tags": dict(info.tags), "params": dict(info.params),
                                     "dataset_profile": dict(info.dataset_profile)},
            "experiment": self._experiment,
            "key": self._spool.key or uuid.uuid4().hex,
            "time": _now(),
        }  # fmt: skip
        if resume_run_id is not None and resume_run_id != known:
            line["resume"] = resume_run_id
        # Values of other than JSON's types, such as paths in a profile, are written as text.
        self._spool.append(json.loads(json.dumps(line, default=str)))
        if info.config_yaml:
            self.log_text(info.config_yaml, "config.yaml")
        return self.run_id

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        bad = {key for key, value in metrics.items() if not math.isfinite(value)}
        for key in sorted(bad - self._warned):
            _log.warning("Skipping metric %s at step %d: it is not finite. Reported once per metric.", key, step)
        self._warned |= bad
        finite = [[key, float(value)] for key, value in metrics.items() if key not in bad]
        if finite:
            self._tell({"metrics": finite, "step": step, "time": _now()})

    def set_tags(self, tags: Mapping[str, str]) -> None:
        if tags:
            self._tell({"tags": {key: str(value) for key, value in tags.items()}})

    def log_text(self, text: str, name: str) -> None:
        write_atomically(self._local(name), text)
        self._tell({"artifact": name})

    def log_figure(self, figure: "Figure", name: str) -> None:
        """Record a figure as PNG, which MLflow shows inline; `name` such as `figures/learning_curves.png`."""
        with replacing(self._local(name)) as file:
            figure.savefig(file, format="png", dpi=150)
        self._tell({"artifact": name})

    def log_file(self, path: Path, name: str) -> None:
        """Record a file of the study or run that is outside `tracking/`. It is read when it is sent."""
        self._tell({"artifact": name, "from": os.path.relpath(path, self._folder)})

    def log_model(self, model: "nn.Module", example: "Batch", exponents: Mapping[str, float] | None = None) -> None:
        """Save the model for `mlflow.pytorch.load_model("models:/ID")`. If that fails, log a warning."""
        from remix_study.tracking.model import save_model

        try:
            save_model(model, example, self._folder / MODEL, exponents)
        except Exception as error:  # pickling calls code of the model; a run must not fail at its very end
            _log.warning("Cannot save the model of %s for MLflow: %s", self._run_folder, error)
        else:
            self._tell({"model": MODEL})

    def finish(self, status: Status, reason: str | None = None) -> None:
        """End the run. `reason` becomes the tag `failure_reason`."""
        if not self._spool.is_open:
            return
        if reason:
            self.set_tags({FAILURE_REASON: reason})
        self._tell({"status": status, "time": _now()})

    def _tell(self, line: Line) -> None:
        self._spool.append(line)

    def _local(self, name: str) -> Path:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def run_id_of(run_folder: Path) -> str | None:
    """Return the MLflow run id of a run folder; None until the start was sent."""
    known = notes_of(run_folder)
    return None if known is None else str(known["run_id"])


def notes_of(run_folder: Path) -> dict[str, Any] | None:
    """Return the content of run.json: `run_id`, and `foreign` if the run was started from another folder."""
    try:
        return dict(json.loads((run_folder / "tracking" / _RUN).read_text()))
    except (OSError, ValueError):
        return None


def write_notes(run_folder: Path, notes: Mapping[str, Any]) -> None:
    write_atomically(run_folder / "tracking" / _RUN, json.dumps(dict(notes)))


def forget_run(run_folder: Path) -> None:
    """Forget the MLflow run, so that the next sender sends the spool from its first line."""
    for name in (_RUN, MODEL_NOTES):
        (run_folder / "tracking" / name).unlink(missing_ok=True)


def end_unfinished_run(run_folder: Path, reason: str, cause: str | None = None) -> bool:
    """End a run that no process works on any more, if it has no end yet; return whether that was so.

    Args:
        run_folder: the caller must know that no process works on it.
        reason: becomes the tag `failure_reason`.
        cause: one of `errors.CAUSES`: the run ends as FAILED. None: it ends as KILLED.
    """
    spool = Spool(run_folder / "tracking")
    if not spool.is_open:
        return False
    tags = {STATE: "stopped"} if cause is None else {STATE: "failed", FAILURE_CAUSE: cause}
    status = "KILLED" if cause is None else "FAILED"
    spool.append({"tags": {**tags, FAILURE_REASON: reason}}, {"status": status, "time": _now()})
    return True


def _now() -> int:
    return time.time_ns() // 1_000_000
