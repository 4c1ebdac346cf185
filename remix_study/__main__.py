"""`python -m remix_study`: where the console script is not on the path, as in a Ray job"""

import sys

from remix_study.launch.dependencies import missing_dependencies

missing = missing_dependencies()
if missing is not None:
    sys.exit(f"error: {missing}.")

from remix_study.cli.main import main  # noqa: E402 - imports the packages that may be missing

main()
