"""The version of this package, the number of the semantics of its settings, and the digest of its code

A module of its own, so that others can import it without importing the package's public names.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

__version__ = "0.2.0.dev0"

SEMANTICS = 2
"""Raised whenever equal settings begin to give other results on purpose; see config/identity.py.

1: version 0.1.0.
2: version 0.2.0. Samples are ordered by one random number each; shares of three or more modalities are met at the
   lowest cost; BatchNorm trains on the feature maps of a single sample; heads and fusion are float32 under bfloat16;
   seeds of replicates follow from the seed of the study.
"""

CODE_VARIABLE = "REMIX_STUDY_CODE"
"""Environment variable in which `remix-study submit` passes the digest of the code that it uploaded"""


def code_digest(root: Path = Path(__file__).parent, paths: Iterable[str] | None = None) -> str:
    """The SHA-256 digest of names and contents of Python files.

    Args:
        root: a folder; default: this package.
        paths: the files, relative to `root`; default: all below it.
    """
    if paths is None:
        paths = [path.relative_to(root).as_posix() for path in root.rglob("*.py")]
    content = hashlib.sha256()
    for path in sorted(paths):
        content.update(path.encode() + b"\0" + (root / path).read_bytes())
    return content.hexdigest()
