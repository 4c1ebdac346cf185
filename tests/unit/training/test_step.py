from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from remix_study.balancing import FusedLoss, Method, Step, UnimodalLosses
from remix_study.config.run import RunConfig
from remix_study.errors import TrainingError
from remix_study.sample import Batch
from remix_study.training.run import Run
from remix_study.training.step import SharedFlags, train_step
from remix_study.world import Solo

AUDIO_ONLY = np.array([[True, False]] * 6)
ROWS = np.array([3, 1, 4, 15, 9, 2])


@pytest.fixture
def run(recipe: Callable[..., RunConfig], assembled: Callable[..., Run]) -> Run:
    return assembled(recipe({"optimizer": {"name": "sgd", "learning_rate": 0.1, "momentum": 0.0}}))


def step(run: Run, batch: Batch, **changes: Any) -> torch.Tensor:
    settings: dict[str, Any] = {"autocast": False, "clip_norm": None, "at": Step(3, 7)} | changes
    return train_step(run.model, run.method, batch, len(batch.labels_B), run.optimizer, Solo(), **settings)


def buffers(module: nn.Module) -> list[torch.Tensor]:
    return [buffer.clone() for buffer in module.buffers()]


def test_skip_encoder_does_not_touch_the_inactive_encoder(run: Run) -> None:
    video, audio = run.model.encoders["video"], run.model.encoders["audio"]
    step(run, run.reader.read(ROWS, np.ones((6, 2), np.bool_)))  # gradients of an earlier step must not remain
    still, moving = buffers(video), buffers(audio)
    weights = [p.clone() for p in video.parameters()]
    step(run, run.reader.read(ROWS, AUDIO_ONLY))
    assert all(p.grad is None for p in video.parameters())
    assert all(p.grad is None for p in run.model.heads["video"].parameters())
    assert all(p.grad is not None for p in audio.parameters())
    assert all(torch.equal(a, b) for a, b in zip(still, buffers(video), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(weights, video.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(moving, buffers(audio), strict=True))
    assert run.reader.rows_read == {"audio": 12, "video": 6}


def test_a_single_row_trains_batchnorm_on_feature_maps(run: Run) -> None:
    """A mixed batch or one of many ranks may have a single row. BatchNorm sees H x W values of it, as in any batch."""
    active = np.array([[True, False]] * 5 + [[False, True]])
    batch = run.reader.read(ROWS, active)
    video = run.model.encoders["video"]
    norms = [module for module in video.modules() if isinstance(module, nn.BatchNorm2d)]
    values: dict[nn.Module, int] = {}  # per channel
    for norm in norms:
        norm.register_forward_hook(lambda norm, inputs, _: values.update({norm: inputs[0][:, 0].numel()}))
    before = {norm: buffers(norm) for norm in norms}
    run.model.train()
    step(run, batch)
    assert any(p.grad is not None and p.grad.any() for p in video.parameters())
    for norm in norms:
        unchanged = all(torch.equal(a, b) for a, b in zip(before[norm], buffers(norm), strict=True))
        assert unchanged == (values[norm] == 1)
    assert {count == 1 for count in values.values()} == {False, True}  # the last map is 1 x 1
    assert all(module.training for module in run.model.modules())


def test_zero_feature_gives_the_inactive_encoder_zero_gradients(run: Run) -> None:
    video = run.model.encoders["video"]
    before = buffers(video)
    step(run, run.reader.read(ROWS, AUDIO_ONLY, read_inactive=True))
    grads = [p.grad for p in video.parameters()]
    assert all(grad is not None and not grad.any() for grad in grads)
    assert not all(torch.equal(a, b) for a, b in zip(before, buffers(video), strict=True))  # as in the released code


def test_both_maskings_train_the_active_encoder_equally(
    recipe: Callable[..., RunConfig], assembled: Callable[..., Run]
) -> None:
    runs = [assembled(recipe()) for _ in range(2)]
    losses = [
        step(run, run.reader.read(ROWS, AUDIO_ONLY, read_inactive=all_))
        for run, all_ in zip(runs, (False, True), strict=True)
    ]
    assert torch.allclose(losses[0], losses[1])
    for one, other in zip(*(run.model.encoders["audio"].parameters() for run in runs), strict=True):
        torch.testing.assert_close(one, other)


def test_the_loss_is_the_sum_of_all_rules_over_samples(run: Run) -> None:
    active = np.array([[True, True]] * 4 + [[True, False]] * 2)
    batch = run.reader.read(ROWS, active)
    run.model.train()
    outputs = run.model(batch)  # BatchNorm in training mode only uses this batch, so that the step computes the same
    wanted = nn.functional.cross_entropy(outputs.logits_BC, batch.labels_B, reduction="none")
    for i in range(6):
        heads = ["audio", "video"] if active[i, 1] else ["audio"]
        weight = 0.5 if active[i, 1] else 1.0
        for m in heads:
            ce = nn.functional.cross_entropy(outputs.head_logits[m][i : i + 1], batch.labels_B[i : i + 1])
            wanted[i] = wanted[i] + weight * ce
    assert run.method.losses == (FusedLoss(), UnimodalLosses(0.5, 1.0))
    assert float(step(run, batch)) == pytest.approx(float(wanted.sum().detach()), rel=1e-5)


@pytest.mark.parametrize(
    ("active", "where", "terms"),
    [
        (AUDIO_ONLY, "audio", "fused, audio"),
        (~AUDIO_ONLY, "video", "fused, video"),
        (np.ones((6, 2), np.bool_), "audio, video", "fused, audio"),
    ],
)
def test_a_nan_loss_raises_with_epoch_step_and_modality(run: Run, active: Any, where: str, terms: str) -> None:
    broken = "video" if where == "video" else "audio"
    for parameter in run.model.encoders[broken].parameters():
        nn.init.constant_(parameter, float("nan"))
    before = {key: value.clone() for key, value in run.model.heads.state_dict().items()}
    with pytest.raises(TrainingError) as raised:
        step(run, run.reader.read(ROWS, active))
    message = str(raised.value)
    assert message.startswith("epoch 3, step 7: the loss must be a number, but is not")
    assert f"loss terms: {terms}; modalities trained in this step: {where})" in message
    assert "`clip_norm`" in message
    assert all(torch.equal(before[key], value) for key, value in run.model.heads.state_dict().items())


def test_all_ranks_raise_if_one_rank_has_a_nan_loss(
    recipe: Callable[..., RunConfig], assembled: Callable[..., Run], run_on_ranks: Callable[..., list[Any]]
) -> None:
    runs = [assembled(recipe(), folder=f"rank{rank}") for rank in range(2)]
    for parameter in runs[1].model.encoders["video"].parameters():
        nn.init.constant_(parameter, float("nan"))

    def work(collectives: Any) -> str:
        run = runs[collectives.world.rank]
        batch = run.reader.read(ROWS, np.ones((6, 2), np.bool_))
        with pytest.raises(TrainingError) as raised:
            train_step(
                run.model,
                run.method,
                batch,
                12,
                run.optimizer,
                collectives,
                autocast=False,
                clip_norm=None,
                at=Step(0, 0),
            )
        return str(raised.value)

    messages = run_on_ranks(2, work)
    assert "loss terms: on another worker" in messages[0]
    assert "loss terms: fused, video" in messages[1]


def test_all_ranks_count_the_ranks_that_set_a_flag(
    recipe: Callable[..., RunConfig], assembled: Callable[..., Run], run_on_ranks: Callable[..., list[Any]]
) -> None:
    runs = [assembled(recipe(), folder=f"rank{rank}") for rank in range(3)]

    def work(collectives: Any) -> tuple[int, ...]:
        rank = collectives.world.rank
        flags = SharedFlags(lambda: (rank == 1, rank > 0, True, False))
        run = runs[rank]
        batch = run.reader.read(ROWS, AUDIO_ONLY)
        train_step(
            run.model, run.method, batch, 18, run.optimizer, collectives, autocast=False, clip_norm=None, at=Step(0, 0),
            flags=flags,
        )  # fmt: skip
        assert all(p.grad is None for p in run.model.encoders["video"].parameters())
        return flags.counts

    assert run_on_ranks(3, work) == [(1, 2, 3, 0)] * 3


def test_a_single_rank_counts_its_own_flags(run: Run) -> None:
    flags = SharedFlags(lambda: (True, False))
    step(run, run.reader.read(ROWS, AUDIO_ONLY), flags=flags)
    assert flags.counts == (1, 0)


@pytest.mark.parametrize("clip_norm", [None, 0.01, 1e6])
def test_clipping_bounds_the_gradient_norm(
    recipe: Callable[..., RunConfig], assembled: Callable[..., Run], clip_norm: float | None
) -> None:
    run = assembled(recipe({"optimizer": {"name": "sgd", "learning_rate": 1.0, "momentum": 0.0, "weight_decay": 0.0}}))
    before = [p.detach().clone() for p in run.model.parameters()]
    step(run, run.reader.read(ROWS, np.ones((6, 2), np.bool_)), clip_norm=clip_norm)
    moved = [p.detach() - was for p, was in zip(run.model.parameters(), before, strict=True)]
    length = float(torch.cat([part.flatten() for part in moved]).norm())
    if clip_norm == 0.01:
        assert length == pytest.approx(0.01, rel=1e-3)
    else:
        assert length > 0.1


def test_bfloat16_trains_and_its_loss_stays_close(
    run: Run, recipe: Callable[..., RunConfig], assembled: Callable[..., Run]
) -> None:
    other = assembled(recipe())
    batch = run.reader.read(ROWS, np.ones((6, 2), np.bool_))
    exact, rough = step(run, batch), step(other, batch, autocast=True)
    assert rough.dtype == torch.float32
    assert float(rough) == pytest.approx(float(exact), rel=0.05)
    assert rough != exact  # the encoders computed in bfloat16
    assert all(p.dtype == torch.float32 for p in other.model.parameters())


def test_only_gradients_of_trained_parameters_are_summed(
    recipe: Callable[..., RunConfig], assembled: Callable[..., Run], run_on_ranks: Callable[..., list[Any]]
) -> None:
    """Rank 0 has audio only, rank 1 video only: each receives the other's gradients."""
    runs = [
        assembled(recipe({"optimizer": {"name": "sgd", "learning_rate": 0.1}}), folder=f"rank{r}") for r in range(2)
    ]

    def work(collectives: Any) -> dict[str, torch.Tensor | None]:
        run = runs[collectives.world.rank]
        batch = run.reader.read(ROWS, AUDIO_ONLY if collectives.world.rank == 0 else ~AUDIO_ONLY)
        train_step(
            run.model, run.method, batch, 12, run.optimizer, collectives, autocast=False, clip_norm=None, at=Step(0, 0)
        )
        return {name: p.grad for name, p in run.model.named_parameters()}

    one, other = run_on_ranks(2, work)
    assert all(grad is not None for grad in one.values())
    assert all(torch.equal(one[name], other[name]) for name in one)
    weights = [run.model.state_dict() for run in runs]
    trained = [name for name, _ in runs[0].model.named_parameters()]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in trained)

    def audio_only(collectives: Any) -> list[str]:
        run = runs[collectives.world.rank]
        batch = run.reader.read(ROWS, AUDIO_ONLY)
        train_step(
            run.model, run.method, batch, 12, run.optimizer, collectives, autocast=False, clip_norm=None, at=Step(0, 0)
        )
        return [name for name, p in run.model.named_parameters() if p.grad is None]

    untrained, same = run_on_ranks(2, audio_only)
    assert untrained == same
    assert untrained
    assert all(".video." in name for name in untrained)


def test_the_loss_terms_are_those_of_the_method(run: Run) -> None:
    only_fused = Method("joint", run.method.plan, (FusedLoss(),))
    batch = run.reader.read(ROWS, np.ones((6, 2), np.bool_))
    train_step(run.model, only_fused, batch, 6, run.optimizer, Solo(), autocast=False, clip_norm=None, at=Step(0, 0))
    assert all(p.grad is None for head in run.model.heads.values() for p in head.parameters())
