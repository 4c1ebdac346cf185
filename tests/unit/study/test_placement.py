import pytest
import ray

from remix_study.errors import (
    StudyError,
)
from remix_study.launch.ray_init import RayResources
from remix_study.study import placement
from remix_study.study.placement import ClusterLimit, Needs, placed, slots


def joined(**own: object) -> bool:
    """Replaces `join_or_start` on a running cluster."""
    return False


def test_with_an_autoscaler_without_a_known_maximum_one_run_is_pending(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "ray_resources", lambda: RayResources(4, 0, 4, 0, 2, may_grow=True))
    assert ClusterLimit(Needs(cpus=2), 0.0)() == 3
    monkeypatch.setattr(placement, "join_or_start", joined)
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(placement, "ray_resources", lambda: RayResources(0, 0, 0, 0, 1, may_grow=True))
    with placed(Needs(gpus=1)) as place:
        assert (place.concurrency, place.gpus, place.now) == (1, 1, 0)


@pytest.mark.parametrize(
    ("needs", "now", "most", "expected"),
    [
        (Needs(), (0, 0), (16, 2), (2, 1.0, 0)),
        (Needs(gpus=0.5), (8, 1), (64, 8), (16, 0.5, 2)),
        (Needs(concurrency=3), (0, 0), (0, 0), (3, 0.0, 0)),
        (Needs(workers=2, cpus=2, may_use_gpu=False), (4, 1), (9, 1), (2, 0.0, 1)),
    ],
)
def test_resources_that_an_autoscaler_may_add_are_counted(
    monkeypatch: pytest.MonkeyPatch,
    needs: Needs,
    now: tuple[float, float],
    most: tuple[float, float],
    expected: tuple[int, float, int],
) -> None:
    monkeypatch.setattr(placement, "join_or_start", joined)
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(placement, "ray_resources", lambda: RayResources(*now, *most, machines=3))
    monkeypatch.setattr(placement, "_on_this_node", lambda: {"memory": 1.0})
    with placed(needs) as place:
        assert (place.concurrency, place.gpus, place.now) == expected
        assert place.machines == 3


@pytest.mark.parametrize(
    ("needs", "have", "at_once", "gpus"),
    [
        (Needs(), (8, 0), 8, 0.0),
        (Needs(), (8, 2), 2, 1.0),  # one GPU for each run
        (Needs(may_use_gpu=False), (8, 2), 8, 0.0),
        (Needs(gpus=0.25), (8, 1), 4, 0.25),
        (Needs(gpus=0), (8, 2), 8, 0.0),
        (Needs(workers=2), (8, 0), 4, 0.0),
        (Needs(workers=2, cpus=2), (8, 0), 2, 0.0),
        (Needs(workers=2), (8, 8), 4, 1.0),
        (Needs(concurrency=3), (2, 0), 3, 0.0),  # as requested by the user
    ],
)
def test_the_number_of_runs_at_once_follows_the_resources(
    needs: Needs, have: tuple[float, float], at_once: int, gpus: float
) -> None:
    assert slots(needs, *have) == (at_once, gpus)


def test_a_cluster_too_small_for_one_run_raises() -> None:
    with pytest.raises(
        StudyError, match=r"One run needs 4 x 1 CPU cores and 4 x 0 GPUs, but there are 2 and 0\. Lower"
    ):
        slots(Needs(workers=4), 2, 0)
