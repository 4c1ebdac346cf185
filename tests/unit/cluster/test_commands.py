"""Command lines of `ray` for a study on a cluster"""

import json
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from remix_study.cluster.cluster_file import ClusterFile
from remix_study.cluster.commands import (
    OUTPUT_MARKER,
    download_command,
    head_command,
    head_ray_command,
    head_scratch_folder,
    new_job_id,
    run_command,
    shell_line,
    submit_command,
)
from remix_study.cluster.preflight import check_submission
from remix_study.cluster.submission import package_folder
from remix_study.version import code_digest
from tests.unit.cluster.helpers import HOSTILE, Make, fill


def split_by_bash(command: str) -> list[str]:
    """Return the words of a command line as bash splits it."""
    program = f"printf '%s\\0' {command}"
    return subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True).stdout.split("\0")[:-1]


@pytest.mark.parametrize("value", HOSTILE)
def test_values_are_quoted_for_every_shell(make: Make, value: str, tmp_path: Path) -> None:
    submission = make(called=f"{value}.yaml", workspace=f"/shared/{value}", corpus=f"/shared/{value}")
    report = check_submission(submission)
    words = submit_command(submission, report, "http://127.0.0.1:1", "id")
    # Ray quotes and joins what follows `--`; a shell on the head parses it.
    job = split_by_bash(shlex.join(words[words.index("--") + 1 :]))
    file = f"./{value}.yaml" if value.startswith("-") else f"{value}.yaml"
    assert job == ["python", "-m", "remix_study", "run", file, "--workspace", f"/shared/{value}", "--corpus",
                   f"/shared/{value}"]  # fmt: skip
    assert split_by_bash(shell_line(words, {})) == words  # the printed line can be pasted into a shell
    cluster_file = ClusterFile(Path(f"{value}.yaml"), "lab", "local", 2)
    on_head = head_command(cluster_file, ["status", value, "--workspace", f"/shared/{value}"], {"X": value})
    assert on_head[2] == str(Path.cwd() / f"{value}.yaml")
    _, _, command = on_head[3].partition(f"echo {OUTPUT_MARKER}; ")
    assignments, _, rest = command.partition(" python ")
    assert split_by_bash(assignments) == [f"X={value}"]
    assert split_by_bash(rest) == ["-m", "remix_study", "status", value, "--workspace", f"/shared/{value}"]
    assert split_by_bash(head_ray_command(cluster_file, "job", "logs", value)[3]) == ["ray", "job", "logs", value]


def test_only_scratch_folders_are_downloaded(tmp_path: Path) -> None:
    cluster_file = ClusterFile(Path("lab.yaml"), "lab", "aws", 2)
    assert download_command(cluster_file, f"{head_scratch_folder()}/", tmp_path)[-1] == f"{tmp_path}/"
    with pytest.raises(AssertionError):
        download_command(cluster_file, "/shared/$(touch x)/", tmp_path)


def test_a_job_has_runtime_environment_metadata_and_entrypoint(make: Make, folder: Path) -> None:
    submission = make(environment={"AWS_REGION": "eu"}, retry_failed=True, called="deep/tiny.yaml")
    words = submit_command(submission, check_submission(submission), "http://127.0.0.1:1", "id")
    options = dict(zip(words[3:-1:2], words[4::2], strict=False))
    runtime = json.loads(options["--runtime-env-json"])
    assert options["--working-dir"] == str(folder)
    assert runtime["env_vars"] == {"AWS_REGION": "eu", "REMIX_STUDY_CODE": code_digest()}
    assert runtime["py_modules"] == [str(package_folder())]
    assert {".venv", "mlruns"} <= set(runtime["excludes"])
    assert json.loads(options["--metadata-json"]) == {
        "remix_study.study": "tiny", "remix_study.workspace": "/shared/workspace"
    }  # fmt: skip
    assert run_command(submission)[3:] == [
        "run",
        "deep/tiny.yaml",
        "--workspace",
        "/shared/workspace",
        "--retry-failed",
    ]
    fill(folder / "remix_study" / "__init__.py", 1)
    plain = replace(submission, environment={})
    runtime = json.loads(submit_command(plain, check_submission(plain), "x", "id")[10])
    assert runtime.keys() == {"excludes", "env_vars"}


def test_shown_commands_unset_overriding_variables() -> None:
    words = ["ray", "job", "logs", "a b"]
    assert shell_line(words, {}) == "ray job logs 'a b'"
    assert shell_line(words, {"RAY_ADDRESS": "x"}) == "env -u RAY_ADDRESS ray job logs 'a b'"
    assert shell_line(["ray", "exec", "x"], {"RAY_ADDRESS": "x"}) == "ray exec x"


def test_job_ids_are_unique() -> None:
    assert new_job_id("tiny").startswith("remix-study-tiny-2")
    assert new_job_id("tiny") != new_job_id("tiny")
