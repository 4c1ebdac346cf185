"""Accumulated updates of encoders in mixed batches, and micro-batches; without BatchNorm, which sees other batches"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from remix_study.balancing import Step
from remix_study.config.run import RunConfig
from remix_study.epoch import NO_SAMPLE, Schedule
from remix_study.errors import NotANumberError
from remix_study.training import steps
from remix_study.training.checkpoint import LAST
from remix_study.training.loop import train
from remix_study.training.run import Run
from remix_study.training.step import train_step
from remix_study.world import Collectives, Solo

Recipe = Callable[..., RunConfig]
Assembled = Callable[..., Run]
OnRanks = Callable[[int, Callable[[Collectives], Any]], list[Any]]

Settings = dict[str, Any]
# Unequal shares and joint samples. Assigned at random, so that the assignment does not depend on the weights.
REMIX: Settings = {
    "name": "remix",
    "warmup": 0,
    "filter": {"rule": "random"},
    "share": {"kind": "fixed", "parts": {"audio": 0.3, "video": 0.7}},
    "joint_share": 0.2,
}
BLOCKS: Settings = {"method": REMIX, "global_batch": 18, "smallest_batch": 6, "workers": 3}
ACCUMULATED: Settings = {**BLOCKS, "method": {**REMIX, "order": "mixed", "accumulate": True}}
SGD: Settings = {"optimizer": {"name": "sgd", "learning_rate": 0.05, "momentum": 0.9}}
FROZEN: Settings = {
    "epochs": 1,
    "optimizer": {"name": "sgd", "learning_rate": 1e-30, "momentum": 0.0, "weight_decay": 0.0},
}

Gradients = dict[str, list[torch.Tensor]]  # modality -> the gradients of its optimizer steps, each flattened


def own(run: Run, m: str) -> list[nn.Parameter]:
    """Return the parameters of the encoder and the head of a modality."""
    return [*run.model.encoders[m].parameters(), *run.model.heads[m].parameters()]


def gradients_of(run: Run) -> Gradients:
    """Train a run; return the gradients of all optimizer steps."""
    found: Gradients = {m: [] for m in run.model.modalities}

    def record(*_: Any) -> None:
        for m, gradients in found.items():
            held = [p.grad for p in own(run, m) if p.grad is not None]
            assert len(held) in (0, len(own(run, m)))
            if held:
                gradients.append(torch.cat([grad.flatten() for grad in held]))

    run.optimizer.register_step_pre_hook(record)
    train(run)
    return found


def assert_same_gradients(one: Gradients, other: Gradients) -> None:
    """Joint batches are at other places of the epoch, so gradients are compared in the order of their norm."""
    for m, gradients in one.items():
        assert len(gradients) == len(other[m])
        pairs = zip(*(sorted(each, key=lambda g: float(g.norm())) for each in (gradients, other[m])), strict=True)
        for a, b in pairs:
            assert a.norm() > 0
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5 * float(b.norm()))


def planned(run: Run, epoch: int = 0) -> Schedule:
    return run.method.plan.plan(epoch, lambda _: pytest.fail("needs no scores")).schedule


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("fusion", ["concat", "decision"])
def test_encoders_get_the_gradients_of_the_blocked_batches(
    recipe: Recipe, without_batchnorm: Assembled, run_on_ranks: OnRanks, ranks: int, fusion: str
) -> None:
    """At constant weights, on any number of ranks, and whether or not a step completes an update."""
    change = {**FROZEN, "model.fusion": fusion}
    blocked = gradients_of(without_batchnorm(recipe({**BLOCKS, **change}), "blocked"))
    config = recipe({**ACCUMULATED, **change})

    def work(collectives: Collectives) -> Gradients:
        return gradients_of(without_batchnorm(config, "ranks", collectives=collectives))

    assert {len(gradients) for gradients in blocked.values()} != {1}
    for found in run_on_ranks(ranks, work):
        assert_same_gradients(found, blocked)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_an_accumulated_update_equals_that_of_the_blocked_batch(
    recipe: Recipe, without_batchnorm: Assembled, optimizer: str
) -> None:
    """`decision` fusion has no parameters, so that nothing else moves until the first update of a modality."""
    change = {
        "model.fusion": "decision", "method.joint_share": 0.0, "optimizer": {"name": optimizer, "learning_rate": 0.05}
    }  # fmt: skip

    class Enough(Exception):  # noqa: N818 - not an error
        pass

    def first_update(run: Run, m: str) -> torch.Tensor:
        before = torch.cat([p.detach().flatten() for p in own(run, m)])

        def stop(*_: Any) -> None:
            if not torch.equal(before, torch.cat([p.detach().flatten() for p in own(run, m)])):
                raise Enough

        run.optimizer.register_step_post_hook(stop)
        with pytest.raises(Enough):
            train(run)
        return torch.cat([p.detach().flatten() for p in own(run, m)]) - before

    for m in ("audio", "video"):
        one, other = (first_update(without_batchnorm(recipe({**settings, **change}), f"{m}-{number}"), m)
                      for number, settings in enumerate((BLOCKS, ACCUMULATED)))  # fmt: skip
        assert other.norm() > 0
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_nothing_of_an_encoder_changes_between_its_updates(
    recipe: Recipe, assembled: Assembled, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    """Neither weights nor momentum or moments, in spite of weight decay; the fusion moves in every step."""
    settings = {"name": optimizer, "learning_rate": 0.01, "weight_decay": 0.1}
    run = assembled(recipe({**ACCUMULATED, "epochs": 2, "optimizer": settings}))
    changed: list[list[str]] = []

    def state(parameters: list[nn.Parameter]) -> torch.Tensor:
        values = [v for p in parameters for v in (p, *run.optimizer.state[p].values()) if v is not None]
        return torch.cat([torch.as_tensor(value).detach().flatten() for value in values])

    def recorded(*args: Any, **kwargs: Any) -> torch.Tensor:
        parts = {m: own(run, m) for m in run.model.modalities} | {"fusion": list(run.model.fusion.parameters())}
        before = {name: state(parameters) for name, parameters in parts.items()}
        loss = train_step(*args, **kwargs)
        changed.append([name for name, parameters in parts.items() if not torch.equal(before[name], state(parameters))])
        return loss

    monkeypatch.setattr(steps, "train_step", recorded)
    train(run)
    wanted = []
    for epoch in range(2):
        schedule = planned(run, epoch)
        assert schedule.update_TB is not None
        for step, row in enumerate(schedule.update_TB):
            later = schedule.update_TB[step + 1 :]
            complete = [u for u in np.unique(row[row != NO_SAMPLE]) if u not in later]
            moved = schedule.active_TBM[np.isin(schedule.update_TB, complete)].any(axis=0)
            wanted.append([*np.asarray(run.reader.modalities)[moved].tolist(), "fusion"])
    assert changed == wanted
    assert {tuple(names) for names in changed} > {("fusion",)}


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_any_number_of_ranks_trains_the_same(
    recipe: Recipe, without_batchnorm: Assembled, run_on_ranks: OnRanks, ranks: int
) -> None:
    config = recipe({**ACCUMULATED, **SGD, "epochs": 3, "clip_norm": 1.0})
    alone = without_batchnorm(config, "alone")
    train(alone)

    def work(collectives: Collectives) -> dict[str, torch.Tensor]:
        run = without_batchnorm(config, "ranks", collectives=collectives)
        train(run)
        return run.model.state_dict()

    for weights in run_on_ranks(ranks, work):
        torch.testing.assert_close(weights, alone.model.state_dict(), rtol=1e-3, atol=1e-4)


METHODS: dict[str, Settings] = {
    "joint": {"method": {"name": "joint"}},
    "joint_unimodal": {"method": {"name": "joint_unimodal"}},
    "unimodal": {"method": {"name": "unimodal", "modality": "audio"}},
    "blocks": BLOCKS,
    "mixed": {**BLOCKS, "method": {**REMIX, "order": "mixed"}},
    "accumulated": ACCUMULATED,
    "zero_feature": {**BLOCKS, "masking": "zero_feature"},
    "warm-up": {**ACCUMULATED, "method": {**ACCUMULATED["method"], "warmup": 1}},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_updates_and_samples_of_each_encoder_are_counted(recipe: Recipe, assembled: Assembled, name: str) -> None:
    """Adam counts its own steps."""
    run = assembled(recipe({**METHODS[name], "epochs": 2, "optimizer": {"name": "adam"}}))
    found = train(run)
    for m in run.model.modalities:
        weight = next(run.model.encoders[m].parameters())
        assert found.summary[f"train/total_updates/{m}"] == int(run.optimizer.state[weight]["step"])
        assert found.summary[f"train/total_updates/{m}"] == sum(r[f"train/updates/{m}"] for r in found.history)
        assert found.summary[f"train/total_samples/{m}"] == sum(r[f"train/samples/{m}"] for r in found.history)
    samples = [sum(r[f"train/samples/{m}"] for m in run.model.modalities) for r in found.history]
    joint = [r.get("remix/joint_share", 1.0) * 96 * (len(run.model.modalities) - 1) for r in found.history]
    added = [s - r["train/samples"] - j for s, r, j in zip(samples, found.history, joint, strict=True)]
    assert all(0 <= number < 6 for number in added)  # joint samples that fill up a batch count twice


def test_accumulation_gives_encoders_the_updates_of_blocks_and_mixed_batches_do_not(
    recipe: Recipe, assembled: Assembled
) -> None:
    blocks, accumulated, mixed = (
        train(assembled(recipe({**METHODS[name], "epochs": 2}), name)) for name in ("blocks", "accumulated", "mixed")
    )
    for m in ("audio", "video"):
        for what in ("updates", "samples"):
            key = f"train/{what}/{m}"
            assert [r[key] for r in accumulated.history] == [r[key] for r in blocks.history]
        assert mixed.summary[f"train/total_updates/{m}"] > blocks.summary[f"train/total_updates/{m}"]


def test_a_run_of_an_older_version_has_no_totals(recipe: Recipe, assembled: Assembled) -> None:
    """It is resumed; the counts of its first epoch are not known."""
    config = recipe({"epochs": 2})
    run = assembled(config)
    train(run)
    content = run.checkpoints.load(LAST)
    assert content is not None
    older = content["history"]
    for name in ("updates", "samples"):
        older = older.replace(f'"train/{name}/audio"', f'"older/{name}/audio"', 1)
    run.checkpoints.save(LAST, content | {"history": older})
    summary = train(assembled(config)).summary
    assert "train/total_updates/audio" not in summary
    assert "train/total_samples/audio" not in summary
    assert summary["train/total_updates/video"] > 0


# --- micro-batches ---------------------------------------------------------------------------------------------------


def weights_of(run: Run) -> dict[str, torch.Tensor]:
    train(run)
    return run.model.state_dict()


@pytest.mark.parametrize(
    "name",
    [
        *[pytest.param(name, marks=pytest.mark.slow)
          for name in ("joint_unimodal", "unimodal", "blocks", "mixed", "zero_feature")],
        "accumulated",
    ],
)  # fmt: skip
def test_micro_batches_train_the_same(recipe: Recipe, without_batchnorm: Assembled, name: str) -> None:
    """Also if each holds one sample, or more than a batch has."""
    change = {**METHODS[name], **SGD, "clip_norm": 1.0}
    whole = weights_of(without_batchnorm(recipe(change), "whole"))
    for micro in (1, 5, 7, 1000):
        run = without_batchnorm(recipe({**change, "micro_batch": micro}), f"micro{micro}")
        torch.testing.assert_close(weights_of(run), whole, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["blocks", "accumulated"])
def test_micro_batches_train_the_same_on_ranks(
    recipe: Recipe, without_batchnorm: Assembled, run_on_ranks: OnRanks, name: str
) -> None:
    change = {**METHODS[name], **SGD}
    whole = weights_of(without_batchnorm(recipe(change), "whole"))
    config = recipe({**change, "micro_batch": 4})
    for weights in run_on_ranks(2, lambda ranks: weights_of(without_batchnorm(config, "ranks", collectives=ranks))):
        torch.testing.assert_close(weights, whole, rtol=1e-3, atol=1e-4)


def test_no_more_than_a_micro_batch_goes_through_the_model(recipe: Recipe, assembled: Assembled) -> None:
    run = assembled(recipe({**ACCUMULATED, "micro_batch": 5, "evaluation.clash_every": 2}))
    seen: list[int] = []

    def record(encoder: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if encoder.training:
            seen.append(len(inputs[0]))

    for encoder in run.model.encoders.values():
        encoder.register_forward_pre_hook(record)
    train(run)
    assert max(seen) <= 5


def test_a_nan_loss_in_a_micro_batch_raises(recipe: Recipe, assembled: Assembled) -> None:
    run = assembled(recipe())
    for parameter in run.model.encoders["video"].parameters():
        nn.init.constant_(parameter, float("nan"))
    active = [np.array([[True, False]] * 3), np.array([[False, True]] * 3)]
    batches = [run.reader.read(np.arange(3), each) for each in active]
    before = {key: value.clone() for key, value in run.model.state_dict().items()}
    with pytest.raises(NotANumberError, match=r"loss terms: fused, video; modalities .* step: audio, video\)"):
        train_step(run.model, run.method, iter(batches), 6, run.optimizer, Solo(), autocast=False, clip_norm=None,
                   at=Step(3, 7))  # fmt: skip
    trained = [name for name, _ in run.model.named_parameters() if ".video." not in name]
    assert all(torch.equal(before[name], run.model.state_dict()[name]) for name in trained)
