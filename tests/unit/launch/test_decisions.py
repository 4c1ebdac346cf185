"""decisions.parquet: one row per training clip"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from remix_study.config.run import RunConfig
from remix_study.launch.decisions import DECISIONS, decisions, flat_facts, write_decisions
from remix_study.media.store import ClipStore
from remix_study.remix import RemixPlan
from remix_study.sample import Truth
from remix_study.training.loop import train
from remix_study.training.run import Run


@pytest.mark.slow
def test_each_training_clip_has_its_decision_and_facts(
    recipe: Callable[..., RunConfig], assembled: Callable[..., Run], small_store: ClipStore, tmp_path: Path
) -> None:
    run = assembled(recipe({"epochs": 3}))
    plan, rows = run.method.plan, run.rows["train"]
    assert isinstance(plan, RemixPlan)
    assert decisions(plan, small_store, rows, small_store.modalities) is None
    assert write_decisions(tmp_path, plan, small_store, rows, small_store.modalities) is None
    train(run)
    assert write_decisions(tmp_path, plan, small_store, rows, small_store.modalities) == tmp_path / DECISIONS
    table = pyarrow.parquet.read_table(tmp_path / DECISIONS).to_pandas()
    assert list(table["id"]) == [small_store.ids[row] for row in rows]
    assert plan.assignment is not None
    assert plan.last_scoring_pass is not None
    np.testing.assert_array_equal(table["trains_audio"], plan.assignment.assigned_NM[:, 0])
    np.testing.assert_array_equal(table["score_video"], plan.last_scoring_pass.scores_NM[:, 1])
    assert ((table["trains_audio"] | table["trains_video"]) ^ table["trains_all"]).all()
    np.testing.assert_array_equal(table["muted"], [float(small_store.truth[row]["muted"]) for row in rows])


def test_score_columns_are_missing_if_the_filter_uses_none(
    recipe: Callable[..., RunConfig], assembled: Callable[..., Run], small_store: ClipStore
) -> None:
    run = assembled(recipe({"method": {"name": "remix", "warmup": 1, "filter": {"rule": "random"}}}))
    train(run)
    assert isinstance(run.method.plan, RemixPlan)
    columns = decisions(run.method.plan, small_store, run.rows["train"], small_store.modalities)
    assert columns is not None
    assert not any(name.startswith("score_") for name in columns)
    assert {"trains_audio", "trains_video", "trains_all"} <= columns.keys()


def test_facts_by_modality_are_a_column_each() -> None:
    facts: dict[str, Truth] = {"muted": True, "informative": {"audio": False, "video": True}}
    assert flat_facts(facts) == {"muted": True, "informative_audio": False, "informative_video": True}
