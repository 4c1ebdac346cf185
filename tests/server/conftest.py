"""A real S3 server of this machine, and a bucket for each test"""

import os
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import s3fs
from moto.server import ThreadedMotoServer


@dataclass(frozen=True)
class Bucket:
    """`url` names it; `address` is the server's; `files` is a file system that looks at it anew each time."""

    url: str
    address: str
    files: Any

    def put(self, folder: Path, below: str) -> str:
        """Upload a folder as it is; its URL."""
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            self.files.put_file(str(path), f"{self.url}/{below}/{path.relative_to(folder).as_posix()}")
        return f"{self.url}/{below}"

    def refuse_strangers(self) -> None:
        """From now on the server looks at credentials."""
        _post(f"{self.address}/moto-api/reset-auth", b"0")


def _post(url: str, content: bytes = b"") -> None:
    request = urllib.request.Request(url, data=content, method="POST", headers={"Content-Type": "text/plain"})
    urllib.request.urlopen(request, timeout=10).close()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("REMIX_STUDY_CACHE", str(tmp_path / "cache"))
    _post(f"{s3_server}/moto-api/reset-auth", b"inf")  # what an earlier test has left
    _post(f"{s3_server}/moto-api/reset")
    s3fs.S3FileSystem.clear_instance_cache()  # connections know the credentials of an earlier test
    files = s3fs.S3FileSystem(use_listings_cache=False)
    files.mkdir("bucket")
    yield Bucket("s3://bucket", s3_server, files)
    _post(f"{s3_server}/moto-api/reset-auth", b"inf")  # it is this process's, and other tests use moto, too
    s3fs.S3FileSystem.clear_instance_cache()
