"""A source whose files crash or hang the process that opens them

It has its own module, so that worker processes import it quickly.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from remix_study.media.source import LocalSource


class HostileSource(LocalSource):
    """Exits the process when `deadly` is opened, or `later` for the second time, and hangs when `endless` is opened."""

    @contextmanager
    def local(self, path: str) -> Iterator[Path]:
        opened = Path(self.root) / "opened"
        if "deadly" in path or ("later" in path and opened.exists()):
            os._exit(1)
        if "later" in path:
            opened.touch()
        if "endless" in path:
            threading.Event().wait()
        with super().local(path) as local:
            yield local
