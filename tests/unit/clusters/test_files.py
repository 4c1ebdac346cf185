"""The files of clusters/: valid for Ray, secured by a token, without secrets, with consistent versions"""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from ray.autoscaler._private.util import prepare_config, validate_config

from remix_study.cluster.cluster_file import CHECKOUT, SECRETS_FILE, read_cluster_file
from remix_study.cluster.preflight import PYTHON
from remix_study.errors import ConfigError
from remix_study.launch.ray_init import cluster_file_resources
from tests.pages import parse_command, shell_commands
from tests.unit.clusters.checks import (
    CLUSTERS,
    PLACEHOLDER,
    RAY,
    ROOT,
    commands,
    load,
    provider_problems,
    secrets_in,
    security_problems,
    shell_problems,
)

FILES = sorted(path for path in CLUSTERS.iterdir() if path.name != "README.md")
LAUNCHERS = [path for path in FILES if path.suffix == ".yaml" and not path.name.startswith("kuberay")]
REMOTE = [path for path in LAUNCHERS if path.name != "local.yaml"]
CLOUDS = ["aws.yaml", "gcp.yaml", "azure.yaml"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines())


def named(path: Path) -> str:
    return str(path.name)


@pytest.fixture(params=LAUNCHERS, ids=named)
def launcher(request: pytest.FixtureRequest) -> dict[str, Any]:
    return load(request.param)


@pytest.fixture(params=REMOTE, ids=named)
def remote(request: pytest.FixtureRequest) -> dict[str, Any]:
    return load(request.param)


# --- validity for Ray -------------------------------------------------------------------------------------------------


def test_ray_accepts_the_file(launcher: dict[str, Any]) -> None:
    validate_config(prepare_config(launcher))


def test_ray_rejects_a_misspelt_key(launcher: dict[str, Any]) -> None:
    misspelt = {**launcher, "head_start_ray_comands": []}
    with pytest.raises(Exception, match="head_start_ray_comands"):
        validate_config(prepare_config(misspelt))


def test_keys_are_current(launcher: dict[str, Any]) -> None:
    """`prepare_config` silently translates outdated keys; the schema lists only current ones."""
    schema = RAY / "autoscaler" / "ray-schema.json"
    assert set(launcher) <= set(json.loads(schema.read_text())["properties"])


def test_provider_keys_are_those_that_ray_reads(launcher: dict[str, Any]) -> None:
    assert provider_problems(launcher) == []
    misspelt = {**launcher, "provider": {**launcher["provider"], "cache_stoped_nodes": False}}
    assert provider_problems(misspelt) == ["provider has no key cache_stoped_nodes"]


def test_no_default_command_of_ray_is_used(launcher: dict[str, Any]) -> None:
    """Ray's default commands install nightly wheels and open the dashboard to the network."""
    assert not security_problems(prepare_config(launcher))
    kind = launcher["provider"]["type"]
    defaults = load(RAY / "autoscaler" / kind / "defaults.yaml")
    default_commands = [key for key, value in defaults.items() if key.endswith("_commands") and value]
    assert set(default_commands) - {"initialization_commands"} <= set(launcher) | (
        {"setup_commands"} if kind == "local" else set()
    )


# --- security ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("RAY_AUTH_MODE=token ray start --head", "ray start --head", "the head starts without a token"),
        ("RAY_AUTH_MODE=token ray start --address", "ray start --address", "the worker starts without a token"),
        ("--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0", "the dashboard must listen on the loopback address"),
        ("--autoscaling-config=~/ray_bootstrap_config.yaml", "", "the head must read its autoscaler's configuration"),
        ("-c constraints.txt ", "", "an installation must keep to constraints.txt"),
        ("https://astral", "http://astral", "only released packages, by https"),
    ],
)
def test_a_security_problem_is_found(old: str, new: str, problem: str) -> None:
    valid = load(CLUSTERS / "aws.yaml")
    assert security_problems(valid) == []
    assert old in json.dumps(valid)
    changed = json.loads(json.dumps(valid).replace(old, new))
    assert any(each.startswith(problem) for each in security_problems(changed))


@pytest.mark.parametrize("path", [*FILES, CLUSTERS / "README.md"], ids=named)
def test_files_contain_no_secrets(path: Path) -> None:
    assert secrets_in(path.read_text()) == []


@pytest.mark.parametrize(
    "planted",
    [
        "DB_PASSWORD: hunter2",
        "export MLFLOW_TRACKING_PASSWORD='hunter2'",
        "aws_secret_access_key = wJalrXUtnFEMI",
        "-----BEGIN OPENSSH PRIVATE KEY-----",
        "auth_token: 0123456789abcdef0123456789abcdef",
    ],
)
def test_a_secret_is_found(planted: str) -> None:
    assert secrets_in(f"cluster_name: c\n{planted}\n")


def test_secrets_are_mounted_from_the_laptop(remote: dict[str, Any]) -> None:
    assert remote["file_mounts"] == {
        CHECKOUT: ".",
        "~/.ray/auth_token": "~/.ray/auth_token",
        f"~/{SECRETS_FILE}": f"~/{SECRETS_FILE}",
    }


@pytest.mark.parametrize("path", REMOTE, ids=named)
def test_submit_requires_the_placeholders_to_be_filled_in(path: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="still contains placeholders: CHANGE_ME"):
        read_cluster_file(path)
    filled = tmp_path / path.name
    filled.write_text(PLACEHOLDER.sub("yours", path.read_text()))
    assert read_cluster_file(filled).secrets == Path("~").expanduser() / SECRETS_FILE


# --- shell syntax -----------------------------------------------------------------------------------------------------


def test_every_command_is_valid_for_bash(launcher: dict[str, Any]) -> None:
    for command in commands(launcher):
        assert shell_problems(command) == []


def test_a_shell_problem_is_found() -> None:
    assert shell_problems("echo 'open")
    assert shell_problems("pip install CHANGE_ME_PACKAGES") == ["CHANGE_ME_PACKAGES reaches a shell"]
    assert shell_problems("ray start --node-ip-address=CHANGE_ME_HEAD_ADDRESS") == []


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix == ".sbatch"], ids=named)
def test_batch_scripts_are_valid_for_bash(path: Path) -> None:
    assert shell_problems(path.read_text()) == []


def test_the_environment_is_set_in_interactive_shells_only(remote: dict[str, Any], tmp_path: Path) -> None:
    """Ray starts processes in shells that also read ~/.bashrc; there it must not override a job's environment."""
    (setup,) = [command for command in remote["setup_commands"] if ".bashrc" in command]
    (tmp_path / SECRETS_FILE).write_text("DB_USER='a b'\n")
    (tmp_path / ".bashrc").touch()
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}

    def bash(*words: str) -> str:
        done = subprocess.run(
            ["bash", *words], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=30
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    for _ in range(2):  # running `ray up` again must not add another line
        bash("-c", setup)
    assert len((tmp_path / ".bashrc").read_text().splitlines()) == 1
    show = 'source ~/.bashrc; echo "$DB_USER:$RAY_AUTH_MODE:${PATH%%:*}"; env | grep -c ^DB_USER= || true'
    assert bash("--login", "-i", "-c", show) == f"a b:token:{tmp_path}/remix-study-env/bin\n1"
    assert bash("-c", show).splitlines()[0].startswith("::")


@pytest.mark.parametrize("name", CLOUDS)
def test_setup_fails_on_a_node_with_an_unusable_gpu(name: str, tmp_path: Path) -> None:
    (check,) = load(CLUSTERS / name)["worker_setup_commands"]
    python = tmp_path / "remix-study-env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    for usable in (True, False):
        (tmp_path / "torch.py").write_text(
            "from types import SimpleNamespace\nversion = SimpleNamespace(cuda='13.0')\n"
            f"cuda = SimpleNamespace(is_available=lambda: {usable})\n"
        )
        python.unlink(missing_ok=True)
        python.write_text(f'#!/bin/sh\nPYTHONPATH="{tmp_path}" exec "{sys.executable}" "$@"\n')
        python.chmod(0o755)
        environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
        done = subprocess.run(["bash", "-c", check], env=environment, capture_output=True, text=True, timeout=30)
        assert (done.returncode == 0) == usable
        assert ("no GPU for CUDA 13.0" in done.stderr) != usable


# --- versions ---------------------------------------------------------------------------------------------------------


def test_ray_has_the_version_of_the_project() -> None:
    version = PINS["ray"]
    for path in FILES:
        versions = re.findall(
            r"rayproject/ray:([\d.]+)-|remix-study:(\d[\w.]*)|rayVersion: \"(.*)\"|== \"(2[\d.]*)\"", path.read_text()
        )
        assert {word for words in versions for word in words if word} <= {version}, path.name
    assert f"ray[default,train,tune]>={version.rpartition('.')[0]}," in " ".join(PROJECT["dependencies"])


def test_python_has_the_version_of_the_project() -> None:
    short = ".".join(map(str, PYTHON))
    assert PROJECT["requires-python"] == f">={short}"
    for name in CLOUDS:
        assert f"uv venv --python {short} " in " ".join(load(CLUSTERS / name)["setup_commands"])
    assert set(re.findall(r"rayproject/ray:[\d.]+-py(\d+)", (CLUSTERS / "Dockerfile").read_text())) == {
        short.replace(".", "")
    }


def test_all_clouds_have_the_same_setup() -> None:
    """The setup only differs in the packages for object stores."""
    setups = [re.sub(r"s3|gcs|azure", "STORE", json.dumps(load(CLUSTERS / name)["setup_commands"])) for name in CLOUDS]
    assert len(set(setups)) == 1


@pytest.mark.parametrize("path", FILES, ids=named)
def test_extras_exist(path: Path) -> None:
    for extras in re.findall(r"-e '\.\[([\w,-]+)\]'", path.read_text()):
        assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])


def test_every_extra_is_pinned() -> None:
    pinned = {name.lower().replace("_", "-") for name in PINS}
    for extra in PROJECT["optional-dependencies"].values():
        for need in extra:
            assert re.split(r"[\[<>=~!; ]", need)[0].lower() in pinned, need


# --- autoscaling ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLOUDS)
def test_maximum_resources_are_read_from_the_cluster_file(name: str) -> None:
    """Clusters start without workers, and the head trains nothing."""
    launcher = load(CLUSTERS / name)
    most, may_grow = cluster_file_resources(CLUSTERS / name)
    assert not may_grow
    each = launcher["available_node_types"]["gpu_spot"]["resources"]
    assert most["GPU"] == launcher["max_workers"] * each["GPU"]
    assert most["CPU"] == launcher["max_workers"] * each["CPU"]
    kinds = launcher["available_node_types"]
    assert kinds[launcher["head_node_type"]]["resources"] == {"CPU": 0}
    assert all(kind["min_workers"] == 0 for key, kind in kinds.items() if key != "head")


@pytest.mark.parametrize("name", CLOUDS)
def test_spot_instances_are_preferred(name: str) -> None:
    kinds = load(CLUSTERS / name)["available_node_types"]
    assert kinds["gpu_spot"]["priority"] > kinds["gpu_on_demand"].get("priority", 0)
    assert kinds["gpu_spot"]["resources"] == kinds["gpu_on_demand"]["resources"]
    assert re.search(r"(?i)spot", json.dumps(kinds["gpu_spot"]["node_config"]))
    assert not re.search(r"(?i)spot", json.dumps(kinds["gpu_on_demand"]["node_config"]))


def test_the_local_file_uses_this_machine_only() -> None:
    local = load(CLUSTERS / "local.yaml")
    assert local["provider"] == {"type": "local", "head_ip": "127.0.0.1", "worker_ips": []}
    (start,) = [command for command in local["head_start_ray_commands"] if "ray start" in command]
    options = dict(re.findall(r"--([a-z-]+)=(\S+)", start))
    assert options["node-ip-address"] == "127.0.0.1"
    assert options["dashboard-host"] == "127.0.0.1"
    # `ray start` rejects the ports of Ray's workers.
    assert not 10002 <= int(options["port"]) <= 19999
    assert prepare_config(local)["max_workers"] == 0


# --- the image --------------------------------------------------------------------------------------------------------


def dockerfile() -> list[list[str]]:
    """Return the instructions of the Dockerfile, split into words."""
    text = re.sub(r"^#.*\n", "", (CLUSTERS / "Dockerfile").read_text(), flags=re.M)
    return [line.split() for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def copied() -> list[str]:
    return [word for words in dockerfile() if words[0] == "COPY" for word in words[1:-1] if not word.startswith("--")]


def test_the_image_runs_as_an_unprivileged_user() -> None:
    assert [words[1] for words in dockerfile() if words[0] == "USER"][-1] == "ray"


def test_the_image_copies_listed_files_only() -> None:
    assert all((ROOT / name).exists() for name in copied())
    assert not {".", "./", "*"} & set(copied())
    assert not [words for words in dockerfile() if words[0] in ("ADD", "ENV")]


@pytest.mark.slow
def test_the_copied_files_can_be_installed(tmp_path: Path) -> None:
    for name in copied():
        subprocess.run(["cp", "-r", str(ROOT / name), str(tmp_path)], check=True)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", "wheels", "."]
    subprocess.run(build, cwd=tmp_path, check=True, timeout=120)
    assert list((tmp_path / "wheels").glob("remix_study-*.whl"))


# --- clusters/README.md -----------------------------------------------------------------------------------------------


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the table under a heading of the README."""
    text = (CLUSTERS / "README.md").read_text()
    section = re.search(rf"^#+ {re.escape(heading)}$(.*?)(?=^#)", text, re.M | re.S)
    assert section is not None
    lines = [line for line in section[1].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_readme_states_for_every_file_how_it_was_tested() -> None:
    listed = {re.sub(r"\[`(.+?)`\].*", r"\1", row[0]): row[-1] for row in rows("Running a study on a cluster")}
    assert set(listed) == {path.name for path in FILES}
    assert all(re.match(r"run |validated only", how) for how in listed.values())


@pytest.mark.parametrize("path", FILES, ids=named)
def test_the_readme_explains_every_placeholder(path: Path) -> None:
    listed = {row[1].strip("`") for row in rows("Values to fill in") if f"`{path.name}`" in row[0]}
    assert listed == set(PLACEHOLDER.findall(path.read_text()))


def readme_commands() -> list[list[str]]:
    return shell_commands(CLUSTERS / "README.md")


def test_nested_remix_study_commands_exist() -> None:
    """Such as `kubectl exec ... -- python -m remix_study status ...`."""
    found = 0
    for words in readme_commands():
        for before in (["-m", "remix_study"], ["run_study.py", "--"]):
            at = next((n + 2 for n in range(len(words)) if words[n : n + 2] == before), None)
            if at is not None:
                parse_command(words[at:])
                found += 1
        if words[:2] == ["ray", "exec"] and "remix-study" in words[3]:
            inner = shlex.split(words[3])
            parse_command(inner[inner.index("remix-study") + 1 : inner.index(">")])
            found += 1
    assert found >= 6


def test_aws_policies_are_json() -> None:
    policies = [word for words in readme_commands() for word in words if word.startswith("{")]
    assert len(policies) == 3
    assert all("Statement" in json.loads(policy) for policy in policies)


def test_the_readme_installs_what_each_cloud_needs() -> None:
    installed = [set(words[-1].strip(".[]").split(",")) for words in readme_commands() if words[0] == "pip"]
    for name in CLOUDS:
        text = " ".join(load(CLUSTERS / name)["setup_commands"] + load(CLUSTERS / name)["head_setup_commands"])
        needed = {extra for group in re.findall(r"-e '\.\[([\w,-]+)\]'", text) for extra in group.split(",")}
        assert needed in installed
