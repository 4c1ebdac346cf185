from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from remix_study.config.run import RunConfig
from remix_study.remix import score
from remix_study.remix.separability import ScoreName
from remix_study.training.run import Run
from remix_study.training.scoring import scoring_pass
from remix_study.world import Solo


@pytest.fixture
def run(recipe: Callable[..., RunConfig], assembled: Callable[..., Run]) -> Run:
    run = assembled(recipe())
    torch.manual_seed(3)
    for head in run.model.heads.values():  # far from uniform, so that errors are visible
        torch.nn.init.normal_(head.weight, std=2.0)  # type: ignore[arg-type]
    return run


def one_by_one(run: Run, name: str) -> tuple[list[list[float]], list[list[float]]]:
    """Return scores and cross-entropies from a plain loop over samples, modalities and classes."""
    scores, entropies = [], []
    run.model.eval()
    for row in run.rows["train"]:
        batch = run.reader.read(np.array([row]), np.ones((1, 2), np.bool_))
        label = int(run.reader.store.labels_N[row])
        of_sample, ce_of_sample = [], []
        for m in ("audio", "video"):
            with torch.no_grad():
                logits = run.model.heads[m](run.model.encode(m, batch.inputs[m]))[0].double()
            p = torch.exp(logits) / torch.exp(logits).sum()
            kl = sum(float(q) * float(torch.log2(q * 4)) for q in p if q > 0)
            ce = -float(torch.log(p[label]))
            of_sample.append(
                {"kl": kl, "kl_normalised": kl / 2, "cross_entropy": -ce, "true_class": float(p[label])}[name]
            )
            ce_of_sample.append(ce)
        scores.append(of_sample)
        entropies.append(ce_of_sample)
    return scores, entropies


@pytest.mark.parametrize("name", ["kl", "kl_normalised", "cross_entropy", "true_class"])
def test_scores_equal_a_loop_over_samples(run: Run, name: ScoreName) -> None:
    result = scoring_pass(
        run.model, run.reader, run.rows["train"], Solo(), partial(score, name), batch=40, autocast=False
    )
    assert run.model.training  # the mode is restored
    scores, entropies = one_by_one(run, name)
    assert result.scores_NM.std() > 0.01
    np.testing.assert_allclose(result.scores_NM, scores, atol=2e-4)
    np.testing.assert_allclose(result.cross_entropy_NM, entropies, atol=2e-4)


def test_a_scoring_pass_changes_no_state(run: Run) -> None:
    before = {key: value.clone() for key, value in run.model.state_dict().items()}
    scoring_pass(run.model, run.reader, run.rows["train"], Solo(), partial(score, "kl"), batch=40, autocast=False)
    assert all(torch.equal(before[key], value) for key, value in run.model.state_dict().items())


@pytest.mark.parametrize("size", [2, 3])
def test_every_rank_receives_the_whole_table(
    run: Run,
    recipe: Callable[..., RunConfig],
    assembled: Callable[..., Run],
    run_on_ranks: Callable[..., list[Any]],
    size: int,
) -> None:
    runs = [assembled(recipe()) for _ in range(size)]
    for other in runs:
        other.model.load_state_dict(run.model.state_dict())
    rows = run.rows["train"][:50]  # not a multiple of 3

    def work(collectives: Any) -> Any:
        mine = runs[collectives.world.rank]
        return scoring_pass(mine.model, mine.reader, rows, collectives, partial(score, "kl"), batch=7, autocast=False)

    alone = scoring_pass(run.model, run.reader, rows, Solo(), partial(score, "kl"), batch=7, autocast=False)
    for result in run_on_ranks(size, work):
        np.testing.assert_allclose(result.scores_NM, alone.scores_NM, atol=1e-5)
        np.testing.assert_allclose(result.cross_entropy_NM, alone.cross_entropy_NM, atol=1e-5)
    assert sum(other.reader.rows_read["audio"] for other in runs) == 50  # each row is read once
