from pathlib import Path

import pytest

from remix_study.tracking.spool import Line, Spool


def test_lines_arrive_once_and_in_order(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    arrived: list[Line] = []
    spool.append({"n": 1})
    spool.drain(arrived.append)
    spool.append({"n": 2})
    spool.append({"n": 3})
    Spool(tmp_path).drain(arrived.append)
    assert arrived == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert spool.pending == 0


def test_the_offset_moves_only_after_success(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for n in range(3):
        spool.append({"n": n})

    def fail_at_one(line: Line) -> None:
        if line["n"] == 1:
            raise ConnectionError("down")

    with pytest.raises(ConnectionError):
        spool.drain(fail_at_one)
    arrived: list[Line] = []
    spool.drain(arrived.append)
    assert arrived == [{"n": 1}, {"n": 2}]


def test_a_line_cut_by_a_kill_costs_only_itself(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append({"n": 1})
    with (tmp_path / "spool.jsonl").open("a") as file:
        file.write('{"n": 2, "met')
    again = Spool(tmp_path)
    again.append({"n": 3})
    arrived: list[Line] = []
    again.drain(arrived.append)
    assert arrived == [{"n": 1}, {"n": 3}]
    assert again.pending == 0
