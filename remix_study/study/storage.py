"""Where a study's trials are kept: a file of the study, a journal on a shared disk, or a database

    (nothing)                         optuna.db in the study's folder (SQLite)
    journal                           optuna.journal in the study's folder: for disks that several machines share
    postgresql+psycopg://host/name    any database that SQLAlchemy knows; `$NAME` in it is taken from the environment

A password is never written down: a URL that holds one is refused, and `$NAME` is resolved only where it is used.
"""

import os
import re
from pathlib import Path

from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from remix_study.errors import ConfigError, StudyError

JOURNAL = "journal"
STOP = "stop"  # while this file lies in a study's folder, its runs end after their epoch and none begins
_BUSY_S = 60  # several processes write: SQLite's own five seconds are short on a disk that is busy


def study_folder(workspace: Path, name: str) -> Path:
    return workspace / "studies" / name


def optuna_name(study: str, method: str) -> str:
    """A database may hold many studies, and each method is a study of Optuna's."""
    return f"{study}/{method}"


def check_storage(storage: str | None) -> None:
    """
    Raises:
        ConfigError: it cannot be a storage, whatever runs there.
    """
    if storage in (None, JOURNAL):
        return
    try:
        url = make_url(str(storage))
    except ArgumentError:
        raise ConfigError(
            f"`storage` must be `journal` or the URL of a database, but is {storage!r}. For example: "
            "postgresql+psycopg://$DB_USER:$DB_PASSWORD@host/studies"
        ) from None
    if url.password and "$" not in url.password:
        raise ConfigError(
            "`storage` must not hold a password: it would be copied wherever the study is. Write "
            f"{url.set(password='DB_PASSWORD').render_as_string(hide_password=False).replace(':DB_', ':$DB_', 1)} "
            "and set DB_PASSWORD."
        )


def has_begun(storage: str | None, folder: Path) -> bool:
    """Whether there is anything to read; a database elsewhere is asked itself."""
    match storage:
        case None:
            return (folder / "optuna.db").exists()
        case "journal":
            return (folder / "optuna.journal").exists()
        case _:
            return True


def open_storage(storage: str | None, folder: Path) -> BaseStorage:
    """
    Raises:
        ConfigError: see `check_storage`; or a `$NAME` of the URL is not in the environment.
        StudyError: the database does not answer.
    """
    if storage is None:
        return RDBStorage(f"sqlite:///{folder / 'optuna.db'}", engine_kwargs={"connect_args": {"timeout": _BUSY_S}})
    if storage == JOURNAL:
        return JournalStorage(JournalFileBackend(str(folder / "optuna.journal")))
    check_storage(storage)
    missing = [name for name in re.findall(r"\$\{?(\w+)", storage) if name not in os.environ]
    if missing:
        raise ConfigError(f"`storage` needs {', '.join(missing)} in the environment; set it and run again.")
    url = os.path.expandvars(storage)
    shown = make_url(url).render_as_string(hide_password=True)
    try:
        return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
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
