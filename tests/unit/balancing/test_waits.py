"""A step of a method waits for the device only where the method needs it"""

# M modalities

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from remix_study.added import Facts, rules_of
from remix_study.balancing import CrossEntropy, EpochStart, FusedLoss, Method, Step, UnimodalLosses
from remix_study.config.balancing import Additions, Windowed, options_of
from remix_study.models import ConcatFusion, EntropyFusion, MultimodalModel
from remix_study.remix import ConstantPlan, Reassembly, everything_joint
from remix_study.sample import Batch
from remix_study.training.step import train_step
from remix_study.world import Solo
from tests.unit.balancing.linear import CLASSES, ROWS, Projection, batch_of, model_of
from tests.unit.balancing.passes import FixedPasses, statistics
from tests.unit.balancing.without_values import DEVICE, Waits, without_values

# Of a step in which all samples train all modalities.
NEEDED = {
    # Whether a modality is left for the samples: a head that nothing trains must keep a gradient of None.
    "modality_dropout": {"copy to the host": 1},
    "opm": {"copy to the host": 1},
}
# Which modalities the samples train; whether the loss is finite.
OF_EVERY_STEP = {"copy to the host": 1, "value": 1}
WEIGHTED = CrossEntropy(class_weights=(1.0,) * CLASSES)
AUDIO_ONLY = np.array([[True, False]] * ROWS)


def waits(name: str | None, active: np.ndarray | None = None) -> Counter[str]:
    """Where the host would wait for the device in a step, by operation."""
    model = model_of(ConcatFusion) if name != "mla" else _with_one_head()
    batch = batch_of(model, active)
    teachers = dict(model_of(ConcatFusion).to(DEVICE).encoders.items())
    plan = ConstantPlan(everything_joint(ROWS, 2), Reassembly("blocks", (1, 0), ROWS), 0)
    facts = Facts(
        model.modalities, 0, 4, np.arange(ROWS), batch.labels_B.numpy(), CLASSES, WEIGHTED,
        lambda: model_of(ConcatFusion), lambda _: plan, unimodal_from=0, teachers=teachers,
    )  # fmt: skip
    rules = rules_of(Additions.model_validate({} if name is None else {name: _acting(name)}), facts)
    method = Method("m", plan, (FusedLoss(WEIGHTED), UnimodalLosses(1.0, 1.0, WEIGHTED), *rules))
    found = statistics(model, batch_of(model))
    for rule in method.epochs:
        if rule.due(2):
            rule.begin(EpochStart(2, model, torch.optim.SGD(model.parameters()), FixedPasses(found, found)))
    model.to(DEVICE)
    optimizer, there = torch.optim.SGD(model.parameters()), _moved(batch)
    multimodal = ROWS if active is None else 0
    with without_values():
        for number in range(2):  # in the first step, rules may copy what was computed before the epoch
            with Waits() as waited:
                train_step(
                    model, method, there, ROWS, optimizer, Solo(), at=Step(2, number, multimodal, ROWS),
                    autocast=False, clip_norm=1.0,
                )  # fmt: skip
    return waited.counts


def _with_one_head() -> MultimodalModel:
    widths = {"audio": 2, "video": 2}
    return MultimodalModel({m: Projection(width) for m, width in widths.items()}, EntropyFusion(widths, CLASSES))


def _acting(name: str) -> dict[str, float]:
    """Options with which a method acts in every step."""
    return ({"begin": 0} if issubclass(options_of(name), Windowed) else {}) | (
        {"execute": 1.0} if name == "opm" else {}
    )


def _moved(batch: Batch) -> Batch:
    inputs = {m: x.to(DEVICE) for m, x in batch.inputs.items()}
    rows = {name: getattr(batch, name).to(DEVICE) for name in ("active_BM", "labels_B", "samples_B")}
    return replace(batch, inputs=inputs, **rows)


@pytest.mark.slow
@pytest.mark.parametrize("name", Additions.model_fields)
def test_a_step_waits_for_the_device_only_where_its_method_needs_it(name: str) -> None:
    assert waits(name) - Counter(OF_EVERY_STEP) == NEEDED.get(name, {})
    if not options_of(name).compares:
        assert waits(name, AUDIO_ONLY) == OF_EVERY_STEP


def test_joint_training_waits_twice_in_a_step() -> None:
    assert waits(None) == OF_EVERY_STEP


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("float(x.sum())", "value"),
        ("bool(x.any())", "value"),
        ("x.sum().item()", "value"),
        ("x.tolist()", "copy to the host"),
        ("x.cpu()", "copy to the host"),
        ("torch.zeros(3).copy_(x)", "copy to the host"),
        ("x.new_tensor([1.0])", "copy to the device"),
        ("torch.tensor([1.0], device=x.device)", "copy to the device"),
        ("torch.zeros(3).to(x.device)", "copy to the device"),
        ("x.nonzero()", "nonzero"),
        ("x[x > 0]", "rows by a mask"),
        ("x.masked_select(x > 0)", "masked_select"),
        ("x.equal(x)", "equal"),
        ("torch.where(x > 0, x, 0.0) * x.new_ones(3)", None),
    ],
)
def test_waits_are_counted_by_operation(expression: str, expected: str | None) -> None:
    x = torch.empty(3, device=DEVICE)
    with Waits() as waited:
        eval(expression, {"torch": torch, "x": x})
    assert waited.counts == ({} if expected is None else {expected: 1})
