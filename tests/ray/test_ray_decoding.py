"""Decoding on a Ray cluster with two CPUs, where actors hang or die"""

import ctypes
import operator
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.util.state import list_actors

from remix_study.datasets.manifest import read_manifest
from remix_study.datasets.synthetic import SyntheticSpec, render
from remix_study.errors import SourceError, StoreError
from remix_study.launch.ray_decoding import run_jobs_on_ray
from remix_study.media.build import build_store
from remix_study.media.plan import manifest_digest
from remix_study.media.presets import PRESETS
from remix_study.media.store import ClipStore
from remix_study.media.workers import RunJobs, run_jobs

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", autouse=True)
def two_cpus() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, object_store_memory=100 * 2**20, log_to_driver=False)
    yield
    ray.shutdown()


class Record:
    def __init__(self) -> None:
        self.results: dict[int, object] = {}
        self.lost: dict[int, str] = {}

    def on_result(self, job: int, result: object) -> None:
        assert job not in self.results
        self.results[job] = result

    def on_lost(self, job: int, reason: str) -> None:
        assert job not in self.lost
        self.lost[job] = reason

    def run(self, work: Callable[[int], object], jobs: list[int], timeout_s: float = 60.0, chunk: int = 32) -> None:
        run_jobs_on_ray(work, jobs, on_result=self.on_result, on_lost=self.on_lost, chunk=chunk, timeout_s=timeout_s)


def actors_alive() -> list[int]:
    """Return the process ids of the decoding actors."""
    # The address is required if several Ray instances run on this machine.
    address = ray.get_runtime_context().gcs_address
    found = list_actors(address=address, filters=[("state", "=", "ALIVE"), ("class_name", "=", "_Decoder")])
    return [actor.pid for actor in found if actor.pid is not None]


def wait_until_no_actor_is_alive() -> None:
    """Wait until all actors have ended, by polling: Ray has no event for the end of an actor."""
    end = time.monotonic() + 30
    while actors_alive():
        assert time.monotonic() < end
        time.sleep(0.05)


def hang_with_the_interpreter_locked(job: int) -> int:
    """Hang like a decoder that loops in native code: no other thread of the process can run."""
    if job == 3:
        ctypes.PyDLL(None).sleep(3600)
    return job


def die(job: int) -> int:
    if job == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return job


def raise_store_error(job: int) -> int:
    raise StoreError(f"clip {job} cannot be decoded")


def test_every_job_is_done_once_and_actors_end() -> None:
    record = Record()
    record.run(operator.neg, list(range(100)), chunk=7)
    assert record.results == {job: -job for job in range(100)}
    assert not record.lost
    wait_until_no_actor_is_alive()


def test_a_hanging_job_is_killed_twice_and_then_reported() -> None:
    record = Record()
    record.run(hang_with_the_interpreter_locked, list(range(12)), timeout_s=2, chunk=4)
    assert record.lost == {3: "timeout"}
    assert record.results == {job: job for job in range(12) if job != 3}
    wait_until_no_actor_is_alive()


def test_a_job_that_kills_its_actor_is_retried_once_and_then_reported() -> None:
    record = Record()
    record.run(die, list(range(12)), chunk=4)
    assert record.lost == {3: "died"}
    assert record.results == {job: job for job in range(12) if job != 3}


def test_exceptions_of_the_work_are_raised_in_the_caller() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        Record().run(os.close, [999])
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        Record().run((1).__floordiv__, [0])
    with pytest.raises(StoreError, match="clip 0 cannot be decoded"):
        Record().run(raise_store_error, [0])
    wait_until_no_actor_is_alive()


def test_actors_that_cannot_start_are_reported() -> None:
    with pytest.raises(StoreError, match="Three actors in a row failed to start"):
        Record().run(_Unloadable(), [1])


class _Unloadable:
    def __call__(self, job: int) -> None: ...

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return os._exit, (3,)  # unpickling it ends the process


def test_a_cluster_without_a_free_cpu_is_reported() -> None:
    @ray.remote(num_cpus=2)
    class Other:
        def ready(self) -> None: ...

    other = Other.remote()  # type: ignore[attr-defined]  # untyped in Ray
    ray.get(other.ready.remote())
    record = Record()
    with pytest.raises(StoreError, match="had no free CPU for decoding within"):
        run_jobs_on_ray(operator.neg, [1], on_result=record.on_result, on_lost=record.on_lost, start_timeout_s=0.5)
    ray.kill(other)


def test_an_interrupt_ends_the_actors() -> None:
    def interrupt(_job: int, _result: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_jobs_on_ray(operator.neg, range(10), on_result=interrupt, on_lost=Record().on_lost)
    wait_until_no_actor_is_alive()


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render(tmp_path_factory.mktemp("clips"), SyntheticSpec(train=24, val=8, test=8, classes=4), workers=2)


def build(manifest: Path, out: Path, run: RunJobs, **options: Any) -> ClipStore:
    return build_store(
        read_manifest(manifest), manifest.parent, out, preset=PRESETS["tiny"], name="c",
        manifest_digest=manifest_digest(manifest), run=run, **options,
    )  # fmt: skip


def contents(store: ClipStore) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.path.iterdir()}


def test_a_store_has_the_same_bytes_as_one_decoded_locally_even_if_an_actor_is_killed(
    manifest: Path, tmp_path: Path
) -> None:
    here = build(manifest, tmp_path / "here", run_jobs)
    killed: list[int] = []

    def kill_one(done: int, _total: int) -> None:
        if done == 5 and not killed:
            killed.append(actors_alive()[0])
            os.kill(killed[0], signal.SIGKILL)

    there = build(manifest, tmp_path / "there", run_jobs_on_ray, chunk=4, progress=kill_one)
    assert len(killed) == 1
    assert len(there) == 40
    assert contents(there) == contents(here)


def test_clips_that_are_missing_on_nodes_are_reported_once(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clips exist on the driver, which computed their checksums."""
    moved = tmp_path / "moved"
    render(moved, SyntheticSpec(train=4, val=4, test=4, classes=4), workers=1)

    def hidden(*given: Any, **options: Any) -> None:
        moved.rename(tmp_path / "hidden")
        run_jobs_on_ray(*given, **options)

    with pytest.raises(SourceError, match=r"Node .* does not see the clips in .*moved"):
        build(moved / "manifest.jsonl", tmp_path / "out", hidden)
