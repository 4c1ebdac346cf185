"""Launching: one run as a Ray Train job

run.py        RunConfig -> a finished run: its folder, its lock, its ceilings, its trainer
worker.py     what every Ray Train worker does; in local mode, what this process does
cluster.py    which Ray that is: the one that RAY_ADDRESS names, or our own
folder.py     the run's own folder: configuration, lock, result
preparing.py  decoding a corpus on all machines of a Ray
"""

import os

# Before Ray is imported. Printing twice and phoning home help nobody; starting workers on two busy cores may take long.
os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "300")
# Ray's next releases change this default and warn about it in every process.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
