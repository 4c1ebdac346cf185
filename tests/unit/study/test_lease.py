"""The lease of a study's driver: of several drivers on one shared disk, one works"""

import errno
import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from remix_study.errors import UnavailableError
from remix_study.files.mirror import LEASE
from remix_study.study import lease, remote
from remix_study.study.lease import FolderPlace, Lease, lease_on_disk, parse
from remix_study.study.remote import RemoteWorkspace, driver_of


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Lease]:
    """Return a function that makes the lease of a driver on a machine, without locks that its disk would share."""
    monkeypatch.setattr(lease, "_SILENCE_S", 0.05)
    monkeypatch.setattr(lease, "_BEAT_S", 0.0)  # each call of `keep` renews
    machine = ["one"]
    monkeypatch.setattr(lease, "machine_id", lambda folder: f"{machine[0]} {folder}")

    def make(name: str, during: Callable[[], object] = lambda: None) -> Lease:
        """`during` is called at each wait."""

        class OnMachine(Lease):
            def take(self, say: Callable[[str], None]) -> None:
                machine[0] = name
                super().take(say)

            def keep(self) -> bool:
                machine[0] = name
                return super().keep()

        def wait(seconds: float) -> None:
            during()
            threading.Event().wait(min(seconds, 0.01))

        return OnMachine(tmp_path, FolderPlace(tmp_path), str(tmp_path), wait)

    return make


def test_a_second_driver_is_refused_while_the_first_renews_its_lease(driver: Callable[..., Lease]) -> None:
    first = driver("one")
    first.take(print)
    second = driver("two", during=first.keep)
    said: list[str] = []
    with pytest.raises(UnavailableError, match=r"process \d+ of .* runs it\. Wait for it, or stop it"):
        second.take(said.append)
    assert "Checking for" in said[0]
    assert first.keep()
    first.require()


def test_a_driver_that_is_silent_loses_the_study_and_says_to_whom(driver: Callable[..., Lease], tmp_path: Path) -> None:
    first, second = driver("one"), driver("two")
    first.take(print)
    second.take(print)  # the first is silent: its node is lost, or has lost the disk
    assert not first.keep()
    with pytest.raises(UnavailableError, match=r"has taken over the study"):
        first.require()
    first.give_up()  # this must not remove the other's lease
    assert (tmp_path / LEASE).exists()
    assert second.keep()


def test_of_two_drivers_that_start_at_once_one_continues(driver: Callable[..., Lease]) -> None:
    """Both find no lease before either has written its own."""
    drivers = [driver("one"), driver("two")]
    for each in drivers:
        each._renew()
    assert [each.check() for each in drivers] == [False, True]
    assert [each.keep() for each in drivers] == [False, True]


@pytest.mark.parametrize("gone", ["given up", "on this machine", "damaged"])
def test_nobody_waits_for_a_lease_that_cannot_be_held(driver: Callable[..., Lease], tmp_path: Path, gone: str) -> None:
    first = driver("one")
    first.take(print)
    if gone == "given up":
        first.give_up()
        assert not (tmp_path / LEASE).exists()
    elif gone == "damaged":
        (tmp_path / LEASE).write_bytes(b"{")
    said: list[str] = []
    driver("one" if gone == "on this machine" else "two").take(said.append)
    assert said == []


def test_a_driver_on_a_disk_renews_its_lease_and_removes_it_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "_BEAT_S", 0.01)
    renewed = threading.Event()
    write = FolderPlace.write

    def noted(self: FolderPlace, path: str, content: bytes) -> None:
        write(self, path, content)
        if json.loads(content)["beat"] == 3:
            renewed.set()

    monkeypatch.setattr(FolderPlace, "write", noted)
    with lease_on_disk(tmp_path, print):
        assert renewed.wait(30)
        assert driver_of(tmp_path) is None  # no process holds the lock, which decides on this machine
        monkeypatch.setattr(remote, "machine_id", lambda _: "another")
        found = parse((tmp_path / LEASE).read_bytes())
        assert found is not None
        assert driver_of(tmp_path) == found["by"]
    assert not (tmp_path / LEASE).exists()


def test_a_full_disk_does_not_end_the_renewal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "_BEAT_S", 0.01)
    failed, renewed, write = threading.Event(), threading.Event(), FolderPlace.write

    def fails_once(self: FolderPlace, path: str, content: bytes) -> None:
        if json.loads(content)["beat"] == 2:
            failed.set()
            raise OSError("no space left on device")
        write(self, path, content)
        if json.loads(content)["beat"] == 3:
            renewed.set()

    monkeypatch.setattr(FolderPlace, "write", fails_once)
    with lease_on_disk(tmp_path, print):
        assert renewed.wait(30)
    assert failed.is_set()


def test_a_study_whose_lease_was_taken_starts_no_further_run(tmp_path: Path) -> None:
    with lease_on_disk(tmp_path, print) as held:
        workspace = RemoteWorkspace(tmp_path, held)
        workspace.require_lease()
        (tmp_path / LEASE).write_text(json.dumps({"by": "7 of elsewhere", "token": "other"}))
        with pytest.raises(UnavailableError, match="Process 7 of elsewhere has taken over"):
            workspace.require_lease()
    assert (tmp_path / LEASE).exists()


def test_a_disk_that_is_lost_does_not_hide_how_the_study_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(self: FolderPlace, path: str) -> bytes | None:
        raise OSError(errno.EIO, "Input/output error")

    def study() -> None:
        with lease_on_disk(tmp_path, print):
            monkeypatch.setattr(FolderPlace, "read", lost)
            raise KeyError("the cause")

    with pytest.raises(KeyError, match="the cause"):
        study()
