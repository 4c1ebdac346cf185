"""clusters/kuberay-*.yaml: keys, KubeRay's rules, and its CRDs if KUBERAY_CRDS names their folder"""

import copy
import os
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from remix_study.study.study_file import read_study
from tests.pages import parse_command
from tests.unit.clusters.checks import CLUSTERS, ROOT, load
from tests.unit.clusters.kuberay import RAY_JOB, key_problems, rule_problems, schema_problems

CRDS = "KUBERAY_CRDS"


@pytest.fixture
def job() -> dict[str, Any]:
    return copy.deepcopy(load(CLUSTERS / "kuberay-rayjob.yaml"))


def problems(job: dict[str, Any]) -> list[str]:
    return [*key_problems(job, RAY_JOB), *rule_problems(job)]


def value_at(job: Any, path: str) -> Any:
    """Return the part of the manifest at a path, such as `spec.containers.0`."""
    for key in path.split("."):
        job = job[int(key)] if isinstance(job, list) else job[key]
    return job


def test_the_manifest_is_valid(job: dict[str, Any]) -> None:
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert problems(job) == []


CLUSTER = "spec.rayClusterSpec"
GPU = f"{CLUSTER}.workerGroupSpecs.0"
POD = f"{GPU}.template.spec"


@pytest.mark.parametrize(
    ("path", "key", "value", "problem"),
    [
        ("spec", "entryPoint", "x", "spec has no key entryPoint"),
        (CLUSTER, "autoscalerOption", {}, f"{CLUSTER} has no key autoscalerOption"),
        (f"{POD}.containers.0", "volumeMount", [], "containers[0] has no key volumeMount"),
        (f"{POD}.tolerations.0", "operater", "Exists", "tolerations[0] has no key operater"),
        (CLUSTER, "workerGroupSpecs", {}, "workerGroupSpecs must be a list"),
        ("metadata", "name", "Remix_Study", "metadata.name must be a label of DNS"),
        ("spec", "backoffLimit", 0, "a lost head must be retried"),
        ("spec", "entrypoint", "python -m remix_study run x.yaml", "KubeRay would retry every error"),
        ("spec", "shutdownAfterJobFinishes", False, "the cluster must end with the study"),
        (f"{CLUSTER}.authOptions", "mode", "disabled", "Ray must require the token"),
        (f"{CLUSTER}.headGroupSpec.rayStartParams", "num-cpus", 0, "rayStartParams must be strings"),
        (POD, "restartPolicy", "Always", "restartPolicy must be Never"),
        (f"{POD}.containers.0", "image", "other", "head and workers must run the same image"),
        (f"{POD}.containers.0.volumeMounts.0", "name", "shard", "no volume is named shard"),
        (f"{POD}.containers.0", "env", [{"name": "DB_PASSWORD", "value": "x"}], "DB_PASSWORD must come from a Secret"),
        (f"{POD}.containers.0.resources.limits", "nvidia.com/gpu", 2, "GPUs that are requested and their limit"),
        (GPU, "replicas", 9, "minReplicas <= replicas <= maxReplicas"),
    ],
)
def test_an_invalid_value_is_found(job: dict[str, Any], path: str, key: str, value: Any, problem: str) -> None:
    value_at(job, path)[key] = value
    assert any(problem in each for each in problems(job))


def test_the_entrypoint_runs_a_study_of_the_image(job: dict[str, Any]) -> None:
    python, module, package, *words = shlex.split(job["spec"]["entrypoint"])
    assert (python, module, package) == ("python", "-m", "remix_study.cli.rayjob")
    study = words[1].removeprefix("/home/ray/remix-study/")
    parse_command([words[0], str(ROOT / study), *words[2:]])
    assert read_study(ROOT / study, {})


def test_workspace_and_corpus_are_on_the_shared_volume(job: dict[str, Any]) -> None:
    storage = load(CLUSTERS / "kuberay-storage.yaml")
    assert storage["spec"]["accessModes"] == ["ReadWriteMany"]
    words = shlex.split(job["spec"]["entrypoint"])
    cluster = job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        (claim,) = [
            v["name"]
            for v in pod["volumes"]
            if v.get("persistentVolumeClaim") == {"claimName": storage["metadata"]["name"]}
        ]
        (mount,) = [m["mountPath"] for m in pod["containers"][0]["volumeMounts"] if m["name"] == claim]
        for option in ("--workspace", "--corpus"):
            assert Path(words[words.index(option) + 1]).is_relative_to(mount)


def test_a_crd_is_applied_strictly(tmp_path: Path) -> None:
    """Rejects unknown, missing and mistyped keys; accepts any key of a map, and numbers or strings as quantities."""
    schema = {
        "type": "object",
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": {
                "type": "object",
                "required": ["maxReplicas"],
                "properties": {
                    "maxReplicas": {"type": "integer"},
                    "limits": {"type": "object", "additionalProperties": {"x-kubernetes-int-or-string": True}},
                },
            },
        },
    }
    crd = {
        "spec": {
            "group": "ray.io",
            "names": {"kind": "RayJob"},
            "versions": [{"name": "v1", "served": True, "schema": {"openAPIV3Schema": schema}}],
        }
    }
    (tmp_path / "ray.io_rayjobs.yaml").write_text(yaml.safe_dump(crd))

    def check(**spec: Any) -> list[str]:
        return schema_problems(
            {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": {"name": "x"}, "spec": spec}, tmp_path
        )

    assert check(maxReplicas=8, limits={"cpu": "500m", "nvidia.com/gpu": 1}) == []
    assert "maxReplica" in check(maxReplicas=8, maxReplica=8)[0]
    assert "'8' is not of type 'integer'" in check(maxReplicas="8")[0]
    assert "'maxReplicas' is a required property" in check()[0]
    with pytest.raises(FileNotFoundError, match=r"must hold the CRD of RayService ray\.io/v1"):
        schema_problems({"apiVersion": "ray.io/v1", "kind": "RayService"}, tmp_path)


@pytest.mark.skipif(
    CRDS not in os.environ, reason=f"{CRDS} must name a folder with KubeRay's CRDs, which we do not ship"
)
def test_the_manifest_is_valid_for_kuberays_own_schema(job: dict[str, Any]) -> None:
    crds = Path(os.environ[CRDS])
    assert schema_problems(job, crds) == []
    value_at(job, POD)["volumess"] = []
    assert any("volumess" in each for each in schema_problems(job, crds))
