"""run_study.py, the script that `ray submit` copies to the head of a cluster"""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from ray._private.ray_constants import RAY_RUNTIME_ENV_IGNORE_GITIGNORE, get_runtime_env_default_excludes
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR
from ray._private.runtime_env.packaging import _zip_files

ROOT = Path(__file__).parents[2]
# Replaces the command: prints its arguments and environment.
COMMAND = """
import json, os, sys
from pathlib import Path
def main():
    received = {"argv": sys.argv[1:], "cwd": os.getcwd(), "path": sys.path, "env": dict(os.environ)}
    print(json.dumps(received))
    sys.exit(3)
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a home directory as on a head, with the script, a checkout, and unrelated files."""
    checkout = tmp_path / "remix-study"
    (checkout / "remix_study" / "__pycache__").mkdir(parents=True)
    (checkout / "remix_study" / "__init__.py").touch()
    (checkout / "remix_study" / "cli").mkdir()
    (checkout / "remix_study" / "cli" / "__init__.py").touch()
    (checkout / "remix_study" / "cli" / "main.py").write_text(COMMAND)
    (checkout / "remix_study" / "__pycache__" / "main.pyc").touch()
    for name in ("workspace/studies/s/optuna.db", "search_spaces/s.yaml", ".gitignore", ".git/config", "clip.mp4"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).touch()
    (checkout / ".gitignore").write_text("cli/\n")  # it must not keep a part of the package from the workers
    (tmp_path / "remix_study.py").write_text("raise AssertionError('imported from the home directory')")
    shutil.copy(ROOT / "run_study.py", tmp_path)
    return tmp_path


def run(home: Path, *words: str, **env: str) -> "subprocess.CompletedProcess[str]":
    around = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    command = [sys.executable, str(home / "run_study.py"), *words]
    return subprocess.run(command, cwd=home, env=around | {"HOME": str(home)} | env, capture_output=True, text=True)


def test_the_command_runs_in_the_checkout_and_its_exit_status_is_kept(home: Path) -> None:
    done = run(home, "run", "a b.yaml", "--workspace", "/mnt/it's here")
    assert done.returncode == 3, done.stderr
    received = json.loads(done.stdout)
    assert received["argv"] == ["run", "a b.yaml", "--workspace", "/mnt/it's here"]
    assert received["cwd"] == str(home / "remix-study")
    assert received["path"][0] == str(home / "remix-study")
    assert str(home) not in received["path"]
    assert received["env"]["RAY_ADDRESS"] == "auto"


def test_only_the_package_is_uploaded_to_workers(home: Path) -> None:
    received = json.loads(run(home, "status").stdout)
    runtime = json.loads(received["env"][RAY_JOB_CONFIG_JSON_ENV_VAR])["runtime_env"]
    assert runtime["working_dir"] == str(home / "remix-study")
    package = home / "package.zip"
    # As in `upload_working_dir_if_needed` of Ray.
    excludes = get_runtime_env_default_excludes() + runtime["excludes"]
    include_gitignore = received["env"][RAY_RUNTIME_ENV_IGNORE_GITIGNORE] != "1"
    _zip_files(runtime["working_dir"], excludes, str(package), include_gitignore=include_gitignore)
    assert sorted(zipfile.ZipFile(package).namelist()) == [
        "remix_study/__init__.py",
        "remix_study/cli/__init__.py",
        "remix_study/cli/main.py",
    ]


def test_variables_that_ray_has_set_are_kept(home: Path) -> None:
    """As in `ray job submit --working-dir . -- python run_study.py`, which uploads the code itself."""
    received = json.loads(run(home, RAY_ADDRESS="10.0.0.1:6379", **{RAY_JOB_CONFIG_JSON_ENV_VAR: "{}"}).stdout)
    assert received["env"]["RAY_ADDRESS"] == "10.0.0.1:6379"
    assert received["env"][RAY_JOB_CONFIG_JSON_ENV_VAR] == "{}"


def test_the_checkout_beside_the_script_comes_first(home: Path) -> None:
    project = home / "project"
    shutil.copytree(home / "remix-study", project)
    shutil.copy(ROOT / "run_study.py", project)
    assert json.loads(run(project, HOME=str(home)).stdout)["cwd"] == str(project)


def test_a_missing_checkout_is_one_error_message(home: Path) -> None:
    shutil.rmtree(home / "remix-study")
    done = run(home, "run", "s.yaml")
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: No checkout at ~/remix-study on the head.")
    assert "`ray up`" in line
