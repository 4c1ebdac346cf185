"""A file for Ray's cluster launcher: what of it concerns a study, and what is wrong with it"""

import contextlib
import io
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from remix_study.errors import ConfigError

CHECKOUT = "~/remix-study"  # where clusters/*.yaml put it on every node
SECRETS = ".remix-study.env"  # in the home directory of every node: KEY=VALUE lines
DASHBOARD_PORT = 8265
_PLACEHOLDER = re.compile(r"\b(?:CHANGE_ME|YOUR-)[\w-]*")  # of clusters/*.yaml


@dataclass(frozen=True)
class Launcher:
    """A file for Ray's cluster launcher.

    workers: how many machines beside the head there are at most.
    first: the variables that `ray up` needs for it.
    secrets: the file here that every node gets as ~/.remix-study.env; None where none is mounted.
    """

    file: Path
    name: str
    provider: str
    workers: int
    dashboard_port: int = DASHBOARD_PORT
    secrets: Path | None = None
    first: str = ""

    @property
    def word(self) -> str:
        """The file as a word of a command, which no tool takes for an option."""
        return f"./{self.file}" if str(self.file).startswith("-") else str(self.file)

    @property
    def up(self) -> str:
        """The command that starts it."""
        return f"{self.first}{shlex.join(['ray', 'up', self.word])}"


def read_launcher(file: Path) -> Launcher:
    """
    Raises:
        ConfigError: it cannot be read, Ray does not accept it, or it is started by another tool, which is then named.
    """
    import ray

    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigError(f"the cluster must be a launcher file, but {file} cannot be read: {why}.") from None
    _require_launcher(file, text)
    try:
        (content,) = yaml.safe_load_all(text)
    except ValueError:
        content = None  # several documents, or none
    except yaml.YAMLError as error:
        raise ConfigError(f"{file} must be YAML, but is not: {' '.join(str(error).split())}.") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{file} must be a launcher file: keys and values such as cluster_name (clusters/README.md).")
    for key in ("cluster_name", "provider"):  # Ray's own words for it are a KeyError
        if key not in content:
            raise ConfigError(f"{file} must be a launcher file, but `{key}` is missing. See clusters/README.md.")
    try:
        prepared = _prepared(content)
    except Exception as error:  # jsonschema's, click's and Python's own: Ray's checks have no exception in common
        at = getattr(error, "json_path", "$").removeprefix("$").lstrip(".")
        said = getattr(error, "message", None) or f"{type(error).__name__}: {error}"
        raise ConfigError(
            f"{file} must be a launcher file that Ray {ray.__version__} accepts, but{f' at `{at}`' if at else ''}: "
            f"{' '.join(str(said).split())[:300].rstrip('. ')}. See clusters/README.md."
        ) from error
    placeholders = sorted(set(_PLACEHOLDER.findall(yaml.safe_dump(content))))
    if placeholders:
        raise ConfigError(
            f"{file} must name your own values, but still has {', '.join(placeholders)}. Put yours there "
            "(clusters/README.md), and start the cluster."
        )
    starts = " ".join(prepared.get("head_start_ray_commands") or ())
    ports = re.findall(r"--dashboard-port[= ](\d+)", starts)
    mounts = content.get("file_mounts") or {}
    secret = next((source for target, source in mounts.items() if str(target).endswith(f"/{SECRETS}")), None)
    provider, workers = str(prepared["provider"]["type"]), int(prepared.get("max_workers") or 0)
    # Autoscaler v2 starts one worker of several there (ray-project/ray#57153).
    needs_v1 = provider == "local" and workers > 1 and "enable_autoscaler_v2=0" not in starts
    return Launcher(
        file=file,
        name=str(prepared["cluster_name"]),
        provider=provider,
        workers=workers,
        first="RAY_UP_enable_autoscaler_v2=0 " if needs_v1 else "",
        dashboard_port=int(ports[-1]) if ports else DASHBOARD_PORT,
        secrets=None if secret is None else Path(str(secret)).expanduser(),
    )


def _require_launcher(file: Path, text: str) -> None:
    """
    Raises:
        ConfigError: the file is of Slurm or of KubeRay.
    """
    named = shlex.quote(str(file))
    if re.search(r"^#SBATCH\b", text, re.MULTILINE):
        raise ConfigError(
            f"`--cluster` must be a file for Ray's cluster launcher, but {file} is a batch script of Slurm, which "
            f"brings its own Ray and its study. Start it with: sbatch {named}"
        )
    if re.search(r"^apiVersion:\s*['\"]?ray\.io/", text, re.MULTILINE):
        job = re.search(r"^kind:\s*['\"]?RayJob\b", text, re.MULTILINE)
        study = " and the study that it names" if job else ""
        raise ConfigError(
            f"`--cluster` must be a file for Ray's cluster launcher, but {file} is a manifest of KubeRay. Start it"
            f"{study} with: kubectl apply -f {named}. To submit to a cluster that runs: kubectl port-forward "
            f"service/YOUR-CLUSTER-head-svc {DASHBOARD_PORT}, and --address http://127.0.0.1:{DASHBOARD_PORT} here."
        )


def _prepared(content: Mapping[str, Any]) -> dict[str, Any]:
    """As `ray up` would take it: Ray's own checks, with its defaults filled in."""
    import copy

    from ray.autoscaler._private.util import prepare_config, validate_config

    # Ray also prints what it raises.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        prepared: dict[str, Any] = prepare_config(copy.deepcopy(dict(content)))
        validate_config(prepared)
    return prepared
