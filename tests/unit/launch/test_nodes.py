"""Checks of a single cluster node; tests/cluster has several nodes"""

import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray

from remix_study.errors import SourceError, StudyError
from remix_study.files.remote_folder import RemoteFolder
from remix_study.launch import nodes
from remix_study.launch.nodes import (
    NodeRequirements,
    code_for_workers,
    collect_problems,
    node_problems,
    on_cluster,
    require_code,
    require_identical_nodes,
    require_submitted_code,
    versions,
)
from remix_study.version import CODE_VARIABLE, code_digest


def requirements_here(**changes: Any) -> NodeRequirements:
    """Return requirements that this machine meets, except for `changes`."""
    return replace(NodeRequirements(files={}, urls={}, versions=versions(), code=code_digest()), **changes)


def test_a_node_that_has_everything_has_no_problem(tmp_path: Path) -> None:
    (tmp_path / "token").touch()
    assert node_problems(requirements_here(files={str(tmp_path / "token"): "the workspace"})) == []


def test_a_missing_shared_disk_is_reported_with_the_remedy(tmp_path: Path) -> None:
    (problem,) = node_problems(requirements_here(files={str(tmp_path / "token"): "the workspace /w"}))
    assert problem.startswith(f"{socket.gethostname()} does not see the workspace /w.")
    assert "s3://" in problem


def test_a_url_that_the_node_cannot_use_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: RemoteFolder, pattern: str) -> list[str]:
        raise SourceError("Cannot access memory://b: permission denied.")

    monkeypatch.setattr(RemoteFolder, "matching", refused)
    (problem,) = node_problems(requirements_here(urls={"memory://b/w": "the workspace"}))
    assert problem == f"{socket.gethostname()} cannot use the workspace: Cannot access memory://b: permission denied."


def test_other_versions_and_other_code_are_reported() -> None:
    older = {**versions(), "torch": "1.0", "Python": "3.9"}
    found = node_problems(requirements_here(versions=older, code="another"))
    assert len(found) == 2
    assert f"torch {versions()['torch']} (not 1.0)" in found[0]
    assert "(not 3.9)" in found[0]
    assert "remix-study submit" in found[1]


def test_the_code_digest_depends_on_names_and_contents_of_all_files(tmp_path: Path) -> None:
    package = tmp_path / "remix_study"
    (package / "deep").mkdir(parents=True)
    for name in ("__init__.py", "deep/one.py"):
        (package / name).write_text("x = 1\n")
    before = code_digest(package)
    (package / "deep" / "one.py").write_text("x = 2\n")
    changed = code_digest(package)
    (package / "deep" / "one.py").rename(package / "deep" / "two.py")
    assert len({before, changed, code_digest(package)}) == 3


def test_a_process_with_other_code_than_the_driver_trains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "on_cluster", lambda: True)
    require_code(code_for_workers())
    with pytest.raises(StudyError, match="has other code of remix_study, in"):
        require_code("another")
    monkeypatch.setattr(nodes, "on_cluster", lambda: False)
    assert code_for_workers() is None
    require_code(None)


@pytest.mark.parametrize(("given", "refused"), [(None, False), ("", False), (code_digest(), False), ("other", True)])
def test_code_that_was_not_submitted_is_refused(
    monkeypatch: pytest.MonkeyPatch, given: str | None, refused: bool
) -> None:
    monkeypatch.delenv(CODE_VARIABLE, raising=False)
    if given is not None:
        monkeypatch.setenv(CODE_VARIABLE, given)
    if refused:
        with pytest.raises(StudyError, match="is not the code that was submitted"):
            require_submitted_code()
    else:
        require_submitted_code()


def test_a_node_without_a_dependency_is_named_and_not_asked_further(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, list[str]]] = []

    def run_on(chosen: list[dict[str, Any]], function: Any, *arguments: Any) -> list[Any]:
        asked.append((function.__name__, [node["NodeID"] for node in chosen]))
        if function.__name__ == "missing_dependencies":
            return [None, "The Python of w1 lacks optuna", None]
        return [["has other code"], []]

    monkeypatch.setattr(nodes, "_run_on", run_on)
    found = collect_problems(nodes_of("w0", "w1", "w2"), requirements_here())
    assert asked == [("missing_dependencies", ["w0", "w1", "w2"]), ("node_problems", ["w0", "w2"])]
    assert found == ["address-of-w0: has other code", "address-of-w1: The Python of w1 lacks optuna"]


def nodes_of(*ids: str) -> list[dict[str, Any]]:
    return [{"NodeID": each, "Alive": True, "NodeManagerAddress": f"address-of-{each}"} for each in ids]


class Context:
    def get_node_id(self) -> str:
        return "head"


def test_a_single_node_is_not_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ray, "get_runtime_context", Context)
    monkeypatch.setattr(ray, "nodes", lambda: [*nodes_of("head"), {**nodes_of("gone")[0], "Alive": False}])
    assert require_identical_nodes(tmp_path / "w", "corpus") == 1
    assert not (tmp_path / "w").exists()


def test_the_problems_of_all_nodes_are_reported_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ray, "get_runtime_context", Context)
    monkeypatch.setattr(ray, "nodes", lambda: nodes_of("head", "w1", "w2"))
    received: list[NodeRequirements] = []

    def collect(others: list[dict[str, Any]], requirements: NodeRequirements) -> list[str]:
        received.append(requirements)
        assert [node["NodeID"] for node in others] == ["w1", "w2"]
        assert all(Path(path).exists() for path in requirements.files)
        return ["w1: does not see it", "w2: has other code"]

    monkeypatch.setattr(nodes, "collect_problems", collect)
    (tmp_path / "corpus" / "store").mkdir(parents=True)
    (tmp_path / "corpus" / "store" / "manifest.json").touch()
    with pytest.raises(StudyError, match="same files, code and versions") as raised:
        require_identical_nodes(tmp_path / "w", str(tmp_path / "corpus"))
    assert str(raised.value).splitlines()[1:] == ["  - w1: does not see it", "  - w2: has other code"]
    (requirements,) = received
    assert set(requirements.files.values()) == {f"the workspace {tmp_path / 'w'}", f"the corpus {tmp_path / 'corpus'}"}
    assert list((tmp_path / "w").iterdir()) == []  # the token is removed


def test_a_local_ray_is_not_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert not on_cluster()
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert on_cluster()
