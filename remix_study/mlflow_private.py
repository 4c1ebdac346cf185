"""Private and undocumented parts of MLflow that remix_study uses; every other file imports them from here

Each comment says what the part is for and what the public API lacks. tests/contracts/test_private_apis.py fails with
one sentence per part that a new MLflow release moves or changes. MLflow is imported inside the functions, so that
importing this module is cheap.
"""

import base64
import json
import zlib
from collections.abc import Mapping
from typing import Any

# Limits of one request (mlflow.utils.validation). MLflow rejects the whole batch that exceeds one; its documentation
# states them only in part. Copied, because importing MLflow takes seconds.
PARAM_LENGTH, TAG_LENGTH, DATASET_NAME_LENGTH, DATASET_DIGEST_LENGTH = 6000, 8000, 500, 36
PARAMS_PER_BATCH, METRICS_PER_BATCH = 100, 1000

# Start of the experiment tag in which MLflow's page keeps a shared view, and the words of the link that opens it
# (read off the page's JavaScript of 3.17 and 3.18). There is no public API for columns and charts of the runs page.
VIEW_TAG = "mlflow.sharedViewState."
VIEW_ENCODING = "deflate;"
VIEW_QUERY = "viewStateShareKey"
WORKFLOW = {"workflowType": "machine_learning"}  # else the page opens on traces
CHART_MODE = {"compareRunsMode": "CHART", "isComparingRuns": "true"}

# `authorization_function` in the settings file of `--app-name basic-auth`. MLflow's own file names this default; a file
# that replaces it must name it again.
BASIC_AUTH = "mlflow.server.auth:authenticate_request_basic_auth"

# Words of the server's answer (403) to a host name that `--allowed-hosts` does not list. The status alone may also mean
# missing credentials.
UNKNOWN_HOST = "Invalid Host header"

# Logs a traceback for every error of a database before it raises the error, and has no option to leave it out.
DATABASE_LOGGER = "mlflow.store.db.utils"

# Start of the warning that `mlflow.pytorch.save_model` logs for every pickled model. It has no category to filter.
PICKLE_WARNING = "Pickle or CloudPickle format requires"


def search_experiments_once(uri: str, timeout_s: float) -> Any:
    """Return the response of the server at `uri` to a search for one experiment; does not retry.

    Sent with the client's own credentials (MLFLOW_TRACKING_USERNAME, _TOKEN ...). The public client retries for minutes
    when a server does not answer.

    Raises:
        MlflowException: no response within `timeout_s` seconds; its text may quote the password in `uri`.
    """
    from mlflow.utils import rest_utils
    from mlflow.utils.credentials import get_default_host_creds

    return rest_utils.http_request(  # type: ignore[no-untyped-call]  # MLflow ships no types for it
        get_default_host_creds(uri),  # type: ignore[no-untyped-call]  # MLflow ships no types for it
        "/api/2.0/mlflow/experiments/search",
        "GET",
        max_retries=0,
        timeout=timeout_s,
        raise_on_status=False,
        params={"max_results": 1},
    )


def context_tags() -> dict[str, str]:
    """Return the tags that MLflow's fluent API gives a new run: user, source, git commit. `MlflowClient` adds none."""
    from mlflow.tracking.context.registry import resolve_tags

    found: dict[str, str] = resolve_tags()
    return found


def default_allowed_hosts() -> list[str]:
    """Return the host names that MLflow's server accepts by default; `--allowed-hosts` replaces them, never adds."""
    from mlflow.server.security_utils import get_default_allowed_hosts

    return list(get_default_allowed_hosts())


def artifact_repository(uri: str) -> Any:
    """Return MLflow's reader and writer of a folder or bucket. Public functions need a run; this one needs none.

    Raises:
        ImportError: the service's package is not installed.
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return get_artifact_repository(uri)


def packed_view(state: Mapping[str, Any]) -> str:
    """Return `state` as the value of a shared-view tag: "deflate;" + base64(zlib(JSON))."""
    return VIEW_ENCODING + base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
