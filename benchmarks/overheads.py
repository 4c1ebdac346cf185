"""What one trial costs those whom all trials share: the driver, Optuna's storage, MLflow, files, Tune

    python -m benchmarks.overheads --json benchmarks/simulation/measured.json

measures our own code on studies with few and many trials on record and running. The table (`benchmarks.run overheads`)
tells ratios and growth. The file holds what the simulation takes in (benchmarks/simulated_study.py): processor seconds
per call, which other work on the machine does not lengthen, and how many statements and requests a call makes, which
wait for a database and a server as long as those are far away. Of this machine, and no promise about another.
"""

# N trials on record, R running trials, E epochs

import argparse
import contextlib
import io
import itertools
import json
import logging
import math
import os
import pwd
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

import optuna
import requests
import sqlalchemy as sa
from optuna.storages import BaseStorage, RDBStorage

from benchmarks.big_study import SPACE, rows_of
from benchmarks.measure import Result, seconds, this_machine
from remix_study import optuna_private
from remix_study.config.load import parse_run
from remix_study.config.study import StudyConfig
from remix_study.datasets.corpus import prepare_synthetic
from remix_study.datasets.synthetic import SyntheticSpec
from remix_study.launch.folder import RunFolder
from remix_study.launch.run import run_one
from remix_study.study import pruning
from remix_study.study import study as study_module
from remix_study.study.ledger import read_ledger
from remix_study.study.pruning import pruning_callback
from remix_study.study.search import Search
from remix_study.study.status import study_status
from remix_study.study.storage import open_storage, optuna_name
from remix_study.study.study import StudyRun
from remix_study.study.tasks import Needs, Outcome, Task, execute
from remix_study.tracking.address import default_uri
from remix_study.tracking.mlflow import Sender
from remix_study.tracking.server import MLflowServer
from remix_study.tracking.spool import Spool
from remix_study.tracking.syncer import Syncer

EPOCHS = 50  # of the trials on record; those that run are half-way
_JOINT = "joint"
_POSTGRES = max(Path("/usr/lib/postgresql").glob("*/bin/initdb"), default=Path("/nowhere"), key=str).parent
Costs = dict[str, Any]


def measure(quick: bool) -> Iterator[Result]:
    """The ratios of the table, from the same measurements as the file."""
    yield from ratios(costs(quick))


def costs(quick: bool) -> Costs:
    """Seconds per call, by part; the keys are those of `simulation/costs.py`."""
    on_record = (20, 60) if quick else (100, 1_000, 10_000)
    running = (2, 6) if quick else (10, 100, 1_000)
    found: Costs = {}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        prepare_synthetic(place / "corpus", SyntheticSpec(train=96, val=48, test=48), preset="tiny")
        with _postgresql(place / "postgresql") as server:
            stores = ["sqlite", "journal", *(["postgresql"] if server else [])]
            found["driver"] = {
                "sqlite": [_driver(place, None, n, running[0], quick) for n in on_record],
                **{
                    name: [_driver(place, _storage(name, server), on_record[1], running[0], quick)]
                    for name in stores[1:]
                },
            }
            found["running"] = [_asking(place, on_record[1], r) for r in running]
            samplers = ("random", "tpe", "nsga2", "cmaes", "gp")
            found["samplers"] = {
                name: [_sampling(place, name, n) for n in (on_record if name != "gp" else on_record[:2])]
                for name in samplers
            }
            found["judge"] = {
                name: _judging(place, _storage(name, server), server, on_record[1], running, quick) for name in stores
            }
            found["mlflow"] = _sending(place, server, 3 if quick else 30)
        found["restart"] = [_restarting(place, n) for n in on_record]
        found["files"] = _files(place, 200 if quick else 20_000)
        found["tune"] = _tune(place, (10, 20) if quick else (100, 400, 1_600))
        found["objects"] = _objects(5 if quick else 200)
    return found


def processor(work: Callable[[], object], calls: int = 1) -> float:
    """The median processor seconds of this thread over `calls` calls."""
    return statistics.median(_once(work) for _ in range(calls))


def _once(work: Callable[[], object]) -> float:
    begun = time.thread_time()
    work()
    return time.thread_time() - begun


class _Counted:
    """How many statements this thread sends to databases, and requests to HTTP servers; the sender has a thread too."""

    def __init__(self) -> None:
        self.statements = self.requests = 0
        self._thread = threading.get_ident()
        sa.event.listen(sa.Engine, "before_cursor_execute", self._statement)
        self._send = requests.Session.send
        send = self._send

        def counting(session: requests.Session, *given: Any, **more: Any) -> requests.Response:
            self.requests += threading.get_ident() == self._thread
            return send(session, *given, **more)

        requests.Session.send = counting  # type: ignore[method-assign, assignment]  # a benchmark looks in

    def _statement(self, *_: Any) -> None:
        self.statements += threading.get_ident() == self._thread

    def close(self) -> None:
        sa.event.remove(sa.Engine, "before_cursor_execute", self._statement)
        requests.Session.send = self._send  # type: ignore[method-assign]  # as it was


@contextmanager
def _counted() -> Iterator[_Counted]:
    counted = _Counted()
    try:
        yield counted
    finally:
        counted.close()


# --- the driver and Optuna's storage ---------------------------------------------------------------------------------


def _study(place: Path, name: str, storage: str | None = None, sampler: str = "tpe") -> StudyConfig:
    content: dict[str, Any] = {
        "name": name, "question": "What does a trial cost?", "trials": 1_000_000, "replicates": 1,
        "reference": _JOINT, "storage": storage, "sampler": sampler, "pruner": {"name": "asha", "grace": 4},
        "base": {"corpus": str(place / "corpus"), "epochs": EPOCHS, "device": "cpu", "tracking": {"model": False}},
        "space": SPACE, "methods": {_JOINT: {"set": {"method": {"name": "joint"}}}},
    }  # fmt: skip
    return StudyConfig.model_validate(content)


def _fill(storage: BaseStorage, study: StudyConfig, trials: int) -> int:
    """Trials of big_study on record; Optuna's id of the study."""
    made = optuna.create_study(
        study_name=optuna_name(study.name, _JOINT), storage=storage, direction="maximize", load_if_exists=True
    )
    if isinstance(storage, RDBStorage):
        with storage.engine.begin() as connection:
            ids = optuna_private.database_models().TrialModel.trial_id
            first = connection.execute(sa.select(sa.func.coalesce(sa.func.max(ids), 0))).scalar_one()
            for table, rows in rows_of(optuna_private.study_id(made), first, trials, EPOCHS):
                connection.execute(sa.insert(table), rows)
            if storage.engine.dialect.name == "postgresql":  # we gave the ids; its counter has not heard of them
                connection.execute(sa.text("SELECT setval('trials_trial_id_seq', (SELECT max(trial_id) FROM trials))"))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            other = open_storage(None, Path(scratch))
            _fill(other, study, trials)
            made.add_trials(optuna.load_study(study_name=made.study_name, storage=other).trials)
    return optuna_private.study_id(made)


class _EnoughError(Exception):
    """Everything is measured; the study need not go on."""


def _driver(place: Path, storage: str | None, trials: int, running: int, quick: bool) -> dict[str, float]:
    """`StudyRun`'s own ask and tell, tracked, with `trials` on record: all that stands between an end and a begin."""
    study = _study(place, f"driver-{uuid.uuid4().hex[:8]}", storage)
    workspace = place / "w"
    run = StudyRun(study, {}, workspace)
    run.folder.mkdir(parents=True)
    _fill(open_storage(storage, run.folder), study, trials)
    asks: list[float] = []
    tells: list[float] = []
    statements: list[tuple[int, int]] = []

    def timed(ask: Callable[[], Task | None], tell: Callable[[Task, Outcome], None], *_: Any, **__: Any) -> None:
        given = [task for task in (ask() for _ in range(running)) if task is not None]
        tell(given[0], _complete(given.pop(0)))  # the first of all looks at all that is on record
        for _round in range(3 if quick else 15):
            with _counted() as counted:
                begun = time.thread_time()
                task = ask()
                asked = time.thread_time()
            assert task is not None
            given.append(task)
            outcome = _complete(given[0])
            with _counted() as told:
                before = time.thread_time()
                tell(given.pop(0), outcome)
                tells.append(time.thread_time() - before)
            asks.append(asked - begun)
            statements.append((counted.statements, told.statements))
        raise _EnoughError

    with mock.patch.object(study_module, "execute", timed), contextlib.suppress(_EnoughError):
        run.run(lambda _: [])
    shutil.rmtree(run.folder)
    return {
        "trials": trials,
        "ask_s": statistics.median(asks),
        "tell_s": statistics.median(tells),
        "ask_statements": statistics.median(ask for ask, _ in statements),
        "tell_statements": statistics.median(tell for _, tell in statements),
    }


def _complete(task: Task) -> Outcome:
    """As a run leaves it: its folder holds the history that the driver reads."""
    for job in task.jobs:
        folder = RunFolder(Path(job.folder))
        folder.prepare(job.config, job.digest)
        record = {"epoch": 0.0, "val/accuracy": 0.5, "time/train_s": 1.0}
        (folder.path / "history.jsonl").write_text(f"{json.dumps(record)}\n" * EPOCHS)
    return Outcome("complete", tuple({"best/val_accuracy": 0.5} for _ in task.jobs))


def _search(place: Path, storage: BaseStorage, study: StudyConfig, trials: int) -> Search:
    _fill(storage, study, trials)
    return Search(study, _JOINT, place, storage, EPOCHS)


def _running(search: Search, storage: BaseStorage, count: int, *, points: bool) -> None:
    """So many trials run, each with half of its epochs on record. Their points do not matter: drawn at random."""
    search._study.sampler = optuna.samplers.RandomSampler(seed=0)
    while len(search._running) < count:
        trial = search._study.ask({path: _free(path) for path in SPACE} if points else {})
        search._running[trial.number] = trial
    ids = [optuna_private.trial_id(trial) for trial in search._running.values()]
    if isinstance(storage, RDBStorage):
        table = optuna_private.database_models().TrialIntermediateValueModel
        rows = [{"trial_id": trial, "step": step, "intermediate_value": 0.3,
                 "intermediate_value_type": table.TrialIntermediateValueType.FINITE}
                for trial in ids for step in range(1, EPOCHS // 2)]  # fmt: skip
        with storage.engine.begin() as connection:
            connection.execute(sa.delete(table).where(table.trial_id.in_(ids)))
            connection.execute(sa.insert(table), rows)
    else:
        for trial_id, step in itertools.product(ids, range(1, EPOCHS // 2)):
            storage.set_trial_intermediate_value(trial_id, step, 0.3)


def _free(path: str) -> optuna.distributions.BaseDistribution:
    from benchmarks.big_study import DISTRIBUTIONS

    return DISTRIBUTIONS[path]


def _asking(place: Path, trials: int, running: int) -> dict[str, float]:
    """A suggestion while `running` trials run: with what the driver remembers, and as Optuna alone would do it."""
    with tempfile.TemporaryDirectory(dir=place) as scratch:
        folder = Path(scratch)
        storage = open_storage(None, folder)
        search = _search(folder, storage, _study(place, "asking"), trials)
        _running(search, storage, running, points=True)  # a sampler looks at them
        search.next()
        ours = processor(search.next, 5)
        study = optuna.load_study(study_name=optuna_name("asking", _JOINT), storage=storage,
                                  sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=5))  # fmt: skip
        study.ask({path: _free(path) for path in SPACE})
        theirs = processor(lambda: study.ask({path: _free(path) for path in SPACE}), 3)
    return {"running": running, "ask_s": ours, "unremembered_s": theirs}


def _sampling(place: Path, sampler: str, trials: int) -> dict[str, float]:
    """A suggestion with `trials` on record, nothing else running."""
    with tempfile.TemporaryDirectory(dir=place) as scratch:
        folder = Path(scratch)
        search = _search(folder, open_storage(None, folder), _study(place, "sampling", sampler=sampler), trials)
        search.next()
        return {"trials": trials, "ask_s": processor(search.next, 1 if sampler == "gp" else 5)}


def _judging(
    place: Path, storage: str | None, server: "_Server | None", trials: int, running: Sequence[int], quick: bool
) -> Costs:
    """The pruner, as a run asks it: after an epoch, at a rung with R trials running, for the first time in a process.

    server_s: of these, the database server's processor time; 0 where there is none.
    """
    with tempfile.TemporaryDirectory(dir=place) as scratch:
        folder = Path(scratch)
        study = _study(place, f"judging-{uuid.uuid4().hex[:8]}", storage)
        opened = open_storage(storage, folder)
        search = _search(folder, opened, study, trials)
        epochs_s, epochs_server_s, rungs = [], [], []
        first_s = first_server_s = opened_s = opened_server_s = math.nan
        statements, first_of = 0, 1
        served_by = server.process if server and storage not in (None, "journal") else None
        for count in running if isinstance(opened, RDBStorage) else running[:-1]:
            _running(search, opened, count, points=False)  # a pruner does not
            number, _ = search.next()
            judge = pruning_callback(study, folder, optuna_name=optuna_name(study.name, _JOINT),
                             trial=search.id_of(number), epochs=EPOCHS, last=EPOCHS)  # fmt: skip
            history: list[dict[str, float]] = []
            pruning._study.cache_clear()
            rung = {"running": float(count)}
            for epoch in range(1, 13):  # rungs at 4 and 12
                history.append({"val/accuracy": 0.99})
                before, begun = _served_s(served_by), time.thread_time()
                with _counted() as counted:
                    judge(history)
                took, served = time.thread_time() - begun, _served_s(served_by) - before
                if epoch == 1:
                    opened_s, opened_server_s = took, served  # a journal reads everything when it is opened
                elif epoch == 4:  # a database when everything is asked for: all on record, and what runs
                    first_s, first_server_s = opened_s + took, opened_server_s + served
                    first_of = trials + count
                elif epoch == 12:
                    rung |= {"rung_s": took, "server_s": served}
                elif epoch > 4:
                    epochs_s.append(took)
                    epochs_server_s.append(served)
                    statements = counted.statements
            rungs.append(rung)
            if quick:
                break
        return {
            "epoch_s": statistics.median(epochs_s),
            "epoch_server_s": statistics.mean(epochs_server_s),
            "epoch_statements": statements,
            "rungs": rungs,
            "first_s_per_trial": first_s / first_of,
            "first_server_s_per_trial": first_server_s / first_of,
        }


def _restarting(place: Path, trials: int) -> dict[str, float]:
    """What is read as a whole: by a driver that starts again, by `status`, by `report`."""
    with tempfile.TemporaryDirectory(dir=place) as scratch:
        folder = Path(scratch) / "studies" / "restarting"
        folder.mkdir(parents=True)
        study = _study(place, "restarting")
        search = _search(folder, open_storage(None, folder), study, trials)
        settle = processor(lambda: search.resume(retry_failed=False))
        from remix_study.study.question import write_question

        write_question(study, {}, "0" * 12, folder)
        return {
            "trials": trials,
            "settle_s": settle,
            "survey_s": processor(lambda: study_status(folder), 3),
            "ledger_s": processor(lambda: read_ledger(folder, intermediate=True)),
        }


# --- MLflow ----------------------------------------------------------------------------------------------------------


def _sending(place: Path, server: "_Server | None", runs: int) -> Costs:
    """What the study's one sender does for a run, into a file, and through a server that keeps its runs in PostgreSQL.

    more: each further epoch that goes out in the same request. server_s: the processors of MLflow and its database.
    """
    content = {
        "corpus": str(place / "corpus"), "method": {"name": "remix", "warmup": 1}, "epochs": 4, "global_batch": 32,
        "device": "cpu", "evaluation": {"probe": False}, "tracking": {"model": False},
    }  # fmt: skip
    run_one(parse_run(content, "the benchmark"), place / "tracked")
    (source,) = (place / "tracked" / "runs").glob("*")
    lines = [line for line, _ in Spool(source / "tracking").read() if line is not None]
    found = {"sqlite": _sent(default_uri(place / "sqlite-runs"), place, source, lines, runs, [])}
    if server:
        url = server.make("mlflow")
        with MLflowServer(url) as mlflow:
            leaders = [mlflow.process_group, server.process]
            found["server"] = _sent(mlflow.url, place, source, lines, runs, leaders)
    metrics = next(line["metrics"] for line in lines if "metrics" in line)
    return {"metrics_per_epoch": len(metrics), **found}


def _sent(
    uri: str, place: Path, source: Path, lines: Sequence[dict[str, Any]], runs: int, leaders: Sequence[int]
) -> dict[str, float]:
    begin = next(at for at, line in enumerate(lines) if "metrics" in line)
    epoch = lines[begin]
    rest = [line for line in lines[begin:] if "metrics" not in line]
    epochs = 10
    spent: dict[str, list[tuple[float, float, int]]] = {"start": [], "epoch": [], "ten": [], "end": []}

    def served() -> float:
        return sum(_served_s(leader) for leader in leaders)

    for number in range(runs + 1):
        folder = place / f"sent-{uuid.uuid4().hex}"
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns("spool.*", "run.json", "checkpoints"))
        spool, sender = Spool(folder / "tracking"), Sender(uri, folder)
        parts: list[list[dict[str, Any]]] = [[{**lines[0], "key": uuid.uuid4().hex}, *lines[1:begin]]]
        parts += [[{**epoch, "step": step, "time": epoch["time"] + step}] for step in range(epochs)]
        parts += [[{**epoch, "step": step, "time": epoch["time"] + step} for step in range(epochs, epochs + 10)]]
        for at, part in enumerate([*parts, rest]):
            spool.append(*part)
            before = served()
            with _counted() as counted, contextlib.redirect_stdout(io.StringIO()):  # MLflow prints a run's address
                took = processor(sender.send)
            if number:  # the first one opens the connection
                what = "start" if at == 0 else "epoch" if at <= epochs else "ten" if at == epochs + 1 else "end"
                spent[what].append((took, served() - before, counted.requests))
        assert not sender.has_unsent
        shutil.rmtree(folder)
    found: dict[str, float] = {}
    for what, calls in spent.items():
        found[f"{what}_s"] = statistics.median(took for took, _, _ in calls)
        found[f"{what}_server_s"] = statistics.mean(server for _, server, _ in calls)
        found[f"{what}_requests"] = statistics.median(asked for _, _, asked in calls)
    for unit in ("s", "server_s"):
        found[f"more_{unit}"] = max(0.0, found.pop(f"ten_{unit}") - found[f"epoch_{unit}"]) / 9
    del found["ten_requests"]
    return found


# --- files -----------------------------------------------------------------------------------------------------------


def _files(place: Path, folders: int) -> dict[str, float]:
    """A look into one spool of many, by the sender's thread and by a driver that starts; a line that is written."""
    runs = place / "spools"
    line = {"metrics": [[f"metric/{n}", 0.123456789] for n in range(40)], "step": 1, "time": 1}
    names = [runs / str(number) for number in range(folders)]
    text = (json.dumps({"start": {}, "key": "k"}) + "\n" + (json.dumps(line) + "\n") * EPOCHS
            + json.dumps({"status": "FINISHED", "time": 1}) + "\n")  # fmt: skip
    for name in names:
        (name / "tracking").mkdir(parents=True)
        (name / "tracking" / "spool.jsonl").write_text(text)
        (name / "tracking" / "spool.offset").write_text(str(len(text)))
    syncer = Syncer("sqlite://")
    for name in names:
        syncer.watch(name)
    syncer._round()  # looks at what has arrived
    look = processor(syncer._round, 5) / folders
    opened = processor(lambda: [Spool(name / "tracking").is_open for name in names]) / folders
    shutil.rmtree(runs)
    spool = Spool(place / "one")
    return {"look_s": look, "is_open_s": opened, "append_s": processor(lambda: spool.append(line), 30)}


# --- Tune ------------------------------------------------------------------------------------------------------------


def _ignore(_: object) -> None:
    """Where tasks run is of no interest here."""


def _tune(place: Path, counts: Sequence[int]) -> list[dict[str, float]]:
    """Trials without a run, through `execute`, in two processes that are reused: what Tune costs the driver."""
    times: list[dict[str, float]] = []
    for trials in counts:
        coming = iter(range(trials))
        ends: list[tuple[float, float]] = []

        def ask(coming: Iterator[int] = coming) -> Task:
            number = next(coming, None)
            if number is None:
                raise StopIteration
            return Task("search", _JOINT, number, (), ())

        def tell(task: Task, outcome: Outcome, ends: list[tuple[float, float]] = ends) -> None:  # noqa: ARG001 - as told
            ends.append((time.perf_counter(), time.process_time()))

        folder = place / f"tune-{trials}"
        folder.mkdir()
        execute(ask, tell, Needs(concurrency=2), folder, _ignore, lambda _: 0, lambda: False)
        assert len(ends) == trials, f"{trials} trials must end, but {len(ends)} did"
        last = ends[len(ends) // 2 :]
        wall, cpu = (end - begin for begin, end in zip(last[0], last[-1], strict=True))
        times.append({"trials": trials, "driver_s": cpu / (len(last) - 1), "elapsed_s": wall / (len(last) - 1)})
    return times


# --- an object store -------------------------------------------------------------------------------------------------


def _objects(count: int) -> dict[str, float]:
    """Files of a run in a bucket of moto's: an S3 server in Python, whose own time is most of what this shows."""
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
    server.start()
    try:
        host, port = server.get_host_and_port()
        files = s3fs.S3FileSystem(
            endpoint_url=f"http://{host}:{port}", key="someone", secret="a-secret", use_listings_cache=False,
            skip_instance_cache=True,
        )  # fmt: skip
        bucket = f"overheads-{uuid.uuid4().hex}"  # all of moto's servers in one process share their buckets
        files.mkdir(bucket)
        content = os.urandom(100_000)
        names = iter(range(10**6))
        put = seconds(lambda: files.pipe_file(f"{bucket}/runs/{next(names)}/history.jsonl", content), count)
        get = seconds(lambda: files.cat_file(f"{bucket}/runs/0/history.jsonl"), count)
        listing = seconds(lambda: files.ls(f"{bucket}/runs/0", refresh=True), max(5, count // 4))
    finally:
        server.stop()
    return {"put_s": put, "get_s": get, "list_s": listing}


# --- a database server -----------------------------------------------------------------------------------------------


class _Server:
    """A PostgreSQL of our own behind a socket in its folder."""

    def __init__(self, place: Path, run: Callable[..., None]) -> None:
        self.place, self._run = place, run

    def make(self, name: str) -> str:
        self._run("createdb", "-h", str(self.place), "-U", "study", name)
        return self.uri(name)

    def uri(self, name: str) -> str:
        return f"postgresql+psycopg://study@/{name}?host={self.place}"

    @property
    def process(self) -> int:
        return int((self.place / "data" / "postmaster.pid").read_text().split()[0])


@contextmanager
def _postgresql(place: Path) -> Iterator[_Server | None]:
    """None where PostgreSQL is not installed."""
    if not _POSTGRES.exists():
        yield None
        return
    place.mkdir()
    as_whom: list[str] = []
    if os.geteuid() == 0:  # PostgreSQL refuses root
        user = next((p.pw_name for p in pwd.getpwall() if p.pw_name == "postgres"), "nobody")
        as_whom = ["runuser", "-u", user, "--"]
        place.parent.chmod(0o755)
        shutil.chown(place, user)

    def run(*words: str) -> None:
        subprocess.run([*as_whom, str(_POSTGRES / words[0]), *words[1:]], check=True, capture_output=True, cwd=place)

    data = str(place / "data")
    run("initdb", "--pgdata", data, "--auth", "trust", "--username", "study", "--no-sync")
    options = f"-k {place} -c listen_addresses= -c max_connections=50"
    run("pg_ctl", "--pgdata", data, "--wait", "--log", str(place / "log"), "--options", options, "start")
    try:
        yield _Server(place, run)
    finally:
        run("pg_ctl", "--pgdata", data, "--wait", "--mode", "immediate", "stop")


def _storage(name: str, server: _Server | None) -> str | None:
    match name:
        case "sqlite":
            return None
        case "journal":
            return "journal"
    assert server is not None
    return server.make(f"study-{uuid.uuid4().hex[:8]}")


def _served_s(leader: int | None) -> float:
    """Processor seconds that a server's processes have taken, those that have ended included; `leader` began them."""
    if leader is None:
        return 0.0
    used, tick, family = 0, os.sysconf("SC_CLK_TCK"), {leader}
    for stat in sorted(Path("/proc").glob("[0-9]*/stat"), key=lambda path: int(path.parent.name)):
        with contextlib.suppress(OSError):  # it has just ended
            fields = stat.read_text().rsplit(")", 1)[1].split()
            if int(stat.parent.name) == leader or int(fields[1]) in family:
                family.add(int(stat.parent.name))
                used += sum(int(field) for field in fields[11:15])
    return used / tick


# --- the table -------------------------------------------------------------------------------------------------------


def ratios(found: Costs) -> Iterator[Result]:
    few, many = found["driver"]["sqlite"][0], found["driver"]["sqlite"][-1]
    span = f"{many['trials']:,} trials on record vs {few['trials']:,}"
    for what, name in (("ask_s", "ask"), ("tell_s", "tell")):
        yield Result(f"the driver's {name}, {span}", many[what] / few[what], note=_growth(few, many, what))
    most = found["running"][-1]
    yield Result(
        f"a suggestion with {most['running']:,} trials running: remembered vs read again",
        most["ask_s"] / most["unremembered_s"], at_most=0.1,
    )  # fmt: skip
    for name, rows in found["samplers"].items():
        yield Result(f"{name}: a suggestion, {rows[-1]['trials']:,} trials vs {rows[0]['trials']:,}",
                     rows[-1]["ask_s"] / rows[0]["ask_s"], note=_growth(rows[0], rows[-1], "ask_s"))  # fmt: skip
    for name, judged in found["judge"].items():
        rung = judged["rungs"][-1]
        yield Result(f"{name}: the pruner at a rung, {rung['running']:,.0f} running, vs at another epoch",
                     rung["rung_s"] / judged["epoch_s"])  # fmt: skip
    for name in ("sqlite", "server"):
        if name in found["mlflow"]:
            sent = found["mlflow"][name]
            yield Result(f"MLflow ({name}): to send a run's start and end vs one epoch of it",
                         (sent["start_s"] + sent["end_s"]) / sent["epoch_s"])  # fmt: skip
    few, many = found["tune"][0], found["tune"][-1]
    yield Result(f"Tune: a trial without a run, the last of {many['trials']:,} vs of {few['trials']:,}",
                 many["driver_s"] / few["driver_s"], note=_growth(few, many, "driver_s"))  # fmt: skip


def _growth(few: dict[str, float], many: dict[str, float], what: str) -> str:
    exponent = math.log(many[what] / few[what]) / math.log(many["trials"] / few["trials"])
    return f"grows as trials to the power of {exponent:.2f}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overheads", description="Costs for the simulation.")
    parser.add_argument("--quick", action="store_true", help="does it run? its numbers mean nothing")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE")
    given = parser.parse_args(arguments)
    found = {"machine": asdict(this_machine()), "epochs": EPOCHS, "quick": given.quick, **costs(given.quick)}
    given.json.write_text(json.dumps(_rounded(found), indent=1) + "\n")


def _rounded(value: Any) -> Any:
    match value:
        case dict():
            return {key: _rounded(inner) for key, inner in value.items()}
        case list():
            return [_rounded(inner) for inner in value]
        case float():
            return float(f"{value:.4g}")
    return value


if __name__ == "__main__":
    main()
