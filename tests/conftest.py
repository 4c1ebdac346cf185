"""One small corpus for all tests, recipes for runs on it, and a world of threads"""

import os

# Tests are alone on this machine, and must not write to the home directory; before anything imports Ray.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# The processes that tests start have them, too: a lost driver, machine or server is noticed after a few seconds.
os.environ.setdefault(
    "REMIX_STUDY_PATIENCE",
    "lease_period_s=1 lease_beat_s=1 lease_silence_s=5 lease_fresh_s=15 tracking_longest_pause_s=2 "
    "tracker_first_pause_s=1 tracker_longest_pause_s=4 cluster_size_s=1",
)
# Torch's threads sleep while they wait: cores are shared by more processes than there are.
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

# Started behind another command (`make test &`), tests would hand on to all they start that Ctrl-C is ignored.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Networks this small are fastest on one thread, and far faster where others use the cores.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 classes; 96 training, 48 validation and 48 test clips."""
    folder = tmp_path_factory.mktemp("corpus") / "synthetic"
    spec = SyntheticSpec(train=96, val=48, test=48, classes=4, video_snr_db=(0.0, 6.0))
    prepare_synthetic(folder, spec, preset="tiny")
    return folder


@pytest.fixture(scope="session")
def small_store(small_corpus: Path) -> ClipStore:
    return open_corpus(small_corpus)


@pytest.fixture(scope="session")
def recipe(small_corpus: Path) -> Callable[..., RunConfig]:
    def make(changes: Mapping[str, Any] | None = None) -> RunConfig:
        """A short, untracked Remix run; `changes` are dotted keys, as for `--set`."""
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
class _Meeting:
    """Where threads lay down what they have and take what the others laid down."""

    barrier: threading.Barrier
    slots: list[Any]


class _ThreadCollectives:
    """Ranks that are threads of this process."""

    def __init__(self, rank: int, barrier: _Meeting) -> None:
        self._world = World(rank, len(barrier.slots))
        self._meeting = barrier

    @property
    def world(self) -> World:
        return self._world

    def sum_(self, tensor: torch.Tensor) -> None:
        tensor.copy_(torch.stack(self._exchange(tensor.clone())).sum(dim=0))

    def gather_rows(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.concatenate(self._exchange(rows))

    def barrier(self) -> None:
        self._meeting.barrier.wait(60)

    def _exchange(self, mine: Any) -> list[Any]:
        self._meeting.slots[self._world.rank] = mine
        self._meeting.barrier.wait(60)
        everything = list(self._meeting.slots)
        self._meeting.barrier.wait(60)
        return everything


@pytest.fixture
def together() -> Callable[..., list[Any]]:
    def run(size: int, work: Callable[[Collectives], Any]) -> list[Any]:
        """`work` on `size` ranks at once; what each of them returns."""
        barrier = _Meeting(threading.Barrier(size), [None] * size)

        def rank(number: int) -> Any:
            try:
                return work(_ThreadCollectives(number, barrier))
            except BaseException:
                barrier.barrier.abort()  # the others must not wait for this one
                raise

        with ThreadPoolExecutor(size) as pool:
            return list(pool.map(rank, range(size)))

    return run
