"""Reading and validating cluster files"""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from remix_study.cluster.cluster_file import read_cluster_file
from remix_study.cluster.commands import forward_command
from remix_study.errors import ConfigError

LOCAL: dict[str, Any] = {
    "cluster_name": "lab",
    "provider": {"type": "local", "head_ip": "10.0.0.1", "worker_ips": ["10.0.0.2", "10.0.0.3"]},
    "auth": {"ssh_user": "me"},
}


def written(folder: Path, content: Any, name: str = "lab.yaml") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_a_cluster_file_is_read(folder: Path) -> None:
    start = "ray start --head --dashboard-port=9000 --dashboard-host=127.0.0.1"
    content = {**LOCAL, "head_start_ray_commands": [start], "file_mounts": {"~/.remix-study.env": "~/mine.env"}}
    found = read_cluster_file(written(folder, content))
    assert (found.name, found.provider, found.workers, found.dashboard_port) == ("lab", "local", 2, 9000)
    assert found.secrets == Path.home() / "mine.env"
    assert found.up == f"RAY_UP_enable_autoscaler_v2=0 ray up {folder / 'lab.yaml'}"
    assert forward_command(found, 7)[-2:] == ["--remote-port", "9000"]


def test_shipped_cluster_files_are_read_once_filled_in(folder: Path) -> None:
    for path in (Path(__file__).parents[3] / "clusters").glob("*.yaml"):
        text = path.read_text()
        if "apiVersion" in text:
            continue
        if re.search(r"^[^#\n]*(CHANGE_ME|YOUR-)", text, re.MULTILINE):
            with pytest.raises(ConfigError, match="still contains placeholders"):
                read_cluster_file(path)
        found = read_cluster_file(written(folder, re.sub(r"CHANGE_ME\w*|YOUR-[\w-]*", "mine", text)))
        assert found.up.startswith("ray up "), "the file sets all variables that `ray up` needs"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({**LOCAL, "head_start_ray_comands": []}, "head_start_ray_comands"),
        ({**LOCAL, "provider": {"type": "local"}}, "head_ip"),
        ({**LOCAL, "provider": {"type": "nope"}}, "Unsupported node provider: nope"),
        ({"cluster_name": "x"}, "`provider` is missing"),
        ({**LOCAL, "auth": {"ssh_user": "me", "ssh_port": 22}}, "`auth`"),
        ("- a\n- b\n", "expected one YAML mapping"),
        ("", "expected one YAML mapping"),
        ("a: [", "Cannot parse"),
        ("#!/bin/bash\n#SBATCH --nodes=2\n", "Submit it with: sbatch "),
        ("apiVersion: ray.io/v1\nkind: RayJob\n", "and the study that it names with: kubectl apply -f "),
        ("apiVersion: ray.io/v1\nkind: RayCluster\n", "--address http://127.0.0.1:8265"),
    ],
)
def test_other_files_are_rejected_with_a_remedy(
    folder: Path, content: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError) as raised:
        read_cluster_file(written(folder, content))
    assert message in str(raised.value)
    assert str(folder / "lab.yaml") in str(raised.value)
    assert not re.search(r"ConfigError|\.\. ", str(raised.value))
    assert capsys.readouterr() == ("", "")  # Ray would print the error, too


def test_a_missing_file_is_rejected(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"Cannot read cluster file .*: No such file"):
        read_cluster_file(folder / "none.yaml")
