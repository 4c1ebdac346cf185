"""Sources and stores on an S3 server"""

import json
import os
import pickle
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import s3fs

from remix_study.datasets.corpus import open_corpus
from remix_study.errors import DamagedStoreError, SourceError, StoreError
from remix_study.files.remote_folder import cache_folder
from remix_study.media.derive import derive_store
from remix_study.media.remote_store import local_copy, require_writable, upload_store
from remix_study.media.source import RemoteSource, source_at
from remix_study.media.store import ClipStore

if TYPE_CHECKING:
    from tests.server.conftest import Bucket

pytestmark = pytest.mark.slow  # not `server`, because the S3 server runs in this process


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    (folder / "clips").mkdir(parents=True)
    (folder / "frames" / "a").mkdir(parents=True)
    (folder / "clips" / "a.mp4").write_bytes(b"a clip")
    (folder / "clips" / "b.mp4").write_bytes(b"another")
    for number in range(3):
        (folder / "frames" / "a" / f"{number}.png").write_bytes(bytes([number]) * 10)
    np.save(folder / "text.npy", np.arange(6.0).reshape(3, 2))
    return folder


@pytest.fixture
def source(bucket: "Bucket", files: Path) -> RemoteSource:
    source = source_at(bucket.upload(files, "corpus"))
    assert isinstance(source, RemoteSource)
    return source


@pytest.fixture
def built(small_corpus: Path, tmp_path: Path) -> Path:
    """Return a corpus folder with a store that the test may change."""
    folder = tmp_path / "built"
    shutil.copytree(small_corpus / "store", folder / "store")
    shutil.copy(small_corpus / "manifest.jsonl", folder)
    return folder


def record_requests(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Return a list to which all S3 requests from now on are appended, as (operation, key)."""
    requests: list[tuple[str, str]] = []
    call = s3fs.S3FileSystem._call_s3

    async def recording(self: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        requests.append((method, str(kwargs.get("Key", ""))))
        return await call(self, method, *args, **kwargs)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", recording)
    return requests


def test_a_source_lists_the_files_below_its_root(source: RemoteSource) -> None:
    frames = [f"frames/a/{number}.png" for number in range(3)]
    assert source.list() == ["clips/a.mp4", "clips/b.mp4", *frames, "text.npy"]
    assert source.list("frames/a") == frames
    assert source.list("nothing/here") == []
    assert all(source.exists(path) for path in ("clips/a.mp4", "clips", "text.npy#1"))
    assert not source.exists("c.mp4")


def test_identity_is_stated_by_the_service_and_changes_with_the_content(source: RemoteSource, bucket: "Bucket") -> None:
    size, tag = source.identity("clips/a.mp4") or (0, "")
    assert (size, tag) == (6, "etag:" + str(bucket.files.info("bucket/corpus/clips/a.mp4")["ETag"]).strip('"'))
    assert source.identity("text.npy#1") == source.identity("text.npy")
    assert source.identity("c.mp4") is None
    whole = source.identity("frames/a")
    assert whole is not None
    assert whole[0] == 30
    bucket.files.pipe_file("bucket/corpus/clips/a.mp4", b"a clap")
    bucket.files.pipe_file("bucket/corpus/frames/a/1.png", b"x" * 10)
    later = pickle.loads(pickle.dumps(source))
    assert later.identity("clips/a.mp4") != (size, tag)
    assert later.identity("frames/a") not in (None, whole)
    assert later.identity("clips/b.mp4") == source.identity("clips/b.mp4")


def test_identities_take_one_request_per_folder_and_no_download(
    bucket: "Bucket", source: RemoteSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = record_requests(monkeypatch)
    names = [f"clips/{name}.mp4" for name in ("a", "b")] * 20
    with ThreadPoolExecutor(4) as pool:
        assert None not in list(pool.map(source.identity, names))
    assert all(method != "get_object" for method, _ in requests)
    assert len(requests) <= 1


def test_files_and_folders_are_local_in_the_block_and_deleted_after_it(source: RemoteSource, files: Path) -> None:
    with source.local("clips/a.mp4") as path:
        assert (path.name, path.read_bytes()) == ("a.mp4", b"a clip")
    assert not path.exists()
    with source.local("frames/a") as folder:
        assert {each.name: each.read_bytes() for each in folder.iterdir()} == {
            each.name: each.read_bytes() for each in (files / "frames" / "a").iterdir()
        }
    assert not folder.exists()
    with source.local("clips/none.mp4") as path:
        assert not path.exists()
    assert source.read("clips/b.mp4") == b"another"
    with pytest.raises(FileNotFoundError, match="none"):
        source.read("none")


def test_rows_of_an_array_are_downloaded_once(
    bucket: "Bucket", source: RemoteSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = record_requests(monkeypatch)
    for row in range(3):
        with source.local(f"text.npy#{row}") as path:
            assert np.load(path)[row].tolist() == [2 * row, 2 * row + 1]
    assert [method for method, _ in requests].count("get_object") == 1


@pytest.mark.parametrize("path", ["../other/secret", "clips/../../secret", "/etc/passwd"])
def test_a_path_outside_the_root_raises(source: RemoteSource, path: str) -> None:
    for method in (source.identity, source.read, source.exists, source.list):
        with pytest.raises(SourceError, match="below the root"):
            method(path)


def test_a_key_that_points_outside_its_folder_is_ignored(bucket: "Bucket", source: RemoteSource) -> None:
    bucket.files.pipe_file("bucket/corpus/frames/a/../../../escaped.png", b"x")
    with source.local("frames/a") as folder:
        assert sorted(path.name for path in folder.iterdir()) == ["0.png", "1.png", "2.png"]
    assert all(".." not in path for path in source.list())


def test_a_missing_bucket_raises(bucket: "Bucket") -> None:
    source = source_at("s3://nowhere/corpus")
    with pytest.raises(SourceError, match=r"Cannot access s3://nowhere/corpus: no such bucket"):
        source.list()
    with pytest.raises(SourceError, match="no such bucket"):
        open_corpus("s3://nowhere/corpus")


def test_missing_or_wrong_credentials_raise_without_showing_them(
    bucket: "Bucket", source: RemoteSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.require_credentials()
    with pytest.raises(SourceError, match=r"permission denied.*Check the credentials") as caught:
        pickle.loads(pickle.dumps(source)).read("clips/a.mp4")
    assert "someone" not in str(caught.value)
    assert "a-secret" not in str(caught.value)
    with pytest.raises(SourceError, match="permission denied"):
        require_writable(f"{bucket.url}/new")
    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(SourceError, match="no credentials were found"):
        source_at(source.root).list()


def test_an_unreachable_server_raises(source: RemoteSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(SourceError, match="no answer after several tries"):
        source_at(source.root).list()


def test_a_store_survives_upload_and_download(
    bucket: "Bucket", built: Path, small_store: ClipStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{bucket.url}/stores/small"
    reported: list[tuple[int, int]] = []
    require_writable(url)
    upload_store(built, url, lambda done, total: reported.append((done, total)))
    assert reported[-1][0] == reported[-1][1] >= 1
    copy = open_corpus(url, verify=True)
    assert copy.path != built / "store"
    assert copy.digest == small_store.digest
    rows = np.arange(len(copy))
    np.testing.assert_array_equal(copy.gather("video", rows), small_store.gather("video", rows))
    assert (copy.path.parent / "manifest.jsonl").read_bytes() == (built / "manifest.jsonl").read_bytes()
    requests = record_requests(monkeypatch)
    upload_store(built, url)
    assert not [each for each in requests if each[0] not in ("get_object", "head_object")]
    requests.clear()
    assert open_corpus(url).path == copy.path
    assert open_corpus(f"{url}/store").digest == copy.digest
    assert {Path(key).suffix for _, key in requests[:2]} == {".json"}


def test_a_store_built_on_this_machine_is_not_downloaded(bucket: "Bucket", built: Path) -> None:
    url = f"{bucket.url}/stores/small"
    shutil.copytree(built, cache_folder(url))
    upload_store(cache_folder(url), url)
    assert open_corpus(url).path == cache_folder(url) / "store"


def test_an_interrupted_upload_cannot_be_opened_and_resumes(
    bucket: "Bucket", built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{bucket.url}/stores/small"

    def stop(done: int, total: int) -> None:
        if bucket.files.exists(f"{url}/store/card.json"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        upload_store(built, url, stop)
    with pytest.raises(StoreError, match="no finished clip store found"):
        local_copy(url)
    bucket.files.pipe_file(f"{url}/store/audio-00000.npy", b"somebody else was here")
    requests = record_requests(monkeypatch)
    upload_store(built, url)
    written = [Path(key).name for method, key in requests if method == "put_object"]
    assert "card.json" not in written
    assert written[0] == "audio-00000.npy"
    assert written[-1] == "manifest.json"
    assert open_corpus(url, verify=True).digest == ClipStore.open(built).digest


def change(folder: Path) -> ClipStore:
    """Replace the store by one with two training clips moved to the test split."""
    old = ClipStore.open(folder)
    moved = set(np.array(old.ids)[old.rows("train")][-2:])
    was = {id_: split for split in old.splits for id_ in np.array(old.ids)[old.rows(split)]}
    splits = {id_: "test" if id_ in moved else split for id_, split in was.items()}
    new = folder.with_name("changed")
    derive_store(old, new, splits)
    shutil.rmtree(folder / "store")
    shutil.copytree(new / "store", folder / "store")
    return ClipStore.open(folder)


def test_a_changed_store_is_uploaded_and_downloaded_again_while_its_reader_keeps_the_old_copy(
    bucket: "Bucket", built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{bucket.url}/stores/small"
    upload_store(built, url)
    before = open_corpus(url)
    after = change(built)
    assert after.digest != before.digest
    requests = record_requests(monkeypatch)
    upload_store(built, url)
    changed = [(method, Path(key).name) for method, key in requests if method in ("put_object", "delete_object")]
    assert changed[0] == ("delete_object", "manifest.json")
    assert changed[-1] == ("put_object", "manifest.json")
    fetched = open_corpus(url)
    assert (fetched.digest, fetched.path != before.path) == (after.digest, True)
    assert len(before.gather("video", np.arange(3))) == 3  # the old copy is kept while this process reads it


def test_a_truncated_copy_is_completed(bucket: "Bucket", built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"{bucket.url}/stores/small"
    upload_store(built, url)
    copy = open_corpus(url)
    (copy.path / "video-00000.npy").write_bytes(b"cut short")
    requests = record_requests(monkeypatch)
    assert len(open_corpus(url).gather("video", np.arange(2))) == 2
    fetched = {Path(key).name for method, key in requests if method == "get_object" and key.endswith(".npy")}
    assert fetched == {"video-00000.npy"}


def flipped(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def test_a_file_that_changed_without_changing_size_is_downloaded_again(bucket: "Bucket", built: Path) -> None:
    url = f"{bucket.url}/stores/small"
    upload_store(built, url)
    path = open_corpus(url).path / "video-00000.npy"
    content = path.read_bytes()
    path.write_bytes(flipped(content))
    open_corpus(url)
    assert path.read_bytes() == content


def test_a_large_copy_is_compared_while_training_and_downloaded_again_by_the_next_start(
    bucket: "Bucket", built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("media.store", "media.remote_store", "datasets.corpus"):
        monkeypatch.setattr(f"remix_study.{module}.SMALL_BYTES", -1)
    url = f"{bucket.url}/stores/small"
    upload_store(built, url)
    path = open_corpus(url).path / "video-00000.npy"
    content = path.read_bytes()
    path.write_bytes(flipped(content))
    os.utime(path, (1e9, 1e9))
    store = open_corpus(url)
    assert path.read_bytes() != content
    with pytest.raises(DamagedStoreError, match=r"video-00000\.npy .* Rerun the command: it downloads"):
        store.begin_check().require_intact()
    open_corpus(url)
    assert path.read_bytes() == content


@pytest.mark.parametrize("damage", [lambda content: b"cut short", flipped], ids=["size", "content"])
def test_a_damaged_remote_store_raises_until_it_is_uploaded_again(
    bucket: "Bucket", built: Path, damage: Callable[[bytes], bytes]
) -> None:
    url = f"{bucket.url}/stores/small"
    upload_store(built, url)
    bucket.files.pipe_file(f"{url}/store/video-00000.npy", damage((built / "store/video-00000.npy").read_bytes()))
    with pytest.raises(SourceError, match=r"store at .* is damaged: .*video-00000\.npy does not match manifest\.json"):
        open_corpus(url)
    upload_store(built, url, again=True)
    open_corpus(url, verify=True)


@pytest.mark.parametrize("seal", [b"not json", b"[]", b'{"files": {"../../escaped": {"bytes": 1, "sha256": ""}}}'])
def test_a_manifest_that_is_not_that_of_a_store_raises(bucket: "Bucket", seal: bytes) -> None:
    bucket.files.pipe_file(f"{bucket.url}/odd/store/manifest.json", seal)
    with pytest.raises(StoreError, match=r"its manifest\.json is not that of a clip store"):
        local_copy(f"{bucket.url}/odd")


def test_processes_that_open_a_store_share_one_download(
    bucket: "Bucket", built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{bucket.url}/stores/small"
    upload_store(built, url)
    requests = record_requests(monkeypatch)
    barrier = threading.Barrier(4)

    def open_digest(_: int) -> str:
        barrier.wait(10)
        return open_corpus(url).digest

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(open_digest, range(4)))) == 1
    arrays = [key for method, key in requests if method == "get_object" and key.endswith(".npy")]
    assert len(arrays) == len(set(arrays)) == 2


def test_folds_are_uploaded_with_their_corpus(bucket: "Bucket", built: Path) -> None:
    url = f"{bucket.url}/stores/small"
    store = ClipStore.open(built)
    ids = np.array(store.ids)
    splits = {id_: split for split in store.splits for id_ in ids[store.rows(split)]}
    names = dict(zip(("train", "val", "test"), ("train", "test", "val"), strict=True))
    fold = derive_store(store, built / "fold-0", {id_: names[split] for id_, split in splits.items()})
    upload_store(built, url)
    copy = open_corpus(f"{url}/fold-0")
    assert copy.digest == fold.digest
    np.testing.assert_array_equal(copy.rows("val"), store.rows("test"))
    assert open_corpus(url).digest == store.digest


def test_uploading_a_folder_without_a_store_raises(bucket: "Bucket", tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="has no finished store"):
        upload_store(tmp_path, f"{bucket.url}/none")
    assert not bucket.files.exists(f"{bucket.url}/none")


def test_too_little_disk_space_raises_before_the_download(
    bucket: "Bucket", built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{bucket.url}/stores/small"
    upload_store(built, url)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("usage", (), {"free": 1000}))
    with pytest.raises(StoreError, match="REMIX_STUDY_CACHE"):
        local_copy(url)


def test_a_run_trains_on_a_store_at_a_url(
    bucket: "Bucket", built: Path, recipe: Callable[..., Any], tmp_path: Path
) -> None:
    from remix_study.launch.run import run_one

    url = f"{bucket.url}/stores/small"
    upload_store(built, url)
    config = recipe({"corpus": url})
    away = run_one(config, tmp_path / "away")
    here = run_one(recipe(), tmp_path / "here")
    same = {key for key in here if not key.startswith("time/")}
    assert {key: away[key] for key in same} == {key: here[key] for key in same}
    (folder,) = (tmp_path / "away" / "runs").iterdir()
    assert f"corpus: {url}" in (folder / "config.yaml").read_text()
    assert json.loads((folder / "result.json").read_text()) == away
