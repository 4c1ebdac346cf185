"""Laws of the parts that a rule may define, with rules that do nothing else"""

# N samples of a split, B samples of a batch, M modalities

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from remix_study.assemble import _parameter_groups
from remix_study.balancing import EpochStart, FusedLoss, Mask, Method, Step, StepBatch, Terms, UnimodalLosses
from remix_study.config.run import RunConfig
from remix_study.epoch import Statistic
from remix_study.models import ConcatFusion, LearnedToken
from remix_study.remix import ConstantPlan, Reassembly, everything_joint, score
from remix_study.sample import Batch
from remix_study.training.loop import train
from remix_study.training.run import Run
from remix_study.training.scoring import SplitPasses, split_pass
from remix_study.training.step import train_step
from remix_study.world import Collectives, Solo
from tests.unit.balancing.linear import ROWS, batch_of, model_of, seen

Recipe = Callable[..., RunConfig]
Assembled = Callable[..., Run]
EVERYTHING: frozenset[Statistic] = frozenset({"fused", "probabilities", "subsets", "subset_losses", "features"})
PLAN = ConstantPlan(everything_joint(ROWS, 2), Reassembly("blocks", (1, 0), ROWS), 0)


class Silent:
    """A rule without metrics and without a state."""

    name = "silent"

    def acts(self, step: Step) -> bool:
        return True

    def metrics(self) -> dict[str, float]:
        return {}

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """There is no state."""


def a_step(rules: tuple[object, ...], model: Any, batch: Any, collectives: Collectives | None = None) -> None:
    method = Method("m", PLAN, rules)
    still = torch.optim.SGD(model.parameters(), lr=0.0)
    train_step(
        model, method, batch, ROWS, still, collectives or Solo(), at=Step(0, 0), autocast=False, clip_norm=None
    )  # fmt: skip


# --- passes over a split ---------------------------------------------------------------------------------------------


def test_statistics_of_a_pass_equal_a_loop_over_samples(
    recipe: Recipe, assembled: Assembled, run_on_ranks: Callable[..., list[Any]]
) -> None:
    runs = [assembled(recipe(), f"run{n}") for n in range(2)]
    run, rows_N = runs[0], runs[0].rows["train"][:9]
    for other in runs:
        other.model.load_state_dict(run.model.state_dict())

    def work(collectives: Collectives) -> Any:
        mine = runs[collectives.world.rank]
        return split_pass(mine.model, mine.reader, rows_N, collectives, None, EVERYTHING, batch=2, autocast=False)[1]

    one, other = run_on_ranks(2, work)
    run.model.eval()
    for n, row in enumerate(rows_N):
        clip = run.reader.read(np.array([row]), np.ones((1, 2), np.bool_))
        with torch.no_grad():
            features = {m: run.model.encode(m, clip.inputs[m]) for m in run.model.modalities}
            logs = [run.model.classify(m, features[m]).log_softmax(dim=1)[0] for m in run.model.modalities]
        label = int(clip.labels_B)
        assert one.labels_N[n] == label
        for m, name in enumerate(run.model.modalities):
            np.testing.assert_allclose(one.features[name][n], features[name][0], atol=1e-5)
            np.testing.assert_allclose(one.log_probabilities_NMC[n, m], logs[m], atol=1e-4)
            np.testing.assert_allclose(one.cross_entropy_NM[n, m], -logs[m][label], atol=1e-4)
        for subset, right_N in one.right.items():
            active = torch.tensor([[m in subset for m in run.model.modalities]])
            fused = run.model.fuse(features, active)[0]
            assert right_N[n] == (int(fused.argmax()) == label)
            lost = -fused.log_softmax(dim=0)[label].detach()
            np.testing.assert_allclose(one.subset_cross_entropy[subset][n], lost, atol=1e-4)
        loss = float(-fused.log_softmax(dim=0)[label].detach())  # of the last subset, which has all modalities
        assert one.fused_cross_entropy_N[n] == pytest.approx(loss, abs=1e-4)
    np.testing.assert_array_equal(one.log_probabilities_NMC, other.log_probabilities_NMC)


def test_a_pass_is_shared_by_the_plan_and_all_rules_until_the_model_changes(
    recipe: Recipe, assembled: Assembled
) -> None:
    run = assembled(recipe())
    passes = SplitPasses(run.model, run.reader, run.rows, Solo(), 64, False)
    passes.wanted = frozenset({"fused"})
    scored = passes.score(partial(score, "kl"))
    samples = len(run.rows["train"])
    assert passes.train().cross_entropy_NM is scored.cross_entropy_NM
    assert passes.train().fused_cross_entropy_N is not None
    assert passes.evaluated == samples
    passes.forget()
    passes.train()
    assert passes.evaluated == 2 * samples


class Beginning(Silent):
    """Notes when it acts, and sets a head's bias if it changes the model."""

    needs: frozenset[Statistic] = frozenset()

    def __init__(self, name: str, changes_model: bool, log: list[Any]) -> None:
        self.name, self.changes_model, self._log = name, changes_model, log

    def due(self, epoch: int) -> bool:
        return epoch == 1

    def begin(self, start: EpochStart) -> None:
        self._log.append((self.name, float(start.passes.train().cross_entropy_NM[0, 0])))
        if self.changes_model:
            with torch.no_grad():
                next(iter(start.model.head_parameters("audio"))).zero_()


def test_rules_that_change_the_model_act_before_the_plan_and_the_other_rules(
    recipe: Recipe, assembled: Assembled
) -> None:
    """The plan and the rules after it see the changed model, in one pass."""
    run = assembled(recipe({"epochs": 2}))
    log: list[Any] = []
    rules = (*run.method.rules, Beginning("after", False, log), Beginning("before", True, log))
    found = train(replace(run, method=replace(run.method, rules=rules)))
    assert [name for name, _ in log] == ["before", "after"]
    assert log[1][1] != log[0][1]
    plain = train(assembled(recipe({"epochs": 2}), "plain"))
    cost = [result.history[1]["train/multiply_adds"] for result in (found, plain)]
    assert cost[0] > cost[1]  # the pass before the change is counted


# --- parts of a step -------------------------------------------------------------------------------------------------


class HideVideo(Silent):
    """Hides the video of the first samples."""

    def __init__(self, count: int, factor: float | None = None) -> None:
        self._count, self._factor = count, factor

    def mask(self, batch: StepBatch) -> Mask:
        kept_BM = torch.ones_like(batch.active_BM)
        kept_BM[: self._count, 1] = False
        return Mask(kept_BM, None if self._factor is None else torch.tensor(self._factor))


def test_a_masked_modality_gets_neither_loss_nor_gradient(a_model: Any) -> None:
    batch = batch_of(a_model)
    a_step((FusedLoss(), UnimodalLosses(1.0, 1.0), HideVideo(ROWS)), a_model, batch)
    assert all(not p.grad.any() for p in a_model.encoder_parameters("video"))
    assert all(p.grad is None for p in a_model.head_parameters("video"))
    assert all(p.grad.any() for p in a_model.encoder_parameters("audio"))


def test_a_masked_modality_is_replaced_as_an_inactive_one(a_model: Any) -> None:
    a_model.masking = LearnedToken(a_model.widths)
    a_step((FusedLoss(), HideVideo(2)), a_model, batch_of(a_model))
    assert a_model.masking.tokens["video"].grad.any()
    assert a_model.masking.tokens["audio"].grad is None


def test_masks_and_factors_equal_the_fusion_of_masked_features(a_model: Any) -> None:
    batch = batch_of(a_model)
    a_step((FusedLoss(), HideVideo(2, factor=1.5)), a_model, batch)
    found = {name: p.grad.clone() for name, p in a_model.named_parameters() if p.grad is not None}
    a_model.zero_grad()
    features = {m: 1.5 * a_model.encode(m, batch.inputs[m]) for m in a_model.modalities}
    features["video"] = features["video"] * (torch.arange(ROWS) >= 2)[:, None]
    logits_BC = a_model.fusion(features, batch.active_BM, {})
    torch.autograd.backward(torch.nn.functional.cross_entropy(logits_BC, batch.labels_B))
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, dict(a_model.named_parameters())[name].grad)


class HideAll(HideVideo):
    """Hides the video of the first samples, and all modalities of the second one."""

    removes = True

    def mask(self, batch: StepBatch) -> Mask:
        active_BM = super().mask(batch).active_BM
        active_BM[batch.samples_B == 1] = False
        return Mask(active_BM)


@pytest.mark.parametrize("size", [1, 2])
def test_samples_without_modalities_are_removed_from_the_mean(
    a_model: Any, run_on_ranks: Callable[..., list[Any]], size: int
) -> None:
    """Equal on all ranks, also for a rank of which no sample is left."""
    whole = batch_of(a_model)
    rules = (FusedLoss(), UnimodalLosses(1.0, 1.0), HideAll(0))
    kept = [0, 1] if size == 2 else list(range(ROWS))

    def work(collectives: Collectives) -> dict[str, torch.Tensor]:
        model = copy.deepcopy(a_model)
        a_step(rules, model, _rows(whole, kept[collectives.world.rank :: size]), collectives)
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    rest = _rows(whole, [row for row in kept if row != 1])
    losses = FusedLoss(), UnimodalLosses(1.0, 1.0)
    terms: Terms = {}
    for loss in losses:
        terms = loss.loss(seen(a_model, rest), terms)
    torch.autograd.backward(torch.stack([term.sum() for term in terms.values()]).sum() / len(rest.labels_B))
    for found in run_on_ranks(size, work):
        for name, p in a_model.named_parameters():
            torch.testing.assert_close(found[name], p.grad)


def _rows(batch: Batch, rows: list[int]) -> Batch:
    inputs = {m: x[rows] for m, x in batch.inputs.items()}
    return replace(
        batch, inputs=inputs, active_BM=batch.active_BM[rows], labels_B=batch.labels_B[rows],
        samples_B=batch.samples_B[rows],
    )  # fmt: skip


class Total(Silent):
    """Adds a loss that depends on a sum over the global batch."""

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def sums_before(self, batch: StepBatch) -> torch.Tensor:
        return batch.outputs.features["audio"].sum(dim=0)

    def loss(self, batch: StepBatch, terms: Terms) -> Terms:
        self.seen.append(batch.totals[self.name])
        return terms


def test_sums_before_the_losses_are_those_of_the_global_batch(
    a_model: Any, run_on_ranks: Callable[..., list[Any]]
) -> None:
    whole = batch_of(a_model)
    expected = a_model(whole).features["audio"].sum(dim=0)

    def work(collectives: Collectives) -> torch.Tensor:
        rule, model = Total(), copy.deepcopy(a_model)
        part = _rows(whole, list(range(collectives.world.rank, ROWS, 2)))
        a_step((FusedLoss(), rule), model, part, collectives)
        return rule.seen[0]

    for found in run_on_ranks(2, work):
        torch.testing.assert_close(found, expected.detach())


class Slower(Silent):
    def factors(self) -> Mapping[str, float]:
        return {"video": 0.0}


def test_a_factor_of_the_learning_rate_is_that_of_one_encoder(recipe: Recipe, assembled: Assembled) -> None:
    run = assembled(recipe({"epochs": 1, "method": {"name": "joint"}, "optimizer": {"name": "sgd", "learning_rate": 0.1,
                                                                                    "weight_decay": 0.0}}))  # fmt: skip
    before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    method = replace(run.method, rules=(*run.method.rules, Slower()))
    groups = _parameter_groups(run.model, method)
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    assert sorted(str(group.get("modality")) for group in groups) == ["None", "audio", "video"]
    train(replace(run, method=method, optimizer=optimizer))
    moved = {name for name, p in run.model.named_parameters() if not torch.equal(p, before[name])}
    assert not any(name.startswith("encoders.video") for name in moved)
    assert any(name.startswith("encoders.audio") for name in moved)


class Combines(Silent):
    def combine(self, alone: Mapping[str, Mapping[torch.nn.Parameter, torch.Tensor]]) -> None:
        """Leave the gradients of all other losses."""


def test_at_most_one_rule_combines_gradients() -> None:
    with pytest.raises(ValueError, match="at most one rule"):
        Method("m", PLAN, (Combines(), Combines()))


@pytest.fixture
def a_model() -> Any:
    return model_of(ConcatFusion)


class Adding(Silent):
    """A loss rule that asks for a sum of one precision, and notes that of the total."""

    def __init__(self, name: str, dtype: torch.dtype) -> None:
        self.name, self._dtype, self.found = name, dtype, torch.bool

    def sums_before(self, batch: StepBatch) -> torch.Tensor:
        return torch.ones(1, dtype=self._dtype)

    def loss(self, batch: StepBatch, terms: Terms) -> Terms:
        self.found = batch.totals[self.name].dtype
        return terms


def test_sums_of_each_rule_keep_their_precision() -> None:
    """Float64 sums of one rule would otherwise make the losses of others float64."""
    model = model_of(ConcatFusion)
    rules = (Adding("single", torch.float32), Adding("double", torch.float64))
    a_step((FusedLoss(), *rules), model, batch_of(model))
    assert [rule.found for rule in rules] == [torch.float32, torch.float64]
