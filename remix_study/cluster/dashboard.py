"""A cluster's dashboard: versions of Ray and Python, running jobs, and the state of a job"""

import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from remix_study import ray_private
from remix_study.errors import RemixStudyError
from remix_study.files.urls import shown

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

# Ray prefers these variables to an address given as an argument (ray/dashboard/utils.py).
OVERRIDING_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
STUDY_KEY, WORKSPACE_KEY = "remix_study.study", "remix_study.workspace"  # in the metadata of a job
_CONNECT_TIMEOUT_S = 5.0
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Versions:
    """Versions on a cluster, such as `3.11.7` and `2.60.0`."""

    python: str
    ray: str


@dataclass(frozen=True)
class JobState:
    """The state of a job.

    Args:
        status: Ray's name for it, such as `RUNNING` or `FAILED`.
        exit_code: exit status of the entrypoint; None if it has not ended or never started.
        message: why the job failed.
    """

    status: str
    exit_code: int | None
    message: str

    @property
    def finished(self) -> bool:
        return self.status in ("SUCCEEDED", "FAILED", "STOPPED")


class Dashboard:
    """A connection to the dashboard at a URL such as http://127.0.0.1:8265.

    Raises:
        RemixStudyError: from every method, if the dashboard does not answer or rejects the authentication token.
    """

    def __init__(self, url: str) -> None:
        from ray.job_submission import JobSubmissionClient

        self.url = url.rstrip("/")
        _require_connection(self.url)
        headers = os.environ.get("RAY_JOB_HEADERS")  # as `ray job` reads them
        with _translated_errors(self.url), _without_overriding_variables():
            self._client = JobSubmissionClient(self.url, headers=None if headers is None else json.loads(headers))

    def versions(self) -> Versions:
        found = self._get("/api/v0/cluster_metadata")
        return Versions(python=found["pythonVersion"], ray=found["rayVersion"])

    def several_nodes(self) -> bool:
        """Whether nodes other than the head run trials, now or after the cluster grows."""
        nodes = self._get("/api/v0/nodes")["result"]["result"]
        alive = [node for node in nodes if node["state"] == "ALIVE"]
        return len(alive) != 1 or not alive[0]["resources_total"].get("CPU")

    def find_job(self, study: str, workspace: str) -> str | None:
        """The submission id of an unfinished job for this study and workspace; None if there is none."""
        with _translated_errors(self.url):
            jobs = self._client.list_jobs()
        for job in jobs:
            metadata = job.metadata or {}
            same = metadata.get(STUDY_KEY) == study and metadata.get(WORKSPACE_KEY) == workspace
            if same and not _state(job).finished:
                return str(job.submission_id)
        return None

    def has_job(self, job: str) -> bool:
        """Whether a job with this submission id exists."""
        with _translated_errors(self.url):
            return any(each.submission_id == job for each in self._client.list_jobs())

    def state(self, job: str) -> JobState:
        with _translated_errors(self.url):
            return _state(self._client.get_job_info(job))

    def _get(self, path: str) -> Mapping[str, Any]:
        with _translated_errors(self.url):
            found: Mapping[str, Any] = ray_private.dashboard_data(self._client, path)
            return found


def _state(job: "JobDetails") -> JobState:
    return JobState(str(job.status.value), job.driver_exit_code, job.message or "")


def _require_connection(url: str) -> None:
    """Check that the address accepts connections; Ray's client has no timeout for a host that does not respond.

    Raises:
        RemixStudyError: the URL is malformed, or nothing listens there.
    """
    try:
        parts = urlsplit(url)
        default = _DEFAULT_PORTS[parts.scheme]
        address = (parts.hostname or "", parts.port or default)
    except (KeyError, ValueError):
        raise RemixStudyError(
            f"`--address` must be the URL of a dashboard, such as http://127.0.0.1:8265, but is {shown(url)!r}."
        ) from None
    try:
        socket.create_connection(address, timeout=_CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise _unreachable(url, error.strerror or str(error)) from error


@contextmanager
def _without_overriding_variables() -> Iterator[None]:
    hidden = {name: os.environ.pop(name) for name in OVERRIDING_VARIABLES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


@contextmanager
def _translated_errors(url: str) -> Iterator[None]:
    """Raise `RemixStudyError` instead of the errors of Ray's client."""
    import requests
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        raise RemixStudyError(_authentication_message(url, str(error))) from error
    except (ConnectionError, requests.RequestException) as error:
        raise _unreachable(url, type(error).__name__) from error
    except (RuntimeError, KeyError, ValueError) as error:  # a different service, or an incompatible version of Ray
        reason = " ".join(str(error).split())[:200]
        raise RemixStudyError(
            f"The service at {shown(url)} is not a Ray dashboard, or runs an incompatible version "
            f"({type(error).__name__}: {reason}). Check the address, and the version of Ray on the cluster."
        ) from error


def _unreachable(url: str, why: str) -> RemixStudyError:
    return RemixStudyError(
        f"Cannot reach the cluster's dashboard at {shown(url)}: {why}. Start the cluster, forward its port (`ray "
        "dashboard FILE` or `kubectl port-forward`), or correct the address."
    )


def _authentication_message(url: str, reason: str) -> str:
    if "Authentication failed" in reason:  # 403: a token was sent, but not this cluster's
        return (
            f"The cluster at {shown(url)} rejects the token in ~/.ray/auth_token. Copy ~/.ray/auth_token from the head "
            "to this machine, or restart the cluster with `ray up`."
        )
    return (
        f"The cluster at {shown(url)} requires a token. Set RAY_AUTH_MODE=token on this machine, and write the "
        "cluster's token to ~/.ray/auth_token (`ray get-auth-token` prints it)."
    )
