"""Closing the terminal, tested in a separate process, because it redirects the output of the process"""

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

LEAVES = """
import contextlib, io, os, signal, sys
from pathlib import Path
from remix_study.study.stopping import leavable
with leavable(Path(sys.argv[1])):
    print("to the terminal", flush=True)
    with contextlib.redirect_stdout(io.StringIO()):  # as the output of Ray Tune is hidden
        signal.raise_signal(signal.SIGHUP)
    print("to the log", flush=True)
    signal.raise_signal(signal.SIGHUP)
    print("still here", file=sys.stderr, flush=True)
print("and to the end", flush=True)
"""


def run_and_close_terminal(folder: Path, *, ignoring: bool = False) -> tuple[int, str]:
    """Run a process whose terminal is closed. Return its exit status and its output on the terminal."""
    ours, theirs = pty.openpty()
    # Children inherit ignored signals, and the tests may run under nohup.
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignoring else signal.SIG_DFL)
    try:
        done = subprocess.run([sys.executable, "-c", LEAVES, str(folder)], stdout=theirs, stderr=theirs, timeout=60)
    finally:
        signal.signal(signal.SIGHUP, before)
    os.close(theirs)
    shown = os.read(ours, 4096).decode().replace("\r", "")
    os.close(ours)
    return done.returncode, shown


def test_output_after_the_terminal_was_closed_goes_to_a_log(tmp_path: Path) -> None:
    assert run_and_close_terminal(tmp_path / "s") == (0, "to the terminal\n")
    assert (tmp_path / "s" / "terminal.log").read_text() == "to the log\nstill here\nand to the end\n"


INTERRUPTED_TWICE = """
import signal, sys, threading
from pathlib import Path
from remix_study.study import stopping
stopping._LAST_S = 0.2
with stopping.stoppable(Path(sys.argv[1]), print, stopping.end_soon):
    signal.raise_signal(signal.SIGINT)
    try:
        signal.raise_signal(signal.SIGINT)
    finally:
        threading.Event().wait()  # as a database that is locked
"""


def test_a_second_ctrl_c_ends_the_process_whatever_it_waits_for(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_TWICE, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (130, "")
    assert done.stdout.splitlines() == [
        "Stopping after the current epochs. Press Ctrl-C again to stop at once.",
        "Interrupted. Rerun the command to resume from the last checkpoint.",
    ]


TERMINATED = """
import signal, subprocess, sys, threading
from pathlib import Path
from remix_study import ray_private
from remix_study.study import stopping
server = subprocess.Popen(["sleep", "60"])
alive = True
ray_private.local_ray_processes = lambda: [server.pid] if alive else []
stopping._SAVING_S = 0.2
with stopping.stoppable(Path(sys.argv[1]), print, terminated=lambda: stopping.end_with_ray(print)):
    signal.raise_signal(signal.SIGTERM)
    if sys.argv[2] == "shut down":
        alive = False
    server.kill()
    threading.Event().wait(1.0 if sys.argv[2] == "shut down" else None)
print("to the end")
"""


@pytest.mark.parametrize(
    ("how", "status", "last"),
    [
        ("killed", 143, "Ray has ended, too. Rerun the command to resume from the last checkpoint."),
        ("shut down", 0, "to the end"),
    ],
)
@pytest.mark.slow
def test_after_sigterm_a_study_ends_with_its_ray_unless_it_shut_that_down(
    tmp_path: Path, how: str, status: int, last: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TERMINATED, str(tmp_path), how], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (status, "")
    assert done.stdout.splitlines() == [
        "Stopping after the current epochs. Send SIGTERM again to stop at once.", last,
    ]  # fmt: skip


def test_output_under_nohup_is_not_redirected(tmp_path: Path) -> None:
    status, shown = run_and_close_terminal(tmp_path, ignoring=True)
    assert (status, shown) == (0, "to the terminal\nto the log\nstill here\nand to the end\n")
    assert not (tmp_path / "terminal.log").exists()
