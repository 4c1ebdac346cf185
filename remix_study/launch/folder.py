"""The run folder, which holds all state of one run

config.yaml          the resolved configuration
digest               the digest of configuration and corpus
history.jsonl        one line per epoch
checkpoints/         last.pt, best.pt
tracking/            data for MLflow, and the MLflow run id
result.json          the summary; written last, when the run is complete
ended.json           the reason why a run was pruned, stopped or preempted
lock                 locked while a process works on the run
writer.lock          locked while the leading one of several workers writes to the run
"""

import json
import logging
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import yaml

from remix_study.config.run import RunConfig
from remix_study.config.yaml_source import load
from remix_study.errors import ConfigError, RunPreempted, RunPruned, StudyStopped
from remix_study.files.disk import exclusive_lock, lock_holder, write_atomically
from remix_study.tracking.spool import run_id_of

CHECKPOINTS = "checkpoints"
WRITER = "writer.lock"
_ENDS: dict[str, type[RunPruned | StudyStopped | RunPreempted]] = {
    "pruned": RunPruned, "stopped": StudyStopped, "preempted": RunPreempted,
}  # fmt: skip
_log = logging.getLogger(__name__)


class RunFolder:
    """One run on disk.

    Args:
        path: the folder. It need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()  # workers have another working directory

    def prepare(self, config: RunConfig, digest: str) -> None:
        """Create the folder, and write `config.yaml` and `digest`.

        Raises:
            ConfigError: the folder cannot be written, or belongs to a run with another digest.
        """
        known = self.path / "digest"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if known.exists() and known.read_text() != digest:
                raise ConfigError(
                    f"Cannot use the run folder {self.path}: it holds a run with another configuration or "
                    f"corpus, or of another version (digest {known.read_text()}, not {digest}). Use another --name, "
                    "or remove the folder."
                )
            write_atomically(known, digest)
            write_atomically(self.path / "config.yaml", config.to_yaml())
        except OSError as error:
            raise ConfigError(
                f"Cannot write the run folder {self.path}: {error.strerror}. Use another --workspace."
            ) from error

    @property
    def digest(self) -> str:
        """The digest of configuration and corpus; empty before it is written."""
        try:
            return (self.path / "digest").read_text()
        except (FileNotFoundError, NotADirectoryError):
            return ""

    def writing(self) -> AbstractContextManager[None]:
        """Return the lock of the worker that writes to this run, if it has several; waits until it is free."""
        return exclusive_lock(self.path / WRITER, wait=True)

    @property
    def has_writer(self) -> bool:
        """Whether a worker writes to this run, of several. Ray ends workers some time after it says so."""
        return lock_holder(self.path / WRITER) is not None

    def lock(self, *, wait: bool = False) -> AbstractContextManager[None]:
        """Return the lock of the process that works on this run; see `exclusive_lock`.

        Args:
            wait: wait until the lock is free. A restarted study waits for its former trials, which Ray ends some
                seconds after their driver.
        """
        return exclusive_lock(self.path / "lock", wait=wait)

    def is_held(self) -> bool:
        """Return whether a process works on this run now."""
        return lock_holder(self.path / "lock") is not None

    @property
    def history(self) -> list[dict[str, float]]:
        """The records of all epochs. An incomplete last line, which a process may be writing, is skipped.

        Epochs from a damaged line on are skipped with a warning. A run that resumes writes them again.
        """
        path = self.path / "history.jsonl"
        found: list[dict[str, float]] = []
        for line in path.read_bytes().split(b"\n")[:-1] if path.exists() else []:
            try:
                found.append(dict(json.loads(line)))
            except (ValueError, TypeError):
                _log.warning("Ignoring %s from line %d on, which is damaged.", path, len(found) + 1)
                break
        return found

    def config(self) -> dict[str, Any]:
        """The configuration as plain values; empty before it is written, or with a warning if the file is damaged."""
        path = self.path / "config.yaml"
        try:
            content = load(path.read_text())
        except FileNotFoundError:
            return {}
        except (ValueError, yaml.YAMLError):
            content = None
        if not isinstance(content, dict):
            _log.warning("Ignoring %s, which is damaged.", path)
            return {}
        return content

    def result(self) -> dict[str, float] | None:
        """Return the summary of a complete run, else None."""
        content = self._read("result.json")
        return None if content is None else dict(content)

    def write_result(self, summary: dict[str, float]) -> None:
        write_atomically(self.path / "result.json", json.dumps(summary, indent=1))

    @property
    def seconds(self) -> float:
        """Seconds of work that the run kept over all restarts: its epochs and the final evaluation."""
        work = ("time/score_s", "time/train_s", "time/evaluate_s")
        epochs = sum(record.get(part, 0.0) for record in self.history for part in work)
        return epochs + (self.result() or {}).get("time/evidence_s", 0.0)

    @property
    def work(self) -> dict[str, float]:
        """What the run was given so far: `epochs`, and sums of `train/updates/...`, `train/samples/...` and
        `train/multiply_adds` over its epochs. An epoch of an older version has only its number.
        """
        found: dict[str, float] = {}
        for record in self.history:
            found["epochs"] = found.get("epochs", 0.0) + 1
            for key, value in record.items():
                name = key.removeprefix("train/")
                if key != name and name.startswith(("updates/", "samples/", "multiply_adds")):
                    found[name] = found.get(name, 0.0) + value
        return found

    def ended_early(self) -> RunPruned | StudyStopped | RunPreempted | None:
        """Return why the run ended before its last epoch, else None.

        A stopped or preempted run resumes when launched again.
        """
        content = self._read("ended.json")
        return None if content is None else _ENDS[content["state"]](content["reason"])

    def write_ended_early(self, why: RunPruned | StudyStopped | RunPreempted) -> None:
        (state,) = (state for state, end in _ENDS.items() if isinstance(why, end))
        write_atomically(self.path / "ended.json", json.dumps({"state": state, "reason": str(why)}))

    def clear_stop(self) -> None:
        """Forget that the run was stopped or preempted, so that it can resume. A pruned run stays pruned."""
        if isinstance(self.ended_early(), StudyStopped | RunPreempted):
            (self.path / "ended.json").unlink()

    def mlflow_run_id(self) -> str | None:
        """Return the id of this run in MLflow; None if it has not been sent there."""
        return run_id_of(self.path)

    def _read(self, name: str) -> Any:
        path = self.path / name
        try:
            return json.loads(path.read_text())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError:  # version 0.1 wrote these files without fsync, so that a power cut could empty them
            _log.warning("Ignoring %s, which is empty or incomplete. The run resumes from its last checkpoint.", path)
            return None
