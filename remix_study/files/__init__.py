"""Files, folders, databases and URLs: atomic writes, locks, and copies of remote folders"""

from pathlib import Path

DEFAULT_WORKSPACE = Path("workspace")  # relative to the current directory
