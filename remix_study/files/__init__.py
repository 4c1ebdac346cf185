"""Files, folders and URLs: written so that nothing is lost, and locked so that one process writes"""

from pathlib import Path

DEFAULT_WORKSPACE = Path("workspace")  # relative to the current directory
