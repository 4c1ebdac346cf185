"""What a spool holds, sent to MLflow, through a client with an explicit tracking URI and run ids; never fluent state

A sender drains one run folder's spool; sending is idempotent, whoever sends, however often:
- a run is made once. It carries its spool's key as a tag, by which a sender that died before it could write the run's
  id down finds it again.
- a metric (key, step) is written once. Epochs done again after a resume carry new clock times, which MLflow would store
  as second values: what the spool said before is left out. The first value stays.
- a line sent twice because its answer was lost carries the same timestamps, which MLflow recognises itself.
- tags, artifacts and the status overwrite themselves; a model is made once, and its id is kept beside it.
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
from remix_study.files.disk import sole_writer, write_atomically
from remix_study.mlflow_private import (
    DATASET_DIGEST_LENGTH,
    DATASET_NAME_LENGTH,
    METRICS_PER_BATCH,
    PARAM_LENGTH,
    PARAMS_PER_BATCH,
    TAG_LENGTH,
)
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
    from mlflow.entities import Metric, Run

KEY = "remix_study.spool"
# Errors that no later attempt will mend; everything else may be a hiccup. A file that is not there or not ours to write
# (an artifact removed, a server's folder that is not this machine's) would hold back the run's end for ever.
_HOPELESS = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "BAD_REQUEST"}
_HOPELESS_FILES = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 10.0, 60.0
_log = logging.getLogger(__name__)


class Sender:
    """Sends what waits in one run folder.

    Args:
        parent: a run folder whose MLflow run becomes this one's parent; that must have been sent before.
    """

    def __init__(self, uri: str, folder: Path, *, parent: Path | None = None) -> None:
        self._uri = uri
        self._run_folder = folder
        self._folder = folder / "tracking"
        self._parent = parent
        self._spool = Spool(self._folder)
        self._upto = -1  # the offset that what follows is known up to
        self._steps: dict[str, set[int]] = {}
        self._refused: set[str] = set()
        self._ended = False
        self._seen = 0  # the spool's size when nothing waited

    @property
    def has_unsent(self) -> bool:
        """Whether a whole line has not arrived yet. Asked every second of every run: mostly a look at a file's size."""
        size = self._spool.size
        if size == self._seen:
            return False
        waits = self._spool.has_unsent
        if not waits:
            self._seen = size
        return waits

    @property
    def size(self) -> int:
        """Bytes that the run has told so far."""
        return self._spool.size

    @property
    def ended(self) -> bool:
        """Whether the run had ended, as far as it was sent."""
        return self._ended

    def send(self) -> bool:
        """Send all that waits; False: another sender is at it.

        Raises:
            Exception: whatever kept the server or database from taking it. What has arrived is not sent again.
        """
        if not self.has_unsent:
            return True
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(sole_writer(self._folder / "send.lock"))
            except StoreError:
                return False
            client = client_of(self._uri)
            stack.enter_context(defer_stop_signals())
            try:
                self._drain(client)
            except _ToldNowhereError:
                self._drain(client)
        return True

    def _drain(self, client: "MlflowClient") -> None:
        begin = self._spool.offset
        if begin != self._upto:
            self._recall(begin)
        # Many epochs of one run go out in one request.
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
                    self._arrived(end)
                    waiting, taken = [], set()
                waiting += fresh
                taken |= {(key, step) for key, _, _, step in fresh}
            else:
                if waiting:
                    self._send_metrics(client, waiting)
                    self._arrived(end)
                    waiting, taken = [], set()
                if line is not None:
                    self._send_line(client, line)
                self._arrived(after)
            end = after
        self._send_metrics(client, waiting)
        if end > begin:
            self._arrived(end)
        if self._ended:
            self._steps, self._upto = {}, -1  # thousands of ended runs are watched; should one go on, it is recalled

    def _arrived(self, offset: int) -> None:
        self._spool.advance(offset)
        self._upto = offset

    def _recall(self, offset: int) -> None:
        """What was sent by others, or by a process before this one: it stands in the spool."""
        self._steps, self._ended, self._upto = {}, False, offset
        if (notes_of(self._run_folder) or {}).get("foreign"):
            return  # the server knows steps that this spool has never heard of
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
        """Steps that the server has of a metric."""
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
                if not _hopeless(error):
                    raise
                self._send_one_by_one(client, metrics)
        for key, _, _, step in rows:
            self._steps.setdefault(key, set()).add(step)

    def _send_one_by_one(self, client: "MlflowClient", metrics: "Iterable[Metric]") -> None:
        """One bad name makes MLflow refuse a whole batch."""
        by_key: defaultdict[str, list[Metric]] = defaultdict(list)
        for metric in metrics:
            by_key[metric.key].append(metric)
        for key, of_key in by_key.items():
            try:
                client.log_batch(self._run_id, metrics=of_key)
            except Exception as error:
                if not _hopeless(error):
                    raise
                self._refused.add(key)
                _log.error("MLflow refuses the metric %r for good: %s", key, explain(self._uri, error))

    def _send_line(self, client: "MlflowClient", line: Line) -> None:
        if "start" in line:
            self._start(client, line)
            return
        try:
            self._send_rest(client, line)
        except Exception as error:
            if not _hopeless(error):
                raise
            # Kept at the head of the spool it would hold back everything after it, for ever.
            what = ", ".join(f"{key} {value}" for key, value in line.items() if key in ("artifact", "model", "status"))
            _log.error("MLflow refuses %s of %s for good: %s", what or "tags", self._run_folder.name,
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
        assert run_id is not None, "a spool's first line is a start"
        return run_id

    def _start(self, client: "MlflowClient", line: Line) -> None:
        """Make the run, or find it and go on with it: its status back to RUNNING, what its last end said gone.

        Raises:
            TrackingError: a run that should be resumed is not there.
        """
        info = RunInfo(**line["start"])
        parent = info.parent_run_id
        if self._parent is not None:
            parent = run_id_of(self._parent)
            if parent is None:
                raise TrackingError(f"the study's own run must be sent before {info.name!r}, but was not yet.")
        run = self._find(client, line)
        if run is None:
            tags = {**_source(), "dataset_digest": info.dataset_digest, **_cut(info.tags), KEY: line["key"],
                    STATE: "running"}  # fmt: skip
            if parent is not None:
                tags["mlflow.parentRunId"] = parent
            experiment = ensure_experiment(self._uri, line["experiment"])
            run = client.create_run(experiment, line["time"], tags, info.name)
            write_notes(self._run_folder, {"run_id": run.info.run_id})
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
                raise TrackingError(f"the run {resumed} must be there to be resumed, but is not.") from None
            # Another server than before, or an emptied one: it is told everything, from the first line on.
            _log.warning("%s does not have the run of %s; it is told again", redact(self._uri), self._run_folder)
            forget_run(self._run_folder)
            self._arrived(0)
            self._recall(0)
            raise _ToldNowhereError from None
        experiment = ensure_experiment(self._uri, line["experiment"])
        found = client.search_runs([experiment], f"tags.`{KEY}` = '{line['key']}'", max_results=1)
        if not found:
            return None
        # Made by a sender that died before it could write this down.
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
            made = client.create_logged_model(
                run.info.experiment_id, name="model", source_run_id=self._run_id, model_type="classifier"
            )
            write_atomically(notes, json.dumps(made.model_id))
        try:
            if str(made.status) != "READY":
                described = Model.load(str(folder))
                described.run_id, described.model_id = self._run_id, made.model_id
                described.save(str(folder / "MLmodel"))
                client.log_model_artifacts(made.model_id, str(folder))
                client.finalize_logged_model(made.model_id, "READY")
            if made.model_id not in {output.model_id for output in (run.outputs.model_outputs if run.outputs else ())}:
                client.log_outputs(self._run_id, [LoggedModelOutput(made.model_id, step=0)])
        except Exception as error:
            if _hopeless(error):
                client.finalize_logged_model(made.model_id, "FAILED")
                client.delete_logged_model(made.model_id)
                notes.unlink()
            raise
        client.set_tag(self._run_id, "model_uri", f"models:/{made.model_id}")


class _ToldNowhereError(Exception):
    """The server does not have what this spool believes sent."""


def send(uri: str, folder: Path) -> bool:
    """Send what waits in one run folder; see `Sender.send`."""
    return Sender(uri, folder).send()


class MLflowTracker(SpoolTracker):
    """Tracks one run at `uri` and sends by itself: for a run that has no study's driver to do it."""

    def __init__(self, uri: str, experiment: str, *, folder: Path) -> None:
        super().__init__(folder, experiment)
        self._uri = uri
        self._sender = Sender(uri, folder)
        self._started = False
        self._pause_s = 0.0
        self._next_try = 0.0

    def start(self, info: RunInfo, resume_run_id: str | None = None) -> str:
        """Open a run, or go on with it: its status back to RUNNING, what a former process left unsent sent.

        Raises:
            TrackingError: the server or database cannot be used, or the run to resume is not there.
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
                f"the run {info.name!r} must be opened at {redact(self._uri)}, but was refused "
                f"({explain(self._uri, error)}). See the server's log, or choose another tracking URI."
            ) from None
        run_id = self.run_id
        if run_id is None:
            raise TrackingError(
                f"one process at a time may send {self._run_folder}, and another one does. Wait for it, or end it."
            )
        return run_id

    def finish(self, status: Status, reason: str | None = None) -> None:
        """End the run. What cannot be sent stays in the spool."""
        super().finish(status, reason)
        if self._spool.has_unsent and not self.flush():
            _log.error(
                "%s did not take all of the run; what is missing is kept in %s and is sent when the run is resumed",
                redact(self._uri),
                self._folder,
            )

    def flush(self) -> bool:
        """Send what waits, now; whether all has arrived."""
        try:
            arrived = self._sender.send()
        except Exception as error:
            if not self._pause_s:
                _log.warning(
                    "%s does not take metrics now (%s); they are kept in %s and sent later",
                    redact(self._uri),
                    explain(self._uri, error),
                    self._folder,
                )
            self._pause_s = min(_LONGEST_PAUSE_S, 2 * self._pause_s) if self._pause_s else _FIRST_PAUSE_S
            self._next_try = time.monotonic() + self._pause_s
            return False
        if self._pause_s:
            _log.warning("%s takes metrics again; nothing is missing", redact(self._uri))
        self._pause_s = 0.0
        return arrived

    def _tell(self, line: Line) -> None:
        super()._tell(line)
        # A server that hangs costs training a few seconds, and then nothing for a while.
        if self._started and (not self._pause_s or time.monotonic() >= self._next_try):
            self.flush()


def _log_head(client: "MlflowClient", run: "Run", info: RunInfo) -> None:
    """Parameters and data set; a resumed run has them already, and MLflow refuses to change parameters."""
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
        # Runs that start together all add the same data set, and MLflow fails all but the first; now it is there.
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


def _hopeless(error: Exception) -> bool:
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        return error.error_code in _HOPELESS
    return isinstance(error, _HOPELESS_FILES)
