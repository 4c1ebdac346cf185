"""Shared fixtures: a small corpus, configurations and runs on it, and ranks in threads"""

import os

# Set before Ray is imported: with authentication, Ray would write a token to the home directory.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Inherited by the processes that tests start, so that they notice a lost driver, node or server after a few seconds.
os.environ.setdefault(
    "REMIX_STUDY_PATIENCE",
    "lease_period_s=1 lease_beat_s=1 lease_silence_s=5 lease_fresh_s=15 tracking_longest_pause_s=2 cluster_size_s=1",
)
# Waiting threads of torch sleep instead of spinning, because more processes run than there are cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import signal
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from remix_study.assemble import assemble
from remix_study.config.load import parse_run, put
from remix_study.config.run import RunConfig
from remix_study.datasets.corpus import open_corpus, prepare_synthetic
from remix_study.datasets.synthetic import SyntheticSpec
from remix_study.media.store import ClipStore
from remix_study.tracking.tracker import NullTracker, Tracker
from remix_study.training.loop import Run
from remix_study.world import Collectives, Solo, World

# In a background job (`make test &`), Ctrl-C is ignored, and all processes that tests start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Networks this small are fastest on one thread.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a synthetic corpus with 4 classes and 96 training, 48 validation and 48 test clips."""
    folder = tmp_path_factory.mktemp("corpus") / "synthetic"
    spec = SyntheticSpec(train=96, val=48, test=48, classes=4, video_snr_db=(0.0, 6.0))
    prepare_synthetic(folder, spec, preset="tiny")
    return folder


@pytest.fixture(scope="session")
def small_store(small_corpus: Path) -> ClipStore:
    """Return the clip store of `small_corpus`."""
    return open_corpus(small_corpus)


@pytest.fixture(scope="session")
def recipe(small_corpus: Path) -> Callable[..., RunConfig]:
    """Return a function that creates the configuration of a short, untracked Remix run on `small_corpus`.

    It takes a mapping of changes with dotted keys, as for `--set`.
    """

    def make(changes: Mapping[str, Any] | None = None) -> RunConfig:
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
            put(content, path, value)
        return parse_run(content, "the test")

    return make


@pytest.fixture
def assembled(small_store: ClipStore, tmp_path: Path) -> Callable[..., Run]:
    """Return a function that assembles a run on `small_store`, in a folder below `tmp_path`."""

    def make(
        config: RunConfig,
        folder: str = "run",
        tracker: Tracker | None = None,
        collectives: Collectives | None = None,
        ceilings: Mapping[str, float] | None = None,
    ) -> Run:
        (tmp_path / folder).mkdir(exist_ok=True)
        return assemble(
            config,
            small_store,
            collectives or Solo(),
            torch.device("cpu"),
            tracker or NullTracker(),
            tmp_path / folder,
            ceilings=ceilings,
        )

    return make


@dataclass
class _Shared:
    """Shared memory of the ranks, with one slot per rank."""

    barrier: threading.Barrier
    slots: list[Any]


class _ThreadCollectives:
    """Collectives for ranks that are threads of this process."""

    def __init__(self, rank: int, shared: _Shared) -> None:
        self._world = World(rank, len(shared.slots))
        self._shared = shared

    @property
    def world(self) -> World:
        return self._world

    def sum_(self, tensor: torch.Tensor) -> None:
        tensor.copy_(torch.stack(self._exchange(tensor.clone())).sum(dim=0))

    def gather_rows(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.concatenate(self._exchange(rows))

    def barrier(self) -> None:
        self._shared.barrier.wait(60)

    def _exchange(self, mine: Any) -> list[Any]:
        self._shared.slots[self._world.rank] = mine
        self._shared.barrier.wait(60)
        values = list(self._shared.slots)
        self._shared.barrier.wait(60)
        return values


@pytest.fixture
def run_on_ranks() -> Callable[..., list[Any]]:
    """Return a function that runs `work` on `size` ranks at once, and returns the result of each rank."""

    def run(size: int, work: Callable[[Collectives], Any]) -> list[Any]:
        shared = _Shared(threading.Barrier(size), [None] * size)

        def rank(number: int) -> Any:
            try:
                return work(_ThreadCollectives(number, shared))
            except BaseException:
                shared.barrier.abort()  # the other ranks must not wait for this one
                raise

        with ThreadPoolExecutor(size) as pool:
            return list(pool.map(rank, range(size)))

    return run
