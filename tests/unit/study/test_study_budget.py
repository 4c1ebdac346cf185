"""Studies with made-up runs and a budget"""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from remix_study.report.search_data import budgets, work
from remix_study.study.extent import used_by
from remix_study.study.ledger import read_ledger
from remix_study.study.listener import StudyListener
from remix_study.study.storage import study_folder
from remix_study.study.tasks import Task
from tests.small_studies import StoppingRunner, quick_studies, run_small, small
from tests.studies import RATE, Conduct, Runner, config


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


def better_with_each_trial(trials: int) -> dict[str, Any]:
    """Methods of which each trial is better than the one before."""
    first = [{RATE: 0.001 * (number + 1)} for number in range(trials)]
    methods: dict[str, dict[str, Any]] = {"joint": {"name": "joint"}, "remix": {"name": "remix", "warmup": 1}}
    return {name: {"set": {"method": method}, "first": first} for name, method in methods.items()}


def test_runs_of_an_earlier_choice_count_against_the_budget(tmp_path: Path) -> None:
    """Each added trial is the best so far, so each start chooses and replicates another configuration."""
    methods = better_with_each_trial(4)
    ran: list[Task] = []
    with quick_studies():
        for trials in range(1, 5):
            runner = StoppingRunner(seconds=3600.0)
            wanted = small(trials=trials, replicates=3, methods=methods, budget={"cpu_hours": 20.0})
            run_small(tmp_path, wanted, runner)
            ran += runner.ran
            ledger = read_ledger(study_folder(tmp_path, "s"))
            assert used_by(ledger).cpu_hours == pytest.approx(len(ran))
            assert sum(budget.total_s for budget in budgets(ledger)) == pytest.approx(3600.0 * len(ran))
            assert sum(given.runs for given in work(ledger)) == len(ran)
            assert len(ran) <= 20
    assert runner.ran == []


def test_replicates_that_are_chosen_again_count_once(tmp_path: Path) -> None:
    """With fewer trials, the choice is again that of the first start, of which the runs are kept."""
    methods = better_with_each_trial(2)
    with quick_studies():
        for trials in (1, 2, 1):
            run_small(tmp_path, small(trials=trials, replicates=2, methods=methods), StoppingRunner(seconds=3600.0))
        ledger = read_ledger(study_folder(tmp_path, "s"))
    assert used_by(ledger).cpu_hours == pytest.approx(4 + 2 * 2 * 2)
