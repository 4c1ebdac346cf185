"""Command lines of `ray` that submit a study to a cluster, follow it, and run `remix-study` on the head

Each function returns a list of arguments, so that no shell on this machine parses a value. Two shells on the head do:
one runs the command given to `ray exec`, which is quoted here, and one runs the entrypoint of a job, which Ray quotes.
"""

import json
import re
import secrets
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from remix_study.cluster.cluster_file import CHECKOUT, DASHBOARD_PORT, ClusterFile
from remix_study.cluster.dashboard import OVERRIDING_VARIABLES, STUDY_KEY, WORKSPACE_KEY
from remix_study.cluster.preflight import PreflightReport
from remix_study.cluster.submission import PACKAGE, Submission, package_folder
from remix_study.version import CODE_VARIABLE

OUTPUT_MARKER = "remix-study-output"  # a line between the cluster launcher's own output and the command's


def new_job_id(study: str) -> str:
    """A unique submission id that contains the study's name."""
    return f"remix-study-{study}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"


def run_command(submission: Submission) -> list[str]:
    """The job's entrypoint, `remix-study run ...`, relative to the uploaded folder."""
    file = submission.inside or submission.file.name
    words = ["python", "-m", PACKAGE, "run", f"./{file}" if file.startswith("-") else file]
    words += ["--workspace", str(submission.workspace)]
    if submission.corpus is not None:
        words += ["--corpus", submission.corpus]
    return [*words, *(["--retry-failed"] if submission.retry_failed else [])]


def submit_command(submission: Submission, report: PreflightReport, address: str, job: str) -> list[str]:
    """`ray job submit` for a study.

    Args:
        submission: the study and its places.
        report: the result of `check_submission`, which lists what the upload excludes.
        address: the dashboard's URL as seen from this machine.
        job: the submission id.
    """
    assert submission.study is not None
    runtime: dict[str, Any] = {"excludes": list(report.excludes)}
    runtime["env_vars"] = {**submission.environment, CODE_VARIABLE: report.code}
    if not submission.brings_package:
        runtime["py_modules"] = [str(package_folder())]
    metadata = {STUDY_KEY: submission.study.name, WORKSPACE_KEY: str(submission.workspace)}
    return [
        "ray", "job", "submit", "--address", address, "--submission-id", job,
        "--working-dir", str(submission.working_dir), "--runtime-env-json", json.dumps(runtime),
        "--metadata-json", json.dumps(metadata), "--no-wait", "--", *run_command(submission),
    ]  # fmt: skip


def forward_command(cluster_file: ClusterFile, port: int) -> list[str]:
    """Forward the head's dashboard to a port of this machine, for as long as the command runs."""
    port_of_head = cluster_file.dashboard_port
    remote = [] if port_of_head == DASHBOARD_PORT else ["--remote-port", str(port_of_head)]
    return ["ray", "dashboard", cluster_file.argument, "-p", str(port), *remote]


def logs_command(address: str, job: str) -> list[str]:
    """Print a job's log and follow it."""
    return ["ray", "job", "logs", "--address", address, job, "--follow"]


def stop_command(address: str, job: str) -> list[str]:
    """Stop a job at once."""
    return ["ray", "job", "stop", "--address", address, job]


def head_command(
    cluster_file: ClusterFile, words: Sequence[str], variables: Mapping[str, str], *, marked: bool = True
) -> list[str]:
    """Run `remix-study WORDS` on the head, in its checkout if it has one.

    Args:
        cluster_file: the cluster.
        words: a command of remix-study with its options.
        variables: environment variables to set for the command.
        marked: print `OUTPUT_MARKER` before the command's output.
    """
    assignments = [f"{name}={shlex.quote(value)}" for name, value in variables.items()]
    command = " ".join([*assignments, shlex.join(["python", "-m", PACKAGE, *words])])
    mark = f"echo {OUTPUT_MARKER}; " if marked else ""
    return ["ray", "exec", cluster_file.argument, f"cd {CHECKOUT} 2>/dev/null; {mark}{command}"]


def head_ray_command(cluster_file: ClusterFile, *words: str) -> list[str]:
    """Run `ray WORDS` on the head, where Ray finds its cluster without an address."""
    return ["ray", "exec", cluster_file.argument, shlex.join(["ray", *words])]


def download_command(cluster_file: ClusterFile, source: str, target: Path) -> list[str]:
    """Copy a folder from the head to this machine.

    Args:
        cluster_file: the cluster.
        source: a path from `head_scratch_folder`, because Ray passes it to shells unquoted.
        target: an existing local folder.
    """
    assert re.fullmatch(r"/[\w./-]+/", source), source
    return ["ray", "rsync-down", cluster_file.argument, source, f"{target}/"]


def head_scratch_folder() -> str:
    """A unique path for a temporary folder on the head."""
    return f"/tmp/remix-study-{secrets.token_hex(8)}"


def remove_command(cluster_file: ClusterFile, folder: str) -> list[str]:
    """Delete a folder on the head."""
    return ["ray", "exec", cluster_file.argument, shlex.join(["rm", "-rf", folder])]


def shell_line(words: Sequence[str], environment: Mapping[str, str]) -> str:
    """The command as a line to paste into a terminal that has this environment.

    For `ray job`, the line unsets the variables that would override `--address`.
    """
    unset = [name for name in OVERRIDING_VARIABLES if name in environment] if words[:2] == ["ray", "job"] else []
    return shlex.join([*(["env"] if unset else []), *(part for name in unset for part in ("-u", name)), *words])
