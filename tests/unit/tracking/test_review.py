import base64
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from remix_study.tracking import RunInfo
from remix_study.tracking.mlflow import send
from remix_study.tracking.review import MODALITIES, NOTE, QUANTITIES, SEARCHED, STAGE, links_of, share_view
from remix_study.tracking.spool import Spool, SpoolTracker, run_id_of


def view_of(client: MlflowClient, experiment: str) -> dict[str, Any]:
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    (stored,) = [value for key, value in found.tags.items() if key.startswith("mlflow.sharedViewState.")]
    kind, _, packed = stored.partition(";")
    assert kind == "deflate"
    return dict(json.loads(zlib.decompress(base64.b64decode(packed))))


@pytest.fixture
def study(info: Callable[..., RunInfo], tmp_path: Path, experiment: str) -> SpoolTracker:
    tags = {STAGE: "study", MODALITIES: "audio,text", SEARCHED: "point.rate", NOTE: "**Does Remix help?**"}
    tracker = SpoolTracker(tmp_path, experiment)
    tracker.start(info(tags=tags))
    return tracker


def test_the_tags_of_a_study_determine_the_view(
    uri: str, client: MlflowClient, experiment: str, study: SpoolTracker, tmp_path: Path
) -> None:
    Spool(tmp_path / "tracking").append({"view": True})
    send(uri, tmp_path)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    assert found.tags[NOTE] == "**Does Remix help?**"
    state = view_of(client, experiment)
    assert state["runsExpanded"] == {run_id_of(tmp_path): True}
    shown = state["selectedColumns"]
    assert {"params.`method.name`", "params.`point.rate`", "tags.`remix_study.state`", "tags.`failure_cause`"} <= set(
        shown
    )
    assert {
        "metrics.`best/val_accuracy`",
        "metrics.`test/accuracy_late_calibrated`",
        "metrics.`sufficiency/ratio/text`",
    } <= set(shown)
    drawn = {(chart["type"], chart["metricKey"]) for chart in state["compareRunCharts"]}
    assert {("LINE", "val/accuracy_uni/audio"), ("LINE", "remix/share/text"), ("LINE", "balance/imbalance")} <= drawn
    assert ("BAR", "sufficiency/ratio/audio") in drawn
    sections = {section["uuid"] for section in state["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in state["compareRunCharts"]} == sections


def test_what_added_methods_did_has_a_section_of_its_own(
    uri: str, client: MlflowClient, experiment: str, study: SpoolTracker, tmp_path: Path
) -> None:
    study.set_tags({QUANTITIES: "method/ogm/ratio/audio,method/ogm/factor/audio"})
    Spool(tmp_path / "tracking").append({"view": True})
    send(uri, tmp_path)
    state = view_of(client, experiment)
    (section,) = [each["uuid"] for each in state["compareRunSections"] if "added methods" in each["name"]]
    drawn = [chart["metricKey"] for chart in state["compareRunCharts"] if chart["metricSectionId"] == section]
    assert drawn == ["method/ogm/ratio/audio", "method/ogm/factor/audio"]


def test_links_contain_the_key_of_the_stored_view(uri: str, client: MlflowClient, experiment: str) -> None:
    links = share_view(uri, experiment, "http://127.0.0.1:5000/", params=["optimizer.learning_rate"])
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    plain = f"http://127.0.0.1:5000/#/experiments/{found.experiment_id}/runs?workflowType=machine_learning"
    assert links.plain == plain
    key = links.table.rpartition("viewStateShareKey=")[2]
    assert f"mlflow.sharedViewState.{key}" in found.tags
    assert links.charts.startswith(plain)
    assert "compareRunsMode=CHART" in links.charts
    assert "params.`optimizer.learning_rate`" in view_of(client, experiment)["selectedColumns"]


def test_links_stay_valid_while_the_experiment_grows(
    uri: str, client: MlflowClient, experiment: str, study: SpoolTracker, tmp_path: Path
) -> None:
    first = share_view(uri, experiment, "http://h")
    assert view_of(client, experiment)["runsExpanded"] == {}
    send(uri, tmp_path)
    assert share_view(uri, experiment, "http://h") == first
    assert view_of(client, experiment)["runsExpanded"] == {run_id_of(tmp_path): True}


def test_there_are_no_links_without_a_server_that_answers(uri: str) -> None:
    assert links_of(uri, "any") is None
    assert links_of("http://127.0.0.1:9", "any") is None
