"""Local copies of folders in S3"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from remix_study.errors import SourceError
from remix_study.files.mirror import Mirror, place_of, url_of, with_retries, workspace_at
from remix_study.files.remote_folder import RemoteFolder

pytestmark = pytest.mark.slow  # not `server`, because the S3 server runs in this process


def write(folder: Path, **files: str) -> None:
    """Write text files. In their names, `__` stands for a slash and `_dot_` for a dot."""
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def content(folder: Path) -> dict[str, str]:
    """Return the texts of all files that are not hidden, by path."""
    return {path.relative_to(folder).as_posix(): path.read_text() for path in sorted(folder.rglob("*"))
            if path.is_file() and not path.name.startswith(".")}  # fmt: skip


def recorded(method: Callable[..., Any], paths: list[str]) -> Callable[..., Any]:
    """Wrap a method of RemoteFolder so that each call appends its path to `paths`."""

    def call(self: RemoteFolder, *args: Any) -> Any:
        paths.append(str(args[0] if isinstance(args[0], str) else args[1]))
        return method(self, *args)

    return call


@pytest.fixture
def pair(bucket: Any, tmp_path: Path) -> Callable[[str], Mirror]:
    """Return a function that creates local copies of one remote folder, as on several machines."""
    return lambda name: Mirror(f"{bucket.url}/w", tmp_path / name)


def test_a_pushed_change_is_pulled_by_another_copy(pair: Callable[[str], Mirror]) -> None:
    one, two = pair("one"), pair("two")
    assert not two.pull()
    write(one.folder, a_dot_txt="a", deep__er__b_dot_txt="b")
    assert one.push() == 2
    assert one.push() == 0
    assert two.pull()
    assert content(two.folder) == {"a.txt": "a", "deep/er/b.txt": "b"}
    write(two.folder, a_dot_txt="changed")
    (two.folder / "deep" / "er" / "b.txt").unlink()
    assert two.push() == 2
    one.pull()
    assert content(one.folder) == {"a.txt": "changed"}


def test_only_changed_files_are_transferred_even_after_a_restart(
    pair: Callable[[str], Mirror], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = pair("one"), pair("two")
    write(one.folder, **{f"f{n}": str(n) for n in range(20)})
    one.push()
    two.pull()
    two.close()
    transferred: list[str] = []
    for method in ("upload", "fetch"):
        monkeypatch.setattr(RemoteFolder, method, recorded(getattr(RemoteFolder, method), transferred))
    again = pair("two")
    again.pull()
    assert again.push() == 0
    assert transferred == []
    write(one.folder, f3="three")
    one.push()
    again.pull()
    assert len(transferred) == 2
    assert content(again.folder)["f3"] == "three"


def test_the_remote_file_wins_if_both_sides_changed(pair: Callable[[str], Mirror]) -> None:
    one, two = pair("one"), pair("two")
    write(one.folder, a="first")
    one.push()
    two.pull()
    write(one.folder, a="of one")
    write(two.folder, a="of two, not pushed")
    one.push()
    two.pull()
    assert content(two.folder) == {"a": "of one"}


def test_a_reader_never_finds_a_file_that_refers_to_a_missing_one(
    pair: Callable[[str], Mirror], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`result.json` implies that all other files exist; a spool refers to artifacts."""
    one, two = pair("one"), pair("two")
    write(
        one.folder, result_dot_json="1", spool_dot_jsonl="plot.png", **{"plot_dot_png": "p", "history_dot_jsonl": "h"}
    )
    (one.folder / "checkpoints").mkdir()
    write(one.folder, checkpoints__last_dot_pt="l", checkpoints__best_dot_pt="b")
    order: list[str] = []
    real = RemoteFolder.upload
    monkeypatch.setattr(RemoteFolder, "upload", recorded(real, order))
    one.push()
    assert order.index("plot.png") < order.index("spool.jsonl") < order.index("checkpoints/last.pt")
    assert order[-1] == "result.json"
    assert order.index("checkpoints/best.pt") < order.index("checkpoints/last.pt")

    listing = RemoteFolder.listing
    calls = iter([0, 1])

    def push_during_listing(self: RemoteFolder, *args: Any, **kwargs: Any) -> Any:
        found = listing(self, *args, **kwargs)
        if next(calls) == 0:
            write(one.folder, spool_dot_jsonl="plot.png new.png", new_dot_png="n")
            one.push()
        return found

    monkeypatch.setattr(RemoteFolder, "listing", push_during_listing)
    two.pull()
    found = content(two.folder)
    assert all(name in found for name in found["spool.jsonl"].split())


def test_a_subfolder_can_be_pulled_and_pushed_alone(pair: Callable[[str], Mirror]) -> None:
    one, two = pair("one"), pair("two")
    write(one.folder, top="t", runs__a__x="x", runs__b__x="x", runs__a__checkpoints__last_dot_pt="l")
    one.push("runs/a")
    assert sorted(RemoteFolder(one.url).listing()) == ["runs/a/checkpoints/last.pt", "runs/a/x"]
    one.push(flat=True)
    assert "top" in RemoteFolder(one.url).listing()
    assert "runs/b/x" not in RemoteFolder(one.url).listing()
    two.pull(flat=True)
    assert content(two.folder) == {"top": "t"}
    two.pull("runs/a", skip=lambda path: "checkpoints/" in path)
    assert content(two.folder) == {"top": "t", "runs/a/x": "x"}


def test_skipped_files_are_not_treated_as_deleted(pair: Callable[[str], Mirror]) -> None:
    one, two = pair("one"), pair("two")
    write(one.folder, a="a", tracking__spool_dot_jsonl="s")
    one.push()
    two.pull()
    two.close()
    reader = Mirror(two.url, two.folder, skip=lambda path: path.startswith("tracking/"))
    reader.pull(restore=True)
    assert content(two.folder) == {"a": "a", "tracking/spool.jsonl": "s"}


def test_temporary_and_local_files_are_not_uploaded(pair: Callable[[str], Mirror]) -> None:
    one = pair("one")
    write(one.folder, lock="1", last_dot_partial="p", run_dot_new="n", x_dot_part="x", _dot_hidden="h", a="a")
    one.push()
    assert sorted(RemoteFolder(one.url).listing()) == ["a"]


def test_a_file_deleted_locally_is_not_downloaded_again_before_the_next_push(pair: Callable[[str], Mirror]) -> None:
    one, two = pair("one"), pair("two")
    write(one.folder, stop="", a="a")
    one.push()
    two.pull()
    (two.folder / "stop").unlink()
    two.pull()
    assert not (two.folder / "stop").exists()
    two.push()
    assert sorted(RemoteFolder(one.url).listing()) == ["a"]
    (two.folder / "a").unlink()  # `restore` downloads it again, for readers
    two.pull(restore=True)
    assert content(two.folder) == {"a": "a"}


def test_a_transfer_is_retried_while_the_service_fails(
    pair: Callable[[str], Mirror], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one = pair("one")
    write(one.folder, a="a")
    real, answers = (
        RemoteFolder.upload,
        iter([SourceError("it does not answer."), SourceError("it does not answer."), None]),
    )

    def upload(self: RemoteFolder, source: Path, path: str) -> None:
        if (error := next(answers)) is not None:
            raise error
        real(self, source, path)

    monkeypatch.setattr(RemoteFolder, "upload", upload)
    pauses: list[float] = []
    with_retries(one.push, pauses.append)
    assert pauses == [1.0, 2.0]
    assert sorted(RemoteFolder(one.url).listing()) == ["a"]
    assert "retrying in" in caplog.text

    def fails(self: RemoteFolder, source: Path, path: str) -> None:
        raise SourceError("gone for good")

    monkeypatch.setattr(RemoteFolder, "upload", fails)
    write(one.folder, b="b")
    with pytest.raises(SourceError, match="gone for good"):
        with_retries(one.push, pauses.append)
    assert sum(pauses) > 200


def test_the_url_of_a_local_copy_is_known(bucket: Any, tmp_path: Path) -> None:
    url = f"{bucket.url}/workspace"
    here = workspace_at(f"{url}/")
    assert here == workspace_at(url)
    assert os.environ["REMIX_STUDY_CACHE"] in str(here)
    assert url_of(here) == url
    assert url_of(here / "studies" / "s") == f"{url}/studies/s"
    assert place_of(here / "studies" / "s") == f"{url}/studies/s"
    assert url_of(tmp_path) is None
    assert workspace_at("relative/folder") == Path("relative/folder")
    assert workspace_at(f"file://{tmp_path}") == tmp_path


def test_remote_names_cannot_write_outside_the_local_folder(bucket: Any, pair: Callable[[str], Mirror]) -> None:
    one = pair("deep/er")
    for name in ("../outside", "a/../../outside", "inside"):
        RemoteFolder(one.url).system.call_s3("put_object", Bucket="bucket", Key=f"w/{name}", Body=b"x")
    one.pull()
    assert content(one.folder) == {"inside": "x"}
    assert not list(one.folder.parent.parent.rglob("outside"))


def test_files_are_downloaded_again_if_the_index_is_damaged(pair: Callable[[str], Mirror]) -> None:
    one, two = pair("one"), pair("two")
    write(one.folder, a="a")
    one.push()
    two.pull()
    two.close()
    (two.folder / ".mirror.json").write_text("{half")
    again = pair("two")
    assert again.pull()
    assert content(again.folder) == {"a": "a"}
