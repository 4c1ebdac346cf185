"""Commands of this package as lines to paste: quoted, with their workspace, and correct in any folder"""

import shlex
from pathlib import Path

from remix_study.files.mirror import url_of
from remix_study.files.urls import shown

__all__ = ["own_command"]


def own_command(*words: str | Path, workspace: Path | None = None) -> str:
    """Return `remix-study WORDS --workspace WORKSPACE` as a line for a shell.

    Args:
        words: a command and its arguments. Paths become absolute, strings are only quoted.
        workspace: the folder of the workspace, or the local copy of one at a URL; None for a command without one.
    """
    place = [] if workspace is None else ["--workspace", _place(workspace)]
    return shlex.join(["remix-study", *(_place(w) if isinstance(w, Path) else w for w in words), *place])


def _place(path: Path) -> str:
    path = path.resolve()
    url = url_of(path) if not path.is_file() else None  # a file of a copy can be read here
    return str(path) if url is None else shown(url)
