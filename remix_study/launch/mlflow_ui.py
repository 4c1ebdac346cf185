"""Preparing MLflow's page for `remix-study ui`: the experiment to open, its links, and abandoned runs"""

from pathlib import Path

from remix_study.credentials import redact
from remix_study.errors import TrackingError
from remix_study.launch.folder import RunFolder
from remix_study.tracking.client import GONE, client_of, kill
from remix_study.tracking.mlflow import send
from remix_study.tracking.review import Links, share_view
from remix_study.tracking.spool import end_unfinished_run, run_id_of

COLUMNS = ("optimizer.learning_rate",)  # for experiments without a study


def experiment_to_show(uri: str, wanted: str | None) -> str:
    """Return the name of the experiment to open: `wanted`, or by default the one with the newest run.

    Raises:
        TrackingError: `wanted` does not exist, or no experiment has a run.
    """
    client = client_of(uri)
    experiments = client.search_experiments()
    names = [e.name for e in experiments]
    if wanted is not None:
        if wanted not in names:
            raise TrackingError(f"`--experiment` must be one of {', '.join(names)}, but is {wanted}.")
        return wanted
    newest = client.search_runs(
        [e.experiment_id for e in experiments], order_by=["attributes.start_time DESC"], max_results=1
    )
    if not newest:
        raise TrackingError(
            f"Cannot open MLflow at {redact(uri)}: it has no runs yet. Run a study first, or use another --workspace."
        )
    return str(client.get_experiment(newest[0].info.experiment_id).name)


def share_experiment_view(uri: str, experiment: str, host: str) -> Links:
    """Store the view of `experiment` (see `share_view`), and return links to it.

    Args:
        host: the URL at which a browser reaches the server.
    """
    return share_view(uri, experiment, host, params=COLUMNS)


def close_abandoned_runs(uri: str) -> None:
    """End all RUNNING runs of this machine that no process works on.

    Unsent data of a run folder is sent first. A run whose folder does not say how it ended becomes KILLED.
    """
    client = client_of(uri)
    experiments = [e.experiment_id for e in client.search_experiments()]
    for run in client.search_runs(experiments, "attributes.status = 'RUNNING'", max_results=1000):
        folder = Path(run.data.tags.get("remix_study.folder", ""))
        # A folder that is not on this machine belongs to another one, which may be working on the run.
        if not folder.is_absolute() or not folder.exists() or RunFolder(folder).is_held():
            continue
        if run_id_of(folder) == run.info.run_id:
            end_unfinished_run(folder, GONE)
            send(uri, folder)
        if client.get_run(run.info.run_id).info.status == "RUNNING":
            kill(client, run.info.run_id, GONE)
