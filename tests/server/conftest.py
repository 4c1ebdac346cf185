"""An S3 server (moto) on this machine, with an empty bucket for each test"""

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
    """An S3 bucket.

    Attributes:
        url: URL of the bucket, `s3://NAME`.
        address: HTTP address of the server.
        files: s3fs file system without a cache of listings.
    """

    url: str
    address: str
    files: Any

    def upload(self, folder: Path, prefix: str) -> str:
        """Upload the files of `folder` below `prefix`, and return the URL of the copy."""
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            self.files.put_file(str(path), f"{self.url}/{prefix}/{path.relative_to(folder).as_posix()}")
        return f"{self.url}/{prefix}"

    def require_credentials(self) -> None:
        """Make the server check credentials. Those of the fixture become invalid."""
        _post(f"{self.address}/moto-api/reset-auth", b"0")


def _post(url: str, content: bytes = b"") -> None:
    request = urllib.request.Request(url, data=content, method="POST", headers={"Content-Type": "text/plain"})
    urllib.request.urlopen(request, timeout=10).close()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Start an S3 server and return its address."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """Return an empty bucket. The environment contains credentials for it."""
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
    _post(f"{s3_server}/moto-api/reset-auth", b"inf")  # undo `require_credentials` of an earlier test
    _post(f"{s3_server}/moto-api/reset")
    s3fs.S3FileSystem.clear_instance_cache()  # cached connections use the credentials of an earlier test
    files = s3fs.S3FileSystem(use_listings_cache=False)
    files.mkdir("bucket")
    yield Bucket("s3://bucket", s3_server, files)
    _post(f"{s3_server}/moto-api/reset-auth", b"inf")  # the setting applies to all of moto, which other tests use, too
    s3fs.S3FileSystem.clear_instance_cache()
