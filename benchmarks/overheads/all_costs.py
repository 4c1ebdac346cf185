"""The measurements of all components, in one dictionary"""

import tempfile
from pathlib import Path

import optuna

from benchmarks.overheads.driver import ask_and_tell, restart, suggestion, suggestion_while_running
from benchmarks.overheads.object_store import object_store
from benchmarks.overheads.postgresql import postgresql, storage_url
from benchmarks.overheads.pruner import pruning
from benchmarks.overheads.ray_tune import ray_tune
from benchmarks.overheads.sender import sending
from benchmarks.overheads.spools import spools
from benchmarks.overheads.studies import Costs
from remix_study.datasets.corpus import prepare_synthetic
from remix_study.datasets.synthetic import SyntheticSpec


def costs(quick: bool) -> Costs:
    """Measure every component.

    Returns:
        Costs by component, with the keys that `simulation/costs.py` reads. Keys ending in `_s` are seconds per call.
        PostgreSQL's entries are absent where it is not installed.
    """
    recorded = (20, 60) if quick else (100, 1_000, 10_000)
    running = (2, 6) if quick else (10, 100, 1_000)
    found: Costs = {}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        prepare_synthetic(folder / "corpus", SyntheticSpec(train=96, val=48, test=48), preset="tiny")
        with postgresql(folder / "postgresql") as server:
            storages = ["sqlite", "journal", *(["postgresql"] if server else [])]
            found["driver"] = {
                "sqlite": [ask_and_tell(folder, None, trials, running[0], quick) for trials in recorded],
                **{
                    name: [ask_and_tell(folder, storage_url(name, server), recorded[1], running[0], quick)]
                    for name in storages[1:]
                },
            }
            found["running"] = [suggestion_while_running(folder, recorded[1], count) for count in running]
            found["samplers"] = {
                name: [suggestion(folder, name, trials) for trials in (recorded if name != "gp" else recorded[:2])]
                for name in ("random", "tpe", "nsga2", "cmaes", "gp")
            }
            found["judge"] = {
                name: pruning(folder, storage_url(name, server), server, recorded[1], running, quick)
                for name in storages
            }
            found["mlflow"] = sending(folder, server, 3 if quick else 30)
        found["restart"] = [restart(folder, trials) for trials in recorded]
        found["files"] = spools(folder, 200 if quick else 20_000)
        found["tune"] = ray_tune(folder, (10, 20) if quick else (100, 400, 1_600))
        found["objects"] = object_store(5 if quick else 200)
    return found
