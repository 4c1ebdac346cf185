"""Packages that a Python must have"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from remix_study.launch.dependencies import REQUIRED, missing_dependencies

ROOT = Path(__file__).parents[3]


def test_the_required_packages_are_the_dependencies_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert sorted(REQUIRED) == sorted(re.match(r"[\w-]+", each)[0] for each in project["dependencies"])  # type: ignore[index]


def test_missing_packages_are_named_in_one_sentence() -> None:
    assert missing_dependencies() is None
    sentence = missing_dependencies(("numpy", "no-such-package", "nor-this"))
    assert sentence is not None
    assert f"({sys.executable}) lacks no-such-package, nor-this. Install" in sentence


def test_a_python_without_the_dependencies_says_so_before_anything_else() -> None:
    """As on a node where only the code was uploaded."""
    done = subprocess.run(
        [sys.executable, "-S", "-m", "remix_study", "run", "x.yaml"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: The Python of ")
    assert "lacks torch, torchaudio, ray, optuna" in line
