import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remix_study.tracking import RunInfo
from remix_study.tracking import spool as module
from remix_study.tracking.spool import Line, Spool, SpoolTracker, end_unfinished_run, run_id_of
from remix_study.tracking.tracker import STATE

Make = Callable[..., RunInfo]


def lines(spool: Spool, begin: int = 0) -> list[Line | None]:
    return [line for line, _ in spool.read(begin)]


def test_lines_are_read_in_order_from_the_offset(tmp_path: Path) -> None:
    assert not Spool(tmp_path).has_unsent
    spool = Spool(tmp_path)
    spool.append({"n": 1})
    spool.append({"n": 2}, {"n": 3})
    ends = [end for _, end in spool.read()]
    spool.advance(ends[0])
    assert lines(Spool(tmp_path), Spool(tmp_path).offset) == [{"n": 2}, {"n": 3}]
    assert Spool(tmp_path).has_unsent
    spool.advance(ends[2])
    assert not Spool(tmp_path).has_unsent


def test_an_unfinished_line_is_not_read(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append({"n": 1})
    spool.advance(spool.size)
    with (tmp_path / "spool.jsonl").open("a") as file:
        file.write('{"n": 2, "met')
        file.flush()
        assert lines(spool) == [{"n": 1}]
        assert not spool.has_unsent
        file.write('rics": []}\n')
    assert lines(spool) == [{"n": 1}, {"n": 2, "metrics": []}]


def test_an_incomplete_line_does_not_affect_the_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spool = Spool(tmp_path)
    spool.append({"n": 1})
    with (tmp_path / "spool.jsonl").open("a") as file:
        file.write('{"n": 2, "met')
    Spool(tmp_path).append({"n": 3})
    assert lines(spool) == [{"n": 1}, None, {"n": 3}]
    assert "Skipping an incomplete line" in caplog.text


def test_concurrent_writers_do_not_mix_their_lines(tmp_path: Path) -> None:
    def write(number: int) -> None:
        for _ in range(20):
            Spool(tmp_path).append({"from": number, "text": "x" * 20_000})

    threads = [Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = lines(Spool(tmp_path))
    assert len(found) == 80
    assert None not in found


def test_an_empty_offset_file_means_that_nothing_was_sent(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append({"n": 1})
    spool.advance(spool.size)
    (tmp_path / "spool.offset").write_text("")
    assert spool.offset == 0
    assert spool.has_unsent


def test_a_run_is_open_between_start_and_end(tmp_path: Path, info: Make) -> None:
    tracker = SpoolTracker(tmp_path, "e")

    def is_open() -> bool:
        return Spool(tmp_path / "tracking").is_open

    assert not is_open()
    tracker.finish("FINISHED")
    assert Spool(tmp_path / "tracking").size == 0
    tracker.start(info())
    assert is_open()
    tracker.finish("KILLED", "stopped")
    tracker.set_tags({"is_best": "true"})
    assert not is_open()
    tracker.start(info())
    assert is_open()


@given(st.lists(st.text("ab\n", max_size=12)), st.integers(1, 20))
def test_reading_backwards_yields_the_same_lines(texts: list[str], block: int) -> None:
    content = "".join(texts).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK", block)
        found = list(module._backwards(io.BytesIO(content)))
    assert found[::-1] == content.split(b"\n")[:-1]


def test_an_abandoned_run_is_ended_once_as_killed(tmp_path: Path, info: Make) -> None:
    SpoolTracker(tmp_path, "e").start(info())
    assert end_unfinished_run(tmp_path, "the process is gone")
    assert not end_unfinished_run(tmp_path, "the process is gone")
    *_, tags, status = lines(Spool(tmp_path / "tracking"))
    assert tags == {"tags": {STATE: "stopped", "failure_reason": "the process is gone"}}
    assert status is not None
    assert status["status"] == "KILLED"


def test_a_lost_run_is_ended_as_failed_with_its_cause(tmp_path: Path, info: Make) -> None:
    SpoolTracker(tmp_path, "e").start(info())
    assert end_unfinished_run(tmp_path, "its process died", "lost worker")
    *_, tags, status = lines(Spool(tmp_path / "tracking"))
    expected = {STATE: "failed", "failure_cause": "lost worker", "failure_reason": "its process died"}
    assert tags == {"tags": expected}
    assert status is not None
    assert status["status"] == "FAILED"


def test_a_run_keeps_its_key_when_it_is_resumed(tmp_path: Path, info: Make) -> None:
    for _ in range(2):
        SpoolTracker(tmp_path / "a", "e").start(info(dataset_profile={"path": Path("x")}))
    SpoolTracker(tmp_path / "b", "e").start(info())
    first, second = (line for line in lines(Spool(tmp_path / "a" / "tracking")) if line is not None and "start" in line)
    assert first["key"] == second["key"] == Spool(tmp_path / "a" / "tracking").key
    assert first["key"] != Spool(tmp_path / "b" / "tracking").key
    assert first["start"]["dataset_profile"] == {"path": "x"}


def test_a_run_has_no_id_until_it_is_sent(tmp_path: Path, info: Make) -> None:
    assert SpoolTracker(tmp_path, "e").start(info()) is None
    assert run_id_of(tmp_path) is None
    (tmp_path / "tracking" / "run.json").write_text(json.dumps({"run_id": "abc"}))
    assert run_id_of(tmp_path) == SpoolTracker(tmp_path, "e").run_id == "abc"


def test_writing_a_spool_does_not_import_mlflow() -> None:
    code = "import sys, remix_study.tracking.spool, remix_study.launch.folder; print('mlflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
