"""Concurrent creation of an SQLite database; tests/server/test_postgresql.py tests the lock of PostgreSQL"""

import sqlite3
from pathlib import Path

import pytest

from remix_study.files.databases import create_sqlite, table_creation_lock


def create(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t (x INTEGER)")
    connection.close()


def tables(path: Path) -> list[str]:
    connection = sqlite3.connect(path)
    try:
        return [name for (name,) in connection.execute("SELECT name FROM sqlite_master")]
    finally:
        connection.close()


@pytest.mark.parametrize("before", [None, b""])
def test_a_database_that_is_absent_or_empty_is_created(tmp_path: Path, before: bytes | None) -> None:
    path = tmp_path / "x.db"
    if before is not None:
        path.write_bytes(before)
    create_sqlite(path, create)
    assert tables(path) == ["t"]
    assert [each.name for each in tmp_path.iterdir()] == ["x.db"]


def test_a_database_that_exists_is_kept(tmp_path: Path) -> None:
    create(tmp_path / "x.db")
    create_sqlite(tmp_path / "x.db", lambda path: pytest.fail(f"{path} was created again"))
    assert tables(tmp_path / "x.db") == ["t"]


def test_a_database_without_all_tables_after_a_kill_is_created_again(tmp_path: Path) -> None:
    (tmp_path / ".x.db.part").write_bytes(b"half a database")

    def killed(path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        create_sqlite(tmp_path / "x.db", killed)
    assert not (tmp_path / "x.db").exists()
    create_sqlite(tmp_path / "x.db", create)
    assert tables(tmp_path / "x.db") == ["t"]


def test_databases_without_advisory_locks_are_not_contacted() -> None:
    with table_creation_lock("mysql://host.invalid/x"):
        pass
