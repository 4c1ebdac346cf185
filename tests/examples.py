"""How many examples a property test tries: few in the fast tier, 10,000 by hand with `--hypothesis-profile=thorough`"""

from typing import Any

from hypothesis import settings

THOROUGH = "thorough"  # registered in conftest.py


def examples(quick: int, **options: Any) -> settings:
    """Return settings for a property test without a deadline, since the machine may be busy.

    Args:
        quick: number of examples in the fast tier.
        options: further settings.
    """
    thorough = settings.get_current_profile_name() == THOROUGH
    count = settings.get_profile(THOROUGH).max_examples if thorough else quick
    return settings(deadline=None, max_examples=count, **options)
