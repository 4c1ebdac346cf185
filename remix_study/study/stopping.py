"""Stopping a study: from another process, by Ctrl-C, by a terminal that goes away

stop NAME, first Ctrl-C, SIGTERM   the runs end after their epoch, and go on from it at the next start
second Ctrl-C                      everything ends at once; epochs under way are done again
a terminal that is closed          the study goes on, and writes what it has to say into its folder
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from remix_study.study.storage import STOP
from remix_study.tracking.signals import STOPS, signal_handlers

LOG = "terminal.log"


@contextmanager
def stoppable(folder: Path, say: Callable[[str], None] = lambda words: None) -> Iterator[None]:  # noqa: ARG005
    """In the block, a first SIGINT or SIGTERM asks the study in `folder` to stop, and a second one raises.

    A signal is Python's main thread's: elsewhere the block changes nothing.
    """
    (folder / STOP).unlink(missing_ok=True)

    def ask(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of a handler
        if (folder / STOP).exists():
            raise KeyboardInterrupt
        (folder / STOP).touch()
        say("stopping after the epochs under way; once more to stop at once")

    with signal_handlers(dict.fromkeys(STOPS, ask)):
        yield


@contextmanager
def leavable(folder: Path) -> Iterator[None]:
    """In the block, a terminal may go away: what would be shown there is then written into `folder`."""

    def leave(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / LOG).open("a") as log:
            for stream in (sys.__stdout__, sys.__stderr__):  # a console may have put its own in their place
                if stream is not None:
                    os.dup2(log.fileno(), stream.fileno())

    seen_to = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN  # by nohup, say
    with signal_handlers({} if seen_to else {signal.SIGHUP: leave}):
        yield
