import socket
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from mlflow import MlflowClient

from remix_study.errors import TrackingError
from remix_study.tracking import check, default_uri, redact
from remix_study.tracking.address import artifact_root, resolved, tracking_address, without_secrets


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def server_that_answers(status: int, text: str = "") -> Iterator[int]:
    """Run an HTTP server that answers every GET request with `status`, and yield its port."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_a_missing_sqlite_database_is_created(tmp_path: Path) -> None:
    for _ in range(2):
        check(default_uri(tmp_path / "new"))
        assert (tmp_path / "new" / "mlflow.db").exists()


@pytest.mark.timeout(60)  # MLflow's own retries take 247 s
@pytest.mark.parametrize("scheme", ["http", "postgresql", "mysql+pymysql"])
def test_an_unreachable_server_is_reported_without_its_password(scheme: str, closed_port: int) -> None:
    with pytest.raises(TrackingError) as caught:
        check(f"{scheme}://me:hunter2@127.0.0.1:{closed_port}/runs")
    message = str(caught.value)
    assert f"127.0.0.1:{closed_port}" in message
    assert "hunter2" not in message
    assert "me:" not in message
    assert "leave out the tracking URI" in message


def test_a_server_that_denies_access_is_reported_with_the_variables_to_set() -> None:
    with server_that_answers(401) as port, pytest.raises(TrackingError, match="MLFLOW_TRACKING_TOKEN") as caught:
        check(f"http://me:hunter2@127.0.0.1:{port}")
    assert "hunter2" not in str(caught.value)


def test_a_server_that_rejects_the_host_name_is_reported_with_the_option() -> None:
    """MLflow answers an unknown host name with 403, as it does missing permissions."""
    from mlflow.server.security_utils import INVALID_HOST_MSG

    server, expected = server_that_answers(403, INVALID_HOST_MSG), "`--allowed-host localhost`"
    with server as port, pytest.raises(TrackingError, match=expected):
        check(f"http://localhost:{port}")


def test_an_address_of_another_service_is_reported() -> None:
    with server_that_answers(404) as port, pytest.raises(TrackingError, match="answered with status 404"):
        check(f"http://127.0.0.1:{port}")


def test_a_folder_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(TrackingError, match="Cannot read and write the tracking database") as caught:
        check(default_uri(tmp_path / "file"))
    assert str(tmp_path / "file") in str(caught.value)


def test_a_corrupt_database_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"this is no database, whatever its name says" * 100)
    with pytest.raises(TrackingError, match="not a database"):
        check(default_uri(tmp_path))


def test_a_database_of_another_program_is_rejected(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        connection.execute("INSERT INTO alembic_version VALUES ('no such version')")
        connection.execute("CREATE TABLE experiments (experiment_id INTEGER)")
    with pytest.raises(TrackingError, match="mlflow db upgrade"):
        check(default_uri(tmp_path))


@pytest.mark.parametrize("uri", ["mlruns", "file:///tmp/mlruns"])
def test_the_file_store_is_rejected_with_the_remedy(uri: str) -> None:
    with pytest.raises(TrackingError, match="sqlite:///"):
        check(uri)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("http://me:p@ss@host/x", "http://***@host/x"),
        ("to postgresql://me:secret@db:5432/runs?sslmode=require", "to postgresql://***@db:5432/runs?sslmode=require"),
        ("mssql://db/x?user=me&password=secret", "mssql://db/x?user=me&password=***"),
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db"),
    ],
)
def test_credentials_are_redacted(text: str, clean: str) -> None:
    assert redact(text) == clean


@pytest.mark.slow
def test_a_database_whose_creation_was_killed_is_created_again(tmp_path: Path) -> None:
    """MLflow creates its tables in several steps, and cannot open a database that has only some of them."""
    uri = default_uri(tmp_path)
    half = sqlite3.connect(tmp_path / ".mlflow.db.part")
    half.execute("CREATE TABLE experiments (experiment_id INTEGER)")
    half.commit()
    half.close()
    check(uri)
    assert [each.name for each in MlflowClient(tracking_uri=uri).search_experiments()] == ["Default"]
    assert not (tmp_path / ".mlflow.db.part").exists()


def test_the_configured_uri_precedes_the_environment_and_the_workspace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_address(None, tmp_path) == default_uri(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    assert tracking_address(None, tmp_path) == "http://host:5000"
    assert tracking_address("http://other:5000", tmp_path) == "http://other:5000"


def test_a_database_password_in_the_environment_is_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = "postgresql://me:hunter2@host/mlflow"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
    address = tracking_address(None, tmp_path)
    assert "hunter2" not in address
    assert resolved(address) == given


def test_a_server_password_in_the_environment_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hunter2@host:5000")
    with pytest.raises(TrackingError, match="MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD") as caught:
        tracking_address(None, tmp_path)
    assert "hunter2" not in str(caught.value)


def test_variables_in_a_uri_are_resolved_or_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", str(tmp_path / "a b"))
    uri = "sqlite:///$PLACE/mlflow.db"
    check(uri)
    assert (tmp_path / "a b" / "mlflow.db").exists()
    assert artifact_root(uri) == tmp_path / "a b" / "mlartifacts"
    monkeypatch.delenv("PLACE")
    with pytest.raises(TrackingError, match="needs PLACE in the environment"):
        check(uri)


def test_a_password_from_a_variable_is_redacted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASSWORD", "p@ss word")
    uri = "postgresql://me:$DB_PASSWORD@host/mlflow"
    for quoted in ("p@ss word", "p%40ss%20word"):
        assert without_secrets(uri, f"cannot log in with {quoted}") == "cannot log in with ***"
