"""Stopping a study: by `remix-study stop`, by signals, and what a closed terminal does

stop NAME, first Ctrl-C, SIGTERM   runs end after their current epoch and resume from it at the next start
SIGTERM to every process           Slurm, systemd and `timeout` also end the local Ray: the command ends with it, and
                                   the runs resume from the checkpoints that they saved at the signal
second Ctrl-C                      all runs end at once, and the command within two seconds, whatever it waits for;
                                   the current epochs are repeated at the next start
a closed terminal (SIGHUP)         the study continues and writes its output to terminal.log in its folder
"""

import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from remix_study import ray_private
from remix_study.errors import INTERRUPTED
from remix_study.study.storage import STOP
from remix_study.tracking.signals import STOPS, signal_handlers

LOG = "terminal.log"
_LAST_S = 1.5  # from the second Ctrl-C to the end


@contextmanager
def stoppable(
    folder: Path,
    say: Callable[[str], None] = lambda message: None,  # noqa: ARG005 - default of a callback
    interrupted: Callable[[], None] = lambda: None,
    terminated: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """In this context, the first SIGINT or SIGTERM asks the study in `folder` to stop; the second raises.

    Has no effect outside Python's main thread, which alone handles signals. `terminated` is called at the first signal
    if it is SIGTERM.

    Raises:
        KeyboardInterrupt: at the second signal, after `interrupted` was called and the message was shown.
    """
    (folder / STOP).unlink(missing_ok=True)

    def ask(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of a handler
        again = "Press Ctrl-C" if number == signal.SIGINT else "Send SIGTERM"
        if (folder / STOP).exists():
            interrupted()
            say(INTERRUPTED)
            raise KeyboardInterrupt(INTERRUPTED)
        (folder / STOP).touch()
        say(f"Stopping after the current epochs. {again} again to stop at once.")
        if number == signal.SIGTERM:
            terminated()

    with signal_handlers(dict.fromkeys(STOPS, ask)):
        yield


def end_soon() -> None:
    """End this process in 1.5 seconds, unless it ends by itself before.

    Ray, a database or a server may take long to end. All that a start needs is on the disk, as after a kill.
    """
    timer = threading.Timer(_LAST_S, _end, (128 + signal.SIGINT,))
    timer.daemon = True
    timer.start()


def end_with_ray(say: Callable[[str], None]) -> None:
    """End this process as soon as the local Ray has ended without it.

    Ray's client would wait for it for a minute, and then abort the process with a stack trace.
    """
    process = ray_private.local_ray_process()
    if process is not None:
        with contextlib.suppress(ProcessLookupError):
            threading.Thread(target=_await_ray, args=(os.pidfd_open(process), say), daemon=True).start()


def _await_ray(process: int, say: Callable[[str], None]) -> None:
    select.select([process], [], [])
    if ray_private.local_ray_process() is None:  # this process has shut Ray down
        return
    say("Ray has ended, too. Rerun the command to resume from the last checkpoint.")
    _end(128 + signal.SIGTERM)


def _end(status: int) -> None:
    """End this process without waiting for anything; Ray's processes end with it."""
    with contextlib.suppress(Exception):
        if sys.__stderr__ is not None and sys.__stderr__.isatty():
            sys.__stderr__.write("\x1b[?25h")  # a progress display hides the cursor
        for stream in (sys.__stdout__, sys.__stderr__):
            if stream is not None:
                stream.flush()
    os._exit(status)


@contextmanager
def leavable(folder: Path) -> Iterator[None]:
    """In this context, a closed terminal does not end the process. Further output goes to a log in `folder`."""

    def leave(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of a handler
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / LOG).open("a") as log:
            for stream in (sys.__stdout__, sys.__stderr__):  # not sys.stdout, which a console may have replaced
                if stream is not None:
                    os.dup2(log.fileno(), stream.fileno())

    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN  # under nohup
    with signal_handlers({} if ignored else {signal.SIGHUP: leave}):
        yield
