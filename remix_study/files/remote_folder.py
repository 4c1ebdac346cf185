"""Reading and writing the files below a URL"""

import contextlib
import hashlib
import os
import posixpath
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from remix_study.files.disk import move_into_place, temporary_path
from remix_study.files.urls import no_bucket, open_url, url_errors


def machine_cache() -> Path:
    """The folder for copies and notes of this machine: `REMIX_STUDY_CACHE` or `~/.cache/remix_study`."""
    return Path(os.environ.get("REMIX_STUDY_CACHE") or "~/.cache/remix_study").expanduser().absolute()


def cache_folder(url: str) -> Path:
    """The local folder for copies of `url`, in `machine_cache()`. It need not exist."""
    return machine_cache() / hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:16]


class RemoteFolder:
    """The files below a URL, by paths relative to it. Every method raises `SourceError`, as `url_errors` does."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.system, self.root = open_url(url)

    def path(self, *parts: str) -> str:
        return posixpath.join(self.root, *parts)

    def content(self, *parts: str) -> bytes | None:
        """The content of a file, or None if it does not exist."""
        with url_errors(self.url):
            try:
                found: bytes = self.system.cat_file(self.path(*parts))
            except FileNotFoundError as error:
                if no_bucket(error):
                    raise
                return None
        return found

    def info(self, path: str) -> Mapping[str, Any] | None:
        """A file's description by fsspec (size, ETag ...), or None if it does not exist."""
        with url_errors(self.url), contextlib.suppress(FileNotFoundError):
            found: Mapping[str, Any] = self.system.info(self.path(path))
            return found
        return None

    def remove(self, path: str) -> None:
        with url_errors(self.url), contextlib.suppress(FileNotFoundError):
            self.system.rm_file(self.path(path))

    def listing(self, below: str = "", *, flat: bool = False) -> dict[str, Mapping[str, Any]]:
        """The files below a folder: path -> fsspec's description. `flat` leaves out those in its subfolders."""
        root = self.path(below) if below else self.root
        with url_errors(self.url):
            try:
                if flat:
                    found = {info["name"]: info for info in self.system.ls(root, detail=True) if info["type"] == "file"}
                else:
                    found = self.system.find(root, detail=True)
            except FileNotFoundError as error:
                if no_bucket(error):
                    raise
                return {}
        start = len(self.root.rstrip("/")) + 1
        return {name[start:]: info for name, info in found.items() if name[start:]}

    def matching(self, pattern: str) -> list[str]:
        """The paths of files and folders that match a pattern; `*` matches any part of one name."""
        with url_errors(self.url):
            found = self.system.glob(self.path(pattern))
        start = len(self.root.rstrip("/")) + 1
        return [name[start:] for name in found]

    def put(self, path: str, content: bytes) -> None:
        with tempfile.NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            self.upload(Path(file.name), path)

    def fetch(self, path: str, target: Path) -> bool:
        """Download a file to `target`, which is incomplete after an error. Returns False if the file does not exist."""
        with url_errors(self.url):
            try:
                self.system.get_file(self.path(path), str(target))
            except FileNotFoundError:
                return False
        return True

    def upload(self, source: Path, path: str) -> None:
        with url_errors(self.url):
            try:
                self.system.put_file(str(source), self.path(path))
            except FileNotFoundError as error:  # some services need the folder first
                if no_bucket(error):  # do not create a bucket whose name is misspelt
                    raise
                self.system.makedirs(posixpath.dirname(self.path(path)), exist_ok=True)
                self.system.put_file(str(source), self.path(path))

    def download(self, path: str, target: Path) -> None:
        """Download a file to `target` atomically; do nothing if it does not exist."""
        part = temporary_path(target)
        if self.fetch(path, part):
            move_into_place(part, target)
