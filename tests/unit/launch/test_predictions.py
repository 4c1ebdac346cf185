"""predictions.parquet: one row per clip of the validation and test splits"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest

from remix_study.config.run import RunConfig
from remix_study.launch.predictions import PREDICTIONS, write_predictions
from remix_study.launch.run import run_one
from remix_study.media.store import ClipStore
from tests.unit.stores import changed

Recipe = Callable[..., RunConfig]


def table_of(folder: Path) -> Any:
    return pyarrow.parquet.read_table(folder / PREDICTIONS)


def test_a_run_that_is_tested_writes_what_its_summary_says(
    recipe: Recipe, small_store: ClipStore, tmp_path: Path
) -> None:
    config = recipe({"evaluation": {"test": True, "probe": False}})
    summary = run_one(config, tmp_path, "one")
    table = table_of(tmp_path / "runs" / "one")
    assert json.loads(table.schema.metadata[b"classes"]) == list(small_store.classes)
    rows = table.to_pylist()
    assert [row["split"] for row in rows] == ["val"] * 48 + ["test"] * 48
    tested = rows[48:]
    assert [row["id"] for row in tested] == [str(small_store.ids[row]) for row in small_store.rows("test")]
    for view, key in (("fused", "accuracy"), ("audio", "accuracy_uni/audio"), ("video", "accuracy_uni/video")):
        right = [small_store.classes[int(np.argmax(row[f"log_p_{view}"]))] == row["label"] for row in tested]
        assert np.mean(right) == summary[f"test/{key}"]


def test_a_run_without_a_test_writes_none(recipe: Recipe, tmp_path: Path) -> None:
    run_one(recipe(), tmp_path, "one")
    assert not (tmp_path / "runs" / "one" / PREDICTIONS).exists()


def test_groups_are_those_of_the_clips(small_store: ClipStore, tmp_path: Path) -> None:
    store = changed(small_store, groups=["speaker 1", None] * (len(small_store) // 2))
    rows = {"val": store.rows("val")[:3], "test": store.rows("test")[:2]}
    logs = {split: {"fused": np.log(np.full((len(found), 4), 0.25, np.float32))} for split, found in rows.items()}
    table = table_of(write_predictions(tmp_path, logs, store, rows).parent)
    assert table.column_names == ["split", "id", "group", "label", "log_p_fused"]
    assert table["group"].to_pylist() == [store.groups[row] for found in rows.values() for row in found]
    assert table["log_p_fused"].to_pylist()[4] == pytest.approx([np.log(0.25)] * 4)
