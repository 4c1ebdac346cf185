"""Start Python programs as real processes that have nothing left to import

Importing torch, Ray and MLflow takes most of the time of a short command. A server imports them once and forks a child
for each program. The child has its own process id, session, environment, working directory and standard streams, and
then runs `python -m MODULE`, `python FILE` or `python -c CODE` as the interpreter would. Signals, exit statuses and
kills are those of an ordinary process. Each pytest process starts its own server with its first program.
"""

import atexit
import contextlib
import faulthandler
import functools
import gc
import importlib
import json
import logging
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import types
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

Stream = IO[Any] | int | None
_LONGEST_REQUEST = 1 << 20  # bytes of arguments and environment
_STACKS = signal.SIGUSR2
# What the commands import when they need it. Not `remix_study.cli`: its consoles look at the terminal at import.
_MODULES = (
    "torch", "torch._dynamo", "ray", "ray.tune", "ray.train.torch", "ray.util.state",
    "mlflow", "mlflow.pytorch", "optuna", "optuna.importance", "cmaes", "greenlet", "sklearn.linear_model", "pandas",
    "pyarrow.parquet", "plotly", "matplotlib.pyplot", "scipy.stats", "jinja2", "s3fs", "boto3", "psycopg",
    "sqlalchemy.dialects.sqlite", "typer", "rich.live", "decord", "av",
    "remix_study.api", "remix_study.study.study", "remix_study.launch.run", "remix_study.launch.worker",
    "remix_study.report.page", "remix_study.tracking.mlflow",
)  # fmt: skip


class Command:
    """A program at work, with the methods of `subprocess.Popen` that tests use.

    Args:
        pid: its process id, which is also its process group and session.
        connection: the server sends the exit status here.
    """

    def __init__(self, pid: int, connection: socket.socket) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._connection = connection

    def poll(self) -> int | None:
        """Return the exit status, or None while the program runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status; negative for a signal.

        Raises:
            subprocess.TimeoutExpired: the program still runs after `timeout` seconds.
        """
        if self.returncode is None:
            if not select.select([self._connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
            answer = self._connection.recv(64)
            self._connection.close()
            self.returncode = int(answer or b"-9")  # the server is gone, and its children with it
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def print_stacks(self) -> None:
        """Let the program print the stack of each of its threads on its standard error, which helps to find a hang."""
        self.send_signal(_STACKS)


def start(
    *words: str,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    stdin: Stream = subprocess.DEVNULL,
    stdout: Stream = subprocess.DEVNULL,
    stderr: Stream = subprocess.DEVNULL,
) -> Command:
    """Start `python *words` in a session of its own.

    Args:
        words: `-m MODULE ...`, `-c CODE ...` or `FILE ...`.
        env: the whole environment; default: that of this process.
        stdout, stderr: open files, file descriptors, `subprocess.DEVNULL`, or for `stderr` `subprocess.STDOUT`.
    """
    environment = dict(os.environ if env is None else env)
    with Path(os.devnull).open("r+b") as nothing:

        def descriptor(stream: Stream) -> int:
            if stream is None or stream == subprocess.DEVNULL:
                return nothing.fileno()
            return stream if isinstance(stream, int) else stream.fileno()

        fds = [descriptor(stdin), descriptor(stdout)]
        fds.append(fds[1] if stderr == subprocess.STDOUT else descriptor(stderr))
        return _server().fork(words, str(cwd), environment, fds)


def run(
    *words: str, cwd: Path, env: Mapping[str, str] | None = None, timeout: float | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run `python *words` to its end, as `subprocess.run` with captured text does.

    Raises:
        subprocess.TimeoutExpired: it ran for longer than `timeout` seconds, and was killed.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        command = start(*words, cwd=cwd, env=env, stdout=out, stderr=err)
        try:
            status = command.wait(timeout)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(command.pid, signal.SIGKILL)
            raise
        for file in (out, err):
            file.seek(0)
        return subprocess.CompletedProcess(words, status, *(file.read().decode() for file in (out, err)))


# --- the server ------------------------------------------------------------------------------------------------------


class _Server:
    """The client's side: a process with all modules imported, which forks when it is asked to."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            self._socket.setsockopt(socket.SOL_SOCKET, option, _LONGEST_REQUEST)
        root = Path(__file__).parents[1]
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                cwd=root,
                # Forks of a process with threads may hang, and networks this small are fastest on one thread.
                env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[theirs.fileno()],
                start_new_session=True,
            )  # fmt: skip
        atexit.register(self._end)

    def fork(self, words: tuple[str, ...], cwd: str, env: dict[str, str], fds: list[int]) -> Command:
        ours, theirs = socket.socketpair()
        with theirs:
            request = json.dumps({"words": words, "cwd": cwd, "env": env}).encode()
            socket.send_fds(self._socket, [request], [theirs.fileno(), *fds])
        answer = ours.recv(64)
        if not answer:
            raise RuntimeError(f"The server of tests/commands.py has ended with {self._process.poll()}.")
        return Command(int(answer), ours)

    def _end(self) -> None:
        self._socket.close()  # the server ends when this end is closed
        self._process.wait()


@functools.cache
def _server() -> _Server:
    return _Server()


def _serve(control: socket.socket) -> tuple[list[str], str] | None:
    """Fork for each request until the client is gone; then kill the children that still run.

    Returns:
        In a child: the arguments and the working directory of the program that it has to run. In the server: None.
    """
    before = dict(os.environ)
    for name in _MODULES:
        importlib.import_module(name)
    # Some packages set defaults in the environment when they are imported: the children's must have them, too.
    defaults = {name: value for name, value in os.environ.items() if name not in before}
    gc.collect()
    gc.freeze()  # a collection in a child would copy all of these pages
    poll = select.poll()
    poll.register(control, select.POLLIN)
    children: dict[int, tuple[int, socket.socket]] = {}  # by pidfd
    while True:
        for ready, _ in poll.poll():
            if ready != control.fileno():
                pid, connection = children.pop(ready)
                poll.unregister(ready)
                os.close(ready)
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                with connection, contextlib.suppress(OSError):  # nobody may want to know it any more
                    connection.sendall(str(status).encode())
                continue
            message, fds, _, _ = socket.recv_fds(control, _LONGEST_REQUEST, 4)
            if not message:
                for pid, _ in children.values():  # of a pytest that was killed, and so could not end them
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(pid, signal.SIGKILL)
                return None
            request = json.loads(message)
            connection = socket.socket(fileno=fds[0])
            pid = os.fork()
            if pid == 0:
                connection.close()
                control.close()
                for handle, (_, other) in children.items():
                    os.close(handle)
                    other.close()
                _become(request, fds[1:], defaults)
                return request["words"], request["cwd"]
            for fd in fds[1:]:
                os.close(fd)
            connection.sendall(str(pid).encode())
            handle = os.pidfd_open(pid)
            children[handle] = (pid, connection)
            poll.register(handle, select.POLLIN)


def _become(request: dict[str, Any], fds: list[int], defaults: dict[str, str]) -> None:
    os.setsid()
    for target, fd in enumerate(fds):
        os.dup2(fd, target)
    for fd in set(fds) - {0, 1, 2}:
        os.close(fd)
    faulthandler.register(_STACKS)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(defaults | request["env"])
    # Importing mlflow.pytorch configures the root logger; a new interpreter configures its own first.
    logging.root.handlers.clear()
    logging.root.setLevel(logging.WARNING)
    np.random.seed()  # noqa: NPY002 - the global generator, which is not reseeded after a fork as Python's is


def _run(words: list[str], cwd: str) -> None:
    """As `python *words` does."""
    status = 0

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

    atexit.register(leave)  # the first handler to be registered is the last to run
    try:
        _run_program(words, cwd)
    except SystemExit as end:
        if end.code is not None and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        atexit.unregister(leave)  # the interpreter ends itself with SIGINT
        raise
    except BaseException:
        status = 1
        raise


def _run_program(words: list[str], cwd: str) -> None:
    match words:
        case ["-m", module, *rest]:
            sys.argv, sys.path[0] = [module, *rest], cwd
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case ["-c", code, *rest]:
            sys.argv, sys.path[0] = ["-c", *rest], ""
            main = types.ModuleType("__main__")
            sys.modules["__main__"] = main
            exec(compile(code, "<string>", "exec"), main.__dict__)
        case [file, *rest]:
            sys.argv, sys.path[0] = [file, *rest], str(Path(file).parent)
            runpy.run_path(file, run_name="__main__")


if __name__ == "__main__":
    asked = _serve(socket.socket(fileno=int(sys.argv[1])))
    if asked is not None:
        _run(*asked)
