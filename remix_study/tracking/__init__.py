"""Tracking of runs in MLflow

tracker.py   the Tracker protocol; NullTracker, which records nothing, and RecordingTracker, for tests
spool.py     local file to which a run writes all tracking data first, so that a server outage loses nothing
mlflow.py    sends a spool to MLflow; MLflowTracker, for runs without a study
syncer.py    thread of the study's driver that sends the spools of all its runs
address.py   tracking URIs: the default, the check before training, messages without credentials
client.py    MLflow's client with an explicit tracking URI; experiments and abandoned runs
model.py     saves a trained model as an MLflow model with a signature
review.py    links that open MLflow's page with columns and charts selected
server.py    starts and stops an MLflow server
signals.py   handlers of SIGINT, SIGTERM and SIGHUP
"""

from remix_study.credentials import redact
from remix_study.tracking.address import check, default_uri
from remix_study.tracking.tracker import NullTracker, RecordingTracker, RunInfo, Status, Tracker, finishing

__all__ = [
    "NullTracker",
    "RecordingTracker",
    "RunInfo",
    "Status",
    "Tracker",
    "check",
    "default_uri",
    "finishing",
    "redact",
]
