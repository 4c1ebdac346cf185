"""Opening MLflow on what matters: which experiment, which links, and no run that seems to run for ever"""

from pathlib import Path

from remix_study.errors import TrackingError
from remix_study.launch.folder import RunFolder
from remix_study.tracking.mlflow import FAILURE_REASON, client_of
from remix_study.tracking.review import Links, share_view

COLUMNS = ("method.name", "optimizer.learning_rate")


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


def open_views(uri: str, experiment: str, host: str) -> Links:
    """Links to the runs of `experiment`, its studies unfolded."""
    client = client_of(uri)
    found = client.get_experiment_by_name(experiment)
    assert found is not None  # experiment_to_show found it
    studies = client.search_runs([found.experiment_id], "tags.`remix_study.stage` = 'study'", max_results=20)
    # The newest study's question and answer, above the runs.
    note = studies[0].data.tags.get("mlflow.note.content") if studies else None
    parents = [run.info.run_id for run in studies]
    return share_view(uri, experiment, host, parents=parents, note=note, params=COLUMNS)


def settle(uri: str) -> None:
    """End as KILLED what is left RUNNING although no process works on it: its folder's lock is free."""
    client = client_of(uri)
    experiments = [e.experiment_id for e in client.search_experiments()]
    for run in client.search_runs(experiments, "attributes.status = 'RUNNING'", max_results=1000):
        folder = run.data.tags.get("remix_study.folder")
        # A folder that is not here belongs to another machine, which alone can tell.
        if folder is not None and Path(folder).exists() and not RunFolder(Path(folder)).is_held():
            client.set_tag(run.info.run_id, FAILURE_REASON, "the process that ran it is gone")
            client.set_terminated(run.info.run_id, "KILLED")
