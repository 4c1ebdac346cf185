"""InfoReg against its formulas"""

# B samples of the global batch, M modalities, C classes

import copy
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from remix_study.balancing import EpochStart, Step, Window
from remix_study.balancing.inforeg import InfoReg, window_is_open
from remix_study.epoch import SplitStatistics
from remix_study.modality import canonical_order
from remix_study.models import ConcatFusion, DecisionFusion, Fusion, MultimodalModel, SumFusion
from tests.unit.balancing.linear import ROWS, batch_of, model_of
from tests.unit.balancing.test_ogm import changed, true_probability

MODALITIES = [("audio", "video"), canonical_order(("audio", "text", "video"))]


class NoPasses:
    def train(self) -> SplitStatistics:
        raise AssertionError("needs no pass")

    def control(self) -> SplitStatistics:
        raise AssertionError("needs no pass")

    def agreed(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        return values


class APass(NoPasses):
    def train(self) -> SplitStatistics:
        """A table in which video gives 0.8 to the true class, and audio 0.3."""
        loss_NM = -np.log(np.tile([0.3, 0.8], (5, 1)))
        return SplitStatistics(np.arange(5), np.zeros(5, np.int64), np.ones((5, 2), np.bool_), loss_NM)


def rule_of(model: MultimodalModel, strength: float = 0.95, unimodal_from: int | None = None) -> InfoReg:
    return InfoReg(model.modalities, strength, 0.05, window=Window(), unimodal_from=unimodal_from)


def begin(rule: InfoReg, model: MultimodalModel, epoch: int = 0, passes: Any = None) -> None:
    rule.begin(EpochStart(epoch, model, torch.optim.SGD(model.parameters(), lr=0.1), passes or NoPasses()))


def move(model: MultimodalModel, seed: int = 0) -> None:
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=draw), alpha=0.2)


@pytest.mark.parametrize("fusion", [ConcatFusion, SumFusion, DecisionFusion])
@pytest.mark.parametrize("modalities", MODALITIES, ids=len)
def test_encoders_ahead_are_pulled_to_the_weights_at_the_beginning(
    fusion: type[Fusion], modalities: tuple[str, ...]
) -> None:
    model = model_of(fusion, modalities)
    rule, start = rule_of(model), copy.deepcopy(model)
    begin(rule, model)
    move(model)
    batch = batch_of(model)
    before, after = changed(rule, model, batch)
    s = {m: true_probability(model, batch, m) for m in modalities}
    now, then = dict(model.named_parameters()), dict(start.named_parameters())
    pulled = {}
    for m, own in s.items():
        lead = own - sum(s[other] for other in s if other != m) / (len(s) - 1)
        pulled[m] = 0.95 * math.exp(math.tanh(lead)) if lead > 0 else 0.0
    assert min(pulled.values()) == 0.0 < max(pulled.values())
    for name, gradient in after.items():
        m = name.split(".")[1]
        pull = pulled.get(m, 0.0) * (now[name] - then[name]) if name.startswith("encoders.") else 0.0
        torch.testing.assert_close(gradient, before[name] + pull, rtol=1e-4, atol=1e-5)
    found = rule.metrics()
    for m in modalities:
        assert found[f"method/inforeg/coefficient/{m}"] == pytest.approx(pulled[m], rel=1e-4)
        gradients = [before[name] for name in before if name.startswith(f"encoders.{m}.")]
        trace = sum(float(gradient.square().mean()) for gradient in gradients)
        assert found[f"method/inforeg/trace/{m}"] == pytest.approx(trace, rel=1e-4)


def test_the_coefficient_does_not_grow_with_the_batch() -> None:
    """With sums over the batch instead of means, tanh would be 1 for any lead, as in the released code."""
    model = model_of(ConcatFusion)
    rule = rule_of(model)
    sums = torch.tensor([0.30, 0.28, 1.0, 1.0])
    for size in (1, 64):
        b_M = rule._coefficients(sums * size, Step(0, 0, size))
        torch.testing.assert_close(b_M, torch.tensor([0.95 * math.exp(math.tanh(0.02)), 0.0]))


def test_strength_0_and_the_first_step_of_an_epoch_leave_all_gradients_as_they_are() -> None:
    model = model_of(ConcatFusion)
    for strength, moves in ((0.0, True), (0.95, False)):
        rule = rule_of(model, strength)
        begin(rule, model)
        if moves:
            move(model)
        before, after = changed(rule, model, batch_of(model))
        assert all(torch.equal(after[name], gradient) for name, gradient in before.items())


@pytest.mark.parametrize(
    ("traces", "expected"),
    [
        ([], True),
        ([5.0], True),  # nothing to compare
        ([1.0, 2.0], True),
        ([2.0, 1.0], False),
        ([1.0, 1.04], False),  # grows by less than 5 %
        ([9.0, 1.0, 2.0], True),  # one epoch each
        ([1.0, 1.0, 3.0, 2.0], True),  # 2.5 vs 1
        ([1.0] * 10 + [2.0] * 10, True),
        ([9.0] * 5 + [1.0] * 10 + [2.0] * 10, True),  # the last ten and the ten before
        ([1.0] * 5 + [9.0] * 10 + [2.0] * 10, False),
        ([0.0, 0.0], False),
    ],
)
def test_the_window_is_open_while_the_trace_grows(traces: list[float], expected: bool) -> None:
    assert window_is_open(traces, 0.05) is expected


def test_leading_zeros_do_not_count_as_epochs() -> None:
    """With ten zeros before the first epoch, as in the released code, constant traces would look like growth."""
    constant = [3.0] * 6
    assert not window_is_open(constant, 0.05)
    assert window_is_open([0.0] * 10 + constant, 0.05)


def test_each_encoder_has_its_own_window() -> None:
    model = model_of(ConcatFusion)
    rule = rule_of(model)
    state = rule.state()
    rule.restore({**state, "traces": {"audio": [2.0, 1.0], "video": [1.0, 2.0]}})
    begin(rule, model, 2)
    move(model)
    changed(rule, model, batch_of(model))
    found = rule.metrics()
    assert (found["method/inforeg/open/audio"], found["method/inforeg/open/video"]) == (0.0, 1.0)
    assert "method/inforeg/coefficient/audio" not in found
    assert "method/inforeg/coefficient/video" in found
    assert rule.state()["traces"]["audio"] == pytest.approx([2.0, 1.0, found["method/inforeg/trace/audio"]])


def test_in_a_unimodal_batch_the_scoring_pass_is_compared_and_only_the_encoder_in_training_is_pulled() -> None:
    model = model_of(ConcatFusion)
    for trained, pulled in (("video", 0.95 * math.exp(math.tanh(0.5))), ("audio", 0.0)):
        rule = rule_of(model, unimodal_from=3)
        start = copy.deepcopy(model)
        begin(rule, model, 3, APass())
        move(model)
        active = np.tile([m == trained for m in model.modalities], (ROWS, 1))
        batch = batch_of(model, active)
        batch = replace(batch, inputs={trained: batch.inputs[trained]})
        before, after = changed(rule, model, batch, Step(3, 0, multimodal=0))
        then = dict(start.named_parameters())
        for name, p in model.named_parameters():
            if name.startswith(f"encoders.{trained}."):
                torch.testing.assert_close(after[name], before[name] + pulled * (p - then[name]))
            elif name.startswith("encoders."):
                assert name not in after


def test_a_pass_is_made_only_where_batches_may_be_unimodal() -> None:
    model = model_of(ConcatFusion)
    begin(rule_of(model, unimodal_from=3), model, 2)
    begin(rule_of(model), model, 9)
    with pytest.raises(AssertionError, match="needs no pass"):
        begin(rule_of(model, unimodal_from=3), model, 3)


def test_the_state_resumes_within_an_epoch_and_holds_no_weights_after_it() -> None:
    def trained(split_after: int) -> tuple[list[Any], dict[str, float]]:
        model = model_of(ConcatFusion)
        rule, found = rule_of(model), []
        for epoch in range(3):
            begin(rule, model, epoch)
            for number in range(3):
                if 3 * epoch + number == split_after:
                    state, rule = copy.deepcopy(rule.state()), rule_of(model)
                    rule.restore(state)
                found.append({n: g.clone() for n, g in changed(rule, model, batch_of(model))[1].items()})
                move(model, number)
            last = rule.metrics()
            assert not rule.state()["start"]
        return found, last

    (one, end), (other, same) = trained(99), trained(5)
    assert end == same
    for a, b in zip(one, other, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)
