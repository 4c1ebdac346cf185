"""Costs of the pruning decision that a run makes after each epoch"""

import math
import statistics
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from optuna.storages import RDBStorage

from benchmarks.overheads.counting import count_calls
from benchmarks.overheads.postgresql import Server, server_cpu_seconds
from benchmarks.overheads.studies import EPOCHS, METHOD, Costs, search_with_trials, start_trials, study_config
from remix_study.study import pruning as pruning_module
from remix_study.study.pruning import pruning_callback
from remix_study.study.storage import open_storage, optuna_name


def pruning(
    folder: Path, storage: str | None, server: Server | None, trials: int, running: Sequence[int], quick: bool
) -> Costs:
    """Measure the pruning callback after an epoch, at a rung with `running` trials, and at its first call in a process.

    Returns:
        CPU seconds of the run's process, statements, and in keys with `server` the CPU seconds of the database server
        (0 if the storage has none).
    """
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        inside = Path(scratch)
        study = study_config(folder, f"judging-{uuid.uuid4().hex[:8]}", storage)
        opened = open_storage(storage, inside)
        search = search_with_trials(inside, opened, study, trials)
        epochs_s, epochs_server_s, rungs = [], [], []
        first_s = first_server_s = opened_s = opened_server_s = math.nan
        statements, first_read = 0, 1
        leader = server.process if server and storage not in (None, "journal") else None
        for count in running if isinstance(opened, RDBStorage) else running[:-1]:
            start_trials(search, opened, count, params=False)
            number, _ = search.next()
            callback = pruning_callback(study, inside, optuna_name=optuna_name(study.name, METHOD),
                                        trial=search.id_of(number), epochs=EPOCHS, last=EPOCHS)  # fmt: skip
            history: list[dict[str, float]] = []
            pruning_module._study.cache_clear()
            rung = {"running": float(count)}
            for epoch in range(1, 13):  # rungs at 4 and 12
                history.append({"val/accuracy": 0.99})
                server_before, started = server_cpu_seconds(leader), time.thread_time()
                with count_calls() as counted:
                    callback(history)
                own_s, server_s = time.thread_time() - started, server_cpu_seconds(leader) - server_before
                if epoch == 1:
                    opened_s, opened_server_s = own_s, server_s  # a journal is read when it is opened
                elif epoch == 4:  # a database is read at the first rung: all recorded and running trials
                    first_s, first_server_s = opened_s + own_s, opened_server_s + server_s
                    first_read = trials + count
                elif epoch == 12:
                    rung |= {"rung_s": own_s, "server_s": server_s}
                elif epoch > 4:
                    epochs_s.append(own_s)
                    epochs_server_s.append(server_s)
                    statements = counted.statements
            rungs.append(rung)
            if quick:
                break
        return {
            "epoch_s": statistics.median(epochs_s),
            "epoch_server_s": statistics.mean(epochs_server_s),
            "epoch_statements": statements,
            "rungs": rungs,
            "first_s_per_trial": first_s / first_read,
            "first_server_s_per_trial": first_server_s / first_read,
        }
