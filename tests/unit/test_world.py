import numpy as np
import pytest
import torch
import torch.distributed as dist

from remix_study.world import Solo, TorchCollectives, World


def test_one_rank_by_default() -> None:
    assert World() == World(0, 1)


@pytest.mark.parametrize(("rank", "size"), [(-1, 2), (2, 2), (0, 0)])
def test_a_rank_outside_the_world_raises(rank: int, size: int) -> None:
    with pytest.raises(ValueError, match="rank must be in"):
        World(rank, size)


def test_exactly_one_rank_leads() -> None:
    assert [World(rank, 4).leads for rank in range(4)] == [True, False, False, False]


def test_solo_sums_and_gathers_nothing_else() -> None:
    solo, tensor, rows = Solo(), torch.arange(3.0), np.arange(6.0).reshape(3, 2)
    solo.sum_(tensor)
    solo.barrier()
    assert tensor.tolist() == [0.0, 1.0, 2.0]
    np.testing.assert_array_equal(solo.gather_rows(rows), rows)
    assert solo.gather_bytes(b"x") == [b"x"]
    assert solo.world == World(0, 1)


def test_a_sum_replaces_the_tensor_even_if_it_is_computed_on_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Collectives of GPUs sum a copy of a CPU tensor. Here, another device is a copy, and two ranks are equal."""
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda tensor, op: tensor.mul_(2))
    collectives = TorchCollectives(torch.device("cpu"))
    for moved in (lambda tensor, device: tensor, lambda tensor, device: tensor.clone()):
        monkeypatch.setattr(torch.Tensor, "to", moved)
        tensor = torch.arange(3.0)
        collectives.sum_(tensor)
        assert tensor.tolist() == [0.0, 2.0, 4.0]
