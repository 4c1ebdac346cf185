import os
import socket
import subprocess
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest

from remix_study.errors import TrackingError
from remix_study.tracking import check
from remix_study.tracking.server import Admin, MLflowServer, is_loopback, names_of


def test_a_port_in_use_is_reported(uri: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(TrackingError, match=f"Cannot use port {port} .*--port"), MLflowServer(uri, port=port):
            pass


def test_a_server_that_took_the_port_is_given_no_password(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Foreign(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.headers.get("Authorization", "nothing"))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    foreign: list[HTTPServer] = []
    popen = subprocess.Popen

    def late(command: list[str], **options: Any) -> "subprocess.Popen[bytes]":
        foreign.append(HTTPServer(("127.0.0.1", int(command[command.index("--port") + 1])), Foreign))
        Thread(target=foreign[0].serve_forever).start()
        return popen(["sleep", "60"], **options)

    monkeypatch.setattr(subprocess, "Popen", late)
    server = MLflowServer(uri, admin=Admin("me", "hunter2hunter2"))
    try:
        with pytest.raises(TrackingError, match=r"Another server answers .*--port 0"), server:
            pass
    finally:
        for each in foreign:
            each.shutdown()
            each.server_close()
    assert asked == ["nothing"]


def test_the_address_of_a_server_is_rejected() -> None:
    with pytest.raises(TrackingError, match="is a server already"):
        MLflowServer("http://127.0.0.1:1").start()


@pytest.mark.server
@pytest.mark.slow
def test_a_server_answers_and_its_workers_end_with_it(uri: str) -> None:
    server = MLflowServer(uri)
    with server:
        with urllib.request.urlopen(f"{server.url}/health", timeout=10) as answer:
            assert answer.status == 200
        check(server.url)
        group = server.process_group
    with pytest.raises(ProcessLookupError):
        os.killpg(group, 0)
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{server.url}/health", timeout=2)
    server.stop()


def test_loopback_addresses_are_recognised() -> None:
    assert is_loopback("127.0.0.1")
    assert is_loopback("localhost")
    assert not is_loopback("0.0.0.0")
    assert not is_loopback("10.1.2.3")


def test_the_names_of_a_server_are_those_given_and_its_own() -> None:
    assert names_of("0.0.0.0", ["mlflow.example.org"])[:2] == ("mlflow.example.org", socket.gethostname())
    assert names_of("10.1.2.3", [])[0] == "10.1.2.3"


def test_the_password_is_not_in_the_repr() -> None:
    assert "hunter2" not in repr(Admin("me", "hunter2hunter2"))
