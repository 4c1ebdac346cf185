"""Costs of sending runs to MLflow: into a file, and through a server that stores its runs in PostgreSQL"""

import contextlib
import io
import shutil
import statistics
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.overheads.counting import count_calls, cpu_seconds
from benchmarks.overheads.postgresql import Server, server_cpu_seconds
from benchmarks.overheads.studies import Costs
from remix_study.config.load import parse_run
from remix_study.launch.run import run_one
from remix_study.tracking.address import default_uri
from remix_study.tracking.mlflow import Sender
from remix_study.tracking.server import MLflowServer
from remix_study.tracking.spool import Spool


def sending(folder: Path, server: Server | None, runs: int) -> Costs:
    """Measure what a study's sender does for the start of a run, each epoch, and its end.

    Returns:
        Keys with `more`: each further epoch in the same request. Keys with `server_s`: CPU seconds of MLflow's server
        and its database.
    """
    content = {
        "corpus": str(folder / "corpus"), "method": {"name": "remix", "warmup": 1}, "epochs": 4, "global_batch": 32,
        "device": "cpu", "evaluation": {"probe": False}, "tracking": {"model": False},
    }  # fmt: skip
    run_one(parse_run(content, "the benchmark"), folder / "tracked")
    (source,) = (folder / "tracked" / "runs").glob("*")
    lines = [line for line, _ in Spool(source / "tracking").read() if line is not None]
    found = {"sqlite": _sent(default_uri(folder / "sqlite-runs"), folder, source, lines, runs, [])}
    if server:
        url = server.create_database("mlflow")
        with MLflowServer(url) as mlflow:
            leaders = [mlflow.process_group, server.process]
            found["server"] = _sent(mlflow.url, folder, source, lines, runs, leaders)
    metrics = next(line["metrics"] for line in lines if "metrics" in line)
    return {"metrics_per_epoch": len(metrics), **found}


def _sent(
    uri: str, folder: Path, source: Path, lines: Sequence[dict[str, Any]], runs: int, leaders: Sequence[int]
) -> dict[str, float]:
    """Send copies of the run in `source`, and return the costs per part of a run.

    Args:
        lines: what the run wrote to its spool.
        leaders: process ids of the servers.
    """
    first = next(at for at, line in enumerate(lines) if "metrics" in line)
    epoch = lines[first]
    rest = [line for line in lines[first:] if "metrics" not in line]
    epochs = 10
    spent: dict[str, list[tuple[float, float, int]]] = {"start": [], "epoch": [], "ten": [], "end": []}

    def servers_s() -> float:
        return sum(server_cpu_seconds(leader) for leader in leaders)

    for number in range(runs + 1):
        copy = folder / f"sent-{uuid.uuid4().hex}"
        shutil.copytree(source, copy, ignore=shutil.ignore_patterns("spool.*", "run.json", "checkpoints"))
        spool, sender = Spool(copy / "tracking"), Sender(uri, copy)
        parts: list[list[dict[str, Any]]] = [[{**lines[0], "key": uuid.uuid4().hex}, *lines[1:first]]]
        parts += [[{**epoch, "step": step, "time": epoch["time"] + step}] for step in range(epochs)]
        parts += [[{**epoch, "step": step, "time": epoch["time"] + step} for step in range(epochs, epochs + 10)]]
        for at, part in enumerate([*parts, rest]):
            spool.append(*part)
            before = servers_s()
            with count_calls() as counted, contextlib.redirect_stdout(io.StringIO()):  # MLflow prints the run's URL
                own_s = cpu_seconds(sender.send)
            if number:  # the first run is not measured: it opens the connection
                name = "start" if at == 0 else "epoch" if at <= epochs else "ten" if at == epochs + 1 else "end"
                spent[name].append((own_s, servers_s() - before, counted.requests))
        assert not sender.has_unsent
        shutil.rmtree(copy)
    found: dict[str, float] = {}
    for name, calls in spent.items():
        found[f"{name}_s"] = statistics.median(own for own, _, _ in calls)
        found[f"{name}_server_s"] = statistics.mean(server for _, server, _ in calls)
        found[f"{name}_requests"] = statistics.median(requests for _, _, requests in calls)
    for unit in ("s", "server_s"):
        found[f"more_{unit}"] = max(0.0, found.pop(f"ten_{unit}") - found[f"epoch_{unit}"]) / 9
    del found["ten_requests"]
    return found
