"""A source whose files end or hang whoever opens them; in a file of its own, which a worker process imports quickly"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from remix_study.media.source import LocalSource


class HostileSource(LocalSource):
    """Files called `deadly` end a process, `later` when they are opened again, and `endless` keep it for ever."""

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
