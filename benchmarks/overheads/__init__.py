"""Cost of one trial for the components that all trials share: driver, Optuna storage, MLflow, files, Ray Tune

    python -m benchmarks.overheads --json benchmarks/simulation/measured.json

Measures remix_study itself on studies with few and many recorded and running trials. `benchmarks.run overheads` prints
ratios and growth. The JSON file is the input of the simulation (benchmarks/simulated_study.py). It holds CPU seconds
per call, which other work on the machine hardly changes, and the numbers of database statements and HTTP requests per
call, whose latency depends on the distance to the servers. All numbers describe the machine that measured them.

    all_costs      the measurements of all components, as one dictionary
    table          ratios for `benchmarks.run`
    driver         the driver's ask and tell, suggestions, reading a study at a restart
    pruner         the pruning decision after an epoch
    sender         sending a run to MLflow
    spools         appending to metric spools and polling them
    ray_tune       trials without a run
    object_store   files in an S3 bucket
    studies        recorded and running trials for the measurements above
    counting       CPU seconds, statements and requests
    postgresql     a temporary PostgreSQL server
"""

from benchmarks.overheads.all_costs import costs
from benchmarks.overheads.table import measure, ratios

__all__ = ["costs", "measure", "ratios"]
