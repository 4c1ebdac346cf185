"""Everything a run tells its tracker, as lines of a local file, before anything is sent

    spool.jsonl    one JSON object per line, only ever appended to
    spool.offset   how many of its bytes have arrived; moved on only after the server said so
    run.json       which MLflow run this is, once the sender has made it

Whoever trains only writes: a server that is down, slow or far away costs a training process nothing. Whoever sends
(`mlflow.py`) reads whole lines while others are still being written. A line may be sent twice (its answer was lost, or
the process died before the offset moved): what a line does must be idempotent, which is the sender's part.

Imports no MLflow: a study's trials start sooner without it.
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

from remix_study.files.disk import write_atomically
from remix_study.tracking.tracker import FAILURE_CAUSE, FAILURE_REASON, STATE, RunInfo, Status

if TYPE_CHECKING:  # as in tracker.py
    from matplotlib.figure import Figure
    from torch import nn

    from remix_study.sample import Batch

Line = dict[str, Any]
MODEL, MODEL_NOTES = "model", "model.json"  # beside the spool: the trained model's folder, its id on the server
_RUN = "run.json"
_BLOCK = 1 << 14
_log = logging.getLogger(__name__)


class Spool:
    """The lines in one folder. Any process may append; one at a time reads and moves the offset."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lines = folder / "spool.jsonl"
        self._offset = folder / "spool.offset"

    @property
    def offset(self) -> int:
        """Bytes that have arrived. 0 where it cannot be read: sending all again is harmless."""
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
        """Whether a whole line has not arrived yet."""
        return self.size > self.offset and next(self.read(self.offset), None) is not None

    def append(self, *lines: Line) -> None:
        """On disk when this returns: an epoch that a checkpoint holds is not told again after a power cut."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._lines.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            end = file.seek(0, os.SEEK_END)
            if end:
                file.seek(end - 1)
                if file.read(1) != b"\n":
                    file.write(b"\n")  # the last writer was killed inside a line: closing it keeps the next one whole
            file.write(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())

    def read(self, begin: int = 0) -> Iterator[tuple[Line | None, int]]:
        """Whole lines from byte `begin` on, each with the byte after it; None for one that a kill cut short."""
        if not self._lines.exists():
            return
        with self._lines.open("rb") as file:
            file.seek(begin)
            end = begin
            for raw in file:
                if not raw.endswith(b"\n"):
                    return  # somebody is writing it
                end += len(raw)
                try:
                    line = json.loads(raw)
                except ValueError:
                    _log.warning("a line cut short by a kill was left out of the tracking of %s", self.folder.parent)
                    line = None
                yield line, end

    def advance(self, offset: int) -> None:
        write_atomically(self._offset, str(offset))

    @property
    def key(self) -> str | None:
        """What the first start called itself: how a sender that lost its notes finds the run again."""
        return next((str(line["key"]) for line, _ in self.read() if line is not None and "start" in line), None)

    @property
    def is_open(self) -> bool:
        """Whether the run was started and not ended since, as far as it was told."""
        # From the end, and not parsed: a study looks at thousands of these when it starts, and most have ended.
        with contextlib.suppress(FileNotFoundError), self._lines.open("rb") as file:
            for raw in _backwards(file):
                if raw.startswith((b'{"start"', b'{"status"')):
                    return raw.startswith(b'{"start"')
        return False


def _backwards(file: BinaryIO) -> Iterator[bytes]:
    """Whole lines, the last one first, without their ends."""
    begin, first, whole = file.seek(0, os.SEEK_END), b"", False
    while begin > 0:
        end, begin = begin, max(0, begin - _BLOCK)
        file.seek(begin)
        first, *lines = (file.read(end - begin) + first).split(b"\n")
        if lines and not whole:
            del lines[-1]  # nothing, or a line that somebody is writing
            whole = True
        yield from reversed(lines)
    if whole:
        yield first


class SpoolTracker:
    """Tracks one run by writing only; `folder` is the run's own, where the spool and copies of all artifacts lie.

    Somebody else sends: a study's driver (`syncer.py`).
    """

    def __init__(self, folder: Path, experiment: str) -> None:
        self._run_folder = folder
        self._folder = folder / "tracking"
        self._experiment = experiment
        self._spool = Spool(self._folder)
        self._warned: set[str] = set()

    @property
    def run_id(self) -> str | None:
        """None until it was sent."""
        return run_id_of(self._run_folder)

    def start(self, info: RunInfo, resume_run_id: str | None = None) -> str | None:
        """Begin, or go on: the same folder stays the same MLflow run, whatever was sent in between."""
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
        # What a profile may hold besides JSON's own types is told by its text.
        self._spool.append(json.loads(json.dumps(line, default=str)))
        if info.config_yaml:
            self.log_text(info.config_yaml, "config.yaml")
        return self.run_id

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        bad = {key for key, value in metrics.items() if not math.isfinite(value)}
        for key in sorted(bad - self._warned):
            _log.warning("%s is not a finite number at step %d and is left out (said once per metric)", key, step)
        self._warned |= bad
        finite = [[key, float(value)] for key, value in metrics.items() if key not in bad]
        if finite:
            self._tell({"metrics": finite, "step": step, "time": _now()})

    def set_tags(self, tags: Mapping[str, str]) -> None:
        if tags:
            self._tell({"tags": {key: str(value) for key, value in tags.items()}})

    def log_text(self, text: str, name: str) -> None:
        self._local(name).write_text(text, encoding="utf-8")
        self._tell({"artifact": name})

    def log_figure(self, figure: "Figure", name: str) -> None:
        """As PNG, which MLflow shows inline; `name` such as `figures/learning_curves.png`."""
        figure.savefig(self._local(name), format="png", dpi=150)
        self._tell({"artifact": name})

    def log_file(self, path: Path, name: str) -> None:
        """A file that lies elsewhere in the study or run; sent as it then is."""
        self._tell({"artifact": name, "from": os.path.relpath(path, self._folder)})

    def log_model(self, model: "nn.Module", example: "Batch") -> None:
        """With a signature, readable by `mlflow.pytorch.load_model("models:/ID")`; a refusal is only warned about."""
        from remix_study.tracking.model import save_model

        try:
            save_model(model, example, self._folder / MODEL)
        except Exception as error:
            _log.warning("the model of %s is not logged: %s", self._run_folder, error)
        else:
            self._tell({"model": MODEL})

    def finish(self, status: Status, reason: str | None = None) -> None:
        """End the run; FAILED and KILLED carry `reason` as a tag."""
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
    """The MLflow run of this run folder; None as long as no server has heard of it."""
    known = notes_of(run_folder)
    return None if known is None else str(known["run_id"])


def notes_of(run_folder: Path) -> dict[str, Any] | None:
    """What the sender wrote down: `run_id`, and `foreign` where the run was begun from another folder."""
    try:
        return dict(json.loads((run_folder / "tracking" / _RUN).read_text()))
    except (OSError, ValueError):
        return None


def write_notes(run_folder: Path, notes: Mapping[str, Any]) -> None:
    write_atomically(run_folder / "tracking" / _RUN, json.dumps(dict(notes)))


def forget_run(run_folder: Path) -> None:
    """The run is not where its spool is sent: the next sender tells it from the first line on."""
    for name in (_RUN, MODEL_NOTES):
        (run_folder / "tracking" / name).unlink(missing_ok=True)


def end_unfinished_run(run_folder: Path, reason: str, cause: str | None = None) -> bool:
    """End what no process works on any more (its caller knows that) and nobody ended; whether it was open.

    As KILLED, or with a `cause` (of `errors.CAUSES`) as FAILED.
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
