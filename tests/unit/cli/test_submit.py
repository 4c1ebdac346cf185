"""`remix-study submit` with a fake `ray`: the commands it runs, its messages, and no leftover processes"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from remix_study.cli import main as cli
from remix_study.cli import submit

_POLL_S = 0.02  # polling, because other processes write these files
JOB = r"remix-study-tiny-\d{8}-\d{6}-[0-9a-f]{4}"

# A fake `ray` that records its arguments and otherwise behaves like the real one for `submit`; STATE is its folder.
# `ray dashboard` serves a dashboard. `ray exec` runs the command in a shell, where a fake `python` records its own.
RAY = """#!PYTHON
import http.server, json, os, pathlib, shlex, subprocess, sys, time
state, words = pathlib.Path(STATE), sys.argv[1:]
with (state / "ran").open("a") as file:
    file.write(json.dumps(words) + "\\n")
def own(text, level="INFO"):
    print(f"2026-01-01 00:00:00,000\\t{level} cli.py:42 -- {text}", flush=True)
job = state / "job.json"
if words[0] == "dashboard":
    if (state / "down").exists():
        sys.exit("Error: Failed to forward. The exception is: Head node of cluster (lab) not found!")
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            known = [json.loads(job.read_text())] if job.exists() else []
            version = (state / "version").read_text() if (state / "version").exists() else "2.60.0"
            content = {
                "/api/version": {"version": "4", "ray_version": "2.60.0"},
                "/api/v0/cluster_metadata": {"data": {"rayVersion": version, "pythonVersion": "3.11.7"}},
                "/api/jobs/": known,
            }.get(self.path, known[0] if known else None)
            if (state / "token").exists():
                self.send_response(401)
                content = "Unauthorized: Missing authentication token"
            else:
                self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())
        def log_message(self, *_):
            pass
    port = int(words[words.index("-p") + 1])
    (state / "forward").write_text(str(os.getpid()))
    http.server.ThreadingHTTPServer(("127.0.0.1", port), Answer).serve_forever()
elif words[:2] == ["job", "submit"]:
    if (state / "refuses").exists():
        print('Traceback (most recent call last):\\n  File "x", line 1\\nRuntimeError: no room', file=sys.stderr)
        sys.exit(1)
    given = dict(zip(words[2:], words[3:]))
    job.write_text(json.dumps({"type": "SUBMISSION", "status": "RUNNING", "submission_id": given["--submission-id"],
                               "entrypoint": "x", "metadata": json.loads(given["--metadata-json"])}))
elif words[:2] == ["job", "logs"]:
    own("Job submission server address: x")
    for line in (state / "log").read_text().splitlines():
        print(line, flush=True)
        if line == "breaks off":
            tries = state / "tries"
            tries.write_text(tries.read_text() + "x" if tries.exists() else "x")
            if len(tries.read_text()) < 3:
                sys.exit(1)
        while line == "waits" and not (state / "go").exists():
            time.sleep(0.02)
    end = json.loads((state / "end").read_text())
    job.write_text(json.dumps({**json.loads(job.read_text()), **end}))
    own("-----", "SUCC")
    print("repeated")
elif words[0] == "exec":
    print("Fetched IP: 10.0.0.1")
    if (state / "down").exists():
        sys.exit("Traceback (most recent call last):\\nRuntimeError: Head node of cluster (lab) not found!")
    path = f"{state / 'bin'}:/usr/bin:/bin"
    code = subprocess.run(["bash", "-c", words[2]], cwd=state, env={"PATH": path, "HOME": str(state)}).returncode
    if code:
        print("2026-01-01 00:00:00,000\\tERR x.py:1 -- SSH command failed.")
        sys.exit(1)
elif words[0] == "rsync-down":
    pathlib.Path(words[3], "report.html").write_text("page")
    pathlib.Path(words[3], "figure.png").write_text("figure")
"""
PYTHON = """#!/bin/bash
printf '%s\\0' "$@" >> STATE/python-ran
printf '\\n' >> STATE/python-ran
cat STATE/says
exit $(cat STATE/code)
"""


class Bench:
    """A working directory with a study, and the state of the fake `ray` on the PATH."""

    def __init__(self, root: Path) -> None:
        self.state, self.folder = root / "state", root / "project"
        for path in (self.state / "bin", self.folder):
            path.mkdir(parents=True)
        for name, text in (("ray", RAY.replace("#!PYTHON", f"#!{sys.executable}")), ("python", PYTHON)):
            shown = repr(str(self.state)) if name == "ray" else str(self.state)
            (self.state / "bin" / name).write_text(text.replace("STATE", shown))
            (self.state / "bin" / name).chmod(0o755)
        self.put(
            "log", "job begins\n0 of 2 runs ended\ntiny has begun on a cluster of 3 machines: 2 runs at once\nmore\n"
        )
        self.cluster_file = str(self.folder / "lab.yaml")  # as commands name it
        self.put("end", json.dumps({"status": "SUCCEEDED", "driver_exit_code": 0}))
        self.put("says", "as it stands\n")
        self.put("code", "0")
        self.write({})
        (self.folder / "lab.yaml").write_text(
            yaml.safe_dump({
                "cluster_name": "lab",
                "provider": {"type": "local", "head_ip": "10.0.0.1", "worker_ips": ["10.0.0.2"]},
                "auth": {"ssh_user": "me"},
            })
        )  # fmt: skip

    def write(self, changes: dict[str, Any]) -> None:
        content = {
            "name": "tiny",
            "question": "does it work?",
            "base": {"corpus": "/shared/corpus", "tracking": {"uri": "off"}},
            "methods": {"remix": {"set": {"method": {"name": "remix", "warmup": 1}}}},
            "reference": "remix", "trials": 1, "replicates": 1,
        }  # fmt: skip
        (self.folder / "tiny.yaml").write_text(yaml.safe_dump(content | changes))

    def put(self, name: str, text: str = "") -> None:
        (self.state / name).write_text(text)

    def ran(self, *first: str) -> list[list[str]]:
        """Return the arguments of every call of `ray` that starts with these words."""
        path = self.state / "ran"
        every = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [words for words in every if tuple(words[: len(first)]) == first]

    def python_ran(self) -> list[list[str]]:
        """Return the arguments of every call of `python` on the head."""
        lines = (self.state / "python-ran").read_text().split("\0\n")[:-1]
        return [line.split("\0") for line in lines]

    def forward_has_ended(self) -> bool:
        return not Path(f"/proc/{(self.state / 'forward').read_text()}").exists()

    def start(self, *words: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "remix_study", *words], cwd=self.folder, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, env=os.environ | {"COLUMNS": "200"},
        )  # fmt: skip


class Result:
    """The exit status and output of a command."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


RunCommand = Callable[..., Result]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    made = Bench(tmp_path)
    monkeypatch.setenv("PATH", f"{made.state / 'bin'}:{os.environ['PATH']}")
    for name in (
        "RAY_ADDRESS",
        "RAY_API_SERVER_ADDRESS",
        "REMIX_STUDY_WORKSPACE",
        "MLFLOW_TRACKING_URI",
        "REMIX_STUDY_STORAGE",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(made.folder)
    monkeypatch.setattr(submit, "RECONNECT_PAUSE_S", 0.05)
    return made


@pytest.fixture
def run_cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> RunCommand:
    def run(*words: str) -> Result:
        """Run the command in this process, including its error handling."""
        monkeypatch.setattr(sys, "argv", ["remix-study", *words])
        code = 0
        try:
            cli.main()
        except SystemExit as exit_:
            code = exit_.code if isinstance(exit_.code, int) else 1
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Result(code, captured.out, captured.err)

    return run


SUBMIT = ("submit", "tiny.yaml", "--cluster", "lab.yaml", "--workspace", "/shared/w")


# --- submit ----------------------------------------------------------------------------------------------------------


def test_a_study_is_submitted_and_followed_to_its_end(bench: Bench, run_cli: RunCommand) -> None:
    result = run_cli(*SUBMIT)
    assert result.code == 0, result.err
    assert result.out.splitlines() == ["job begins", "0 of 2 runs ended",
                                     "tiny has begun on a cluster of 3 machines: 2 runs at once", "more"]  # fmt: skip
    (forward,), (job,), (logs,) = bench.ran("dashboard"), bench.ran("job", "submit"), bench.ran("job", "logs")
    assert forward[:3] == ["dashboard", bench.cluster_file, "-p"]
    address = f"http://127.0.0.1:{forward[3]}"
    given = dict(pairwise(job))
    assert given["--address"] == address
    assert given["--working-dir"] == str(bench.folder)
    assert job[job.index("--") :] == ["--", "python", "-m", "remix_study", "run", "tiny.yaml", "--workspace",
                                      "/shared/w"]  # fmt: skip
    assert logs == ["job", "logs", "--address", address, given["--submission-id"], "--follow"]
    shown = [line for line in result.err.splitlines() if line.startswith("$ ray ")]
    assert [line.split()[1:3] for line in shown] == [["ray", "dashboard"], ["ray", "job"], ["ray", "job"]]
    assert f"remix-study report tiny --cluster {bench.cluster_file} --workspace /shared/w" in result.err
    assert bench.forward_has_ended()


def test_all_problems_are_reported_at_once_before_anything_runs(bench: Bench, run_cli: RunCommand) -> None:
    bench.write({"trials": 0, "replicatess": 3})
    result = run_cli("submit", "tiny.yaml", "--cluster", "none.yaml", "--workspace", "w", "--env", "HF_TOKEN")
    assert result.code == 1
    for words in ("4 problems", "Cannot read cluster file none.yaml", "trials", "did you mean `replicates`", "HF_TOKEN",
                  "workspace w: it is relative"):  # fmt: skip
        assert words in result.err
    assert bench.ran() == []


def test_either_a_cluster_file_or_an_address_is_required(run_cli: RunCommand, bench: Bench) -> None:
    assert "Neither `--cluster` nor `--address` given" in run_cli("submit", "tiny.yaml").err
    assert "Both `--cluster` and `--address` given" in run_cli(*SUBMIT, "--address", "http://127.0.0.1:1").err
    assert "dashboard at http://127.0.0.1:9:" in run_cli("submit", "tiny.yaml", "--address", "http://127.0.0.1:9").err


def test_a_study_in_a_workspace_at_a_url_needs_a_database(bench: Bench, run_cli: RunCommand) -> None:
    bench.write({"storage": "journal"})
    result = run_cli("submit", "tiny.yaml", "--cluster", "lab.yaml", "--workspace", "s3://bucket/w")
    assert result.code == 1
    assert "`storage` must be a database" in result.err


def test_the_storage_variable_is_forwarded(bench: Bench, run_cli: RunCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "postgresql+psycopg://$DB_USER:$DB_PASSWORD@db/studies"
    monkeypatch.setenv("REMIX_STUDY_STORAGE", url)
    result = run_cli("submit", "tiny.yaml", "--cluster", "lab.yaml", "--workspace", "s3://bucket/w")
    assert result.code == 0, result.err
    assert "`storage` needs DB_PASSWORD, DB_USER on the cluster" in result.err
    (job,) = bench.ran("job", "submit")
    assert json.loads(dict(pairwise(job))["--runtime-env-json"])["env_vars"]["REMIX_STUDY_STORAGE"] == url


def test_a_stopped_cluster_is_reported_with_the_command_that_starts_it(bench: Bench, run_cli: RunCommand) -> None:
    bench.put("down")
    result = run_cli(*SUBMIT)
    assert result.code == 1
    assert f"Cluster lab has no running head. Start it with: ray up {bench.cluster_file}" in result.err


def test_another_version_of_ray_is_rejected(bench: Bench, run_cli: RunCommand) -> None:
    bench.put("version", "2.44.1")
    result = run_cli(*SUBMIT)
    assert result.code == 1
    assert "The cluster must run Ray 2.60, but runs 2.44.1" in result.err
    assert bench.ran("job") == []
    assert bench.forward_has_ended()


def test_a_missing_token_is_reported(bench: Bench, run_cli: RunCommand) -> None:
    bench.put("token")
    result = run_cli(*SUBMIT)
    assert result.code == 1
    assert "requires a token. Set RAY_AUTH_MODE=token" in result.err


def test_a_failed_submission_is_reported_in_one_message(bench: Bench, run_cli: RunCommand) -> None:
    bench.put("refuses")
    result = run_cli(*SUBMIT)
    assert result.code == 1
    assert "`ray job submit` failed with exit status 1: RuntimeError: no room." in result.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "code", "message"),
    [
        ({"status": "FAILED", "driver_exit_code": 1}, 1, "failed with exit status 1"),
        ({"status": "FAILED", "driver_exit_code": 7}, 7, "failed with exit status 7"),
        ({"status": "FAILED", "driver_exit_code": -9}, 1, "failed with exit status -9"),
        ({"status": "FAILED", "driver_exit_code": 130}, 130, "was stopped. Rerun the command to resume"),
        ({"status": "STOPPED"}, 130, "was stopped. Rerun the command to resume"),
        ({"status": "FAILED", "message": "Traceback\nSetupError: no disk"}, 1, "SetupError: no disk."),
    ],
)  # fmt: skip
def test_the_exit_status_is_that_of_the_job(
    bench: Bench, run_cli: RunCommand, end: dict[str, Any], code: int, message: str
) -> None:
    bench.put("end", json.dumps(end))
    result = run_cli(*SUBMIT)
    assert result.code == code
    assert message in result.err


def test_detach_returns_as_soon_as_the_study_has_started(bench: Bench, run_cli: RunCommand) -> None:
    bench.put("log", "job begins\ntiny has begun on a cluster of 3 machines: 2 runs at once\nwaits\n")
    result = run_cli(*SUBMIT, "--detach")
    assert result.code == 0
    assert result.out.splitlines()[-1].startswith("tiny has begun")
    for words in ("This machine can disconnect",
                  f"status: remix-study status tiny --cluster {bench.cluster_file} --workspace /shared/w",
                  f"log: ray exec {bench.cluster_file} 'ray job logs remix-study-tiny-",
                  f"stop at once: ray exec {bench.cluster_file} 'ray job s",
                  f"remix-study stop tiny --cluster {bench.cluster_file}"):  # fmt: skip
        assert words in result.err
    assert bench.forward_has_ended()


def test_detach_shows_a_study_that_fails_before_it_starts(bench: Bench, run_cli: RunCommand) -> None:
    bench.put("log", "error: the corpus must be there, but is not\n")
    bench.put("end", json.dumps({"status": "FAILED", "driver_exit_code": 1}))
    result = run_cli(*SUBMIT, "--detach")
    assert result.code == 1
    assert "error: the corpus must be there" in result.out


def test_a_running_study_is_followed_instead_of_started_twice(bench: Bench, run_cli: RunCommand) -> None:
    bench.put("job.json", json.dumps({
        "type": "SUBMISSION", "status": "RUNNING", "submission_id": "the-first", "entrypoint": "x",
        "metadata": {"remix_study.study": "tiny", "remix_study.workspace": "/shared/w"},
    }))  # fmt: skip
    result = run_cli(*SUBMIT)
    assert result.code == 0
    assert "is already running as job the-first" in result.err
    assert bench.ran("job", "submit") == []
    assert bench.ran("job", "logs")[0][4] == "the-first"


@pytest.mark.parametrize(
    "change", [{"status": "FAILED"}, {"metadata": {"remix_study.study": "tiny"}}, {"metadata": None}]
)
def test_jobs_of_other_studies_are_ignored(bench: Bench, run_cli: RunCommand, change: dict[str, Any]) -> None:
    bench.put("job.json", json.dumps({
        "type": "SUBMISSION", "status": "RUNNING", "submission_id": "the-first", "entrypoint": "x",
        "metadata": {"remix_study.study": "tiny", "remix_study.workspace": "/shared/w"},
    } | change))  # fmt: skip
    assert run_cli(*SUBMIT).code == 0
    assert len(bench.ran("job", "submit")) == 1


def test_a_log_continues_after_a_lost_connection(bench: Bench, run_cli: RunCommand) -> None:
    bench.put("log", "one\nbreaks off\ntwo\n")
    result = run_cli(*SUBMIT)
    assert result.code == 0
    assert result.out.splitlines() == ["one", "breaks off", "two"]
    assert len(bench.ran("job", "logs")) == 3


def test_the_job_continues_after_the_connection_is_lost(
    bench: Bench, run_cli: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "RECONNECT_TRIES", 2)
    bench.put("log", "one\nbreaks off\n")
    result = run_cli(*SUBMIT)
    assert result.code == 1
    assert "Lost the connection to the cluster" in result.err
    assert "Study tiny continues on the cluster as job remix-study-tiny-" in result.err
    assert bench.forward_has_ended()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_leave_the_job_running_and_no_local_process(bench: Bench, number: signal.Signals, code: int) -> None:
    bench.put("log", "one\nwaits\n")
    process = bench.start(*SUBMIT)
    try:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["one\n", "waits\n"]
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == code, err
    assert "Study tiny continues on the cluster as job remix-study-tiny-" in err
    assert f"remix-study status tiny --cluster {bench.cluster_file} --workspace /shared/w" in err
    assert "Traceback" not in err
    assert json.loads((bench.state / "job.json").read_text())["status"] == "RUNNING"
    assert bench.ran("job", "stop") == []
    end, pause = time.monotonic() + 20, threading.Event()
    while not bench.forward_has_ended():
        assert time.monotonic() < end
        pause.wait(_POLL_S)


def test_an_address_in_the_environment_does_not_override_the_cluster_file(
    bench: Bench, run_cli: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):  # Ray prefers these variables to its option --address
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    result = run_cli(*SUBMIT)
    assert result.code == 0
    assert "$ env -u RAY_API_SERVER_ADDRESS -u RAY_ADDRESS ray job submit" in result.err
    assert os.environ["RAY_ADDRESS"] == "http://127.0.0.1:9"


# --- on the head -----------------------------------------------------------------------------------------------------

HOSTILE = ["a b", "it's", 'say "x"', "; touch x", "$(touch x)", "`touch x`", "a&b|c>d"]


@pytest.mark.parametrize("value", HOSTILE)
def test_the_shell_on_the_head_receives_values_quoted(bench: Bench, run_cli: RunCommand, value: str) -> None:
    result = run_cli("status", value, "--cluster", "lab.yaml", "--workspace", f"/shared/{value}")
    assert (result.code, result.out) == (0, "as it stands\n")
    assert bench.python_ran() == [["-m", "remix_study", "status", value, "--workspace", f"/shared/{value}"]]
    assert not (bench.state / "x").exists()


def test_the_output_of_the_cluster_launcher_is_dropped(bench: Bench, run_cli: RunCommand) -> None:
    bench.put("says", '{"state": "running"}\r\n')
    result = run_cli("status", "tiny", "--cluster", "lab.yaml", "--workspace", "/shared/w", "--json")
    assert json.loads(result.out) == {"state": "running"}
    assert bench.python_ran()[0][2:5] == ["status", "tiny", "--json"]
    bench.put("says", "tiny stops.\nResume it with: remix-study run on-the-head.yaml\n")
    assert run_cli("stop", "tiny", "--cluster", "lab.yaml", "--workspace", "/shared/w").out == (
        "tiny stops. Rerun the command that started it to resume.\n"
    )
    assert bench.python_ran()[1][2:4] == ["stop", "tiny"]


def test_watch_attaches_to_the_head(bench: Bench) -> None:
    process = bench.start("status", "tiny", "--cluster", "lab.yaml", "--workspace", "/shared/w", "--watch")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert out.splitlines() == ["Fetched IP: 10.0.0.1", "as it stands"]
    assert bench.python_ran()[0][2:5] == ["status", "tiny", "--watch"]


def test_an_error_on_the_head_is_reported_without_rays_output(bench: Bench, run_cli: RunCommand) -> None:
    bench.put("says", "error: the study must have begun,\r\nbut has not. Start it.\r\n")
    bench.put("code", "1")
    result = run_cli("stop", "tiny", "--cluster", "lab.yaml", "--workspace", "/shared/w")
    assert result.code == 1
    assert result.err.endswith("error: the study must have begun, but has not. Start it.\n")
    bench.put("says", "bash: python: command not found\n")
    result = run_cli("stop", "tiny", "--cluster", "lab.yaml", "--workspace", "/shared/w")
    assert "`ray exec` failed on the head of cluster lab with exit status 1" in result.err


def test_status_of_a_stopped_cluster_names_the_command_that_starts_it(bench: Bench, run_cli: RunCommand) -> None:
    bench.put("down")
    result = run_cli("status", "tiny", "--cluster", "lab.yaml", "--workspace", "/shared/w")
    assert result.code == 1
    assert f"Start it with: ray up {bench.cluster_file}" in result.err


def test_a_relative_workspace_is_rejected_with_a_cluster(bench: Bench, run_cli: RunCommand) -> None:
    for words in (("status", "tiny"), ("stop", "tiny"), ("report", "tiny")):
        result = run_cli(*words, "--cluster", "lab.yaml")
        assert result.code == 1
        assert "`--workspace` must be an absolute path or a URL, but is workspace" in result.err
    assert bench.ran() == []


def test_a_report_is_downloaded(bench: Bench, run_cli: RunCommand) -> None:
    result = run_cli("report", "tiny", "--cluster", "lab.yaml", "--workspace", "/shared/$(touch x)")
    assert result.code == 0, result.err
    assert result.out.splitlines() == ["tiny-report/report.html", "1 figures and tables in the same folder"]
    (wrote,) = bench.python_ran()
    scratch = wrote[wrote.index("--out") + 1]
    ((_, _, source, target),) = bench.ran("rsync-down")
    assert source == f"{scratch}/"
    assert target == f"{bench.folder}/tiny-report/"
    assert bench.ran("exec")[-1] == ["exec", bench.cluster_file, f"rm -rf {scratch}"]
    assert run_cli("report", "tiny", "--cluster", "lab.yaml", "--workspace", "/s", "--out", "my report").code == 0
    assert (bench.folder / "my report" / "figure.png").exists()
    assert not (bench.state / "x").exists()
