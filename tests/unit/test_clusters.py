"""Every launcher file is one that this Ray accepts, asks for a token, and holds no secret"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

CLUSTERS = Path(__file__).parents[2] / "clusters"
SCHEMA = Path(ray.__file__).parent / "autoscaler" / "ray-schema.json"


def load(path: Path) -> dict[str, Any]:
    content = yaml.safe_load(path.read_text())
    assert isinstance(content, dict)
    return content


@pytest.fixture(params=sorted(CLUSTERS.glob("*.yaml")), ids=lambda path: str(path.name))
def launcher(request: pytest.FixtureRequest) -> dict[str, Any]:
    return load(request.param)


def test_ray_accepts_the_file(launcher: dict[str, Any]) -> None:
    validate_config(prepare_config(launcher))


def test_ray_would_refuse_a_misspelt_key(launcher: dict[str, Any]) -> None:
    misspelt = {**launcher, "head_start_ray_comands": []}
    with pytest.raises(Exception, match="head_start_ray_comands"):
        validate_config(prepare_config(misspelt))


def test_keys_are_current(launcher: dict[str, Any]) -> None:
    """`prepare_config` silently translates the keys of old files; the schema knows today's only."""
    assert set(launcher) <= set(json.loads(SCHEMA.read_text())["properties"])


def test_there_is_no_secret(launcher: dict[str, Any]) -> None:
    text = yaml.safe_dump(launcher)
    assert not re.search(r"(?i)password|secret|BEGIN [A-Z ]*PRIVATE KEY|\b[0-9a-f]{32,}\b", text)


def test_every_head_asks_for_a_token(launcher: dict[str, Any]) -> None:
    starts = [command for command in launcher["head_start_ray_commands"] if "ray start" in command]
    assert starts
    assert all("RAY_AUTH_MODE=token ray start --head" in command for command in starts)


def test_the_local_file_names_this_machine_alone() -> None:
    local = load(CLUSTERS / "local.yaml")
    assert local["provider"] == {"type": "local", "head_ip": "127.0.0.1", "worker_ips": []}
    (start,) = [command for command in local["head_start_ray_commands"] if "ray start" in command]
    options = dict(re.findall(r"--([a-z-]+)=(\S+)", start))
    assert options["node-ip-address"] == "127.0.0.1"
    assert options["dashboard-host"] == "127.0.0.1"
    # Ray's own workers listen there: `ray start` refuses a port among theirs.
    assert not 10002 <= int(options["port"]) <= 19999
    assert prepare_config(local)["max_workers"] == 0


def test_the_readme_names_every_file() -> None:
    readme = (CLUSTERS / "README.md").read_text()
    assert all(path.name in readme for path in CLUSTERS.glob("*.yaml"))
