"""Two gloo processes: sums, gathers of different numbers of rows, and identical schedules"""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from remix_study.epoch import ScoreFunction, ScoringPass
from remix_study.remix import ProgressShare, Reassembly, RemixPlan, RemixSettings, Tempered, World, rank_batches
from remix_study.world import TorchCollectives
from tests.commands import start

ROOT = Path(__file__).parents[2]

SIZE, SAMPLES, CLASSES = 2, 31, 3


def work(rank: int, folder: str) -> None:
    """Run the collectives and plans of one rank, and save the results to a file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=SIZE)
    try:
        collectives = TorchCollectives(torch.device("cpu"))
        results = collect(collectives) | plan(collectives)
        collectives.barrier()
        np.savez(Path(folder) / f"rank{rank}.npz", allow_pickle=False, **results)
    finally:
        dist.destroy_process_group()


def collect(collectives: TorchCollectives) -> dict[str, NDArray[np.float64]]:
    rank = collectives.world.rank
    tensor = torch.tensor([1.0, 10.0]) * (rank + 1)
    collectives.sum_(tensor)
    # "uneven": three rows on rank 0, one on rank 1. "one_sided": rows on rank 1 only. "nothing": no rows.
    uneven = np.full((3 - 2 * rank, 2), float(rank)) + np.arange(2)
    return {
        "world": np.asarray([collectives.world.rank, collectives.world.size], dtype=np.float64),
        "sum": tensor.numpy().astype(np.float64),
        "uneven": collectives.gather_rows(uneven.astype(np.float64)),
        "one_sided": collectives.gather_rows(np.full((2 * rank, 2), 7.0)),
        "nothing": collectives.gather_rows(np.empty((0, 2))),
        "bytes": np.frombuffer(b"|".join(collectives.gather_bytes(b"\0\xff" * 2 * rank)), np.uint8).astype(np.float64),
    }


def plan(collectives: TorchCollectives) -> dict[str, NDArray[np.float64]]:
    """Plan three epochs. Each rank scores its own samples; assignments and shares depend on all scores."""
    world = collectives.world
    probs_NMC = np.random.default_rng(0).dirichlet(np.full(CLASSES, 0.5), size=(SAMPLES, 2))
    labels_N = np.arange(SAMPLES) % CLASSES
    mine = np.arange(world.rank, SAMPLES, world.size)

    def run_scoring_pass(score: ScoreFunction) -> ScoringPass:
        scores = score(probs_NMC[mine], labels_N[mine])
        rows = collectives.gather_rows(np.concatenate([mine[:, None].astype(np.float64), scores], axis=1))
        scores_NM = rows[np.argsort(rows[:, 0]), 1:]
        return ScoringPass(scores_NM, -scores_NM)

    how = Reassembly("shuffled", (1, 0), batch=8, smallest=2)
    settings = RemixSettings(
        warmup=1, score="kl", filter=Tempered(1.0), how=how, share=ProgressShare(), joint_share=0.1
    )
    remix = RemixPlan(settings, ("audio", "video"), labels_N, CLASSES, seed=3)
    results: dict[str, NDArray[np.float64]] = {}
    for epoch in range(3):
        schedule = remix.plan(epoch, run_scoring_pass).schedule
        batches = list(rank_batches(schedule, World(world.rank, world.size)))
        counts = torch.tensor([float(len(batch.samples_b)) for batch in batches])
        collectives.sum_(counts)  # hangs or fails if ranks disagree on the number of steps
        results[f"samples{epoch}"] = schedule.samples_TB.astype(np.float64)
        results[f"active{epoch}"] = schedule.active_TBM.astype(np.float64)
        results[f"counts{epoch}"] = counts.numpy().astype(np.float64) - schedule.counts_T
    return results


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, NDArray[np.float64]]]:
    folder = tmp_path_factory.mktemp("gloo")
    errors = [(folder / f"stderr-{rank}").open("w+") for rank in range(2)]
    # Not forked from this process: it has threads after other tests, and a fork may hang.
    workers = [
        start("-m", "tests.distributed.test_gloo_world", str(folder), str(rank), cwd=ROOT, stderr=errors[rank])
        for rank in range(2)
    ]
    try:
        statuses = [worker.wait(120) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
        for file in errors:
            file.close()
    assert statuses == [0, 0], "\n".join(Path(file.name).read_text() for file in errors)
    return [dict(np.load(folder / f"rank{rank}.npz")) for rank in range(SIZE)]


@pytest.mark.gloo
def test_sums_and_gathers_are_the_same_on_every_rank(ranks: list[dict[str, NDArray[np.float64]]]) -> None:
    for rank, results in enumerate(ranks):
        assert results["world"].tolist() == [rank, SIZE]
        assert results["sum"].tolist() == [3.0, 30.0]
        assert results["uneven"].tolist() == [[0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [1.0, 2.0]]
        assert results["one_sided"].tolist() == [[7.0, 7.0], [7.0, 7.0]]
        assert results["nothing"].shape == (0, 2)
        assert bytes(results["bytes"].astype(np.uint8)) == b"|\0\xff\0\xff"  # nothing from rank 0


@pytest.mark.gloo
def test_the_schedule_is_identical_on_both_ranks(ranks: list[dict[str, NDArray[np.float64]]]) -> None:
    one, other = ranks
    for epoch in range(3):
        assert one[f"samples{epoch}"].size > 0
        np.testing.assert_array_equal(one[f"samples{epoch}"], other[f"samples{epoch}"])
        np.testing.assert_array_equal(one[f"active{epoch}"], other[f"active{epoch}"])
        assert not one[f"counts{epoch}"].any()


if __name__ == "__main__":
    work(int(sys.argv[2]), sys.argv[1])
    os._exit(0)  # a normal exit sometimes aborts because of torch's threads
