"""What a cluster's dashboard says: which versions run there, which jobs, and how one of them stands"""

import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from remix_study.errors import RemixStudyError
from remix_study.files.urls import shown

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

# Ray takes these rather than the address that it is given (ray/dashboard/utils.py).
OVERRIDING = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
STUDY, WORKSPACE = "remix_study.study", "remix_study.workspace"  # of a job's metadata
_PATIENCE_S = 5.0
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Versions:
    """`3.11.7`, `2.60.0`."""

    python: str
    ray: str


@dataclass(frozen=True)
class JobState:
    """exit_code: of the job's own command, once it has ended; None where it never began. message: why it failed."""

    status: str
    exit_code: int | None
    message: str

    @property
    def over(self) -> bool:
        return self.status in ("SUCCEEDED", "FAILED", "STOPPED")


class Dashboard:
    """A connection to the dashboard at a URL such as http://127.0.0.1:8265.

    Every method raises `RemixStudyError` where it does not answer, or does not let us in.
    """

    def __init__(self, url: str) -> None:
        from ray.job_submission import JobSubmissionClient

        self.url = url.rstrip("/")
        _require_answer(self.url)
        headers = os.environ.get("RAY_JOB_HEADERS")  # as `ray job` takes them
        with _told(self.url), _address_wins():
            self._client = JobSubmissionClient(self.url, headers=None if headers is None else json.loads(headers))

    def versions(self) -> Versions:
        found = self._get("/api/v0/cluster_metadata")
        return Versions(python=found["pythonVersion"], ray=found["rayVersion"])

    def several_nodes(self) -> bool:
        """Whether work is done on another machine than the head, now or when the cluster grows."""
        nodes = self._get("/api/v0/nodes")["result"]["result"]
        alive = [node for node in nodes if node["state"] == "ALIVE"]
        return len(alive) != 1 or not alive[0]["resources_total"].get("CPU")

    def job_of(self, study: str, workspace: str) -> str | None:
        """The submission id of a job that works on the study in this workspace, or is about to."""
        with _told(self.url):
            jobs = self._client.list_jobs()
        for job in jobs:
            about = job.metadata or {}
            if about.get(STUDY) == study and about.get(WORKSPACE) == workspace and not _state(job).over:
                return str(job.submission_id)
        return None

    def has(self, job: str) -> bool:
        with _told(self.url):
            return any(each.submission_id == job for each in self._client.list_jobs())

    def state(self, job: str) -> JobState:
        with _told(self.url):
            return _state(self._client.get_job_info(job))

    def _get(self, path: str) -> Mapping[str, Any]:
        with _told(self.url):
            answer = self._client._do_request("GET", path)  # Ray's own: it brings the token along
            answer.raise_for_status()
            found: Mapping[str, Any] = answer.json()["data"]
            return found


def _state(job: "JobDetails") -> JobState:
    return JobState(str(job.status.value), job.driver_exit_code, job.message or "")


def _require_answer(url: str) -> None:
    """Ray's client would wait without end for a host that says nothing.

    Raises:
        RemixStudyError: nobody listens there.
    """
    try:
        parts = urlsplit(url)
        usual = _PORTS[parts.scheme]
        address = (parts.hostname or "", parts.port or usual)
    except (KeyError, ValueError):
        raise RemixStudyError(
            f"the address must be a dashboard's, such as http://127.0.0.1:8265, but is {shown(url)!r}."
        ) from None
    try:
        socket.create_connection(address, timeout=_PATIENCE_S).close()
    except OSError as error:
        raise _unreachable(url, error.strerror or str(error)) from error


@contextmanager
def _address_wins() -> Iterator[None]:
    hidden = {name: os.environ.pop(name) for name in OVERRIDING if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


@contextmanager
def _told(url: str) -> Iterator[None]:
    import requests
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        raise RemixStudyError(_denied(url, str(error))) from error
    except (ConnectionError, requests.RequestException) as error:
        raise _unreachable(url, type(error).__name__) from error
    except (RuntimeError, KeyError, ValueError) as error:  # another service, or another Ray, than we know
        said = " ".join(str(error).split())[:200]
        raise RemixStudyError(
            f"the dashboard of a Ray cluster must answer at {shown(url)}, but what answers is none that we know "
            f"({type(error).__name__}: {said}). Check the address, and that the cluster has our Ray."
        ) from error


def _unreachable(url: str, why: str) -> RemixStudyError:
    return RemixStudyError(
        f"the cluster's dashboard must answer at {shown(url)}, but does not ({why}). Start the cluster, or the forward "
        "to it (`ray dashboard FILE`, `kubectl port-forward`), or mend the address."
    )


def _denied(url: str, said: str) -> str:
    if "Authentication failed" in said:  # 403: there is a token, which is not the cluster's
        helps = "is another than the cluster's. Copy the head's ~/.ray/auth_token to here, or start the cluster again"
        return f"the token in ~/.ray/auth_token must be that of the cluster at {shown(url)}, but {helps} (`ray up`)."
    return (
        f"the cluster at {shown(url)} must let us in, but asks for a token. Set RAY_AUTH_MODE=token here, and have its "
        "token in ~/.ray/auth_token (`ray get-auth-token` shows it)."
    )
