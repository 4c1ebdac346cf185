"""Ports for servers that are about to start"""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

_LISTEN = "0A"  # a state in /proc/net/tcp


@contextlib.contextmanager
def reserved(host: str, wanted: int) -> Iterator[int]:
    """Yield a port of `host` that no other process is given for the duration of the block.

    A server needs seconds from the choice of its port until it listens. Linux does not give a bound port to a process
    that asks for any free port, and lets a process that names the port and sets SO_REUSEADDR, as servers do, listen.

    Args:
        host: an address of this machine.
        wanted: 0: any free port.

    Raises:
        OSError: the port is in use, or may not be used.
        OverflowError: there is no such port.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as holder:
        # As the server does, so that a port with closing connections is free.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind((host, wanted))
        port: int = holder.getsockname()[1]
        yield port


def listens(process_group: int, port: int) -> bool:
    """Return whether a process of the group listens on the TCP port; True where the system does not tell."""
    sockets = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            if table.endswith("6"):
                continue  # a machine without IPv6
            return True
        for words in (line.split() for line in lines):
            if words[3] == _LISTEN and int(words[1].rpartition(":")[2], 16) == port:
                sockets.add(f"socket:[{words[9]}]")
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended, or is another user's
            if os.getpgid(int(process.name)) == process_group and sockets & _opened(process):
                return True
    return False


def _opened(process: Path) -> set[str]:
    found = set()
    for descriptor in (process / "fd").iterdir():
        with contextlib.suppress(OSError):  # it has just been closed
            found.add(str(descriptor.readlink()))
    return found
