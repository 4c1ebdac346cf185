"""A PostgreSQL server that requires a password, in a temporary folder"""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest

from remix_study.ports import reserved

BINARIES = max(Path("/usr/lib/postgresql").glob("*/bin/initdb"), default=Path("/nowhere"), key=str).parent
needs_postgresql = pytest.mark.skipif(not BINARIES.exists(), reason="needs PostgreSQL: apt-get install postgresql")
USER = "study"


class PostgreSQL:
    """A server on a free port of this machine. Its URIs refer to the password as `$DB_PASSWORD`."""

    def __init__(self, folder: Path, password: str) -> None:
        self.folder, self.password = folder, password
        self._until_it_listens = ExitStack()
        self.port = self._until_it_listens.enter_context(reserved("127.0.0.1", 0))
        self._run_as: list[str] = []
        self._made: list[str] = []
        if os.geteuid() == 0:  # PostgreSQL does not run as root
            user = next((p.pw_name for p in pwd.getpwall() if p.pw_name == "postgres"), "nobody")
            self._run_as = ["runuser", "-u", user, "--"]
            shutil.chown(folder, user)

    def uri(self, name: str, driver: str = "postgresql+psycopg") -> str:
        """Return the URI of the database `name`."""
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

    def initialize(self) -> None:
        """Create the database cluster and start the server."""
        secret = self.folder / "password"
        secret.write_text(self.password)
        self._run("initdb", "--pgdata", str(self.folder / "data"), "--auth", "scram-sha-256", "--username", USER,
                  "--pwfile", str(secret), "--no-sync")  # fmt: skip
        secret.unlink()
        self.start()

    def start(self) -> None:
        options = f"-k {self.folder} -c listen_addresses=127.0.0.1 -c port={self.port} -c fsync=off"
        self._run("pg_ctl", "--pgdata", str(self.folder / "data"), "--wait", "--log", str(self.folder / "log"),
                  "--options", options, "start")  # fmt: skip
        self._until_it_listens.close()

    def stop(self) -> None:
        """Stop the server as in a crash, without closing connections."""
        self._run("pg_ctl", "--pgdata", str(self.folder / "data"), "--wait", "--mode", "immediate", "stop")

    @property
    def runs(self) -> bool:
        return (self.folder / "data" / "postmaster.pid").exists()

    def _run(self, *arguments: str) -> None:
        subprocess.run([*self._run_as, str(BINARIES / arguments[0]), *arguments[1:]], check=True, capture_output=True,
                       cwd=self.folder)  # fmt: skip


@contextmanager
def a_postgresql(password: str = "db:p@ss/w%rd#1") -> Iterator[PostgreSQL]:
    """Run a server for the duration of the block. The default password contains characters that URLs must escape."""
    # Not in pytest's temporary folder, which only root can read.
    with tempfile.TemporaryDirectory(prefix="postgresql-") as folder:
        server = PostgreSQL(Path(folder), password)
        server.initialize()
        try:
            yield server
        finally:
            if server.runs:
                server.stop()
