"""`remix-study`, and `python -m remix_study` where the console script is not on the path, as in a Ray job

Handles Ctrl-C and SIGTERM before it imports anything that takes time.
"""

import os
import signal
import sys
from types import FrameType

_INTERRUPTED = b"Interrupted before the command began.\n"


def _leave(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of a handler
    os.write(2, _INTERRUPTED)
    os._exit(128 + number)


def main() -> None:
    """Run the command line."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # as in the background of a shell script
            signal.signal(number, _leave)

    from remix_study.launch.dependencies import missing_dependencies

    missing = missing_dependencies()
    if missing is not None:
        sys.exit(f"error: {missing}.")

    from remix_study.cli.main import main as command_line  # imports the packages that may be missing

    command_line()


if __name__ == "__main__":
    main()
