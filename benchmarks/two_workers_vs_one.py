"""(e) Two gloo workers vs one, on the same Remix epoch with the same global batch

On one machine, two workers share the cores that one worker could use alone. They are therefore compared with one worker
that has as many threads as both, and with one that has half as many. Workers are processes that train an epoch for each
line on their standard input.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
import torch.distributed as dist

from benchmarks.epochs import Scale, noise_store, remix, trainer
from benchmarks.measure import Result, in_turns, median
from remix_study.world import Collectives, Solo, TorchCollectives


def measure(quick: bool) -> Iterator[Result]:
    scale = Scale.of(quick)
    half = max(1, torch.get_num_threads() // 2)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        noise_store(folder, scale.samples, scale.preset)
        crews = [
            stack.enter_context(_crew(folder, size, threads, quick))
            for size, threads in ((2, half), (1, 2 * half), (1, half))
        ]
        rounds = in_turns([crew.epoch for crew in crews], scale.rounds)
    two = f"2 workers of {half} thread{'s' if half > 1 else ''}"
    yield Result(f"(e) {two} / 1 of {2 * half}", median([pair / wide for pair, wide, _ in rounds]))
    yield Result(f"(e) {two} / 1 of {half}", median([pair / narrow for pair, _, narrow in rounds]))


class _Crew:
    """The worker processes of one process group."""

    def __init__(self, workers: list[subprocess.Popen[str]]) -> None:
        self._workers = workers

    def epoch(self) -> float:
        """Train one epoch, and return the seconds that the first worker measured."""
        for worker in self._workers:
            assert worker.stdin is not None
            worker.stdin.write("epoch\n")
            worker.stdin.flush()
        first, *_ = [self._answer(worker) for worker in self._workers]
        return first

    def _answer(self, worker: subprocess.Popen[str]) -> float:
        assert worker.stdout is not None
        line = worker.stdout.readline()
        if not line:
            raise RuntimeError(f"A benchmark worker exited with status {worker.wait()}; see its output above.")
        return float(json.loads(line))


@contextmanager
def _crew(folder: Path, size: int, threads: int, quick: bool) -> Iterator[_Crew]:
    root = Path(__file__).parent.parent
    workers: list[subprocess.Popen[str]] = []
    try:
        for rank in range(size):
            arguments = [str(folder), str(rank), str(size), str(threads), str(int(quick))]
            command = [sys.executable, "-m", "benchmarks.two_workers_vs_one", *arguments]
            workers.append(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root)
            )
        yield _Crew(workers)
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


def _work(folder: Path, rank: int, size: int, threads: int, quick: bool) -> None:
    """Train an epoch for every line on standard input, and print its seconds."""
    torch.set_num_threads(threads)
    collectives: Collectives = Solo()
    if size > 1:
        rendezvous = (folder / f"rendezvous-{size}").as_uri()
        dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=size)
        collectives = TorchCollectives(torch.device("cpu"))
    scale = Scale.of(quick)
    store = noise_store(folder, scale.samples, scale.preset)
    one = trainer(store, remix(store, scale.batch), scale.batch, collectives=collectives)
    for _ in sys.stdin:
        print(json.dumps(sum(one.epoch())), flush=True)


if __name__ == "__main__":
    rank, size, threads, quick = map(int, sys.argv[2:])
    _work(Path(sys.argv[1]), rank, size, threads, bool(quick))
