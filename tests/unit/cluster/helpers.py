"""Helpers for the tests of the cluster package"""

from collections.abc import Callable
from pathlib import Path

from remix_study.cluster.submission import Submission

Make = Callable[..., Submission]
# Values that a shell must receive quoted.
HOSTILE = [
    "a b", "it's", 'say "x"', "; touch x", "$(touch x)", "`touch x`", "-x", "a\\b", "*?[x]", "${HOME}", "a&b|c>d",
]  # fmt: skip


def only(found: tuple[str, ...] | list[str]) -> str:
    """Return the only element."""
    (element,) = found
    return element


def fill(path: Path, size: int) -> None:
    """Create a file of `size` bytes, with its parent folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)
