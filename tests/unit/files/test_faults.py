"""Every file is the old or the new one after a full disk, an error of the disk, or a kill at any operation"""

import ast
import errno
import functools
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import remix_study
from remix_study.files import operations
from remix_study.files.disk import move_into_place, temporary_path, write_atomically
from remix_study.launch.folder import RunFolder
from remix_study.media.build import build_store
from remix_study.media.checks import Checks
from remix_study.media.derive import derive_store
from remix_study.media.presets import FeaturePreset, Preset
from remix_study.media.publish import link_or_copy, replace_folder
from remix_study.media.store import ClipStore
from remix_study.sample import Clip, SampleId
from remix_study.study.shown import SHOWN, note_shown
from remix_study.tracking.spool import Spool
from remix_study.training.checkpoint import LAST, Checkpoints
from tests.faults import KINDS, Faults, at_every_operation
from tests.studies import config


@pytest.fixture(autouse=True)
def _without_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "fsync", lambda descriptor: None)


@pytest.fixture
def place(tmp_path: Path) -> Callable[[int], Path]:
    def make(number: int) -> Path:
        (tmp_path / str(number)).mkdir()
        return tmp_path / str(number)

    return make


# --- single files -----------------------------------------------------------------------------------------------------


def with_old_file(place: Callable[[int], Path]) -> Callable[[int], Path]:
    def make(number: int) -> Path:
        folder = place(number)
        (folder / "a.json").write_text("the old content")
        return folder

    return make


@pytest.mark.parametrize(("how", "ever"), KINDS)
def test_a_file_has_the_old_or_the_new_content(place: Callable[[int], Path], how: int | str, ever: bool) -> None:
    def work(folder: Path) -> None:
        write_atomically(folder / "a.json", (b"the ", b"new " * 5000, b"content"))

    new = "the " + "new " * 5000 + "content"

    def check(folder: Path, succeeded: bool) -> None:
        assert (folder / "a.json").read_text() in ((new,) if succeeded else ("the old content", new))
        work(folder)
        assert [path.name for path in folder.iterdir()] == ["a.json"]
        assert (folder / "a.json").read_text() == new

    assert at_every_operation(work, check, with_old_file(place), how, ever) >= 4


@pytest.mark.parametrize(("how", "ever"), KINDS)
def test_a_folder_is_complete_or_absent(place: Callable[[int], Path], how: int | str, ever: bool) -> None:
    def work(folder: Path) -> None:
        part = temporary_path(folder / "arrays")
        part.mkdir(exist_ok=True)
        for name in ("a", "b"):
            write_atomically(part / name, name)
        move_into_place(part, folder / "arrays")

    def check(folder: Path, succeeded: bool) -> None:
        if succeeded or (folder / "arrays").exists():
            assert sorted(path.name for path in (folder / "arrays").iterdir()) == ["a", "b"]
        else:
            work(folder)

    at_every_operation(work, check, place, how, ever)


@pytest.mark.parametrize(("how", "ever"), KINDS)
def test_a_linked_or_copied_file_is_complete_or_raises(
    place: Callable[[int], Path], how: int | str, ever: bool
) -> None:
    def work(folder: Path) -> None:
        link_or_copy(folder / "a.json", folder / "b.json")

    def check(folder: Path, succeeded: bool) -> None:
        if succeeded:
            assert (folder / "b.json").read_text() == "the old content"

    at_every_operation(work, check, with_old_file(place), how, ever)


@pytest.mark.parametrize(("how", "ever"), KINDS)
def test_a_result_and_the_record_of_shown_results_are_complete_or_absent(
    place: Callable[[int], Path], how: int | str, ever: bool
) -> None:
    def work(folder: Path) -> None:
        RunFolder(folder).write_result({"test/accuracy": 0.5})
        note_shown(folder, config())

    def check(folder: Path, succeeded: bool) -> None:
        assert RunFolder(folder).result() in (
            (None, {"test/accuracy": 0.5}) if not succeeded else ({"test/accuracy": 0.5},)
        )
        work(folder)
        assert len(json.loads((folder / SHOWN).read_text())) == 1

    at_every_operation(work, check, place, how, ever)


# --- checkpoints ------------------------------------------------------------------------------------------------------


def save_epoch(folder: Path, epoch: int) -> None:
    """Save as training does in an epoch that is better than all before."""
    saved, content = Checkpoints(folder), {"epoch": epoch, "weights": torch.full((3,), float(epoch))}
    saved.save_best(epoch, content)
    saved.save(LAST, content)
    saved.keep_best(epoch)


def require_consistent(folder: Path) -> int:
    """Return the epoch of `last.pt`, whose best weights must be those of the same epoch."""
    last = Checkpoints(folder).load(LAST)
    assert last is not None
    best = Checkpoints(folder).load_best(last["epoch"])
    assert best["epoch"] == last["epoch"]
    return int(last["epoch"])


@pytest.mark.parametrize(("how", "ever"), KINDS)
def test_checkpoints_are_of_the_last_or_of_the_new_epoch(
    place: Callable[[int], Path], how: int | str, ever: bool
) -> None:
    def before(number: int) -> Path:
        folder = place(number)
        save_epoch(folder, 0)
        return folder

    def work(folder: Path) -> None:
        save_epoch(folder, 1)
        Checkpoints(folder).finish(1)

    def check(folder: Path, succeeded: bool) -> None:
        assert require_consistent(folder) in ((1,) if succeeded else (0, 1))
        work(folder)
        assert require_consistent(folder) == 1
        assert sorted(path.name for path in folder.iterdir()) == ["best.pt", "last.pt"]

    assert at_every_operation(work, check, before, how, ever) >= 9


# --- spools -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("how", "ever"), KINDS)
def test_a_spool_loses_no_line_that_was_written_before_or_after(
    place: Callable[[int], Path], how: int | str, ever: bool
) -> None:
    def before(number: int) -> Path:
        folder = place(number)
        Spool(folder).append({"step": 0})
        return folder

    def work(folder: Path) -> None:
        spool = Spool(folder)
        spool.append({"step": 1}, {"step": 2})
        spool.advance(spool.size)

    def check(folder: Path, succeeded: bool) -> None:
        spool = Spool(folder)
        assert spool.offset in (0, spool.size)  # never into a line
        work(folder)
        steps = [line["step"] for line, _ in spool.read() if line is not None]
        assert steps[0] == 0
        assert steps[-2:] == [1, 2]
        assert set(steps) == {0, 1, 2}
        assert not spool.has_unsent

    at_every_operation(work, check, before, how, ever)


# --- stores -----------------------------------------------------------------------------------------------------------


def source(folder: Path, clips: int = 6) -> tuple[Clip, ...]:
    folder.mkdir()
    for n in range(clips):
        np.save(folder / f"{n}.npy", np.full(4, n, np.float32))
    return tuple(
        Clip(SampleId(f"{n}"), {"text": f"{n}.npy"}, "a", ("train", "val", "test")[n % 3]) for n in range(clips)
    )


def here(work: Any, jobs: Any, *, on_result: Any, on_lost: Any, **_: Any) -> None:
    for row in jobs:
        on_result(row, work(row))


def build(clips: tuple[Clip, ...], root: Path, out: Path, **options: Any) -> ClipStore:
    preset = Preset("vectors", {"text": FeaturePreset("vector", (4,))})
    return build_store(
        clips, root, out, preset=preset, name="faults", manifest_digest="m", checks=Checks(), chunk=2, shard_bytes=48,
        max_bad_fraction=0.5, run=here, **options,
    )  # fmt: skip


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.slow
@pytest.mark.parametrize(("how", "ever"), KINDS)
def test_a_store_is_complete_or_absent_and_a_second_build_completes_it(
    place: Callable[[int], Path], tmp_path: Path, how: int | str, ever: bool
) -> None:
    clips = source(tmp_path / "source")
    np.save(tmp_path / "source" / "4.npy", np.full(5, 4, np.float32))  # unusable: its shard is copied, not linked
    wanted = content(build(clips, tmp_path / "source", tmp_path / "wanted").path)

    def work(folder: Path) -> None:
        build(clips, tmp_path / "source", folder)

    def check(folder: Path, succeeded: bool) -> None:
        if succeeded or (folder / "store").exists():
            assert content(folder / "store") == wanted
        work(folder)
        assert content(folder / "store") == wanted
        assert sorted(path.name for path in folder.iterdir()) == [".store.lock", "store"]

    assert at_every_operation(work, check, place, how, ever) > 30


@pytest.mark.slow
@pytest.mark.parametrize(("how", "ever"), KINDS)
def test_a_store_that_is_replaced_is_the_old_or_the_new_one_at_any_time(
    place: Callable[[int], Path], tmp_path: Path, how: int | str, ever: bool
) -> None:
    clips = source(tmp_path / "source")
    before = content(build(clips[:3], tmp_path / "source", tmp_path / "before").path)
    after = content(build(clips, tmp_path / "source", tmp_path / "after").path)

    def old(number: int) -> Path:
        folder = place(number)
        build(clips[:3], tmp_path / "source", folder)
        return folder

    def work(folder: Path) -> None:
        build(clips, tmp_path / "source", folder, replace=True)

    def check(folder: Path, succeeded: bool) -> None:
        assert content(folder / "store") in ((after,) if succeeded else (before, after))
        work(folder)
        assert content(folder / "store") == after

    at_every_operation(work, check, old, how, ever)


@pytest.mark.slow
@pytest.mark.parametrize(("how", "ever"), KINDS)
def test_a_derived_store_is_complete_or_absent(
    place: Callable[[int], Path], tmp_path: Path, how: int | str, ever: bool
) -> None:
    clips = source(tmp_path / "source")
    base = build(clips, tmp_path / "source", tmp_path / "base")
    splits = {clip.id: ("test", "train", "val")[n % 3] for n, clip in enumerate(clips)}
    wanted = content(derive_store(base, tmp_path / "wanted", splits).path)

    def work(folder: Path) -> None:
        derive_store(base, folder, splits)

    def check(folder: Path, succeeded: bool) -> None:
        if succeeded or (folder / "store").exists():
            assert content(folder / "store") == wanted
        work(folder)
        assert content(folder / "store") == wanted

    at_every_operation(work, check, place, how, ever)


@pytest.mark.slow
@pytest.mark.parametrize("first", [3, 9, 17, 26])
@pytest.mark.parametrize("how", [errno.ENOSPC, "killed"])
def test_a_build_survives_a_second_fault_while_it_resumes(
    place: Callable[[int], Path], tmp_path: Path, first: int, how: int | str
) -> None:
    clips = source(tmp_path / "source")
    wanted = content(build(clips, tmp_path / "source", tmp_path / "wanted").path)

    def work(folder: Path) -> None:
        build(clips, tmp_path / "source", folder)

    def interrupted(number: int) -> Path:
        folder = place(number)
        with Faults(first, "killed").injected(), pytest.raises(BaseException):  # noqa: B017, PT011 - any
            work(folder)
        return folder

    def check(folder: Path, succeeded: bool) -> None:
        if succeeded or (folder / "store").exists():
            assert content(folder / "store") == wanted
        work(folder)
        assert content(folder / "store") == wanted

    at_every_operation(work, check, interrupted, how, ever=False)


@pytest.mark.slow
@pytest.mark.parametrize("at", [2, 11, 23, 31])
def test_a_build_survives_a_real_kill(tmp_path: Path, at: int) -> None:
    clips = source(tmp_path / "source")
    wanted = content(build(clips, tmp_path / "source", tmp_path / "wanted").path)
    process = os.fork()
    if process == 0:
        try:
            with Faults(at, "killed", fatal=functools.partial(os.kill, os.getpid(), signal.SIGKILL)).injected():
                build(clips, tmp_path / "source", tmp_path / "out")
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
    if (tmp_path / "out" / "store").exists():
        assert content(tmp_path / "out" / "store") == wanted
    assert content(build(clips, tmp_path / "source", tmp_path / "out").path) == wanted


# --- the seam ---------------------------------------------------------------------------------------------------------

# Module -> why it changes files without `operations`.
ELSEWHERE = {
    "files/operations.py": "the seam",
    "__main__.py": "standard error, in a signal handler",
    "files/disk.py": "files of locks, whose content is a process id",
    "files/scratch.py": "locks of temporary folders",
    "media/integrity.py": "locks",
    "media/remote_store.py": "locks of copies in use",
    "datasets/synthetic.py": "clips, which PyAV writes to temporary files",
    "datasets/mosei.py": "arrays in a temporary folder, which is synced and renamed",
    "study/stopping.py": "the log of a closed terminal",
    "study/tasks.py": "/dev/null",
    "cli/study.py": "the log of a study in the background",
    "tracking/server.py": "the terminal, and a file that only checks whether artifacts can be written",
}
CHANGES = {
    "os": {"fsync", "ftruncate", "link", "pwrite", "rename", "replace", "symlink", "truncate", "write"},
    "shutil": {"copy", "copy2", "copyfile", "copytree", "move"},
    "np": {"save", "savez"},
}
METHODS = {"hardlink_to", "rename", "symlink_to", "write_bytes", "write_text"}


def changes_files(call: ast.Call) -> bool:
    if not isinstance(call.func, ast.Attribute):
        return isinstance(call.func, ast.Name) and call.func.id == "open"
    name, of = call.func.attr, call.func.value
    if isinstance(of, ast.Name) and of.id in CHANGES:
        return name in CHANGES[of.id]
    if name == "open":
        modes = [each for each in call.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
        return any(set(str(mode.value)) & set("wax+") and len(str(mode.value)) <= 3 for mode in modes)
    if name == "replace":  # of a path: that of a text has two arguments, that of a date keywords
        return len(call.args) == 1 and not call.keywords
    return name in METHODS and not (isinstance(of, ast.Name) and of.id == "operations")


def test_files_are_written_synced_and_renamed_only_through_operations() -> None:
    package = Path(remix_study.__file__).parent
    found = {
        (path.relative_to(package).as_posix(), node.lineno)
        for path in sorted(package.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and changes_files(node)
    }
    assert sorted(each for each in found if each[0] not in ELSEWHERE) == []
    assert {name for name, _ in found} >= ELSEWHERE.keys()


def test_a_folder_is_put_back_if_its_replacement_cannot_be_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a file system that cannot exchange two names in one step."""
    monkeypatch.setattr(operations, "exchange", lambda one, other: False)
    for name in ("store", "store.fresh"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_text(name)
    with Faults(3, errno.EIO).injected(), pytest.raises(OSError, match="Input/output"):
        replace_folder(tmp_path / "store.fresh", tmp_path / "store")
    assert (tmp_path / "store" / "a").read_text() == "store"
    replace_folder(tmp_path / "store.fresh", tmp_path / "store")
    assert (tmp_path / "store" / "a").read_text() == "store.fresh"
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
