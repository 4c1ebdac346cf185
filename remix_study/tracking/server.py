"""Running MLflow's server as a child process: on the loopback address, or password-protected for a cluster"""

import contextlib
import ipaddress
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import IO

from remix_study import mlflow_private
from remix_study.credentials import holds_password, redact
from remix_study.errors import TrackingError
from remix_study.files.databases import table_creation_lock
from remix_study.files.urls import is_url
from remix_study.ports import listens, reserved
from remix_study.tracking.address import (
    artifact_root,
    check,
    explain,
    is_server,
    resolved,
    set_client_defaults,
    sqlite_path,
    without_secrets,
)

LOOPBACK = "127.0.0.1"
_POLL_S = 0.2
_LINES_KEPT = 100
_PASSWORD_LENGTH = 12  # MLflow's minimum
_KNOWN_PASSWORD = "password1234"  # the default before MLflow 3.17, and in its documentation
_USER, _PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"
# Clients send several requests a second, and checking a password is slow on purpose. After a password is changed, the
# server's other processes accept the old one for this long.
_PASSWORD_CACHE_S = 60
_HEALTH = "/health"


@dataclass(frozen=True)
class Admin:
    """The administrator of a password-protected server, who is created if the database has no such user."""

    name: str
    password: str = field(repr=False)


def admin_from_environment() -> Admin:
    """Return the administrator given by MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.

    Raises:
        TrackingError: one of them is missing, or the password is too short or MLflow's default.
    """
    name, password = os.environ.get(_USER, ""), os.environ.get(_PASSWORD, "")
    if not name or not password:
        raise TrackingError(
            f"Cannot start a server that other machines can reach without a password: "
            f"{_PASSWORD if name else _USER} is not set. Set {_USER} and {_PASSWORD} here and for every client, or use "
            "`--no-auth` if only you can reach the address."
        )
    if password == _KNOWN_PASSWORD:
        raise TrackingError(f"{_PASSWORD} must be secret, but is the default in MLflow's documentation. Use another.")
    if len(password) < _PASSWORD_LENGTH:
        raise TrackingError(
            f"{_PASSWORD} must have at least {_PASSWORD_LENGTH} characters for MLflow, but has {len(password)}. "
            "For example: openssl rand -hex 16"
        )
    return Admin(name, password)


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach the address `host`.

    Raises:
        TrackingError: the name cannot be resolved.
    """
    try:
        found = {str(each[4][0]) for each in socket.getaddrinfo(host, None)}
    except OSError as error:
        raise TrackingError(
            f"`--host` must be an address of this machine, but is {host!r} ({error.strerror}). For example 127.0.0.1, "
            "or 0.0.0.0 for all of its addresses."
        ) from None
    return all(ipaddress.ip_address(each.partition("%")[0]).is_loopback for each in found)


def names_of(host: str, given: Sequence[str]) -> tuple[str, ...]:
    """Return the names of a server that listens on `host`: those given, the address, and this machine's names."""
    everywhere = host in ("0.0.0.0", "::", "")
    return tuple(dict.fromkeys([*given, *([] if everywhere else [host]), socket.gethostname(), socket.getfqdn()]))


class MLflowServer:
    """MLflow's server for the database at `uri`; use as `with MLflowServer(uri) as server: open(server.url)`.

    Args:
        uri: an SQLite or other database.
        port: 0: any free port.
        patience_s: how long to wait for the first answer. A cold start on a busy machine took 70 s.
        host: an address of this machine; 0.0.0.0: all of them.
        workers: number of server processes.
        artifacts: a folder or URL that only the server reads and writes; clients need no credentials for it. Default:
            `mlartifacts` next to an SQLite database.
        admin: require passwords, and create this user. None: no passwords.
        names: host names by which clients reach the server, besides loopback and private addresses.
        tell: called with each line of the server's output after it has started, without secrets.
    """

    def __init__(
        self,
        uri: str,
        *,
        port: int = 0,
        patience_s: float = 180.0,
        host: str = LOOPBACK,
        workers: int = 1,
        artifacts: str | None = None,
        admin: Admin | None = None,
        names: Sequence[str] = (),
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self._uri = uri
        self._wanted = port
        self._patience_s = patience_s
        self._host = host
        self._workers = workers
        self._artifacts = artifacts
        self._admin = admin
        self._names = names
        self._tell = tell
        self._process: subprocess.Popen[bytes] | None = None
        self._log: _Log | None = None
        self._settings = contextlib.ExitStack()
        self.port = port

    @property
    def url(self) -> str:
        """The URL at which this machine reaches the server."""
        host = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(self._host, self._host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def process_group(self) -> int:
        """The process group of the server and its workers, while it runs."""
        assert self._process is not None, "start comes first"
        return self._process.pid

    def __enter__(self) -> "MLflowServer":
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server, and return when it answers.

        Raises:
            TrackingError: the port is in use, the database or artifact location cannot be used, or the server does not
                start.
        """
        known = resolved(self._uri)
        if is_server(known):
            raise TrackingError(
                f"Cannot start a server for {redact(known)}: it is a server already. Open this address instead."
            )
        check(self._uri)
        destination = self._destination()
        set_client_defaults()
        with contextlib.ExitStack() as until_it_listens:
            try:
                self.port = until_it_listens.enter_context(reserved(self._host, self._wanted))
            except (OSError, OverflowError) as error:
                raise TrackingError(
                    f"Cannot use port {self._wanted} of {self._host}: {getattr(error, 'strerror', error)}. Use another "
                    "--port, or --port 0 for a free one."
                ) from error
            self._start(known, destination)

    def _start(self, known: str, destination: str | None) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", self._host, "--port", str(self.port),
                   "--workers", str(self._workers), "--uvicorn-opts", "--no-access-log"]  # fmt: skip
        if destination is not None:
            command += ["--artifacts-destination", destination]
        if self._admin is not None:
            command += ["--app-name", "basic-auth"]
        # MLflow creates tables and users while it starts, so start one server at a time.
        with table_creation_lock(known, timeout_s=self._patience_s, raises=TrackingError):
            try:
                self._log = log = _Log(self._uri, self._tell)
                self._process = subprocess.Popen(
                    command,
                    env=self._environment(known),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    # Not the current directory, where MLflow would create ./mlruns.
                    cwd=sqlite_path(known).parent if known.startswith("sqlite:") else Path.home(),
                    start_new_session=True,  # a process group of its own, so that its workers end with it
                )
                assert self._process.stdout is not None
                log.follow(self._process.stdout)
                self._wait(log)
                self._require_admin(log)
            except BaseException:
                self.stop()
                raise
        log.up.set()

    def _destination(self) -> str | None:
        """Return the artifact location for MLflow's command line, or None for MLflow's default.

        Raises:
            TrackingError: it cannot be written.
        """
        if self._artifacts is None:
            root = artifact_root(self._uri)
            return None if root is None else root.as_uri()
        if holds_password(self._artifacts):
            raise TrackingError(
                f"`--artifacts` must not hold a password, but is {redact(self._artifacts)}. Set credentials as for the "
                "service's own tools; for S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile."
            )
        place = self._artifacts if is_url(self._artifacts) else Path(self._artifacts).resolve().as_uri()
        _require_writable(place)
        return place

    def _environment(self, known: str) -> dict[str, str]:
        """Return the server's environment. It holds the secrets, since all users of the machine can read arguments."""
        found = {name: value for name, value in os.environ.items()
                 if name not in (_USER, _PASSWORD, "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_URI")}  # fmt: skip
        found |= {
            "MLFLOW_BACKEND_STORE_URI": known,
            # Without MLflow's job runners: two processes and 0.4 GB instead of ten and 1.7 GB.
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        if self._names:
            hosts = [host for name in self._names for host in (name, f"{name}:*")]
            found["MLFLOW_SERVER_ALLOWED_HOSTS"] = ",".join([*mlflow_private.default_allowed_hosts(), *hosts])
            # Requests of MLflow's own page have its address as origin.
            origins = [f"{scheme}://{host}" for host in hosts for scheme in ("http", "https")]
            found["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"] = ",".join(origins)
        if self._admin is not None:
            found |= {
                "MLFLOW_AUTH_ADMIN_USERNAME": self._admin.name,
                "MLFLOW_AUTH_ADMIN_PASSWORD": self._admin.password,
                "MLFLOW_AUTH_CONFIG_PATH": self._settings.enter_context(memory_file(basic_auth_settings(known))),
            }
            # The key for CSRF tokens. Several servers behind one address must share it.
            found.setdefault("MLFLOW_FLASK_SERVER_SECRET_KEY", secrets.token_hex(32))
        return found

    def _require_admin(self, log: "_Log") -> None:
        """Check that the password works: a database that has the user already keeps its former password."""
        if self._admin is None:
            return
        known = b64encode(f"{self._admin.name}:{self._admin.password}".encode()).decode()
        path = "/api/2.0/mlflow/experiments/search?max_results=1"
        request = urllib.request.Request(self.url + path, headers={"Authorization": f"Basic {known}"})
        status = _status(request, patience_s=30)  # with a large database, the first answer is slow
        if status == 401:
            raise TrackingError(
                f"{_PASSWORD} is not the password of the user {self._admin.name!r} in "
                f"{redact(resolved(self._uri))}. Set the right one. To change it, use MLflow's `update_user_password`."
            )
        if status != 200:
            raise TrackingError(
                f"MLflow's server at {self.url} failed its first request with status {status}: {log.last_line()}."
            )

    def wait(self) -> int:
        """Wait until the server ends by itself, and return its exit status."""
        assert self._process is not None, "start comes first"
        return self._process.wait()

    def stop(self) -> None:
        """End the server and its workers; does nothing if it has ended."""
        process, self._process = self._process, None
        if self._log is not None:
            self._log.up.clear()  # do not report its last output
        if process is None:
            self._settings.close()
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
        assert self._log is not None
        self._log.close()
        self._settings.close()

    def _wait(self, log: "_Log") -> None:
        assert self._process is not None
        end = time.monotonic() + self._patience_s
        while time.monotonic() < end:
            try:
                # Poll, because MLflow signals readiness only by answering requests.
                status = self._process.wait(timeout=_POLL_S)
            except subprocess.TimeoutExpired:
                if self._answers():
                    return
            else:
                raise TrackingError(
                    f"MLflow's server at {self.url} ended with status {status}: {log.last_line()}. Use another port, "
                    "or run `mlflow server` to see more."
                )
        raise TrackingError(
            f"MLflow's server did not answer at {self.url} within {self._patience_s:.0f} s: {log.last_line()}. Try "
            "again when the machine is less busy."
        )

    def _answers(self) -> bool:
        """Return whether the server answers.

        Raises:
            TrackingError: another server answers. It must not be given the password.
        """
        if _status(urllib.request.Request(self.url + _HEALTH)) != 200:
            return False
        if not listens(self.process_group, self.port):
            raise TrackingError(
                f"Another server answers at {self.url}: it took the port while this one was starting. Use another "
                "--port, or --port 0 for a free one."
            )
        return True


class _Log:
    """The server's output. Keeps the last lines; calls `tell` with each line while `up` is set."""

    def __init__(self, uri: str, tell: Callable[[str], None] | None) -> None:
        self._uri, self._tell = uri, tell
        self._lines: deque[str] = deque(maxlen=_LINES_KEPT)
        self._thread: Thread | None = None
        self.up = Event()

    def follow(self, stream: IO[bytes]) -> None:
        self._thread = Thread(target=self._read, args=(stream,), name="mlflow-log", daemon=True)
        self._thread.start()

    def _read(self, stream: IO[bytes]) -> None:
        with stream:
            for raw in stream:
                line = without_secrets(self._uri, raw.decode(errors="replace").rstrip())
                if line:
                    self._lines.append(line)
                    if self._tell is not None and self.up.is_set():
                        self._tell(line)

    def last_line(self) -> str:
        if self._thread is not None:
            self._thread.join(1.0)  # if the server has ended, read all of its output
        return self._lines[-1] if self._lines else "no output"

    def close(self) -> None:
        if self._thread is not None:
            self._thread.join(5.0)


def basic_auth_settings(known: str) -> str:
    """Return the content of MLflow's basic-auth settings file.

    Users are stored in the tracking database; for SQLite, in `mlflow_users.db` next to it.

    Args:
        known: the tracking URI with its `$NAME`s resolved.
    """
    users = known
    if known.startswith("sqlite:"):
        users = f"sqlite:///{sqlite_path(known).with_name('mlflow_users.db')}"
    values = {
        "default_permission": "READ",
        "database_uri": users,
        "authorization_function": mlflow_private.BASIC_AUTH,
        "auth_cache_ttl_seconds": str(_PASSWORD_CACHE_S),
    }
    # configparser interpolates %.
    return "[mlflow]\n" + "".join(f"{key} = {value.replace('%', '%%')}\n" for key, value in values.items())


@contextlib.contextmanager
def memory_file(text: str) -> Iterator[str]:
    """Yield a path at which processes of this user can read `text`. It is in memory, so that no password is on disk."""
    number = os.memfd_create("mlflow_basic_auth")
    try:
        os.write(number, text.encode())
        yield f"/proc/{os.getpid()}/fd/{number}"
    finally:
        os.close(number)


def _require_writable(place: str) -> None:
    """Write and delete a file at the artifact location in the same way as the server.

    Raises:
        TrackingError: it cannot be written, or a package is missing.
    """
    try:
        repository = mlflow_private.artifact_repository(place)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"remix-study-{secrets.token_hex(4)}"
            path.write_text("Written by remix-study to check that artifacts can be stored here.\n")
            repository.log_artifact(str(path))
            with contextlib.suppress(Exception):  # permission to delete is not needed
                repository.delete_artifacts(path.name)
    except ImportError as error:
        raise TrackingError(
            f"Cannot store artifacts at {redact(place)}: a package is not installed ({error}). For S3, run `pip "
            "install 'remix-study[server]'`."
        ) from None
    except Exception as error:  # each service has its own exceptions, without a common base
        raise TrackingError(
            f"Cannot write artifacts to {redact(place)}: {explain(place, error)}. Create the bucket, or correct the "
            "address or the credentials."
        ) from None


def _status(request: urllib.request.Request, patience_s: float = 2) -> int:
    """Return the HTTP status of the answer; 0 if there is none."""
    # Without a proxy, because the address is on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=patience_s) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except (urllib.error.URLError, OSError):
        return 0
