"""`status`, `stop` and `report` for a study on a remote cluster: runs the command on the head over ssh"""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from remix_study.cluster.connection import (
    ANSI,
    NO_HEAD,
    last_message,
    ray_environment,
    resolve,
    show_command,
    unreachable_message,
)
from remix_study.errors import ConfigError, RemixStudyError

if TYPE_CHECKING:
    from remix_study.cluster.cluster_file import ClusterFile

out = Console()


def remote_status(cluster: Path, name: str, workspace: Path | str, *, as_json: bool, watch: bool) -> None:
    """Print what `status` prints on the cluster's head."""
    if watch and not as_json:
        _run_on_head(cluster, workspace, ["status", name, "--watch"], attached=True)
        return
    output = _run_on_head(cluster, workspace, ["status", name, *(["--json"] if as_json else [])])
    sys.stdout.write(output)


def remote_stop(cluster: Path, name: str, workspace: Path | str) -> None:
    """Run `stop` on the cluster's head."""
    # Its further lines are for users of the head.
    stopping, _, _ = _run_on_head(cluster, workspace, ["stop", name]).partition("\n")
    sys.stdout.write(f"{stopping} Rerun the command that started it to resume.\n")


def remote_report(cluster: Path, name: str, workspace: Path | str, folder: Path | None) -> None:
    """Write the report on the cluster's head and download it into a folder, by default NAME-report.

    Raises:
        RemixStudyError: the head cannot be reached, or the download lacks report.html.
    """
    from remix_study.cluster.cluster_file import read_cluster_file
    from remix_study.cluster.commands import download_command, head_scratch_folder, remove_command

    cluster_file, scratch = read_cluster_file(cluster), head_scratch_folder()
    _run_on_head(cluster, workspace, ["report", name, "--out", scratch])
    target = Path(f"{Path(name).name}-report") if folder is None else folder
    target.mkdir(parents=True, exist_ok=True)
    try:
        _run(cluster_file, download_command(cluster_file, f"{scratch}/", target.resolve()))
    finally:
        _run(cluster_file, remove_command(cluster_file, scratch))
    page = target / "report.html"
    if not page.exists():
        raise RemixStudyError(
            f"The download to {target} does not contain report.html. Check `rsync_exclude` in {cluster}."
        )
    out.print(str(page), soft_wrap=True, markup=False, emoji=False, highlight=False)
    out.print(f"{len(list(target.iterdir())) - 1} figures and tables in the same folder", highlight=False)


def _run_on_head(cluster: Path, workspace: Path | str, words: Sequence[str], *, attached: bool = False) -> str:
    """The output of `remix-study WORDS` on the head; with `attached`, it goes to this terminal instead.

    Raises:
        ConfigError: the workspace is a relative path.
        RemixStudyError: the head cannot be reached, or the command fails there.
    """
    from remix_study.cluster.cluster_file import read_cluster_file
    from remix_study.cluster.commands import OUTPUT_MARKER, head_command
    from remix_study.files.urls import is_url

    place = str(workspace)
    if not is_url(place) and not Path(place).is_absolute():
        raise ConfigError(
            f"With --cluster, `--workspace` must be an absolute path or a URL, but is {place}. Use the workspace that "
            "the study was submitted with, such as /shared/workspace."
        )
    cluster_file = read_cluster_file(cluster)
    variables = {} if attached else {"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": str(out.width)}
    command = head_command(cluster_file, [*words, "--workspace", place], variables, marked=not attached)
    output = _run(cluster_file, command, attached=attached)
    return output.partition(f"{OUTPUT_MARKER}\n")[2]


def _run(cluster_file: "ClusterFile", words: Sequence[str], *, attached: bool = False) -> str:
    """The standard output of a command of the cluster launcher, with Unix line ends."""
    from remix_study.cluster.commands import OUTPUT_MARKER

    show_command(words)
    done = subprocess.run(
        resolve(words), env=ray_environment(), stdin=None if attached else subprocess.DEVNULL,
        stdout=None if attached else subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", check=False,
    )  # fmt: skip
    output = ANSI.sub("", done.stdout or "").replace("\r\n", "\n")
    if done.returncode == 0:
        return output
    if NO_HEAD.search(done.stderr + output):
        raise RemixStudyError(unreachable_message(cluster_file, done.stderr + output, ended=True))
    before, _, ours = output.partition(f"{OUTPUT_MARKER}\n")
    problem = re.search(r"^error: +(.*?)(?=\n\d{4}-|\n *SSH command|\nError:|\Z)", ours, re.DOTALL | re.MULTILINE)
    if problem is not None:  # an error message of remix-study itself
        raise RemixStudyError(" ".join(problem[1].split()))
    raise RemixStudyError(
        f"`{words[0]} {words[1]}` failed on the head of cluster {cluster_file.name} with exit status "
        f"{done.returncode}: {last_message(ours or before, done.stderr)}"
    )
