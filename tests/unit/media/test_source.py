"""Sources and URLs without a server: local folders, and fsspec's file system in memory"""

import errno
import io
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest

from remix_study.errors import SourceError, StoreError
from remix_study.files import scratch
from remix_study.files.remote_folder import cache_folder
from remix_study.files.urls import corpus_at, is_url, shown, tag_of, url_errors
from remix_study.media.source import LocalSource, RemoteSource, Source, row_of, source_at

FILES = {
    "clips/a.mp4": b"a clip",
    "clips/b.mp4": b"another",
    "frames/a/0.png": b"0" * 10,
    "frames/a/1.png": b"1" * 10,
}


@pytest.fixture
def local(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def memory() -> Iterator[str]:
    """Return the root of a file system without checksums, so that they are computed from the content."""
    system = fsspec.filesystem("memory")
    for name, content in FILES.items():
        system.pipe_file(f"/corpus/{name}", content)
    yield "memory://corpus"
    system.rm("/corpus", recursive=True)


@pytest.fixture(params=["local", "memory"])
def source(request: pytest.FixtureRequest) -> Source:
    return source_at(request.getfixturevalue(request.param))


class TestEverySource:
    def test_list_returns_paths_relative_to_the_root(self, source: Source) -> None:
        assert source.list() == sorted(FILES)
        assert source.list("frames") == ["frames/a/0.png", "frames/a/1.png"]
        assert source.list("none") == []

    def test_exists_finds_files_and_folders(self, source: Source) -> None:
        there = {path: source.exists(path) for path in ("clips/a.mp4", "frames/a", "clips/c.mp4")}
        assert there == {"clips/a.mp4": True, "frames/a": True, "clips/c.mp4": False}

    def test_identity_depends_on_the_content(self, source: Source) -> None:
        found = [source.identity(path) for path in ("clips/a.mp4", "clips/b.mp4", "frames/a", "none")]
        assert [each and each[0] for each in found] == [6, 7, 20, None]
        assert len({each and each[1] for each in found}) == 4
        again = pickle.loads(pickle.dumps(source))
        assert again.identity("frames/a") == found[2]

    def test_read_and_local_return_the_content(self, source: Source) -> None:
        assert source.read("clips/a.mp4") == b"a clip"
        with source.local("clips/a.mp4") as path:
            assert (path.suffix, path.read_bytes()) == (".mp4", b"a clip")
        with source.local("frames/a") as folder:
            assert sorted(each.name for each in folder.iterdir()) == ["0.png", "1.png"]
        with source.local("none.mp4") as path:
            assert not path.exists()
        with pytest.raises(FileNotFoundError):
            source.read("none.mp4")


def test_linked_folders_are_searched_once(local: Path, tmp_path: Path) -> None:
    """A corpus may be spread over several disks. A link may lead back to a folder above it."""
    (local / "frames").rename(tmp_path / "elsewhere")
    before = source_at(tmp_path / "elsewhere").identity("a")
    (local / "frames").symlink_to(tmp_path / "elsewhere")
    (local / "clips" / "back").symlink_to(local)
    (tmp_path / "elsewhere" / "same").symlink_to(tmp_path / "elsewhere")
    (local / "broken").symlink_to(tmp_path / "nowhere")
    assert source_at(local).list() == sorted(FILES)
    (tmp_path / "linked").symlink_to(tmp_path / "elsewhere" / "a")
    assert source_at(tmp_path).identity("linked") == before


def test_downloaded_clips_are_deleted_after_the_block_and_arrays_are_cached(memory: str) -> None:
    system = fsspec.filesystem("memory")
    for number in range(6):
        content = io.BytesIO()
        np.save(content, np.full((2, 3), number))
        system.pipe_file(f"/corpus/{number}.npy", content.getvalue())
    source = source_at(memory)
    with source.local("clips/a.mp4") as clip:
        assert clip.is_relative_to(scratch.scratch())
    assert not clip.exists()
    lent = []
    for number in range(6):
        for row in range(2):
            with source.local(f"{number}.npy#{row}") as path:
                lent.append(path)
                assert np.load(path)[row].tolist() == [number] * 3
    assert len(set(lent)) == 6
    assert [path.exists() for path in lent[::2]] == [False, False, True, True, True, True]


@pytest.mark.parametrize("path", ["../secret", "clips/../../secret", "/etc/passwd", ".."])
def test_a_path_outside_a_remote_root_raises(memory: str, path: str) -> None:
    fsspec.filesystem("memory").pipe_file("/secret", b"x")
    source = source_at(memory)
    for method in (source.identity, source.read, source.exists, source.list):
        with pytest.raises(SourceError, match="below the root"):
            method(path)


def test_file_urls_are_folders_of_this_machine(local: Path) -> None:
    source = source_at(local.as_uri())
    assert isinstance(source, LocalSource)
    assert source.list() == sorted(FILES)
    assert isinstance(source_at(str(local)), LocalSource)
    assert isinstance(source_at("memory://x"), RemoteSource)


def test_local_paths_and_urls_are_distinguished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert corpus_at("corpus") == str(tmp_path / "corpus")
    assert corpus_at(tmp_path.as_uri() + "/a%20b") == str(tmp_path / "a b")
    assert corpus_at("s3://bucket/corpus") == "s3://bucket/corpus"
    assert [is_url(each) for each in ("s3://b/c", "/a/b", "c:\\x", "file:///a", Path("a"))] == [True, *[False] * 4]
    assert row_of("a.npy#17") == ("a.npy", 17)
    assert row_of("a#17") == ("a#17", None)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("s4://bucket/x", "Cannot open s4://bucket/x: fsspec does not support the protocol 's4'"),
        ("https://host/x?signature=secret", "Cannot open https://host/x: .* must not contain `\\?` or `#`"),
    ],
)
def test_an_unusable_url_is_explained_without_its_secrets(url: str, why: str) -> None:
    with pytest.raises(SourceError, match=why) as caught:
        source_at(url)
    assert "secret" not in str(caught.value)


def test_a_missing_package_is_reported_with_the_extra_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object, **__: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "url_to_fs", absent)
    with pytest.raises(SourceError, match=r"pip install 'remix-study\[s3\]'"):
        source_at("s3://bucket/x")


def test_a_url_is_shown_without_secrets() -> None:
    assert shown("https://me:secret@host/x?signature=secret#secret") == "https://host/x"


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (ConnectionResetError("secret"), "no answer after several tries"),
        (TimeoutError("secret"), "no answer after several tries"),
        (PermissionError("secret"), "permission denied"),
        (FileNotFoundError("secret"), "no such bucket or folder"),
        (OSError("secret"), "the service failed"),
    ],
)
def test_an_error_of_a_service_is_explained_without_its_message(error: OSError, why: str) -> None:
    with pytest.raises(SourceError, match=f"s3://bucket: .*{why}") as caught, url_errors("s3://bucket"):
        raise error
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "full"), PermissionError(errno.EACCES, "no", "/here"), KeyError("a bug")]
)
def test_errors_of_the_local_disk_and_bugs_are_unchanged(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, url_errors("s3://bucket"):
        raise error
    assert caught.value is error


def test_a_tag_identifies_the_content_of_a_file() -> None:
    assert tag_of({"ETag": 'W/"abc"', "size": 3}) == tag_of({"ETag": '"abc"'}) == "etag:abc"
    assert tag_of({"md5Hash": "x=="}) == "md5hash:x=="
    assert tag_of({"size": 3, "ETag": None}) is None


def test_each_url_has_its_own_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMIX_STUDY_CACHE", str(tmp_path))
    one, other = cache_folder("s3://bucket/one"), cache_folder("s3://bucket/other")
    assert one.parent == other.parent == tmp_path
    assert one != other
    assert cache_folder("s3://bucket/one/") == one
    monkeypatch.delenv("REMIX_STUDY_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder("s3://bucket/one").parent == tmp_path / "home" / ".cache" / "remix_study"


KILLED = """
import os, signal
from remix_study.files.scratch import scratch
print(scratch(), flush=True)
(scratch() / "clip.mp4").write_bytes(b"x")
if {killed}:
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_downloads_are_deleted_when_the_process_ends_and_after_a_kill_by_the_next(tmp_path: Path) -> None:
    def start(*, killed: bool) -> Path:
        done = subprocess.run(
            [sys.executable, "-c", KILLED.format(killed=killed)], env=os.environ | {"TMPDIR": str(tmp_path)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return Path(done.stdout.strip())

    left = start(killed=True)
    assert (left / "clip.mp4").exists()
    gone = start(killed=False)
    assert gone.parent == left.parent
    assert [path.name for path in gone.parent.iterdir()] == [".lock"]


def test_a_temporary_folder_of_another_user_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    other = os.getuid() + 1
    (tmp_path / f"remix_study-{other}").mkdir()
    monkeypatch.setattr(os, "getuid", lambda: other)
    monkeypatch.setattr(scratch, "_made", {})
    with pytest.raises(StoreError, match="it belongs to another user"):
        scratch.scratch()
