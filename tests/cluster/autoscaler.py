"""A Ray whose autoscaler adds and removes nodes: what `ray.cluster_utils.AutoscalingCluster` would be

That one needs a file that Ray's wheel lacks, and ends every Ray of the machine. This one runs on a fake machine of its
own (machines.py), where all that it starts ends with the machine. Nodes are processes there, added by a provider that
Ray has for tests; the autoscaler that decides is the real one. It is of version 1: version 2 asks that provider for the
file which is missing.
"""

import yaml

from tests.cluster.machines import Machines

# Where the launcher puts the file that the autoscaler follows.
FILE = "/root/ray_bootstrap_config.yaml"
ADDRESS = "127.0.0.1:6379"
_ENV = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_enable_autoscaler_v2": "0"}


def launcher(*, workers: int, cpus: int, idle_minutes: float) -> str:
    """As of a cloud: a head that trains nothing, and up to so many workers of so many cores."""
    return yaml.safe_dump(
        {
            "cluster_name": "autoscaled",
            "max_workers": workers,
            "idle_timeout_minutes": idle_minutes,
            "upscaling_speed": 10.0,
            "provider": {
                "type": "fake_multinode",
                "use_node_id_as_ip": True,
                "disable_node_updaters": True,
                "disable_launch_config_check": True,
                "gcs_address": ADDRESS,
            },
            "available_node_types": {
                # The fake provider knows its head by this name.
                "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
                "worker": {"resources": {"CPU": cpus}, "node_config": {}, "min_workers": 0, "max_workers": workers},
            },
            "head_node_type": "ray.head.default",
            "auth": {"ssh_user": "nobody"},
            # Nobody logs in to a node; but Ray looks for them.
            "file_mounts": {},
            "cluster_synced_files": [],
            **{f"{kind}setup_commands": [] for kind in ("", "head_", "worker_")},
            **{f"{kind}_start_ray_commands": [] for kind in ("head", "worker")},
            "initialization_commands": [],
        }
    )


def start(machines: Machines, name: str, env: dict[str, str], text: str) -> None:
    """A head without a core of its own, on that machine; `text` of `launcher`."""
    (machines.state / name / "root" / "ray_bootstrap_config.yaml").write_text(text)
    machines.run(
        name,
        ["ray", "start", "--head", "--num-cpus=0", "--node-ip-address=127.0.0.1", "--port=6379",
         "--dashboard-host=127.0.0.1", f"--autoscaling-config={FILE}", "--disable-usage-stats"],
        env={**env, **_ENV},
    )  # fmt: skip
