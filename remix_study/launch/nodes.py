"""Checking that all nodes of a Ray cluster have the same files, code and package versions

A Ray task checks every node that exists when the study starts. A node that the autoscaler adds later is checked when
its first run starts (study/tasks.py).
"""

import functools
import importlib.metadata
import os
import platform
import socket
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from remix_study.errors import RemixStudyError, StudyError, UnavailableError
from remix_study.files.mirror import url_of
from remix_study.files.remote_folder import RemoteFolder
from remix_study.files.urls import is_url, path_of
from remix_study.launch.dependencies import missing_dependencies
from remix_study.launch.ray_init import on_loopback
from remix_study.patience import PATIENCE
from remix_study.version import CODE_VARIABLE, code_digest

_PATIENCE_S = PATIENCE.node_answer_s  # the first process of a node imports Ray, perhaps from a slow disk
_SILENT = "did not answer"
# Other versions give other numbers, or cannot read a checkpoint.
_PACKAGES = ("ray", "torch", "torchaudio", "numpy", "optuna")
SEND_CODE = (
    "Start with `remix-study submit`, `run_study.py` or `ray job submit --working-dir .`, which send the code to all "
    "nodes"
)


@dataclass(frozen=True)
class NodeRequirements:
    """What a node must have.

    Args:
        files: paths on a shared disk, each with its name for messages.
        urls: URLs that the node must be able to list, each with its name for messages.
        versions: package versions, as of `versions`.
        code: as of `code_digest`.
    """

    files: Mapping[str, str]
    urls: Mapping[str, str]
    versions: Mapping[str, str]
    code: str


def require_identical_nodes(workspace: Path, corpus: str) -> int:
    """Check every node of the connected cluster, and return the number of nodes.

    Args:
        workspace: a folder of this machine, or the local copy of a remote workspace.
        corpus: a folder or a URL.

    Raises:
        StudyError: some nodes lack something; the message lists the problems of each.
    """
    here = ray.get_runtime_context().get_node_id()
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]  # Ray's gap
    others = [node for node in nodes if node["Alive"] and node["NodeID"] != here]
    if not others:
        return 1
    with _token(workspace) as token:
        requirements = NodeRequirements(
            files=({} if token is None else {str(token): f"the workspace {workspace}"})
            | ({} if is_url(corpus) else {str(_seal(path_of(corpus))): f"the corpus {corpus}"}),
            urls={url: what for url, what in ((url_of(workspace), "the workspace"), (corpus, "the corpus"))
                  if url is not None and is_url(url)},
            versions=versions(),
            code=code_digest(),
        )  # fmt: skip
        problems = collect_problems(others, requirements)
    if problems:
        silent = any(_SILENT in problem for problem in problems)
        raise (UnavailableError if silent else StudyError)(
            "Not all nodes of the cluster have the same files, code and versions:\n"
            + "\n".join(f"  - {problem}" for problem in problems)
        )
    return len(others) + 1


@contextmanager
def _token(workspace: Path) -> Iterator[Path | None]:
    """Create a file with a unique name in the workspace for the block; yield None if the workspace is at a URL.

    A node that does not find the file has another disk at this path.
    """
    if url_of(workspace) is not None:
        yield None
        return
    workspace.mkdir(parents=True, exist_ok=True)
    token = workspace / f".seen-by-all-{uuid.uuid4().hex}"
    token.touch()
    try:
        yield token
    finally:
        token.unlink(missing_ok=True)


def _seal(corpus: Path) -> Path:
    """Return the manifest of the corpus's clip store, without which there is no store."""
    inner = corpus / "store" / "manifest.json"
    return (inner if inner.exists() else corpus / "manifest.json").resolve()


def collect_problems(nodes: Sequence[Mapping[str, Any]], requirements: NodeRequirements) -> list[str]:
    """Run `missing_dependencies` and `node_problems` on every node, and return what each lacks.

    Args:
        nodes: entries of `ray.nodes()`.
        requirements: what each must have.

    Returns:
        Sentences that start with the address of a node.
    """
    # First alone: a node that lacks a package cannot import `node_problems`.
    lacking = _run_on(nodes, missing_dependencies)
    able = [node for node, lack in zip(nodes, lacking, strict=True) if lack is None]
    answers = iter(_run_on(able, node_problems, requirements))
    found: list[str] = []
    for node, lack in zip(nodes, lacking, strict=True):
        answer = next(answers) if lack is None else lack
        problems = [answer] if isinstance(answer, str) else answer or []
        found += [f"{node['NodeManagerAddress']}: {problem}" for problem in problems]
    return found


def _run_on(nodes: Sequence[Mapping[str, Any]], function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Return the result of `function` on each node, or the reason why it could not run there."""
    checks = []
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        task: Any = ray.remote(function)
        how = {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": there}
        checks.append(task.options(**how).remote(*arguments))
    ready, _ = ray.wait(checks, num_returns=len(checks), timeout=_PATIENCE_S) if checks else ([], [])
    found: list[Any] = []
    for check in checks:
        if check not in ready:
            found.append(f"{_SILENT} within {_PATIENCE_S:.0f} s. See `ray status`")
            ray.cancel(check, force=True)
            continue
        try:
            found.append(ray.get(check))
        except RayError as error:
            found.append(f"cannot run remix_study (... {' '.join(str(error).split())[-300:]})")
    return found


def node_problems(requirements: NodeRequirements) -> list[str]:
    """Return what this node lacks; runs as a Ray task on each node."""
    found = [
        f"{socket.gethostname()} does not see {what}. Put it on a disk that all nodes share, at the same path, or at a "
        "URL such as s3://bucket/folder"
        for path, what in requirements.files.items()
        if not Path(path).exists()
    ]
    for url, what in requirements.urls.items():
        try:
            RemoteFolder(url).matching("*")
        except RemixStudyError as error:
            found.append(f"{socket.gethostname()} cannot use {what}: {error}")
    mine = versions()
    other = [f"{name} {mine.get(name)} (not {version})" for name, version in requirements.versions.items()
             if mine.get(name) != version]  # fmt: skip
    if other:
        found.append(f"{socket.gethostname()} has {', '.join(other)}. Install the same versions (constraints.txt)")
    if code_digest() != requirements.code:
        found.append(_other_code())
    return found


def _other_code() -> str:
    return f"{socket.gethostname()} has other code of remix_study, in {Path(__file__).parents[1]}. {SEND_CODE}"


def code_for_workers() -> str | None:
    """Return the digest of the code that the processes of a cluster must run; None without a cluster.

    Not checked on a single machine, where all processes run the same files.
    """
    return _own_code() if on_cluster() and not on_loopback() else None


def require_code(expected: str | None) -> None:
    """Check that this process runs the code with the digest `expected`, as of `code_for_workers`.

    Raises:
        StudyError: it runs other code, for example because its node has an installed package of another version.
    """
    if expected is not None and _own_code() != expected:
        raise StudyError(f"{_other_code()}.")


def require_submitted_code() -> None:
    """Check that this process runs the code that `remix-study submit` uploaded.

    Raises:
        StudyError: it runs other code.
    """
    expected = os.environ.get(CODE_VARIABLE)
    if expected and _own_code() != expected:
        raise StudyError(
            f"The code that runs on {socket.gethostname()} is not the code that was submitted: Python imports "
            f"remix_study from {Path(__file__).parents[1]}. Check whether PYTHONPATH on the nodes names another copy."
        )


@functools.cache
def _own_code() -> str:
    return code_digest()


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that numeric results depend on."""
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    major, minor, _ = platform.python_version_tuple()
    return {"Python": f"{major}.{minor}", **found}


def on_cluster() -> bool:
    """Return whether this process is connected to Ray, or RAY_ADDRESS names a cluster."""
    return ray.is_initialized() or "RAY_ADDRESS" in os.environ
