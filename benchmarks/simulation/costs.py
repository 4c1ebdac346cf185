"""Costs measured by `benchmarks.overheads`, as functions of the number of trials

Costs between two measured points are interpolated linearly. Beyond the last point, the line through the last two
points is extrapolated.
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
    """A piecewise linear function through one or more points with strictly increasing x."""

    x: tuple[float, ...]
    y: tuple[float, ...]

    @classmethod
    def through(cls, rows: list[dict[str, float]], x: str, y: str) -> "Line":
        """Return the line through the values of the keys `x` and `y` of `rows`."""
        return cls(tuple(row[x] for row in rows), tuple(row[y] for row in rows))

    def __call__(self, x: float) -> float:
        if x > self.x[-1] and len(self.x) > 1:
            slope = (self.y[-1] - self.y[-2]) / (self.x[-1] - self.x[-2])
            return self.y[-1] + max(0.0, slope) * (x - self.x[-1])
        return float(np.interp(x, self.x, self.y))


@dataclass(frozen=True)
class Sent:
    """Cost of sending a run to MLflow: CPU seconds of the sender's thread and of the server, and requests."""

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
    """Costs of all components in CPU seconds, numbers of statements, and numbers of requests.

    Attributes:
        ask_s: an ask, by the number of recorded trials of the method.
        tell_s: a tell, by the number of recorded trials of the method.
        uncached_s: additional cost of a suggestion without the driver's cache, by running trials of the method.
        resume_s: reading the trials of one method in a restarted driver, by their number.
        pruner_s: a pruning decision outside of rungs; `pruner_server_s` on the database server.
        rung_s: additional cost at a rung, by running trials of the method; `rung_server_s` on the database server.
        read_s_per_trial: reading a recorded trial for the first time in a process.
        poll_s: polling the spool of one run.
        tune_s: Ray Tune's share per trial, by the number of trials.
        processes_s: starting a worker process, mostly imports.
    """

    ask_s: Line
    ask_statements: float
    tell_s: Line
    tell_statements: float
    uncached_s: Line
    resume_s: Line
    pruner_s: float
    pruner_server_s: float
    pruner_statements: float
    rung_s: Line
    rung_server_s: Line
    read_s_per_trial: float
    read_server_s_per_trial: float
    sent: Sent
    poll_s: float
    tune_s: Line
    processes_s: float = 10.0  # assumed, not measured

    @classmethod
    def of(cls, measured: dict[str, Any], storage: Storage = "postgresql", sampler: str = "tpe") -> "Costs":
        """Return the costs of a study with `storage` and `sampler`.

        Asks and tells were measured with SQLite and `tpe` for all numbers of trials. The differences from `storage` and
        `sampler` are added.

        Args:
            measured: the content of a file that `benchmarks.overheads` wrote.

        Raises:
            KeyError: `storage` or `sampler` was not measured, for example because PostgreSQL was not installed.
        """
        driver = measured["driver"]["sqlite"]
        other = measured["driver"][storage]
        same = next(row for row in driver if row["trials"] == other[0]["trials"])
        tpe, chosen = measured["samplers"]["tpe"], measured["samplers"][sampler]
        suggestion = Line.through(chosen, "trials", "ask_s")
        asks = [
            {"trials": row["trials"],
             "ask_s": row["ask_s"] + other[0]["ask_s"] - same["ask_s"]
             + suggestion(row["trials"]) - Line.through(tpe, "trials", "ask_s")(row["trials"])}
            for row in driver
        ]  # fmt: skip
        tells = [
            {"trials": row["trials"], "tell_s": row["tell_s"] + other[0]["tell_s"] - same["tell_s"]} for row in driver
        ]
        uncached = [
            {"running": row["running"], "more_s": max(0.0, row["unremembered_s"] - row["ask_s"])}
            for row in measured["running"]
        ]
        pruner, mlflow = measured["judge"][storage], measured["mlflow"]
        return cls(
            ask_s=Line.through(asks, "trials", "ask_s"),
            ask_statements=other[0]["ask_statements"],
            tell_s=Line.through(tells, "trials", "tell_s"),
            tell_statements=other[0]["tell_statements"],
            uncached_s=Line.through(uncached, "running", "more_s"),
            resume_s=Line.through(measured["restart"], "trials", "settle_s"),
            pruner_s=pruner["epoch_s"],
            pruner_server_s=pruner["epoch_server_s"],
            pruner_statements=pruner["epoch_statements"],
            rung_s=Line.through(pruner["rungs"], "running", "rung_s"),
            rung_server_s=Line.through(pruner["rungs"], "running", "server_s"),
            read_s_per_trial=pruner["first_s_per_trial"],
            read_server_s_per_trial=pruner["first_server_s_per_trial"],
            sent=Sent(**mlflow["server" if "server" in mlflow else "sqlite"]),
            poll_s=measured["files"]["look_s"],
            tune_s=Line.through(measured["tune"], "trials", "driver_s"),
        )


def read(path: Path = MEASURED) -> dict[str, Any]:
    """Return the content of a file that `benchmarks.overheads` wrote; the default was measured by the project."""
    found: dict[str, Any] = json.loads(path.read_text())
    return found
