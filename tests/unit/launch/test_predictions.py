"""predictions.parquet: one row per clip of the validation and test splits"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from numpy.typing import NDArray

from remix_study.config.run import RunConfig
from remix_study.launch.predictions import PREDICTIONS, read_correct, write_predictions
from remix_study.launch.run import run_one
from remix_study.media.store import ClipStore
from remix_study.training.final_evaluation import Selection
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
    correct = read_correct(tmp_path / "runs" / "one")
    assert correct is not None
    assert correct.ids == tuple(row["id"] for row in tested)
    for view, key in (("fused", "accuracy"), ("audio", "accuracy_uni/audio"), ("video", "accuracy_uni/video")):
        right = [small_store.classes[int(np.argmax(row[f"log_p_{view}"]))] == row["label"] for row in tested]
        assert right == [row[f"predicted_{view}"] == row["label"] for row in tested] == correct.views[view].tolist()
        assert np.mean(right) == summary[f"test/{key}"]
    for epoch in ("best", "last"):
        assert correct.views[epoch].mean() == summary[f"test/accuracy_{epoch}"]
    assert {row["predicted_best"] for row in rows[:48]} == {None}


def test_a_run_without_a_test_writes_none(recipe: Recipe, tmp_path: Path) -> None:
    run_one(recipe(), tmp_path, "one")
    assert not (tmp_path / "runs" / "one" / PREDICTIONS).exists()


def test_groups_are_those_of_the_clips(small_store: ClipStore, tmp_path: Path) -> None:
    store = changed(small_store, groups=["speaker 1", None] * (len(small_store) // 2))
    rows = {"val": store.rows("val")[:3], "test": store.rows("test")[:2]}
    logs = {split: {"fused": np.log(np.full((len(found), 4), 0.25, np.float32))} for split, found in rows.items()}
    predicted: dict[Selection, NDArray[np.int64]] = {"best": np.array([0, 1]), "last": np.array([1, 1])}
    table = table_of(write_predictions(tmp_path, logs, predicted, store, rows).parent)
    assert table.column_names == [
        "split", "id", "group", "label", "predicted_fused", "predicted_best", "predicted_last", "log_p_fused",
    ]  # fmt: skip
    assert table["group"].to_pylist() == [store.groups[row] for found in rows.values() for row in found]
    assert table["log_p_fused"].to_pylist()[4] == pytest.approx([np.log(0.25)] * 4)
    correct = read_correct(tmp_path)
    assert correct is not None
    labels = [store.classes[store.labels_N[row]] for row in rows["test"]]
    assert correct.views["last"].tolist() == [store.classes[1] == label for label in labels]
    assert correct.group_C is not None
    assert len(set(correct.group_C)) == 2, "a clip without a group is a group of its own"


def test_groups_are_numbered_and_absent_if_no_clip_has_one(small_store: ClipStore, tmp_path: Path) -> None:
    rows = {"val": small_store.rows("val")[:3], "test": small_store.rows("test")[:4]}
    logs = {split: {"fused": np.log(np.full((len(found), 4), 0.25, np.float32))} for split, found in rows.items()}

    def groups_of(names: list[str | None]) -> list[int] | None:
        groups: list[str | None] = [None] * len(small_store)
        for row, name in zip(rows["test"], names, strict=True):
            groups[row] = name
        write_predictions(tmp_path, logs, {}, changed(small_store, groups=groups), rows)
        found = read_correct(tmp_path)
        assert found is not None
        return None if found.group_C is None else found.group_C.tolist()

    assert groups_of([None] * 4) is None
    assert groups_of(["a", None, "a", None]) == [0, 1, 0, 2]
    assert groups_of(["b", "a", "a", "b"]) == [0, 1, 1, 0]


def test_a_folder_without_readable_predictions_has_none(tmp_path: Path) -> None:
    assert read_correct(tmp_path) is None
    (tmp_path / PREDICTIONS).write_bytes(b"PAR1 cut off")
    assert read_correct(tmp_path) is None
