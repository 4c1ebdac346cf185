"""Checking that this Python has the packages that remix_study needs

Imports only the standard library, so that it runs, and can say what is missing, in any environment.
"""

import importlib.metadata
import socket
import sys
from collections.abc import Sequence

# The dependencies of pyproject.toml, which is not uploaded with the package.
REQUIRED = (
    "torch", "torchaudio", "ray", "optuna", "greenlet", "mlflow", "decord2", "av", "numpy", "scipy", "scikit-learn",
    "pydantic", "pyyaml", "typer", "rich", "pyarrow", "matplotlib", "plotly", "jinja2", "cmaes", "pandas", "fsspec",
    "sqlalchemy", "threadpoolctl",
)  # fmt: skip
INSTALL = (
    "Install the package's dependencies there (`pip install -c constraints.txt .`, in the image or in `setup_commands`)"
)


def missing_dependencies(required: Sequence[str] = REQUIRED) -> str | None:
    """Return a sentence that names the packages which this Python lacks; None if it has all of them.

    Args:
        required: names of distributions, as in pyproject.toml.
    """
    missing = [name for name in required if not _is_installed(name)]
    if not missing:
        return None
    return f"The Python of {socket.gethostname()} ({sys.executable}) lacks {', '.join(missing)}. {INSTALL}"


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
