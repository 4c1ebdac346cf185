"""Cluster files, the YAML files of Ray's cluster launcher (`ray up`): reading and validating them"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import yaml

from remix_study import ray_private
from remix_study.errors import ConfigError

CHECKOUT = "~/remix-study"  # where clusters/*.yaml mount the checkout on every node
SECRETS_FILE = ".remix-study.env"  # in the home directory of every node: KEY=VALUE lines
DASHBOARD_PORT = 8265
_PLACEHOLDER = re.compile(r"\b(?:CHANGE_ME|YOUR-)[\w-]*")  # in clusters/*.yaml


@dataclass(frozen=True)
class ClusterFile:
    """The parts of a cluster file that matter for a study.

    Args:
        file: path of the YAML file.
        name: `cluster_name`.
        provider: `provider.type`, such as `aws` or `local`.
        workers: maximum number of worker nodes, without the head.
        dashboard_port: port of the dashboard on the head.
        secrets: local file that is mounted as ~/.remix-study.env on every node; None if there is none.
        up_variables: variable assignments that `ray up` needs, as a prefix of the command line.
    """

    file: Path
    name: str
    provider: str
    workers: int
    dashboard_port: int = DASHBOARD_PORT
    secrets: Path | None = None
    up_variables: str = ""

    @property
    def argument(self) -> str:
        """The absolute path, so that a printed command works in any folder, and no tool reads it as an option."""
        return str(self.file.absolute())

    @property
    def up(self) -> str:
        """The command that starts the cluster."""
        return f"{self.up_variables}{shlex.join(['ray', 'up', self.argument])}"


def read_cluster_file(file: Path) -> ClusterFile:
    """Read a cluster file and validate it with Ray's own checks.

    Raises:
        ConfigError: the file cannot be read, Ray rejects it, it still has placeholders, or it belongs to Slurm or
            KubeRay; the message then names the command that starts it.
    """
    import ray

    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not a text file"
        raise ConfigError(f"Cannot read cluster file {file}: {why}.") from None
    _reject_other_schedulers(file, text)
    try:
        (content,) = yaml.safe_load_all(text)
    except ValueError:
        content = None  # no document, or several
    except yaml.YAMLError as error:
        raise ConfigError(f"Cannot parse cluster file {file} as YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(content, dict):
        raise ConfigError(
            f"{file} is not a cluster file: expected one YAML mapping with keys such as `cluster_name`. "
            "See clusters/README.md."
        )
    for key in ("cluster_name", "provider"):  # Ray raises a bare KeyError for these
        if key not in content:
            raise ConfigError(f"{file} is not a cluster file: `{key}` is missing. See clusters/README.md.")
    try:
        prepared = ray_private.checked_cluster_config(content)
    except Exception as error:  # jsonschema's, click's and Python's own: Ray's checks have no exception in common
        at = getattr(error, "json_path", "$").removeprefix("$").lstrip(".")
        reason = getattr(error, "message", None) or f"{type(error).__name__}: {error}"
        raise ConfigError(
            f"Ray {ray.__version__} rejects cluster file {file}{f' at `{at}`' if at else ''}: "
            f"{' '.join(str(reason).split())[:300].rstrip('. ')}. See clusters/README.md."
        ) from error
    placeholders = sorted(set(_PLACEHOLDER.findall(yaml.safe_dump(content))))
    if placeholders:
        raise ConfigError(
            f"{file} still contains placeholders: {', '.join(placeholders)}. Replace them with your own values "
            "(see clusters/README.md), then start the cluster."
        )
    start_commands = " ".join(prepared.get("head_start_ray_commands") or ())
    ports = re.findall(r"--dashboard-port[= ](\d+)", start_commands)
    mounts = content.get("file_mounts") or {}
    secrets = next((source for target, source in mounts.items() if str(target).endswith(f"/{SECRETS_FILE}")), None)
    provider, workers = str(prepared["provider"]["type"]), int(prepared.get("max_workers") or 0)
    # Autoscaler v2 starts only one of several workers with this provider (ray-project/ray#57153).
    needs_v1 = provider == "local" and workers > 1 and "enable_autoscaler_v2=0" not in start_commands
    return ClusterFile(
        file=file,
        name=str(prepared["cluster_name"]),
        provider=provider,
        workers=workers,
        up_variables="RAY_UP_enable_autoscaler_v2=0 " if needs_v1 else "",
        dashboard_port=int(ports[-1]) if ports else DASHBOARD_PORT,
        secrets=None if secrets is None else Path(str(secrets)).expanduser(),
    )


def _reject_other_schedulers(file: Path, text: str) -> None:
    """Check that a file is not one for another scheduler than `ray up`.

    Raises:
        ConfigError: the file is a Slurm batch script or a KubeRay manifest.
    """
    quoted = shlex.quote(str(file))
    if re.search(r"^#SBATCH\b", text, re.MULTILINE):
        raise ConfigError(
            f"`--cluster` expects a cluster file for `ray up`, but {file} is a Slurm batch script. It starts its own "
            f"Ray and runs the study. Submit it with: sbatch {quoted}"
        )
    if re.search(r"^apiVersion:\s*['\"]?ray\.io/", text, re.MULTILINE):
        job = re.search(r"^kind:\s*['\"]?RayJob\b", text, re.MULTILINE)
        study = " and the study that it names" if job else ""
        raise ConfigError(
            f"`--cluster` expects a cluster file for `ray up`, but {file} is a KubeRay manifest. Start the cluster"
            f"{study} with: kubectl apply -f {quoted}. To submit to a running cluster, forward its dashboard with "
            f"`kubectl port-forward service/YOUR-CLUSTER-head-svc {DASHBOARD_PORT}` and use "
            f"--address http://127.0.0.1:{DASHBOARD_PORT}."
        )
