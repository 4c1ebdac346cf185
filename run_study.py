"""remix-study on the head of a cluster, for `ray submit`, which brings this one file there and runs it

    ray submit clusters/local-onprem.yaml run_study.py -- run search_spaces/methods.yaml --workspace /mnt/shared/w

What stands behind `--` is a command of remix-study. It works in the checkout, which the cluster's file mounts at
~/remix-study. `ray submit` joins the words by spaces, and a shell on the head takes them apart again, so a word with a
space needs quotes of its own: --workspace "'/mnt/my disk/w'".

Workers get the package from the head's checkout each time: what lies on them is as old as their start.
"""

import json
import os
import sys
from pathlib import Path

PLACE = "~/remix-study"  # `file_mounts` of clusters/*.yaml
# By this `ray job submit` tells its driver, and `ray.init` reads it wherever the command calls that. To say it to
# `ray.init` ourselves, we would have to connect before the command knows whether it needs Ray.
JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
# As in .gitignore, the last one that fits counts. The workers need the package, and nothing else of the checkout. (Not
# "/*": Ray holds it against the folder itself, which is ".", and then nothing is sent.)
EXCLUDES = ["/[!.]*", "/.?*", "!/remix_study", "!/remix_study/**", "__pycache__"]


def checkout() -> Path:
    """Where the package lies: beside this file, or where the cluster's file mounts it."""
    for place in (Path(__file__).resolve().parent, Path(PLACE).expanduser()):
        if (place / "remix_study" / "__init__.py").is_file():
            return place
    sys.exit(
        f"error: the checkout must lie at {PLACE} on the head, but does not. The cluster's YAML mounts it "
        f"(`file_mounts: {{{PLACE}: .}}`): run `ray up` from the root of the checkout."
    )


def main() -> None:
    """Does not return: the exit status is the command's."""
    place = checkout()
    os.chdir(place)
    # The script's own folder is the home directory: whatever lies there must not be imported.
    own = str(Path(__file__).resolve().parent)
    sys.path[:] = [str(place), *(path for path in sys.path if path not in (own, ""))]
    os.environ.setdefault("RAY_ADDRESS", "auto")
    # Without a `working_dir`, workers would import what lies in a folder of this name on their own disk.
    os.environ.setdefault(JOB, json.dumps({"runtime_env": {"working_dir": str(place), "excludes": EXCLUDES}}))
    from remix_study.cli.main import main as command

    command()
    sys.exit(0)


if __name__ == "__main__":
    main()
