"""The links a reviewer opens: MLflow's run table and charts with balance and sufficiency ready

Left alone, MLflow 3 opens on an empty page about traces, with no metric columns and no charts. Two parts of the link
change that: `workflowType=machine_learning`, and a view state that a tag of the experiment carries
(`mlflow.sharedViewState.KEY` = "deflate;" + base64(zlib(JSON))). The format is undocumented, read off MLflow 3.17 and
tested in a real browser (tests/browser); where it should change, `Links.plain` still opens the runs.

What the view shows follows from the experiment's studies: their runs carry their modalities and what they search.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode

from remix_study.errors import TrackingError
from remix_study.mlflow_private import CHART_MODE, VIEW_QUERY, VIEW_TAG, WORKFLOW, packed_view
from remix_study.modality import AUDIO, VIDEO
from remix_study.tracking.address import check, is_server, set_client_defaults
from remix_study.tracking.client import client_of, ensure_experiment
from remix_study.tracking.tracker import FAILURE_CAUSE, STATE

if TYPE_CHECKING:
    from mlflow import MlflowClient

# What a study's own run says about the view, as tags.
STAGE, MODALITIES, SEARCHED = "remix_study.stage", "remix_study.modalities", "remix_study.searched"
NOTE = "mlflow.note.content"
_KEY = "remix-study"  # always the same: a link printed yesterday opens on what is known today
_STUDIES = 20  # unfolded; the newest
_SEARCHED = 8  # columns of parameters, before a table becomes unreadable


class Links(NamedTuple):
    """`plain` needs nothing but MLflow itself; the others rely on the shared view state."""

    table: str
    charts: str
    plain: str


def columns(modalities: Sequence[str]) -> tuple[str, ...]:
    """The metrics of the run table: does it work, is it balanced, is each modality learnt sufficiently, and how."""
    return (
        "best/val_accuracy",
        "test/accuracy",
        *(f"best/val_accuracy_uni/{m}" for m in modalities),
        "balance/accuracy_gap",
        "balance/imbalance",
        *(f"sufficiency/ratio/{m}" for m in modalities),
        f"remix/share/{modalities[0]}",
    )


def bars(modalities: Sequence[str]) -> tuple[str, ...]:
    """Metrics of which a run has one value, drawn as a bar per run."""
    return (
        "best/val_accuracy",
        "test/accuracy",
        *(f"sufficiency/ratio/{m}" for m in modalities),
        *(f"sufficiency/probe_ratio/{m}" for m in modalities),
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


def store_view(client: "MlflowClient", experiment_id: str, params: Sequence[str] = ()) -> None:
    """Store the view with the experiment, and the newest study's question and answer above its runs.

    Args:
        params: columns where no study says what it searches.
    """
    studies = client.search_runs(
        [experiment_id], f"tags.`{STAGE}` = 'study'", max_results=_STUDIES, order_by=["attributes.start_time DESC"]
    )
    modalities: Sequence[str] = (AUDIO, VIDEO)
    if studies:
        told = studies[0].data.tags
        modalities = tuple(filter(None, told.get(MODALITIES, "").split(","))) or modalities
        params = tuple(filter(None, told.get(SEARCHED, "").split(",")))[:_SEARCHED]
        if NOTE in told:
            client.set_experiment_tag(experiment_id, NOTE, told[NOTE])
    state = view_state(modalities, [run.info.run_id for run in studies], params)
    client.set_experiment_tag(experiment_id, VIEW_TAG + _KEY, packed_view(state))


def share_view(uri: str, experiment: str, host: str, params: Sequence[str] = ()) -> Links:
    """`store_view` in the experiment of that name at `uri`, created if it is not there; links to it.

    Args:
        host: where a browser finds the same store, such as http://127.0.0.1:5000.
    """
    experiment_id = ensure_experiment(uri, experiment)
    store_view(client_of(uri), experiment_id, params)
    return links(host, experiment_id)


def links_of(uri: str, experiment: str) -> Links | None:
    """Links to an experiment on a server; None where `uri` is a database, or there is nothing to look at, or nobody."""
    if not is_server(uri):
        return None
    set_client_defaults()
    try:
        check(uri)
        found = client_of(uri).get_experiment_by_name(experiment)
    except TrackingError:
        return None
    return None if found is None else links(uri, found.experiment_id)


def links(host: str, experiment_id: str) -> Links:
    runs = f"{host.rstrip('/')}/#/experiments/{experiment_id}/runs?"
    shared = {**WORKFLOW, VIEW_QUERY: _KEY}
    return Links(
        table=runs + urlencode(shared),
        charts=runs + urlencode({**shared, **CHART_MODE}),
        plain=runs + urlencode(WORKFLOW),
    )


def view_state(modalities: Sequence[str], parents: Sequence[str], params: Sequence[str]) -> Mapping[str, Any]:
    """What the user interface of MLflow 3.17 keeps of a view, as its own JavaScript writes it.

    Args:
        parents: run ids whose children are unfolded where the table is nested.
        params: parameters among the columns.
    """
    bar_section, line_section = "remix-study-bars", "remix-study-lines"
    return {
        "searchFilter": "",
        # By a metric: then MLflow lists all children as a ranking (parents last), and its charts draw them. By time it
        # folds them into their parents, one click away, and charts of folded runs are empty.
        "orderByKey": "metrics.`best/val_accuracy`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "runsExpanded": dict.fromkeys(parents, True),
        "runsPinned": [],
        "runsHidden": [],
        "runsHiddenMode": "FIRST_20_RUNS",  # of the ranking; all at once are a grey cloud
        "selectedColumns": [
            "params.`method.name`",
            f"tags.`{STAGE}`",
            f"tags.`{STATE}`",
            *(f"metrics.`{name}`" for name in columns(modalities)),
            *(f"params.`{name}`" for name in params if name != "method.name"),
            f"tags.`{FAILURE_CAUSE}`",
        ],
        "compareRunCharts": [
            *(_bar(metric, bar_section, number) for number, metric in enumerate(bars(modalities))),
            *(_line(metric, line_section, number) for number, metric in enumerate(charts(modalities))),
        ],
        "compareRunSections": [
            _section(line_section, "Over epochs: does it work, is it balanced, who trains on what?"),
            _section(bar_section, "In the end: accuracy and sufficiency"),
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


def _section(uuid: str, name: str) -> dict[str, Any]:
    return {
        "uuid": uuid,
        "name": name,
        "display": True,
        "isReordered": False,
        "deleted": False,
        "isGenerated": False,
    }


def _bar(metric: str, section: str, number: int) -> dict[str, Any]:
    return {
        "type": "BAR",
        "uuid": f"{section}-{number}",
        "runsCountToCompare": 20,
        "metricSectionId": section,
        "deleted": False,
        "isGenerated": False,
        "metricKey": metric,
    }


def _line(metric: str, section: str, number: int) -> dict[str, Any]:
    return {
        "type": "LINE",
        "uuid": f"{section}-{number}",
        "runsCountToCompare": 20,
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
