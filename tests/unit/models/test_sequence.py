"""The sequence encoder: independence of rows and padding, dependence on the order of steps"""

import pytest
import torch

from remix_study.models.sequence import SequenceEncoder


@pytest.fixture
def encoder() -> SequenceEncoder:
    torch.manual_seed(0)
    return SequenceEncoder(6, width=16)


def padded(x: torch.Tensor, steps: int) -> torch.Tensor:
    return torch.cat([x, x.new_zeros(len(x), steps, x.shape[2])], dim=1)


def test_a_sequence_of_any_length_becomes_one_vector(encoder: SequenceEncoder) -> None:
    for steps in (1, 5, 60):
        assert encoder(torch.randn(3, steps, 6)).shape == (3, encoder.out_features) == (3, 16)


@pytest.mark.parametrize("training", [False, True])
def test_rows_do_not_depend_on_each_other(encoder: SequenceEncoder, training: bool) -> None:
    encoder.train(training)
    x = torch.randn(4, 7, 6)
    alone = torch.cat([encoder(row[None]) for row in x])
    torch.testing.assert_close(encoder(x), alone, rtol=1e-5, atol=1e-6)


def test_padding_does_not_change_the_output(encoder: SequenceEncoder) -> None:
    x = torch.randn(4, 7, 6)
    torch.testing.assert_close(encoder(padded(x, 9)), encoder(x), rtol=1e-5, atol=1e-6)


def test_padding_gets_no_gradient(encoder: SequenceEncoder) -> None:
    x = padded(torch.randn(2, 3, 6), 2).requires_grad_()
    encoder(x).square().sum().backward()
    assert x.grad is not None
    assert x.grad[:, :3].abs().amax(dim=2).gt(0).all()
    assert not x.grad[:, 3:].any()


def test_a_row_without_any_step_is_zero_and_trains(encoder: SequenceEncoder) -> None:
    x = torch.randn(2, 4, 6)
    x[1] = 0
    features = encoder(x)
    assert not features[1].any()
    features.square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in encoder.parameters())


def test_the_order_of_steps_matters(encoder: SequenceEncoder) -> None:
    x = torch.randn(2, 7, 6)
    assert not torch.allclose(encoder(x), encoder(x.flip(1)), atol=1e-3)


def test_blocks_have_different_initial_weights(encoder: SequenceEncoder) -> None:
    one, other = (block.get_parameter("asked.weight") for block in encoder.blocks)
    assert not torch.equal(one, other)


@pytest.mark.slow
def test_it_learns_which_of_two_steps_is_first(encoder: SequenceEncoder) -> None:
    """A mean over time does not contain this information."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 2, (256,), generator=generator)
    x = 0.1 * torch.randn(256, 8, 6, generator=generator)
    x[torch.arange(256), 2, labels] += 3.0
    x[torch.arange(256), 5, 1 - labels] += 3.0
    head = torch.nn.Linear(16, 2)
    optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=3e-3)
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(head(encoder(x)), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
    assert head(encoder(x)).argmax(1).eq(labels).float().mean() > 0.95


@pytest.mark.parametrize("shape", [(2, 6), (2, 3, 5), (2, 3, 6, 1)])
def test_a_wrong_shape_raises(encoder: SequenceEncoder, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"must be \(B, T, 6\), but is"):
        encoder(torch.randn(shape))


def test_half_precision_output_is_finite(encoder: SequenceEncoder) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.isfinite(encoder(padded(torch.randn(3, 4, 6), 3))).all()
