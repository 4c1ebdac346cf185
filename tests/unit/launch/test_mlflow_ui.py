from pathlib import Path

import pytest
from mlflow import MlflowClient

from remix_study.launch.folder import RunFolder
from remix_study.launch.mlflow_ui import close_abandoned_runs, experiment_to_show, share_experiment_view
from remix_study.tracking import RunInfo, default_uri
from remix_study.tracking.mlflow import send
from remix_study.tracking.spool import SpoolTracker, run_id_of


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return default_uri(tmp_path)


def started(folder: Path, uri: str) -> SpoolTracker:
    """Return the tracker of a run that was sent to the server and has not ended."""
    tracker = SpoolTracker(folder, "e")
    tracker.start(RunInfo(folder.name, {"remix_study.folder": str(folder)}, {}, "", "c", "d" * 40, "store", {}))
    send(uri, folder)
    return tracker


@pytest.mark.slow
def test_only_abandoned_runs_are_ended(tmp_path: Path, uri: str) -> None:
    for name in ("gone", "at_work", "ended"):
        started(tmp_path / name, uri)
    SpoolTracker(tmp_path / "ended", "e").finish("FINISHED")  # while the server was down
    elsewhere = MlflowClient(tracking_uri=uri).create_run("0", tags={"remix_study.folder": "/another/machine"})
    with RunFolder(tmp_path / "at_work").lock():
        close_abandoned_runs(uri)
    client = MlflowClient(tracking_uri=uri)
    status = {
        name: client.get_run(str(run_id_of(tmp_path / name))).info.status for name in ("gone", "at_work", "ended")
    }
    assert status == {"gone": "KILLED", "at_work": "RUNNING", "ended": "FINISHED"}
    assert client.get_run(elsewhere.info.run_id).info.status == "RUNNING"
    assert experiment_to_show(uri, "e") == "e"
    assert "viewStateShareKey=" in share_experiment_view(uri, "e", "http://127.0.0.1:5000").table
