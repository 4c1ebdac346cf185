"""Checking that all nodes of a Ray cluster have the same files, code and package versions

A Ray task checks every node that exists when the study starts. A node that the autoscaler adds later is checked when
its first run starts (study/tasks.py).
"""

import hashlib
import importlib.metadata
import os
import platform
import socket
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from remix_study.errors import RemixStudyError, StudyError
from remix_study.files.mirror import url_of
from remix_study.files.remote_folder import RemoteFolder
from remix_study.files.urls import is_url, path_of
from remix_study.patience import PATIENCE

_PATIENCE_S = PATIENCE.node_answer_s  # the first process of a node imports Ray, perhaps from a slow disk
# Other versions give other numbers, or cannot read a checkpoint.
_PACKAGES = ("ray", "torch", "torchaudio", "numpy", "optuna")


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
        raise StudyError(
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
    """Run `node_problems` on every node, and return what each lacks, starting with its address.

    Args:
        nodes: entries of `ray.nodes()`.
        requirements: what each must have.
    """
    checks = []
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        task: Any = ray.remote(node_problems)
        how = {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": there}
        checks.append((node["NodeManagerAddress"], task.options(**how).remote(requirements)))
    ready, _ = ray.wait([check for _, check in checks], num_returns=len(checks), timeout=_PATIENCE_S)
    found: list[str] = []
    for address, check in checks:
        if check not in ready:
            found.append(f"{address} did not answer within {_PATIENCE_S:.0f} s. See `ray status`")
            ray.cancel(check, force=True)
            continue
        try:
            found += [f"{address}: {problem}" for problem in ray.get(check)]
        except RayError as error:
            words = " ".join(str(error).split())[-300:]
            found.append(f"{address}: cannot run remix_study (... {words})")
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
        found.append(
            f"{socket.gethostname()} has other code of remix_study. Start with `remix-study submit`, `run_study.py` or "
            "`ray job submit --working-dir .`, which send the code to all nodes"
        )
    return found


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that numeric results depend on."""
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    major, minor, _ = platform.python_version_tuple()
    return {"Python": f"{major}.{minor}", **found}


def code_digest(root: Path = Path(__file__).parents[1]) -> str:
    """Return the SHA-256 digest of names and contents of all Python files below `root` (default: this package)."""
    content = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        content.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return content.hexdigest()


def on_cluster() -> bool:
    """Return whether this process is connected to Ray, or RAY_ADDRESS names a cluster."""
    return ray.is_initialized() or "RAY_ADDRESS" in os.environ
