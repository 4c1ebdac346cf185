"""The run's own folder: nothing about a run lies anywhere else

config.yaml          what it is
history.jsonl        one line per epoch
checkpoints/         last.pt, best.pt
tracking.json        which MLflow run it is
result.json          written last: the run is complete
lock                 held while a process works on it
"""

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from remix_study.config import RunConfig
from remix_study.errors import ConfigError
from remix_study.media.disk import holder, sole_writer


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

    def tracked_as(self) -> str | None:
        """The MLflow run that an earlier start of this run began."""
        content = self._read("tracking.json")
        return None if content is None else content["run_id"]

    def write_tracked_as(self, run_id: str) -> None:
        write_atomically(self.path / "tracking.json", json.dumps({"run_id": run_id}))

    def _read(self, name: str) -> Any:
        path = self.path / name
        return json.loads(path.read_text()) if path.exists() else None


def write_atomically(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text)
    partial.replace(path)
