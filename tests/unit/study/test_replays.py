"""Methods that replay the shares of another method: their runs, failures, kills, further trials, and wrong files"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from remix_study.cli import terminal
from remix_study.config.load import load_study
from remix_study.config.method import REPLAYED, RemixConfig, replayed_of
from remix_study.config.run import RunConfig
from remix_study.config.study import StudyConfig
from remix_study.errors import ConfigError
from remix_study.launch.folder import RunFolder
from remix_study.report import search_data, sections
from remix_study.report.run_data import runs_of
from remix_study.report.search_tables import budget_table, chosen_table
from remix_study.study import study as study_module
from remix_study.study.combinations import Pair, configs_of, planned
from remix_study.study.comparison import IncompleteStudyError
from remix_study.study.export import trial_rows
from remix_study.study.ledger import Ledger, chosen_replicates, read_ledger
from remix_study.study.needed import needed_methods
from remix_study.study.plan import make_plan
from remix_study.study.question import question_of
from remix_study.study.results import require_every_method, result_of
from remix_study.study.search_space import configure
from remix_study.study.status import best_run, study_status
from remix_study.study.storage import study_folder
from remix_study.study.study import StudyRun
from remix_study.study.study_file import read_study
from remix_study.study.tasks import Task
from tests.small_studies import StoppingRunner, points_of, quick_studies, results_of, run_small, small
from tests.studies import RATE, DriverDied, Runner, write_no_report

PROGRESS = {"name": "remix", "warmup": 1, "share": {"kind": "progress"}, "joint_share": 0.1, "rescore_every": 2}
METHODS: dict[str, Any] = {
    "course": {"random_at_share_of": "tuned"},
    "mean": {"random_at_mean_share_of": "tuned"},
    "tuned": {
        "set": {"method": PROGRESS},
        "space": {"method.warmup_weight": {"kind": "choice", "of": [0.5, 1.0]}},
        "first": [{RATE: 0.05, "method.warmup_weight": 1.0}],
    },
    "joint": {"set": {"method": {"name": "joint"}}},
}
CONTROLS = {"course": "random_at_share_of", "mean": "random_at_mean_share_of"}


def study(**changes: Any) -> StudyConfig:
    """A study whose first two methods replay the third one."""
    return small(**{"methods": METHODS, "reference": "joint", "replicates": 2} | changes)


@pytest.fixture(autouse=True)
def _quick() -> Iterator[None]:
    with quick_studies():
        yield


def ledger_of(workspace: Path) -> Ledger:
    return read_ledger(study_folder(workspace, "s"))


def require_replayed_runs(workspace: Path, tasks: list[Task]) -> None:
    """Every control replays the complete replicate with its number, with the same configuration and seed."""
    ledger = ledger_of(workspace)
    replicates = {(r.stage, r.number): r for r in chosen_replicates(ledger, "tuned")}
    for task in tasks:
        if task.method not in CONTROLS:
            continue
        (job,) = task.jobs
        rule = replayed_of(job.config.method)
        assert rule is not None
        assert rule.rule == CONTROLS[task.method]
        folder = RunFolder(Path(replicates[task.stage, task.number].folder))
        assert rule.run == str(folder.path)
        assert folder.result() is not None
        assert job.needed == {REPLAYED: folder.digest}
        other = RunConfig.model_validate(folder.config())
        assert isinstance(other.method, RemixConfig)
        undone = {"filter": other.method.filter, "share": other.method.share, "joint_share": other.method.joint_share}
        assert job.config.model_copy(update={"method": job.config.method.model_copy(update=undone)}) == other


def test_a_control_has_no_trials_and_replays_the_replicate_with_its_seed(tmp_path: Path) -> None:
    ran = run_small(tmp_path, study()).ran
    assert {task.name for task in ran if task.method in CONTROLS} == {
        f"{name}-replicate-{number}" for name in CONTROLS for number in (0, 1)
    }
    assert len(ran) == 2 * 2 + 4 * 2
    require_replayed_runs(tmp_path, ran)
    digests = {task.jobs[0].digest for task in ran if task.stage == "replicate"}
    assert len(digests) == 4 * 2


@pytest.mark.parametrize("life", [5, *(pytest.param(life, marks=pytest.mark.slow) for life in (4, 6, 7, 9))])
def test_a_study_with_controls_that_is_killed_has_the_same_runs(tmp_path: Path, life: int) -> None:
    whole = run_small(tmp_path / "whole", study())
    killed = StoppingRunner(life=life)
    with pytest.raises(DriverDied):
        run_small(tmp_path / "killed", study(), killed)
    again = run_small(tmp_path / "killed", study())
    assert points_of(tmp_path / "killed") == points_of(tmp_path / "whole")
    assert results_of(tmp_path / "killed") == results_of(tmp_path / "whole")
    require_replayed_runs(tmp_path / "killed", killed.ran + again.ran)
    assert len(killed.ran + again.ran) == len(whole.ran)


@pytest.mark.slow
def test_another_choice_of_the_replayed_method_trains_its_controls_again(tmp_path: Path) -> None:
    def summary(task: Task, run: RunConfig) -> dict[str, float]:
        return {"best/val_accuracy": 0.1 * task.number + run.optimizer.learning_rate, "test/accuracy": 0.5}

    run_small(tmp_path, study(), StoppingRunner(summary=summary))
    before = {name: chosen_replicates(ledger_of(tmp_path), name) for name in CONTROLS}
    more = run_small(tmp_path, study(trials=3), StoppingRunner(summary=summary)).ran
    for name in CONTROLS:
        after = chosen_replicates(ledger_of(tmp_path), name)
        assert len(after) == 2
        assert not {r.folder for r in after} & {r.folder for r in before[name]}
    require_replayed_runs(tmp_path, more)


def test_a_failed_replicate_fails_its_controls_with_a_sentence_and_runs_again(tmp_path: Path) -> None:
    run_small(tmp_path, study(), StoppingRunner(fails=lambda task: task.name == "tuned-replicate-1"))
    ledger = ledger_of(tmp_path)
    failed = [r for name in CONTROLS for r in ledger.replicates[name] if r.state == "failed"]
    said = "it needs replicate 1 of `tuned`, which failed: NotANumberError: the loss must be a number"
    assert [(r.number, r.cause, r.reason) for r in failed] == [(1, "needed run", said)] * 2
    again = run_small(tmp_path, study()).ran
    assert [task.name for task in again] == ["tuned-replicate-1", "course-replicate-1", "mean-replicate-1"]


def test_without_a_complete_trial_of_the_replayed_method_the_result_says_so(tmp_path: Path) -> None:
    ran = run_small(tmp_path, study(), StoppingRunner(fails=lambda task: task.method == "tuned")).ran
    assert not set(CONTROLS) & {task.method for task in ran}
    ledger = ledger_of(tmp_path)
    with pytest.raises(IncompleteStudyError, match=r"course \(`tuned`, whose shares it replays, has no complete trial"):
        require_every_method(result_of(ledger), ledger)
    assert "mean" in {task.method for task in run_small(tmp_path, study(), retry_failed=True).ran}


@pytest.mark.slow
def test_retraining_a_control_retrains_what_it_replays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_small(tmp_path, study())
    runner: Runner = StoppingRunner()
    monkeypatch.setattr(study_module, "execute", runner)
    found = StudyRun(study(), {"corpus": "made up"}, tmp_path).retrain("course", 2, write_no_report)
    assert sorted(found) == [0, 1]
    names = [task.name for task in runner.ran]
    assert names == [f"{method}-final-{number}" for number in (0, 1) for method in ("tuned", "course")]


def test_a_control_has_the_loss_weights_of_phases_but_not_their_shares() -> None:
    phases = [{"until": 0.5, "share": {"audio": 0.3, "video": 0.7}, "weight": 0.5}, {"joint": True}]
    tuned = {**METHODS["tuned"], "set": {"method": {"name": "remix", "warmup": 1, "phases": phases}}}
    config = configure(study(methods={**METHODS, "tuned": tuned}), "course", {}, 0, {})
    assert isinstance(config.method, RemixConfig)
    kept = config.method.model_dump(mode="json")["phases"]
    assert kept == [{"until": 0.5, "weight": 0.5}, {}]


def test_a_control_needs_what_the_replayed_method_needs(tmp_path: Path) -> None:
    alone = {m: {"set": {"method": {"name": "unimodal", "modality": m}}, "ceiling_of": m} for m in ("audio", "video")}
    methods = {
        "course": {"random_at_share_of": "taught"},
        "taught": {"set": {"method": {"name": "remix", "warmup": 1, "with": ["umt"]}}},
        **{f"{m}_alone": method for m, method in alone.items()},
    }
    taught = study(methods=methods, reference="taught", trials=1, replicates=1)
    assert needed_methods(taught, {})["course"] == {
        "audio": "audio_alone", "video": "video_alone", REPLAYED: "taught",
    }  # fmt: skip
    (job,) = next(task.jobs for task in run_small(tmp_path, taught).ran if task.method == "course")
    assert sorted(job.needed) == ["audio", REPLAYED, "video"]


def test_status_budget_and_report_count_no_trials_of_a_control(tmp_path: Path) -> None:
    run_small(tmp_path, study(), StoppingRunner(seconds=3.0))
    ledger = ledger_of(tmp_path)
    found = study_status(study_folder(tmp_path, "s"))
    assert {m.name: (m.trials, m.ended, m.replicated) for m in found.methods} == {
        "course": (0, 0, 2), "mean": (0, 0, 2), "tuned": (2, 2, 2), "joint": (2, 2, 2),
    }  # fmt: skip
    assert (found.runs, found.runs_ended) == (2 * 2 + 4 * 2, 2 * 2 + 4 * 2)
    budgets = search_data.budgets(ledger)
    of = {b.method: b for b in budgets}
    assert [of["course"].total_s, of["course"].needed_s] == pytest.approx([6.0, 12.0])
    rows = {row[0]: row for row in budget_table(budgets, 2, 2).rows}
    assert (rows["course"][1], rows["tuned"][1]) == ("as tuned", "2/2")
    said = sections._fairness(budgets, 2, None)
    assert said.startswith("Every method had 2 trials.")
    assert "course has no trials of its own: it has the configuration of tuned." in said
    assert sections._state(ledger, budgets, False) == "Complete: 4 trials, 8 replicates."
    assert {row[0]: row[-1] for row in chosen_table(ledger).rows}["mean"] == "as tuned"
    assert {(row["method"], row["stage"]) for row in trial_rows(ledger) if row["method"] in CONTROLS} == {
        ("course", "replicate"), ("mean", "replicate"),
    }  # fmt: skip
    course = runs_of(ledger, "course")
    assert course is not None
    assert course.source == "replicates"


def test_controls_are_compared_with_what_they_replay() -> None:
    found = study()
    pairs = planned(found, configs_of(found))
    assert [pair for pair in pairs if pair.control] == [
        Pair("tuned", "course", "choosing samples at the same shares", control=True),
        Pair("tuned", "mean", "choosing samples and changing shares at the same mean", control=True),
    ]  # fmt: skip


@pytest.mark.slow
def test_the_result_has_all_methods_and_no_difference_in_settings(tmp_path: Path) -> None:
    run_small(tmp_path, study(replicates=5))
    result = result_of(ledger_of(tmp_path))
    assert result is not None
    assert [m.name for m in result.methods] == list(METHODS)
    assert result.unequal == ()


@pytest.mark.slow
def test_the_best_configuration_of_a_control_names_the_run_of_the_study(tmp_path: Path) -> None:
    run_small(tmp_path, study())
    found = best_run(study_folder(tmp_path, "s"), "mean")
    rule, chosen = replayed_of(found.run.method), ledger_of(tmp_path).chosen("tuned")
    assert rule is not None
    assert chosen is not None
    assert rule.run == chosen.folders[0]
    assert (found.method, found.searched) == ("mean", "tuned")


def test_the_plan_starts_a_control_after_what_it_replays(small_corpus: Path, tmp_path: Path) -> None:
    found = make_plan(study(), {"corpus": str(small_corpus)}, tmp_path, timed=False)
    needing = {m.name: (m.trials, m.trials_left, m.needs) for m in found.methods if m.needs}
    assert needing == dict.fromkeys(CONTROLS, (0, 0, ("tuned",)))
    assert found.runs_left == 2 * 2 + 4 * 2
    assert "course after tuned" in "".join(terminal._order(found))


@pytest.mark.slow
def test_the_cost_of_a_control_is_measured_without_the_run_that_it_replays(small_corpus: Path, tmp_path: Path) -> None:
    settings = {"corpus": str(small_corpus), "epochs": 3}
    found = {m.name: m for m in make_plan(study(), settings, tmp_path).methods}
    for name in CONTROLS:
        cost, own, needed = found[name].cost, found[name].all_s(1), found["tuned"].all_s(1)
        assert cost is not None
        assert cost.replicate_s > 0
        assert own is not None
        assert needed is not None
        assert found[name].counted_s == pytest.approx(own + needed)


def test_old_studies_ask_the_same_question() -> None:
    plain = question_of(small(), "c")
    assert not {"random_at_share_of", "random_at_mean_share_of"} & plain["methods"]["remix"].keys()
    assert question_of(study(), "c")["methods"]["course"]["random_at_share_of"] == "tuned"


REPLAYS_NOTHING = "{set: {method: {name: remix, warmup: 1, filter: {rule: random_at_share_of}}}}"
EACH_OF_TWO = (
    "{set: {method: {name: remix, warmup: 1, filter: {rule: margin, threshold: 0.1, close: each}, "
    "phases: [{until: 0.5, only: [audio, video]}, {}]}}}"
)
WITHOUT_EFFECT = (
    "{set: {method: {name: remix, warmup: 1, joint_share: 0.5, filter: {rule: random_at_share_of, run: somewhere}}}}"
)


@pytest.mark.parametrize(
    ("course", "said"),
    [
        ("{random_at_share_of: tune}", "must be one of each, tuned, joint, but is tune; did you mean `tuned`?"),
        ("{random_at_share_of: course}", "must be another method, but is the method itself"),
        ("{random_at_share_of: mean}", "must be a method with shares of its own, but `mean` replays those of `tuned`"),
        (
            "{random_at_share_of: joint}",
            "must be a method that assigns samples to modalities (`name: remix`), but `joint` trains joint",
        ),
        (
            "{random_at_share_of: each}",
            "unlike `each`: in phase 1, `close: each` lets samples train each of 2 modalities, but not the",
        ),
        ("{random_at_share_of: tuned, set: {epochs: 9}}", "has no effect with `set`"),
        (
            "{random_at_share_of: tuned, random_at_mean_share_of: tuned}",
            "has no effect with `random_at_mean_share_of`: the configuration is that of `tuned`; leave one out",
        ),
        ("{random_at_share_of: 3}", "must be a string, but is 3"),
        (
            REPLAYS_NOTHING,
            "replays no run: name its folder in `method.filter.run`, or write `random_at_share_of: METHO",
        ),
        (WITHOUT_EFFECT, "`method.joint_share` has no effect with `filter: random_at_share_of`"),
    ],
)
def test_a_wrong_control_is_refused_with_one_sentence_and_its_line(tmp_path: Path, course: str, said: str) -> None:
    content = study().model_dump(mode="json", exclude_defaults=True)
    others = {name: METHODS[name] for name in ("mean", "tuned", "joint")}
    text = yaml.safe_dump({**content, "methods": others}, sort_keys=False, default_flow_style=None)
    file = tmp_path / "s.yaml"
    file.write_text(text.replace("methods:\n", f"methods:\n  each: {EACH_OF_TWO}\n  course: {course}\n"))
    with pytest.raises(ConfigError) as caught:
        read_study(file, {"corpus": "c"})
    _, *problems = str(caught.value).splitlines()
    (problem,) = problems
    line = next(n for n, text in enumerate(file.read_text().splitlines(), 1) if text.startswith("  course:"))
    assert f"s.yaml:{line}: " in problem
    assert said in problem


def test_the_reference_replays_no_method() -> None:
    with pytest.raises(ValueError, match="must not be set for the `reference`, which is `course`"):
        study(reference="course")


@pytest.mark.slow
def test_a_recorded_study_is_read_again(tmp_path: Path) -> None:
    run_small(tmp_path, study())
    assert load_study(study_folder(tmp_path, "s") / "study.yaml").trials_of("course") == 0
