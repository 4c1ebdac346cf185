"""No secret is written to any file: a search for planted secrets after a study whose database was restarted

The search covers the workspace with the report, all tables of MLflow and Optuna, the bucket, the output of all
commands, Ray's logs, and the arguments of all processes.
"""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from remix_study.study.status import study_status
from tests.server.conftest import Bucket
from tests.server.postgresql import PostgreSQL, a_postgresql, needs_postgresql
from tests.server.serving import USER, serving
from tests.study_bench import StudyBench

pytestmark = [pytest.mark.server, pytest.mark.ray, pytest.mark.slow, needs_postgresql]
# Unique, and with characters that must be escaped in URLs.
PLANTED = {name: f"{name.lower()}@{secrets.token_hex(8)}/%"
           for name in ("DB_PASSWORD", "MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY")}  # fmt: skip
FORMS = {name: {each.encode() for each in (value, quote(value, safe=""), quote(value), value.partition("@")[2][:16])}
         for name, value in PLANTED.items()}  # fmt: skip


def secrets_in(content: bytes) -> list[str]:
    return [name for name, forms in FORMS.items() if any(form in content for form in forms)]


def files_with_secrets(folder: Path) -> dict[str, list[str]]:
    """Return the files that contain a secret."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and (names := secrets_in(path.read_bytes())):
            found[str(path)] = names
    return found


def processes_with_secrets() -> dict[str, list[str]]:
    """Return the commands of this machine's processes whose arguments contain a secret."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = path.read_bytes()
        except OSError:
            continue
        if names := secrets_in(arguments):
            found[arguments.replace(b"\0", b" ").decode(errors="replace")[:300]] = names
    return found


def tables_with_secrets(server: PostgreSQL, database: str) -> dict[str, list[str]]:
    found, rows = {}, 0
    with server.connect(database) as connection:
        tables = connection.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
        for (table,) in tables.fetchall():
            content = "\n".join(str(row) for row in connection.execute(f'SELECT * FROM "{table}"'.encode()).fetchall())
            rows += content.count("\n")
            if names := secrets_in(content.encode()):
                found[f"{database}.{table}"] = names
    assert rows > 10, f"{database} is empty"
    return found


@pytest.fixture
def ray_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder for Ray's logs of this test. Its path is short, because Ray's sockets are below it."""
    folder = Path(tempfile.mkdtemp(prefix="rs-"))
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.smoke
@pytest.mark.timeout(900)
def test_a_study_waits_for_a_restart_of_its_database_and_no_secret_is_written_to_any_file(
    bucket: Bucket, small_corpus: Path, tmp_path: Path, ray_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The current run keeps training without its pruner, the driver waits, and nothing is lost."""
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    bench = StudyBench(small_corpus, tmp_path)
    with a_postgresql(PLANTED["DB_PASSWORD"]) as postgresql:
        trials, runs = postgresql.make("trials"), postgresql.make("mlflow")
        words = ("--backend", runs, "--artifacts", f"{bucket.url}/mlflow", "--auth", "--workers", "1")
        with serving(tmp_path / "server", *words) as server:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", server.up().url)
            file = bench.write(
                storage=trials,
                trials=1,
                base={"tracking": {"experiment": "e", "model": True}},
                methods={
                    "remix": {"set": {"method": {"name": "remix", "warmup": 1}}},
                    "joint": {"set": {"method": {"name": "joint"}}},
                },
                pruner={"name": "median", "grace": 2, "startup": 1},
            )
            try:
                study = bench.start(file)
                study.wait_until(lambda: study.epochs() >= 2)
                (run,) = study.runs.values()
                arguments = processes_with_secrets()
                postgresql.stop()  # the pruner, the driver and MLflow's server all lose their connections
                study.wait_until((run.path / "result.json").exists)
                study.wait_until(lambda: "does not answer. Waiting for it" in study.output)
                postgresql.start()
                assert study.wait() == 0, study.output
                assert "answers again" in study.output
                assert "Traceback" not in study.output
                bench.run(file)  # sends unsent data and rewrites the report
            finally:
                bench.end_all()
            found = study_status(study.folder)
            assert (found.state, found.failures) == ("complete", ())
            assert [t.number for trials in study.ledger().trials.values() for t in trials] == [0, 0]
            assert bench.tracked("e", server.url)
            assert arguments == {}
            assert tables_with_secrets(postgresql, "trials") == {}
            assert tables_with_secrets(postgresql, "mlflow") == {}
        logs = [path for path in ray_folder.rglob("logs/*") if path.is_file()]
        assert logs, "Ray did not write its logs to RAY_TMPDIR"
        assert files_with_secrets(ray_folder) == {}
        assert (study.folder / "report" / "report.html").exists()
        assert files_with_secrets(tmp_path) == {}  # workspace, spools, logs, and the output of all commands
        in_bucket = bucket.files.find(f"{bucket.url}/mlflow")
        assert in_bucket
        assert [name for name in in_bucket if secrets_in(bucket.files.cat_file(name))] == []
    assert secrets_in(os.environ["DB_PASSWORD"].encode()) == ["DB_PASSWORD"]  # the search itself works
