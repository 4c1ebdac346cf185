"""MLflow's client with an explicit tracking URI; experiments, and runs that no process works on"""

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from remix_study.credentials import redact
from remix_study.errors import TrackingError
from remix_study.tracking.address import artifact_root, prepare, resolved, set_client_defaults, shell_word
from remix_study.tracking.tracker import FAILURE_CAUSE, FAILURE_REASON, REASON, STATE

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

GONE = "the process that ran it is gone"  # why a run is ended that no process works on


def client_of(uri: str) -> "MlflowClient":
    """Return a client for `uri`; create an SQLite database that does not exist.

    Raises:
        TrackingError: a `$NAME` in `uri` is not in the environment.
    """
    set_client_defaults()
    from mlflow import MlflowClient

    if uri.startswith("sqlite:"):
        prepare(uri)
    return MlflowClient(tracking_uri=resolved(uri))


def ensure_experiment(uri: str, name: str) -> str:
    """Return the id of the experiment `name`, and create it if it does not exist. Concurrent calls create it once.

    Raises:
        TrackingError: an experiment with this name was deleted, or `uri` is a database for which no artifact location
            is known.
    """
    from mlflow.exceptions import MlflowException

    client = client_of(uri)
    found = client.get_experiment_by_name(name)
    if found is None:
        root = artifact_root(uri)
        if root is None and not uri.startswith(("http", "databricks")):
            raise TrackingError(
                f"Cannot create the experiment {name!r}: the database {redact(uri)} has no artifact location. Use an "
                "MLflow server (`remix-study serve`), or run `mlflow experiments create` with `--artifact-location`."
            )
        # Explicit, because the default for a database is ./mlruns in the current directory.
        # A digest, because the name is any text: a path, or longer than the name of a folder.
        place = None if root is None else (root / hashlib.sha256(name.encode()).hexdigest()[:16]).as_uri()
        try:
            return client.create_experiment(name, artifact_location=place)
        except MlflowException as error:
            found = client.get_experiment_by_name(name)
            if found is None:
                raise error
    if found.lifecycle_stage == "deleted":
        raise TrackingError(
            f"Cannot use the experiment {name!r}: it was deleted. Restore it with `MLFLOW_TRACKING_URI="
            f"{shell_word(uri)} mlflow experiments restore -x {found.experiment_id}`, or use another name."
        )
    return found.experiment_id


def close_stale(
    uri: str,
    experiment: str,
    tags: Mapping[str, str],
    keep: set[str] | frozenset[str] = frozenset(),
    reason: str = GONE,
) -> list[str]:
    """End RUNNING runs with the given tags as KILLED, and return their ids.

    Args:
        uri: tracking URI.
        experiment: its name.
        tags: a run must have all of them.
        keep: ids of runs to leave alone.
        reason: becomes the tag `failure_reason`.
    """
    client = client_of(uri)
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return []
    stale = [
        run.info.run_id
        for run in runs_with(client, found.experiment_id, tags)
        if run.info.status == "RUNNING" and run.info.run_id not in keep
    ]
    for run_id in stale:
        kill(client, run_id, reason)
    return stale


def kill(client: "MlflowClient", run_id: str, reason: str) -> None:
    """End a run whose spool is not available as KILLED."""
    client.set_tag(run_id, FAILURE_REASON, reason)
    client.set_tag(run_id, STATE, "stopped")
    client.set_terminated(run_id, "KILLED")


def reopen(client: "MlflowClient", run: "Run") -> None:
    """Set the status of a resumed run to RUNNING, and delete the tags of its former end."""
    client.update_run(run.info.run_id, status="RUNNING")
    client.set_tag(run.info.run_id, STATE, "running")
    for tag in {FAILURE_REASON, FAILURE_CAUSE, REASON} & run.data.tags.keys():
        client.delete_tag(run.info.run_id, tag)


def runs_with(client: "MlflowClient", experiment_id: str, tags: Mapping[str, str]) -> "list[Run]":
    """Return all active runs of an experiment that have all of `tags`."""
    # Filtered here, because MLflow's filter language cannot escape quotes.
    found: list[Run] = []
    token: str | None = None
    while True:
        page = client.search_runs([experiment_id], page_token=token, max_results=1000)
        found += [run for run in page if tags.items() <= run.data.tags.items()]
        token = page.token
        if not token:
            return found
