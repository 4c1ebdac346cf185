"""What all machines of a cluster must have before a study begins: the same files, code and versions

A task looks at every machine that is there now; one that the autoscaler adds later meets the same demands when its
first run begins (study/tasks.py).
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

_PATIENCE_S = 180.0  # a machine's first process imports Ray from a disk that may be slow
# Of other versions, numbers are others, or checkpoints cannot be read.
_PACKAGES = ("ray", "torch", "torchaudio", "numpy", "optuna")


@dataclass(frozen=True)
class NodeRequirements:
    """What a machine must see: `seen` are files of a shared disk, with what is said of each; `urls` alike."""

    seen: Mapping[str, str]
    urls: Mapping[str, str]
    versions: Mapping[str, str]
    code: str


def require_identical_nodes(workspace: Path, corpus: str) -> int:
    """Look at every machine of the Ray that we are on; how many there are.

    Args:
        workspace: a folder of this machine, or its copy of what lies at a URL.
        corpus: a folder or a URL.

    Raises:
        StudyError: what is wrong, machine by machine.
    """
    here = ray.get_runtime_context().get_node_id()
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]  # Ray's gap
    others = [node for node in nodes if node["Alive"] and node["NodeID"] != here]
    if not others:
        return 1
    with _token(workspace) as token:
        demands = NodeRequirements(
            seen=({} if token is None else {str(token): f"the workspace {workspace}"})
            | ({} if is_url(corpus) else {str(_seal(path_of(corpus))): f"the corpus {corpus}"}),
            urls={url: what for url, what in ((url_of(workspace), "the workspace"), (corpus, "the corpus"))
                  if url is not None and is_url(url)},
            versions=versions(),
            code=code_digest(),
        )  # fmt: skip
        problems = _ask(others, demands)
    if problems:
        raise StudyError(
            "every machine of the cluster must have the same files, code and versions, but:\n"
            + "\n".join(f"  - {problem}" for problem in problems)
        )
    return len(others) + 1


@contextmanager
def _token(workspace: Path) -> Iterator[Path | None]:
    """A file in the workspace that no other disk has; None where the workspace is at a URL."""
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
    """The file without which there is no store."""
    inner = corpus / "store" / "manifest.json"
    return (inner if inner.exists() else corpus / "manifest.json").resolve()


def _ask(nodes: Sequence[Mapping[str, Any]], demands: NodeRequirements) -> list[str]:
    looks = []
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        task: Any = ray.remote(node_problems)
        how = {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": there}
        looks.append((node["NodeManagerAddress"], task.options(**how).remote(demands)))
    ready, _ = ray.wait([look for _, look in looks], num_returns=len(looks), timeout=_PATIENCE_S)
    found: list[str] = []
    for address, look in looks:
        if look not in ready:
            found.append(f"{address} does not answer within {_PATIENCE_S:.0f} s; see `ray status`")
            ray.cancel(look, force=True)
            continue
        try:
            found += [f"{address}: {problem}" for problem in ray.get(look)]
        except RayError as error:
            words = " ".join(str(error).split())[-300:]
            found.append(f"{address}: it cannot run this project's code (... {words})")
    return found


def node_problems(demands: NodeRequirements) -> list[str]:
    """On a machine of the cluster: what it lacks."""
    found = [
        f"{socket.gethostname()} does not see {what}. Put it on a disk that all machines share, at the same path, or "
        "at a URL such as s3://bucket/folder"
        for path, what in demands.seen.items()
        if not Path(path).exists()
    ]
    for url, what in demands.urls.items():
        try:
            RemoteFolder(url).matching("*")
        except RemixStudyError as error:
            found.append(f"{socket.gethostname()} cannot use {what}: {error}")
    mine = versions()
    other = [f"{name} {mine.get(name)} (not {version})" for name, version in demands.versions.items()
             if mine.get(name) != version]  # fmt: skip
    if other:
        found.append(f"{socket.gethostname()} has {', '.join(other)}. Install the same versions (constraints.txt)")
    if code_digest() != demands.code:
        found.append(
            f"{socket.gethostname()} has another remix_study. Start with `remix-study submit`, `run_study.py` or `ray "
            "job submit --working-dir .`, which hand the code to all machines"
        )
    return found


def versions() -> dict[str, str]:
    """Of what decides about numbers."""
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    major, minor, _ = platform.python_version_tuple()
    return {"Python": f"{major}.{minor}", **found}


def code_digest(root: Path = Path(__file__).parents[1]) -> str:
    """A digest of all Python files below `root`; by default, of this package as this process would import it."""
    content = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        content.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return content.hexdigest()


def on_cluster() -> bool:
    """Whether this process was told of a Ray that others started."""
    return ray.is_initialized() or "RAY_ADDRESS" in os.environ
