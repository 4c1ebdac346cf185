"""Problems in a KubeRay manifest, found by its keys and, if available, by KubeRay's own schemas

The known keys are those of KubeRay 1.6 and of Kubernetes' pods that a study may need. Add others here as needed.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import yaml

# A dict is a mapping with these keys, a list contains elements like its only element, None is any value.
_RESOURCES: dict[str, Any] = {"requests": None, "limits": None}
_NAMED: dict[str, Any] = {"name": None}
_SECURITY: dict[str, Any] = dict.fromkeys(("fsGroup", "fsGroupChangePolicy", "runAsUser", "runAsGroup", "runAsNonRoot"))
_CONTAINER: dict[str, Any] = {
    "name": None,
    "image": None,
    "imagePullPolicy": None,
    "ports": [{"containerPort": None, "name": None}],
    "env": [{"name": None, "value": None, "valueFrom": {"secretKeyRef": {"name": None, "key": None}}}],
    "envFrom": [{"secretRef": _NAMED, "configMapRef": _NAMED}],
    "resources": _RESOURCES,
    "volumeMounts": [dict.fromkeys(("name", "mountPath", "subPath", "readOnly"))],
}
_VOLUME: dict[str, Any] = {
    "name": None,
    "persistentVolumeClaim": {"claimName": None, "readOnly": None},
    "emptyDir": {"medium": None, "sizeLimit": None},
}
_TEMPLATE: dict[str, Any] = {
    "metadata": {"labels": None, "annotations": None},
    "spec": {
        "restartPolicy": None,
        "serviceAccountName": None,
        "imagePullSecrets": [_NAMED],
        "nodeSelector": None,
        "securityContext": _SECURITY,
        "tolerations": [dict.fromkeys(("key", "operator", "value", "effect", "tolerationSeconds"))],
        "containers": [_CONTAINER],
        "volumes": [_VOLUME],
    },
}
_GROUP: dict[str, Any] = {"rayStartParams": None, "template": _TEMPLATE}
RAY_JOB: dict[str, Any] = {
    "apiVersion": None,
    "kind": None,
    "metadata": {"name": None, "namespace": None, "labels": None, "annotations": None},
    "spec": {
        **dict.fromkeys(("entrypoint", "submissionMode", "runtimeEnvYAML", "shutdownAfterJobFinishes", "suspend")),
        **dict.fromkeys(("ttlSecondsAfterFinished", "activeDeadlineSeconds", "preRunningDeadlineSeconds")),
        **dict.fromkeys(("backoffLimit", "entrypointNumCpus", "entrypointNumGpus")),
        "submitterConfig": {"backoffLimit": None},
        "rayClusterSpec": {
            "rayVersion": None,
            "authOptions": {"mode": None, "secretName": None},
            "enableInTreeAutoscaling": None,
            "autoscalerOptions": {
                **dict.fromkeys(("version", "idleTimeoutSeconds", "upscalingMode", "imagePullPolicy")),
                "resources": _RESOURCES,
            },
            "headGroupSpec": {**_GROUP, "serviceType": None},
            "workerGroupSpecs": [
                {
                    **_GROUP,
                    **dict.fromkeys(("groupName", "replicas", "minReplicas", "maxReplicas", "idleTimeoutSeconds")),
                }
            ],
        },
    },
}
_LONGEST_NAME = 47  # KubeRay derives the names of pods from it


def key_problems(value: Any, shape: Any, at: str = "") -> Iterator[str]:
    if shape is None:
        return
    if isinstance(shape, list):
        if not isinstance(value, list):
            yield f"{at} must be a list"
            return
        for index, item in enumerate(value):
            yield from key_problems(item, shape[0], f"{at}[{index}]")
    elif not isinstance(value, dict):
        yield f"{at} must be a mapping"
    else:
        for key, inner in value.items():
            if key in shape:
                yield from key_problems(inner, shape[key], f"{at}.{key}".lstrip("."))
            else:
                yield f"{at} has no key {key}"


def rule_problems(job: Mapping[str, Any]) -> Iterator[str]:
    """Return settings that KubeRay's operator rejects or ignores."""
    spec, cluster = job["spec"], job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    if not re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", job["metadata"]["name"]) or (
        len(job["metadata"]["name"]) > _LONGEST_NAME
    ):
        yield "metadata.name must be a label of DNS"
    if spec.get("backoffLimit") and "-m remix_study.cli.rayjob" not in spec["entrypoint"]:
        yield "KubeRay would retry every error: entrypoint must run remix_study.cli.rayjob"
    if not spec.get("backoffLimit"):
        yield "a lost head must be retried: backoffLimit"
    if not spec.get("shutdownAfterJobFinishes"):
        yield "the cluster must end with the study: shutdownAfterJobFinishes"
    if cluster.get("authOptions", {}).get("mode") != "token" or "secretName" not in cluster["authOptions"]:
        yield "Ray must require the token of a Secret: authOptions"
    if len({group["template"]["spec"]["containers"][0]["image"] for group in groups}) != 1:
        yield "head and workers must run the same image"
    for group in groups:
        pod = group["template"]["spec"]
        if any(not isinstance(value, str) for value in group["rayStartParams"].values()):
            yield "rayStartParams must be strings"
        if cluster["autoscalerOptions"].get("version") == "v2" and pod.get("restartPolicy") != "Never":
            yield "with autoscaler v2, restartPolicy must be Never"
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        for container in pod["containers"]:
            yield from (
                f"no volume is named {mount['name']}"
                for mount in container.get("volumeMounts", [])
                if mount["name"] not in volumes
            )
            yield from (
                f"{each['name']} must come from a Secret" for each in container.get("env", []) if "value" in each
            )
            gpus = [container["resources"].get(which, {}).get("nvidia.com/gpu") for which in ("requests", "limits")]
            if gpus[0] != gpus[1]:
                yield "GPUs that are requested and their limit must be the same"
    for group in cluster["workerGroupSpecs"]:
        if not 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]:
            yield "minReplicas <= replicas <= maxReplicas"


def schema_problems(manifest: Mapping[str, Any], crds: Path) -> list[str]:
    """Return violations of the CRD for its kind, from a folder with the `ray.io_*.yaml` files of KubeRay's Helm chart.

    Raises:
        FileNotFoundError: the folder has no CRD for this kind and version.
    """
    group, version = manifest["apiVersion"].split("/")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the files have 1.4 MB
    for path in sorted(crds.glob("*.yaml")):
        crd = yaml.load(path.read_text(), loader)
        spec = crd["spec"]
        if (spec["group"], spec["names"]["kind"]) != (group, manifest["kind"]):
            continue
        for each in spec["versions"]:
            if each["name"] == version and each["served"]:
                validator = jsonschema.Draft202012Validator(strict(each["schema"]["openAPIV3Schema"]))
                return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(manifest)]
    raise FileNotFoundError(f"{crds} must hold the CRD of {manifest['kind']} {manifest['apiVersion']}")


def strict(schema: Any) -> Any:
    """Return the schema as Kubernetes applies it with `--validate=strict`: rejects unknown keys."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    made = {key: strict(value) for key, value in schema.items()}
    open_ended = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    # A property may be called `properties`; then it has no type beside it.
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and not open_ended:
        made["additionalProperties"] = False
    return made
