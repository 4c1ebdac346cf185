"""AUG against its formulas, sample by sample"""

# B samples of a batch, M modalities, C classes

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch

from remix_study.balancing import CrossEntropy, FusedLoss, Step, Terms, UnimodalLosses, Window
from remix_study.balancing.aug import AUG, checks
from remix_study.models import ConcatFusion, DecisionFusion, MultimodalModel
from remix_study.seeds import DrawFrom, torch_stream
from tests.unit.balancing.linear import ROWS, batch_of, model_of, seen
from tests.unit.balancing.passes import FixedPasses, start, statistics

TWO, THREE = ("audio", "video"), ("audio", "text", "video")


def boosted(modalities: tuple[str, ...] = TWO, fusion: Any = ConcatFusion, **heads: int) -> MultimodalModel:
    """A model whose modalities have as many heads as given, all with random weights."""
    model = model_of(fusion, modalities)
    model.prepare_heads(3)
    with torch.no_grad():
        for number, p in enumerate(model.heads.parameters()):
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(number)))
    for m, count in heads.items():
        for _ in range(count - 1):
            model.add_head(m)
    return model


def rule_of(model: MultimodalModel, **others: Any) -> AUG:
    return AUG(
        model.modalities, others.get("every", 2), others.get("threshold", 0.01), others.get("weight", 0.8),
        others.get("residual", 0.5), others.get("fused_weight", 1.0), window=others.get("window", Window()),
        cross_entropy=CrossEntropy(),
    )  # fmt: skip


def terms_of(model: MultimodalModel, rule: AUG, active: np.ndarray | None = None) -> tuple[Terms, Terms, Any]:
    batch = seen(model, batch_of(model, active), Step(2, 0, ROWS))
    terms = UnimodalLosses(1.0, 1.0).loss(batch, FusedLoss().loss(batch, {}))
    return terms, rule.loss(batch, terms), batch


def cross_entropy(logits: list[float], label: int) -> float:
    largest = max(logits)
    return largest + math.log(sum(math.exp(each - largest) for each in logits)) - logits[label]


def heads_of(model: MultimodalModel, m: str, feature_d: torch.Tensor, count: int) -> list[list[float]]:
    """The logits of each head, from its weights."""
    p = dict(model.named_parameters())
    found = [p[f"heads.{m}.weight"] @ feature_d + p[f"heads.{m}.bias"]]
    for number in range(count - 1):
        at = f"heads.{m}.further.{number}"
        hidden = (p[f"{at}.0.weight"] @ feature_d + p[f"{at}.0.bias"]).clamp(min=0)
        found.append(p[f"{at}.2.weight"] @ hidden + p[f"{at}.2.bias"])
    return [each.tolist() for each in found]


@pytest.mark.parametrize(("modalities", "counts"), [(TWO, (1, 2)), (TWO, (3, 1)), (THREE, (2, 4, 1))])
@torch.no_grad()
def test_every_head_learns_and_the_last_less_of_what_those_before_it_know(
    modalities: tuple[str, ...], counts: tuple[int, ...]
) -> None:
    heads = dict(zip(modalities, counts, strict=True))
    model = boosted(modalities, **heads)
    rule = rule_of(model)
    before, after, batch = terms_of(model, rule)
    assert after.keys() == before.keys() | {f"aug/{m}" for m, count in heads.items() if count > 1}
    assert torch.equal(after["fused"], before["fused"])
    for m, count in heads.items():
        own, whole = [], []
        for row in range(ROWS):
            label = int(batch.labels_B[row])
            logits = heads_of(model, m, batch.outputs.features[m][row], count)
            total = [sum(column) for column in zip(*logits, strict=True)]
            previous = [sum(column) for column in zip(*logits[:-1], strict=True)] or total
            known = math.exp(-cross_entropy(previous, label))
            last = cross_entropy(logits[-1], label)
            whole.append(cross_entropy(total, label))
            own.append(0.8 * (cross_entropy(previous, label) + last - 0.5 * known * last))
        torch.testing.assert_close(after[m], torch.tensor(whole), rtol=1e-4, atol=1e-4)
        assert torch.equal(after[m], before[m])
        if count > 1:
            torch.testing.assert_close(after[f"aug/{m}"], torch.tensor(own), rtol=1e-4, atol=1e-4)
    assert rule.metrics() == {f"method/aug/heads/{m}": count for m, count in heads.items()}


def test_what_the_heads_before_know_passes_no_gradient() -> None:
    """The weight of the last loss is a constant: else the heads before it would learn to know less."""
    model = boosted(audio=2)
    rule = rule_of(model, weight=1.0)
    _, after, batch = terms_of(model, rule)
    previous_BC, last_BC = model.classify_each("audio", batch.outputs.features["audio"])
    known_B = previous_BC.softmax(dim=1)[range(ROWS), batch.labels_B].tolist()
    ce = CrossEntropy()
    wished = ce(previous_BC, batch.labels_B) + (1 - 0.5 * torch.tensor(known_B)) * ce(last_BC, batch.labels_B)
    parameters = list(model.heads["audio"].parameters())[:-4]  # without the heads that are not in use
    found = torch.autograd.grad(after["aug/audio"].sum(), parameters, retain_graph=True, allow_unused=True)
    expected = torch.autograd.grad(wished.sum(), parameters, allow_unused=True)
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("modalities", [TWO, THREE], ids=len)
def test_the_modality_with_the_lowest_probability_gets_a_head(modalities: tuple[str, ...]) -> None:
    model = boosted(modalities)
    found = statistics(model, batch_of(model))
    mean = {m: math.fsum(math.exp(-ce) for ce in column) / ROWS
            for m, column in zip(model.modalities, found.cross_entropy_NM.T.tolist(), strict=True)}  # fmt: skip
    weakest = min(mean, key=lambda m: mean[m])
    gap = max(mean.values()) / mean[weakest] - 1
    for threshold, grown in ((gap * 0.99, True), (gap * 1.01, False)):
        model = boosted(modalities)
        rule = rule_of(model, threshold=threshold)
        rule.begin(start(2, model, FixedPasses(found)))
        counts = {m: len(model.classify_each(m, torch.zeros(1, model.widths[m]))) for m in modalities}
        assert counts == {m: 2 if grown and m == weakest else 1 for m in modalities}
        assert rule.metrics() == pytest.approx({f"method/aug/probability/{m}": p for m, p in mean.items()})


def test_a_new_head_changes_no_prediction_and_then_learns() -> None:
    model = model_of(ConcatFusion)
    model.prepare_heads(2)
    data = batch_of(model)
    before = model(data).head_logits["audio"]
    model.add_head("audio")
    torch.testing.assert_close(model(data).head_logits["audio"], before, rtol=0, atol=0)
    _, after, _ = terms_of(model, rule_of(model))
    torch.autograd.backward(after["aug/audio"].sum())
    parameters = dict(model.named_parameters())
    used, unused = (parameters[f"heads.audio.further.{number}.2.weight"].grad for number in (0, 1))
    assert used is not None
    assert used.any()
    assert unused is None


def test_heads_change_no_other_initial_weight() -> None:
    models = []
    for further in (0, 3):
        with DrawFrom(torch_stream(0, "model")):
            models.append(model_of(ConcatFusion))
            if further:
                models[-1].prepare_heads(further)
    plain, more = (model.state_dict() for model in models)
    assert all(torch.equal(more[name], value) for name, value in plain.items())


def test_a_checkpoint_has_one_shape_and_keeps_the_heads_in_use() -> None:
    grown, fresh = boosted(audio=3), boosted()
    state = copy.deepcopy(grown.state_dict())
    assert {name: value.shape for name, value in state.items()} == {n: v.shape for n, v in fresh.state_dict().items()}
    fresh.load_state_dict(state)
    data = batch_of(grown)
    for m in TWO:
        assert torch.equal(fresh(data).head_logits[m], grown(data).head_logits[m])
    fresh.add_head("audio")
    with pytest.raises(ValueError, match="all 4 heads are in use"):
        fresh.add_head("audio")
    with pytest.raises(ValueError, match="prepare_heads"):
        model_of(ConcatFusion).add_head("audio")


def test_the_head_of_an_inactive_modality_sees_zeros() -> None:
    model = boosted(fusion=DecisionFusion, video=2)
    data = batch_of(model, np.tile([True, False], (ROWS, 1)))
    alone = batch_of(model, np.tile([True, False], (ROWS, 1)))
    alone = type(data)(data.modalities, {"audio": data.inputs["audio"]}, *(
        getattr(data, name) for name in ("active_BM", "labels_B", "samples_B")
    ))  # fmt: skip
    torch.testing.assert_close(model(alone).logits_BC, model(data).logits_BC)


def test_a_unimodal_batch_trains_the_heads_of_its_modality() -> None:
    model = boosted(audio=2, video=2)
    active = np.tile([True, False], (ROWS, 1))
    _, after, _ = terms_of(model, rule_of(model), active)
    assert after.keys() == {"fused", "audio", "aug/audio"}
    mixed = np.array([[True, False], [True, True], [False, True]] * 2)
    _, after, _ = terms_of(model, rule_of(model), mixed)
    assert (after["aug/audio"] != 0).tolist() == mixed[:, 0].tolist()


def test_without_the_fused_loss_the_modalities_are_trained_apart() -> None:
    model = boosted(fusion=DecisionFusion, audio=2)
    before, after, _ = terms_of(model, rule_of(model, fused_weight=0.0))
    assert before["fused"].any()
    assert not after["fused"].any()


def test_it_checks_every_few_epochs_within_its_window() -> None:
    model = boosted()
    rule = rule_of(model, every=3, window=Window(1, 9))
    assert [epoch for epoch in range(20) if rule.due(epoch)] == [4, 7] == list(checks(Window(1, 9), 3, 20))
    assert list(checks(Window(0), 20, 60)) == [20, 40]
    assert list(checks(Window(5), 20, 10)) == []
    before, after, _ = terms_of(model, rule_of(model, window=Window(3)))
    assert after is before


def test_its_state_resumes_exactly() -> None:
    model = boosted(audio=2)
    rule = rule_of(model)
    rule.begin(start(2, model, FixedPasses(statistics(model, batch_of(model)))))
    terms_of(model, rule)
    again = rule_of(model)
    again.restore(rule.state())
    assert again.metrics() == rule.metrics() != {}
