"""Separately trained unimodal networks, combined from the predictions of a study's ceilings"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from numpy.typing import NDArray

from remix_study.config.study import StudyConfig
from remix_study.launch.predictions import PREDICTIONS, Correct, read_logs
from remix_study.metrics.late_product import fit_exponents, late_product
from remix_study.report.tables import BOTH_CALIBRATED, FUSED_MINUS_SUM, accuracy_table, bar_table
from remix_study.study.ledger import Ledger, ReplicateRecord, TrialRecord
from remix_study.study.outcomes import Replicated
from remix_study.study.results import compare
from remix_study.study.separate import SEPARATE, Separate, modalities_of, separate_networks
from remix_study.study.study_tracker import late_metrics

CLASSES = ("a", "b", "c")
METHODS = {"remix": {}, "joint": {}, "a1": {"ceiling_of": "audio"}, "v1": {"ceiling_of": "video"}}


def study(replicates: int = 3, **changes: Any) -> StudyConfig:
    content = {"name": "s", "question": "q?", "base": {}, "methods": METHODS, "reference": "remix", "trials": 1}
    return StudyConfig.model_validate({**content, "replicates": replicates, **changes})


def logs_of(labels_N: NDArray[np.int64], seed: int, sharpness: float) -> NDArray[np.float64]:
    """Log-probabilities (N, C) that prefer the label, with noise."""
    draw = np.random.default_rng(seed)
    logits_NC = sharpness * (np.eye(len(CLASSES))[labels_N] + draw.normal(size=(len(labels_N), len(CLASSES))))
    found: NDArray[np.float64] = logits_NC - np.log(np.exp(logits_NC).sum(axis=1, keepdims=True))
    return found


def write(
    folder: Path, logs: dict[str, NDArray[np.float64]], labels: dict[str, NDArray[np.int64]], order: int = 0,
    classes: tuple[str, ...] = CLASSES,
) -> str:  # fmt: skip
    """Write the predictions of a run, with its rows shuffled by `order`, and return its folder."""
    folder.mkdir(parents=True)
    (folder / "result.json").write_text('{"test/accuracy": 0.5}')
    tables = []
    for split, labels_N in labels.items():
        rows = np.random.default_rng(order).permutation(len(labels_N))
        place = [CLASSES.index(name) for name in classes]
        flat = pa.array(logs[split][rows][:, place].astype(np.float32).reshape(-1))
        tables.append(
            pa.table(
                {
                    "split": [split] * len(rows), "id": [f"{split} {n}" for n in rows], "group": pa.nulls(len(rows)),
                    "label": [CLASSES[labels_N[n]] for n in rows],
                    "log_p_fused": pa.FixedSizeListArray.from_arrays(flat, len(classes)),
                }
            )
        )  # fmt: skip
    table = pa.concat_tables(tables).replace_schema_metadata({"classes": json.dumps(classes)})
    pyarrow.parquet.write_table(table, folder / PREDICTIONS)
    return str(folder)


def record(method: str, number: int, folder: str, **changes: Any) -> ReplicateRecord:
    known: dict[str, Any] = {
        "method": method, "stage": "replicate", "number": number, "state": "complete", "params": {}, "folder": folder,
        "seconds": 1.0, "reason": None, "cause": None,
    }  # fmt: skip
    return ReplicateRecord(**(known | changes))


def ledger(config: StudyConfig, *records: ReplicateRecord) -> Ledger:
    trial = TrialRecord("", 0, "complete", (0.5,), {}, None, None, False, 1.0, None, None, (), (0.5,), {})
    methods = config.methods
    return Ledger(
        config, Path(), {name: (trial._replace(method=name),) for name in methods},
        {name: tuple(r for r in records if r.method == name) for name in methods},
    )  # fmt: skip


LABELS = {"val": np.arange(60) % 3, "test": np.arange(90) % 3}


def pair(folder: Path, number: int) -> list[dict[str, NDArray[np.float64]]]:
    return [
        {split: logs_of(labels_N, 10 * number + k, 2.0 + 4 * k) for split, labels_N in LABELS.items()} for k in (0, 1)
    ]


def test_networks_are_combined_by_the_ids_of_clips_and_the_names_of_classes(tmp_path: Path) -> None:
    audio, video = pair(tmp_path, 0)
    found = separate_networks(
        ledger(
            study(1), record("a1", 0, write(tmp_path / "a", audio, LABELS, order=1)),
            record("v1", 0, write(tmp_path / "v", video, LABELS, order=2, classes=("c", "a", "b"))),
        ),
        ("audio", "video"),
    )  # fmt: skip
    assert found is not None
    assert not found.missing
    stacked = {split: np.stack([audio[split], video[split]], axis=1).astype(np.float32) for split in LABELS}
    w_M = fit_exponents(stacked["val"], LABELS["val"])
    summary = found.replicated.summaries[0]
    for view, weights_M in (("late_sum", np.ones(2)), ("late_calibrated", w_M)):
        right_N = late_product(stacked["test"], weights_M).argmax(axis=1) == LABELS["test"]
        assert summary[f"test/accuracy_{view}"] == pytest.approx(right_N.mean())
        assert found.replicated.correct[0].views[view].mean() == pytest.approx(right_N.mean())
    assert [summary[f"late_calibrated/exponent/{m}"] for m in ("audio", "video")] == pytest.approx([*w_M], abs=1e-4)
    assert summary["test/cross_entropy_late_calibrated"] < summary["test/cross_entropy_late_sum"]


def test_a_replicate_that_cannot_be_combined_says_why(tmp_path: Path) -> None:
    audio, video = pair(tmp_path, 0)
    other = {**LABELS, "test": LABELS["test"][:60]}
    nan = {split: np.full_like(logs_NC, np.nan) for split, logs_NC in video.items()}
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / PREDICTIONS).write_bytes(b"PAR1")
    whole = write(tmp_path / "a", audio, LABELS)
    failed = {"state": "failed", "reason": "killed"}
    found = separate_networks(
        ledger(
            study(7), *(record("a1", n, whole) for n in (0, 1, 2, 3, 5)), record("a1", 4, "", state="running"),
            record("v1", 0, write(tmp_path / "v", video, LABELS)), record("v1", 1, "", **failed),
            record("v1", 2, write(tmp_path / "o", {**video, "test": video["test"][:60]}, other)),
            record("v1", 3, str(damaged)), record("v1", 5, write(tmp_path / "n", nan, LABELS)),
        ),
        ("audio", "video"),
    )  # fmt: skip
    assert found is not None
    assert list(found.replicated.summaries) == [0]
    assert found.missing == {
        1: "v1 failed",
        2: "a1 and v1 predict other test clips or classes",
        3: "the predictions of v1 are missing or damaged",
        4: "a1 has not ended and v1 has not run",
        5: "v1 predicts values that are not numbers",
        6: "a1 has not run and v1 has not run",
    }


def test_a_study_without_a_ceiling_of_each_modality_has_no_such_row() -> None:
    some = Replicated(
        {0: {"test/accuracy_only/text": 0.5, "probe/accuracy/audio": 0.4, "probe/accuracy/video": 0.4}}, {}
    )
    assert modalities_of({"remix": some}) == ("audio", "video", "text")
    assert separate_networks(ledger(study()), ("audio", "video", "text")) is None
    assert separate_networks(ledger(study()), ("audio",)) is None
    assert separate_networks(ledger(study()), ()) is None


def test_of_several_ceilings_of_a_modality_the_first_counts_as_for_teachers() -> None:
    found = separate_networks(ledger(study(methods={**METHODS, "a2": {"ceiling_of": "audio"}})), ("audio", "video"))
    assert found is not None
    assert found.ceilings == {"audio": "a1", "video": "v1"}


def test_predictions_of_an_earlier_version_are_not_read(tmp_path: Path) -> None:
    write(tmp_path / "a", pair(tmp_path, 0)[0], LABELS)
    assert read_logs(tmp_path / "a", "late_sum") is None
    assert read_logs(tmp_path) is None


def outcomes(accuracy: float, *views: str, seeds: int = 6, clips: int = 200) -> Replicated:
    """Replicates whose views all have this accuracy, on nearly the same clips in all seeds."""
    draw = np.random.default_rng(int(1000 * accuracy))
    metrics = {"fused": "test/accuracy"}
    summaries, correct = {}, {}
    for n in range(seeds):
        right_N = (np.arange(clips) < accuracy * clips) ^ (draw.random(clips) < 0.03)
        summaries[n] = {metrics.get(view, f"test/accuracy_{view}"): float(right_N.mean()) for view in views}
        correct[n] = Correct(tuple(f"clip {c}" for c in range(clips)), None, dict.fromkeys(views, right_N))
    return Replicated(summaries, correct)


def test_every_method_is_compared_with_the_networks_in_a_family_of_its_own() -> None:
    """Two comparisons for each method: as they are, and both with a calibrated late product."""
    views = ("fused", "late_sum", "late_calibrated")
    everything = {"remix": outcomes(0.9, *views), "joint": outcomes(0.6, "fused"), "a1": outcomes(0.5, "fused")}
    networks = Separate({"audio": "a1", "video": "v1"}, outcomes(0.7, *views[1:]), {})
    found = compare(study(6), everything, {}, [], separate=networks)
    bar = found.bar
    assert bar is not None
    assert ({*bar.late_sum}, {*bar.late_calibrated}, bar.comparisons) == ({"remix", "joint"}, {"remix"}, 3)
    assert (bar.late_sum["remix"].verdict, bar.late_sum["joint"].verdict) == ("ahead", "behind")
    p, holm = (getattr(bar.late_sum["joint"], key) for key in ("p", "p_holm"))
    assert p <= holm <= 3 * p
    joint = next(c.ahead for c in found.methods if c.name == "joint")
    assert joint is not None
    assert (found.comparisons, joint.p_holm) == (1, joint.p)
    said = r"separately trained unimodal networks: ahead: remix \(\+.*\), behind: joint \(-.*; calibrated late products"
    assert re.search(said, found.sentence)
    logged = late_metrics(found)
    assert logged["test_accuracy_late_sum_mean/separate networks"] == pytest.approx(0.7, abs=0.05)
    assert logged["ahead_of_separate_calibrated_points/remix"] == bar.late_calibrated["remix"].mean
    rows = {row[0]: row for row in accuracy_table(found).rows}
    assert (rows["joint"][2], rows["joint"][3]) == ("", "")
    row = rows[SEPARATE]
    assert (row[0], row[1], row[2]) == (SEPARATE, "", row[3])
    assert row[4].startswith("+")
    assert [r[:2] for r in bar_table(found).rows] == [
        ("remix", FUSED_MINUS_SUM), ("remix", BOTH_CALIBRATED), ("joint", FUSED_MINUS_SUM),
    ]  # fmt: skip


def test_missing_networks_leave_cells_empty_and_are_named() -> None:
    everything = {"remix": outcomes(0.9, "fused"), "joint": outcomes(0.6, "fused")}
    missing = dict.fromkeys(range(6), "v1 failed")
    found = compare(study(6), everything, {}, [], separate=Separate({}, Replicated({}, {}), missing))
    assert accuracy_table(found).rows[-1] == (f"{SEPARATE} (0 of 6 seeds)", *[""] * 6)
    assert (
        "The separately trained networks are incomplete: v1 failed (replicates 0, 1, 2, 3, 4 and 5)." in found.sentence
    )
    assert "Compared with the late sum" not in found.sentence
    some = outcomes(0.7, "late_sum", seeds=5)
    found = compare(study(6), everything, {}, [], separate=Separate({}, some, {5: "v1 failed"}))
    assert found.bar is not None
    assert accuracy_table(found).rows[-1][0] == f"{SEPARATE} (5 of 6 seeds)"
    assert found.bar.late_sum["remix"].seeds == 5
