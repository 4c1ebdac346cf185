"""What `ray job submit` would upload: Ray's own rules, and what of ours must never go along

Ray leaves out what .gitignore and .rayignore name, .git and virtual environments. Here are added workspaces, clip
stores, checkpoints and the like: a cluster has its own, and they are large.
"""

import json
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from remix_study.launch.folder import CHECKPOINTS

MB = 1_000_000
LARGE_BYTES = 50 * MB
# By name, wherever they lie.
_NEVER = (
    ".git", ".venv", "venv", "__pycache__", "*.egg-info", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis",
    "workspace", CHECKPOINTS, "mlruns", "mlartifacts", "mlflow.db*",
)  # fmt: skip


@dataclass(frozen=True)
class Upload:
    """The files of one folder that would be uploaded: path relative to it -> bytes."""

    folder: Path
    sizes: dict[str, int]

    @cached_property
    def bytes(self) -> int:
        return sum(self.sizes.values())

    def largest(self, count: int = 3) -> list[tuple[str, int]]:
        """The largest parts, each a folder or file right below the uploaded folder, with its bytes."""
        parts: Counter[str] = Counter()
        for path, size in self.sizes.items():
            parts[path.partition("/")[0]] += size
        return parts.most_common(count)


def limit_bytes() -> int:
    """The dashboard takes no larger request (it answers 413), nor does Ray keep a larger package."""
    from ray._private.ray_constants import DASHBOARD_CLIENT_MAX_SIZE
    from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE

    return int(min(DASHBOARD_CLIENT_MAX_SIZE, GCS_STORAGE_MAX_SIZE))


def excludes_of(folder: Path) -> tuple[str, ...]:
    """Patterns, as .gitignore has them, of what must not go along: by name, and workspaces and clip stores as found."""
    return (*_NEVER, *(pattern_of(path) for path in _data_in(folder)))


def pattern_of(path: str) -> str:
    """The pattern that means this one path."""
    return "/" + re.sub(r"([\\*?\[\]])", r"\\\1", path).replace(" ", "[ ]")  # a space at the end would not count


def measure(folder: Path, excludes: Sequence[str]) -> Upload:
    """What Ray would put into the package of `folder`."""
    from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

    sizes: dict[str, int] = {}

    def take(path: Path) -> None:
        if path.is_file():
            sizes[path.relative_to(folder).as_posix()] = path.stat().st_size

    # The same walk as that which makes the package: its rules are nowhere else.
    _dir_travel(
        folder, [_get_excludes(folder, [*_of_ray(), *excludes])], take, include_gitignore=_heeds_gitignore(),
        logger=logging.getLogger("remix_study.quiet"),
    )  # fmt: skip
    return Upload(folder, sizes)


def _of_ray() -> list[str]:
    from ray._private.ray_constants import get_runtime_env_default_excludes

    return list(get_runtime_env_default_excludes())


def _heeds_gitignore() -> bool:
    from ray._private.ray_constants import RAY_RUNTIME_ENV_IGNORE_GITIGNORE

    return os.environ.get(RAY_RUNTIME_ENV_IGNORE_GITIGNORE, "0") != "1"


def _data_in(folder: Path) -> Iterator[str]:
    """Workspaces and clip stores below a folder, relative to it; nothing within them."""
    from ray._private.runtime_env.packaging import _get_excludes

    left_out: Callable[[Path], bool] = _get_excludes(folder, [*_of_ray(), *_NEVER])
    for place, folders, _ in os.walk(folder):
        kept = []
        for name in sorted(folders):
            path = Path(place) / name
            if path.is_symlink() or left_out(path):
                continue
            if _is_workspace(path) or _is_store(path) or _is_store(path / "store"):
                yield path.relative_to(folder).as_posix()
            else:
                kept.append(name)
        folders[:] = kept


def _is_workspace(path: Path) -> bool:
    return (path / "mlflow.db").exists() or any(path.glob("studies/*/study.yaml")) or any(path.glob("runs/*/digest"))


def _is_store(path: Path) -> bool:
    try:
        content = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and {"files", "fingerprint"} <= content.keys()
