"""A Ray cluster with an autoscaler, on one fake machine

It replaces `ray.cluster_utils.AutoscalingCluster`, which needs a file that is missing from Ray's wheel and stops every
Ray cluster of the host. Here, all processes end with the fake machine (machines.py). The nodes are processes that Ray's
fake node provider starts; the autoscaler itself is the real one. It is the autoscaler v1, because v2 needs the missing
file for this provider.
"""

import yaml

from tests.cluster.machines import Machines

# The path at which the cluster launcher stores the configuration of the autoscaler.
FILE = "/root/ray_bootstrap_config.yaml"
ADDRESS = "127.0.0.1:6379"
_ENV = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_enable_autoscaler_v2": "0"}


def launcher(*, workers: int, cpus: int, idle_minutes: float) -> str:
    """Return a launcher file: a head without cores, and up to `workers` workers with `cpus` cores each.

    Args:
        idle_minutes: time after which an idle worker is removed.
    """
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
                # The fake provider requires this name for the head.
                "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
                "worker": {"resources": {"CPU": cpus}, "node_config": {}, "min_workers": 0, "max_workers": workers},
            },
            "head_node_type": "ray.head.default",
            "auth": {"ssh_user": "nobody"},
            # Required by Ray's schema; unused, because nodes are not reached over ssh.
            "file_mounts": {},
            "cluster_synced_files": [],
            **{f"{kind}setup_commands": [] for kind in ("", "head_", "worker_")},
            **{f"{kind}_start_ray_commands": [] for kind in ("head", "worker")},
            "initialization_commands": [],
        }
    )


def start(machines: Machines, name: str, env: dict[str, str], text: str) -> None:
    """Start a head without cores on the machine `name`. `text` is the launcher file, see `launcher`."""
    (machines.state / name / "root" / "ray_bootstrap_config.yaml").write_text(text)
    machines.run(
        name,
        ["ray", "start", "--head", "--num-cpus=0", "--node-ip-address=127.0.0.1", "--port=6379",
         "--dashboard-host=127.0.0.1", f"--autoscaling-config={FILE}", "--disable-usage-stats"],
        env={**env, **_ENV},
    )  # fmt: skip
