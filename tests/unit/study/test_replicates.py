"""Seeds of replicates"""

from hypothesis import given
from hypothesis import strategies as st

from remix_study.study.ledger import FINAL, REPLICATE
from remix_study.study.replicates import replicate_seed

STUDY_SEEDS = st.one_of(st.integers(0, 5000), st.integers(0, 2**31))
NUMBERS = st.integers(0, 400)


@given(STUDY_SEEDS, st.sampled_from([REPLICATE, FINAL]), NUMBERS, NUMBERS)
def test_a_replicate_never_has_the_seed_of_a_trial(study_seed: int, stage: str, number: int, run: int) -> None:
    assert replicate_seed(study_seed, stage, number) != study_seed + run


@given(*[STUDY_SEEDS, st.sampled_from([REPLICATE, FINAL]), NUMBERS] * 2)
def test_different_replicates_have_different_seeds(
    seed: int, stage: str, number: int, other_seed: int, other_stage: str, other_number: int
) -> None:
    """Also those of studies with another seed, and those that `retrain` adds."""
    same = (seed, stage, number) == (other_seed, other_stage, other_number)
    assert (replicate_seed(seed, stage, number) == replicate_seed(other_seed, other_stage, other_number)) == same
