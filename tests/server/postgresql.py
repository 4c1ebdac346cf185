"""A PostgreSQL server with a password, in a temporary folder"""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

BINARIES = max(Path("/usr/lib/postgresql").glob("*/bin/initdb"), default=Path("/nowhere"), key=str).parent
needs_postgresql = pytest.mark.skipif(not BINARIES.exists(), reason="needs PostgreSQL: apt-get install postgresql")
USER = "study"


class PostgreSQL:
    """A server on a free port of this machine. URIs name the password as `$DB_PASSWORD`."""

    def __init__(self, place: Path, password: str) -> None:
        self.place, self.password = place, password
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._as_whom: list[str] = []
        self._made: list[str] = []
        if os.geteuid() == 0:  # PostgreSQL refuses root
            user = next((p.pw_name for p in pwd.getpwall() if p.pw_name == "postgres"), "nobody")
            self._as_whom = ["runuser", "-u", user, "--"]
            shutil.chown(place, user)

    def uri(self, name: str, driver: str = "postgresql+psycopg") -> str:
        return f"{driver}://{USER}:$DB_PASSWORD@127.0.0.1:{self.port}/{name}"

    def make(self, name: str) -> str:
        """Create a database, and return its URI."""
        with self.connect("postgres") as connection:
            connection.execute(f'CREATE DATABASE "{name}"'.encode())
        self._made.append(name)
        return self.uri(name)

    def drop_all(self) -> None:
        """Drop all databases that `make` created, even if clients are connected."""
        with self.connect("postgres") as connection:
            while self._made:
                connection.execute(f'DROP DATABASE "{self._made.pop()}" WITH (FORCE)'.encode())

    def connect(self, name: str) -> "psycopg.Connection[tuple[object, ...]]":
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user=USER, password=self.password, dbname=name, autocommit=True
        )

    def begin(self) -> None:
        secret = self.place / "password"
        secret.write_text(self.password)
        self._run("initdb", "--pgdata", str(self.place / "data"), "--auth", "scram-sha-256", "--username", USER,
                  "--pwfile", str(secret), "--no-sync")  # fmt: skip
        secret.unlink()
        self.start()

    def start(self) -> None:
        options = f"-k {self.place} -c listen_addresses=127.0.0.1 -c port={self.port} -c fsync=off"
        self._run("pg_ctl", "--pgdata", str(self.place / "data"), "--wait", "--log", str(self.place / "log"),
                  "--options", options, "start")  # fmt: skip

    def stop(self) -> None:
        """Stop the server as a crash does: connections end at once."""
        self._run("pg_ctl", "--pgdata", str(self.place / "data"), "--wait", "--mode", "immediate", "stop")

    @property
    def runs(self) -> bool:
        return (self.place / "data" / "postmaster.pid").exists()

    def _run(self, *words: str) -> None:
        subprocess.run([*self._as_whom, str(BINARIES / words[0]), *words[1:]], check=True, capture_output=True,
                       cwd=self.place)  # fmt: skip


@contextmanager
def a_postgresql(password: str = "db:p@ss/w%rd#1") -> Iterator[PostgreSQL]:
    """Run a server. Its default password must be escaped in URLs."""
    # Not in pytest's folder: only root can read that, and PostgreSQL does not run as root.
    with tempfile.TemporaryDirectory(prefix="postgresql-") as place:
        server = PostgreSQL(Path(place), password)
        server.begin()
        try:
            yield server
        finally:
            if server.runs:
                server.stop()
