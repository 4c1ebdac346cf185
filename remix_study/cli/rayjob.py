"""`python -m remix_study.cli.rayjob`: `remix-study` as the entrypoint of a KubeRay job

KubeRay starts a new cluster for every job that fails (`backoffLimit`), whatever its exit status. That resumes a study
whose head was lost, but repeats an error in the study file several times, each with new nodes. KubeRay does not retry a
job that was stopped. Therefore this module stops its own job after errors that a retry does not heal, and after
`remix-study stop`:

    finished                                                       SUCCEEDED
    an error in the given files or options, a study that lacks     STOPPED, not retried
    the result of a method, or stopped on request
    any other error, or a lost head                                FAILED, retried in a new cluster
"""

import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from remix_study import ray_private
from remix_study.cli.common import err
from remix_study.cli.main import main as command
from remix_study.errors import RemixStudyError

NOT_RETRIED = 2  # exit status
_STOPPED, _USAGE = 130, 2  # exit statuses of the command
_STOP_TIMEOUT_S = 60.0


def main() -> None:
    """Run the command, and exit with its status or stop the job."""
    with _signals() as received:
        try:
            command()
        except SystemExit as end:
            if retry_helps(end, signalled=bool(received())):
                raise
    job = _job()
    if job is not None:
        err.print("A retry does not help, so this job is stopped instead of failed.", highlight=False)
        _stop(job)
    sys.exit(NOT_RETRIED)


def retry_helps(end: SystemExit, *, signalled: bool) -> bool:
    """Return whether the command may succeed if it is run again, or has succeeded already.

    Args:
        end: as the command raised it, while it handled the error that is its cause.
        signalled: whether this process received a signal to end, as on a node that is drained.
    """
    if not end.code or signalled:
        return True
    if end.code in (_STOPPED, _USAGE):
        return False
    cause = end.__context__
    return not isinstance(cause, RemixStudyError) or cause.retry_helps


@contextmanager
def _signals() -> Iterator[Callable[[], bytes]]:
    """Yield a function that returns the signals received so far, whichever handlers the command installs."""
    reader, writer = socket.socketpair()
    with reader, writer:
        reader.setblocking(False)
        writer.setblocking(False)
        before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)

        def received() -> bytes:
            try:
                found = reader.recv(4096)
            except BlockingIOError:
                return b""
            return bytes(number for number in found if number in (signal.SIGTERM, signal.SIGINT))

        try:
            yield received
        finally:
            signal.set_wakeup_fd(before)


def _job() -> str | None:
    """The submission id of the Ray job that this process is the entrypoint of; None outside of a job."""
    try:
        content = json.loads(os.environ[ray_private.JOB_CONFIG_VARIABLE])
        return str(content["metadata"]["job_submission_id"])
    except (KeyError, ValueError, TypeError):
        return None


def _stop(job: str) -> None:
    """Stop the job, and wait for the signal that ends its processes. If the dashboard does not answer, return."""
    from ray.job_submission import JobSubmissionClient

    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: ended.set())  # noqa: ARG005 - Python's signature
    try:
        JobSubmissionClient().stop_job(job)
    except Exception as error:  # any error of Ray's client: the job then fails, and is retried
        err.print(f"Cannot stop the job: {error}", markup=False, highlight=False)
        return
    ended.wait(_STOP_TIMEOUT_S)


if __name__ == "__main__":
    main()
