"""`status`, `stop` and `report` of a study on a cluster whose disk this machine does not see: on its head, by ssh"""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from remix_study.cluster.connection import ANSI, NO_HEAD, executable, last_words, ray_environment, show, unreached
from remix_study.errors import ConfigError, RemixStudyError

if TYPE_CHECKING:
    from remix_study.cluster.cluster_file import Launcher

out = Console()
ClusterFile = Annotated[
    Path | None,
    typer.Option("--cluster", help="A file for Ray's cluster launcher: look on that cluster's head."),
]


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
    from remix_study.cluster.cluster_file import read_launcher
    from remix_study.cluster.commands import fetch_words, remove_words, scratch_on_head

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
    from remix_study.cluster.cluster_file import read_launcher
    from remix_study.cluster.commands import SAYS, on_head_words
    from remix_study.files.urls import is_url

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
    from remix_study.cluster.commands import SAYS

    show(words)
    done = subprocess.run(
        executable(words), env=ray_environment(), stdin=None if attached else subprocess.DEVNULL,
        stdout=None if attached else subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", check=False,
    )  # fmt: skip
    said = ANSI.sub("", done.stdout or "").replace("\r\n", "\n")
    if done.returncode == 0:
        return said
    if NO_HEAD.search(done.stderr + said):
        raise RemixStudyError(unreached(launcher, done.stderr + said, ended=True))
    before, _, ours = said.partition(f"{SAYS}\n")
    problem = re.search(r"^error: +(.*?)(?=\n\d{4}-|\n *SSH command|\nError:|\Z)", ours, re.DOTALL | re.MULTILINE)
    if problem is not None:  # it is a sentence of ours already
        raise RemixStudyError(" ".join(problem[1].split()))
    raise RemixStudyError(
        f"`{words[0]} {words[1]}` must succeed on the head of {launcher.name}, but ends with {done.returncode}: "
        f"{last_words(ours or before, done.stderr)}"
    )
