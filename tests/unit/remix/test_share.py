"""Shares: worked examples, and each controller against its formula, written out one number at a time"""

# N samples, M modalities, C classes

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize

from remix_study.epoch import Schedule, ScoringPass, SplitStatistics
from remix_study.remix import (
    Argmin,
    ArgminShare,
    Assignment,
    BlockGainShare,
    CalibratedProgressShare,
    FixedShare,
    HeldOutProgressShare,
    ProgressShare,
    Reassembly,
    ShareInputs,
    ShareRule,
    reassemble,
)
from remix_study.remix.blocks import BlockLosses
from tests.examples import examples

Values = NDArray[np.float64]
CONTROLLERS: tuple[ShareRule, ...] = (
    ProgressShare(), HeldOutProgressShare(), CalibratedProgressShare(), BlockGainShare(),
)  # fmt: skip
several = pytest.mark.parametrize("rule", CONTROLLERS, ids=lambda rule: type(rule).__name__)


def controller(share: float, before: tuple[float, float], now: tuple[float, float]) -> float:
    """Return the next audio share of the measured controller: add 0.5 ln(g_a / g_v) to the log-odds, then clip."""
    g_a = max(before[0] - now[0], 1e-3) / max(share, 0.1)
    g_v = max(before[1] - now[1], 1e-3) / max(1 - share, 0.1)
    log_odds = math.log(share / (1 - share)) + 0.5 * math.log(g_a / g_v)
    return min(max(1 / (1 + math.exp(-log_odds)), 0.2), 0.8)


def clipped(share_M: Sequence[float], lowest: float) -> list[float]:
    """Raise the smallest shares to `lowest`, for the largest number of them that then need it."""
    order = sorted(range(len(share_M)), key=lambda m: share_M[m])
    for held in range(len(share_M)):
        rest = sum(share_M[m] for m in order[held:])
        found = [lowest if m in order[:held] else share_M[m] * (1 - lowest * held) / rest for m in range(len(share_M))]
        if min(found) >= lowest - 1e-12:
            return found
    raise AssertionError


def calprog(
    share_M: Sequence[float], before_M: Sequence[float] | None, now_M: Sequence[float], w_M: Sequence[float]
) -> list[float]:
    """Return the next shares as docs/evidence.md gives them; the first pass has no progress term."""
    logs = []
    for m, share in enumerate(share_M):
        progress = 0.0 if before_M is None else 0.5 * math.log(max(before_M[m] - now_M[m], 1e-3) / max(share, 0.1))
        logs.append(math.log(share) + progress + 0.5 * math.log(min(max(w_M[m], 0.2), 5.0)))
    raised = [math.exp(log - max(logs)) for log in logs]
    return clipped(
        [value / sum(raised) for value in raised], {2: 0.2, 3: 0.4 / 3}.get(len(share_M), 0.4 / len(share_M))
    )


def exponents(logs_NMC: Values, labels_N: NDArray[np.int64]) -> Values:
    """Return those of the calibrated late product, by another optimiser."""

    def loss(w_M: Values) -> float:
        z_NC = np.einsum("m,nmc->nc", w_M, logs_NMC)
        true_N = z_NC[np.arange(len(labels_N)), labels_N]
        return float((np.log(np.exp(z_NC - z_NC.max(1, keepdims=True)).sum(1)) + z_NC.max(1) - true_N).mean()
                     + 1e-3 * ((w_M - 1) ** 2).sum())  # fmt: skip

    M = logs_NMC.shape[1]
    return np.asarray(minimize(loss, np.ones(M), bounds=[(0, None)] * M, method="L-BFGS-B",
                               options={"ftol": 1e-15, "gtol": 1e-10}).x)  # fmt: skip


def held_out(seed: int, M: int, signal: float = 1.0, samples: int = 40, C: int = 4) -> SplitStatistics:
    """Return statistics of control samples; the first modality knows more the larger `signal` is."""
    draw = np.random.default_rng(seed)
    labels_N = draw.integers(0, C, samples)
    logits_NMC = draw.standard_normal((samples, M, C))
    logits_NMC[:, 0] += signal * np.eye(C)[labels_N] * 2
    logs_NMC = logits_NMC - np.log(np.exp(logits_NMC).sum(axis=2, keepdims=True))
    cross_entropy_NM = -logs_NMC[np.arange(samples), :, labels_N]
    return SplitStatistics(
        np.arange(samples), labels_N, np.ones((samples, M), np.bool_), cross_entropy_NM,
        log_probabilities_NMC=logs_NMC,
    )  # fmt: skip


def columns_of(found: SplitStatistics, order: Sequence[int]) -> SplitStatistics:
    assert found.log_probabilities_NMC is not None
    return SplitStatistics(
        found.rows_N, found.labels_N, found.available_NM[:, order], found.cross_entropy_NM[:, order],
        log_probabilities_NMC=found.log_probabilities_NMC[:, order],
    )  # fmt: skip


def inputs(
    shares_M: Any, before_M: Any = None, now_M: Any = None, control: SplitStatistics | None = None
) -> ShareInputs:
    """Return what a controller reads if the loss that it reads was `before_M`, and is now `now_M`.

    Where the loss is that of the control samples, it is the one of `control`.
    """
    shares_M, now_M = np.asarray(shares_M, dtype=float), np.asarray(now_M, dtype=float)
    loss_NM = now_M[None]
    kept = {} if before_M is None else {"loss_M": np.asarray(before_M, dtype=float)}
    gains_M = None if before_M is None else np.asarray(before_M) - now_M
    if control is None:
        control = SplitStatistics(np.arange(1), np.zeros(1, np.int64), np.ones((1, 2), np.bool_), loss_NM,
                                  log_probabilities_NMC=np.full((1, len(now_M), 2), -math.log(2)))  # fmt: skip
    return ShareInputs(1, shares_M, kept, tuple(range(len(shares_M))), ScoringPass(loss_NM, loss_NM), gains_M,
                       lambda: control)  # fmt: skip


def of_m(low: float, high: float, lists: int) -> st.SearchStrategy[tuple[list[float], ...]]:
    """Return a strategy of lists of numbers, all with one number for each of two to five modalities."""
    numbers = st.floats(low, high)
    return st.integers(2, 5).flatmap(lambda m: st.tuples(*[st.lists(numbers, min_size=m, max_size=m)] * lists))


def test_fixed_share_never_changes() -> None:
    rule = FixedShare((0.3, 0.7))
    for seen in (ShareInputs(0, np.asarray([0.5, 0.5])), inputs([0.5, 0.5], [2, 2], [1, 2])):
        np.testing.assert_array_equal(rule.next(seen).shares_M, [0.3, 0.7])
    assert not rule.needs_scoring
    assert rule.of_control is None


@pytest.mark.parametrize("rule", [ProgressShare(), HeldOutProgressShare(), BlockGainShare()])
def test_shares_follow_progress_in_worked_examples(rule: ShareRule) -> None:
    # g = (0.4 / 0.5, 0.1 / 0.5), so the odds become 1 * (0.8 / 0.2) ** 0.5 = 2.
    np.testing.assert_allclose(rule.next(inputs([0.5, 0.5], [2.0, 2.0], [1.6, 1.9])).shares_M, [2 / 3, 1 / 3])
    # A rising loss counts as the minimum progress: g = (0.1 / 0.5, 0.001 / 0.5), odds 10, clipped.
    np.testing.assert_allclose(rule.next(inputs([0.5, 0.5], [2.0, 2.0], [1.9, 2.5])).shares_M, [0.8, 0.2])


losses = st.tuples(st.floats(0, 3), st.floats(0, 3))


@examples(100)
@given(st.floats(0.2, 0.8), losses, losses)
def test_progress_share_equals_the_controller_of_the_evidence(
    share: float, before: tuple[float, float], now: tuple[float, float]
) -> None:
    shares_M = ProgressShare().next(inputs([share, 1 - share], before, now)).shares_M
    assert shares_M[0] == pytest.approx(controller(share, before, now), abs=1e-9)


@examples(8)
@given(of_m(0.05, 3, 3), st.booleans(), st.integers(0, 99), st.floats(-1, 4))
def test_calibrated_progress_equals_the_formula_of_the_evidence(
    case: tuple[list[float], ...], first: bool, seed: int, signal: float
) -> None:
    before_M, now_M, weight_M = case
    share_M = [weight / sum(weight_M) for weight in weight_M]
    control = held_out(seed, len(share_M), signal)
    assert control.log_probabilities_NMC is not None
    step = CalibratedProgressShare().next(inputs(share_M, None if first else before_M, now_M, control))
    expected = exponents(control.log_probabilities_NMC, control.labels_N)
    np.testing.assert_allclose(step.read["exponent"], expected, atol=1e-3)
    np.testing.assert_allclose(
        step.shares_M, calprog(share_M, None if first else before_M, now_M, step.read["exponent"].tolist()), atol=1e-9
    )


@several
def test_the_first_assignment_keeps_the_shares_and_what_it_read(rule: ShareRule) -> None:
    seen = inputs([0.4, 0.6], None, [1.0, 2.0])  # all predictions are uniform, so that the exponents are 1
    step = rule.next(seen)
    np.testing.assert_allclose(step.shares_M, [0.4, 0.6])
    if "loss_M" in step.kept:
        np.testing.assert_array_equal(step.kept["loss_M"], [1.0, 2.0])
    again = rule.next(inputs(step.shares_M, [2.0, 2.0], [1.0, 1.9]))
    assert again.shares_M[0] > 0.45
    np.testing.assert_allclose(again.read["share_gain"], [1.0, 0.1])


@several
@examples(30)
@given(of_m(0.01, 3, 3), st.none() | st.floats(0, 0.49), st.floats(0.1, 5), st.integers(0, 9))
def test_shares_sum_to_one_and_are_at_least_the_minimum(
    rule: Any, case: tuple[list[float], ...], lowest: float | None, rate: float, seed: int
) -> None:
    before_M, now_M, weight_M = (np.asarray(values) for values in case)
    M = len(before_M)
    lowest = 0.2 if lowest is None and isinstance(rule, ProgressShare) else lowest
    made = type(rule)(rate=rate, lowest=lowest)
    shares_M = made.next(inputs(weight_M / weight_M.sum(), before_M, now_M, held_out(seed, M))).shares_M
    assert shares_M.sum() == pytest.approx(1.0)
    assert shares_M.min() >= min(0.4 / M if lowest is None else lowest, 1 / M) - 1e-9


@examples(60)
@given(of_m(0.01, 1, 1), st.floats(0, 0.5))
def test_small_shares_are_raised_and_the_others_keep_their_proportions(
    case: tuple[list[float], ...], part: float
) -> None:
    """Losses that fall like the shares change nothing but the minimum."""
    weight_M = np.maximum(np.asarray(case[0]), 0.1)
    share_M = weight_M / weight_M.sum()
    step = BlockGainShare(1.0, lowest=part / len(share_M)).next(
        inputs(share_M, np.maximum(share_M, 0.1), np.zeros(len(share_M)))
    )
    np.testing.assert_allclose(step.shares_M, clipped(share_M.tolist(), part / len(share_M)), atol=1e-9)


@examples(60)
@given(of_m(0.2, 3, 3), st.floats(0.1, 2))
def test_log_shares_change_by_the_rate_times_the_log_of_the_progress_per_sample(
    case: tuple[list[float], ...], rate: float
) -> None:
    """For any number of modalities and without a minimum, so that shares are also below 0.1."""
    before_M, now_M, weight_M = (np.asarray(values) for values in case)
    share_M = weight_M**2 / (weight_M**2).sum()
    logs = [
        math.log(share) + rate * math.log(max(before - now, 1e-3) / max(share, 0.1))
        for share, before, now in zip(share_M, before_M, now_M, strict=True)
    ]
    expected_M = np.exp(np.asarray(logs) - max(logs))
    control = SplitStatistics(np.arange(1), np.zeros(1, np.int64), np.ones((1, 2), np.bool_), now_M[None])
    for rule in (ProgressShare(rate, 0.0), HeldOutProgressShare(rate, 0.0), BlockGainShare(rate, 0.0)):
        shares_M = rule.next(inputs(share_M, before_M, now_M, control)).shares_M
        np.testing.assert_allclose(shares_M, expected_M / expected_M.sum(), rtol=1e-6, atol=1e-6)


@examples(40)
@given(of_m(0.05, 3, 3), st.integers(0, 9))
def test_without_calibration_or_with_exponents_of_one_it_is_progress(case: tuple[list[float], ...], seed: int) -> None:
    before_M, now_M, weight_M = case
    share_M, M = np.asarray(weight_M) / sum(weight_M), len(weight_M)
    expected_M = ProgressShare(0.5, 0.4 / M).next(inputs(share_M, before_M, now_M)).shares_M
    uncalibrated = CalibratedProgressShare(calibration=0.0).next(inputs(share_M, before_M, now_M, held_out(seed, M)))
    uniform = CalibratedProgressShare().next(inputs(share_M, before_M, now_M))
    for shares_M in (uncalibrated.shares_M, uniform.shares_M):
        np.testing.assert_allclose(shares_M, expected_M, atol=1e-9)


@several
@examples(40)
@given(of_m(0.05, 3, 3), st.integers(0, 9), st.randoms(use_true_random=False))
def test_permuted_modalities_have_permuted_shares(
    rule: ShareRule, case: tuple[list[float], ...], seed: int, draw: Any
) -> None:
    before_M, now_M, weight_M = (np.asarray(values) for values in case)
    order = draw.sample(range(len(weight_M)), len(weight_M))
    control, share_M = held_out(seed, len(weight_M)), weight_M / weight_M.sum()
    shares_M = rule.next(inputs(share_M, before_M, now_M, control)).shares_M
    permuted_M = rule.next(inputs(share_M[order], before_M[order], now_M[order], columns_of(control, order))).shares_M
    np.testing.assert_allclose(permuted_M, shares_M[order], atol=1e-7)


@several
def test_a_modality_that_learns_more_gets_more(rule: ShareRule) -> None:
    found = [float(rule.next(inputs([1 / 3] * 3, [2, 2, 2], [2 - drop, 1.8, 1.8])).shares_M[0])
             for drop in (0.05, 0.2, 0.8)]  # fmt: skip
    assert found == sorted(found)
    assert found[0] < 1 / 3 - 0.05 < found[1] < 1 / 3 + 0.05 < found[2]


def test_an_overconfident_modality_gets_less() -> None:
    """Its exponent is lower, the more its logits are scaled up."""
    control, found = held_out(0, 2, samples=200), []
    assert control.log_probabilities_NMC is not None
    for scale in (1.0, 2.0, 4.0):
        logits_NMC = control.log_probabilities_NMC * np.asarray([scale, 1.0])[None, :, None]
        logs_NMC = logits_NMC - np.log(np.exp(logits_NMC).sum(axis=2, keepdims=True))
        seen = inputs([0.5, 0.5], None, [1, 1], replace(control, log_probabilities_NMC=logs_NMC))
        found.append(float(CalibratedProgressShare().next(seen).shares_M[0]))
    assert found[0] > found[1] + 0.05 > found[2] + 0.1


@examples(60)
@given(st.integers(2, 4), st.integers(1, 30), st.integers(0, 99), st.booleans())
def test_shares_by_score_are_those_of_argmin(M: int, N: int, seed: int, tied: bool) -> None:
    draw = np.random.default_rng(seed)
    scores_NM = draw.random((N, M)).round(1 if tied else 9)
    columns = draw.permutation(M).tolist()
    scored = ScoringPass(scores_NM, scores_NM)
    step = ArgminShare().next(ShareInputs(0, np.full(M, 1 / M), {}, tuple(columns), scored))
    assigned_NM = np.zeros((N, M))
    assigned_NM[:, columns] = Argmin()(scores_NM[:, columns], None, draw).assigned_NM
    np.testing.assert_allclose(step.shares_M, assigned_NM.mean(axis=0))


@pytest.mark.parametrize("rule", [FixedShare((0.5, 0.5)), ProgressShare(), ArgminShare(), BlockGainShare()])
def test_a_rule_that_does_not_read_the_control_samples_before_an_epoch_costs_no_pass(rule: ShareRule) -> None:
    def fail() -> SplitStatistics:
        raise AssertionError

    scored = ScoringPass(np.ones((3, 2)), np.ones((3, 2)))
    rule.next(ShareInputs(0, np.asarray([0.5, 0.5]), {}, (0, 1), scored, control=fail))


def planned_blocks(columns: tuple[int, ...] = (1, 0), *, joint: int = 0) -> Schedule:
    """Return an epoch of 16 samples for each modality and `joint` joint ones, in batches of 8."""
    M = len(columns)
    assigned_NM = np.concatenate([np.repeat(np.eye(M, dtype=np.bool_), 16, axis=0), np.zeros((joint, M), np.bool_)])
    assignment = Assignment(assigned_NM, np.logical_not(assigned_NM.any(axis=1)))
    return reassemble(assignment, Reassembly("blocks", columns, batch=8), np.random.default_rng(0))


@pytest.mark.parametrize("joint", [0, 8])
@pytest.mark.parametrize("columns", [(1, 0), (2, 0, 1)])
def test_the_drop_of_a_block_is_that_between_its_ends(columns: tuple[int, ...], joint: int) -> None:
    """Joint batches and what changes the weights between two epochs count for no block."""
    blocks, M = BlockLosses(columns), len(columns)
    schedule, expected_M = planned_blocks(columns, joint=joint), np.zeros(M)
    assert blocks.take() is None
    for epoch in range(2):
        loss = 4.0 - epoch
        ends = blocks.begin(loss, schedule)
        assert list(ends) == [2 * (n + 1) for n in range(M if joint else M - 1)]
        for number, column in enumerate(columns):
            drop = 0.1 * (number + 1) + 0.01 * epoch
            loss, expected_M[column] = loss - drop, expected_M[column] + drop
            if number < len(ends):
                blocks.observe(loss)
        blocks.finish(loss - 0.5 * bool(joint))
    drop_M = blocks.take()
    assert drop_M is not None
    np.testing.assert_allclose(drop_M, expected_M)
    assert blocks.take() is None


def test_losses_of_blocks_are_restored_at_any_time() -> None:
    schedule = planned_blocks()
    events: list[Callable[[BlockLosses], object]] = [
        lambda b: b.begin(2.0, schedule), lambda b: b.observe(1.5), lambda b: b.finish(1.4),
        lambda b: b.begin(1.4, schedule), lambda b: b.observe(1.2), lambda b: b.finish(0.9),
    ]  # fmt: skip
    for stop in range(7):
        blocks, other = BlockLosses((1, 0)), BlockLosses((1, 0))
        for event in events[:stop]:
            event(blocks)
        state = blocks.state()
        for event in events[stop:]:
            event(blocks)
        other.restore(state)
        for event in events[stop:]:
            event(other)
        drop_M = other.take()
        assert drop_M is not None
        np.testing.assert_allclose(drop_M, [0.1 + 0.3, 0.5 + 0.2])
