"""Files that `ray job submit` uploads: Ray's own rules, plus data of ours that must stay on this machine

Ray skips what .gitignore and .rayignore name, .git, and virtual environments. This module adds workspaces, clip stores
and checkpoints: they are large, and the cluster has its own.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from remix_study import ray_private
from remix_study.errors import ConfigError
from remix_study.launch.folder import CHECKPOINTS

MB = 1_000_000
LARGE_BYTES = 50 * MB
# Excluded by name in every folder.
_ALWAYS_EXCLUDED = (
    ".git", ".venv", "venv", "__pycache__", "*.egg-info", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis",
    "workspace", CHECKPOINTS, "mlruns", "mlartifacts", "mlflow.db*",
)  # fmt: skip


_IGNORE_FILES = (".gitignore", ".rayignore")


@dataclass(frozen=True)
class Upload:
    """The files of one folder that would be uploaded.

    Args:
        folder: the folder.
        sizes: bytes of each file, by its path relative to the folder.
    """

    folder: Path
    sizes: dict[str, int]

    @cached_property
    def bytes(self) -> int:
        return sum(self.sizes.values())

    def largest(self, count: int = 3) -> list[tuple[str, int]]:
        """The largest direct children of the folder, with their bytes."""
        parts: Counter[str] = Counter()
        for path, size in self.sizes.items():
            parts[path.partition("/")[0]] += size
        return parts.most_common(count)


def limit_bytes() -> int:
    """The largest upload that Ray accepts."""
    return ray_private.upload_limit_bytes()


def upload_excludes(folder: Path) -> tuple[str, ...]:
    """Patterns, as in .gitignore, of what must not be uploaded, including workspaces and clip stores in the folder."""
    return (*_ALWAYS_EXCLUDED, *(pattern_for(path) for path in _data_folders(folder)))


def pattern_for(path: str) -> str:
    """The .gitignore pattern that matches exactly this path."""
    return "/" + re.sub(r"([\\*?\[\]])", r"\\\1", path).replace(" ", "[ ]")  # a trailing space would be ignored


def measure(folder: Path, excludes: Sequence[str]) -> Upload:
    """The files of `folder` that Ray would upload.

    Raises:
        ConfigError: Ray cannot read a file such as .gitignore.
    """
    sizes: dict[str, int] = {}

    def record(path: Path) -> None:
        if path.is_file():
            sizes[path.relative_to(folder).as_posix()] = path.stat().st_size

    try:
        ray_private.visit_uploaded_paths(folder, [*ray_private.default_excludes(), *excludes], record)
    except (LookupError, ValueError, re.error) as error:
        if (line := _unreadable_line(folder)) is None:
            raise
        raise ConfigError(f"Cannot upload {folder}: Ray cannot read {line}. Correct or remove it.") from error
    return Upload(folder, sizes)


def why_excluded(folder: Path, path: str, excludes: Sequence[str]) -> str:
    """Which pattern keeps a file from the upload, as the subject of a sentence.

    Args:
        folder: the folder that is uploaded.
        path: a file that would not be uploaded, relative to the folder.
        excludes: the patterns given to Ray, as of `upload_excludes`.
    """
    parts = Path(path).parts
    prefixes = [Path(*parts[:count]) for count in range(1, len(parts) + 1)]
    for prefix in prefixes:
        for pattern in [*ray_private.default_excludes(), *excludes]:
            if ray_private.excluded_by(folder, [pattern])(folder / prefix):
                return f"the pattern `{pattern}`, which always applies,"
        for place in [folder / above for above in reversed(prefix.parents)]:
            for name in _IGNORE_FILES:
                line = _line_that_excludes(place / name, folder / prefix)
                if line is not None:
                    return f"{line} of {(place / name).relative_to(folder).as_posix()}"
    return "an ignore file"


def _unreadable_line(folder: Path) -> str | None:
    """The first line of an ignore file that Ray cannot read."""
    files = sorted(Path(at, name) for at, _, names in os.walk(folder) for name in names if name in _IGNORE_FILES)
    for file in files:
        for number, line in enumerate(file.read_bytes().splitlines(), start=1):
            try:
                ray_private.excluded_by(folder, [line.decode()])
            except (LookupError, ValueError, re.error):
                shown = line.decode(errors="replace")
                return f"line {number} (`{shown}`) of {file.relative_to(folder).as_posix()}"
    return None


def _line_that_excludes(file: Path, path: Path) -> str | None:
    """The line of an ignore file that decides to leave out a path: the last one that matches it."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    for number, line in reversed(list(enumerate(lines, start=1))):
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        negated = pattern.startswith("!")
        if ray_private.excluded_by(file.parent, [pattern.removeprefix("!")])(path):
            return None if negated else f"line {number} (`{pattern}`)"
    return None


def _data_folders(folder: Path) -> Iterator[str]:
    """Workspaces and clip stores below a folder, relative to it, without looking inside them."""
    is_excluded = ray_private.excluded_by(folder, [*ray_private.default_excludes(), *_ALWAYS_EXCLUDED])
    for place, folders, _ in os.walk(folder):
        kept = []
        for name in sorted(folders):
            path = Path(place) / name
            if path.is_symlink() or is_excluded(path):
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
