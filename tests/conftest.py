"""Shared fixtures: a small corpus, configurations and runs on it, and ranks in threads"""

import os
import tempfile
from copy import deepcopy

# Set before Ray is imported: with authentication, Ray would write a token to the home directory.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Inherited by the processes that tests start, so that they notice a lost driver, node or server after a few seconds.
os.environ.setdefault(
    "REMIX_STUDY_PATIENCE",
    "lease_period_s=1 lease_beat_s=1 lease_silence_s=5 lease_fresh_s=15 tracking_longest_pause_s=2 cluster_size_s=1",
)
# Inherited, too, so that no process of a test writes to the home directory.
if "REMIX_STUDY_CACHE" not in os.environ:
    _cache = tempfile.TemporaryDirectory(prefix="remix-study-tests-", ignore_cleanup_errors=True)
    os.environ["REMIX_STUDY_CACHE"] = _cache.name
# Waiting threads of torch sleep instead of spinning, because more processes run than there are cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import atexit
import fcntl
import gc
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

# The process that distributes the tests over cores only needs this file, so fixtures import what they use.
if TYPE_CHECKING:
    from remix_study.config.run import RunConfig
    from remix_study.media.store import ClipStore
    from remix_study.tracking.tracker import Tracker
    from remix_study.training.run import Run
    from remix_study.world import Collectives

# In a background job (`make test &`), Ctrl-C is ignored, and under `nohup` the end of the terminal. All processes that
# tests start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# With all modules imported, the interpreter would spend seconds on freeing its memory. This handler is the last to run.
if "PYTEST_XDIST_WORKER" in os.environ:
    atexit.register(os._exit, 0)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Register the profiles of Hypothesis before it loads one: without a deadline, and one chosen by hand."""
    chosen = config.getoption("hypothesis_profile", None)
    if chosen is None and "PYTEST_XDIST_WORKER" not in os.environ and config.getoption("numprocesses", None):
        return  # this process only distributes the tests
    from hypothesis import HealthCheck, settings

    slow = [HealthCheck.too_slow, HealthCheck.data_too_large]
    settings.register_profile("thorough", max_examples=10_000, deadline=None, suppress_health_check=slow)
    if chosen is None:
        settings.register_profile("quick", deadline=None)  # the machine may be busy
        settings.load_profile("quick")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Require a marker of `make test-rest` outside of the folders to which `make test-fast` is limited."""
    heavy = {"ray", "gloo", "server", "browser", "cluster", "slow"}
    for item in items:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        if folder not in ("unit", "contracts") and not heavy & {mark.name for mark in item.iter_markers()}:
            raise pytest.UsageError(
                f"{item.nodeid} needs one of the markers {', '.join(sorted(heavy))}: no tier runs it."
            )


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose parameter is a decoder that this machine cannot load."""
    given = getattr(getattr(item, "callspec", None), "params", {}).values()
    if any(isinstance(value, str) and value == "torchcodec" for value in given):
        from tests.decoders import why_missing

        if (why := why_missing("torchcodec")) is not None:
            pytest.skip(why)


def pytest_collection_finish() -> None:
    """Speed up the tests: networks this small are fastest on one thread, and most objects are of imported modules."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    gc.set_threshold(100_000, 50, 100)


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a synthetic corpus with 4 classes and 96 training, 48 validation and 48 test clips."""
    from remix_study.datasets.corpus import prepare_synthetic
    from remix_study.datasets.synthetic import SyntheticSpec

    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent  # the folder of all workers
    folder, ready = shared / "small-corpus", shared / "small-corpus-ready"
    with (shared / "small-corpus-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ready.exists():  # the first worker prepares it, and others may be reading it already
            spec = SyntheticSpec(train=96, val=48, test=48, classes=4, video_snr_db=(0.0, 6.0))
            prepare_synthetic(folder, spec, preset="tiny")
            ready.touch()
    return folder


@pytest.fixture(scope="session")
def small_store(small_corpus: Path) -> "ClipStore":
    """Return the clip store of `small_corpus`."""
    from remix_study.datasets.corpus import open_corpus

    return open_corpus(small_corpus)


@pytest.fixture(scope="session")
def recipe(small_corpus: Path) -> "Callable[..., RunConfig]":
    """Return a function that creates the configuration of a short, untracked Remix run on `small_corpus`.

    It takes a mapping of changes with dotted keys, as for `--set`.
    """
    from remix_study.config.load import parse_run, put

    def make(changes: Mapping[str, Any] | None = None) -> "RunConfig":
        content: dict[str, Any] = {
            "corpus": str(small_corpus),
            "method": {"name": "remix", "warmup": 1},
            "epochs": 2,
            "global_batch": 32,
            "device": "cpu",
            "evaluation": {"probe": False},
            "tracking": {"uri": "off"},
        }
        for path, value in (changes or {}).items():
            put(content, path, deepcopy(value))  # or a later key would change the value of the caller
        return parse_run(content, "the test")

    return make


@pytest.fixture
def assembled(small_store: "ClipStore", tmp_path: Path) -> "Callable[..., Run]":
    """Return a function that assembles a run on `small_store`, in a folder below `tmp_path`."""
    import torch

    from remix_study.assemble import assemble
    from remix_study.launch.teachers import untrained_teachers
    from remix_study.tracking.tracker import NullTracker
    from remix_study.world import Solo

    def make(
        config: "RunConfig",
        folder: str = "run",
        tracker: "Tracker | None" = None,
        collectives: "Collectives | None" = None,
        ceilings: Mapping[str, float] | None = None,
    ) -> "Run":
        (tmp_path / folder).mkdir(exist_ok=True)
        return assemble(
            config,
            small_store,
            collectives or Solo(),
            torch.device("cpu"),
            tracker or NullTracker(),
            tmp_path / folder,
            teachers=untrained_teachers(config.model_copy(update={"seed": config.seed + 1}), small_store),
            ceilings=ceilings,
        )

    return make


@pytest.fixture
def run_on_ranks() -> "Callable[..., list[Any]]":
    """Return `run_on_ranks` of tests/ranks.py."""
    from tests import ranks

    return ranks.run_on_ranks
