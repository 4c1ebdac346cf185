"""The run's own folder: nothing about a run lies anywhere else

config.yaml          what it is
history.jsonl        one line per epoch
checkpoints/         last.pt, best.pt
tracking/            what MLflow is told, and which run it is there
result.json          written last: the run is complete
ended.json           written instead: it ended early, pruned or stopped
lock                 held while a process works on it
"""

import json
import logging
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from remix_study.config.run import RunConfig
from remix_study.errors import ConfigError, RunPruned, StudyStopped
from remix_study.files.disk import holder, sole_writer, write_atomically
from remix_study.tracking.spool import run_id_of

CHECKPOINTS = "checkpoints"
_log = logging.getLogger(__name__)


class RunFolder:
    """One run on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()  # workers have another working directory

    def prepare(self, config: RunConfig, digest: str) -> None:
        """
        Raises:
            ConfigError: the folder cannot be written, or is that of another run.
        """
        known = self.path / "digest"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if known.exists() and known.read_text() != digest:
                raise ConfigError(
                    f"the run folder {self.path} must be of one configuration and corpus, but holds a run of another "
                    f"({known.read_text()}, not {digest}). Use another --name, or remove the folder."
                )
            write_atomically(known, digest)
            write_atomically(self.path / "config.yaml", config.to_yaml())
        except OSError as error:
            raise ConfigError(
                f"the run folder {self.path} must be writable, but: {error.strerror}. Choose another --workspace."
            ) from error

    def lock(self, *, wait: bool = False) -> AbstractContextManager[None]:
        """Held by the one process that works on this run; see `sole_writer`.

        A study that was killed and started again meets its own trials, which Ray ends some seconds after their driver:
        its trials `wait` for them.
        """
        return sole_writer(self.path / "lock", wait=wait)

    def is_held(self) -> bool:
        """Whether some process works on this run now."""
        return holder(self.path / "lock") is not None

    @property
    def history(self) -> list[dict[str, float]]:
        """Of every epoch whose line is whole: another process may be writing the next one."""
        path = self.path / "history.jsonl"
        return [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []

    def result(self) -> dict[str, float] | None:
        """The summary of a complete run."""
        content = self._read("result.json")
        return None if content is None else dict(content)

    def write_result(self, summary: dict[str, float]) -> None:
        write_atomically(self.path / "result.json", json.dumps(summary, indent=1))

    @property
    def seconds(self) -> float:
        """Of work that this run kept, over all its starts: its epochs, and what was measured at its end."""
        work = ("time/score_s", "time/train_s", "time/evaluate_s")
        epochs = sum(record.get(part, 0.0) for record in self.history for part in work)
        return epochs + (self.result() or {}).get("time/evidence_s", 0.0)

    def ended_early(self) -> RunPruned | StudyStopped | None:
        """Why the run ended before its last epoch; a run that was stopped goes on when it is launched again."""
        content = self._read("ended.json")
        if content is None:
            return None
        return (RunPruned if content["state"] == "pruned" else StudyStopped)(content["reason"])

    def write_ended_early(self, why: RunPruned | StudyStopped) -> None:
        state = "pruned" if isinstance(why, RunPruned) else "stopped"
        write_atomically(self.path / "ended.json", json.dumps({"state": state, "reason": str(why)}))

    def clear_stop(self) -> None:
        """Before the run goes on."""
        if isinstance(self.ended_early(), StudyStopped):
            (self.path / "ended.json").unlink()

    def mlflow_run_id(self) -> str | None:
        """The MLflow run of this run, as far as MLflow has heard of it."""
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
