"""MLflow's server on the loopback address, as a child that ends with us"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

from remix_study.errors import TrackingError
from remix_study.tracking.address import artifact_root, be_brief, check, redact

_HOST = "127.0.0.1"
_POLL_S = 0.2


class MLflowServer:
    """`with MLflowServer(uri) as server: open(server.url)`; serves the store at `uri`, an sqlite or other database.

    Args:
        port: 0 takes a free one.
        patience_s: how long to wait for the first answer; a cold start on a busy machine took 70 s.
    """

    def __init__(self, uri: str, *, port: int = 0, patience_s: float = 180.0) -> None:
        self._uri = uri
        self._wanted = port
        self._patience_s = patience_s
        self._process: subprocess.Popen[bytes] | None = None
        self.port = port

    @property
    def url(self) -> str:
        return f"http://{_HOST}:{self.port}"

    @property
    def process_group(self) -> int:
        """Of the server and its workers, while it runs."""
        assert self._process is not None, "start comes first"
        return self._process.pid

    def __enter__(self) -> "MLflowServer":
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Returns when the server answers.

        Raises:
            TrackingError: the port is in use, the store cannot be used, or the server does not come up.
        """
        if self._uri.startswith(("http:", "https:")):
            raise TrackingError(
                f"a server can be started for a database, but {redact(self._uri)} is a server already: open it."
            )
        check(self._uri)
        self.port = _free_port(self._wanted)
        be_brief()
        root = artifact_root(self._uri)
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host",
            _HOST,
            "--port",
            str(self.port),
            "--workers",
            "1",
        ]
        if root is not None:
            command += ["--artifacts-destination", root.as_uri()]
        environment = {
            **os.environ,
            # In the environment and not among the arguments, which every user of the machine can read.
            "MLFLOW_BACKEND_STORE_URI": self._uri,
            # Two processes and 0.4 GB instead of ten and 1.7 GB.
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed in stop)
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            # Outside the folder of the person who started it: MLflow would leave ./mlruns behind there.
            cwd=root.parent if root is not None else Path.home(),
            start_new_session=True,  # a process group of its own, so that its workers end with it
        )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    def wait(self) -> int:
        """Until the server ends by itself; its exit status."""
        assert self._process is not None, "start comes first"
        return self._process.wait()

    def stop(self) -> None:
        """Ends the server and its workers; may be called twice."""
        process, self._process = self._process, None
        if process is None:
            return
        for way, patience_s in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0)):
            try:
                os.killpg(process.pid, way)
            except ProcessLookupError:
                break
            try:
                process.wait(timeout=patience_s)
            except subprocess.TimeoutExpired:
                continue
        process.wait()
        self._log.close()

    def _wait(self) -> None:
        assert self._process is not None
        end = time.monotonic() + self._patience_s
        while time.monotonic() < end:
            try:
                # There is no event to await: MLflow says that it is ready only by answering. Ending is awaited.
                status = self._process.wait(timeout=_POLL_S)
            except subprocess.TimeoutExpired:
                if _answers(f"{self.url}/health"):
                    return
            else:
                raise TrackingError(
                    f"MLflow's server must start at {self.url}, but ended with status {status}: {self._last_words()}. "
                    "Try another port, or run `mlflow server` to see more."
                )
        raise TrackingError(
            f"MLflow's server must answer at {self.url} within {self._patience_s:.0f} s, but does not: "
            f"{self._last_words()}. Try again when the machine is less busy."
        )

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return redact(lines[-1]) if lines else "it said nothing"


def _free_port(wanted: int) -> int:
    with socket.socket() as probe:
        # As the server itself binds: a port whose last connection is just closing is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, wanted))
        except (OSError, OverflowError) as error:
            raise TrackingError(
                f"port {wanted} of {_HOST} must be free, but is not ({getattr(error, 'strerror', error)}). "
                "Choose another one with --port, or 0 for any."
            ) from error
        port: int = probe.getsockname()[1]
        return port


def _answers(url: str) -> bool:
    # No proxy: the address is this machine's.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
