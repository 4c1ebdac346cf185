"""Studies that are killed, interrupted or run out of disk space, with the real command on a local Ray"""

import contextlib
import fcntl
import os
import pty
import random
import re
import select
import signal
import subprocess
import termios
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from remix_study.tracking import default_uri
from remix_study.tracking.server import MLflowServer
from tests import mlflow_database

if TYPE_CHECKING:
    from tests.study_bench import StudyBench, StudyProcess

# Each test starts a study several times, which takes many minutes on a busy machine.
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1500)]

TRACKED = {"uri": None, "experiment": "e", "model": False}
# More trials than the sampler's random ones, so that later ones depend on the recorded ones.
PRUNED: dict[str, Any] = {
    "methods": {"remix": {"set": {"method": {"name": "remix", "warmup": 1}}}},
    "pruner": {"name": "asha", "grace": 3, "reduction": 2}, "trials": 9,
}  # fmt: skip
BEFORE_RAY = "before Ray is up"


def assert_tracking_is_complete(bench: "StudyBench", process: "StudyProcess") -> None:
    """Assert that in MLflow, all runs have ended and are unique, and each epoch of each run is recorded once."""
    tracked = bench.tracked()
    assert not [run for run in tracked if run.status == "RUNNING"]
    folders = {Path(run.tags["remix_study.folder"]): run for run in tracked}
    assert len(folders) == len(tracked)
    for run in process.runs.values():
        assert folders.pop(run.path).steps == list(range(len(run.history))), run.path.name
    assert folders.pop(process.folder).status == "FINISHED"
    assert not [left for left in folders if left.is_relative_to(process.folder)]


def assert_no_epoch_repeated(before: dict[str, list[str]], after: dict[str, list[str]]) -> None:
    """Assert that no epoch of `before` was trained again: its history line, which contains times, is unchanged."""
    for name, lines in before.items():
        assert after[name][: len(lines)] == lines, name


# --- the driver ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uninterrupted(
    tmp_path_factory: pytest.TempPathFactory, make_bench: "Callable[[Path], StudyBench]"
) -> "StudyProcess":
    bench = make_bench(tmp_path_factory.mktemp("uninterrupted"))
    return bench.run(bench.write(**PRUNED))


def test_a_study_whose_driver_is_killed_repeatedly_equals_an_uninterrupted_one(
    bench: "StudyBench", uninterrupted: "StudyProcess"
) -> None:
    """tests/unit/study/test_study.py kills studies at many more moments, in one process."""
    draw = random.Random(1)
    study = bench.write(base={"tracking": TRACKED}, **PRUNED)
    written: dict[str, int] = {}
    kills: Counter[str] = Counter()
    for moment, await_moment in MOMENTS.items():
        process = bench.start(study)
        await_moment(process, draw)
        kills[moment if moment == BEFORE_RAY else process.position()] += 1
        process.kill()
        killed_at = process.history_lines()
        process.await_idle()
        assert_no_epoch_repeated(killed_at, process.history_lines())  # workers continued for a moment
        for name, at in process.results().items():
            assert written.setdefault(name, at) == at, f"{name} has a second result"
        killed_at = process.history_lines()
    last = bench.run(study)
    assert_no_epoch_repeated(killed_at, last.history_lines())
    assert {name: at for name, at in last.results().items() if name in written} == written
    for name, run in last.runs.items():
        assert [int(epoch["epoch"]) for epoch in run.history] == list(range(len(run.history))), name
    assert last.trials() == uninterrupted.trials()
    assert last.finals() == uninterrupted.finals()
    assert any(state == "pruned" for trials in last.trials().values() for _, state, *_ in trials)
    assert_tracking_is_complete(bench, last)
    print(f"kills of the driver: {dict(kills)}")


def _before_ray(process: "StudyProcess", draw: random.Random) -> None:
    process.wait_until((process.folder / "lock").exists)
    _pause(draw.uniform(0, 3))


def _in_epoch(process: "StudyProcess", draw: random.Random) -> None:
    more = process.epochs() + draw.randint(1, 10)
    process.wait_until(
        lambda: process.epochs() >= more and 0 < process.epochs_under_way() < 3
    )  # before any run can end
    _pause(draw.uniform(0, 0.1))


def _between_runs(process: "StudyProcess", draw: random.Random) -> None:
    more = process.ended() + draw.randint(1, 2)
    process.wait_until(lambda: process.ended() >= more)
    _pause(draw.uniform(0, 0.05))


def _pause(seconds: float) -> None:
    """Wait before a kill, so that not all kills happen at the moment when a file appears."""
    threading.Event().wait(seconds)


MOMENTS: dict[str, Callable[["StudyProcess", random.Random], None]] = {
    BEFORE_RAY: _before_ray,
    "in an epoch": _in_epoch,
    "between runs": _between_runs,
}


# --- a worker --------------------------------------------------------------------------------------------------------


def test_a_killed_worker_is_replaced_and_a_trial_fails_after_three_kills(bench: "StudyBench") -> None:
    process = bench.start(bench.write(base={"epochs": 12, "global_batch": 8, "tracking": TRACKED}))
    killed: list[int] = []

    def another() -> int | None:
        pid = process.worker_of("joint-search-0-")
        return None if pid in killed or not process.epochs("joint-search-0-") else pid

    for _ in range(3):
        killed.append(process.wait_until(another))
        os.kill(killed[-1], signal.SIGKILL)
    worker = process.wait_until(lambda: process.epochs("remix-search-0-") >= 3 and process.worker_of("remix-search-0-"))
    os.kill(worker, signal.SIGKILL)
    before = process.history_lines()
    assert process.wait() == 0, process.output
    assert "Traceback" not in process.output
    assert process.output.count("The process of joint-search-0 died. Restarting it from its last checkpoint.") == 2
    assert_no_epoch_repeated(before, process.history_lines())
    joint, remix = process.ledger().trials["joint"], process.ledger().trials["remix"]
    assert [(t.number, t.state) for t in joint] == [(0, "failed"), (1, "complete")]
    assert joint[0].cause == "lost worker"
    assert (joint[0].reason or "").startswith("its process died 3 times")
    (lost,) = [run for run in bench.tracked() if run.name == "joint-search-0"]
    assert (lost.status, lost.tags["failure_cause"]) == ("FAILED", "lost worker")
    assert [(t.number, t.state) for t in remix] == [(0, "complete"), (1, "complete")]
    assert all(len(process.history_lines()[Path(t.folders[0]).name]) == 12 for t in remix)
    assert_tracking_is_complete(bench, process)


# --- two studies -----------------------------------------------------------------------------------------------------


def test_two_studies_share_a_workspace_and_a_second_start_of_either_is_rejected(bench: "StudyBench") -> None:
    files = [bench.write(name, base={"tracking": TRACKED}, trials=1) for name in ("one", "two")]
    one, two = pair = [bench.start(file) for file in files]
    worker = one.wait_until(lambda: one.epochs() and one.worker_of("joint-search-0-"))
    os.kill(worker, signal.SIGSTOP)  # keeps the first study running until the second start has ended
    try:
        second = bench.start(files[0])
        assert second.wait() == 1
    finally:
        os.kill(worker, signal.SIGCONT)
    (error,) = [line for line in second.output.splitlines() if "error" in line]
    assert f"Cannot write to {one.folder}: process {one.command.pid} is using the folder" in error
    assert "Traceback" not in second.output
    assert [process.wait() for process in pair] == [0, 0], [process.output for process in pair]
    assert one.trials() == two.trials()  # the same study under two names
    assert [[state for _, state, *_ in trials] for trials in one.trials().values()] == [["complete"]] * 2
    assert len(one.finals()) == len(two.finals()) == 2
    for process in pair:
        assert_tracking_is_complete(bench, process)


# --- a terminal ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("detached", [False, True])
def test_a_study_continues_after_its_terminal_is_closed(bench: "StudyBench", detached: bool) -> None:
    ours, theirs = pty.openpty()

    def set_controlling_terminal() -> None:
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    process = bench.start(
        bench.write(trials=1), *(["--detach"] if detached else []), stdin=theirs, stdout=theirs, stderr=theirs,
        preexec_fn=set_controlling_terminal,
    )  # fmt: skip
    os.close(theirs)
    reader = TerminalReader(ours)
    if detached:
        assert process.wait() == 0
    else:
        process.wait_until(lambda: process.epochs() >= 2)
    reader.close()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.command.pid, signal.SIGHUP)  # as a shell does with its jobs
    if not detached:
        assert process.wait() == 0
    log = process.await_log("run.log" if detached else "terminal.log", "In MLflow: not tracked")
    assert f"Report: {process.folder / 'report' / 'report.html'}" in log
    assert {t.state for trials in process.ledger().trials.values() for t in trials} == {"complete"}
    assert all(process.finals().values())


class TerminalReader:
    """A thread that reads the output of a terminal until `close`."""

    def __init__(self, terminal: int) -> None:
        self._terminal = terminal
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._closed = threading.Event()
        self._thread.start()

    def _read(self) -> None:
        while not self._closed.is_set():
            if select.select([self._terminal], [], [], 0.1)[0]:
                try:
                    os.read(self._terminal, 65536)
                except OSError:  # the other end is closed
                    return

    def close(self) -> None:
        self._closed.set()
        self._thread.join()
        os.close(self._terminal)


def test_signals_stop_runs_after_their_epoch_and_a_second_ctrl_c_at_once_and_reruns_resume_them(
    bench: "StudyBench", uninterrupted: "StudyProcess"
) -> None:
    study = bench.write(**PRUNED)
    before: dict[str, list[str]] = {}
    for signals in ([signal.SIGINT], [signal.SIGTERM], [signal.SIGINT, signal.SIGINT]):
        reached = sum(map(len, before.values()))
        process = bench.start(study)
        process.wait_until(partial(has_trained, process, reached + 5))
        for number in signals:
            if number == signal.SIGINT:
                os.killpg(process.command.pid, number)  # also to Ray's processes, as a terminal does
            else:
                process.command.send_signal(number)
            process.wait_until(partial(announces_its_stop, process))
        assert process.wait() == 130, process.output
        assert "Traceback" not in process.output
        if len(signals) == 1:
            assert "Rerun the command to resume" in process.output
            others = [line for line in process.output.splitlines() if not re.match(r"\d+ of \d+ runs ended|Stop", line)]
            assert others == [], "neither Ray nor its C++ part prints anything"
            assert process.is_idle()
        process.await_idle()
        assert_no_epoch_repeated(before, process.history_lines())
        before = process.history_lines()
    process = bench.start(study)
    process.wait_until(partial(has_trained, process, sum(map(len, before.values())) + 2))
    os.killpg(process.command.pid, signal.SIGTERM)  # as Slurm, systemd and `timeout` do
    assert process.wait() == 128 + signal.SIGTERM, process.output
    assert "Ray has ended, too. Rerun the command to resume" in process.output
    assert "Failed to connect" not in process.output, "Ray's C++ part prints nothing"
    process.await_idle()
    last = bench.run(study)
    assert_no_epoch_repeated(before, last.history_lines())
    assert last.trials() == uninterrupted.trials()
    assert last.finals() == uninterrupted.finals()


def has_trained(process: "StudyProcess", epochs: int) -> bool:
    return process.epochs() >= epochs


def announces_its_stop(process: "StudyProcess") -> bool:
    return "Stopping after the current epochs" in process.output


# --- the disk --------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Return a function that mounts a disk of a size, such as "8m". Later calls resize the disk."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made: list[Path] = []

    def set_size(size: str) -> Path:
        command = ["mount", "-o", f"remount,size={size}", str(folder)] if made else [
            "mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"cannot mount a small disk: {done.stderr.strip()}")
        made.append(folder)
        return folder

    yield set_size
    if made:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.smoke
def test_a_study_on_a_full_disk_ends_with_a_message_and_can_be_resumed(
    bench: "StudyBench", small_disk: Callable[[str], Path]
) -> None:
    """tests/unit/study/test_study_faults.py lets the disk fill at each operation, in one process."""
    workspace, study = small_disk("3m"), bench.write()
    process = bench.start(study, workspace=workspace)
    assert process.wait() == 1, process.output
    assert f"{process.folder} is full" in process.output
    assert re.search(r"[Ff]ree space and (run|rerun) the command", process.output)
    assert "Traceback" not in process.output
    results, lines = process.results(), process.history_lines()
    complete = [t for trials in process.ledger().trials.values() for t in trials if t.state == "complete"]
    failed = [t for trials in process.ledger().trials.values() for t in trials if t.state == "failed"]
    assert {t.cause for t in failed} <= {"disk full"}
    small_disk("64m")
    last = bench.run(study, "--retry-failed", workspace=workspace)
    assert {name: at for name, at in last.results().items() if name in results} == results
    trials = [t for trials in last.ledger().trials.values() for t in trials]
    assert [t for t in trials if t.state == "complete" and t in complete] == complete
    assert [t.state for t in trials if not t.retried] == ["complete"] * 4
    assert sum(t.retried for t in trials) == len(failed)
    assert_no_epoch_repeated({name: found for name, found in lines.items() if name in results}, last.history_lines())
    assert all(last.finals().values())


# --- the tracking server ---------------------------------------------------------------------------------------------


@pytest.mark.server
def test_a_restarted_tracking_server_receives_all_data(bench: "StudyBench") -> None:
    mlflow_database.install(bench.workspace)
    store = default_uri(bench.workspace)
    with MLflowServer(store) as server:
        process = bench.start(bench.write(base={"tracking": {**TRACKED, "uri": server.url}}, trials=1))
        process.wait_until(lambda: process.epochs() >= 3)
        assert server._process is not None
        os.killpg(server._process.pid, signal.SIGKILL)
        more = process.epochs() + 6
        process.wait_until(lambda: process.epochs() >= more)  # training continues
        worker = process.wait_until(lambda: process.worker_of(""))
        os.kill(worker, signal.SIGSTOP)  # keeps the study running until the server is back
        try:
            server.stop()
            with MLflowServer(store, port=server.port) as back:
                os.kill(worker, signal.SIGCONT)
                assert process.wait() == 0, process.output
                assert f"{back.url} does not accept tracking data" in process.output
                assert "Traceback" not in process.output
                assert not [run for run in bench.tracked(uri=back.url) if run.status == "RUNNING"]
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGCONT)
    assert_tracking_is_complete(bench, process)
