"""Tracking URIs: the default one, whether one can be used, and messages that keep its credentials"""

import logging
import os
import re
import socket
import sqlite3
import tempfile
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from remix_study import mlflow_private
from remix_study.credentials import holds_password, redact, resolve
from remix_study.errors import ConfigError, TrackingError
from remix_study.files.databases import create_sqlite, table_creation_lock
from remix_study.files.disk import sole_writer

_SECONDS = 4  # per network step: a server's answer takes one to connect and one to read, under ten in all
_PORTS = {"mysql": 3306, "mssql": 1433}
_ENVIRONMENT = "MLFLOW_TRACKING_URI"
_HELPS = "Start it, mend the address, or leave the tracking URI out to track in the workspace."
# MLflow's own defaults (7 retries, backoff 2, 120 s each) hang for minutes on a server that is gone, in the middle of
# training. The spool makes long retries needless. Whoever sets these variables knows why, and is left alone.
_PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # Two lines on standard output for every run that ends, amid a table or JSON of ours.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def set_client_defaults() -> None:
    """Environment defaults for every MLflow client of this process; MLflow reads them at each request."""
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)
    # A line per retry, all night long, of what our own warning says once.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)


def default_uri(workspace: Path) -> str:
    """`mlflow.db` in the workspace; artifacts go to `mlartifacts` beside it."""
    return f"sqlite:///{workspace.resolve() / 'mlflow.db'}"


def tracking_address(written: str | None, workspace: Path) -> str:
    """`tracking.uri` as it was written, else MLFLOW_TRACKING_URI, else the workspace's own database.

    `$NAME`s stay as they are, and an environment's address with a password is only named: see `resolved`.

    Raises:
        TrackingError: MLFLOW_TRACKING_URI is a server's address with a password in it, which links would show.
    """
    if written is not None:
        return written
    given = os.environ.get(_ENVIRONMENT, "").strip()
    if not given:
        return default_uri(workspace)
    if not holds_password(given):
        return given
    if is_server(given):
        raise TrackingError(
            f"{_ENVIRONMENT} must not hold a password, but is {redact(given)}. Leave only the address in it, and set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
        )
    return f"${_ENVIRONMENT}"


def resolved(uri: str) -> str:
    """With the values of its `$NAME`s; for clients and nothing else.

    Raises:
        TrackingError: a name is not in the environment.
    """
    try:
        return resolve(uri, f"the tracking URI {redact(uri)}")
    except ConfigError as error:
        raise TrackingError(str(error)) from None


def is_server(uri: str) -> bool:
    return uri.lower().startswith(("http:", "https:"))


def artifact_root(uri: str) -> Path | None:
    """`mlartifacts` beside an sqlite database; None where a server decides."""
    return sqlite_path(uri).parent / "mlartifacts" if uri.startswith("sqlite:") else None


def sqlite_path(uri: str) -> Path:
    """The file behind `sqlite:///relative` or `sqlite:////absolute`, made absolute."""
    return Path(resolved(uri).partition(":///")[2].partition("?")[0]).resolve()


def explain(uri: str, error: BaseException) -> str:
    """The error's first line, with no credential of `uri` in it however it is quoted."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return without_secrets(uri, lines[0])[:300]


def without_secrets(uri: str, words: str) -> str:
    """What a library says, with no credential of any URI, nor of `uri`, in it."""
    try:
        return redact(words, password_of=resolved(uri))
    except TrackingError:  # a name that is not in the environment cannot have been quoted
        return redact(words)


def check(uri: str) -> None:
    """Returns if runs can be tracked there, within about ten seconds; creates an sqlite database that is absent.

    Raises:
        TrackingError: the server does not answer, refuses us, or the database cannot be opened or written.
    """
    set_client_defaults()
    known = resolved(uri)
    scheme = urlsplit(known).scheme.lower()
    if scheme in ("", "file"):
        raise TrackingError(
            f"a tracking URI must name a server or a database, but is the folder {redact(known)!r}, which MLflow 3.17 "
            "no longer writes to. Use sqlite:///PATH/mlflow.db, or http://HOST:PORT of an MLflow server."
        )
    if scheme in ("http", "https"):
        _check_server(known)
        return
    kind = scheme.partition("+")[0]
    if scheme == "sqlite":
        _check_sqlite(known)
    elif kind in ("postgresql", "postgres"):
        _check_postgresql(known)
    elif kind in _PORTS:
        _check_port(known, kind)
    try:
        prepare(uri)
    except Exception as error:
        raise TrackingError(
            f"the tracking database {redact(known)} must be one that this MLflow understands, but is not "
            f"({explain(uri, error)}). Upgrade it with `mlflow db upgrade URI`, or choose another one."
        ) from None


@cache
def prepare(uri: str) -> None:
    """Open a database, once per process; its tables are made if they are not there, and one of sqlite with them.

    MLflow's own lock does not hold when two processes meet a database that is not there: the second one fails with
    "table experiments already exists". Nor does it reach other machines.
    """
    from mlflow import MlflowClient

    known = resolved(uri)

    def open_at(uri: str) -> None:
        MlflowClient(tracking_uri=uri).search_experiments(max_results=1)

    if not known.startswith("sqlite:"):
        with table_creation_lock(known, raises=TrackingError):
            open_at(known)
        return
    path = sqlite_path(known)
    path.parent.mkdir(parents=True, exist_ok=True)
    with sole_writer(path.with_name(f"{path.name}.lock"), wait=True):
        create_sqlite(path, lambda made: open_at(f"sqlite:///{made}"))
        open_at(known)


def _check_server(uri: str) -> None:
    try:
        answer = mlflow_private.search_experiments_once(uri, _SECONDS)
    except Exception as error:
        raise TrackingError(
            f"the MLflow server at {redact(uri)} must answer before training starts, but does not "
            f"({type(error.__cause__ or error).__name__}). Start it (`mlflow server`), mend the address, or leave "
            "the tracking URI out to track in the workspace."
        ) from None  # the cause's text quotes the URI, credentials included
    if answer.status_code == 403 and mlflow_private.UNKNOWN_HOST in answer.text:
        raise TrackingError(
            f"the MLflow server at {redact(uri)} must know the name it is called by, but does not. Start it with "
            f"`--allowed-host {urlsplit(uri).hostname}`."
        )
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


def _check_postgresql(uri: str) -> None:
    """MLflow tries again for minutes what one connection finds out at once."""
    import sqlalchemy as sa
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

    try:
        url = sa.engine.make_url(uri.replace("postgres://", "postgresql://", 1))
        libpq = "psycopg" in url.get_dialect().driver
        with sa.create_engine(
            url, poolclass=sa.pool.NullPool, connect_args={"connect_timeout": _SECONDS} if libpq else {}
        ).connect():
            return
    except (ImportError, NoSuchModuleError) as error:
        raise TrackingError(
            f"{redact(uri)} needs a driver that is not installed ({explain(uri, error)}). "
            "`pip install 'remix-study[postgresql]'`, and write postgresql+psycopg://..."
        ) from None
    except (ArgumentError, ValueError) as error:
        raise TrackingError(
            f"a PostgreSQL database must be written as postgresql+psycopg://USER:$DB_PASSWORD@HOST/NAME, but "
            f"{redact(uri)} cannot be read ({explain(uri, error)})."
        ) from None
    except SQLAlchemyError as error:
        cause = getattr(error, "orig", None) or error
        words = explain(uri, Exception(" ".join(str(cause).split())))
        if re.search(r'database "[^"]*" does not exist', words):
            where = "".join(
                f" {option} {value}"
                for option, value in (
                    ("-h", url.host or url.query.get("host")), ("-p", url.port), ("-U", url.username),
                )
                if value
            )  # fmt: skip
            raise TrackingError(
                f"the database {url.database!r} must exist, but its PostgreSQL has none of this name. Make it: "
                f"createdb{where} {url.database}"
            ) from None
        raise TrackingError(
            f"the postgresql server of {redact(uri)} must answer and let us in, but: {words}. {_HELPS}"
        ) from None


def _check_port(uri: str, kind: str) -> None:
    # SQLAlchemy inside MLflow tries again for minutes; a plain connection says at once whether anybody is there.
    parts = urlsplit(uri)
    try:
        socket.create_connection((parts.hostname or "localhost", parts.port or _PORTS[kind]), timeout=_SECONDS).close()
    except (OSError, ValueError) as error:
        raise TrackingError(
            f"the {kind} server of {redact(uri)} must answer before training starts, but does not "
            f"({explain(uri, error)}). {_HELPS}"
        ) from None
