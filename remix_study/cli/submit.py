"""`remix-study submit`: run a study on a remote cluster with one command

    check      the study, the upload, workspace, corpus and addresses; all problems are reported before anything starts
    connect    forward the dashboard's port from the cluster's head; the forward ends with this command
    compare    versions on both sides; find an unfinished job for the same study
    submit     `ray job submit`
    follow     the job's log until it ends, or with `--detach` until the study has started

Every command that runs is printed as it can be pasted into a terminal. The job does not depend on this command: after
Ctrl-C or a lost connection it continues, and running `submit` again follows it.
"""

import contextlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.markup import escape

from remix_study.cli import terminal
from remix_study.cli.common import RetryFailed, err
from remix_study.cluster.connection import (
    Connection,
    last_message,
    ray_environment,
    resolve,
    show_command,
    tell,
    terminate,
)
from remix_study.errors import ConfigError, RemixStudyError
from remix_study.patience import PATIENCE
from remix_study.tracking.signals import raise_on_termination

if TYPE_CHECKING:
    from remix_study.cluster.cluster_file import ClusterFile
    from remix_study.cluster.dashboard import Dashboard, JobState
    from remix_study.cluster.preflight import PreflightReport
    from remix_study.cluster.submission import Submission
    from remix_study.config.study import StudyConfig

RECONNECT_TRIES, RECONNECT_PAUSE_S = 6, PATIENCE.reconnect_pause_s
# Lines of `ray job` itself, when it does not write to a terminal: time, level, source file.
_RAY_LINE = re.compile(r"^[\d-]+ [\d:,]+\t\w+ cli\.py:\d+ -- ")
# Printed by the study after it has checked all nodes of its cluster (study/study.py).
_STARTED = "has begun on a cluster of"


def submit(
    file: Annotated[Path, typer.Argument(help="Study file (YAML), inside the working directory.")],
    cluster: Annotated[Path | None, typer.Option(help="Cluster file for `ray up`, such as clusters/aws.yaml.")] = None,
    address: Annotated[
        str | None, typer.Option(help="URL of a reachable dashboard, such as http://127.0.0.1:8265, without --cluster.")
    ] = None,
    workspace: Annotated[
        str | None,
        typer.Option(
            envvar="REMIX_STUDY_WORKSPACE", help="Folder on a disk that all nodes share, or a URL (s3://bucket/folder)."
        ),
    ] = None,
    corpus: Annotated[str | None, typer.Option(help="Folder or URL of the corpus, as the nodes see it.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return as soon as the study has started.")] = False,
    env: Annotated[
        list[str] | None, typer.Option("--env", help="Environment variable to forward (no secrets); repeatable.")
    ] = None,
    retry_failed: RetryFailed = False,
    working_dir: Annotated[Path, typer.Option(help="Folder to upload: the checkout, or a project folder.")] = Path(),
) -> None:
    """Run a study on a cluster: check, upload, start and follow it. Rerun the command to follow or resume it."""
    if (cluster is None) == (address is None):
        given = "Both `--cluster` and" if cluster else "Neither `--cluster` nor"
        raise ConfigError(
            f"{given} `--address` given. Use `--cluster` with a cluster file, or `--address` with the URL of a "
            "dashboard that is reachable from here."
        )
    from remix_study.cluster.commands import new_job_id
    from remix_study.cluster.environment import forwarded_environment
    from remix_study.cluster.preflight import check_submission

    with terminal.busy(err, "checking"):
        problems: list[str] = []
        cluster_file, dashboard = _target(cluster, address, problems)
        study = _read_study(file, corpus, workspace, problems)
        environment, refused, warnings = forwarded_environment(env or [], os.environ)
        submission = _submission(
            study, file, working_dir, workspace, corpus, cluster_file, dashboard, environment, retry_failed=retry_failed
        )
        report = check_submission(submission, [*problems, *refused])
    for warning in (*warnings, *report.warnings):
        err.print(f"[yellow]warning:[/yellow] {escape(warning)}", soft_wrap=True, highlight=False)
    if report.problems or study is None:
        _refuse(report.problems)
    with (
        raise_on_termination(lambda number: _Detached("Received a signal to end.", 128 + number)),
        Connection(cluster_file, address) as connection,
    ):
        dashboard = connection.dashboard()
        _require_versions(dashboard)
        job = dashboard.find_job(study.name, str(submission.workspace))
        if job is not None:
            tell(f"Study {study.name} is already running as job {job}. Following that job.")
        else:
            job = new_job_id(study.name)
            _submit(submission, report, connection, job)
        _attend(submission, connection, job, detach=detach)


def _target(
    cluster: Path | None, address: str | None, problems: list[str]
) -> "tuple[ClusterFile | None, Dashboard | None]":
    """The cluster file or the dashboard, whichever is given; None for both if there is a problem."""
    from remix_study.cluster.cluster_file import read_cluster_file
    from remix_study.cluster.dashboard import Dashboard

    try:
        return (None, Dashboard(str(address))) if cluster is None else (read_cluster_file(cluster), None)
    except RemixStudyError as error:
        problems.append(str(error))
        return None, None


def _read_study(file: Path, corpus: str | None, workspace: str | None, problems: list[str]) -> "StudyConfig | None":
    from remix_study.files.urls import is_url
    from remix_study.study.storage import check_storage
    from remix_study.study.study_file import read_study

    try:
        study = read_study(file, {} if corpus is None else {"corpus": corpus})
    except ConfigError as error:
        problems.append(str(error).replace("\n", "\n  "))
        return None
    try:
        # A study without `storage` may get it from the environment of the nodes, which is not known here.
        check_storage(study.storage, workspace if is_url(workspace or "") and study.storage is not None else None)
    except ConfigError as error:
        problems.append(str(error))
    return study


def _submission(
    study: "StudyConfig | None", file: Path, working_dir: Path, workspace: str | None, corpus: str | None,
    cluster_file: "ClusterFile | None", dashboard: "Dashboard | None", environment: Mapping[str, str], *,
    retry_failed: bool,
) -> "Submission":  # fmt: skip
    from remix_study.cluster.submission import Submission

    several = dashboard.several_nodes() if dashboard is not None else cluster_file is None or cluster_file.workers > 0
    return Submission(
        study=study,
        file=file.resolve(),
        working_dir=working_dir.resolve(),
        workspace=workspace,
        corpus=corpus,
        retry_failed=retry_failed,
        environment=environment,
        cluster_file=cluster_file,
        several_nodes=several,
    )


def _refuse(problems: Sequence[str]) -> NoReturn:
    """Refuse the submission.

    Raises:
        ConfigError: lists all problems.
    """
    if len(problems) == 1:
        raise ConfigError(problems[0])
    lines = "\n".join(f"  - {problem}" for problem in problems)
    raise ConfigError(f"Cannot submit the study: {len(problems)} problems:\n{lines}")


def _require_versions(dashboard: "Dashboard") -> None:
    """Check the versions of Ray and Python on the cluster.

    Raises:
        ConfigError: the cluster runs versions of Ray or Python that this package does not support.
    """
    import ray

    from remix_study.cluster.preflight import version_problems

    problems = version_problems(dashboard.versions(), ray.__version__)
    if problems:
        _refuse(problems)


def _submit(submission: "Submission", report: "PreflightReport", connection: Connection, job: str) -> None:
    from remix_study.cluster.commands import submit_command
    from remix_study.cluster.upload import MB

    words = submit_command(submission, report, connection.url, job)
    show_command(words)
    try:
        with terminal.busy(err, f"uploading {report.bytes / MB:.1f} MB"):
            done = subprocess.run(
                resolve(words), env=ray_environment(), capture_output=True, text=True, errors="replace", check=False
            )
    except KeyboardInterrupt:
        if _exists(connection, job):
            tell(f"Job {job} was submitted and continues on the cluster.")
            _print_commands(submission, connection, job)
        raise typer.Exit(130) from None
    if done.returncode != 0 and not _exists(connection, job):
        raise RemixStudyError(
            f"`ray job submit` failed with exit status {done.returncode}: {last_message(done.stderr, done.stdout)} "
            "Nothing was started. Fix that, and run the command again."
        )


def _exists(connection: Connection, job: str) -> bool:
    """Whether the job exists on the cluster; `ray job submit` may fail after it has created the job."""
    with contextlib.suppress(RemixStudyError):
        return connection.dashboard().has_job(job)
    return False


# --- following -------------------------------------------------------------------------------------------------------


def _attend(submission: "Submission", connection: Connection, job: str, *, detach: bool) -> None:
    """Follow the job and exit with its status; with `detach`, return as soon as the study has started."""
    assert submission.study is not None
    name = submission.study.name
    try:
        state = _follow(connection, job, f"{name} {_STARTED}" if detach else None)
    except KeyboardInterrupt:
        tell(f"\nStopped following. Study {name} continues on the cluster as job {job}.")
        _print_commands(submission, connection, job)
        raise typer.Exit(130) from None
    except _Detached as detached:
        tell(f"\n{detached} Study {name} continues on the cluster as job {job}.")
        _print_commands(submission, connection, job)
        raise typer.Exit(detached.code) from None
    if state is None:
        tell(f"Study {name} runs on the cluster as job {job}. This machine can disconnect.")
        _print_commands(submission, connection, job)
        return
    _conclude(submission, connection, job, state)


class _Detached(RemixStudyError):  # noqa: N818 - not an error of the job
    """This command ends while the job continues."""

    def __init__(self, why: str, code: int) -> None:
        super().__init__(why)
        self.code = code


def _follow(connection: Connection, job: str, until: str | None) -> "JobState | None":
    """Print the job's log until it ends; reconnects, and continues where the log broke off.

    Args:
        connection: the connection to the dashboard.
        job: the submission id.
        until: stop at the first line that starts with this.

    Returns:
        The final state of the job; None if a line started with `until`.

    Raises:
        _Detached: reconnecting failed `RECONNECT_TRIES` times.
    """
    printed, failures, pause = 0, 0, threading.Event()
    while True:
        try:
            for number, line in enumerate(_log_lines(connection, job), start=1):
                if number <= printed:
                    continue
                printed, failures = number, 0
                sys.stdout.write(line)
                sys.stdout.flush()
                if until is not None and line.startswith(until):
                    return None
            state = connection.dashboard().state(job)
            if state.finished:
                return state
            reason = "its log broke off"
        except _Detached:
            raise
        except RemixStudyError as error:
            reason = str(error)
        failures += 1
        if failures == RECONNECT_TRIES:
            raise _Detached(f"Lost the connection to the cluster ({reason}).", 1)
        pause.wait(RECONNECT_PAUSE_S * failures)  # nothing signals that the network is back
        with contextlib.suppress(RemixStudyError):
            connection.reconnect()


def _log_lines(connection: Connection, job: str) -> Iterator[str]:
    """The lines of the job's log from its start, until the log or the connection ends."""
    from remix_study.cluster.commands import logs_command

    words = logs_command(connection.url, job)
    show_command(words)
    process = subprocess.Popen(
        resolve(words), env=ray_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True, errors="replace", start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        for number, line in enumerate(process.stdout):
            if not _RAY_LINE.match(line):
                yield line
            elif number > 0:
                return  # the log has ended; Ray repeats its last lines after this one
    finally:
        terminate(process)
        process.stdout.close()


def _conclude(submission: "Submission", connection: Connection, job: str, state: "JobState") -> None:
    """Report how the job ended, and exit with its status."""
    assert submission.study is not None
    name = submission.study.name
    if state.status == "SUCCEEDED":
        if connection.cluster_file is not None:
            report = _own_command("report", submission, connection)
            tell(f"Study {name} is complete. Fetch its report with: {report}")
        return
    if state.status == "STOPPED" or state.exit_code == 130:
        tell(f"Study {name} was stopped. Rerun the command to resume it.")
        raise typer.Exit(130)
    if state.exit_code is None:
        raise RemixStudyError(
            f"Job {job} failed to start: {last_message(state.message)} Fix that, and run the command again."
        )
    tell(f"Job {job} failed with exit status {state.exit_code}. Its log is above.")
    raise typer.Exit(state.exit_code if state.exit_code > 0 else 1)


def _print_commands(submission: "Submission", connection: Connection, job: str) -> None:
    """Print the commands that show the study's status and log, and that stop it."""
    from remix_study.cluster.commands import head_ray_command, logs_command, shell_line, stop_command

    if connection.cluster_file is not None:
        log = shell_line(head_ray_command(connection.cluster_file, "job", "logs", job, "--follow"), os.environ)
        stop = shell_line(head_ray_command(connection.cluster_file, "job", "stop", job), os.environ)
    else:
        log = shell_line(logs_command(connection.url, job), os.environ)
        stop = shell_line(stop_command(connection.url, job), os.environ)
    for what, command in (
        ("status", _own_command("status", submission, connection)),
        ("log", log),
        ("stop after the current epochs", _own_command("stop", submission, connection)),
        ("stop at once", stop),
    ):
        tell(f"  {what}: {command}")


def _own_command(command: str, submission: "Submission", connection: Connection) -> str:
    """`remix-study COMMAND` for this study; without a cluster file, for a machine that can open the workspace."""
    from remix_study.cluster.commands import shell_line

    assert submission.study is not None
    cluster = [] if connection.cluster_file is None else ["--cluster", connection.cluster_file.argument]
    words = ["remix-study", command, submission.study.name, *cluster, "--workspace", str(submission.workspace)]
    return shell_line(words, os.environ)
