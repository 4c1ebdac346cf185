"""Held-out data: the test split influences only test metrics, the validation split only the choice of the best epoch"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from remix_study.assemble import assemble
from remix_study.config.run import RunConfig
from remix_study.media.store import ClipStore
from remix_study.tracking.tracker import NullTracker
from remix_study.training.checkpoint import LAST
from remix_study.training.loop import train
from remix_study.training.run import Run, RunResult
from remix_study.world import Solo
from tests.unit.stores import changed

Recipe = Callable[..., RunConfig]
METHODS: list[dict[str, Any]] = [
    {"name": "joint"},
    {"name": "joint_unimodal"},
    {"name": "unimodal", "modality": "video"},
    {"name": "remix", "warmup": 1, "share": {"kind": "progress"}},
    {"name": "remix", "warmup": 0, "filter": {"rule": "quantile", "fraction": 0.5}, "score": "cross_entropy"},
]
each_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: "-".join(map(str, method.values()))[:30])


def poisoned(store: ClipStore, split: str) -> ClipStore:
    """Return the store with permuted labels and destroyed inputs in one split.

    Inputs stay finite, because a run ends if a prediction is not a number.
    """
    rows = store.rows(split)
    labels_N = store.labels_N.copy()
    labels_N[rows] = np.roll(labels_N[rows], 1 + len(rows) // 3)
    assert (labels_N != store.labels_N).any()

    def gather(modality: str, wanted: NDArray[np.int64], *args: Any, **kwargs: Any) -> NDArray[Any]:
        content: NDArray[Any] = store.gather(modality, wanted, *args, **kwargs)
        bad = np.isin(wanted, rows)
        content[bad] = content[bad][..., ::-1] // 3 if content.dtype == np.uint8 else -1000 * content[bad]
        return content

    return changed(store, labels_N=labels_N, gather=gather)


def trained(config: RunConfig, store: ClipStore, folder: Path) -> tuple[Run, RunResult]:
    folder.mkdir()
    run = assemble(config, store, Solo(), torch.device("cpu"), NullTracker(), folder)
    return run, train(run)


def weights(run: Run) -> dict[str, torch.Tensor]:
    """Return the weights after the last epoch."""
    content = run.checkpoints.load(LAST)
    assert content is not None
    found: dict[str, torch.Tensor] = content["model"]
    return found


def kept(record: dict[str, float], *excluded: str) -> dict[str, float]:
    return {key: value for key, value in record.items() if not key.startswith(("time/", *excluded))}


def assert_equal_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [key for key, value in one.items() if not torch.equal(value, other[key])] == []


@pytest.mark.slow
@each_method
def test_the_test_split_influences_only_test_metrics(
    recipe: Recipe, small_store: ClipStore, tmp_path: Path, method: dict[str, Any]
) -> None:
    config = recipe({"method": method, "epochs": 3, "evaluation.test": True, "evaluation.select_by": "cross_entropy"})
    whole, expected = trained(config, small_store, tmp_path / "whole")
    other, found = trained(config, poisoned(small_store, "test"), tmp_path / "poisoned")
    assert_equal_bits(weights(whole), weights(other))
    assert_equal_bits(whole.model.state_dict(), other.model.state_dict())  # of the best epoch
    assert list(map(kept, found.history)) == list(map(kept, expected.history))
    of_test = ("test/", "test_balance/", "sufficiency/")
    assert kept(found.summary, *of_test) == kept(expected.summary, *of_test)
    np.testing.assert_array_equal(found.predictions["val"]["fused"], expected.predictions["val"]["fused"])
    assert found.summary["test/cross_entropy"] != expected.summary["test/cross_entropy"]  # the poison works


@pytest.mark.slow
@each_method
def test_the_validation_split_influences_neither_weights_nor_assignments(
    recipe: Recipe, small_store: ClipStore, tmp_path: Path, method: dict[str, Any]
) -> None:
    """It only chooses the epoch that is evaluated at the end."""
    config = recipe({"method": method, "epochs": 3})
    whole, expected = trained(config, small_store, tmp_path / "whole")
    other, found = trained(config, poisoned(small_store, "val"), tmp_path / "poisoned")
    assert_equal_bits(weights(whole), weights(other))
    of_validation = ("val/", "balance/")
    for record, wanted in zip(found.history, expected.history, strict=True):
        assert kept(record, *of_validation) == kept(wanted, *of_validation)
    assert [r["val/cross_entropy"] for r in found.history] != [r["val/cross_entropy"] for r in expected.history]


def test_the_probe_is_fitted_without_the_split_that_it_is_evaluated_on(
    recipe: Recipe, small_store: ClipStore, tmp_path: Path
) -> None:
    """Permuted test labels change its accuracy to chance, and not its predictions."""
    config = recipe({"method": {"name": "joint_unimodal"}, "epochs": 4, "evaluation": {"test": True, "probe": True}})
    _, expected = trained(config, small_store, tmp_path / "whole")
    rows = small_store.rows("test")
    labels_N = small_store.labels_N.copy()
    labels_N[rows] = (labels_N[rows] + 1) % len(small_store.classes)
    _, found = trained(config, changed(small_store, labels_N=labels_N), tmp_path / "permuted")
    for m in small_store.modalities:
        right, shifted = (result.summary[f"probe/accuracy/{m}"] for result in (expected, found))
        assert right > 0.4
        assert shifted <= 1 - right  # every prediction that was right is wrong now
