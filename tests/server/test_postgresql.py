"""Studies with trials and MLflow runs in PostgreSQL and artifacts in S3"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from remix_study.errors import StudyError, TrackingError
from remix_study.study import study as study_module
from remix_study.study.ledger import read_ledger
from remix_study.study.status import study_status
from remix_study.study.storage import open_storage, open_to_read
from remix_study.study.study import StudyRun
from remix_study.tracking import check
from remix_study.tracking.server import MLflowServer
from tests.server.conftest import Bucket
from tests.server.postgresql import PostgreSQL, a_postgresql, needs_postgresql
from tests.server.serving import PASSWORD, USER, serving
from tests.studies import Runner, config, write_no_report
from tests.study_bench import StudyBench

pytestmark = [pytest.mark.server, pytest.mark.slow, needs_postgresql]


@pytest.fixture(scope="module")
def started() -> Iterator[PostgreSQL]:
    with a_postgresql() as server:
        yield server


@pytest.fixture
def postgresql(started: PostgreSQL, monkeypatch: pytest.MonkeyPatch) -> Iterator[PostgreSQL]:
    """Return the server that all tests share. At the start of each test, it runs and has no databases."""
    monkeypatch.setenv("DB_PASSWORD", started.password)
    yield started
    if not started.runs:
        started.start()
    started.drop_all()


@pytest.fixture
def bench(small_corpus: Path, tmp_path: Path) -> Iterator[StudyBench]:
    made = StudyBench(small_corpus, tmp_path)
    yield made
    made.end_all()


def test_problems_with_a_database_are_reported_at_once(postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TrackingError, match=rf"createdb -h 127.0.0.1 -p {postgresql.port} -U study mlflow$"):
        check(postgresql.uri("mlflow"))
    with pytest.raises(TrackingError, match=r"The driver for .* is not installed"):
        check(postgresql.uri("mlflow", "postgresql+pg8000"))
    monkeypatch.setenv("DB_PASSWORD", "wrong-one")
    with pytest.raises(
        TrackingError, match=r"Cannot connect to the PostgreSQL server of .*password authentication failed"
    ) as caught:
        check(postgresql.uri("postgres"))
    assert "wrong-one" not in str(caught.value)
    monkeypatch.delenv("DB_PASSWORD")
    with pytest.raises(TrackingError, match="needs DB_PASSWORD in the environment"):
        check(postgresql.uri("postgres"))


@pytest.mark.timeout(600)
def test_two_servers_can_start_at_once_and_survive_a_restart_of_their_database(
    postgresql: PostgreSQL, tmp_path: Path
) -> None:
    """Two replicas of a Kubernetes deployment start like this, on an empty database."""
    uri, artifacts = postgresql.make("mlflow"), str(tmp_path / "artifacts")
    servers = [MLflowServer(uri, artifacts=artifacts) for _ in range(2)]
    try:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(MLflowServer.start, servers))
        one, two = (MlflowClient(tracking_uri=server.url) for server in servers)
        run = one.create_run(one.create_experiment("e")).info.run_id
        two.log_metric(run, "m", 1.0)
        postgresql.stop()
        with pytest.raises(MlflowException):
            two.get_run(run)
        postgresql.start()
        assert one.get_run(run).data.metrics == two.get_run(run).data.metrics == {"m": 1.0}
    finally:
        for server in servers:
            server.stop()
    with postgresql.connect("mlflow") as connection:
        assert connection.execute("SELECT count(*) FROM alembic_version").fetchall() == [(1,)]


@pytest.mark.timeout(900)
def test_two_studies_share_a_database_server_and_a_tracking_server(
    postgresql: PostgreSQL, bucket: Bucket, bench: StudyBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials, runs = postgresql.make("trials"), postgresql.make("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    with serving(
        tmp_path / "server", "--backend", runs, "--artifacts", f"{bucket.url}/mlflow", "--auth", "--workers", "1"
    ) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.up().url)
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)  # only the server has credentials for artifacts
        files = {
            name: bench.write(
                name, storage=trials, trials=1, base={"epochs": 3, "tracking": {"experiment": name, "model": True}}
            )
            for name in ("one", "two")
        }
        processes = {name: bench.start(file) for name, file in files.items()}
        client = MlflowClient()
        for name, study in processes.items():
            assert study.wait() == 0, study.output
            if "is sent at the study's next" in study.output:  # uploading takes more than 20 s on a busy machine
                bench.run(files[name])
            assert study_status(study.folder).state == "complete"
            assert f"{server.url}/#/experiments/" in study.output
            assert "View run" not in study.output  # printed by MLflow; it would break `--json`
            tracked = bench.tracked(name, server.url)
            assert len(tracked) == 1 + 2 * (1 + 1)  # the study; for each method a trial and a replicate
            assert {run.status for run in tracked} == {"FINISHED"}
            assert all(run.steps == [0, 1, 2] for run in tracked if "remix_study.trial" in run.tags)
            experiment = client.get_experiment_by_name(name)
            assert experiment is not None
            for run in client.search_runs([experiment.experiment_id]):
                assert run.info.artifact_uri.startswith("mlflow-artifacts:")
                made = {each.path for each in client.list_artifacts(run.info.run_id)}
                assert ("study.yaml" if run.data.tags["remix_study.stage"] == "study" else "config.yaml") in made
                for each in made & {"study.yaml", "config.yaml"}:
                    copy = Path(client.download_artifacts(run.info.run_id, each, str(tmp_path)))
                    assert copy.stat().st_size > 0
            assert client.search_logged_models([experiment.experiment_id])
    assert bucket.files.find(f"{bucket.url}/mlflow")


def test_studies_that_start_at_once_create_their_tables_one_after_the_other(
    postgresql: PostgreSQL, tmp_path: Path
) -> None:
    uri = postgresql.make("trials")
    barrier = Barrier(4)

    def start(number: int) -> list[object]:
        barrier.wait(60)
        return list(open_storage(uri, tmp_path, patience_s=1.0).get_all_studies())

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(start, range(4))) == [[], [], [], []]


def test_reading_an_empty_database_creates_no_tables(postgresql: PostgreSQL, tmp_path: Path) -> None:
    """Otherwise `remix-study status` in a loop would disturb a study that is starting."""
    uri = postgresql.make("trials")
    all_read, done = Barrier(4), Event()

    def read(number: int) -> None:
        assert open_to_read(uri, tmp_path) is None
        all_read.wait(60)
        while not done.is_set():
            open_to_read(uri, tmp_path)

    with ThreadPoolExecutor(3) as pool:
        readers = pool.map(read, range(3))
        all_read.wait(60)
        try:
            with postgresql.connect("trials") as connection:
                assert connection.execute("SELECT 1 FROM pg_tables WHERE tablename = 'trials'").fetchall() == []
            assert open_storage(uri, tmp_path, patience_s=1.0).get_all_studies() == []
        finally:
            done.set()
        list(readers)
    assert open_to_read(uri, tmp_path) is not None


def test_a_study_ends_without_losing_trials_if_its_database_stays_down(
    postgresql: PostgreSQL, small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_module, "PATIENCE_S", 1.0)
    study_config, tasks = config(storage=postgresql.make("trials"), trials=3), []

    def stop_at_third_task(task: object) -> bool:
        tasks.append(task)
        if len(tasks) == 3:
            postgresql.stop()
        return False

    monkeypatch.setattr(study_module, "execute", Runner(fails=stop_at_third_task))
    study = StudyRun(study_config, {"corpus": str(small_corpus)}, tmp_path)
    with pytest.raises(StudyError, match=r"storage .* does not answer: .* rerun the command") as caught:
        study.run(write_no_report)
    assert postgresql.password not in str(caught.value)
    postgresql.start()
    monkeypatch.setattr(study_module, "execute", Runner())
    StudyRun(study_config, {"corpus": str(small_corpus)}, tmp_path).run(write_no_report)
    trials = read_ledger(study.folder).trials
    assert {m: [(t.number, t.state) for t in ts] for m, ts in trials.items()} == {
        m: [(n, "complete") for n in range(3)] for m in trials
    }
