"""Links that open MLflow's run table and charts with the metrics of balance and sufficiency selected

By default, MLflow 3 opens an experiment on an empty page for traces, without metric columns or charts. Two parts of the
links change that: `workflowType=machine_learning`, and a view state that is stored in a tag of the experiment
(`mlflow_private.packed_view`). The format is undocumented; it was read off MLflow 3.17, and tests/browser checks it.
If a later MLflow changes it, `Links.plain` still opens the runs.

The tags of the study's own run say which modalities and hyperparameters the view shows.
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

# Tags of the study's own run that determine the view.
STAGE, MODALITIES, SEARCHED = "remix_study.stage", "remix_study.modalities", "remix_study.searched"
QUANTITIES = "remix_study.quantities"  # the metrics of added methods
NOTE = "mlflow.note.content"
_KEY = "remix-study"  # constant, so that an old link opens the current view
_STUDIES = 20  # the newest studies are unfolded in the table
_SEARCHED = 8  # largest number of hyperparameter columns
_QUANTITIES = 40  # largest number of charts of added methods


class Links(NamedTuple):
    """Links to the runs of an experiment. `plain` does not depend on the shared view state."""

    table: str
    charts: str
    plain: str


def columns(modalities: Sequence[str]) -> tuple[str, ...]:
    """Return the metric columns of the run table: accuracy, balance, sufficiency and share of the first modality."""
    return (
        "best/val_accuracy",
        "test/accuracy",
        "test/accuracy_late_calibrated",
        *(f"best/val_accuracy_uni/{m}" for m in modalities),
        "balance/accuracy_gap",
        "balance/imbalance",
        *(f"sufficiency/ratio/{m}" for m in modalities),
        f"remix/share/{modalities[0]}",
    )


def bars(modalities: Sequence[str]) -> tuple[str, ...]:
    """Return the metrics with one value per run, drawn as bars."""
    return (
        "best/val_accuracy",
        "test/accuracy",
        "test/accuracy_late_calibrated",
        *(f"sufficiency/ratio/{m}" for m in modalities),
        *(f"sufficiency/probe_ratio/{m}" for m in modalities),
    )


def charts(modalities: Sequence[str]) -> tuple[str, ...]:
    """Return the metrics drawn over epochs, one line per run. `val/accuracy_uni/*` belongs to the unimodal heads."""
    return (
        "val/accuracy",
        *(f"val/accuracy_uni/{m}" for m in modalities),
        "balance/accuracy_gap",
        "balance/imbalance",
        *(f"remix/share/{m}" for m in modalities),
        "val/cross_entropy",
    )


def store_view(client: "MlflowClient", experiment_id: str, params: Sequence[str] = ()) -> None:
    """Store the view in the experiment's tags, and show the newest study's question and answer above its runs.

    Args:
        params: parameter columns for an experiment without a study.
    """
    studies = client.search_runs(
        [experiment_id], f"tags.`{STAGE}` = 'study'", max_results=_STUDIES, order_by=["attributes.start_time DESC"]
    )
    modalities: Sequence[str] = (AUDIO, VIDEO)
    quantities: Sequence[str] = ()
    if studies:
        tags = studies[0].data.tags
        modalities = tuple(filter(None, tags.get(MODALITIES, "").split(","))) or modalities
        params = tuple(filter(None, tags.get(SEARCHED, "").split(",")))[:_SEARCHED]
        quantities = tuple(filter(None, tags.get(QUANTITIES, "").split(",")))[:_QUANTITIES]
        if NOTE in tags:
            client.set_experiment_tag(experiment_id, NOTE, tags[NOTE])
    state = view_state(modalities, [run.info.run_id for run in studies], params, quantities)
    client.set_experiment_tag(experiment_id, VIEW_TAG + _KEY, packed_view(state))


def share_view(uri: str, experiment: str, host: str, params: Sequence[str] = ()) -> Links:
    """Store the view of an experiment, which is created if it does not exist, and return links to it.

    Args:
        uri: tracking URI.
        experiment: its name.
        host: URL at which a browser reaches a server for `uri`, such as http://127.0.0.1:5000.
        params: see `store_view`.
    """
    experiment_id = ensure_experiment(uri, experiment)
    store_view(client_of(uri), experiment_id, params)
    return links(host, experiment_id)


def links_of(uri: str, experiment: str) -> Links | None:
    """Return links to an experiment; None if `uri` is not a server, or the server or experiment is not available."""
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
    """Return links to an experiment on the server at the URL `host`."""
    runs = f"{host.rstrip('/')}/#/experiments/{experiment_id}/runs?"
    shared = {**WORKFLOW, VIEW_QUERY: _KEY}
    return Links(
        table=runs + urlencode(shared),
        charts=runs + urlencode({**shared, **CHART_MODE}),
        plain=runs + urlencode(WORKFLOW),
    )


def view_state(
    modalities: Sequence[str], parents: Sequence[str], params: Sequence[str], quantities: Sequence[str] = ()
) -> Mapping[str, Any]:
    """Return the view state in the format of MLflow's JavaScript (3.17).

    Args:
        modalities: see `columns`, `bars` and `charts`.
        parents: ids of runs whose children are unfolded in a nested table.
        params: parameter columns.
        quantities: metrics of added methods, drawn over epochs in a section of their own, if there are any.
    """
    bar_section, line_section, did_section = "remix-study-bars", "remix-study-lines", "remix-study-did"
    return {
        "searchFilter": "",
        # Ordered by a metric, MLflow lists all child runs (parents last) and draws them in charts. Ordered by time, it
        # folds them into their parents, and charts of folded runs are empty.
        "orderByKey": "metrics.`best/val_accuracy`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "runsExpanded": dict.fromkeys(parents, True),
        "runsPinned": [],
        "runsHidden": [],
        "runsHiddenMode": "FIRST_20_RUNS",  # charts of more runs are unreadable
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
            *(_line(metric, did_section, number) for number, metric in enumerate(quantities)),
        ],
        "compareRunSections": [
            _section(line_section, "Over epochs: accuracy, balance and shares of the modalities"),
            *([_section(did_section, "Over epochs: what the added methods did")] if quantities else []),
            _section(bar_section, "Final accuracy and sufficiency"),
        ],
        # As if a reader had reordered the sections. Otherwise MLflow sorts them by name among its generated ones.
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
