"""Released Remix against golden numbers and an independent reference implementation"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from remix_study.epoch import ScoreFunction, ScoringPass
from remix_study.remix import Argmin, Reassembly, RemixPlan, RemixSettings
from remix_study.seeds import stream
from tests.examples import examples

MODALITIES = ("audio", "video")
VIDEO_FIRST = (1, 0)


def released_plan(samples: int, batch: int, seed: int, classes: int) -> RemixPlan:
    how = Reassembly("blocks", VIDEO_FIRST, batch, incomplete="keep", smallest=1)
    settings_ = RemixSettings(warmup=0, score="kl", filter=Argmin(), how=how)
    return RemixPlan(settings_, MODALITIES, np.zeros(samples, np.int64), classes, seed)


def fake_scoring(probs_NMC: NDArray[np.float64]) -> Any:
    def run_scoring_pass(score: ScoreFunction) -> ScoringPass:
        scores_NM = score(probs_NMC, np.zeros(len(probs_NMC), np.int64))
        return ScoringPass(scores_NM, np.zeros_like(scores_NM))

    return run_scoring_pass


def batches_of(plan: RemixPlan, epoch: int, probs_NMC: NDArray[np.float64]) -> list[tuple[int, list[int]]]:
    schedule = plan.plan(epoch, fake_scoring(probs_NMC)).schedule
    modality_T = schedule.modalities_TM.argmax(axis=1)
    assert (schedule.modalities_TM.sum(axis=1) == 1).all()
    return [
        (int(modality), row[:count].tolist())
        for modality, row, count in zip(modality_T, schedule.samples_TB, schedule.counts_T, strict=True)
    ]


def test_golden_scores_choices_and_schedule(golden_file: Path) -> None:
    golden = json.loads(golden_file.read_text())
    probs_NMC = np.asarray(golden["probs"])
    plan = released_plan(len(probs_NMC), golden["batch"], golden["seed"], probs_NMC.shape[2])
    batches = batches_of(plan, golden["epoch"], probs_NMC)
    assert plan.last_scoring_pass is not None
    assert plan.assignment is not None
    np.testing.assert_allclose(plan.last_scoring_pass.scores_NM, golden["scores"], rtol=1e-12, atol=1e-12)
    assert plan.assignment.assigned_NM.argmax(axis=1).tolist() == golden["choices"]
    assert batches == [(step["modality"], step["samples"]) for step in golden["batches"]]


def test_the_golden_file_matches_its_script(golden_file: Path, oracle: Any) -> None:
    golden, computed = json.loads(golden_file.read_text()), oracle.golden()
    # The last bit of a logarithm may differ between C libraries.
    np.testing.assert_allclose(golden.pop("scores"), computed.pop("scores"), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(golden.pop("probs"), computed.pop("probs"), rtol=1e-12)
    assert golden == computed


def test_the_golden_file_contains_ties(golden_file: Path) -> None:
    golden = json.loads(golden_file.read_text())
    tied = [i for i, (audio, video) in enumerate(golden["scores"]) if audio == video]
    assert len(tied) >= 2
    assert {golden["choices"][i] for i in tied} == {MODALITIES.index("video")}


@examples(50)
@given(
    seed=st.integers(0, 2**32 - 1),
    samples=st.integers(1, 25),
    classes=st.integers(2, 5),
    batch=st.integers(1, 8),
    tied=st.floats(0, 1),
    epoch=st.integers(0, 100),
)
def test_an_epoch_agrees_with_the_oracle(
    oracle: Any, seed: int, samples: int, classes: int, batch: int, tied: float, epoch: int
) -> None:
    rng = np.random.default_rng(seed)
    probs_NMC = rng.dirichlet(np.full(classes, 0.3), size=(samples, 2))
    tie_N = rng.random(samples) < tied
    probs_NMC[tie_N, 1] = probs_NMC[tie_N, 0]
    keys = stream(seed, "reassemble", epoch).random(samples).tolist()  # one per sample: not as released, which re-deals
    scores, choices, batches = oracle.released_epoch(
        probs_NMC.tolist(), batch, lambda subset: sorted(subset, key=keys.__getitem__)
    )
    plan = released_plan(samples, batch, seed, classes)
    ours = batches_of(plan, epoch, probs_NMC)
    assert plan.last_scoring_pass is not None
    assert plan.assignment is not None
    np.testing.assert_allclose(plan.last_scoring_pass.scores_NM, scores, rtol=0, atol=1e-11)
    assert plan.assignment.assigned_NM.argmax(axis=1).tolist() == choices
    assert ours == batches


def test_the_released_rule_resolves_ties_in_favour_of_video(oracle: Any) -> None:
    assert oracle.released_choice(1.0, 1.0) == MODALITIES.index("video")
    assert oracle.released_choice(0.9, 1.0) == MODALITIES.index("audio")
    assert oracle.separability([0.5, 0.5]) == pytest.approx(0.0)
