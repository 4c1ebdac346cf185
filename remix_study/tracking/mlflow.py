"""Runs in MLflow, through a client with an explicit tracking URI and run ids; never the fluent global state

Everything is a line of the run's spool first, and is sent from there, now or at the next call. Sending is idempotent:
- a metric (key, step) is written once. A resumed run asks the server which steps it has of a key and leaves those
  out: epochs done again carry new clock times, which MLflow would store as second values. The first value stays.
- a line sent twice because its answer was lost carries the same timestamps, which MLflow recognises itself.
- tags, artifacts and the status overwrite themselves.
"""

import json
import logging
import math
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from torch import nn

from remix_study.errors import TrackingError
from remix_study.sample import Batch
from remix_study.tracking.address import artifact_root, be_brief, check, explain, prepare, redact
from remix_study.tracking.model import save_model
from remix_study.tracking.signals import stop_deferred
from remix_study.tracking.spool import Line, Spool
from remix_study.tracking.tracker import RunInfo, Status

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

FAILURE_REASON = "failure_reason"
# MLflow's limits (mlflow.utils.validation), beyond which it refuses a whole batch.
_PARAM_LENGTH, _TAG_LENGTH, _DIGEST_LENGTH, _PER_BATCH = 6000, 8000, 36, 100
# Errors that no later attempt will mend; everything else may be a hiccup.
_HOPELESS = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "BAD_REQUEST"}
_log = logging.getLogger(__name__)


class MLflowTracker:
    """Tracks one run at `uri`; `folder` is the run's own, where the spool and copies of all artifacts lie."""

    def __init__(self, uri: str, experiment: str, *, folder: Path) -> None:
        self._uri = uri
        self._experiment = experiment
        self._folder = folder / "tracking"
        self._run_id: str | None = None
        self._written: dict[tuple[str, str], set[int]] = {}
        self._resumed: set[str] = set()
        self._warned: set[str] = set()
        self._late = False

    @property
    def run_id(self) -> str | None:
        return self._run_id

    def start(self, info: RunInfo, resume_run_id: str | None = None) -> str:
        """Open a run, or go on with `resume_run_id`: its status back to RUNNING, what a former run left unsent sent.

        Raises:
            TrackingError: the server or database cannot be used, or the run to resume is not there.
        """
        check(self._uri)
        try:
            client = client_of(self._uri)
            if resume_run_id is None:
                run = client.create_run(
                    ensure_experiment(self._uri, self._experiment), tags=_context(info), run_name=info.name
                )
            else:
                run = client.get_run(resume_run_id)
                reopen(client, run)
            self.attach(run.info.run_id, resumed=resume_run_id is not None)
            _log_head(client, run, info)
        except TrackingError:
            raise
        except Exception as error:
            raise TrackingError(
                f"the run {info.name!r} must be opened at {redact(self._uri)}, but was refused "
                f"({explain(self._uri, error)}). See the server's log, or choose another tracking URI."
            ) from None
        self.log_text(info.config_yaml, "config.yaml")
        return str(run.info.run_id)

    def attach(self, run_id: str, *, resumed: bool = True) -> None:
        """Go on with a run that is open, such as a study's parent; nothing is sent."""
        self._run_id = run_id
        self._spool = Spool(self._folder)
        if resumed:
            self._resumed.add(run_id)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        bad = {key for key, value in metrics.items() if not math.isfinite(value)}
        for key in sorted(bad - self._warned):
            _log.warning("%s is not a finite number at step %d and is left out (said once per metric)", key, step)
        self._warned |= bad
        finite = [[key, float(value)] for key, value in metrics.items() if key not in bad]
        if finite:
            self._tell({"metrics": finite, "step": step, "time": _now()})

    def set_tags(self, tags: Mapping[str, str]) -> None:
        if tags:
            self._tell({"tags": dict(tags)})

    def log_text(self, text: str, name: str) -> None:
        path = self._local(name)
        path.write_text(text, encoding="utf-8")
        self._tell({"artifact": name})

    def log_figure(self, figure: Figure, name: str) -> None:
        """As PNG, which MLflow shows inline; `name` such as `figures/learning_curves.png`."""
        figure.savefig(self._local(name), format="png", dpi=150)
        self._tell({"artifact": name})

    def log_model(self, model: nn.Module, example: Batch) -> None:
        """With a signature, readable by `mlflow.pytorch.load_model("models:/ID")`; a refusal is only warned about."""
        assert self._run_id is not None, "start comes first"
        made = None
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "model"
            try:
                client = client_of(self._uri)
                from mlflow.entities import LoggedModelOutput

                described = save_model(model, example, folder, self._run_id)
                run = client.get_run(self._run_id)
                made = client.create_logged_model(
                    run.info.experiment_id, name="model", source_run_id=self._run_id, model_type="classifier"
                )
                described.model_id = made.model_id
                described.save(str(folder / "MLmodel"))
                client.log_model_artifacts(made.model_id, str(folder))
                client.finalize_logged_model(made.model_id, "READY")
                client.log_outputs(self._run_id, [LoggedModelOutput(made.model_id, step=0)])
            except Exception as error:
                _log.warning("the model is not logged to %s: %s", redact(self._uri), explain(self._uri, error))
                if made is not None:
                    self._discard_model(made.model_id)
            else:
                self.set_tags({"model_uri": f"models:/{made.model_id}"})

    def finish(self, status: Status, reason: str | None = None) -> None:
        """End the run; FAILED and KILLED carry `reason` as a tag. What cannot be sent stays in the spool."""
        if self._run_id is None:
            return
        if reason:
            self.set_tags({FAILURE_REASON: reason})
        self._tell({"status": status, "time": _now()})
        if self._spool.pending:
            _log.error(
                "%s did not take all of run %s; what is missing is kept in %s and is sent when the run is resumed",
                redact(self._uri),
                self._run_id,
                self._folder,
            )

    def flush(self) -> bool:
        """Send what waits; whether all has arrived."""
        try:
            client = client_of(self._uri)
            with stop_deferred():
                self._spool.drain(lambda line: self._send(client, line))
        except Exception as error:
            if not self._late:
                _log.warning(
                    "%s does not take metrics now (%s); they are kept in %s and sent later",
                    redact(self._uri),
                    explain(self._uri, error),
                    self._folder,
                )
            self._late = True
            return False
        if self._late:
            _log.warning("%s takes metrics again; nothing is missing", redact(self._uri))
        self._late = False
        return True

    def _tell(self, line: Line) -> None:
        assert self._run_id is not None, "start comes first"
        self._spool.append({"run": self._run_id, **line})
        self.flush()

    def _send(self, client: "MlflowClient", line: Line) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._send_line(client, line)
        except MlflowException as error:
            if error.error_code not in _HOPELESS:
                raise
            # Kept at the head of the spool it would hold back everything after it, for ever.
            _log.error("MLflow refuses %s for good: %s", sorted(line), explain(self._uri, error))

    def _send_line(self, client: "MlflowClient", line: Line) -> None:
        from mlflow.entities import Metric, RunTag

        run_id = line["run"]
        if "metrics" in line:
            step = line["step"]
            fresh = [(key, value) for key, value in line["metrics"] if step not in self._steps(client, run_id, key)]
            if fresh:
                client.log_batch(run_id, metrics=[Metric(key, value, line["time"], step) for key, value in fresh])
            for key, _ in fresh:
                self._written[run_id, key].add(step)
        elif "tags" in line:
            client.log_batch(run_id, tags=[RunTag(key, value[:_TAG_LENGTH]) for key, value in line["tags"].items()])
        elif "artifact" in line:
            name = line["artifact"]
            parent = str(Path(name).parent)
            client.log_artifact(run_id, str(self._folder / name), None if parent == "." else parent)
        elif "status" in line:
            client.set_terminated(run_id, line["status"], line["time"])

    def _steps(self, client: "MlflowClient", run_id: str, key: str) -> set[int]:
        if (run_id, key) not in self._written:
            history = client.get_metric_history(run_id, key) if run_id in self._resumed else []
            self._written[run_id, key] = {metric.step for metric in history}
        return self._written[run_id, key]

    def _local(self, name: str) -> Path:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _discard_model(self, model_id: str) -> None:
        try:
            client_of(self._uri).finalize_logged_model(model_id, "FAILED")
            client_of(self._uri).delete_logged_model(model_id)
        except Exception as error:
            _log.warning("the half-made model %s is left behind: %s", model_id, explain(self._uri, error))


def client_of(uri: str) -> "MlflowClient":
    be_brief()
    from mlflow import MlflowClient

    if uri.startswith("sqlite:"):
        prepare(uri)
    return MlflowClient(tracking_uri=uri)


def ensure_experiment(uri: str, name: str) -> str:
    """The experiment's id; whoever comes second to create it finds the first one's.

    Raises:
        TrackingError: an experiment of this name was deleted, or `uri` is a database that does not say where
            artifacts go.
    """
    from mlflow.exceptions import MlflowException

    client = client_of(uri)
    found = client.get_experiment_by_name(name)
    if found is None:
        root = artifact_root(uri)
        if root is None and not uri.startswith(("http", "databricks")):
            raise TrackingError(
                f"artifacts must have a place, but {redact(uri)} is a database that names none for the experiment "
                f"{name!r}. Put an MLflow server before it, or run `mlflow experiments create` with an artifact "
                "location."
            )
        # Explicit, because a database's default is ./mlruns of whatever directory this happens to be.
        place = None if root is None else (root / "".join(c if c.isalnum() else "-" for c in name)).as_uri()
        try:
            return client.create_experiment(name, artifact_location=place)
        except MlflowException as error:
            found = client.get_experiment_by_name(name)
            if found is None:
                raise error
    if found.lifecycle_stage == "deleted":
        raise TrackingError(
            f"the experiment {name!r} must be active, but was deleted. Bring it back with `mlflow experiments restore "
            f"-x {found.experiment_id}`, or choose another name."
        )
    return found.experiment_id


def create_parent(
    uri: str,
    experiment: str,
    name: str,
    tags: Mapping[str, str],
    params: Mapping[str, str | int | float | bool] | None = None,
) -> str:
    """The run id of a study's parent: the newest run of that name with all of `tags` and no parent, else a new one.

    `tags` must name the study (such as {"study": ID}); a study that is resumed finds its parent again, RUNNING.
    """
    client = client_of(uri)
    experiment_id = ensure_experiment(uri, experiment)
    found = [run for run in _runs(client, experiment_id, tags, name) if "mlflow.parentRunId" not in run.data.tags]
    if found:
        reopen(client, found[0])
        return str(found[0].info.run_id)
    run = client.create_run(experiment_id, tags={**_source(), **_cut(tags)}, run_name=name)
    _log_params(client, run, params or {})
    return str(run.info.run_id)


def close_stale(
    uri: str,
    experiment: str,
    tags: Mapping[str, str],
    keep: set[str] | frozenset[str] = frozenset(),
    reason: str = "the process that ran it is gone",
) -> list[str]:
    """End as KILLED all runs left RUNNING that carry all of `tags`, but for those in `keep`; returns their ids."""
    client = client_of(uri)
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return []
    stale = [
        run.info.run_id
        for run in _runs(client, found.experiment_id, tags)
        if run.info.status == "RUNNING" and run.info.run_id not in keep
    ]
    for run_id in stale:
        client.set_tag(run_id, FAILURE_REASON, reason)
        client.set_terminated(run_id, "KILLED")
    return stale


def reopen(client: "MlflowClient", run: "Run") -> None:
    client.update_run(run.info.run_id, status="RUNNING")
    if FAILURE_REASON in run.data.tags:
        client.delete_tag(run.info.run_id, FAILURE_REASON)


def _runs(client: "MlflowClient", experiment_id: str, tags: Mapping[str, str], name: str | None = None) -> "list[Run]":
    # Compared here and not in MLflow's filter language, which has no way to quote a quote.
    found: list[Run] = []
    token: str | None = None
    while True:
        page = client.search_runs([experiment_id], page_token=token, max_results=1000)
        found += [run for run in page if tags.items() <= run.data.tags.items() and name in (None, run.info.run_name)]
        token = page.token
        if not token:
            return found


def _log_head(client: "MlflowClient", run: "Run", info: RunInfo) -> None:
    """Parameters and data set; a resumed run has them already, and MLflow refuses to change parameters."""
    from mlflow.entities import Dataset, DatasetInput, InputTag
    from mlflow.exceptions import MlflowException

    _log_params(client, run, info.params)
    if run.inputs and run.inputs.dataset_inputs:
        return
    dataset = Dataset(
        name=info.dataset_name[:500],
        digest=info.dataset_digest[:_DIGEST_LENGTH],
        source_type="local",
        source=json.dumps({"uri": info.dataset_source}),
        profile=json.dumps(dict(info.dataset_profile), default=str),
    )
    inputs = [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])]
    try:
        client.log_inputs(run.info.run_id, inputs)
    except MlflowException:
        # Runs that start together all add the same data set, and MLflow fails all but the first; now it is there.
        client.log_inputs(run.info.run_id, inputs)


def _log_params(client: "MlflowClient", run: "Run", params: Mapping[str, str | int | float | bool]) -> None:
    from mlflow.entities import Param

    fresh = [Param(key, str(value)[:_PARAM_LENGTH]) for key, value in params.items() if key not in run.data.params]
    for first in range(0, len(fresh), _PER_BATCH):
        client.log_batch(run.info.run_id, params=fresh[first : first + _PER_BATCH])


def _context(info: RunInfo) -> dict[str, str]:
    parent = {} if info.parent_run_id is None else {"mlflow.parentRunId": info.parent_run_id}
    # The whole digest: MLflow's data set entry holds 36 characters of it.
    return {**_source(), **parent, "dataset_digest": info.dataset_digest, **_cut(info.tags)}


def _source() -> dict[str, str]:
    from mlflow.tracking.context.registry import resolve_tags

    found: dict[str, str] = resolve_tags()
    kept = {key: value for key, value in found.items() if key.startswith(("mlflow.source.", "mlflow.user"))}
    return {"mlflow.source.name": Path(sys.argv[0] or "python").name, "mlflow.source.type": "LOCAL", **kept}


def _cut(tags: Mapping[str, str]) -> dict[str, str]:
    return {key: str(value)[:_TAG_LENGTH] for key, value in tags.items()}


def _now() -> int:
    return time.time_ns() // 1_000_000
