"""The listener of a study: callbacks that show its progress"""

from collections.abc import Callable
from dataclasses import dataclass

from remix_study.study.tasks import Outcome, Task


@dataclass(frozen=True)
class StudyListener:
    """Callbacks of a running study; each default does nothing.

    Args:
        begin: called once, before the first run, with the number of runs that have ended and of all runs.
        done: called after each task, with the task, its outcome, and the same two numbers.
        say: called with a message for the user.
        interrupted: called at the second Ctrl-C, before KeyboardInterrupt is raised.
        terminated: called at SIGTERM.
    """

    begin: Callable[[int, int], None] = lambda ended, total: None  # noqa: ARG005 - default of a callback
    done: Callable[[Task, Outcome, int, int], None] = lambda task, outcome, ended, total: None  # noqa: ARG005 - as above
    say: Callable[[str], None] = lambda message: None  # noqa: ARG005 - as above
    interrupted: Callable[[], None] = lambda: None
    terminated: Callable[[], None] = lambda: None
