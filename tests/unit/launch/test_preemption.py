import signal
import threading
from types import SimpleNamespace

import pytest
import ray

from remix_study import ray_private
from remix_study.launch import preemption
from remix_study.launch.preemption import node_is_draining, preemption_notice
from remix_study.patience import PATIENCE


def test_sigterm_is_a_notice_and_a_second_one_ends_the_process() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with preemption_notice() as preempted:
        assert not preempted()
        signal.raise_signal(signal.SIGTERM)
        assert preempted()
        with pytest.raises(SystemExit) as end:
            signal.raise_signal(signal.SIGTERM)
        assert end.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    with preemption_notice() as preempted:
        assert not preempted()


@pytest.mark.parametrize(("drained", "expected"), [("mine", True), ("a needed one", True), ("another", False)])
def test_a_draining_node_is_a_notice_if_the_run_needs_it(
    monkeypatch: pytest.MonkeyPatch, drained: str, expected: bool
) -> None:
    draining: set[str] = set()
    asked = threading.Semaphore(0)

    def draining_nodes() -> set[str]:
        asked.release()
        return draining

    monkeypatch.setattr(PATIENCE, "preemption_poll_s", 0.001)
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(preemption, "own_node", lambda: "mine")
    monkeypatch.setattr(ray_private, "draining_nodes", draining_nodes)
    with preemption_notice(["a needed one"]) as preempted:
        assert asked.acquire(timeout=10)
        assert not preempted()
        draining.add(drained)
        watch = next(thread for thread in threading.enumerate() if thread.name == "preemption")
        if expected:
            watch.join(10)
        else:
            assert all(asked.acquire(timeout=10) for _ in range(5))
        assert preempted() == expected
        assert node_is_draining() == (drained == "mine")
    watch.join(10)
    assert not watch.is_alive()


def test_the_notice_of_ray_train_is_a_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = SimpleNamespace(preempted=False)
    monkeypatch.setattr(ray_private, "train_worker_is_preempted", lambda: worker.preempted)
    with preemption_notice() as preempted:
        assert not preempted()
        worker.preempted = True
        assert preempted()


def test_a_ray_that_does_not_answer_is_no_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private.state import state

    def silent() -> dict[str, int]:
        raise ConnectionError("no answer")

    monkeypatch.setattr(state, "get_draining_nodes", silent)
    assert ray_private.draining_nodes() == set()
    assert not node_is_draining()  # not connected to Ray
