import math

import pytest

from remix_study.training import learning_rate as rates


def test_constant_is_one() -> None:
    assert [rates.constant()(epoch) for epoch in (0, 5, 1000)] == [1, 1, 1]


def test_step_decays_after_every_fraction_of_the_training() -> None:
    rate = rates.step(epochs=10, every=0.3, factor=0.1)
    assert [rate(epoch) for epoch in range(10)] == pytest.approx([1] * 3 + [0.1] * 3 + [0.01] * 3 + [0.001])
    # Each part has at least one epoch.
    assert rates.step(epochs=2, every=0.1, factor=0.5)(1) == 0.5


def test_cosine_warms_up_and_decays_to_its_final_factor() -> None:
    rate = rates.cosine(epochs=10, warmup=2, final=0.1)
    found = [rate(epoch) for epoch in range(10)]
    assert found[:3] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert found[6] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 2)))
    assert found[2:] == sorted(found[2:], reverse=True)
    assert 0.1 < found[-1] < 0.2
    assert rates.cosine(epochs=1, warmup=0, final=0.0)(0) == 1
