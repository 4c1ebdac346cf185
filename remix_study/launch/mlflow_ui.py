"""Opening MLflow on what matters: which experiment, which links, and no run that seems to run for ever"""

from pathlib import Path

from remix_study.errors import TrackingError
from remix_study.launch.folder import RunFolder
from remix_study.tracking.client import GONE, client_of, kill
from remix_study.tracking.mlflow import send
from remix_study.tracking.review import Links, share_view
from remix_study.tracking.spool import end_unfinished_run, run_id_of

COLUMNS = ("optimizer.learning_rate",)  # of runs that belong to no study


def experiment_to_show(uri: str, wanted: str | None) -> str:
    """`wanted`, or the experiment whose newest run is newest.

    Raises:
        TrackingError: there is no such experiment, or none with a run.
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
            "MLflow must hold a run to be looked at, but holds none. Run `remix-study train` or `demo`."
        )
    return str(client.get_experiment(newest[0].info.experiment_id).name)


def share_experiment_view(uri: str, experiment: str, host: str) -> Links:
    """Links to the runs of `experiment`, its studies unfolded, the newest one's question and answer above them."""
    return share_view(uri, experiment, host, params=COLUMNS)


def close_abandoned_runs(uri: str) -> None:
    """No run that nobody works on stays RUNNING: what its folder still has to tell is sent, else it ends as KILLED."""
    client = client_of(uri)
    experiments = [e.experiment_id for e in client.search_experiments()]
    for run in client.search_runs(experiments, "attributes.status = 'RUNNING'", max_results=1000):
        folder = Path(run.data.tags.get("remix_study.folder", ""))
        # A folder that is not here belongs to another machine, which alone can tell.
        if not folder.is_absolute() or not folder.exists() or RunFolder(folder).is_held():
            continue
        if run_id_of(folder) == run.info.run_id:
            end_unfinished_run(folder, GONE)
            send(uri, folder)
        if client.get_run(run.info.run_id).info.status == "RUNNING":
            kill(client, run.info.run_id, GONE)
