"""Runs remix-study on the head of a cluster; `ray submit` copies this file there and executes it

    ray submit clusters/local-onprem.yaml run_study.py -- run search_spaces/fusions.yaml --workspace /mnt/shared/w

The words after `--` are a command of remix-study. It runs in the checkout, which the cluster file mounts at
~/remix-study. `ray submit` joins the words with spaces and a shell on the head splits them again, so a word that
contains a space needs extra quotes: --workspace "'/mnt/my disk/w'".

Workers always get the package from the head's checkout, because their own copy is as old as the node.
"""

import json
import os
import sys
from pathlib import Path

CHECKOUT = "~/remix-study"  # `file_mounts` of clusters/*.yaml
# `ray.init` reads its job configuration from this variable, as in a job of `ray job submit`. Calling `ray.init` here
# instead would connect before the command knows whether it needs Ray.
JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
# Only the package is uploaded. As in .gitignore, the last matching pattern wins. "/*" would also match the folder
# itself, which Ray calls ".", and exclude everything.
EXCLUDES = ["/[!.]*", "/.?*", "!/remix_study", "!/remix_study/**", "__pycache__"]


def checkout() -> Path:
    """The folder with the package: the one of this file, or the one that the cluster file mounts."""
    for place in (Path(__file__).resolve().parent, Path(CHECKOUT).expanduser()):
        if (place / "remix_study" / "__init__.py").is_file():
            return place
    sys.exit(
        f"error: No checkout at {CHECKOUT} on the head. The cluster file mounts it (`file_mounts: {{{CHECKOUT}: .}}`); "
        "run `ray up` from the root of the checkout."
    )


def main() -> None:
    """Run the command and exit with its status."""
    place = checkout()
    os.chdir(place)
    # On the head, this script is in the home directory; do not import modules from there.
    own = str(Path(__file__).resolve().parent)
    sys.path[:] = [str(place), *(path for path in sys.path if path not in (own, ""))]
    os.environ.setdefault("RAY_ADDRESS", "auto")
    # EXCLUDES keep everything but the package. A line of .gitignore such as "models/" would keep parts of it, too.
    os.environ.setdefault("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", "1")
    # Without a `working_dir`, workers would import the package from a folder of this name on their own disk.
    os.environ.setdefault(JOB_CONFIG, json.dumps({"runtime_env": {"working_dir": str(place), "excludes": EXCLUDES}}))
    from remix_study.cli.main import main as command

    command()
    sys.exit(0)


if __name__ == "__main__":
    main()
