"""Sending spools to MLflow, through a client with explicit tracking URI and run ids, without fluent state

A sender sends the spool of one run folder. Sending is idempotent, regardless of who sends and how often:
- A run is created once. It has the key of its spool as a tag, by which a new sender finds it if the former one died
  before it wrote the run id to disk.
- A metric (key, step) is written once. Epochs that are repeated after a resume have new timestamps, which MLflow would
  store as further values. They are skipped, and the first value is kept.
- A line that is sent twice because the answer was lost has the same timestamps, which MLflow deduplicates.
- Tags, artifacts and status overwrite their former values. A model is created once, and its id is kept next to it.
"""

import contextlib
import json
import logging
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from remix_study import mlflow_private
from remix_study.credentials import redact
from remix_study.errors import StoreError, TrackingError
from remix_study.files.disk import exclusive_lock, write_atomically
from remix_study.mlflow_private import (
    DATASET_DIGEST_LENGTH,
    DATASET_NAME_LENGTH,
    METRICS_PER_BATCH,
    PARAM_LENGTH,
    PARAMS_PER_BATCH,
    TAG_LENGTH,
)
from remix_study.patience import PATIENCE
from remix_study.tracking.address import check, explain
from remix_study.tracking.client import client_of, ensure_experiment, reopen
from remix_study.tracking.review import store_view
from remix_study.tracking.signals import defer_stop_signals
from remix_study.tracking.spool import (
    MODEL,
    MODEL_NOTES,
    Line,
    Spool,
    SpoolTracker,
    forget_run,
    notes_of,
    run_id_of,
    write_notes,
)
from remix_study.tracking.tracker import STATE, RunInfo, Status

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Metric, Run

KEY = "remix_study.spool"
# Permanent errors; all others are retried. Without the file errors (an artifact was deleted, the server's artifact
# folder is not on this machine), the end of the run would never be sent. MLflow raises errors of many libraries, so
# this module catches every Exception and asks `_is_permanent`.
_PERMANENT = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "BAD_REQUEST"}
_PERMANENT_FILES = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = PATIENCE.tracker_first_pause_s, PATIENCE.tracker_longest_pause_s
_log = logging.getLogger(__name__)


class Sender:
    """Sends the unsent data of one run folder.

    Args:
        uri: tracking URI.
        folder: the run folder.
        parent: the folder of the study, whose MLflow run becomes the parent. Its start must have been sent before.
    """

    def __init__(self, uri: str, folder: Path, *, parent: Path | None = None) -> None:
        self._uri = uri
        self._run_folder = folder
        self._folder = folder / "tracking"
        self._parent = parent
        self._spool = Spool(self._folder)
        self._known_until = -1  # `_steps` and `_ended` describe the spool up to this offset
        self._steps: dict[str, set[int]] = {}
        self._refused: set[str] = set()
        self._ended = False
        self._sent_size = 0  # size of the spool when everything was sent

    @property
    def has_unsent(self) -> bool:
        """Whether a complete line is unsent. Called every second for every run, so usually it only stats a file."""
        size = self._spool.size
        if size == self._sent_size:
            return False
        unsent = self._spool.has_unsent
        if not unsent:
            self._sent_size = size
        return unsent

    @property
    def size(self) -> int:
        """Size of the spool in bytes."""
        return self._spool.size

    @property
    def ended(self) -> bool:
        """Whether the end of the run was sent."""
        return self._ended

    def send(self) -> bool:
        """Send all unsent data.

        Returns:
            False if another process is sending this run folder.

        Raises:
            Exception: any error of the server or database. What was confirmed before is not sent again.
        """
        if not self.has_unsent:
            return True
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(exclusive_lock(self._folder / "send.lock"))
            except StoreError:
                return False
            client = client_of(self._uri)
            stack.enter_context(defer_stop_signals())
            try:
                self._drain(client)
            except _RunMissingError:
                self._drain(client)
        return True

    def _drain(self, client: "MlflowClient") -> None:
        begin = self._spool.offset
        if begin != self._known_until:
            self._recall(begin)
        # Several epochs are sent in one request.
        waiting: list[tuple[str, float, int, int]] = []
        taken: set[tuple[str, int]] = set()
        end = begin
        for line, after in self._spool.read(begin):
            if line is not None and "metrics" in line:
                fresh = [
                    (key, value, line["time"], line["step"])
                    for key, value in dict(line["metrics"]).items()
                    if (key, line["step"]) not in taken and line["step"] not in self._known(client, key)
                ]
                if waiting and len(waiting) + len(fresh) > METRICS_PER_BATCH:
                    self._send_metrics(client, waiting)
                    self._confirm(end)
                    waiting, taken = [], set()
                waiting += fresh
                taken |= {(key, step) for key, _, _, step in fresh}
            else:
                if waiting:
                    self._send_metrics(client, waiting)
                    self._confirm(end)
                    waiting, taken = [], set()
                if line is not None:
                    self._send_line(client, line)
                self._confirm(after)
            end = after
        self._send_metrics(client, waiting)
        if end > begin:
            self._confirm(end)
        if self._ended:
            self._steps, self._known_until = {}, -1  # saves memory; read again if the run is resumed

    def _confirm(self, offset: int) -> None:
        self._spool.advance(offset)
        self._known_until = offset

    def _recall(self, offset: int) -> None:
        """Read from the spool which steps were sent up to `offset`, perhaps by another process."""
        self._steps, self._ended, self._known_until = {}, False, offset
        if (notes_of(self._run_folder) or {}).get("foreign"):
            return  # the server has steps that are not in this spool
        steps: defaultdict[str, set[int]] = defaultdict(set)
        for line, end in self._spool.read():
            if end > offset:
                break
            if line is None:
                continue
            if "start" in line or "status" in line:
                self._ended = "status" in line
            for key, _ in line.get("metrics", ()):
                steps[key].add(line["step"])
        self._steps = dict(steps)

    def _known(self, client: "MlflowClient", key: str) -> set[int]:
        """Return the steps of a metric that the server has."""
        if key not in self._steps:
            notes = notes_of(self._run_folder)
            foreign = notes is not None and notes.get("foreign")
            history = client.get_metric_history(notes["run_id"], key) if notes is not None and foreign else []
            self._steps[key] = {metric.step for metric in history}
        return self._steps[key]

    def _send_metrics(self, client: "MlflowClient", rows: list[tuple[str, float, int, int]]) -> None:
        from mlflow.entities import Metric

        rows = [row for row in rows if row[0] not in self._refused]
        if not rows:
            return
        for first in range(0, len(rows), METRICS_PER_BATCH):
            metrics = [Metric(*row) for row in rows[first : first + METRICS_PER_BATCH]]
            try:
                client.log_batch(self._run_id, metrics=metrics)
            except Exception as error:
                if not _is_permanent(error):
                    raise
                self._send_one_by_one(client, metrics)
        for key, _, _, step in rows:
            self._steps.setdefault(key, set()).add(step)

    def _send_one_by_one(self, client: "MlflowClient", metrics: "Iterable[Metric]") -> None:
        """Send each metric in a batch of its own, since MLflow rejects a batch for one invalid name."""
        by_key: defaultdict[str, list[Metric]] = defaultdict(list)
        for metric in metrics:
            by_key[metric.key].append(metric)
        for key, of_key in by_key.items():
            try:
                client.log_batch(self._run_id, metrics=of_key)
            except Exception as error:
                if not _is_permanent(error):
                    raise
                self._refused.add(key)
                _log.error("MLflow rejects the metric %r. Skipping it: %s", key, explain(self._uri, error))

    def _send_line(self, client: "MlflowClient", line: Line) -> None:
        if "start" in line:
            self._start(client, line)
            return
        try:
            self._send_rest(client, line)
        except Exception as error:
            if not _is_permanent(error):
                raise
            # Skip the line, or nothing after it would ever be sent.
            what = ", ".join(f"{key} {value}" for key, value in line.items() if key in ("artifact", "model", "status"))
            _log.error("MLflow rejects %s of %s. Skipping it: %s", what or "tags", self._run_folder.name,
                       explain(self._uri, error))  # fmt: skip

    def _send_rest(self, client: "MlflowClient", line: Line) -> None:
        from mlflow.entities import RunTag

        if "tags" in line:
            client.log_batch(self._run_id, tags=[RunTag(k, v[:TAG_LENGTH]) for k, v in line["tags"].items()])
        elif "artifact" in line:
            place = str(Path(line["artifact"]).parent)
            path = self._folder / str(line.get("from", line["artifact"]))
            client.log_artifact(self._run_id, str(path.resolve()), None if place == "." else place)
        elif "model" in line:
            self._send_model(client)
        elif "view" in line:
            store_view(client, client.get_run(self._run_id).info.experiment_id)
        elif "status" in line:
            client.set_terminated(self._run_id, line["status"], line["time"])
            self._ended = True

    @property
    def _run_id(self) -> str:
        run_id = run_id_of(self._run_folder)
        assert run_id is not None, "the first line of a spool is a start"
        return run_id

    def _start(self, client: "MlflowClient", line: Line) -> None:
        """Create the run, or find and resume it: set its status to RUNNING, and delete the tags of its former end.

        Raises:
            TrackingError: the run to resume does not exist, or the study's run was not sent yet.
        """
        info = RunInfo(**line["start"])
        parent = info.parent_run_id
        if self._parent is not None:
            parent = run_id_of(self._parent)
            if parent is None:
                raise TrackingError(f"Cannot send the run {info.name!r} before the study's own run.")
        run = self._find(client, line)
        if run is None:
            tags = {**_source(), "dataset_digest": info.dataset_digest, **_cut(info.tags), KEY: line["key"],
                    STATE: "running"}  # fmt: skip
            if parent is not None:
                tags["mlflow.parentRunId"] = parent
            experiment = ensure_experiment(self._uri, line["experiment"])
            run = client.create_run(experiment, line["time"], tags, info.name)
            write_notes(self._run_folder, {"run_id": run.info.run_id})
            for double in client.search_runs([experiment], _has_key(line["key"])):
                # MLflow's client repeats a request whose answer was lost, and then creates a second run.
                if double.info.run_id != run.info.run_id:
                    client.delete_run(double.info.run_id)
        else:
            reopen(client, run)
        _log_head(client, run, info)
        self._ended = False

    def _find(self, client: "MlflowClient", line: Line) -> "Run | None":
        from mlflow.exceptions import MlflowException

        known = run_id_of(self._run_folder)
        resumed = line.get("resume")
        try:
            if known is not None:
                return client.get_run(known)
            if resumed is not None:
                run = client.get_run(resumed)
                write_notes(self._run_folder, {"run_id": resumed, "foreign": True})
                return run
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            if known is None:
                raise TrackingError(f"Cannot resume the MLflow run {resumed}: it does not exist.") from None
            # Another server than before, or an emptied one: send everything from the first line.
            _log.warning("%s does not have the run of %s. Sending it again.", redact(self._uri), self._run_folder)
            forget_run(self._run_folder)
            self._confirm(0)
            self._recall(0)
            raise _RunMissingError from None
        experiment = ensure_experiment(self._uri, line["experiment"])
        found = client.search_runs([experiment], _has_key(line["key"]), max_results=1)
        if not found:
            return None
        # Created by a sender that died before it wrote the run id to disk.
        write_notes(self._run_folder, {"run_id": found[0].info.run_id})
        return client.get_run(found[0].info.run_id)

    def _send_model(self, client: "MlflowClient") -> None:
        from mlflow.entities import LoggedModelOutput
        from mlflow.models import Model

        folder, notes = self._folder / MODEL, self._folder / MODEL_NOTES
        run = client.get_run(self._run_id)
        made = None
        if notes.exists():
            made = client.get_logged_model(json.loads(notes.read_text()))
        if made is None or made.source_run_id != self._run_id:
            if not _unfinished_models(client, run):  # one whose creation was not answered
                client.create_logged_model(
                    run.info.experiment_id, name="model", source_run_id=self._run_id, model_type="classifier"
                )
            made, *doubles = _unfinished_models(client, run)
            write_atomically(notes, json.dumps(made.model_id))
            for double in doubles:  # see `_start`
                client.delete_logged_model(double.model_id)
        try:
            if str(made.status) != "READY":
                described = Model.load(str(folder))
                described.run_id, described.model_id = self._run_id, made.model_id
                described.save(str(folder / "MLmodel"))
                client.log_model_artifacts(made.model_id, str(folder))
                client.finalize_logged_model(made.model_id, "READY")
            if made.model_id not in _models_of(run):
                try:
                    client.log_outputs(self._run_id, [LoggedModelOutput(made.model_id, step=0)])
                except Exception:  # also if MLflow's client repeated the request, whose answer was lost
                    if made.model_id not in _models_of(client.get_run(self._run_id)):
                        raise
        except Exception as error:
            if _is_permanent(error):
                client.finalize_logged_model(made.model_id, "FAILED")
                client.delete_logged_model(made.model_id)
                notes.unlink()
            raise
        client.set_tag(self._run_id, "model_uri", f"models:/{made.model_id}")


def _has_key(key: str) -> str:
    """MLflow's filter for the run of a spool."""
    return f"tags.`{KEY}` = '{key}'"


def _models_of(run: "Run") -> set[str]:
    """The ids of the models that a run has as outputs."""
    return {output.model_id for output in run.outputs.model_outputs} if run.outputs else set()


def _unfinished_models(client: "MlflowClient", run: "Run") -> "list[LoggedModel]":
    """The models of a run that are not uploaded completely."""
    found = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run.info.run_id}'")
    return [model for model in found if str(model.status) != "READY"]


class _RunMissingError(Exception):
    """The server does not have the run of this spool."""


def send(uri: str, folder: Path) -> bool:
    """Send the unsent data of one run folder; see `Sender.send`."""
    return Sender(uri, folder).send()


class MLflowTracker(SpoolTracker):
    """Tracker that sends its spool itself: for a run that does not belong to a study.

    Args:
        uri: tracking URI.
        experiment: name of the MLflow experiment.
        folder: the run folder.
    """

    def __init__(self, uri: str, experiment: str, *, folder: Path) -> None:
        super().__init__(folder, experiment)
        self._uri = uri
        self._sender = Sender(uri, folder)
        self._started = False
        self._pause_s = 0.0
        self._next_try = 0.0

    def start(self, info: RunInfo, resume_run_id: str | None = None) -> str:
        """Start or resume the run, send the unsent data of a former process, and return the MLflow run id.

        Raises:
            TrackingError: the server or database cannot be used, or the run to resume does not exist.
        """
        check(self._uri)
        self._started = False
        super().start(info, resume_run_id)
        self._started = True
        try:
            self._sender.send()
        except TrackingError:
            raise
        except Exception as error:
            raise TrackingError(
                f"Cannot start the run {info.name!r} at {redact(self._uri)}: {explain(self._uri, error)}. See the "
                "server's log, or use another tracking URI."
            ) from None
        run_id = self.run_id
        if run_id is None:
            raise TrackingError(
                f"Cannot send {self._run_folder}: another process is sending it. Wait for it, or end it."
            )
        return run_id

    def finish(self, status: Status, reason: str | None = None) -> None:
        """End the run. Data that cannot be sent stays in the spool."""
        super().finish(status, reason)
        if self._spool.has_unsent and not self.flush():
            _log.error(
                "%s did not accept all data of the run. The rest is kept in %s; rerun the command to send it.",
                redact(self._uri),
                self._folder,
            )

    def flush(self) -> bool:
        """Send all unsent data now, and return whether that succeeded."""
        try:
            arrived = self._sender.send()
        except Exception as error:
            if not self._pause_s:
                _log.warning(
                    "%s does not accept tracking data (%s). Keeping it in %s and retrying.",
                    redact(self._uri),
                    explain(self._uri, error),
                    self._folder,
                )
            self._pause_s = min(_LONGEST_PAUSE_S, 2 * self._pause_s) if self._pause_s else _FIRST_PAUSE_S
            self._next_try = time.monotonic() + self._pause_s
            return False
        if self._pause_s:
            _log.warning("%s accepts tracking data again. Nothing was lost.", redact(self._uri))
        self._pause_s = 0.0
        return arrived

    def _tell(self, line: Line) -> None:
        super()._tell(line)
        # A hanging server delays training by a few seconds, then not again until the pause is over.
        if self._started and (not self._pause_s or time.monotonic() >= self._next_try):
            self.flush()


def _log_head(client: "MlflowClient", run: "Run", info: RunInfo) -> None:
    """Log parameters and data set, unless a resumed run has them: MLflow does not let parameters change."""
    from mlflow.entities import Dataset, DatasetInput, InputTag
    from mlflow.exceptions import MlflowException

    _log_params(client, run, info.params)
    if run.inputs and run.inputs.dataset_inputs:
        return
    dataset = Dataset(
        name=info.dataset_name[:DATASET_NAME_LENGTH],
        digest=info.dataset_digest[:DATASET_DIGEST_LENGTH],
        source_type="local",
        source=json.dumps({"uri": info.dataset_source}),
        profile=json.dumps(dict(info.dataset_profile), default=str),
    )
    inputs = [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])]
    try:
        client.log_inputs(run.info.run_id, inputs)
    except MlflowException:
        # If runs add the same data set at the same time, MLflow creates it for one and fails the others. Try again.
        client.log_inputs(run.info.run_id, inputs)


def _log_params(client: "MlflowClient", run: "Run", params: Mapping[str, str | int | float | bool]) -> None:
    from mlflow.entities import Param

    fresh = [Param(key, str(value)[:PARAM_LENGTH]) for key, value in params.items() if key not in run.data.params]
    for first in range(0, len(fresh), PARAMS_PER_BATCH):
        client.log_batch(run.info.run_id, params=fresh[first : first + PARAMS_PER_BATCH])


def _source() -> dict[str, str]:
    kept = {
        key: value
        for key, value in mlflow_private.context_tags().items()
        if key.startswith(("mlflow.source.", "mlflow.user"))
    }
    started = Path(sys.argv[0] or "python").name
    name = "remix-study" if started == "__main__.py" else started  # python -m remix_study
    return {**kept, "mlflow.source.name": name, "mlflow.source.type": "LOCAL"}


def _cut(tags: Mapping[str, str]) -> dict[str, str]:
    return {key: str(value)[:TAG_LENGTH] for key, value in tags.items()}


def _is_permanent(error: Exception) -> bool:
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        return error.error_code in _PERMANENT
    return isinstance(error, _PERMANENT_FILES)
