"""The storage of a study's trials: an SQLite file, a journal on a shared disk, or a database

    (not set)                         optuna.db in the study's folder (SQLite)
    journal                           optuna.journal in the study's folder, for disks that several machines share
    postgresql+psycopg://host/name    any database that SQLAlchemy supports; `$NAME` is read from the environment

Passwords are not written to files: a URL with a password is an error, and `$NAME` is resolved only to connect.
"""

import contextlib
import json
import logging
import os
import random
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from sqlalchemy import Engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from remix_study import optuna_private
from remix_study.credentials import holds_password, redact, resolve
from remix_study.errors import ConfigError, StoreError, UnavailableError, cause_of
from remix_study.files import operations
from remix_study.files.databases import create_sqlite, table_creation_lock
from remix_study.files.urls import shown
from remix_study.patience import PATIENCE

log = logging.getLogger(__name__)
JOURNAL = "journal"
PATIENCE_S = PATIENCE.storage_restart_s  # for a database that is being restarted; runs keep training
_EXAMPLE = "postgresql+psycopg://$DB_USER:$DB_PASSWORD@host/studies"
STOP = "stop"  # while this file is in the study's folder, runs end after their epoch and none starts
_LOCKED = "database is locked"  # SQLite's messages
_DAMAGED = ("malformed", "is not a database", "no such table", "no such column", "unable to open database file")
_BLOCK = 1 << 14
_BUSY_S = 60  # several processes write; SQLite's default of five seconds is too short for a busy disk


def study_folder(workspace: Path, name: str) -> Path:
    """The folder of a study in a workspace."""
    return workspace / "studies" / name


def workspace_of(folder: Path) -> Path:
    """The workspace that the folder of a study is in."""
    return folder.parents[1]


def optuna_name(study: str, method: str) -> str:
    """The name of a method's study in Optuna's storage, which may hold many of our studies."""
    return f"{study}/{method}"


def check_storage(storage: str | None, workspace_url: str | None = None) -> None:
    """Check the `storage` of a study without connecting to it.

    Args:
        workspace_url: of the study's folder in a remote workspace; None if the workspace is on a disk.

    Raises:
        ConfigError: `storage` is invalid.
    """
    if storage in (None, JOURNAL):
        if workspace_url is not None:
            raise ConfigError(
                f"`storage` must be a database if the workspace is at a URL ({shown(workspace_url)}), but is "
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
            "`storage` must not hold a password, because it is copied to every place of the study. Write "
            f"{named.replace(':DB_', ':$DB_', 1)} and set DB_PASSWORD."
        )


def require_driver(storage: str | None) -> None:
    """Check that this machine can open the kind of database that `storage` names, without connecting to it.

    Raises:
        ConfigError: there is no such kind, or its driver is not installed or asynchronous.
    """
    if storage in (None, JOURNAL):
        return
    shown = redact(str(storage))
    try:
        dialect = make_url(str(storage)).get_dialect()
        dialect.import_dbapi()
    except NoSuchModuleError:
        raise ConfigError(
            f"`storage` must be the URL of a database that SQLAlchemy or an installed package supports, but is "
            f"{shown!r}. For example: {_EXAMPLE}"
        ) from None
    except ImportError as error:
        raise _missing_driver(shown, error) from None
    if dialect.is_async:
        raise ConfigError(f"`storage` must not use an asynchronous driver, but is {shown!r}. For example: {_EXAMPLE}")


def open_storage(storage: str | None, folder: Path, *, patience_s: float = 0.0) -> BaseStorage:
    """Open the storage for writing, or create it. For reading, use `open_to_read`.

    Args:
        folder: the study's.
        patience_s: how long to wait for a database that has answered before and is being restarted; 0 for runs, which
            do not create Optuna's tables either.

    Raises:
        ConfigError: see `check_storage`; or a `$NAME` of the URL is not in the environment.
        StoreError: the file of the trials is damaged, or gone although the study has runs.
        UnavailableError: the database does not answer.
    """
    if storage in (None, JOURNAL):
        path = _file_of(storage, folder)
        _require_file(path)
        if storage == JOURNAL:
            return JournalStorage(_Journal(path))
        create_sqlite(path, _create_tables)
        return _sqlite(path)
    url = _resolved(storage)
    # Two studies that start at once on an empty database would both create Optuna's tables, and one would fail. Runs
    # take no lock: the tables exist, and there may be thousands of runs.
    alone = table_creation_lock(url, raises=UnavailableError) if patience_s > 0 else contextlib.nullcontext()
    with _reached(url), alone:
        opened = RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
    if patience_s > 0:
        _wait_out_restarts(opened.engine, make_url(url).render_as_string(hide_password=True), patience_s)
    return opened


def open_to_read(storage: str | None, folder: Path) -> BaseStorage | None:
    """Open the storage for reading; None if it is not created yet.

    Optuna creates missing tables when it opens a database. A reader must not do so, because the study may be creating
    them at the same time, and one of the two would fail.

    Raises:
        ConfigError, StoreError, UnavailableError: as `open_storage`.
    """
    if storage in (None, JOURNAL):
        path = _file_of(storage, folder)
        _require_file(path)
        exists = path.exists()
    else:
        exists = _has_tables(_resolved(str(storage)))
    return open_storage(storage, folder) if exists else None


def _file_of(storage: str | None, folder: Path) -> Path:
    return folder / ("optuna.db" if storage is None else "optuna.journal")


def _require_file(path: Path) -> None:
    """Refuse a study whose runs have begun, but whose file of trials is gone.

    A new file would lose the trials, and a report of it would replace that of the study.

    Raises:
        StoreError: the file is missing or empty.
    """
    lost = "missing" if not path.exists() else "empty" if path.is_file() and path.stat().st_size == 0 else None
    if lost is not None and next((path.parent / "runs").glob("*/history.jsonl"), None) is not None:
        raise _damaged(path, f"it is {lost}, although the study has runs")


def _damaged(path: Path, why: str) -> StoreError:
    return StoreError(
        f"Cannot read the trials of the study {path.parent.name} from {path}: {why}. Restore the file from a copy, or "
        "give the study another `name` to run it again."
    )


class _Journal(JournalFileBackend):
    """Optuna's journal, which stays readable if a process was killed, or the disk filled up, within a line.

    Optuna appends to the incomplete line, after which it can read neither this line nor any line after it. A complete
    line that it cannot read is an error; Optuna ignores the last one.
    """

    def __init__(self, path: Path) -> None:
        self._alone = JournalFileSymlinkLock(str(path))
        self._path = path
        super().__init__(str(path), self._alone)
        end = _end_of_lines(path)
        with path.open("rb") as file:
            file.seek(_end_of_lines(path, end - 1))
            last = file.read(end - file.tell())
        try:
            json.loads(last or b"{}")
        except ValueError as error:
            raise _damaged(path, f"its last line is not JSON ({error})") from None

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        try:
            yield from super().read_logs(log_number_from)
        except ValueError as error:
            raise _damaged(self._path, f"a line is not JSON ({error})") from None

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        content = b"".join(json.dumps(each, separators=(",", ":")).encode() + b"\n" for each in logs)
        self._alone.acquire()
        try:
            end = _end_of_lines(self._path)
            operations.truncate(self._path, end)
            try:
                with operations.extend(self._path) as file:
                    file.write(content)
                    file.flush()
                    operations.fsync(file.fileno())
            except OSError:  # after which Optuna must not read what it could not record
                operations.truncate(self._path, end)
                raise
        finally:
            self._alone.release()


def _end_of_lines(path: Path, before: int | None = None) -> int:
    """The offset behind the last complete line, of those that end at most at `before`."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END) if before is None else max(0, before)
        while end > 0:
            begin = max(0, end - _BLOCK)
            file.seek(begin)
            found = file.read(end - begin).rfind(b"\n")
            if found >= 0:
                return begin + found + 1
            end = begin
    return 0


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
            # Optuna writes this row after it has created all tables.
            return connection.execute(sa.text(f"SELECT 1 FROM {optuna_private.VERSION_TABLE}")).first() is not None


def _resolved(storage: str) -> str:
    check_storage(storage)
    return resolve(storage, "`storage`")


@contextmanager
def _reached(url: str) -> Iterator[None]:
    shown = make_url(url).render_as_string(hide_password=True)
    try:
        yield
    except ImportError as error:
        raise _missing_driver(shown, error) from None
    except SQLAlchemyError as error:
        cause = " ".join(str(getattr(error, "orig", None) or error).split())[:300]
        raise UnavailableError(
            f"Cannot connect to the study's storage {shown}: {cause}. Start it, or correct `storage`."
        ) from None


def _missing_driver(shown: str, error: ImportError) -> ConfigError:
    # The missing package is named by the error that caused Optuna's.
    missing = getattr(error, "name", None) or getattr(error.__cause__, "name", None) or "of its driver"
    return ConfigError(
        f"`storage: {shown}` needs the package {missing}, which is not installed. Run `pip install "
        "'remix-study[postgresql]'`, or install the driver of your database."
    )


def _wait_out_restarts(engine: Engine, shown: str, patience_s: float) -> None:
    """Reconnect when the database is back, for up to `patience_s` per outage."""
    down_since: float | None = None

    def connect(dialect: Any, record: Any, arguments: Any, options: Any) -> Any:  # noqa: ARG001 - SQLAlchemy's names
        nonlocal down_since
        while True:
            try:
                made = dialect.connect(*arguments, **options)
            except dialect.loaded_dbapi.OperationalError:
                if down_since is None:
                    down_since = time.monotonic()
                    log.warning("The study's storage %s does not answer. Waiting for it for up to %.0f s.", shown,
                                patience_s)  # fmt: skip
                if time.monotonic() >= down_since + patience_s:
                    raise
            else:
                if down_since is not None:
                    log.warning("The study's storage %s answers again. No data is lost.", shown)
                down_since = None
                return made
            # Polls, because only a connection shows that a database is back; at random times, to spread the load.
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
def answering(storage: str | None, folder: Path) -> Iterator[None]:
    """Turn errors of the database of the study in `folder` into one message.

    Raises:
        StoreError: the file is damaged.
        UnavailableError: the database does not answer or refuses to write, or another process has locked it for too
            long.
    """
    try:
        yield
    except (StorageInternalError, SQLAlchemyError) as error:
        cause: BaseException | None = error
        while cause is not None and getattr(cause, "orig", None) is None:
            cause = cause.__cause__
        words = " ".join(redact(str(getattr(cause, "orig", None) or error)).split())[:300].rstrip("?. ")
        if storage in (None, JOURNAL):  # files: `disk_full_errors` and files/disk.py report problems of disks
            if any(each in words for each in _DAMAGED):
                raise _damaged(_file_of(storage, folder), words) from None
            if _LOCKED not in words:
                raise
            raise UnavailableError(
                f"Cannot use {folder / 'optuna.db'}: another process has locked it for {_BUSY_S:g} s. No data is lost. "
                "End that process, and rerun the command."
            ) from None
        raise UnavailableError(
            f"The study's storage {redact(str(storage))} does not answer: {words}. No data is lost. Start it and rerun "
            "the command to resume."
        ) from None
