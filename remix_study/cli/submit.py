"""`remix-study submit`: a study to a cluster by one command

    check      the study, what would be uploaded, workspace, corpus, addresses: all problems at once, nothing started
    reach      the dashboard of the cluster's head, by a forward that ends with this command
    compare    versions on both ends; is somebody at work on this study there already?
    submit     `ray job submit`
    follow     its log, to the job's end, or (`--detach`) until the study has begun

Every command that is run is shown as it may be copied into a terminal. The job needs nobody who follows: Ctrl-C, a
closed laptop or a lost connection leave it running, and the same command follows it again.
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
from rich.console import Console
from rich.markup import escape

from remix_study.cli import terminal
from remix_study.cluster.connection import Link, end, executable, last_words, ray_environment, say, show
from remix_study.errors import ConfigError, RemixStudyError
from remix_study.tracking.signals import ended_by

if TYPE_CHECKING:
    from remix_study.cluster.cluster_file import Launcher
    from remix_study.cluster.dashboard import Dashboard, JobState
    from remix_study.cluster.preflight import Findings, Submission
    from remix_study.config.study import StudyConfig

err = Console(stderr=True)
_TRIES, _PAUSE_S = 6, 2.0
# What `ray job` says itself, without a terminal: time, level, file of its source.
_OF_RAY = re.compile(r"^[\d-]+ [\d:,]+\t\w+ cli\.py:\d+ -- ")
# What a study says once all machines of its cluster have been looked at (study/study.py).
_BEGUN = "has begun on a cluster of"


def submit(
    file: Annotated[Path, typer.Argument(help="A study as YAML, in the working directory.")],
    cluster: Annotated[Path | None, typer.Option(help="A file for Ray's cluster launcher (clusters/).")] = None,
    address: Annotated[str | None, typer.Option(help="Instead: a dashboard, such as http://127.0.0.1:8265.")] = None,
    workspace: Annotated[
        str | None,
        typer.Option(envvar="REMIX_STUDY_WORKSPACE", help="On a disk that all nodes share, or a URL (s3://...)."),
    ] = None,
    corpus: Annotated[str | None, typer.Option(help="As the nodes see it: a shared folder, or a URL.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Leave as soon as the study has begun.")] = False,
    env: Annotated[list[str] | None, typer.Option("--env", help="A variable to take along; not a secret.")] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try the points of failed trials again.")
    ] = False,
    working_dir: Annotated[
        Path, typer.Option(help="What is uploaded, with the code: the checkout, or your own folder.")
    ] = Path(),
) -> None:
    """Run a study on a cluster: check everything, upload, start, follow. The same command follows or resumes it."""
    if (cluster is None) == (address is None):
        raise ConfigError(
            "either `--cluster` (a launcher file) or `--address` (a dashboard that is reachable already) must say "
            f"where the study runs, but {'both do' if cluster else 'neither does'}. Give one of them."
        )
    from remix_study.cluster.commands import job_name
    from remix_study.cluster.preflight import environment_of, examine

    with terminal.busy(err, "checking"):
        problems: list[str] = []
        launcher, dashboard = _where(cluster, address, problems)
        study = _study(file, corpus, workspace, problems)
        environment, refused, warnings = environment_of(env or [], os.environ)
        sent = _submission(
            study, file, working_dir, workspace, corpus, launcher, dashboard, environment, retry_failed=retry_failed
        )
        found = examine(sent, [*problems, *refused])
    for warning in (*warnings, *found.warnings):
        err.print(f"[yellow]warning:[/yellow] {escape(warning)}", soft_wrap=True, highlight=False)
    if found.problems or study is None:
        _refuse(found.problems)
    # The forward to the cluster is a process of ours, and ends with us.
    with ended_by(lambda number: _Left("This command was ended.", 128 + number)), Link(launcher, address) as link:
        dashboard = link.dashboard()
        _require_fitting(dashboard)
        job = dashboard.job_of(study.name, str(sent.workspace))
        if job is not None:
            say(f"{study.name} is at work there already, as job {job}; it is not started twice.")
        else:
            job = job_name(study.name)
            _submit(sent, found, link, job)
        _attend(sent, link, job, detach=detach)


def _where(
    cluster: Path | None, address: str | None, problems: list[str]
) -> "tuple[Launcher | None, Dashboard | None]":
    """The launcher file or the dashboard that answers; None where there is a problem."""
    from remix_study.cluster.cluster_file import read_launcher
    from remix_study.cluster.dashboard import Dashboard

    try:
        return (None, Dashboard(str(address))) if cluster is None else (read_launcher(cluster), None)
    except RemixStudyError as error:
        problems.append(str(error))
        return None, None


def _study(file: Path, corpus: str | None, workspace: str | None, problems: list[str]) -> "StudyConfig | None":
    from remix_study.files.urls import is_url
    from remix_study.study.search_space import read_study
    from remix_study.study.storage import check_storage

    try:
        study = read_study(file, {} if corpus is None else {"corpus": corpus})
    except ConfigError as error:
        problems.append(str(error).replace("\n", "\n  "))
        return None
    try:
        # A study that names no storage may get one from the environment of the nodes, which is not ours to see.
        check_storage(study.storage, workspace if is_url(workspace or "") and study.storage is not None else None)
    except ConfigError as error:
        problems.append(str(error))
    return study


def _submission(
    study: "StudyConfig | None", file: Path, working_dir: Path, workspace: str | None, corpus: str | None,
    launcher: "Launcher | None", dashboard: "Dashboard | None", environment: Mapping[str, str], *, retry_failed: bool,
) -> "Submission":  # fmt: skip
    from remix_study.cluster.preflight import Submission

    several = dashboard.several_nodes() if dashboard is not None else launcher is None or launcher.workers > 0
    return Submission(
        study=study,
        file=file.resolve(),
        working_dir=working_dir.resolve(),
        workspace=workspace,
        corpus=corpus,
        retry_failed=retry_failed,
        environment=environment,
        launcher=launcher,
        several_nodes=several,
    )


def _refuse(problems: Sequence[str]) -> NoReturn:
    """
    Raises:
        ConfigError: all of them.
    """
    if len(problems) == 1:
        raise ConfigError(problems[0])
    lines = "\n".join(f"  - {problem}" for problem in problems)
    raise ConfigError(f"the study must be fit for the cluster, but there are {len(problems)} problems:\n{lines}")


def _require_fitting(dashboard: "Dashboard") -> None:
    """
    Raises:
        ConfigError: Ray or Python there are others than this package needs.
    """
    import ray

    from remix_study.cluster.preflight import version_problems

    found = version_problems(dashboard.versions(), ray.__version__)
    if found:
        _refuse(found)


def _submit(sent: "Submission", found: "Findings", link: "Link", job: str) -> None:
    from remix_study.cluster.commands import submit_words
    from remix_study.cluster.upload import MB

    words = submit_words(sent, found, link.url, job)
    show(words)
    try:
        with terminal.busy(err, f"uploading {found.bytes / MB:.1f} MB"):
            done = subprocess.run(
                executable(words), env=ray_environment(), capture_output=True, text=True, errors="replace", check=False
            )
    except KeyboardInterrupt:
        if _is_there(link, job):
            say(f"Job {job} was submitted already, and goes on there.")
            _tell_how(sent, link, job)
        raise typer.Exit(130) from None
    if done.returncode != 0 and not _is_there(link, job):
        raise RemixStudyError(
            f"the cluster must take the job, but `ray job submit` ends with {done.returncode}: "
            f"{last_words(done.stderr, done.stdout)} Mend that, and run it again; nothing has begun."
        )


def _is_there(link: "Link", job: str) -> bool:
    """Whether the job arrived, whatever its submission said."""
    with contextlib.suppress(RemixStudyError):
        return link.dashboard().has(job)
    return False


# --- following -------------------------------------------------------------------------------------------------------


def _attend(sent: "Submission", link: "Link", job: str, *, detach: bool) -> None:
    """Follow the job, and leave with its exit status; or as soon as the study has begun, which leaves it running."""
    assert sent.study is not None
    try:
        state = _follow(link, job, f"{sent.study.name} {_BEGUN}" if detach else None)
    except KeyboardInterrupt:
        say(f"\nYou have left; {sent.study.name} goes on there, as job {job}.")
        _tell_how(sent, link, job)
        raise typer.Exit(130) from None
    except _Left as left:
        say(f"\n{left} {sent.study.name} goes on there, as job {job}.")
        _tell_how(sent, link, job)
        raise typer.Exit(left.code) from None
    if state is None:
        say(f"{sent.study.name} runs there as job {job}, and needs nobody here.")
        _tell_how(sent, link, job)
        return
    _conclude(sent, link, job, state)


class _Left(RemixStudyError):  # noqa: N818 - nothing is wrong with the job
    """We go, and the job stays."""

    def __init__(self, why: str, code: int) -> None:
        super().__init__(why)
        self.code = code


def _follow(link: "Link", job: str, until: str | None) -> "JobState | None":
    """Show the job's log to its end; None as soon as a line begins with `until`.

    A connection that breaks off is made again, and the log goes on where it was.

    Raises:
        _Left: it cannot be made again.
    """
    seen, failures, pause = 0, 0, threading.Event()
    while True:
        try:
            for number, line in enumerate(_log(link, job), start=1):
                if number <= seen:
                    continue
                seen, failures = number, 0
                sys.stdout.write(line)
                sys.stdout.flush()
                if until is not None and line.startswith(until):
                    return None
            state = link.dashboard().state(job)
            if state.over:
                return state
            reason = "its log broke off"
        except _Left:
            raise
        except RemixStudyError as error:
            reason = str(error)
        failures += 1
        if failures == _TRIES:
            raise _Left(f"The connection to the cluster is lost ({reason})", 1)
        pause.wait(_PAUSE_S * failures)  # for a network that comes back, which nobody announces
        with contextlib.suppress(RemixStudyError):
            link.renew()


def _log(link: "Link", job: str) -> Iterator[str]:
    """The lines of the job's log from its begin, until it ends or the connection does."""
    from remix_study.cluster.commands import log_words

    words = log_words(link.url, job)
    show(words)
    process = subprocess.Popen(
        executable(words), env=ray_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True, errors="replace", start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        for number, line in enumerate(process.stdout):
            if not _OF_RAY.match(line):
                yield line
            elif number > 0:
                return  # it has ended: what follows repeats its last lines
    finally:
        end(process)
        process.stdout.close()


def _conclude(sent: "Submission", link: "Link", job: str, state: "JobState") -> None:
    assert sent.study is not None
    name = sent.study.name
    if state.status == "SUCCEEDED":
        if link.launcher is not None:
            report = _ours("report", sent, link)
            say(f"{name} is at its end. Fetch its report with: {report}")
        return
    if state.status == "STOPPED" or state.exit_code == 130:
        say(f"{name} was stopped; the same command goes on with it.")
        raise typer.Exit(130)
    if state.exit_code is None:
        raise RemixStudyError(
            f"job {job} must begin, but did not: {last_words(state.message)} Mend that, and run it again."
        )
    say(f"job {job} has ended with exit status {state.exit_code}; what it said is above.")
    raise typer.Exit(state.exit_code if state.exit_code > 0 else 1)


def _tell_how(sent: "Submission", link: "Link", job: str) -> None:
    """The commands that look at it, and stop it."""
    from remix_study.cluster.commands import log_words, ray_on_head_words, shown_words, stop_words

    if link.launcher is not None:
        log = shown_words(ray_on_head_words(link.launcher, "job", "logs", job, "--follow"), os.environ)
        kill = shown_words(ray_on_head_words(link.launcher, "job", "stop", job), os.environ)
    else:
        log = shown_words(log_words(link.url, job), os.environ)
        kill = shown_words(stop_words(link.url, job), os.environ)
    for what, command in (
        ("status", _ours("status", sent, link)),
        ("log", log),
        ("stop after the epochs under way", _ours("stop", sent, link)),
        ("stop at once", kill),
    ):
        say(f"  {what}: {command}")


def _ours(command: str, sent: "Submission", link: "Link") -> str:
    """`remix-study COMMAND` for this study, from here; without a launcher file from where its workspace is seen."""
    from remix_study.cluster.commands import shown_words

    assert sent.study is not None
    on = [] if link.launcher is None else ["--cluster", link.launcher.word]
    return shown_words(["remix-study", command, sent.study.name, *on, "--workspace", str(sent.workspace)], os.environ)
