"""`remix-study serve`: a password-protected MLflow server for a cluster"""

import os
import re
import signal
import stat
from base64 import b64encode
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from mlflow import MlflowClient

from remix_study.tracking import check, default_uri
from remix_study.tracking.server import basic_auth_settings, memory_file
from tests import commands, mlflow_database
from tests.server.serving import PASSWORD, USER, serving

pytestmark = [pytest.mark.server]
SEARCH = "/ajax-api/2.0/mlflow/experiments/search"


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)


def status(url: str, path: str, *, host: str | None = None, password: str | None = None, post: bool = False) -> int:
    """Return the HTTP status of a request that a browser would send from a page of `host`."""
    headers = {"Content-Type": "application/json"}
    if host is not None:
        headers |= {"Host": host, "Origin": f"http://{host}"}
    if password is not None:
        headers["Authorization"] = "Basic " + b64encode(f"{USER}:{password}".encode()).decode()
    body = b'{"max_results": 1}' if post else None
    try:
        with urlopen(Request(url + path, data=body, headers=headers), timeout=30) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_server_requires_the_password_and_keeps_runs_and_artifacts(
    credentials: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = tmp_path / "w"
    options = ("--host", "0.0.0.0", "--allowed-host", "mlflow.example.org", "--workspace", str(workspace),
               "--workers", "1", "--artifacts", str(tmp_path / "artifacts"))  # fmt: skip
    with serving(tmp_path / "first", *options) as server:
        server.up()
        address = f"http://127.0.0.1:{server.port}"
        assert server.url == f"http://mlflow.example.org:{server.port}"
        assert f"MLFLOW_TRACKING_USERNAME={USER}" in str(server)
        assert status(address, "/health") == 200
        assert status(address, "/") == status(address, SEARCH, post=True) == 401
        assert status(address, SEARCH, post=True, password="another password") == 401
        for host in ("mlflow.example.org", f"mlflow.example.org:{server.port}", os.uname().nodename):
            assert status(address, SEARCH, host=host, password=PASSWORD, post=True) == 200
        assert status(address, SEARCH, host="rebound.example.org", password=PASSWORD, post=True) == 403

        check(address)
        client = MlflowClient(tracking_uri=address)
        run = client.create_run(client.create_experiment("e")).info.run_id
        client.log_text(run, "kept", "a/note.txt")

        command_lines = b"".join(Path(f"/proc/{pid}/cmdline").read_bytes() for pid in server.process_ids)
        assert b"mlflow" in command_lines
        assert PASSWORD.encode() not in command_lines
        assert server.end() == 0
        assert "Server stopped." in str(server)
        assert "Traceback" not in str(server)
        assert PASSWORD not in str(server)
    assert [path.read_text() for path in (tmp_path / "artifacts").rglob("note.txt")] == ["kept"]

    with serving(tmp_path / "second", *options, "--port", str(server.port)) as again:
        again.up()
        assert MlflowClient(tracking_uri=address).get_run(run).info.artifact_uri.startswith("mlflow-artifacts:")
        assert again.end(signal.SIGINT) == 0
    for path in (each for each in tmp_path.rglob("*") if each.is_file()):
        assert PASSWORD.encode() not in path.read_bytes()

    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "a later password")
    with serving(tmp_path / "third", *options) as rejected:
        assert rejected.process.wait(200) == 1
        assert f"is not the password of the user '{USER}'" in str(rejected)


def test_the_ui_server_ends_with_its_terminal(tmp_path: Path) -> None:
    """A server that keeps running after its terminal is closed would block the port. Tests above send other signals."""
    mlflow_database.install(tmp_path / "w")
    uri = default_uri(tmp_path / "w")
    check(uri)
    client = MlflowClient(tracking_uri=uri)
    client.create_run(client.create_experiment("remix"))
    with serving(tmp_path / "one", "--workspace", str(tmp_path / "w"), command="ui") as server:
        assert "/#/experiments/" in server.up().url
        assert len(server.process_ids) > 1
        assert server.end(signal.SIGHUP) == 0
        assert "Server stopped." in str(server)
        assert "Traceback" not in str(server)


def test_a_server_started_with_nohup_ignores_sighup(tmp_path: Path) -> None:
    mlflow_database.install(tmp_path / "w")
    options = ("--workspace", str(tmp_path / "w"), "--workers", "1")
    with serving(tmp_path / "one", *options, before=("nohup",)) as server:
        server.up().process.send_signal(signal.SIGHUP)
        assert status(server.url, "/health") == 200
        assert server.end() == 0


def serve_error(*arguments: str) -> str:
    """Run `remix-study serve`, which must fail, and return its error message."""
    done = commands.run("-m", "remix_study", "serve", "--port", "0", *arguments, cwd=Path.cwd(), timeout=120)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return " ".join(done.stderr.split())


def test_a_server_on_a_public_address_needs_a_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--host", "0.0.0.0", "--workspace", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD", raising=False)
    assert re.search(r"without a password.*MLFLOW_TRACKING_USERNAME is not set.*--no-auth", serve_error(*options))
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "password1234")
    assert "must be secret" in serve_error(*options)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "short")
    error = serve_error(*options)
    assert "at least 12 characters" in error
    assert "'short'" not in error
    assert list(tmp_path.iterdir()) == []


def test_a_password_in_an_argument_is_rejected(tmp_path: Path) -> None:
    error = serve_error("--backend", "postgresql://me:hunter2@host/mlflow")
    assert "`--backend` contains a password" in error
    assert "hunter2" not in error
    error = serve_error("--artifacts", "s3://KEY:hunter2@bucket/mlflow", "--workspace", str(tmp_path))
    assert "AWS_SECRET_ACCESS_KEY" in error
    assert "hunter2" not in error


def test_an_artifact_location_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    error = serve_error("--workspace", str(tmp_path / "w"), "--artifacts", str(tmp_path / "file" / "below"))
    assert "Cannot write artifacts to" in error


def test_a_host_that_is_not_this_machine_is_rejected(tmp_path: Path, credentials: None) -> None:
    error = serve_error("--workspace", str(tmp_path), "--host", "no-such-host.invalid")
    assert "`--host` must be an address of this machine" in error


def test_a_missing_bucket_is_reported(bucket: object, tmp_path: Path) -> None:
    error = serve_error("--workspace", str(tmp_path), "--artifacts", "s3://no-such-bucket/mlflow")
    assert re.search("Cannot write artifacts to s3://no-such-bucket/mlflow.*Create the bucket", error)


def test_the_settings_with_the_password_are_in_memory_only() -> None:
    text = basic_auth_settings("postgresql+psycopg://me:100%25@host/mlflow")
    assert "100%%25" in text
    with memory_file(text) as path:
        assert Path(path).read_text() == Path(path).read_text() == text
        assert stat.S_ISLNK(Path(path).lstat().st_mode)
        assert "memfd:" in str(Path(path).readlink())
    assert not Path(path).exists()
