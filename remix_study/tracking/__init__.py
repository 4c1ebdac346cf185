"""Evidence of a run, where a reviewer finds it again

tracker.py   what a run tells a tracker (protocol), a tracker that forgets, one that remembers (tests)
spool.py     everything told is first a line in a local file, so that a server that is down loses nothing
signals.py   a stop that waits for the line being sent
address.py   tracking URIs: the default, the check before training starts, messages without credentials
mlflow.py    spool -> MLflow, with explicit client and run ids; the tracker of a single run sends by itself
syncer.py    a thread of the study's driver that sends for all its runs
model.py     the trained model as an MLflow model with a signature
review.py    the link that opens MLflow on the training runs, with columns and charts ready
server.py    MLflow's server on the loopback address
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
