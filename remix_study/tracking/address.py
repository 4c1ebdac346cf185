"""Tracking URIs: the default, the check that one can be used, and messages without its credentials"""

import logging
import os
import re
import shlex
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
from remix_study.files.disk import exclusive_lock

_SECONDS = 4  # timeout of each network step; connecting and reading take under ten seconds in total
_PORTS = {"mysql": 3306, "mssql": 1433}
_ENVIRONMENT = "MLFLOW_TRACKING_URI"
_REMEDY = "Start it, correct the address, or leave out the tracking URI to track in the workspace."
# With its own defaults (7 retries, backoff 2, 120 s each), MLflow blocks training for minutes when the server is down.
# The spool makes long retries unnecessary. Variables that the user has set are not changed.
_PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # MLflow would print two lines for every run that ends, between our tables or JSON.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def set_client_defaults() -> None:
    """Set environment defaults for all MLflow clients of this process; MLflow reads them at each request."""
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)
    # It would log a line per retry, where we log one warning.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    # And the traceback of every error of a database, such as one that is locked.
    logging.getLogger(mlflow_private.DATABASE_LOGGER).setLevel(logging.CRITICAL)


def default_uri(workspace: Path) -> str:
    """Return the URI of `mlflow.db` in the workspace; its artifacts are in `mlartifacts` next to it."""
    return f"sqlite:///{workspace.resolve() / 'mlflow.db'}"


def tracking_address(written: str | None, workspace: Path) -> str:
    """Return `written` (the value of `tracking.uri`), else MLFLOW_TRACKING_URI, else the default.

    `$NAME`s are not resolved. If MLFLOW_TRACKING_URI holds a password, its name is returned instead of its value; see
    `resolved`.

    Raises:
        TrackingError: MLFLOW_TRACKING_URI is a server's address with a password, which links would show.
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
            f"{_ENVIRONMENT} must not hold a password, but is {redact(given)}. Remove it from the address, and set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
        )
    return f"${_ENVIRONMENT}"


def resolved(uri: str) -> str:
    """Return `uri` with the values of its `$NAME`s. The result may hold a password: pass it to clients only.

    Raises:
        TrackingError: a name is not in the environment.
    """
    try:
        return resolve(uri, f"the tracking URI {redact(uri)}")
    except ConfigError as error:
        raise TrackingError(str(error)) from None


def is_server(uri: str) -> bool:
    """Return whether `uri` is the address of an MLflow server, not of a database."""
    return uri.lower().startswith(("http:", "https:"))


def absolute(uri: str) -> str:
    """Return `uri` with the absolute path of an SQLite database, so that it can be used in any folder."""
    return f"sqlite:///{sqlite_path(uri)}" if uri.startswith("sqlite:///") and "$" not in uri else uri


def shell_word(uri: str) -> str:
    """Return `uri` as one word for a shell: in any folder, and with its `$NAME`s for the shell to resolve."""
    uri = absolute(uri)
    return f'"{redact(uri)}"' if "$" in uri else shlex.quote(redact(uri))


def artifact_root(uri: str) -> Path | None:
    """Return `mlartifacts` next to an SQLite database; None for servers and other databases."""
    return sqlite_path(uri).parent / "mlartifacts" if uri.startswith("sqlite:") else None


def sqlite_path(uri: str) -> Path:
    """Return the absolute path of the file of `sqlite:///relative` or `sqlite:////absolute`."""
    return Path(resolved(uri).partition(":///")[2].partition("?")[0]).resolve()


def explain(uri: str, error: BaseException) -> str:
    """Return the first line of an error's message without the password of `uri`, at most 300 characters."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return without_secrets(uri, lines[0])[:300]


def without_secrets(uri: str, words: str) -> str:
    """Return a library's message without the credentials in any URI, and without the password of `uri`."""
    try:
        return redact(words, password_of=resolved(uri))
    except TrackingError:  # a name that is not in the environment cannot have been quoted
        return redact(words)


def check(uri: str) -> None:
    """Check within about ten seconds that runs can be tracked at `uri`; create a missing SQLite database.

    Raises:
        TrackingError: the server does not answer or denies access, or the database cannot be opened or written.
    """
    set_client_defaults()
    known = resolved(uri)
    scheme = urlsplit(known).scheme.lower()
    if scheme in ("", "file"):
        raise TrackingError(
            f"The tracking URI must be a server or a database, but is the folder {redact(known)!r}, which MLflow no "
            "longer supports. Use sqlite:///PATH/mlflow.db, or http://HOST:PORT of an MLflow server."
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
    except Exception as error:  # of MLflow, Alembic, SQLAlchemy or a driver
        raise TrackingError(
            f"Cannot open the tracking database {redact(known)} with this MLflow: {explain(uri, error)}. Upgrade it "
            f"with `mlflow db upgrade {shell_word(uri)}`, or use another one."
        ) from None


@cache
def prepare(uri: str) -> None:
    """Open a database once per process, and create missing tables; create a missing SQLite file.

    MLflow's own lock does not protect two processes that open a new database at the same time: the second one fails
    with "table experiments already exists". Nor does it work across machines.
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
    with exclusive_lock(path.with_name(f"{path.name}.lock"), wait=True):
        create_sqlite(path, lambda made: open_at(f"sqlite:///{made}"))
        open_at(known)


def _check_server(uri: str) -> None:
    try:
        answer = mlflow_private.search_experiments_once(uri, _SECONDS)
    except Exception as error:  # of MLflow, requests or urllib3
        raise TrackingError(
            f"Cannot connect to the MLflow server at {redact(uri)}: {type(error.__cause__ or error).__name__}. "
            f"{_REMEDY}"
        ) from None  # the text of the cause contains the URI with its password
    if answer.status_code == 403 and mlflow_private.UNKNOWN_HOST in answer.text:
        raise TrackingError(
            f"The MLflow server at {redact(uri)} rejects this host name. Start the server with `--allowed-host "
            f"{urlsplit(uri).hostname}`."
        )
    if answer.status_code in (401, 403):
        raise TrackingError(
            f"The MLflow server at {redact(uri)} denies access (status {answer.status_code}). Set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN."
        )
    if answer.status_code != 200:
        raise TrackingError(
            f"The server at {redact(uri)} answered with status {answer.status_code}. Check that the address is that of "
            "an MLflow server, and see its log."
        )


def _check_sqlite(uri: str) -> None:
    path = sqlite_path(uri)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):  # SQLite writes its journal next to the database
            pass
        connection = sqlite3.connect(path, timeout=_SECONDS)
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.rollback()
        finally:
            connection.close()
    except (OSError, sqlite3.Error) as error:
        raise TrackingError(
            f"Cannot read and write the tracking database {redact(uri)}: {error}. Check its folder, or use another "
            "workspace or tracking URI."
        ) from error


def _check_postgresql(uri: str) -> None:
    """Open one connection; MLflow would retry for minutes."""
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
            f"The driver for {redact(uri)} is not installed: {explain(uri, error)}. Run `pip install "
            "'remix-study[postgresql]'`, and write the URI as postgresql+psycopg://..."
        ) from None
    except (ArgumentError, ValueError) as error:
        raise TrackingError(
            f"The address of a PostgreSQL database must be postgresql+psycopg://USER:$DB_PASSWORD@HOST/NAME, but is "
            f"{redact(uri)} ({explain(uri, error)})."
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
                f"The database {url.database!r} does not exist in this PostgreSQL. Create it: createdb{where} "
                f"{url.database}"
            ) from None
        raise TrackingError(
            f"Cannot connect to the PostgreSQL server of {redact(uri)}: {words.rstrip('.')}. {_REMEDY}"
        ) from None


def _check_port(uri: str, kind: str) -> None:
    # A plain connection fails at once if nothing listens; SQLAlchemy in MLflow would retry for minutes.
    parts = urlsplit(uri)
    try:
        socket.create_connection((parts.hostname or "localhost", parts.port or _PORTS[kind]), timeout=_SECONDS).close()
    except (OSError, ValueError) as error:
        raise TrackingError(
            f"Cannot connect to the {kind} server of {redact(uri)}: {explain(uri, error)}. {_REMEDY}"
        ) from None
