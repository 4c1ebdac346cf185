"""The links a reviewer opens: MLflow's run table and charts with balance and sufficiency ready

Left alone, MLflow 3 opens on an empty page about traces, with no metric columns and no charts. Two parts of the link
change that: `workflowType=machine_learning`, and a view state that a tag of the experiment carries
(`mlflow.sharedViewState.KEY` = "deflate;" + base64(zlib(JSON))). The format is undocumented, read off MLflow 3.17 and
tested in a real browser (tests/browser); where it should change, `Links.plain` still opens the runs.
"""

import base64
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlencode

from remix_study.modality import AUDIO, VIDEO
from remix_study.tracking.mlflow import client_of, ensure_experiment

_NOTE = "mlflow.note.content"
_STATE = "mlflow.sharedViewState."


class Links(NamedTuple):
    """`plain` needs nothing but MLflow itself; the others rely on the shared view state."""

    table: str
    charts: str
    plain: str


def columns(modalities: Sequence[str]) -> tuple[str, ...]:
    """The metrics of the run table: does it work, is it balanced, is each modality learnt sufficiently, and how."""
    return (
        "val/accuracy",
        "test/accuracy",
        *(f"val/accuracy_uni/{m}" for m in modalities),
        "balance/accuracy_gap",
        "balance/imbalance",
        *(f"sufficiency/ratio/{m}" for m in modalities),
        f"remix/share/{modalities[0]}",
    )


def charts(modalities: Sequence[str]) -> tuple[str, ...]:
    """Metrics drawn over epochs, a line per run; `val/accuracy_uni/*` is the curve of a modality's own head."""
    return (
        "val/accuracy",
        *(f"val/accuracy_uni/{m}" for m in modalities),
        "balance/accuracy_gap",
        "balance/imbalance",
        *(f"remix/share/{m}" for m in modalities),
        "val/cross_entropy",
    )


def share_view(
    uri: str,
    experiment: str,
    host: str,
    *,
    modalities: Sequence[str] = (AUDIO, VIDEO),
    parents: Sequence[str] = (),
    note: str | None = None,
    params: Sequence[str] = ("method",),
) -> Links:
    """Store the views with the experiment and return links to them.

    Args:
        uri: the tracking URI to write to.
        experiment: its name; created if it is not there.
        host: where a browser finds the same store, such as http://127.0.0.1:5000.
        modalities: of the runs, in canonical order.
        parents: run ids whose children are unfolded once a reader sorts by time.
        params: parameters among the columns, before the metrics.
        note: Markdown shown above the runs, the place for the question and the answer; None leaves it alone.
    """
    client = client_of(uri)
    experiment_id = ensure_experiment(uri, experiment)
    state = view_state(modalities, parents, params)
    text = "deflate;" + base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
    # Named by its content: the same view again writes the same tag, and an old link keeps its view.
    key = hashlib.sha256(text.encode()).hexdigest()[:32]
    client.set_experiment_tag(experiment_id, _STATE + key, text)
    if note is not None:
        client.set_experiment_tag(experiment_id, _NOTE, note)
    return links(host, experiment_id, key)


def links(host: str, experiment_id: str, key: str) -> Links:
    runs = f"{host.rstrip('/')}/#/experiments/{experiment_id}/runs?"
    workflow = {"workflowType": "machine_learning"}
    shared = {**workflow, "viewStateShareKey": key}
    chart = {"compareRunsMode": "CHART", "isComparingRuns": "true"}
    return Links(
        table=runs + urlencode(shared), charts=runs + urlencode({**shared, **chart}), plain=runs + urlencode(workflow)
    )


def view_state(modalities: Sequence[str], parents: Sequence[str], params: Sequence[str]) -> Mapping[str, Any]:
    """What the user interface of MLflow 3.17 keeps of a view, as its own JavaScript writes it."""
    metrics = columns(modalities)
    section = "remix-study"
    return {
        "searchFilter": "",
        # By a metric: then MLflow lists all children as a ranking (parents last), and its charts draw them. By time it
        # folds them into their parents, whatever `runsExpanded` says, and charts of folded runs are empty.
        "orderByKey": "metrics.`val/accuracy`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "runsExpanded": dict.fromkeys(parents, True),
        "runsPinned": [],
        "runsHidden": [],
        "selectedColumns": [
            *(f"params.`{name}`" for name in params),
            *(f"metrics.`{name}`" for name in metrics),
        ],
        "compareRunCharts": [_line(metric, section, number) for number, metric in enumerate(charts(modalities))],
        "compareRunSections": [
            {
                "uuid": section,
                "name": "Does it work, is it balanced?",
                "display": True,
                "isReordered": False,
                "deleted": False,
                "isGenerated": False,
            }
        ],
        # As if a reader had moved the sections: else MLflow sorts them by name, with those it makes up itself among
        # them.
        "isAccordionReordered": True,
        "autoRefreshEnabled": False,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "viewMaximized": False,
        "runListHidden": False,
    }


def _line(metric: str, section: str, number: int) -> dict[str, Any]:
    return {
        "type": "LINE",
        "uuid": f"remix-study-{number}",
        "runsCountToCompare": 100,
        "metricSectionId": section,
        "deleted": False,
        "isGenerated": False,
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "selectedYAxisMetricKey": "metric",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "lineSmoothness": 0,
        "scaleType": "linear",
        "xAxisKey": "step",
        "xAxisScaleType": "linear",
        "selectedXAxisMetricKey": "",
        "range": {},
        "ignoreOutliers": False,
        "useGlobalLineSmoothing": False,
        "useGlobalXaxisKey": False,
    }
