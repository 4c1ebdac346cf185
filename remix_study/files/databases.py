"""Creating the tables of a database in one process at a time"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from remix_study.credentials import redact
from remix_study.errors import RemixStudyError
from remix_study.files.disk import move_into_place, temporary_path

_LOCK = 0x72656D69  # key of PostgreSQL's advisory lock; must be the same in all versions


@contextmanager
def table_creation_lock(
    url: str, *, timeout_s: float = 180.0, raises: type[RemixStudyError] = RemixStudyError
) -> Iterator[None]:
    """Keep every other process, on any machine, from creating tables in a PostgreSQL database.

    Optuna and MLflow both fail if two processes create their tables at the same time. Other databases have no such
    lock, so for them this does nothing.

    Args:
        url: of the database, with its password.
        raises: the error for a process that waits for longer than `timeout_s` seconds.
    """
    if not url.startswith("postgres"):
        yield
        return
    import sqlalchemy as sa
    from sqlalchemy.exc import OperationalError

    engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.text(f"SET LOCAL lock_timeout = {int(timeout_s * 1000)}"))
        try:
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        except OperationalError as error:
            reason = redact(str(error).strip().splitlines()[0], password_of=url)[:300]
            raise raises(
                f"Cannot create tables in {redact(url)}: another process has been creating tables there for more than "
                f"{timeout_s:.0f} s ({reason}). End that process and rerun the command."
            ) from None
        yield


def create_sqlite(path: Path, create: Callable[[Path], None]) -> None:
    """Create an SQLite database with all of its tables, unless it exists; a kill leaves no database without tables.

    The caller holds a lock (see `exclusive_lock`) if several processes may create the database.

    Args:
        create: creates the database at the temporary path that it is given, in the same folder.
    """
    if path.exists() and path.stat().st_size > 0:
        return
    part = temporary_path(path)
    part.unlink(missing_ok=True)  # left by a process that was killed here
    create(part)
    move_into_place(part, path)
