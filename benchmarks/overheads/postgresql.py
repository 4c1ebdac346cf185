"""A temporary PostgreSQL server, the storages of a study, and the CPU seconds of a server"""

import contextlib
import os
import pwd
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_PROGRAMS = max(Path("/usr/lib/postgresql").glob("*/bin/initdb"), default=Path("/nowhere"), key=str).parent


class Server:
    """A running PostgreSQL server that listens on a Unix socket in its folder."""

    def __init__(self, folder: Path, run: Callable[..., None]) -> None:
        self.folder, self._run = folder, run

    def create_database(self, name: str) -> str:
        """Create a database and return its URL."""
        self._run("createdb", "-h", str(self.folder), "-U", "study", name)
        return f"postgresql+psycopg://study@/{name}?host={self.folder}"

    @property
    def process(self) -> int:
        """Process id of the server's first process."""
        return int((self.folder / "data" / "postmaster.pid").read_text().split()[0])


@contextmanager
def postgresql(folder: Path) -> Iterator[Server | None]:
    """Run a PostgreSQL server in `folder`; yields None if PostgreSQL is not installed."""
    if not _PROGRAMS.exists():
        yield None
        return
    folder.mkdir()
    prefix: list[str] = []
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        user = next((p.pw_name for p in pwd.getpwall() if p.pw_name == "postgres"), "nobody")
        prefix = ["runuser", "-u", user, "--"]
        folder.parent.chmod(0o755)
        shutil.chown(folder, user)

    def run(*words: str) -> None:
        subprocess.run([*prefix, str(_PROGRAMS / words[0]), *words[1:]], check=True, capture_output=True, cwd=folder)

    data = str(folder / "data")
    run("initdb", "--pgdata", data, "--auth", "trust", "--username", "study", "--no-sync")
    options = f"-k {folder} -c listen_addresses= -c max_connections=50"
    run("pg_ctl", "--pgdata", data, "--wait", "--log", str(folder / "log"), "--options", options, "start")
    try:
        yield Server(folder, run)
    finally:
        run("pg_ctl", "--pgdata", data, "--wait", "--mode", "immediate", "stop")


def storage_url(name: str, server: Server | None) -> str | None:
    """Return the value of `storage:` in a study file for `sqlite`, `journal` or a new database of `server`."""
    match name:
        case "sqlite":
            return None
        case "journal":
            return "journal"
    assert server is not None
    return server.create_database(f"study-{uuid.uuid4().hex[:8]}")


def server_cpu_seconds(leader: int | None) -> float:
    """Return the CPU seconds of process `leader` and its descendants, ended ones included; 0 without a leader."""
    if leader is None:
        return 0.0
    used, tick, family = 0, os.sysconf("SC_CLK_TCK"), {leader}
    for stat in sorted(Path("/proc").glob("[0-9]*/stat"), key=lambda path: int(path.parent.name)):
        with contextlib.suppress(OSError):  # the process has just ended
            fields = stat.read_text().rsplit(")", 1)[1].split()
            if int(stat.parent.name) == leader or int(fields[1]) in family:
                family.add(int(stat.parent.name))
                used += sum(int(field) for field in fields[11:15])
    return used / tick
