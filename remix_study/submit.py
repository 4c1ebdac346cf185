"""`remix-study submit`: a study to a cluster by one command; and status, stop and report of one from afar

    check      the study, what would be uploaded, workspace, corpus, addresses: all mistakes at once, nothing started
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
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from remix_study import terminal
from remix_study.errors import ConfigError, RemixStudyError

if TYPE_CHECKING:
    from remix_study.config import StudyConfig
    from remix_study.launch.dashboard import Dashboard, JobState
    from remix_study.launch.submission import Findings, Launcher, Submission

out, err = Console(), Console(stderr=True)
_FORWARD_PATIENCE_S = 150.0  # Ray's ssh tries for two minutes
_LOOK_S, _TRIES, _PAUSE_S = 0.2, 6, 2.0
_END_S = 5.0
# What `ray job` says itself, without a terminal: time, level, file of its source.
_OF_RAY = re.compile(r"^[\d-]+ [\d:,]+\t\w+ cli\.py:\d+ -- ")
# What a study says once all machines of its cluster have been looked at (study/study.py).
_BEGUN = "has begun on a cluster of"
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")

ClusterFile = Annotated[
    Path | None,
    typer.Option("--cluster", help="A file for Ray's cluster launcher: look on that cluster's head."),
]


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
    from remix_study.launch.submission import environment_of, examine, job_name

    with terminal.busy(err, "checking"):
        mistakes: list[str] = []
        launcher, dashboard = _where(cluster, address, mistakes)
        study = _study(file, corpus, workspace, mistakes)
        environment, refused, warnings = environment_of(env or [], os.environ)
        sent = _submission(
            study, file, working_dir, workspace, corpus, launcher, dashboard, environment, retry_failed=retry_failed
        )
        found = examine(sent, [*mistakes, *refused])
    for warning in (*warnings, *found.warnings):
        err.print(f"[yellow]warning:[/yellow] {escape(warning)}", soft_wrap=True, highlight=False)
    if found.mistakes or study is None:
        _refuse(found.mistakes)
    with _ended_by_signals(), Link(launcher, address) as link:
        dashboard = link.dashboard()
        _require_fitting(dashboard)
        job = dashboard.job_of(study.name, str(sent.workspace))
        if job is not None:
            _say(f"{study.name} is at work there already, as job {job}; it is not started twice.")
        else:
            job = job_name(study.name)
            _submit(sent, found, link, job)
        _attend(sent, link, job, detach=detach)


def _where(
    cluster: Path | None, address: str | None, mistakes: list[str]
) -> "tuple[Launcher | None, Dashboard | None]":
    """The launcher file or the dashboard that answers; None where there is a mistake."""
    from remix_study.launch.dashboard import Dashboard
    from remix_study.launch.submission import read_launcher

    try:
        return (None, Dashboard(str(address))) if cluster is None else (read_launcher(cluster), None)
    except RemixStudyError as error:
        mistakes.append(str(error))
        return None, None


def _study(file: Path, corpus: str | None, workspace: str | None, mistakes: list[str]) -> "StudyConfig | None":
    from remix_study.media.urls import is_url
    from remix_study.study.search_space import read_study
    from remix_study.study.storage import check_storage

    try:
        study = read_study(file, {} if corpus is None else {"corpus": corpus})
    except ConfigError as error:
        mistakes.append(str(error).replace("\n", "\n  "))
        return None
    try:
        # A study that names no storage may get one from the environment of the nodes, which is not ours to see.
        check_storage(study.storage, workspace if is_url(workspace or "") and study.storage is not None else None)
    except ConfigError as error:
        mistakes.append(str(error))
    return study


def _submission(
    study: "StudyConfig | None", file: Path, working_dir: Path, workspace: str | None, corpus: str | None,
    launcher: "Launcher | None", dashboard: "Dashboard | None", environment: Mapping[str, str], *, retry_failed: bool,
) -> "Submission":  # fmt: skip
    from remix_study.launch.submission import Submission

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


def _refuse(mistakes: Sequence[str]) -> NoReturn:
    """
    Raises:
        ConfigError: all of them.
    """
    if len(mistakes) == 1:
        raise ConfigError(mistakes[0])
    lines = "\n".join(f"  - {mistake}" for mistake in mistakes)
    raise ConfigError(f"the study must be fit for the cluster, but there are {len(mistakes)} mistakes:\n{lines}")


def _require_fitting(dashboard: "Dashboard") -> None:
    """
    Raises:
        ConfigError: Ray or Python there are others than this package needs.
    """
    import ray

    from remix_study.launch.submission import version_mistakes

    found = version_mistakes(dashboard.versions(), ray.__version__)
    if found:
        _refuse(found)


def _submit(sent: "Submission", found: "Findings", link: "Link", job: str) -> None:
    from remix_study.launch.submission import submit_words
    from remix_study.launch.upload import MB

    words = submit_words(sent, found, link.url, job)
    _show(words)
    try:
        with terminal.busy(err, f"uploading {found.bytes / MB:.1f} MB"):
            done = subprocess.run(
                _executable(words), env=_environment(), capture_output=True, text=True, errors="replace", check=False
            )
    except KeyboardInterrupt:
        if _is_there(link, job):
            _say(f"Job {job} was submitted already, and goes on there.")
            _tell_how(sent, link, job)
        raise typer.Exit(130) from None
    if done.returncode != 0 and not _is_there(link, job):
        raise RemixStudyError(
            f"the cluster must take the job, but `ray job submit` ends with {done.returncode}: "
            f"{_last_words(done.stderr, done.stdout)} Mend that, and run it again; nothing has begun."
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
        _say(f"\nYou have left; {sent.study.name} goes on there, as job {job}.")
        _tell_how(sent, link, job)
        raise typer.Exit(130) from None
    except _Left as left:
        _say(f"\n{left} {sent.study.name} goes on there, as job {job}.")
        _tell_how(sent, link, job)
        raise typer.Exit(left.code) from None
    if state is None:
        _say(f"{sent.study.name} runs there as job {job}, and needs nobody here.")
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
    from remix_study.launch.submission import log_words

    words = log_words(link.url, job)
    _show(words)
    process = subprocess.Popen(
        _executable(words), env=_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
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
        _end(process)
        process.stdout.close()


def _conclude(sent: "Submission", link: "Link", job: str, state: "JobState") -> None:
    assert sent.study is not None
    name = sent.study.name
    if state.status == "SUCCEEDED":
        if link.launcher is not None:
            report = _ours("report", sent, link)
            _say(f"{name} is at its end. Fetch its report with: {report}")
        return
    if state.status == "STOPPED" or state.exit_code == 130:
        _say(f"{name} was stopped; the same command goes on with it.")
        raise typer.Exit(130)
    if state.exit_code is None:
        raise RemixStudyError(
            f"job {job} must begin, but did not: {_last_words(state.message)} Mend that, and run it again."
        )
    _say(f"job {job} has ended with exit status {state.exit_code}; what it said is above.")
    raise typer.Exit(state.exit_code if state.exit_code > 0 else 1)


def _tell_how(sent: "Submission", link: "Link", job: str) -> None:
    """The commands that look at it, and stop it."""
    from remix_study.launch.submission import log_words, ray_on_head_words, shown_words, stop_words

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
        _say(f"  {what}: {command}")


def _ours(command: str, sent: "Submission", link: "Link") -> str:
    """`remix-study COMMAND` for this study, from here; without a launcher file from where its workspace is seen."""
    from remix_study.launch.submission import shown_words

    assert sent.study is not None
    on = [] if link.launcher is None else ["--cluster", link.launcher.word]
    return shown_words(["remix-study", command, sent.study.name, *on, "--workspace", str(sent.workspace)], os.environ)


# --- reaching the dashboard ------------------------------------------------------------------------------------------


class Link:
    """The way to a cluster's dashboard: an address, or a forward to its head that lasts as long as the block."""

    def __init__(self, launcher: "Launcher | None", address: str | None) -> None:
        self.launcher = launcher
        self.url = "" if address is None else address
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Link":
        self.renew()
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def dashboard(self) -> "Dashboard":
        from remix_study.launch.dashboard import Dashboard

        return Dashboard(self.url)

    def renew(self) -> None:
        """Make the forward, or make it again where it has ended.

        Raises:
            RemixStudyError: the cluster is not up, or cannot be reached.
        """
        if self.launcher is None or (self._process is not None and self._process.poll() is None and _answers(self.url)):
            return
        self._close()
        from remix_study.launch.submission import forward_words

        port = _free_port()
        words = forward_words(self.launcher, port)
        _show(words)
        self.url = f"http://127.0.0.1:{port}"
        with tempfile.TemporaryFile() as said, terminal.busy(err, "reaching the head"):
            self._process = subprocess.Popen(
                _executable(words), env=_environment(), stdin=subprocess.DEVNULL, stdout=said,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
            try:
                reached = self._await(self._process)
            except BaseException:  # Ctrl-C, say: the forward ends with us
                self._close()
                raise
            if not reached:
                ended = self._process.poll() is not None
                self._close()
                said.seek(0)
                raise RemixStudyError(_unreached(self.launcher, said.read().decode(errors="replace"), ended=ended))

    def _await(self, process: "subprocess.Popen[bytes]") -> bool:
        """Whether the forward leads to a dashboard; a process of another program says so by answering alone."""
        pause, end = threading.Event(), time.monotonic() + _FORWARD_PATIENCE_S
        while process.poll() is None and time.monotonic() < end:
            if _answers(self.url):
                return True
            pause.wait(_LOOK_S)
        return False

    def _close(self) -> None:
        if self._process is not None:
            _end(self._process)
            self._process = None


def _unreached(launcher: "Launcher", said: str, *, ended: bool) -> str:
    if _NO_HEAD.search(said):
        return f"the cluster {launcher.name} must be up, but has no head that runs. Start it with: {launcher.up}"
    if not ended:
        return (
            f"the dashboard must answer at port {launcher.dashboard_port} of the head of {launcher.name}, but does not "
            f"within {_FORWARD_PATIENCE_S:.0f} s. See `ray exec {launcher.word} 'ray status'`, or start the cluster "
            f"again with: {launcher.up}"
        )
    return (
        f"the head of {launcher.name} must be reached by ssh, but `ray dashboard` ends: {_last_words(said)} Mend "
        f"that, or start the cluster with: {launcher.up}"
    )


_NO_HEAD = re.compile(r"Head node of cluster \(.*?\) not found", re.DOTALL)


def _answers(url: str) -> bool:
    """Whether a dashboard is there, even one that asks for a token."""
    try:
        urllib.request.urlopen(f"{url}/api/version", timeout=_END_S).close()
    except urllib.error.HTTPError as refused:
        refused.close()
        return True
    except OSError:
        return False
    return True


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- on the head -----------------------------------------------------------------------------------------------------


def status_there(cluster: Path, name: str, workspace: Path | str, *, as_json: bool, watch: bool) -> None:
    """`status` on the cluster's head."""
    if watch and not as_json:
        _on_head(cluster, workspace, ["status", name, "--watch"], attached=True)
        return
    said = _on_head(cluster, workspace, ["status", name, *(["--json"] if as_json else [])])
    sys.stdout.write(said)


def stop_there(cluster: Path, name: str, workspace: Path | str) -> None:
    """`stop` on the cluster's head."""
    sys.stdout.write(_on_head(cluster, workspace, ["stop", name]))


def report_there(cluster: Path, name: str, workspace: Path | str, folder: Path | None) -> None:
    """`report` on the cluster's head; its files come into a folder of this machine, by default NAME-report."""
    from remix_study.launch.submission import fetch_words, read_launcher, remove_words, scratch_on_head

    launcher, scratch = read_launcher(cluster), scratch_on_head()
    _on_head(cluster, workspace, ["report", name, "--out", scratch])
    target = Path(f"{Path(name).name}-report") if folder is None else folder
    target.mkdir(parents=True, exist_ok=True)
    try:
        _run(launcher, fetch_words(launcher, f"{scratch}/", target.resolve()))
    finally:
        _run(launcher, remove_words(launcher, scratch))
    page = target / "report.html"
    if not page.exists():
        raise RemixStudyError(
            f"the report must have come into {target}, but there is no report.html. See rsync_exclude in {cluster}."
        )
    out.print(str(page), soft_wrap=True, highlight=False)
    out.print(f"and {len(list(target.iterdir())) - 1} pictures and tables beside it", highlight=False)


def _on_head(cluster: Path, workspace: Path | str, words: Sequence[str], *, attached: bool = False) -> str:
    """What `remix-study WORDS` says on the head; attached: it says it to our terminal itself.

    Raises:
        ConfigError, RemixStudyError: the workspace is none of a cluster's; the head is not reached; it complains there.
    """
    from remix_study.launch.submission import SAYS, on_head_words, read_launcher
    from remix_study.media.urls import is_url

    place = str(workspace)
    if not is_url(place) and not Path(place).is_absolute():
        raise ConfigError(
            f"`--workspace` must be that of the study on the cluster, but {place} is relative. Use the one that it was "
            "submitted with, such as /shared/workspace."
        )
    launcher = read_launcher(cluster)
    variables = {} if attached else {"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": str(out.width)}
    command = on_head_words(launcher, [*words, "--workspace", place], variables, marked=not attached)
    said = _run(launcher, command, attached=attached)
    return said.partition(f"{SAYS}\n")[2]


def _run(launcher: "Launcher", words: Sequence[str], *, attached: bool = False) -> str:
    """A command of the cluster launcher; what it says, with the line ends of this machine."""
    from remix_study.launch.submission import SAYS

    _show(words)
    done = subprocess.run(
        _executable(words), env=_environment(), stdin=None if attached else subprocess.DEVNULL,
        stdout=None if attached else subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", check=False,
    )  # fmt: skip
    said = _ANSI.sub("", done.stdout or "").replace("\r\n", "\n")
    if done.returncode == 0:
        return said
    if _NO_HEAD.search(done.stderr + said):
        raise RemixStudyError(_unreached(launcher, done.stderr + said, ended=True))
    before, _, ours = said.partition(f"{SAYS}\n")
    complaint = re.search(r"^error: +(.*?)(?=\n\d{4}-|\n *SSH command|\nError:|\Z)", ours, re.DOTALL | re.MULTILINE)
    if complaint is not None:  # it is a sentence of ours already
        raise RemixStudyError(" ".join(complaint[1].split()))
    raise RemixStudyError(
        f"`{words[0]} {words[1]}` must succeed on the head of {launcher.name}, but ends with {done.returncode}: "
        f"{_last_words(ours or before, done.stderr)}"
    )


# --- processes -------------------------------------------------------------------------------------------------------


def _show(words: Sequence[str]) -> None:
    from remix_study.launch.submission import shown_words

    err.print(f"$ {shown_words(words, os.environ)}", markup=False, highlight=False, soft_wrap=True, style="dim")


def _say(words: str) -> None:
    err.print(words, markup=False, highlight=False, soft_wrap=True)


def _executable(words: Sequence[str]) -> list[str]:
    """With `ray` as its file: that of the PATH, or that beside our Python where no environment is activated.

    Raises:
        RemixStudyError: there is neither.
    """
    beside = Path(sys.executable).with_name(words[0])
    found = shutil.which(words[0]) or (str(beside) if beside.exists() else None)
    if found is None:
        raise RemixStudyError(
            f"the command `{words[0]}` must be on the PATH, but is not. Activate the environment of remix_study."
        )
    return [found, *words[1:]]


def _environment() -> dict[str, str]:
    """Ours, but for what would be stronger than the address that we give, and with lines that come as they are said."""
    from remix_study.launch.dashboard import OVERRIDING

    return {**{k: v for k, v in os.environ.items() if k not in OVERRIDING}, "PYTHONUNBUFFERED": "1"}


def _end(process: "subprocess.Popen[bytes] | subprocess.Popen[str]") -> None:
    """With all that it started: it has a session of its own."""
    if process.poll() is None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            try:
                process.wait(_END_S)
                return
            except subprocess.TimeoutExpired:
                continue


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """In the block, a terminal that goes away or a SIGTERM ends us by an exception, so that the forward ends, too."""

    def leave(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 - the signature of a handler
        raise _Left("This command was ended.", 128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, leave) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _last_words(*said: str) -> str:
    """The last line that tells something, without a traceback's frames."""
    for text in said:
        lines = [line.strip() for line in _ANSI.sub("", text).splitlines()]
        told = [line for line in lines if re.search(r"\w", line) and not line.startswith(("File ", "^", "~"))]
        if told:
            return f"{told[-1][:400].rstrip('.')}."
    return "it says nothing."
