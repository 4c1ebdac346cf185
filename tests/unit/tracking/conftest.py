from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from remix_study.tracking import RunInfo, default_uri
from remix_study.tracking import mlflow as module
from remix_study.tracking.mlflow import MLflowTracker
from tests.unit.tracking.helpers import Flaky


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a workspace whose database all tests share, because creating one takes seconds."""
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture(scope="session")
def uri(workspace: Path) -> str:
    return default_uri(workspace)


@pytest.fixture(scope="session")
def client(uri: str) -> MlflowClient:
    return MlflowClient(tracking_uri=uri)


@pytest.fixture
def experiment(request: pytest.FixtureRequest) -> str:
    name: str = request.node.name
    return name


@pytest.fixture
def info() -> Callable[..., RunInfo]:
    def make(**changes: object) -> RunInfo:
        known: dict[str, object] = {
            "name": "remix seed 1",
            "tags": {"study": "demo", "method": "remix"},
            "params": {"method": "remix", "learning_rate": 0.01, "long": "x" * 9000},
            "config_yaml": "method: remix\n",
            "dataset_name": "synthetic",
            "dataset_digest": "d" * 64,
            "dataset_source": "store",
            "dataset_profile": {"train": 1000},
        }
        return RunInfo(**{**known, **changes})  # type: ignore[arg-type]  # values of several types

    return make


@pytest.fixture
def tracker(uri: str, experiment: str, tmp_path: Path) -> MLflowTracker:
    return MLflowTracker(uri, experiment, folder=tmp_path)


@pytest.fixture
def flaky(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> Flaky:
    made = Flaky(client)
    monkeypatch.setattr(module, "client_of", lambda _: made)
    return made
