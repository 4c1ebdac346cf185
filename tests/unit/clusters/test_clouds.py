"""clusters/{aws,gcp,azure}.yaml against the clouds' published schemas, and aws.yaml with Ray's code

No cloud is contacted: moto simulates Amazon.
"""

import copy
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import moto
import pytest
from ray.autoscaler._private.util import prepare_config

from tests.unit.clusters.checks import CLUSTERS, load, node_problems


def with_value(name: str, kind: str, *path: str | int, value: Any) -> dict[str, Any]:
    """Return a shipped file with one changed value in a node_config."""
    launcher = copy.deepcopy(load(CLUSTERS / name))
    node = launcher["available_node_types"][kind]["node_config"]
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return launcher


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml", "azure.yaml"])
def test_every_node_config_is_valid(name: str) -> None:
    assert node_problems(load(CLUSTERS / name)) == []


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        (("InstanceTyp",), "g6.xlarge", "InstanceTyp"),
        (("BlockDeviceMappings", 0, "Ebs", "VolumeSize"), "200", "VolumeSize"),
        (("InstanceMarketOptions", "Market"), "spot", "Market"),
        (("IamInstanceProfile",), "remix-study-worker", "IamInstanceProfile"),
    ],
)
def test_an_invalid_value_for_amazon_is_found(path: tuple[str | int, ...], value: Any, problem: str) -> None:
    found = node_problems(with_value("aws.yaml", "gpu_spot", *path, value=value))
    assert any(problem in each for each in found)


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        (("machinType",), "g2-standard-8", "node_config.machinType cannot be set"),
        (("scheduling", "provisioningModel"), "SPOTTED", "node_config.scheduling.provisioningModel must be one of"),
        (("scheduling",), [{"preemptible": True}], "node_config.scheduling must be of type object"),
        (("disks", 0, "initializeParams", "diskSizeGb"), [200], "diskSizeGb must be of type string"),
        (("guestAccelerators", 0, "acceleratorCount"), True, "acceleratorCount must be of type integer"),
        (("metadata", "items", 0, "name"), "x", "node_config.metadata.items[0].name cannot be set"),
        (("creationTimestamp",), "now", "node_config.creationTimestamp cannot be set"),
    ],
)
def test_an_invalid_value_for_google_is_found(path: tuple[str | int, ...], value: Any, problem: str) -> None:
    found = node_problems(with_value("gcp.yaml", "gpu_spot", *path, value=value))
    assert any(problem in each for each in found)


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        (("azure_arm_parameters", "vmsize"), "Standard_NC4as_T4_v3", "azure_arm_parameters.vmsize cannot be set"),
        (("azure_arm_parameters", "osDiskSize"), "200", "azure_arm_parameters.osDiskSize must be of type int"),
        (("azure_arm_parameters", "imageSku"), 2204, "azure_arm_parameters.imageSku must be of type string"),
        (("azure_arm_parameters", "publicKey"), "ssh-rsa", "azure_arm_parameters.publicKey cannot be set"),
        (("vmSize",), "Standard_NC4as_T4_v3", "node_config has no key vmSize"),
        (("azure_arm_parameters",), {}, "azure_arm_parameters.vmSize is missing"),
    ],
)
def test_an_invalid_value_for_azure_is_found(path: tuple[str | int, ...], value: Any, problem: str) -> None:
    found = node_problems(with_value("azure.yaml", "gpu_spot", *path, value=value))
    assert any(problem in each for each in found)


def test_google_disks_are_in_the_zone_of_the_provider() -> None:
    launcher = load(CLUSTERS / "gcp.yaml")
    zone, region = launcher["provider"]["availability_zone"], launcher["provider"]["region"]
    assert zone.startswith(region)
    for kind in launcher["available_node_types"].values():
        assert kind["node_config"]["disks"][0]["initializeParams"]["diskType"].startswith(f"zones/{zone}/")


@pytest.mark.slow
def test_ray_creates_machines_from_the_amazon_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Like `ray up` and the head's autoscaler: roles, key, network, then one machine per node type."""
    from ray.autoscaler._private.aws import config as aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    bootstrap: Any = aws.bootstrap_aws  # Ray ships no types
    make_provider: Any = AWSNodeProvider
    (tmp_path / ".ssh").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "nobody")
    monkeypatch.setattr(
        aws, "time", SimpleNamespace(sleep=lambda _: None, time=time.time)
    )  # skip Ray's waits for Amazon
    launcher = load(CLUSTERS / "aws.yaml")
    region = launcher["provider"]["region"]
    with moto.mock_aws(config={"iam": {"load_aws_managed_policies": True}}):
        ec2 = boto3.client("ec2", region_name=region)
        image = ec2.describe_images()["Images"][0]["ImageId"]
        boto3.client("iam").create_instance_profile(InstanceProfileName="remix-study-worker")
        for kind in launcher["available_node_types"].values():
            kind["node_config"]["ImageId"] = image
        ready = bootstrap(prepare_config(launcher))
        provider = make_provider(ready["provider"], ready["cluster_name"])
        machines = {}
        for name, kind in ready["available_node_types"].items():
            config = {**kind["node_config"], **(ready["head_node"] if name == ready["head_node_type"] else {})}
            tags = {"ray-node-type": "worker", "ray-user-node-type": name}
            (machines[name],) = provider.create_node(config, tags, 1).values()
        assert {name: machine.instance_lifecycle for name, machine in machines.items()} == {
            "head": None,
            "gpu_on_demand": None,
            "gpu_spot": "spot",
        }
        profiles = {name: machine.iam_instance_profile["Arn"].split("/")[-1] for name, machine in machines.items()}
        assert profiles == {
            "head": "ray-autoscaler-v1",
            "gpu_on_demand": "remix-study-worker",
            "gpu_spot": "remix-study-worker",
        }
        known = ec2.describe_instance_types(InstanceTypes=[machines["gpu_spot"].instance_type])["InstanceTypes"][0]
        assert launcher["available_node_types"]["gpu_spot"]["resources"] == {
            "CPU": known["VCpuInfo"]["DefaultVCpus"],
            "GPU": sum(gpu["Count"] for gpu in known["GpuInfo"]["Gpus"]),
        }
