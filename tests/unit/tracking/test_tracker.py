from collections.abc import Callable

import pytest

from remix_study.tracking import NullTracker, RecordingTracker, RunInfo, Tracker, finishing


def test_a_run_ends_whatever_happens(info: Callable[..., RunInfo]) -> None:
    endings = []
    for error in (None, ValueError("loss is not a number"), KeyboardInterrupt()):
        tracker = RecordingTracker()
        tracker.start(info())
        try:
            with finishing(tracker):
                if error is not None:
                    raise error
        except BaseException as raised:
            assert raised is error  # noqa: PT017 (any of them)
        endings.append((tracker.status, tracker.reason))
    assert endings == [
        ("FINISHED", None),
        ("FAILED", "ValueError: loss is not a number"),
        ("KILLED", "KeyboardInterrupt"),
    ]


@pytest.mark.parametrize("tracker", [NullTracker(), RecordingTracker()])
def test_trackers_keep_the_protocol(tracker: Tracker, info: Callable[..., RunInfo]) -> None:
    assert tracker.start(info(), "resumed") == tracker.run_id
    tracker.log_metrics({"val/accuracy": 0.5}, 0)
    tracker.finish("FINISHED")


def test_a_metric_is_written_once_per_step() -> None:
    tracker = RecordingTracker()
    tracker.log_metrics({"time/train_s": 3.0}, 0)
    tracker.log_metrics({"time/train_s": 4.0, "val/accuracy": 0.5}, 0)
    assert tracker.metrics == {0: {"time/train_s": 3.0, "val/accuracy": 0.5}}
