"""Private APIs of Ray, Optuna and MLflow that remix_study uses exist and behave as expected

Each failure names the version, the API and its use. Run these tests before raising an upper bound in pyproject.toml.
"""

import ast
import importlib
import inspect
import logging
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
import yaml

import run_study
from remix_study import mlflow_private, optuna_private, ray_private

ROOT = Path(__file__).parents[2]


@contextmanager
def relied_on(library: str, part: str, use: str) -> Iterator[None]:
    """Turn any failure in the block into a message with the changed API, its use, and the module to fix."""
    try:
        yield
    except Exception as error:
        pytest.fail(
            f"{library} {version(library)} moved or changed {part}, which remix_study uses to {use}; see "
            f"remix_study/{library}_private.py ({type(error).__name__}: {error})",
            pytrace=False,
        )


def test_a_changed_api_is_reported_with_its_use() -> None:
    with pytest.raises(pytest.fail.Exception, match=r"ray [\d.]+ moved or changed `x`, which remix_study uses to fly"):  # noqa: SIM117 - one statement would hide which is tested
        with relied_on("ray", "`x`", "fly"):
            raise ImportError("no x")


# Ray


def test_ray_limits_uploads() -> None:
    with relied_on("ray", "the size limits of uploads", "refuse a working directory that is too large"):
        assert 10e6 < ray_private.upload_limit_bytes() < 10e9


def test_ray_lists_the_files_of_a_working_directory_that_it_packs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", raising=False)
    for name in ("kept.py", "ignored.log", "store/clips.bin"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("content")
    (tmp_path / ".gitignore").write_text("*.log\n")
    visited: list[str] = []
    with relied_on("ray", "`_dir_travel` or `_get_excludes`", "measure what `ray job submit` would upload"):
        assert ".git" in {pattern.strip("/") for pattern in ray_private.default_excludes()}
        excluded = ray_private.excluded_by(tmp_path, ["/store"])
        assert excluded(tmp_path / "store")
        assert not excluded(tmp_path / "kept.py")
        ray_private.visit_uploaded_paths(tmp_path, ["/store"], lambda path: visited.append(path.name))
        assert {"kept.py", ".gitignore"} <= set(visited)
        assert {"ignored.log", "clips.bin"}.isdisjoint(visited)


def test_ray_checks_a_cluster_file_without_starting_it() -> None:
    content = yaml.safe_load((ROOT / "clusters" / "local-onprem.yaml").read_text())
    with relied_on("ray", "`prepare_config` or `validate_config`", "check a cluster file before an upload"):
        prepared = ray_private.checked_cluster_config(content)
        assert prepared["head_start_ray_commands"]
        assert prepared["provider"]["type"] == "local"
        with pytest.raises(Exception, match="no_such_key"):
            ray_private.checked_cluster_config({**content, "no_such_key": 1})


def test_ray_has_a_dashboard_request_that_sends_the_token() -> None:
    with relied_on("ray", "`JobSubmissionClient._do_request`", "read the cluster's versions and nodes"):
        from ray.job_submission import JobSubmissionClient

        assert list(inspect.signature(JobSubmissionClient._do_request).parameters)[:3] == ["self", "method", "endpoint"]


def test_ray_can_be_kept_on_the_loopback_address() -> None:
    with relied_on("ray", "`ENABLE_RAY_CLUSTER`", "open the ports of a local Ray on the loopback address only"):
        from ray._private import services

        with ray_private.ports_on_loopback_only():
            assert services.resolve_ip_for_localhost("127.0.0.1") == "127.0.0.1"
        assert "ray_constants.ENABLE_RAY_CLUSTER" in inspect.getsource(services.get_node_ip_address)


def test_ray_train_has_a_torch_backend_that_can_use_a_file() -> None:
    with relied_on("ray", "`_setup_torch_process_group`", "connect workers without a port on all interfaces"):
        from ray.train.torch import TorchConfig, config

        made = ray_private.loopback_torch_config_class()(backend="gloo")
        assert isinstance(made, TorchConfig)
        assert issubclass(made.backend_cls, config._TorchBackend)
        assert {"backend", "world_rank", "world_size", "init_method", "timeout_s"} <= set(
            inspect.signature(config._setup_torch_process_group).parameters
        )
        assert inspect.signature(config._set_torch_distributed_env_vars).parameters == {}


def test_ray_train_has_errors_for_lost_workers() -> None:
    with relied_on("ray", "the health-check errors of Ray Train", "tell a lost worker from a failed one"):
        assert all(issubclass(error, Exception) for error in ray_private.worker_health_errors())
        from ray.train import WorkerGroupError

        assert WorkerGroupError("words", {0: ValueError("a worker's")}).worker_failures


def test_ray_says_which_import_failed_in_the_error_file_of_a_trial() -> None:
    with relied_on("ray", "the message of an actor whose class cannot be imported", "name the import error"):
        from ray._private import function_manager
        from ray.tune.experiment.trial import Trial

        assert "failed to import on the worker" in inspect.getsource(function_manager)
        assert "self.error_file" in inspect.getsource(Trial.handle_error)


def test_ray_reports_draining_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    with relied_on("ray", "`state.get_draining_nodes`", "save a checkpoint before a node is preempted"):
        from ray._private.state import state
        from ray.train.v2._internal.execution import preemption

        assert "get_draining_nodes" in inspect.getsource(preemption)  # Ray Train relies on it, too
        monkeypatch.setattr(state, "get_draining_nodes", lambda: {"a node": 0})
        assert ray_private.draining_nodes() == {"a node"}


def test_ray_train_keeps_a_notice_in_the_context_of_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    with relied_on("ray", "`preemption_context`", "save a checkpoint before a node is preempted"):
        context = importlib.import_module(ray_private.TRAIN_CONTEXT)
        from ray.train.v2._internal.execution.preemption import PreemptionContext
        from ray.train.v2.api.preemption import PreemptionInfo

        assert "preemption_context" in context.TrainContext.__dataclass_fields__
        assert not ray_private.train_worker_is_preempted()  # this process is no worker
        notice = PreemptionContext()
        monkeypatch.setattr(context, "get_train_context", lambda: SimpleNamespace(preemption_context=notice))
        assert not ray_private.train_worker_is_preempted()
        notice.preemption_info = PreemptionInfo(None, {"a node": [0]})
        assert ray_private.train_worker_is_preempted()


def test_ray_tune_can_be_kept_from_copying_aws_keys() -> None:
    with relied_on("ray", "`ENV_VARS_TO_PROPAGATE`", "keep AWS keys out of Ray's logs"):
        from ray.tune.execution import class_cache

        assert class_cache.ENV_VARS_TO_PROPAGATE
        assert "ENV_VARS_TO_PROPAGATE" in inspect.getsource(class_cache._ActorClassCache.get)
        ray_private.keep_from_trials("AWS_")
        assert not [name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")]


def test_ray_reads_a_jobs_configuration_from_the_environment() -> None:
    with relied_on("ray", "`RAY_JOB_CONFIG_JSON_ENV_VAR`", "send the package to workers"):
        from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

        assert ray_private.JOB_CONFIG_VARIABLE == run_study.JOB_CONFIG == RAY_JOB_CONFIG_JSON_ENV_VAR


def test_ray_bounds_unread_results_of_a_generator() -> None:
    with relied_on("ray", "the option for generator backpressure", "bound the memory of decoded clips"):
        from ray._common import ray_option_utils

        assert ray_private.GENERATOR_BACKPRESSURE in ray_option_utils.actor_options | ray_option_utils.task_options


def test_ray_copies_the_cluster_file_to_the_head() -> None:
    with relied_on("ray", "the path of the cluster file on the head", "know how many nodes may join"):
        from ray.autoscaler._private import commands

        assert ray_private.BOOTSTRAP_CONFIG in inspect.getsource(commands)


def test_ray_tune_has_the_loggers_that_we_silence() -> None:
    with relied_on("ray", "a module of Ray Tune", "silence its tracebacks"):
        for name in ray_private.TUNE_LOGGERS:
            module = importlib.import_module(name)
            assert isinstance(getattr(module, "logger", None), logging.Logger), name


# Optuna


@pytest.fixture
def study() -> optuna.Study:
    return optuna.create_study(study_name="contract", storage=optuna.storages.InMemoryStorage())


def test_optuna_has_ids_and_storage_of_a_study(study: optuna.Study) -> None:
    trial = study.ask()
    with relied_on("optuna", "`_study_id`, `_trial_id` or `_storage`", "address trials in the storage"):
        storage = optuna_private.storage_of(study)
        assert storage.get_study_name_from_id(optuna_private.study_id(study)) == "contract"
        assert storage.get_trial(optuna_private.trial_id(trial)).number == trial.number
        assert optuna_private.trial_id(study.trials[0]) == optuna_private.trial_id(trial)


def test_optuna_reads_through_another_storage(study: optuna.Study) -> None:
    study.ask()
    with relied_on("optuna", "`Study._storage`", "evaluate a trial without its pruner's marks"):
        empty = optuna.create_study(study_name="contract").__dict__["_storage"]
        other = optuna_private.with_storage(study, empty)
        assert (len(other.trials), len(study.trials)) == (0, 1)


def test_optuna_resumes_a_trial_and_samples_it_again(study: optuna.Study) -> None:
    trial = study.ask()
    first = trial.suggest_float("x", 0, 1)
    with relied_on("optuna", "`Trial(study, id)` or `_cached_frozen_trial`", "resume a trial"):
        resumed = optuna_private.resumed_trial(study, optuna_private.trial_id(trial))
        assert resumed.suggest_float("x", 0, 1) == first
        again = optuna_private.resumed_trial(study, optuna_private.trial_id(trial))
        optuna_private.forget_params(again)
        assert again.params == {}
        assert again.suggest_float("x", 0, 1) != first


def test_optuna_shows_a_trial_without_system_attributes(study: optuna.Study) -> None:
    trial = study.ask()
    optuna_private.storage_of(study).set_trial_system_attr(optuna_private.trial_id(trial), "mark", 1)
    with relied_on("optuna", "`FrozenTrial._system_attrs`", "evaluate a trial without its pruner's marks"):
        (known,) = study.trials
        assert optuna_private.without_system_attrs(known, {"mark"}).system_attrs == {}
        assert known.system_attrs == {"mark": 1}


def test_optuna_caches_a_database(tmp_path: Path) -> None:
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'optuna.db'}")
    with relied_on("optuna", "`get_storage`", "cache a database below a wrapper"):
        assert optuna_private.cached_storage(storage) is not storage
        assert optuna_private.cached_storage(optuna_private.cached_storage(storage))
    with relied_on("optuna", "the table of its schema version", "know whether a database is complete"):
        import sqlalchemy as sa

        with storage.engine.connect() as connection:
            rows = connection.execute(sa.text(f"SELECT version_num FROM {optuna_private.VERSION_TABLE}")).all()
        assert len(rows) == 1


def test_optuna_has_the_tables_that_we_read(tmp_path: Path) -> None:
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'optuna.db'}")
    study = optuna.create_study(storage=storage)
    trial = study.ask()
    trial.suggest_float("x", 0, 1)
    with relied_on("optuna", "its SQLAlchemy tables", "read 10 000 trials in a few queries"):
        m = optuna_private.database_models()
        columns = {
            m.TrialModel: "trial_id number study_id state datetime_start datetime_complete",
            m.TrialParamModel: "param_id trial_id param_name param_value distribution_json",
            m.TrialValueModel: "trial_id objective value value_type",
            m.TrialUserAttributeModel: "trial_user_attribute_id trial_id key value_json",
            m.TrialIntermediateValueModel: "trial_id step intermediate_value intermediate_value_type",
        }
        for model, names in columns.items():
            assert set(names.split()) <= set(model.__table__.columns.keys()), model.__name__
        assert m.TrialValueModel.stored_repr_to_value(1.0, m.TrialValueModel.TrialValueType.FINITE) == 1.0


# MLflow


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_ray_tells_the_processes_of_a_local_cluster() -> None:
    with relied_on("ray", "`_global_node` or `Node.all_processes`", "end a command whose Ray was ended with it"):
        from ray._private import worker
        from ray._private.node import Node
        from ray._private.services import ProcessInfo

        assert worker._global_node is None
        assert "all_processes" in inspect.getsource(Node.__init__)
        assert "process" in ProcessInfo._fields
        assert ray_private.local_ray_processes() == []


def test_mlflow_has_the_limits_that_we_copied() -> None:
    with relied_on("mlflow", "a limit of mlflow.utils.validation", "send batches that the server accepts"):
        from mlflow.utils import validation

        for ours, theirs in {
            "PARAM_LENGTH": "MAX_PARAM_VAL_LENGTH",
            "TAG_LENGTH": "MAX_TAG_VAL_LENGTH",
            "DATASET_NAME_LENGTH": "MAX_DATASET_NAME_SIZE",
            "DATASET_DIGEST_LENGTH": "MAX_DATASET_DIGEST_SIZE",
            "PARAMS_PER_BATCH": "MAX_PARAMS_TAGS_PER_BATCH",
            "METRICS_PER_BATCH": "MAX_METRICS_PER_BATCH",
        }.items():
            assert getattr(mlflow_private, ours) == getattr(validation, theirs), theirs


def test_mlflow_can_query_a_server_without_retries(unused_port: int) -> None:
    with relied_on("mlflow", "`http_request` or `get_default_host_creds`", "check a server without retries"):
        from mlflow.exceptions import MlflowException

        with pytest.raises(MlflowException):
            mlflow_private.search_experiments_once(f"http://127.0.0.1:{unused_port}", 1)


def test_mlflow_resolves_user_and_source_tags() -> None:
    with relied_on("mlflow", "`resolve_tags`", "record a run's user and source"):
        assert {"mlflow.user", "mlflow.source.name"} <= mlflow_private.context_tags().keys()


def test_mlflow_lists_its_default_allowed_hosts() -> None:
    with relied_on("mlflow", "`get_default_allowed_hosts`", "add host names to the server's list"):
        assert any(host.startswith("localhost") for host in mlflow_private.default_allowed_hosts())
    with relied_on("mlflow", "`INVALID_HOST_MSG`", "tell an unknown host name from missing credentials"):
        from mlflow.server.security_utils import INVALID_HOST_MSG

        assert mlflow_private.UNKNOWN_HOST in INVALID_HOST_MSG


def test_mlflow_writes_and_deletes_an_artifact_without_a_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    with relied_on("mlflow", "`get_artifact_repository`", "check that artifacts can be written"):
        repository = mlflow_private.artifact_repository((tmp_path / "artifacts").as_uri())
        repository.log_artifact(str(tmp_path / "file"))
        assert [each.path for each in repository.list_artifacts()] == ["file"]
        repository.delete_artifacts("file")


def test_mlflow_reads_the_settings_of_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from remix_study.tracking.server import basic_auth_settings

    settings = tmp_path / "auth.ini"
    settings.write_text(basic_auth_settings("postgresql+psycopg://me:100%25@host/mlflow"))
    monkeypatch.setenv("MLFLOW_AUTH_CONFIG_PATH", str(settings))
    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_PASSWORD", "a password of the test")
    with relied_on("mlflow", "the settings of basic-auth", "start a server with passwords"):
        from mlflow.server.auth import config

        known = config.read_auth_config()
        assert known.authorization_function == config.DEFAULT_AUTHORIZATION_FUNCTION
        assert known.database_uri == "postgresql+psycopg://me:100%25@host/mlflow"
        assert (known.admin_username, known.auth_cache_ttl_seconds) == ("admin", 60)


def test_mlflows_page_contains_the_keys_of_a_shared_view() -> None:
    """A fast check that names the missing key; tests/browser tests the page itself."""
    with relied_on("mlflow", "the format of shared views", "open the runs page with columns and charts"):
        import mlflow

        assert mlflow.__file__ is not None
        scripts = (Path(mlflow.__file__).parent / "server" / "js" / "build" / "static" / "js").glob("*.js")
        code = "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in scripts)
        words = (
            mlflow_private.VIEW_TAG, mlflow_private.VIEW_ENCODING, mlflow_private.VIEW_QUERY,
            *mlflow_private.WORKFLOW, *mlflow_private.WORKFLOW.values(), *mlflow_private.CHART_MODE,
            "compareRunCharts", "compareRunSections", "selectedColumns", "runsExpanded", "runsHiddenMode",
            "FIRST_20_RUNS", "isAccordionReordered", "orderByKey",
        )  # fmt: skip
        assert [word for word in words if word not in code] == []


def test_mlflows_warning_about_pickles_has_the_text_we_filter() -> None:
    with relied_on("mlflow", "the warning about pickled models", "log it once instead of for each model"):
        module = importlib.import_module("mlflow.pytorch")
        source = re.sub(r'"\s+"', "", inspect.getsource(module))
        assert mlflow_private.PICKLE_WARNING in source


def test_the_logger_of_mlflows_tracebacks_has_the_name_that_we_silence() -> None:
    with relied_on("mlflow", "the logger of database errors", "our message is enough"):
        module = importlib.import_module(mlflow_private.DATABASE_LOGGER)
        assert "_logger.exception(" in inspect.getsource(module)


# Access through one module per library

_PRIVATE = re.compile(
    r"ray\._private|ray\.train\.v2|ray\.autoscaler\._private|ray\.tune\.execution|ray\._common|"
    r"optuna\.(\w+\.)*_\w+|mlflow\.(utils|store|server|tracking\.context)\b"
)
_ATTRIBUTES = {"_trial_id", "_study_id", "_cached_frozen_trial", "_do_request"}


def _private_uses(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (each.name for each in names if _PRIVATE.match(each.name))
            case ast.ImportFrom(module=str(module), names=names):
                yield from (f"{module}.{each.name}" for each in names if _PRIVATE.match(f"{module}.{each.name}"))
            case ast.Attribute(attr=name) if name in _ATTRIBUTES:
                yield name


def test_private_parts_are_used_through_one_module_per_library() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {use}"
        for folder in ("remix_study", "benchmarks")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if not path.name.endswith("_private.py")
        for use in _private_uses(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert found == [], "use ray_private.py, optuna_private.py or mlflow_private.py"


def test_private_modules_import_no_library() -> None:
    code = "import sys, remix_study.ray_private, remix_study.optuna_private, remix_study.mlflow_private\n"
    code += "print([name for name in ('ray', 'optuna', 'mlflow') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    assert done.stdout.strip() == "[]"
