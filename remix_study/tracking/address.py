"""Tracking URIs: the default one, whether one can be used, and messages that keep its credentials"""

import fcntl
import logging
import os
import re
import socket
import sqlite3
import tempfile
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

from remix_study.errors import TrackingError

_SECONDS = 4  # per network step: a server's answer takes one to connect and one to read, under ten in all
_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
# MLflow's own defaults (7 retries, backoff 2, 120 s each) hang for minutes on a server that is gone, in the middle of
# training. The spool makes long retries needless. Whoever sets these variables knows why, and is left alone.
_PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


def be_brief() -> None:
    """Environment defaults for every MLflow client of this process; MLflow reads them at each request."""
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)
    # A line per retry, all night long, of what our own warning says once.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)


def default_uri(workspace: Path) -> str:
    """`mlflow.db` in the workspace; artifacts go to `mlartifacts` beside it."""
    return f"sqlite:///{workspace.resolve() / 'mlflow.db'}"


def artifact_root(uri: str) -> Path | None:
    """`mlartifacts` beside an sqlite database; None where a server decides."""
    return sqlite_path(uri).parent / "mlartifacts" if uri.startswith("sqlite:") else None


def sqlite_path(uri: str) -> Path:
    """The file behind `sqlite:///relative` or `sqlite:////absolute`, made absolute."""
    return Path(uri.partition(":///")[2].partition("?")[0]).resolve()


def redact(text: str) -> str:
    """`text` without the credentials of any URI in it: user info and secret-looking query values become ***."""
    text = re.sub(r"(?P<scheme>[a-z][\w+.-]*://)[^/\s'\"]*@", r"\g<scheme>***@", text, flags=re.IGNORECASE)
    return re.sub(r"(?i)((?:password|passwd|pwd|token|secret|key)=)[^&\s'\"]+", r"\1***", text)


def explain(uri: str, error: BaseException) -> str:
    """The error's first line, with no credential of `uri` in it however it is quoted."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    words = redact(lines[0])
    for secret in _secrets(uri):
        words = words.replace(secret, "***")
    return words[:300]


def _secrets(uri: str) -> set[str]:
    # The password only: user names such as "a" or "mlflow" would turn half of a message into stars.
    found = re.match(r"[a-z][\w+.-]*://[^/:@]*:([^/]*)@", uri, flags=re.IGNORECASE)
    return {found[1], unquote(found[1])} - {""} if found else set()


def check(uri: str) -> None:
    """Returns if runs can be tracked there, within about ten seconds; creates an sqlite database that is absent.

    Raises:
        TrackingError: the server does not answer, refuses us, or the database cannot be opened or written.
    """
    be_brief()
    scheme = urlsplit(uri).scheme.lower()
    if scheme in ("", "file"):
        raise TrackingError(
            f"a tracking URI must name a server or a database, but is the folder {redact(uri)!r}, which MLflow 3.17 no "
            "longer writes to. Use sqlite:///PATH/mlflow.db, or http://HOST:PORT of an MLflow server."
        )
    if scheme in ("http", "https"):
        _check_server(uri)
        return
    if scheme == "sqlite":
        _check_sqlite(uri)
    elif scheme.partition("+")[0] in _PORTS:
        _check_port(uri, scheme.partition("+")[0])
    try:
        prepare(uri)
    except Exception as error:
        raise TrackingError(
            f"the tracking database {redact(uri)} must be one that this MLflow understands, but is not "
            f"({explain(uri, error)}). Upgrade it with `mlflow db upgrade URI`, or choose another one."
        ) from None


@cache
def prepare(uri: str) -> None:
    """Open a database, once per process; one of sqlite is made if it is not there.

    MLflow's own lock does not hold when two processes meet a database that is not there: the second one fails with
    "table experiments already exists".
    """
    from mlflow import MlflowClient

    if not uri.startswith("sqlite:"):
        MlflowClient(tracking_uri=uri).search_experiments(max_results=1)
        return
    path = sqlite_path(uri)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists() or path.stat().st_size == 0:
            # Made beside it: one whose making was killed half-way is no database that MLflow would ever open again.
            made = path.with_name(f"{path.name}.new")
            made.unlink(missing_ok=True)
            MlflowClient(tracking_uri=f"sqlite:///{made}").search_experiments(max_results=1)
            made.replace(path)
        MlflowClient(tracking_uri=uri).search_experiments(max_results=1)


def _check_server(uri: str) -> None:
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    # Asked with the client's own credentials (MLFLOW_TRACKING_USERNAME, _TOKEN ...), without its retries.
    try:
        answer = http_request(  # type: ignore[no-untyped-call]
            get_default_host_creds(uri),  # type: ignore[no-untyped-call]
            "/api/2.0/mlflow/experiments/search",
            "GET",
            max_retries=0,
            timeout=_SECONDS,
            raise_on_status=False,
            params={"max_results": 1},
        )
    except Exception as error:
        raise TrackingError(
            f"the MLflow server at {redact(uri)} must answer before training starts, but does not "
            f"({type(error.__cause__ or error).__name__}). Start it (`mlflow server`), mend the address, or leave "
            "the tracking URI out to track in the workspace."
        ) from None  # the cause's text quotes the URI, credentials included
    if answer.status_code in (401, 403):
        raise TrackingError(
            f"the MLflow server at {redact(uri)} must let us in, but answers {answer.status_code}. Set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN."
        )
    if answer.status_code != 200:
        raise TrackingError(
            f"an MLflow server must answer at {redact(uri)}, but the answer is {answer.status_code}. "
            "See its log, or check that the address is that of an MLflow server."
        )


def _check_sqlite(uri: str) -> None:
    path = sqlite_path(uri)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):  # sqlite writes its journal beside the database
            pass
        connection = sqlite3.connect(path, timeout=_SECONDS)
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.rollback()
        finally:
            connection.close()
    except (OSError, sqlite3.Error) as error:
        raise TrackingError(
            f"the tracking database {redact(uri)} must be readable and writable, but is not ({error}). "
            "Free or mend its folder, or choose another workspace or tracking URI."
        ) from error


def _check_port(uri: str, kind: str) -> None:
    # SQLAlchemy inside MLflow tries again for minutes; a plain connection says at once whether anybody is there.
    parts = urlsplit(uri)
    try:
        socket.create_connection((parts.hostname or "localhost", parts.port or _PORTS[kind]), timeout=_SECONDS).close()
    except (OSError, ValueError) as error:
        raise TrackingError(
            f"the {kind} server of {redact(uri)} must answer before training starts, but does not "
            f"({explain(uri, error)}). Start it, mend the address, or leave the tracking URI out to track in the "
            "workspace."
        ) from None
