"""clusters/slurm.sbatch, unchanged, on two machines with fake `scontrol` and `srun` commands

The fake `scontrol` prints the addresses of the job's nodes. The fake `srun` runs a command on each node with the job's
environment, and fails if the command fails on one of them.
"""

from pathlib import Path

import pytest

from tests.cluster.laptop import CORPUS, StudyFolder, copy_checkout, write_study
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
TOKEN = "f" * 64  # of the Ray cluster of this test


@pytest.fixture(scope="module")
def job(machines: Machines) -> dict[str, str]:
    """Copy the checkout to the shared disk, and return the environment that Slurm sets for a job."""
    copy_checkout(machines.shared / "slurm")
    addresses = " ".join(ADDRESSES[node] for node in NODES)
    tools = machines.shared / "tools"
    tools.mkdir(exist_ok=True)
    for name, text in (("scontrol", SCONTROL), ("srun", SRUN)):
        (tools / name).write_text(text.format(addresses=addresses, key=KEY))
        (tools / name).chmod(0o755)
    for node in NODES:  # on a Slurm cluster, all nodes share one home directory
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


def run_batch(machines: Machines, job: dict[str, str], *arguments: str) -> tuple[int, str]:
    """Run the batch script on the head. Return its exit status and its output."""
    command = ["bash", str(SHARED / "slurm" / "clusters" / "slurm.sbatch"), *arguments]
    done = machines.run("head", command, env=job, cwd=str(SHARED / "slurm"), timeout_s=500, check=False)
    return done.returncode, done.stdout


def ray_processes(machines: Machines) -> list[str]:
    return [args for node in NODES for args in machines.processes(node) if "ray" in args]


def test_a_study_runs_on_all_nodes_of_a_job_and_leaves_no_process(machines: Machines, job: dict[str, str]) -> None:
    file = write_study(machines.shared / "slurm", "batched", base={"epochs": 20}, storage="journal")
    workspace = SHARED / "slurm's workspace"
    code, output = run_batch(machines, job, file, "--corpus", CORPUS, "--workspace", str(workspace))
    assert code == 0, output
    assert "4 of 4 runs ended" in output
    assert "batched has begun on a cluster of 2 machines: 2 runs at once" in output
    study = StudyFolder(machines.shared / workspace.name / "studies" / "batched")
    assert {host for run in study.runs() for host in study.hosts(run)} == set(NODES)
    assert ray_processes(machines) == []
    assert not list((machines.state / "w1" / "tmp").glob("ray-*"))


def test_a_workspace_that_is_not_shared_is_rejected_before_the_study_starts(
    machines: Machines, job: dict[str, str]
) -> None:
    file = write_study(machines.shared / "slurm", "private", trials=1)
    code, output = run_batch(machines, job, file, "--corpus", CORPUS, "--workspace", "/root/workspace")
    assert code != 0  # so that the Slurm job fails
    assert "Traceback" not in output
    assert ray_processes(machines) == []
    message = " ".join(output.split())
    assert "Not all nodes of the cluster have the same files" in message
    assert "w1 does not see the workspace /root/workspace" in message
    assert not (Path(machines.state) / "head" / "root" / "workspace" / "studies" / "private" / "runs").exists()
