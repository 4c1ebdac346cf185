import base64
import json
import zlib
from pathlib import Path

from mlflow import MlflowClient

from remix_study.tracking.review import share_view


def test_the_view_is_stored_with_the_experiment(uri: str, client: MlflowClient, experiment: str) -> None:
    links = share_view(uri, experiment, "http://127.0.0.1:5000/", parents=["p1"], note="# Does Remix help?")
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    assert found.tags["mlflow.note.content"] == "# Does Remix help?"
    key = links.table.rpartition("viewStateShareKey=")[2]
    kind, _, packed = found.tags[f"mlflow.sharedViewState.{key}"].partition(";")
    state = json.loads(zlib.decompress(base64.b64decode(packed)))
    assert kind == "deflate"
    assert state["runsExpanded"] == {"p1": True}
    assert state["selectedColumns"][:2] == ["params.`method`", "metrics.`val/accuracy`"]
    assert "metrics.`sufficiency/ratio/video`" in state["selectedColumns"]
    drawn = [chart["metricKey"] for chart in state["compareRunCharts"]]
    assert {"val/accuracy_uni/audio", "val/accuracy_uni/video", "remix/share/audio"} <= set(drawn)
    plain = f"http://127.0.0.1:5000/#/experiments/{found.experiment_id}/runs?workflowType=machine_learning"
    assert links.plain == plain
    assert links.charts.startswith(plain)
    assert "compareRunsMode=CHART" in links.charts


def test_the_same_view_again_is_the_same_link(uri: str, client: MlflowClient, experiment: str, tmp_path: Path) -> None:
    first, second = (share_view(uri, experiment, "http://h", modalities=("audio", "text")) for _ in range(2))
    assert first == second
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    assert len([tag for tag in found.tags if "sharedViewState" in tag]) == 1
