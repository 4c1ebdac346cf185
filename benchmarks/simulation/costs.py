"""What `benchmarks/overheads.py` measured, as functions: processor seconds of each part for each thing that happens

Between measured points a straight line; beyond the last one the line through the last two goes on.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

MEASURED = Path(__file__).with_name("measured.json")
Storage = Literal["sqlite", "journal", "postgresql"]


@dataclass(frozen=True)
class Line:
    """Through measured points; x strictly increasing, at least one."""

    x: tuple[float, ...]
    y: tuple[float, ...]

    @classmethod
    def through(cls, rows: list[dict[str, float]], x: str, y: str) -> "Line":
        return cls(tuple(row[x] for row in rows), tuple(row[y] for row in rows))

    def __call__(self, x: float) -> float:
        if x > self.x[-1] and len(self.x) > 1:
            slope = (self.y[-1] - self.y[-2]) / (self.x[-1] - self.x[-2])
            return self.y[-1] + max(0.0, slope) * (x - self.x[-1])
        return float(np.interp(x, self.x, self.y))


@dataclass(frozen=True)
class Sent:
    """What the sender does for a run: processor seconds of its thread and of MLflow's side, and requests."""

    start_s: float
    start_server_s: float
    start_requests: float
    epoch_s: float
    epoch_server_s: float
    epoch_requests: float
    more_s: float  # of each further epoch in the same request
    more_server_s: float
    end_s: float
    end_server_s: float
    end_requests: float


@dataclass(frozen=True)
class Costs:
    """Seconds; `trials`: of one method, on record; `running`: of one method.

    unremembered_s(running): what a suggestion took beyond `ask_s` before the driver remembered running trials.
    settle_s(trials): a driver that starts again reads a method's trials.
    """

    ask_s: Line
    ask_statements: float
    tell_s: Line
    tell_statements: float
    unremembered_s: Line
    settle_s: Line
    judge_s: float
    judge_server_s: float
    judge_statements: float
    rung_s: Line
    rung_server_s: Line
    read_s_per_trial: float
    read_server_s_per_trial: float
    sent: Sent
    look_s: float
    tune_s: Line
    processes_s: float = 10.0  # of a worker's process until it can train: imports

    @classmethod
    def of(cls, measured: dict[str, Any], storage: Storage = "postgresql", sampler: str = "tpe") -> "Costs":
        """
        Raises:
            KeyError: it was not measured: no PostgreSQL on the machine, say.
        """
        driver = measured["driver"]["sqlite"]
        other = measured["driver"][storage]
        same = next(row for row in driver if row["trials"] == other[0]["trials"])
        tpe, drawn = measured["samplers"]["tpe"], measured["samplers"][sampler]
        instead = Line.through(drawn, "trials", "ask_s")
        asks = [
            {"trials": row["trials"],
             "ask_s": row["ask_s"] + other[0]["ask_s"] - same["ask_s"]
             + instead(row["trials"]) - Line.through(tpe, "trials", "ask_s")(row["trials"])}
            for row in driver
        ]  # fmt: skip
        tells = [
            {"trials": row["trials"], "tell_s": row["tell_s"] + other[0]["tell_s"] - same["tell_s"]} for row in driver
        ]
        before = [
            {"running": row["running"], "more_s": max(0.0, row["unremembered_s"] - row["ask_s"])}
            for row in measured["running"]
        ]
        judge, mlflow = measured["judge"][storage], measured["mlflow"]
        return cls(
            ask_s=Line.through(asks, "trials", "ask_s"),
            ask_statements=other[0]["ask_statements"],
            tell_s=Line.through(tells, "trials", "tell_s"),
            tell_statements=other[0]["tell_statements"],
            unremembered_s=Line.through(before, "running", "more_s"),
            settle_s=Line.through(measured["restart"], "trials", "settle_s"),
            judge_s=judge["epoch_s"],
            judge_server_s=judge["epoch_server_s"],
            judge_statements=judge["epoch_statements"],
            rung_s=Line.through(judge["rungs"], "running", "rung_s"),
            rung_server_s=Line.through(judge["rungs"], "running", "server_s"),
            read_s_per_trial=judge["first_s_per_trial"],
            read_server_s_per_trial=judge["first_server_s_per_trial"],
            sent=Sent(**mlflow["server" if "server" in mlflow else "sqlite"]),
            look_s=measured["files"]["look_s"],
            tune_s=Line.through(measured["tune"], "trials", "driver_s"),
        )


def read(path: Path = MEASURED) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found
