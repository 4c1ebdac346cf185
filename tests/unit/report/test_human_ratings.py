"""Agreement of Remix's decisions with human ratings, on made-up decisions with a known result"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from remix_study.report import human_ratings
from remix_study.report.sections import make_report
from remix_study.report.styles import styles
from remix_study.study.ledger import ReplicateRecord
from tests.unit.report.conftest import RATE, MakeLedger, MakeStudy, MakeTrial

N = 400


def decided(seed: int, *, follows: float) -> dict[str, Any]:
    """Return decisions: each clip trains, with probability `follows`, the modality that people do not recognise."""
    draw = np.random.default_rng(seed)
    by_sound = np.arange(N) % 2 == 0
    hard_to_hear = ~by_sound
    obeys = draw.random(N) < follows
    trains_audio = np.where(obeys, hard_to_hear, draw.random(N) < 0.5)
    return {
        "id": [f"clip-{i}" for i in range(N)],
        "label": ["x"] * N,
        "score_audio": by_sound + 0.1 * draw.standard_normal(N),
        "score_video": hard_to_hear + 0.1 * draw.standard_normal(N),
        "trains_audio": trains_audio,
        "trains_video": ~trains_audio,
        "trains_all": np.zeros(N, np.bool_),
        "human_audio": by_sound.astype(np.float64),
        "human_video": hard_to_hear.astype(np.float64),
    }


def agreement(*seeds: dict[str, Any]) -> human_ratings.Agreement:
    found = human_ratings.agreement_of("remix", seeds)
    assert found is not None
    return found


def test_assignments_that_follow_human_ratings_are_significant() -> None:
    found = agreement(*(decided(seed, follows=0.8) for seed in range(3)))
    assert found.lead is not None
    assert found.lead.mean == pytest.approx(0.8, abs=0.05)
    assert found.lead.low < found.lead.mean < found.lead.high
    assert found.lead.low > 0.7
    assert "it trains the modality that people find hard" in human_ratings.sentence(found)
    assert min(found.correlations["audio"]) > 0.8


def test_random_assignments_are_not_significant() -> None:
    found = agreement(*(decided(seed, follows=0.0) for seed in range(3)))
    assert found.lead is not None
    assert found.lead.low < 0 < found.lead.high
    assert "no significant relation to what people find hard" in human_ratings.sentence(found)
    assert "No significant relation between remix and human ratings" in human_ratings.title([found])


@pytest.mark.slow
def test_the_interval_has_its_nominal_coverage() -> None:
    inside = 0
    for repeat in range(60):
        found = agreement(*(decided(100 * repeat + seed, follows=0.3) for seed in range(3)))
        assert found.lead is not None
        inside += found.lead.low <= 0.3 <= found.lead.high
    assert inside >= 50  # of 60; 57 are expected, but a bootstrap over three seeds is slightly too narrow


def test_a_tied_vote_does_not_count_as_recognition() -> None:
    columns = decided(0, follows=1.0)
    columns["human_audio"][:4] = 0.5
    groups = {g.name: g for g in agreement(columns).groups}
    assert groups["audio only"].clips == N // 2 - 2
    assert groups["neither"].clips == 2
    assert "each" not in groups
    assert groups["video only"].share is not None
    assert groups["video only"].share.mean == 1.0
    assert groups["audio only"].scores["audio"].mean == pytest.approx(1.0, abs=0.05)


def test_samples_that_train_both_or_no_modality_are_ignored() -> None:
    columns = decided(0, follows=1.0)
    columns["trains_all"] = np.arange(N) < 100
    columns["trains_audio"] = columns["trains_audio"] & ~columns["trains_all"]
    columns["trains_video"] = columns["trains_video"] & ~columns["trains_all"]
    shares = {g.name: g.share for g in agreement(columns).groups}
    assert shares["video only"] is not None
    assert shares["video only"].mean == 1.0


def test_clips_without_ratings_are_ignored() -> None:
    columns = decided(0, follows=1.0)
    columns["human_video"][:10] = np.nan
    assert sum(g.clips for g in agreement(columns).groups) == N - 10


def test_all_replicates_count_if_each_has_its_own_control_split() -> None:
    seeds = []
    for seed in range(3):
        whole = decided(seed, follows=0.8)
        order = np.random.default_rng(seed).permutation(N)[:360]
        seeds.append({name: np.asarray(values)[order] for name, values in whole.items()})
    found = agreement(*seeds)
    assert found.seeds == 3
    assert len(found.correlations["audio"]) == 3
    common = set.intersection(*(set(each["id"]) for each in seeds))
    rows = [[np.flatnonzero(each["id"] == clip)[0] for clip in sorted(common)] for each in seeds]
    same = agreement(*({k: v[row] for k, v in each.items()} for row, each in zip(rows, seeds, strict=True)))
    assert found.lead is not None
    assert same.lead is not None
    assert found.lead.mean == pytest.approx(same.lead.mean)
    elsewhere = {**seeds[0], "id": np.asarray([f"other {n}" for n in range(360)])}
    assert human_ratings.agreement_of("remix", [seeds[0], elsewhere]) is None


def test_without_ratings_there_is_no_agreement() -> None:
    columns = decided(0, follows=1.0)
    del columns["human_video"]
    assert human_ratings.agreement_of("remix", [columns]) is None
    assert human_ratings.agreement_of("remix", []) is None


def test_a_filter_without_scores_still_has_shares() -> None:
    columns = decided(0, follows=0.0)
    del columns["score_audio"], columns["score_video"]
    found = agreement(columns)
    assert found.correlations == {}
    assert all(g.scores == {} for g in found.groups)
    assert "No correlation" in human_ratings.correlations_note([found])


def test_the_report_has_the_section_if_decisions_were_recorded(
    make_ledger: MakeLedger, make_trial: MakeTrial, make_study: MakeStudy, tmp_path: Path
) -> None:
    records = []
    for number in range(2):
        folder = tmp_path / f"replicate-{number}"
        folder.mkdir()
        pyarrow.parquet.write_table(pa.table(decided(number, follows=0.8)), folder / "decisions.parquet")
        records.append(replicate(number, folder))
    ledger = make_ledger(make_trial("remix", 0, 0.9), replicates=tuple(records))
    report = make_report(ledger, None, at_work=False)
    section = next(section for section in report.sections if section.key == "people")
    assert "trains the modality that people find hard" in section.title
    assert "people.csv" in report.tables
    chart = human_ratings.chart(human_ratings.agreements(ledger), styles(make_study()))
    assert chart is not None
    assert [panel.x.title for panel in chart.panels] == [
        "clips that train audio alone (%)",
        "score of audio",
        "score of video",
    ]


def replicate(number: int, folder: Path) -> ReplicateRecord:
    return ReplicateRecord("remix", "replicate", number, "complete", {RATE: 0.01}, str(folder), 1.0, None, None)
