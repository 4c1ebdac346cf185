"""Launching runs with Ray Train, and other work on a Ray cluster

run.py           checks and trains one run: its folder, lock, unimodal ceilings and trainer
worker.py        the code of every Ray Train worker
folder.py        the run folder: configuration, history, result, lock
working_copy.py  local copy of a run folder in a remote workspace
decisions.py     decisions.parquet: what Remix decided about each training sample
predictions.py   predictions.parquet: what a finished run predicts for each clip
run_figures.py   the figures of one run
ray_init.py      connects to the Ray cluster at RAY_ADDRESS, or starts a local Ray
nodes.py         checks that all nodes of a cluster have the same files, code and versions
dependencies.py  checks that a Python has the packages that remix_study needs
ray_decoding.py  decodes a corpus on all nodes of a cluster
mlflow_ui.py     prepares MLflow's page for `remix-study ui`
"""

import os

# Set before Ray is imported: no second copy of printed lines, no usage statistics, fast detection of lost workers, and
# enough time to start workers on two busy cores.
os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "300")
# The default of later Ray releases; 2.60 warns in every process that it will change.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
