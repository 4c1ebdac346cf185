import hashlib
from itertools import combinations

import numpy as np
import torch

from remix_study.seeds import stream, torch_stream

NAMES = [(0, "filter", ()), (1, "filter", ()), (0, "joint", ()), (0, "filter", (1,)), (0, "filter", (1, 2)),
         (0, "filter", (12,)), (0, "filter", (2, 1))]  # fmt: skip


def test_a_stream_does_not_depend_on_earlier_draws() -> None:
    first = stream(3, "reassemble", 4).random(8)
    np.random.default_rng().random(100)
    torch.rand(100)
    np.testing.assert_array_equal(stream(3, "reassemble", 4).random(8), first)
    assert torch.equal(
        torch.rand(8, generator=torch_stream(3, "a", 4)), torch.rand(8, generator=torch_stream(3, "a", 4))
    )


def test_seed_purpose_and_keys_give_different_streams() -> None:
    numbers = [stream(seed, purpose, *keys).integers(2**62) for seed, purpose, keys in NAMES]
    torch_seeds = [torch_stream(seed, purpose, *keys).initial_seed() for seed, purpose, keys in NAMES]
    assert all(a != b for a, b in combinations(numbers, 2))
    assert all(a != b for a, b in combinations(torch_seeds, 2))


def test_streams_do_not_use_the_global_generators() -> None:
    before = torch.get_rng_state()
    stream(0, "filter").random(10)
    torch.rand(10, generator=torch_stream(0, "filter"))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_stream_is_a_pcg64_seeded_by_the_sha256_of_its_name() -> None:
    """A run may be resumed with another version, so this must not change."""
    digest = hashlib.sha256(b"42\0reassemble\x001").digest()
    expected = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big"))).random(4)
    np.testing.assert_array_equal(stream(42, "reassemble", 1).random(4), expected)
    digest = hashlib.sha256(b"42\0model").digest()
    assert torch_stream(42, "model").initial_seed() == int.from_bytes(digest[:16], "big") % 2**63
