"""Benchmarks run, and the compared implementations compute the same results"""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import (
    campaign_files,
    combinations,
    coverage,
    decisions,
    epochs,
    memory,
    methods,
    overheads,
    run,
    shares,
)
from benchmarks.measure import Result, in_turns
from benchmarks.overheads.__main__ import main as measure_overheads
from benchmarks.simulation.costs import Costs, read
from remix_study.epoch import NO_SAMPLE


@pytest.mark.slow
def test_quick_decisions_write_a_table_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run.main(["decisions", "--quick", "--json", str(tmp_path / "bench.json")])
    written = json.loads((tmp_path / "bench.json").read_text())
    assert written["quick"] is True
    assert written["machine"].keys() == {"processor", "cores", "threads", "torch", "python", "load"}
    assert written["machine"]["torch"] == torch.__version__
    fields = {"name", "measured", "at_most", "at_least", "unit", "note", "verdict"}
    assert all(result.keys() == fields for result in written["results"])
    assert [result["unit"] for result in written["results"]].count("GB") == 1
    assert all(result["measured"] > 0 for result in written["results"])
    assert {result["verdict"] for result in written["results"]} == {"not asked"}, "a quick run has no bounds"
    assert "Quick run: its numbers mean nothing" in capsys.readouterr().out


@pytest.mark.slow
def test_the_coverage_of_every_kind_of_study_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    coverage.main(["--draws", "20", "--seeds", "5", "--clips", "40"])
    printed = capsys.readouterr().out
    assert all(effects.name.split()[0] in printed for effects in coverage.EFFECTS)
    assert re.search(r"5 seeds: coverage \d+\.0 to \d+\.0 %, mean", printed)
    found = list(coverage.measure(40, [5], [60]))
    assert len(found) == 2 * len(coverage.EFFECTS)
    assert np.mean([each.covered for each in found]) > 0.9
    assert all(each.false_verdicts == pytest.approx(1 - each.covered) for each in found if each.effect == 0)


def test_an_unknown_benchmark_is_rejected_with_the_known_names(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run.main(["decision"])
    assert ended.value.code == 2
    assert "epoch_vs_released, decisions" in capsys.readouterr().err


def test_the_loop_and_remix_study_make_the_same_decisions() -> None:
    probs_NMC = decisions.random_probabilities(300, 2, 6)
    schedule = decisions.decide(probs_NMC)
    loop = decisions.decide_one_by_one(torch.from_numpy(probs_NMC))
    assert schedule.steps == len(loop)
    ours = {
        bool(active_M[0]): set(schedule.samples_TB[schedule.modalities_TM[:, 0] == active_M[0]].ravel()) - {NO_SAMPLE}
        for active_M in schedule.modalities_TM
    }
    videos = int((~schedule.modalities_TM[:, 0]).sum())
    assert ours[False] == {sample for batch in loop[:videos] for sample in batch}
    assert ours[True] == {sample for batch in loop[videos:] for sample in batch}
    assert len(ours[True]) + len(ours[False]) == 300


def test_an_epoch_trains_half_of_the_samples_with_each_modality(tmp_path: Path) -> None:
    store = epochs.noise_store(tmp_path, 8, "tiny")
    one = epochs.trainer(store, epochs.remix(store, 4), 4)
    before = {name: p.detach().clone() for name, p in one.model.named_parameters()}
    time = one.epoch()
    assert min(time) > 0
    # Each of the 8 samples is scored with both modalities and trained with one.
    assert one.reader.rows_read == {"audio": 12, "video": 12}
    assert all(not torch.equal(before[name], p) for name, p in one.model.named_parameters())
    assert np.isclose(time.scoring_every(2), time.score_s / 2 + time.train_s)


@pytest.mark.slow
def test_the_peak_of_a_step_is_exact() -> None:
    held: list[torch.Tensor] = []

    def prepare() -> None:
        torch.zeros(10_000)  # released before the step
        held.append(torch.zeros(1000))

    def step() -> None:
        two = torch.zeros(2000)
        held.append(torch.zeros(500))
        del two
        held.append(torch.zeros(1500))

    assert memory.peak_bytes(prepare, step) == 4 * (1000 + 2000 + 500)


@pytest.mark.slow
def test_costs_of_methods_are_rows_of_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    methods.main(["mmpareto", "inforeg", "smv", "--quick", "--json", str(tmp_path / "costs.json")])
    costs = json.loads((tmp_path / "costs.json").read_text())
    assert [cost["name"] for cost in costs] == ["mmpareto", "inforeg", "smv"]
    assert all(cost["ratio"] > 0 for cost in costs)
    pareto, inforeg, smv = costs
    assert 0 < pareto["added_gradients"] <= 2
    assert inforeg["added_gradients"] >= 1, "it keeps the weights at the beginning of the epoch"
    assert smv["memory_ratio"] == 1, "its steps are those of joint training"
    assert pareto["epoch_start_s"] is None
    assert inforeg["epoch_start_s"] > 0
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == ["mmpareto", "inforeg", "smv"]


@pytest.mark.slow
def test_quick_rules_are_timed(tmp_path: Path) -> None:
    run.main(["rules", "--quick", "--json", str(tmp_path / "bench.json")])
    results = json.loads((tmp_path / "bench.json").read_text())["results"]
    assert [result["name"].split()[3] for result in results] == [
        "learning_progress", "cartography", "coalition_gain", "reducible_loss",
    ]  # fmt: skip
    assert all(result["measured"] > 1 for result in results)


@pytest.mark.slow
def test_quick_preparing_measures_cores_loops_and_memory(tmp_path: Path) -> None:
    run.main(["preparing", "--quick", "--json", str(tmp_path / "bench.json")])
    results = json.loads((tmp_path / "bench.json").read_text())["results"]
    assert [result["unit"] for result in results].count("s") == 1
    assert len(results) == 7
    assert all(result["measured"] > 0 for result in results)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.server
def test_the_simulation_reads_a_quick_measurement_of_overheads(tmp_path: Path) -> None:
    measure_overheads(["--quick", "--json", str(tmp_path / "measured.json")])
    measured = read(tmp_path / "measured.json")
    assert measured["quick"] is True
    assert {row["ask_statements"] for row in measured["driver"]["sqlite"]} == {40}, "independent of recorded trials"
    found = Costs.of(measured, "sqlite")
    assert min(*found.ask_s.y, *found.tell_s.y, found.pruner_s, found.poll_s, *found.tune_s.y) > 0
    assert Costs.of(measured, "journal").ask_statements == 0
    assert len(list(overheads.ratios(measured))) > 10


def test_turns_alternate_after_a_warm_up_round() -> None:
    calls: list[str] = []

    def method(name: str) -> str:
        calls.append(name)
        return f"{name}{len(calls)}"

    found = in_turns([lambda: method("a"), lambda: method("b")], 2)
    assert calls == ["a", "b", "b", "a", "a", "b"]
    assert found == [("a4", "b3"), ("a5", "b6")]


@pytest.mark.parametrize(
    ("result", "verdict"),
    [
        (Result("r", 0.5, at_most=0.5), "met"),
        (Result("r", 0.51, at_most=0.5), "missed"),
        (Result("r", 100.0, at_least=100.0), "met"),
        (Result("r", 99.9, at_least=100.0), "missed"),
        (Result("r", 1.0), "not asked"),
        (Result("r", None, at_most=2.0), "not measured"),
    ],
)
def test_a_verdict_compares_the_result_with_its_bound(result: Result, verdict: str) -> None:
    assert result.verdict == verdict


@pytest.mark.slow
def test_mutated_study_files_are_refused_with_their_line_or_valid(capsys: pytest.CaptureFixture[str]) -> None:
    assert campaign_files.main(["--count", "10"]) == 0
    assert "10 mutated study files, seed 0" in capsys.readouterr().out


def test_the_table_of_methods_is_sorted_by_accuracy_and_shows_the_combinations_of_each() -> None:
    accuracy = {
        "remix": 93.6,
        "pmr": "93.3 (1 diverged)",
        "mla": 93.9,
        "remix_pmr": 94.0,
        "permuted_pmr": 94.4,
        "networks": "",
    }
    ahead = {"remix ahead by": "+0.3", "95 % interval": "-0.9 to +1.5", "wins": "5/10", "p (Holm)": "1.000"}
    _, *rows = combinations.accuracies(
        {name: {"test accuracy": str(value)} for name, value in accuracy.items()}, dict.fromkeys(("pmr", "mla"), ahead)
    )
    difference = ["+0.3 (-0.9 to +1.5)", "5/10", "1.000"]
    assert rows == [
        ["`mla`", "93.9", "", "", *difference],
        ["`remix`", "93.6", "", "", "", "", ""],
        ["`pmr`", "93.3 (1 diverged)", "94.0", "94.4", *difference],
    ]


@pytest.mark.slow
def test_every_controller_of_shares_is_measured() -> None:
    found = list(shares.measure(quick=True))
    assert [any(f"with {name} " in result.name for result in found) for name in shares.RULES] == [True] * 5
    assert all(result.measured is not None and result.measured > 0 for result in found)
