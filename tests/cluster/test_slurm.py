"""clusters/slurm.sbatch as it is, on two machines, with stand-ins for what Slurm gives it: `scontrol` and `srun`

The stand-ins do what the script relies on: one says the addresses of the nodes of the job, the other runs a command on
each of them, with the environment of the job, and fails if one of them fails.
"""

from pathlib import Path

import pytest

from tests.cluster.laptop import CORPUS, OnDisk, put_checkout, write_study
from tests.cluster.machines import ADDRESSES, KEY, SHARED, Machines

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

NODES = ("head", "w1")
SCONTROL = """#!/bin/bash
[ "$*" = "show hostnames $SLURM_JOB_NODELIST" ] || exit 2
printf '%s\\n' {addresses}
"""
SRUN = """#!/bin/bash
while [ "${{1#--}}" != "$1" ]; do shift; done
for node in {addresses}; do
    ssh -o StrictHostKeyChecking=no -o LogLevel=ERROR -i {key} "$node" \\
        "$(export -p); cd $(printf %q "$PWD"); $(printf '%q ' "$@")" &
    pids+=($!)
done
status=0
for pid in "${{pids[@]}}"; do wait "$pid" || status=$?; done
exit $status
"""
TOKEN = "f" * 64  # of this test's Ray alone


@pytest.fixture(scope="module")
def login(machines: Machines) -> dict[str, str]:
    """A checkout on the shared disk, and the environment that Slurm gives a job."""
    put_checkout(machines.shared / "slurm")
    addresses = " ".join(ADDRESSES[node] for node in NODES)
    tools = machines.shared / "tools"
    tools.mkdir(exist_ok=True)
    for name, text in (("scontrol", SCONTROL), ("srun", SRUN)):
        (tools / name).write_text(text.format(addresses=addresses, key=KEY))
        (tools / name).chmod(0o755)
    for node in NODES:  # one home directory for all nodes, where there is Slurm
        token = machines.state / node / "root" / ".ray" / "auth_token"
        token.parent.mkdir(exist_ok=True)
        token.write_text(TOKEN)
        token.chmod(0o600)
    return {
        "PATH": f"{SHARED}/tools:{machines.venv}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "SLURM_SUBMIT_DIR": str(SHARED / "slurm"),
        "SLURM_JOB_ID": "12345",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "1",
        "COLUMNS": "160",
        "LANG": "C.UTF-8",
    }


def batch(machines: Machines, login: dict[str, str], *words: str) -> tuple[int, str]:
    command = ["bash", str(SHARED / "slurm" / "clusters" / "slurm.sbatch"), *words]
    done = machines.run("head", command, env=login, cwd=str(SHARED / "slurm"), timeout_s=500, check=False)
    return done.returncode, done.stdout


def ray_left(machines: Machines) -> list[str]:
    return [args for node in NODES for args in machines.processes(node) if "ray" in args]


def test_a_study_runs_on_all_nodes_of_a_job_and_leaves_nothing(machines: Machines, login: dict[str, str]) -> None:
    file = write_study(machines.shared / "slurm", "batched", base={"epochs": 60}, trials=2, storage="journal")
    workspace = SHARED / "slurm's workspace"
    code, said = batch(machines, login, file, "--corpus", CORPUS, "--workspace", str(workspace))
    assert code == 0, said
    assert "6 of 6 runs ended" in said
    assert "batched has begun on a cluster of 2 machines: 2 runs at once" in said
    disk = OnDisk(machines.shared / workspace.name / "studies" / "batched")
    assert {host for run in disk.runs() for host in disk.hosts(run)} == set(NODES)
    assert ray_left(machines) == []
    assert not list((machines.state / "w1" / "tmp").glob("ray-*"))


def test_a_folder_that_only_one_node_has_is_refused_before_anything_starts(
    machines: Machines, login: dict[str, str]
) -> None:
    file = write_study(machines.shared / "slurm", "private", trials=1)
    code, said = batch(machines, login, file, "--corpus", CORPUS, "--workspace", "/root/workspace")
    assert code != 0  # and so fails the job
    assert "Traceback" not in said
    assert ray_left(machines) == []
    told = " ".join(said.split())
    assert "Not all nodes of the cluster have the same files" in told
    assert "w1 does not see the workspace /root/workspace" in told
    assert not (Path(machines.state) / "head" / "root" / "workspace" / "studies" / "private" / "runs").exists()
