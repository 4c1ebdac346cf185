"""Private and undocumented parts of Ray that remix_study uses; every other file imports them from here

Each comment says what the part is for and what the public API lacks. tests/contracts/test_private_apis.py fails with
one sentence per part that a new Ray release moves or changes. Ray is imported inside the functions, so that importing
this module is cheap.
"""

import contextlib
import functools
import io
import logging
import os
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient
    from ray.train.torch import TorchConfig

# Environment variable in which `ray job submit` passes the runtime environment to the driver's `ray.init`. The public
# `ray.init(runtime_env=...)` would connect before the command knows whether it needs Ray. run_study.py repeats this
# name, because it runs before remix_study can be imported.
JOB_CONFIG_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"

# Copy of the cluster file that `ray up` puts on the head node. No public API reports how many nodes an autoscaler may
# add: `ray.cluster_resources` counts only nodes that exist.
BOOTSTRAP_CONFIG = "~/ray_bootstrap_config.yaml"

# Option of an actor method that bounds how many results of a streaming generator wait unread. Without it, an actor that
# is faster than the driver fills its node's object store. The public `num_returns="streaming"` has no bound.
GENERATOR_BACKPRESSURE = "_generator_backpressure_num_objects"

# Module of Ray Train in which a worker keeps its context.
TRAIN_CONTEXT = "ray.train.v2._internal.execution.context"

# Loggers of Ray Tune that print tracebacks for a full disk or a lost process. `verbose=0` does not silence them.
TUNE_LOGGERS = ("ray.tune.execution.experiment_state", "ray.tune.execution.tune_controller", "ray.tune.tune")


def local_ray_processes() -> list[int]:
    """Return the ids of the processes of the Ray that this process started.

    Empty without such a Ray, and once this process begins to shut it down. No public function tells whether a local Ray
    has ended: each call waits for it for a minute, and then aborts the process.
    """
    from ray._private import worker

    node: Any = worker._global_node  # None before `ray.init`, unlike its annotation
    if node is None or not worker.is_initialized():
        return []
    return [each.process.pid for kind in node.all_processes.values() for each in kind]


def upload_limit_bytes() -> int:
    """Return the largest working directory, in bytes, that `ray job submit` can upload.

    The dashboard answers a larger request with 413, and Ray's control store refuses a larger package. Both limits are
    documented only as error messages.
    """
    from ray._private.ray_constants import DASHBOARD_CLIENT_MAX_SIZE
    from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE

    return int(min(DASHBOARD_CLIENT_MAX_SIZE, GCS_STORAGE_MAX_SIZE))


def default_excludes() -> list[str]:
    """Return the patterns that Ray leaves out of every working directory; no public function lists them."""
    from ray._private.ray_constants import get_runtime_env_default_excludes

    return list(get_runtime_env_default_excludes())


def excluded_by(folder: Path, patterns: Sequence[str]) -> Callable[[Path], bool]:
    """Return a function that tells whether Ray's `excludes` patterns leave out a path below `folder`.

    The public API applies the patterns only while it uploads.
    """
    from ray._private.runtime_env.packaging import _get_excludes

    excluded: Callable[[Path], bool] = _get_excludes(folder, list(patterns))
    return excluded


def visit_uploaded_paths(folder: Path, patterns: Sequence[str], visit: Callable[[Path], None]) -> None:
    """Call `visit` with every path that Ray would put into the package of `folder`.

    This is the walk that builds the package, with its rules for .gitignore and .rayignore. The public API has no dry
    run.
    """
    from ray._private.ray_constants import RAY_RUNTIME_ENV_IGNORE_GITIGNORE
    from ray._private.runtime_env.packaging import _dir_travel

    _dir_travel(
        folder,
        [excluded_by(folder, patterns)],
        visit,
        include_gitignore=os.environ.get(RAY_RUNTIME_ENV_IGNORE_GITIGNORE, "0") != "1",
        logger=logging.getLogger("remix_study.quiet"),
    )


def checked_cluster_config(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a cluster file's content as `ray up` uses it: validated, with Ray's defaults filled in.

    `ray up` validates only on the way to starting machines. Ray prints its errors as well as raising them, so standard
    output and standard error are discarded.

    Raises:
        Exception: of several unrelated classes (jsonschema, click, Python), if Ray does not accept the content.
    """
    import copy

    from ray.autoscaler._private.util import prepare_config, validate_config

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        prepared: dict[str, Any] = prepare_config(copy.deepcopy(dict(content)))
        validate_config(prepared)
    return prepared


def dashboard_data(client: "JobSubmissionClient", path: str) -> Any:
    """Return the `data` of the dashboard's JSON answer to `GET path`.

    The client adds the cluster's token and raises its own authentication error. Its public methods cover jobs only, not
    the cluster's versions and nodes.
    """
    answer = client._do_request("GET", path)
    answer.raise_for_status()
    return answer.json()["data"]


@contextlib.contextmanager
def ports_on_loopback_only() -> Iterator[None]:
    """Let a local Ray that is started in this block open its ports on the loopback address only.

    Ray replaces a loopback address in `ray.init(_node_ip_address=...)` by that of a network interface, and then listens
    on all interfaces. Its switch for macOS and Windows avoids that on Linux, too, but is an environment variable that
    Ray reads once, when it is imported.
    """
    from ray._private import ray_constants

    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@functools.cache
def loopback_torch_config_class() -> "type[TorchConfig]":
    """Return a class of `TorchConfig` whose workers, on one machine, find each other through a file.

    With the public `init_method`s, the worker of rank 0 runs torch's `TCPStore`, which always listens on all interfaces
    and asks for no password.
    """
    from dataclasses import dataclass

    import ray
    from ray._private import worker
    from ray.train.torch import TorchConfig, config

    class Backend(config._TorchBackend):
        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            worker_group.execute(config._set_torch_distributed_env_vars)
            # Deleted by the last worker. A new name for each start of the workers.
            node: Any = worker._global_node
            store = f"{node.get_session_dir_path()}/torch-store-{uuid.uuid4().hex}"
            ray.get(
                [
                    worker_group.execute_single_async(
                        rank,
                        config._setup_torch_process_group,
                        backend=backend_config.backend,
                        world_rank=rank,
                        world_size=len(worker_group),
                        init_method=f"file://{store}",
                        timeout_s=backend_config.timeout_s,
                    )
                    for rank in range(len(worker_group))
                ]
            )

    @dataclass
    class LoopbackTorchConfig(TorchConfig):
        @property
        def backend_cls(self) -> type[Backend]:
            return Backend

    return LoopbackTorchConfig


def worker_health_errors() -> tuple[type[Exception], ...]:
    """Return the errors by which Ray Train reports a worker whose process or node is lost.

    The public `WorkerGroupError.worker_failures` contains them, but their classes are not exported.
    """
    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError

    return WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError


def draining_nodes() -> set[str]:
    """Return the ids of the nodes that Ray drains before they are removed; empty if Ray does not answer.

    Ray Train's notice uses the same function. The public `ray.nodes` does not report draining nodes.
    """
    from ray._private.state import state

    try:
        return set(state.get_draining_nodes())
    except Exception:  # of Ray's control store, in a process that also trains without it
        logging.getLogger(__name__).debug("Cannot ask Ray for draining nodes", exc_info=True)
        return set()


def train_worker_is_preempted() -> bool:
    """Return whether Ray Train has told this worker that a node of its run is about to be preempted.

    The public `ray.train.get_preemption_info` waits for all workers at an actor, in every call. Our ranks agree by a
    collective operation of their own. Outside a worker of Ray Train, the answer is False.
    """
    context = sys.modules.get(TRAIN_CONTEXT)  # every worker has imported it; other processes start sooner without
    if context is None:
        return False
    try:
        return context.get_train_context().preemption_context.preemption_info is not None
    except RuntimeError:
        return False


def keep_from_trials(prefix: str) -> None:
    """Stop Ray Tune from copying the driver's environment variables that start with `prefix` to its trials.

    Tune copies AWS keys into the runtime environment, which Ray logs and shows in the dashboard. There is no public
    switch.
    """
    from ray.tune.execution.class_cache import ENV_VARS_TO_PROPAGATE

    ENV_VARS_TO_PROPAGATE.difference_update({name for name in ENV_VARS_TO_PROPAGATE if name.startswith(prefix)})
