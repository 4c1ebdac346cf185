"""The commands that send a study to a cluster, follow it, and look at it there

Lists of words, so that no value ever meets a shell unquoted. A shell reads only what `ray exec` runs on the head, which
is quoted here, and a job's command line, which Ray itself joins with quotes.
"""

import json
import re
import secrets
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from remix_study.cluster.cluster_file import CHECKOUT, DASHBOARD_PORT, Launcher
from remix_study.cluster.dashboard import OVERRIDING, STUDY, WORKSPACE
from remix_study.cluster.preflight import PACKAGE, Findings, Submission, package_folder

SAYS = "remix-study-says"  # what the cluster launcher has to say itself ends before it


def job_name(study: str) -> str:
    """A submission id that is new, and says which study it is."""
    return f"remix-study-{study}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"


def run_words(sent: Submission) -> list[str]:
    """What the job runs, in the uploaded folder."""
    file = sent.inside or sent.file.name
    words = ["python", "-m", PACKAGE, "run", f"./{file}" if file.startswith("-") else file]
    words += ["--workspace", str(sent.workspace)]
    if sent.corpus is not None:
        words += ["--corpus", sent.corpus]
    return [*words, *(["--retry-failed"] if sent.retry_failed else [])]


def submit_words(sent: Submission, found: Findings, address: str, job: str) -> list[str]:
    """
    Args:
        address: of the dashboard, as it is reached from here.
        job: the submission id.
    """
    assert sent.study is not None
    runtime: dict[str, Any] = {"excludes": list(found.excludes)}
    if sent.environment:
        runtime["env_vars"] = dict(sent.environment)
    if not sent.brings_package:
        runtime["py_modules"] = [str(package_folder())]
    about = {STUDY: sent.study.name, WORKSPACE: str(sent.workspace)}
    return [
        "ray", "job", "submit", "--address", address, "--submission-id", job, "--working-dir", str(sent.working_dir),
        "--runtime-env-json", json.dumps(runtime), "--metadata-json", json.dumps(about), "--no-wait", "--",
        *run_words(sent),
    ]  # fmt: skip


def forward_words(launcher: Launcher, port: int) -> list[str]:
    """The dashboard of the cluster's head, at a port of this machine for as long as the command runs."""
    remote = [] if launcher.dashboard_port == DASHBOARD_PORT else ["--remote-port", str(launcher.dashboard_port)]
    return ["ray", "dashboard", launcher.word, "-p", str(port), *remote]


def log_words(address: str, job: str) -> list[str]:
    return ["ray", "job", "logs", "--address", address, job, "--follow"]


def stop_words(address: str, job: str) -> list[str]:
    return ["ray", "job", "stop", "--address", address, job]


def on_head_words(
    launcher: Launcher, words: Sequence[str], variables: Mapping[str, str], *, marked: bool = True
) -> list[str]:
    """`remix-study WORDS` on the cluster's head, in its checkout where it has one.

    marked: its output follows a line `SAYS`.
    """
    given = [f"{name}={shlex.quote(value)}" for name, value in variables.items()]
    command = " ".join([*given, shlex.join(["python", "-m", PACKAGE, *words])])
    mark = f"echo {SAYS}; " if marked else ""
    return ["ray", "exec", launcher.word, f"cd {CHECKOUT} 2>/dev/null; {mark}{command}"]


def ray_on_head_words(launcher: Launcher, *words: str) -> list[str]:
    """A command of Ray's on the head, where it finds its cluster by itself."""
    return ["ray", "exec", launcher.word, shlex.join(["ray", *words])]


def fetch_words(launcher: Launcher, source: str, target: Path) -> list[str]:
    """A folder of the head to here. `source`: of our own making, because Ray gives it to shells as it is."""
    assert re.fullmatch(r"/[\w./-]+/", source), source
    return ["ray", "rsync-down", launcher.word, source, f"{target}/"]


def scratch_on_head() -> str:
    """A folder of the head that nobody else uses."""
    return f"/tmp/remix-study-{secrets.token_hex(8)}"


def remove_words(launcher: Launcher, folder: str) -> list[str]:
    return ["ray", "exec", launcher.word, shlex.join(["rm", "-rf", folder])]


def shown_words(words: Sequence[str], own: Mapping[str, str]) -> str:
    """A command as it may be copied into a terminal with the environment `own`."""
    hidden = [name for name in OVERRIDING if name in own] if words[:2] == ["ray", "job"] else []
    return shlex.join([*(["env"] if hidden else []), *(part for name in hidden for part in ("-u", name)), *words])
