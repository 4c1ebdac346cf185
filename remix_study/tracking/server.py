"""MLflow's server, as a child that ends with us: on the loopback address, or for a cluster behind a password"""

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
_PASSWORD_LENGTH = 12  # MLflow's own rule
_KNOWN_PASSWORD = "password1234"  # of every MLflow before 3.17, and in its documentation
_USER, _PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"
# A client asks several times a second, and each password is hashed slowly on purpose. One that was changed is still
# taken for so long by the server's other processes.
_PASSWORD_CACHE_S = 60
_HEALTH = "/health"


@dataclass(frozen=True)
class Admin:
    """Who may do everything on a server that asks for a password; made when its database has no such user."""

    name: str
    password: str = field(repr=False)


def admin_from_environment() -> Admin:
    """
    Raises:
        TrackingError: user or password is missing, too short, or known to everybody.
    """
    name, password = os.environ.get(_USER, ""), os.environ.get(_PASSWORD, "")
    if not name or not password:
        raise TrackingError(
            f"a server that others reach must ask for a password, so {_USER} and {_PASSWORD} must be set, but "
            f"{_PASSWORD if name else _USER} is not. Set both here and for every client; or give `--no-auth`, where "
            "nobody but you reaches the address."
        )
    if password == _KNOWN_PASSWORD:
        raise TrackingError(f"{_PASSWORD} must be a secret, but is the one of MLflow's documentation. Choose another.")
    if len(password) < _PASSWORD_LENGTH:
        raise TrackingError(
            f"{_PASSWORD} must have at least {_PASSWORD_LENGTH} characters for MLflow, but has {len(password)}. "
            "For example: openssl rand -hex 16"
        )
    return Admin(name, password)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it.

    Raises:
        TrackingError: the name is not known.
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
    """By which a server that listens on `host` is called: what was said, its address, this machine's name."""
    everywhere = host in ("0.0.0.0", "::", "")
    return tuple(dict.fromkeys([*given, *([] if everywhere else [host]), socket.gethostname(), socket.getfqdn()]))


class MLflowServer:
    """`with MLflowServer(uri) as server: open(server.url)`; serves the store at `uri`, an sqlite or other database.

    Args:
        port: 0 takes a free one.
        patience_s: how long to wait for the first answer; a cold start on a busy machine took 70 s.
        host: an address of this machine; 0.0.0.0 is all of them.
        workers: processes that answer.
        artifacts: a folder or URL. The server alone reads and writes there; clients need no credentials for it.
            Default: `mlartifacts` beside an sqlite database.
        admin: ask everybody for a password; None: nobody.
        names: by which clients call it, besides loopback and private addresses.
        tell: is given what the server says once it is up, line by line and without secrets.
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
        """By which this machine reaches it."""
        host = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(self._host, self._host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

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
            TrackingError: the port is in use, the store or the place of artifacts cannot be used, or the server does
                not come up.
        """
        known = resolved(self._uri)
        if is_server(known):
            raise TrackingError(
                f"a server can be started for a database, but {redact(known)} is a server already: open it."
            )
        check(self._uri)
        destination = self._destination()
        self.port = _free_port(self._host, self._wanted)
        set_client_defaults()
        command = [sys.executable, "-m", "mlflow", "server", "--host", self._host, "--port", str(self.port),
                   "--workers", str(self._workers), "--uvicorn-opts", "--no-access-log"]  # fmt: skip
        if destination is not None:
            command += ["--artifacts-destination", destination]
        if self._admin is not None:
            command += ["--app-name", "basic-auth"]
        # MLflow's tables and users are made while the server starts: of several servers, by one at a time.
        with table_creation_lock(known, timeout_s=self._patience_s, raises=TrackingError):
            try:
                self._log = log = _Log(self._uri, self._tell)
                self._process = subprocess.Popen(
                    command,
                    env=self._environment(known),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    # Outside the folder of the person who started it: MLflow would leave ./mlruns behind there.
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
        """Where artifacts go, as MLflow is told.

        Raises:
            TrackingError: nothing can be written there.
        """
        if self._artifacts is None:
            root = artifact_root(self._uri)
            return None if root is None else root.as_uri()
        if holds_password(self._artifacts):
            raise TrackingError(
                f"`--artifacts` must not hold a secret, but is {redact(self._artifacts)}. Give credentials as the "
                "service's own tools take them; for S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile."
            )
        place = self._artifacts if is_url(self._artifacts) else Path(self._artifacts).resolve().as_uri()
        _require_writable(place)
        return place

    def _environment(self, known: str) -> dict[str, str]:
        """Of the server. Secrets are here and not among its arguments, which every user of the machine can read."""
        found = {name: value for name, value in os.environ.items()
                 if name not in (_USER, _PASSWORD, "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_URI")}  # fmt: skip
        found |= {
            "MLFLOW_BACKEND_STORE_URI": known,
            # Two processes and 0.4 GB instead of ten and 1.7 GB.
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        if self._names:
            hosts = [host for name in self._names for host in (name, f"{name}:*")]
            found["MLFLOW_SERVER_ALLOWED_HOSTS"] = ",".join([*mlflow_private.default_allowed_hosts(), *hosts])
            # A browser names the page's own address as the origin of what the page asks for.
            origins = [f"{scheme}://{host}" for host in hosts for scheme in ("http", "https")]
            found["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"] = ",".join(origins)
        if self._admin is not None:
            found |= {
                "MLFLOW_AUTH_ADMIN_USERNAME": self._admin.name,
                "MLFLOW_AUTH_ADMIN_PASSWORD": self._admin.password,
                "MLFLOW_AUTH_CONFIG_PATH": self._settings.enter_context(_in_memory(basic_auth_settings(known))),
            }
            # Protects a form against other pages. Several servers behind one address must share it.
            found.setdefault("MLFLOW_FLASK_SERVER_SECRET_KEY", secrets.token_hex(32))
        return found

    def _require_admin(self, log: "_Log") -> None:
        """A database that has the user already keeps the password that it has."""
        if self._admin is None:
            return
        known = b64encode(f"{self._admin.name}:{self._admin.password}".encode()).decode()
        path = "/api/2.0/mlflow/experiments/search?max_results=1"
        request = urllib.request.Request(self.url + path, headers={"Authorization": f"Basic {known}"})
        status = _status(request, patience_s=30)  # the first answer of a server with a large database is slow
        if status == 401:
            raise TrackingError(
                f"{_PASSWORD} must be that of the user {self._admin.name!r}, but {redact(resolved(self._uri))} knows "
                "this user by another one. Set that one; it is changed through MLflow (`update_user_password`)."
            )
        if status != 200:
            raise TrackingError(
                f"MLflow's server must answer at {self.url}, but its first answer is {status}: {log.last_words()}."
            )

    def wait(self) -> int:
        """Until the server ends by itself; its exit status."""
        assert self._process is not None, "start comes first"
        return self._process.wait()

    def stop(self) -> None:
        """Ends the server and its workers; may be called twice."""
        process, self._process = self._process, None
        if self._log is not None:
            self._log.up.clear()  # how it ends is no news
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
                # There is no event to await: MLflow says that it is ready only by answering. Ending is awaited.
                status = self._process.wait(timeout=_POLL_S)
            except subprocess.TimeoutExpired:
                if _status(urllib.request.Request(self.url + _HEALTH)) == 200:
                    return
            else:
                raise TrackingError(
                    f"MLflow's server must start at {self.url}, but ended with status {status}: "
                    f"{log.last_words()}. Try another port, or run `mlflow server` to see more."
                )
        raise TrackingError(
            f"MLflow's server must answer at {self.url} within {self._patience_s:.0f} s, but does not: "
            f"{log.last_words()}. Try again when the machine is less busy."
        )


class _Log:
    """What the server says: its last lines are kept, and once it is `up`, each is told."""

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

    def last_words(self) -> str:
        if self._thread is not None:
            self._thread.join(1.0)  # of a server that has ended, all it said; of another one, what it said so far
        return self._lines[-1] if self._lines else "it said nothing"

    def close(self) -> None:
        if self._thread is not None:
            self._thread.join(5.0)


def basic_auth_settings(known: str) -> str:
    """MLflow's settings of users: beside its own tables; for sqlite in a file of their own."""
    users = known
    if known.startswith("sqlite:"):
        users = f"sqlite:///{sqlite_path(known).with_name('mlflow_users.db')}"
    values = {
        "default_permission": "READ",
        "database_uri": users,
        "authorization_function": mlflow_private.BASIC_AUTH,
        "auth_cache_ttl_seconds": str(_PASSWORD_CACHE_S),
    }
    # Its reader takes % for the beginning of a reference.
    return "[mlflow]\n" + "".join(f"{key} = {value.replace('%', '%%')}\n" for key, value in values.items())


@contextlib.contextmanager
def _in_memory(text: str) -> Iterator[str]:
    """A path at which our own processes read `text`: it holds a password, and on a disk it would outlive a kill."""
    number = os.memfd_create("mlflow_basic_auth")
    try:
        os.write(number, text.encode())
        yield f"/proc/{os.getpid()}/fd/{number}"
    finally:
        os.close(number)


def _require_writable(place: str) -> None:
    """As the server will write: with the packages, credentials and addresses that MLflow itself takes."""
    try:
        repository = mlflow_private.artifact_repository(place)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"remix-study-{secrets.token_hex(4)}"
            path.write_text("written to see whether it can be\n")
            repository.log_artifact(str(path))
            with contextlib.suppress(Exception):  # who may write but not remove may serve all the same
                repository.delete_artifacts(path.name)
    except ImportError as error:
        raise TrackingError(
            f"artifacts at {redact(place)} need a package that is not installed ({error}). "
            "`pip install 'remix-study[server]'` brings that of S3."
        ) from None
    except Exception as error:  # every service has exceptions of its own, with no base in common
        raise TrackingError(
            f"artifacts must have a place that can be written, but {redact(place)} cannot ({explain(place, error)}). "
            "Make the bucket, or mend the address or the credentials."
        ) from None


def _free_port(host: str, wanted: int) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        # As the server itself binds: a port whose last connection is just closing is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, wanted))
        except (OSError, OverflowError) as error:
            raise TrackingError(
                f"port {wanted} of {host} must be free, but is not ({getattr(error, 'strerror', error)}). "
                "Choose another one with --port, or 0 for any."
            ) from error
        port: int = probe.getsockname()[1]
        return port


def _status(request: urllib.request.Request, patience_s: float = 2) -> int:
    """Of the answer; 0 where there is none."""
    # No proxy: the address is this machine's.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=patience_s) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except (urllib.error.URLError, OSError):
        return 0
