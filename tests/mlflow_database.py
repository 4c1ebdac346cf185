"""A cached empty MLflow database, because MLflow takes seconds of CPU time to create its tables"""

import functools
import tempfile
from pathlib import Path

from remix_study.tracking import check, default_uri


@functools.cache
def _empty() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        check(default_uri(Path(folder)))
        return (Path(folder) / "mlflow.db").read_bytes()


def install(workspace: Path) -> None:
    """Write an empty `mlflow.db` to the workspace, unless one exists."""
    workspace.mkdir(parents=True, exist_ok=True)
    path = workspace / "mlflow.db"
    if not path.exists():
        path.write_bytes(_empty())
