"""Methods that read the control split: what they see, and what cannot change what they learn"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from remix_study.assemble import assemble
from remix_study.balancing import EpochStart, StepBatch, Terms
from remix_study.config.assignment import READING_CONTROL
from remix_study.config.balancing import Additions, options_of
from remix_study.config.run import RunConfig
from remix_study.epoch import Statistic
from remix_study.errors import StudyStopped
from remix_study.media.store import ClipStore
from remix_study.tracking.tracker import NullTracker
from remix_study.training.checkpoint import LAST
from remix_study.training.loop import train
from remix_study.training.run import Run
from remix_study.training.state import Record
from remix_study.world import Solo
from tests.unit.stores import changed

Recipe = Callable[..., RunConfig]
Trained = Callable[..., dict[str, torch.Tensor]]
RULE = "a rule of this test"
# Settings with which a method acts in three epochs.
ACTING: dict[str, dict[str, Any]] = {
    "gblend": {"every": 1},
    "gblend_lite": {"every": 1},
    "relearning": {"every": 1},
    "miles": {"threshold": 0.0},
}
READERS = [*(name for name in Additions.model_fields if options_of(name).reads_control), *READING_CONTROL]


class ControlLoss:
    """Multiplies the losses of an epoch by the cross-entropy on the control split before it."""

    name = RULE
    needs: frozenset[Statistic] = frozenset()
    changes_model = False

    def __init__(self) -> None:
        self.factor = 1.0

    def due(self, epoch: int) -> bool:
        return epoch >= 0

    def begin(self, start: EpochStart) -> None:
        self.factor = float(start.passes.control().cross_entropy_NM.mean())

    def loss(self, batch: StepBatch, terms: Terms) -> Terms:
        assert batch.at.epoch >= 0
        return {name: term * self.factor for name, term in terms.items()}

    def metrics(self) -> dict[str, float]:
        return {"method/factor": self.factor}

    def state(self) -> dict[str, Any]:
        return {"factor": self.factor}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.factor = state["factor"]


@pytest.fixture
def trained(recipe: Recipe, small_store: ClipStore, tmp_path: Path) -> Trained:
    """Return a function that trains three epochs of Remix with a method that reads the control split."""

    def make(
        name: str, folder: str, store: ClipStore = small_store, *, control: int | None = None,
        callback: Callable[[Sequence[Record]], None] | None = None,
    ) -> dict[str, torch.Tensor]:  # fmt: skip
        added: dict[str, Any]
        if name in READING_CONTROL:
            added = {"method.share": {"kind": name}, "method.filter": {"rule": "random"}}
        else:
            added = {} if name == RULE else {"method.with": {name: ACTING.get(name, {})}}
        config = recipe({"epochs": 3, "control_fraction": 0.2, **added})
        (tmp_path / folder).mkdir(exist_ok=True)
        run: Run = assemble(
            config, store, Solo(), torch.device("cpu"), NullTracker(), tmp_path / folder, callback=callback
        )
        if name == RULE:
            run = replace(run, method=replace(run.method, rules=(*run.method.rules, ControlLoss())))
        train(replace(run, rows={**run.rows, "control": run.rows["control"][:control]}))
        content = run.checkpoints.load(LAST)
        assert content is not None
        weights: dict[str, torch.Tensor] = content["model"]
        return {**weights, "shares": content["plan"]["shares_M"]}

    return make


def same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.slow
@pytest.mark.parametrize("name", [RULE, *READERS])
def test_validation_and_test_splits_change_no_weight(name: str, trained: Trained, small_store: ClipStore) -> None:
    rows = {split: small_store.rows(split) for split in ("train", "val", "test")}
    labels_N = small_store.labels_N.copy()
    for split in ("val", "test"):
        labels_N[rows[split]] = np.roll(labels_N[rows[split]], 1)
    moved = {
        "train": rows["train"],
        "val": np.sort(np.concatenate([rows["test"], rows["val"][:9]])),
        "test": rows["val"],
    }
    assert same(trained(name, "as it is"), trained(name, "moved", changed(small_store, _rows=moved, labels_N=labels_N)))


@pytest.mark.slow
@pytest.mark.parametrize("name", [RULE, *READERS])
def test_control_clips_change_what_a_method_that_reads_them_learns(name: str, trained: Trained) -> None:
    assert not same(trained(name, "all"), trained(name, "few", control=3))


@pytest.mark.slow
@pytest.mark.parametrize("name", [RULE, *READERS])
def test_a_resumed_run_has_the_same_control_split(name: str, trained: Trained) -> None:
    def stop(history: Sequence[Record]) -> None:
        if len(history) == 2:
            raise StudyStopped

    whole = trained(name, "whole")
    with pytest.raises(StudyStopped):
        trained(name, "resumed", callback=stop)
    assert same(whole, trained(name, "resumed"))
