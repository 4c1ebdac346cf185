"""`remix-study serve`: one command, and MLflow is there for a cluster, behind a password"""

import os
import re
import signal
import stat
import subprocess
import sys
from base64 import b64encode
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from mlflow import MlflowClient

from remix_study.errors import TrackingError
from remix_study.tracking import check, default_uri
from tests.server.serving import PASSWORD, USER, serving

pytestmark = [pytest.mark.server]
SEARCH = "/ajax-api/2.0/mlflow/experiments/search"


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)


def status(url: str, path: str, *, host: str | None = None, password: str | None = None, post: bool = False) -> int:
    """Of the answer to what a browser on a page of `host` asks."""
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
def test_a_server_for_others_asks_who_they_are_and_keeps_everything(
    known: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "w"
    words = ("--host", "0.0.0.0", "--allowed-host", "mlflow.example.org", "--workspace", str(place), "--workers", "1",
             "--artifacts", str(tmp_path / "artifacts"))  # fmt: skip
    with serving(tmp_path / "first", *words) as server:
        server.up()
        here = f"http://127.0.0.1:{server.port}"
        assert server.url == f"http://mlflow.example.org:{server.port}"
        assert f"MLFLOW_TRACKING_USERNAME={USER}" in str(server)
        assert status(here, "/health") == 200
        assert status(here, "/") == status(here, SEARCH, post=True) == 401
        assert status(here, SEARCH, post=True, password="another password") == 401
        for host in ("mlflow.example.org", f"mlflow.example.org:{server.port}", os.uname().nodename):
            assert status(here, SEARCH, host=host, password=PASSWORD, post=True) == 200
        assert status(here, SEARCH, host="rebound.example.org", password=PASSWORD, post=True) == 403

        check(here)
        client = MlflowClient(tracking_uri=here)
        run = client.create_run(client.create_experiment("e")).info.run_id
        client.log_text(run, "kept", "a/note.txt")

        said = b"".join(Path(f"/proc/{pid}/cmdline").read_bytes() for pid in server.family)
        assert b"mlflow" in said
        assert PASSWORD.encode() not in said
        assert server.end() == 0
        assert "the server has ended" in str(server)
        assert "Traceback" not in str(server)
        assert PASSWORD not in str(server)
    assert [path.read_text() for path in (tmp_path / "artifacts").rglob("note.txt")] == ["kept"]

    with serving(tmp_path / "second", *words, "--port", str(server.port)) as again:
        again.up()
        assert MlflowClient(tracking_uri=here).get_run(run).info.artifact_uri.startswith("mlflow-artifacts:")
        assert again.end(signal.SIGINT) == 0
    for path in (each for each in tmp_path.rglob("*") if each.is_file()):
        assert PASSWORD.encode() not in path.read_bytes()

    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "a password of later")
    with serving(tmp_path / "third", *words) as refused:
        assert refused.process.wait(200) == 1
        assert f"must be that of the user '{USER}'" in str(refused)


@pytest.mark.parametrize("way", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_mlflow_on_a_workspace_ends_with_its_command_or_its_terminal(tmp_path: Path, way: signal.Signals) -> None:
    """A server that outlives its terminal would keep the port."""
    uri = default_uri(tmp_path / "w")
    check(uri)
    client = MlflowClient(tracking_uri=uri)
    client.create_run(client.create_experiment("remix"))
    with serving(tmp_path / "one", "--workspace", str(tmp_path / "w"), command="ui") as server:
        assert "/#/experiments/" in server.up().url
        assert len(server.family) > 1
        assert server.end(way) == 0
        assert "the server has ended" in str(server)
        assert "Traceback" not in str(server)


def test_a_server_that_was_started_with_nohup_outlives_its_terminal(tmp_path: Path) -> None:
    with serving(tmp_path / "one", "--workspace", str(tmp_path / "w"), before=("nohup",)) as server:
        server.up().process.send_signal(signal.SIGHUP)
        assert status(server.url, "/health") == 200
        assert server.end() == 0


def serve(*words: str) -> str:
    """What it complains of, in one sentence, before anything starts."""
    done = subprocess.run([sys.executable, "-m", "remix_study", "serve", "--port", "0", *words], capture_output=True,
                          text=True, timeout=120)  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return " ".join(done.stderr.split())


def test_others_are_not_let_in_without_a_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("--host", "0.0.0.0", "--workspace", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD", raising=False)
    assert re.search(r"must ask for a password.*MLFLOW_TRACKING_USERNAME is not.*--no-auth", serve(*words))
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "password1234")
    assert "must be a secret" in serve(*words)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "short")
    said = serve(*words)
    assert "at least 12 characters" in said
    assert "'short'" not in said
    assert list(tmp_path.iterdir()) == []


def test_a_password_among_the_arguments_is_refused(tmp_path: Path) -> None:
    said = serve("--backend", "postgresql://me:hunter2@host/mlflow")
    assert "`--backend` must not hold a password" in said
    assert "hunter2" not in said
    said = serve("--artifacts", "s3://KEY:hunter2@bucket/mlflow", "--workspace", str(tmp_path))
    assert "AWS_SECRET_ACCESS_KEY" in said
    assert "hunter2" not in said


def test_artifacts_that_cannot_be_written_are_found_out_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    said = serve("--workspace", str(tmp_path / "w"), "--artifacts", str(tmp_path / "file" / "below"))
    assert "artifacts must have a place that can be written" in said


def test_an_address_of_another_machine_is_refused(tmp_path: Path, known: None) -> None:
    said = serve("--workspace", str(tmp_path), "--host", "no-such-host.invalid")
    assert "`--host` must be an address of this machine" in said


def test_a_bucket_that_is_not_there_is_named(bucket: object, tmp_path: Path) -> None:
    said = serve("--workspace", str(tmp_path), "--artifacts", "s3://no-such-bucket/mlflow")
    assert re.search("s3://no-such-bucket/mlflow cannot.*Make the bucket", said)


def test_what_holds_the_password_is_on_no_disk(tmp_path: Path) -> None:
    from remix_study.tracking.server import basic_auth_settings, _in_memory

    text = basic_auth_settings("postgresql+psycopg://me:100%25@host/mlflow")
    assert "100%%25" in text
    with _in_memory(text) as path:
        assert Path(path).read_text() == Path(path).read_text() == text
        assert stat.S_ISLNK(Path(path).lstat().st_mode)
        assert "memfd:" in str(Path(path).readlink())
    assert not Path(path).exists()


def test_a_client_that_is_called_by_a_strange_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's own refusal of names looks like one of passwords."""

    class Answer:
        status_code, text = 403, "Invalid Host header - possible DNS rebinding attack detected"

    monkeypatch.setattr("mlflow.utils.rest_utils.http_request", lambda *_, **__: Answer())
    with pytest.raises(TrackingError, match=r"--allowed-host mlflow\.example\.org"):
        check("http://mlflow.example.org:5000")
