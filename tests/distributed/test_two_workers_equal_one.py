"""Two gloo processes train like one process with the same global batch (without BatchNorm, which is per rank)"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from remix_study.assemble import assemble
from remix_study.config.load import parse_run
from remix_study.datasets.corpus import open_corpus
from remix_study.tracking.tracker import NullTracker
from remix_study.training import loop, steps
from remix_study.training.checkpoint import LAST
from remix_study.training.step import train_step
from remix_study.world import Collectives, Solo, TorchCollectives
from tests.commands import start

ROOT = Path(__file__).parents[2]

CPU = torch.device("cpu")
# 96 samples in global batches of 28: the last batch of every group is incomplete, and may be uneven across ranks.
RECIPE = {
    "method": {"name": "remix", "warmup": 1, "share": {"kind": "progress"}},
    "optimizer": {"name": "sgd", "learning_rate": 0.05, "momentum": 0.9},
    "epochs": 4,
    "global_batch": 28,
    "smallest_batch": 3,
    "workers": 2,  # also for the single process, so that its global batch is the same
    "device": "cpu",
    "clip_norm": 5.0,
    "tracking": {"uri": "off"},
}


ORDERS: dict[str, dict[str, Any]] = {
    "blocks": {"order": "blocks"},
    "mixed": {"order": "mixed"},
    "accumulated": {"order": "mixed", "accumulate": True},
}


def train(corpus: str, folder: Path, order: str, collectives: Collectives) -> list[float]:
    """Train a run in `folder`, and return the loss of every step, summed over ranks."""
    folder.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {"corpus": corpus, **RECIPE}
    content["method"] = content["method"] | ORDERS[order]
    run = assemble(parse_run(content, "test"), open_corpus(Path(corpus)), collectives, CPU, NullTracker(), folder)
    for encoder in run.model.encoders.values():
        layers = encoder.layers
        assert isinstance(layers, nn.Sequential)
        for number, layer in enumerate(layers):
            if isinstance(layer, nn.BatchNorm2d):
                layers[number] = nn.Identity()
        for parameter in encoder.parameters():
            nn.init.kaiming_normal_(parameter, generator=torch.Generator().manual_seed(1))
    run.optimizer.param_groups[0]["params"] = list(run.model.parameters())
    losses: list[torch.Tensor] = []

    def recorded(*args: Any, **kwargs: Any) -> torch.Tensor:
        loss = train_step(*args, **kwargs)
        losses.append(loss.double())
        return loss

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "train_step", recorded)
        loop.train(run)
    summed = torch.stack(losses)
    collectives.sum_(summed)
    found: list[float] = summed.tolist()
    return found


def work(corpus: str, folder: str, rank: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    try:
        for order in ORDERS:
            losses = train(corpus, Path(folder) / order, order, TorchCollectives(CPU))
            (Path(folder) / f"{order}-{rank}.json").write_text(json.dumps(losses))
        dist.barrier()  # keep connections open until both ranks are done
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def pair(small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    errors = [(folder / f"stderr-{rank}").open("w+") for rank in range(2)]
    # Not forked from this process: it has threads after other tests, and a fork may hang.
    workers = [
        start(
            "-m",
            "tests.distributed.test_two_workers_equal_one",
            str(small_corpus),
            str(folder),
            str(rank),
            cwd=ROOT,
            stderr=errors[rank],
        )
        for rank in range(2)
    ]
    try:
        statuses = [worker.wait(300) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
        for file in errors:
            file.close()
    assert statuses == [0, 0], "\n".join(Path(file.name).read_text() for file in errors)
    return folder


@pytest.mark.smoke
@pytest.mark.gloo
@pytest.mark.parametrize("order", ORDERS)
def test_two_workers_equal_one(pair: Path, small_corpus: Path, tmp_path: Path, order: str) -> None:
    alone = train(str(small_corpus), tmp_path / "alone", order, Solo())
    together = [json.loads((pair / f"{order}-{rank}.json").read_text()) for rank in range(2)]
    assert together[0] == together[1]
    assert len(alone) >= 4 * 4
    assert together[0] == pytest.approx(alone, rel=1e-5)
    assert alone[-1] != alone[0]
    weights = [
        torch.load(folder / "checkpoints" / LAST, weights_only=True)["model"]
        for folder in (tmp_path / "alone", pair / order)
    ]
    assert weights[0].keys() == weights[1].keys()
    for key, value in weights[0].items():
        torch.testing.assert_close(weights[1][key], value, rtol=0, atol=1e-6)
    plans = [
        torch.load(folder / "checkpoints" / LAST, weights_only=True)["plan"]
        for folder in (tmp_path / "alone", pair / order)
    ]
    assert torch.equal(plans[0]["assigned_NM"], plans[1]["assigned_NM"])


if __name__ == "__main__":
    work(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    # A normal exit sometimes aborts because of torch's threads.
    os._exit(0)
