"""Fixtures: a working directory with a study, and valid submissions"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from remix_study.cluster.cluster_file import ClusterFile
from remix_study.cluster.submission import Submission
from remix_study.config.load import load_study
from remix_study.config.study import StudyConfig


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return an empty working directory."""
    made = tmp_path / "mine"
    made.mkdir()
    return made


@pytest.fixture
def make(folder: Path) -> Callable[..., Submission]:
    def submission(**changes: Any) -> Submission:
        """Return a valid submission.

        Args:
            study: keys of the study file to replace.
            called: name of the study file.
            changes: attributes of the submission to replace.
        """
        content = {
            "name": "tiny",
            "question": "does it work?",
            "base": {"corpus": "/shared/corpus", "tracking": {"uri": "off"}},
            "methods": {"remix": {"set": {"method": {"name": "remix", "warmup": 1}}}},
            "reference": "remix", "trials": 1, "replicates": 1,
        } | changes.pop("study", {})  # fmt: skip
        file = folder / changes.pop("called", "tiny.yaml")
        file.parent.mkdir(exist_ok=True)
        file.write_text(yaml.safe_dump(content))
        study: StudyConfig = load_study(file)
        given: dict[str, Any] = {
            "study": study, "file": file, "working_dir": folder, "workspace": "/shared/workspace",
            "cluster_file": ClusterFile(Path("lab.yaml"), "lab", "local", 2),
        }  # fmt: skip
        return Submission(**given | changes)

    return submission
