"""Problems in the files of clusters/ that Ray or a cloud would only report at run time"""

import importlib.util
import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import botocore.session
import ray
import yaml
from botocore.validate import ParamValidator

ROOT = Path(__file__).parents[3]
CLUSTERS = ROOT / "clusters"
RAY = Path(ray.__file__).parent
PLACEHOLDER = re.compile(r"CHANGE_ME_\w+")
_PROVIDERS = {"aws": "aws", "gcp": "gcp", "azure": "_azure", "local": "local"}


def load(path: Path) -> dict[str, Any]:
    """Return the only document of a YAML file."""
    content = yaml.safe_load(path.read_text())
    assert isinstance(content, dict)
    return content


# --- Ray's cluster launcher -------------------------------------------------------------------------------------------


@cache
def provider_keys(kind: str) -> frozenset[str]:
    """Return the keys that Ray's code reads from `provider`, because its schema accepts any key."""
    sources = (RAY / "autoscaler" / "_private" / _PROVIDERS[kind]).glob("*.py")
    pattern = (
        r"""(?:provider_config|\["provider"\])\s*(?:\[|\.get\()\s*"([a-z]\w*)"|"([a-z]\w*)" in config\["provider"\]"""
    )
    found = [key for path in sources for pair in re.findall(pattern, path.read_text()) for key in pair if key]
    return frozenset({"type", *found})


def provider_problems(launcher: Mapping[str, Any]) -> list[str]:
    provider = launcher["provider"]
    return [f"provider has no key {key}" for key in provider.keys() - provider_keys(provider["type"])]


def commands(launcher: Mapping[str, Any]) -> list[str]:
    """Return all shell commands of the file and of its node types."""
    kinds = launcher.get("available_node_types", {}).values()
    return [
        command
        for section in (launcher, *kinds)
        for key, value in section.items()
        if key.endswith("_commands")
        for command in value
    ]


def shell_problems(script: str) -> list[str]:
    """Return bash syntax errors, and placeholders whose values a shell could misinterpret."""
    checked = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
    # A value may contain anything, except for an address.
    loose = [name for name in PLACEHOLDER.findall(script) if not name.endswith("_ADDRESS")]
    return [*checked.stderr.splitlines(), *(f"{name} reaches a shell" for name in loose)]


def security_problems(launcher: Mapping[str, Any]) -> list[str]:
    """Return missing authentication, open ports and unpinned packages."""
    found = []
    for role in ("head", "worker"):
        for command in launcher[f"{role}_start_ray_commands"]:
            if "ray start" in command and "RAY_AUTH_MODE=token ray start" not in command:
                found.append(f"the {role} starts without a token")
    for command in launcher["head_start_ray_commands"]:
        if "ray start" in command and "--dashboard-host=127.0.0.1" not in command:
            found.append("the dashboard must listen on the loopback address alone")
        if "ray start" in command and "--autoscaling-config=~/ray_bootstrap_config.yaml" not in command:
            found.append("the head must read its autoscaler's configuration")
    for command in commands(launcher):
        if re.search(r"\bpip install\b", command) and "-c constraints.txt" not in command:
            found.append("an installation must keep to constraints.txt")
        if re.search(r"http://|nightly|\.whl|dev0", command):
            found.append("only released packages, by https")
    return found


def secrets_in(text: str) -> list[str]:
    """Return possible secrets: values of suspicious names (except paths), private keys, long random words."""
    named = re.findall(r"""(?im)^[^#\n]*\b\w*(?:password|secret\w*key|token)\s*[:=]\s*["']?([^\s"'$~/.\\]+)""", text)
    keys = re.findall(r"BEGIN [A-Z ]*PRIVATE KEY|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\b[0-9a-f]{32,}\b", text)
    return [*named, *keys]


# --- node_config, against the schemas of the clouds' packages ---------------------------------------------------------


def node_problems(launcher: Mapping[str, Any]) -> list[str]:
    check = {"aws": _aws, "gcp": _gcp, "azure": _azure}[launcher["provider"]["type"]]
    kinds = launcher["available_node_types"].items()
    return [f"{name}: {problem}" for name, kind in kinds for problem in check(kind["node_config"])]


@cache
def _run_instances() -> Any:
    return botocore.session.Session().get_service_model("ec2").operation_model("RunInstances").input_shape


def _aws(config: Mapping[str, Any]) -> list[str]:
    report = ParamValidator().validate({**config, "MinCount": 1, "MaxCount": 1}, _run_instances())
    return [line for line in report.generate_report().splitlines() if line]


@cache
def _compute() -> dict[str, Any]:
    """Return the schemas of Google's Compute API v1."""
    spec = importlib.util.find_spec("googleapiclient")
    assert spec is not None
    assert spec.origin is not None
    document = Path(spec.origin).parent / "discovery_cache" / "documents" / "compute.v1.json"
    schemas: dict[str, Any] = json.loads(document.read_text())["schemas"]
    return schemas


def _gcp(config: Mapping[str, Any]) -> list[str]:
    return list(_google(config, {"$ref": "Instance"}, "node_config"))


def _google(value: Any, schema: Mapping[str, Any], at: str) -> Iterator[str]:
    if "$ref" in schema:
        schema = _compute()[schema["$ref"]]
    wanted = schema["type"]
    fits: dict[str, Any] = {
        "object": dict,
        "array": list,
        "string": str,
        "boolean": bool,
        "integer": int,
        "number": (int, float),
    }
    # Google's 64-bit integers are strings in JSON, but numbers are accepted, too.
    int64 = wanted == "string" and schema.get("format") in ("int64", "uint64") and type(value) is int
    if not (int64 or isinstance(value, fits[wanted])) or (wanted == "integer" and isinstance(value, bool)):
        yield f"{at} must be of type {wanted}"
    elif "enum" in schema and value not in schema["enum"]:
        yield f"{at} must be one of {', '.join(schema['enum'])}"
    elif wanted == "array":
        for index, item in enumerate(value):
            yield from _google(item, schema["items"], f"{at}[{index}]")
    elif wanted == "object":
        for key, inner in value.items():
            known = schema.get("properties", {}).get(key, schema.get("additionalProperties"))
            if known is None or "[Output Only]" in known.get("description", ""):
                yield f"{at}.{key} cannot be set"
            else:
                yield from _google(inner, known, f"{at}.{key}")


# Ray sets these itself.
_SET_BY_RAY = {"vmName", "adminUsername", "publicKey", "vmTags", "vmCount", "provisionPublicIp", "msi", "nsg", "subnet"}


def _azure(config: Mapping[str, Any]) -> list[str]:
    template = json.loads((RAY / "autoscaler" / "_private" / "_azure" / "azure-vm-template.json").read_text())
    # Ray turns the zone into the template's `zones`.
    parameters = template["parameters"] | {"availability_zone": {"type": "string"}}
    kinds = {"string": str, "int": int, "bool": bool, "object": dict, "array": list}
    found = [f"node_config has no key {key}" for key in config.keys() - {"azure_arm_parameters"}]
    given = config.get("azure_arm_parameters", {})
    for key, value in given.items():
        if key not in parameters or key in _SET_BY_RAY:
            found.append(f"azure_arm_parameters.{key} cannot be set")
        elif not isinstance(value, kinds[parameters[key]["type"]]):
            found.append(f"azure_arm_parameters.{key} must be of type {parameters[key]['type']}")
    return [*found, *([] if "vmSize" in given else ["azure_arm_parameters.vmSize is missing"])]
