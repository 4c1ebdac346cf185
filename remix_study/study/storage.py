"""Where a study's trials are kept: a file of the study, a journal on a shared disk, or a database

    (nothing)                         optuna.db in the study's folder (SQLite)
    journal                           optuna.journal in the study's folder: for disks that several machines share
    postgresql+psycopg://host/name    any database that SQLAlchemy knows; `$NAME` in it is taken from the environment

A password is never written down: a URL that holds one is refused, and `$NAME` is resolved only where it is used.
"""

import contextlib
import logging
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy import Engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from remix_study import optuna_private
from remix_study.credentials import holds_password, redact, resolve
from remix_study.errors import ConfigError, StoreError, StudyError, cause_of
from remix_study.files.databases import create_sqlite, table_creation_lock
from remix_study.files.urls import shown
from remix_study.patience import PATIENCE

log = logging.getLogger(__name__)
JOURNAL = "journal"
PATIENCE_S = PATIENCE.storage_restart_s
_EXAMPLE = "postgresql+psycopg://$DB_USER:$DB_PASSWORD@host/studies"
STOP = "stop"  # while this file lies in a study's folder, its runs end after their epoch and none begins
_BUSY_S = 60  # several processes write: SQLite's own five seconds are short on a disk that is busy


def study_folder(workspace: Path, name: str) -> Path:
    return workspace / "studies" / name


def optuna_name(study: str, method: str) -> str:
    """A database may hold many studies, and each method is a study of Optuna's."""
    return f"{study}/{method}"


def check_storage(storage: str | None, home: str | None = None) -> None:
    """
    Args:
        home: the study's URL, where its workspace is at one.

    Raises:
        ConfigError: it cannot be a storage, whatever runs there.
    """
    if storage in (None, JOURNAL):
        if home is not None:
            raise ConfigError(
                f"`storage` must be a database where the workspace is at a URL ({shown(home)}), but is "
                f"{storage or 'a file of the study'}. For example: storage: {_EXAMPLE}"
            )
        return
    try:
        url = make_url(str(storage))
    except (ArgumentError, ValueError):
        raise ConfigError(
            f"`storage` must be `journal` or the URL of a database, but is "
            f"{redact(str(storage))!r}. For example: {_EXAMPLE}"
        ) from None
    if holds_password(str(storage)):
        named = url.set(password="DB_PASSWORD", query={}).render_as_string(hide_password=False)
        raise ConfigError(
            "`storage` must not hold a password: it would be copied wherever the study is. Write "
            f"{named.replace(':DB_', ':$DB_', 1)} and set DB_PASSWORD."
        )


def open_storage(storage: str | None, folder: Path, *, patience_s: float = 0.0) -> BaseStorage:
    """To write to; made where it does not exist yet. Who only looks must use `open_to_read`.

    Args:
        patience_s: of a study's driver: how long a database that has answered once is waited for while it is restarted.

    Raises:
        ConfigError: see `check_storage`; or a `$NAME` of the URL is not in the environment.
        StudyError: the database does not answer.
    """
    if storage is None:
        path = folder / "optuna.db"
        create_sqlite(path, _create_tables)
        return _sqlite(path)
    if storage == JOURNAL:
        return JournalStorage(JournalFileBackend(str(folder / "optuna.journal")))
    url = _resolved(storage)
    # Two studies that begin at once on an empty database would both make Optuna's tables, and one would fail. Their
    # runs only open what a driver has made, and there may be thousands of them: they wait for nobody.
    alone = table_creation_lock(url, raises=StudyError) if patience_s > 0 else contextlib.nullcontext()
    with _reached(url), alone:
        opened = RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
    if patience_s > 0:
        _sit_out_restarts(opened.engine, make_url(url).render_as_string(hide_password=True), patience_s)
    return opened


def open_to_read(storage: str | None, folder: Path) -> BaseStorage | None:
    """None where there is nothing to read yet.

    Whoever opens a database with Optuna makes the tables that it misses. One who only looks must not: the study's
    driver may be making them at this moment, and of two who do, one fails.

    Raises:
        ConfigError, StudyError: as `open_storage`.
    """
    match storage:
        case None:
            begun = (folder / "optuna.db").exists()
        case "journal":
            begun = (folder / "optuna.journal").exists()
        case _:
            begun = _has_tables(_resolved(storage))
    return open_storage(storage, folder) if begun else None


def _sqlite(path: Path) -> RDBStorage:
    return RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": _BUSY_S}})


def _create_tables(path: Path) -> None:
    made = _sqlite(path)
    made.remove_session()
    made.engine.dispose()


def _has_tables(url: str) -> bool:
    with _reached(url):
        engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
        with engine.connect() as connection:
            if not sa.inspect(connection).has_table(optuna_private.VERSION_TABLE):
                return False
            # Optuna writes this row when all tables are made.
            return connection.execute(sa.text(f"SELECT 1 FROM {optuna_private.VERSION_TABLE}")).first() is not None


def _resolved(storage: str) -> str:
    check_storage(storage)
    return resolve(storage, "`storage`")


@contextmanager
def _reached(url: str) -> Iterator[None]:
    shown = make_url(url).render_as_string(hide_password=True)
    try:
        yield
    except ImportError as error:  # Optuna says which only in the error that its own came from
        missing_package = getattr(error, "name", None) or getattr(error.__cause__, "name", None) or "of its driver"
        raise ConfigError(
            f"`storage: {shown}` needs the package {missing_package}, but it is not installed. `pip install "
            "'remix-study[postgresql]'`, or the driver of your database."
        ) from None
    except SQLAlchemyError as error:
        cause = " ".join(str(getattr(error, "orig", None) or error).split())[:300]
        raise StudyError(
            f"the study's storage {shown} must answer, but: {cause}. Start it, or mend `storage`."
        ) from None


def _sit_out_restarts(engine: Engine, shown: str, patience_s: float) -> None:
    """A connection that was lost is made again as soon as the database takes one; one outage has one patience."""
    down_since: float | None = None

    def connect(dialect: Any, record: Any, arguments: Any, options: Any) -> Any:  # noqa: ARG001 - SQLAlchemy's names
        nonlocal down_since
        while True:
            try:
                made = dialect.connect(*arguments, **options)
            except dialect.loaded_dbapi.OperationalError:
                if down_since is None:
                    down_since = time.monotonic()
                    log.warning("the study's storage %s does not answer; it is waited for, up to %.0f s", shown,
                                patience_s)  # fmt: skip
                if time.monotonic() >= down_since + patience_s:
                    raise
            else:
                if down_since is not None:
                    log.warning("the study's storage %s answers again; nothing is missing", shown)
                down_since = None
                return made
            # A database says only by taking a connection that it is back. Those who wait do not all come at once.
            threading.Event().wait(0.5 + random.random())

    event.listen(engine, "do_connect", connect)


@contextmanager
def disk_full_errors(folder: Path) -> Iterator[None]:
    """Turn an error that comes from a full disk into one message, whether a file, a checkpoint or SQLite raised it.

    Raises:
        StoreError: the disk is full.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, StoreError) or cause_of(error) != "disk full":
            raise
        raise StoreError(
            f"The disk of {folder} is full. Finished runs are kept. Free space and rerun the command (with "
            "--retry-failed if trials have failed because of it)."
        ) from error


@contextmanager
def answering(storage: str | None) -> Iterator[None]:
    """
    Raises:
        StudyError: the database that keeps the study does not take what it is told.
    """
    try:
        yield
    except (StorageInternalError, SQLAlchemyError) as error:
        if storage in (None, JOURNAL):  # files: what is wrong with a disk is told where it is known (media/disk.py)
            raise
        cause: BaseException | None = error
        while cause is not None and getattr(cause, "orig", None) is None:
            cause = cause.__cause__
        words = " ".join(redact(str(getattr(cause, "orig", None) or error)).split())[:300].rstrip("?. ")
        raise StudyError(
            f"the study's storage {redact(str(storage))} must answer, but: {words}. Nothing is lost: start it, and run "
            "the same command."
        ) from None
