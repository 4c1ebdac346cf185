from collections.abc import Callable, Mapping

import pytest

from remix_study.errors import RunPruned, StudyStopped
from remix_study.tracking import NullTracker, RecordingTracker, RunInfo, Tracker, finishing
from remix_study.tracking.tracker import FAILURE_CAUSE, REASON, STATE


@pytest.mark.parametrize(
    ("error", "status", "reason", "tags"),
    [
        (None, "FINISHED", None, {STATE: "complete"}),
        (RunPruned("0.2 is below 0.5"), "FINISHED", None, {STATE: "pruned", REASON: "0.2 is below 0.5"}),
        (StudyStopped("asked to"), "KILLED", "StudyStopped: asked to", {STATE: "stopped"}),
        (KeyboardInterrupt(), "KILLED", "KeyboardInterrupt", {STATE: "stopped"}),
        (SystemExit(143), "KILLED", "SystemExit: 143", {STATE: "stopped"}),
        (ValueError("odd"), "FAILED", "ValueError: odd", {STATE: "failed", FAILURE_CAUSE: "other"}),
        (MemoryError("big"), "FAILED", "MemoryError: big", {STATE: "failed", FAILURE_CAUSE: "out of memory"}),
    ],
)
def test_the_exception_determines_status_and_tags(
    info: Callable[..., RunInfo], error: BaseException | None, status: str, reason: str | None, tags: dict[str, str]
) -> None:
    tracker = RecordingTracker()
    tracker.start(info(tags={}))
    try:
        with finishing(tracker):
            if error is not None:
                raise error
    except BaseException as raised:
        assert raised is error  # noqa: PT017 - each parameter raises another type
    assert (tracker.status, tracker.reason, tracker.tags) == (status, reason, tags)


def test_a_full_disk_does_not_hide_why_the_run_failed(caplog: pytest.LogCaptureFixture) -> None:
    class Full(RecordingTracker):
        def set_tags(self, tags: Mapping[str, str]) -> None:
            raise OSError("no space left on device")

    with pytest.raises(ValueError, match="the reason"), finishing(Full()):
        raise ValueError("the reason")
    assert "Cannot record that the run ended as failed" in caplog.text


@pytest.mark.parametrize("tracker", [NullTracker(), RecordingTracker()])
def test_trackers_implement_the_protocol(tracker: Tracker, info: Callable[..., RunInfo]) -> None:
    assert tracker.start(info(), "resumed") == tracker.run_id
    tracker.log_metrics({"val/accuracy": 0.5}, 0)
    tracker.finish("FINISHED")


def test_a_metric_is_written_once_per_step() -> None:
    tracker = RecordingTracker()
    tracker.log_metrics({"time/train_s": 3.0}, 0)
    tracker.log_metrics({"time/train_s": 4.0, "val/accuracy": 0.5}, 0)
    assert tracker.metrics == {0: {"time/train_s": 3.0, "val/accuracy": 0.5}}
