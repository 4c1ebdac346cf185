"""Studies with made-up runs and a budget"""

from collections import Counter
from pathlib import Path

from remix_study.study.listener import StudyListener
from tests.studies import Conduct, Runner, config


def test_a_budget_ends_the_search_so_that_the_replicates_fit(conduct: Conduct, tmp_path: Path) -> None:
    """A run takes 36 s, so 0.111 CPU hours are enough for eleven runs, of which 2 x 2 are replicates."""
    messages: list[str] = []
    runner = Runner(seconds=36.0)
    result = conduct(runner, config(trials=50, budget={"cpu_hours": 0.111}), StudyListener(say=messages.append))
    assert result is not None
    counts = Counter((t.stage, t.method) for t in runner.ran)
    assert counts[("replicate", "joint")] == counts[("replicate", "remix")] == 2
    assert counts[("search", "joint")] == counts[("search", "remix")] == 3  # the same number for each
    assert "The budget is used up" in messages[0]
    more = Runner(seconds=36.0)
    conduct(more, config(trials=50, budget={"cpu_hours": 0.18}))
    assert 0 < Counter(t.stage for t in more.ran)["search"] <= 4


def test_if_the_budget_ends_the_replicates_all_methods_have_the_same_seeds(conduct: Conduct) -> None:
    """A round of trials that has started is completed. The first replicates of both methods come first."""
    runner = Runner(seconds=36.0, at_once=1)
    conduct(runner, config(trials=9, replicates=5, budget={"cpu_hours": 0.055}))
    assert [(t.stage, t.method, t.number) for t in runner.ran] == [
        ("search", "joint", 0), ("search", "remix", 0), ("replicate", "joint", 0), ("replicate", "remix", 0),
        ("replicate", "joint", 1), ("replicate", "remix", 1),
    ]  # fmt: skip


def test_a_used_up_budget_starts_no_run(conduct: Conduct) -> None:
    conduct(Runner(seconds=3600.0), config(budget={"cpu_hours": 2}))
    again = Runner()
    conduct(again, config(budget={"cpu_hours": 2}))
    assert again.ran == []
