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
_SAVING_S = 10.0  # Slurm kills all processes 30 s after SIGTERM


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
    """End this process ten seconds after a process of the local Ray has ended, unless this process shut Ray down.

    Some of Ray's processes end at SIGTERM, and others hang. Ray's client would wait for them for a minute, and then
    abort this process with a stack trace. Runs hear the signal, too, and save their checkpoints in the ten seconds.
    """
    ends = select.poll()
    processes = ray_private.local_ray_processes()
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            ends.register(os.pidfd_open(process), select.POLLIN)
    if processes:
        threading.Thread(target=_await_ray, args=(ends, say), daemon=True).start()


def _await_ray(ends: select.poll, say: Callable[[str], None]) -> None:
    ends.poll()
    threading.Event().wait(_SAVING_S)  # there is no event: a process that is about to end cannot tell
    if not ray_private.local_ray_processes():
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
