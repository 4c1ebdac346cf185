"""The plan of a study describes the next start without writing files"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from remix_study.config.method import RemixConfig
from remix_study.config.run import RunConfig
from remix_study.config.study import MethodSpace, StudyConfig
from remix_study.errors import ConfigError, StudyError, TrackingError
from remix_study.study import plan as plan_module
from remix_study.study import study as study_module
from remix_study.study.plan import Plan, make_plan
from remix_study.study.preflight import check_before_start
from remix_study.study.study import StudyRun
from remix_study.study.study_file import read_study
from tests.studies import RATE, DriverDied, Runner, config, write_no_report

Planned = Callable[..., Plan]


@pytest.fixture
def planned(small_corpus: Path, tmp_path: Path) -> Planned:
    def plan(study: StudyConfig | None = None, *, timed: bool = False) -> Plan:
        return make_plan(study or config(), {"corpus": str(small_corpus)}, tmp_path / "w", timed=timed)

    return plan


def run(runner: Runner, study: StudyConfig, corpus: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_module, "execute", runner)
    StudyRun(study, {"corpus": str(corpus)}, workspace).run(write_no_report)


def test_a_new_study(planned: Planned, tmp_path: Path) -> None:
    plan = planned()
    assert (plan.runs_left, plan.seconds, plan.cost) == (10, None, None)
    assert [(m.name, m.trials_left, m.replicates_left, m.ended) for m in plan.methods] == [
        ("joint", 3, 2, 0),
        ("remix", 3, 2, 0),
    ]
    assert [m.points for m in plan.methods] == [({RATE: 0.002},), ({RATE: 0.003},)]
    assert plan.methods[1].example.optimizer.learning_rate == 0.003
    assert [row.path for row in plan.methods[0].space] == [RATE]
    assert not (tmp_path / "w").exists()
    json.dumps(plan.plain())


def test_the_plan_says_how_many_replicates_the_comparisons_need(planned: Planned) -> None:
    one = planned()
    assert (one.comparisons, one.replicates, one.replicates_for_verdict, one.replicates_for_sign_flip) == (1, 2, 5, 6)
    joint = {"set": {"method": {"name": "joint"}}}
    study = config()
    methods = {**study.methods, **dict.fromkeys(("b", "c", "d"), MethodSpace.model_validate(joint))}
    four = planned(study.model_copy(update={"methods": methods}))
    assert (four.comparisons, four.replicates_for_sign_flip) == (4, 8), "2 / 2^8 <= 0.05 / 4"


@pytest.mark.parametrize(("wanted", "expected_s"), [(1, 6.0), (2, 6.0), (10, 20.0), (99, 40.0)])
def test_the_cost_of_a_run_has_the_models_of_its_rule(wanted: int, expected_s: float) -> None:
    """Three epochs were timed, of twenty; before the first of them, the models of both halves took 6 s."""
    rule = {"rule": "reducible_loss", "reference_epochs": wanted}
    content = {"corpus": "c", "epochs": 20, "method": {"name": "remix", "filter": rule}}
    assert plan_module._before_s(RunConfig.model_validate(content), 3, 6.0) == expected_s
    assert plan_module._before_s(RunConfig.model_validate(content | {"method": {"name": "remix"}}), 3, 6.0) == 0


def test_a_study_takes_as_long_as_the_runs_that_follow_each_other(planned: Planned) -> None:
    """Replicates follow trials, however many runs train at once; and a method follows those that it needs."""
    cost = plan_module.RunCost(epoch_s=1.0, trial_s=100.0, replicate_s=110.0, bytes=1)
    first, second = (method._replace(cost=cost) for method in planned().methods)
    assert plan_module._longest_s([first, second], seeds=2) == 2 * 100 + 110
    assert plan_module._longest_s([first, second._replace(needs=("joint",))], seeds=1) == 2 * (100 + 110)
    assert plan_module._longest_s([first._replace(trials_left=0, replicates_left=0)], seeds=1) == 0


@pytest.mark.parametrize("warmup", [0, 1, 2])
def test_the_timed_run_has_a_scoring_pass(small_corpus: Path, warmup: int) -> None:
    method = {"name": "remix", "warmup": warmup, "rescore_every": 4}
    content = {"corpus": str(small_corpus), "epochs": 20, "method": method, "device": "cpu"}
    short, planned_warmup = plan_module._shortened(RunConfig.model_validate(content))
    assert isinstance(short.method, RemixConfig)
    assert (short.method.rescore_every, short.method.warmup, planned_warmup) == (1, warmup, warmup)


@pytest.mark.slow
def test_the_cost_is_estimated_from_trained_epochs(planned: Planned, tmp_path: Path) -> None:
    plan = planned(config(trials=10, base=config().base | {"control_fraction": 0.1}), timed=True)
    assert plan.seconds is not None
    assert plan.cost is not None
    for method in plan.methods:
        assert method.cost is not None
        assert 0 < method.cost.epoch_s < method.cost.trial_s < method.cost.replicate_s
        assert method.cost.bytes > 10_000  # two checkpoints
    work_s = sum(10 * m.cost.trial_s + 2 * m.cost.replicate_s for m in plan.methods if m.cost is not None)
    assert plan.seconds == pytest.approx(work_s / plan.concurrency)
    assert plan.cost.cpu_hours == pytest.approx(work_s / 3600)
    assert plan.bytes == sum(12 * m.cost.bytes for m in plan.methods if m.cost is not None)
    assert not (tmp_path / "w").exists()


def test_the_plan_of_a_grid_lists_all_combinations(planned: Planned) -> None:
    space = {RATE: {"kind": "choice", "of": [0.001, 0.002, 0.003]}}
    plan = planned(config(space=space, sampler="grid", trials=3))
    assert [dict(point)[RATE] for point in plan.methods[0].points] == [0.002, 0.001, 0.003]


def test_the_plan_names_trials_that_would_be_resumed(
    planned: Planned, small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DriverDied):
        run(Runner(life=3), config(), small_corpus, tmp_path / "w", monkeypatch)
    plan = planned()
    assert sum(m.ended for m in plan.methods) == 3
    assert [name for m in plan.methods for name in m.resumed] == ["joint-search-2", "remix-search-1"]
    assert plan.runs_left == 7
    run(Runner(), config(), small_corpus, tmp_path / "w", monkeypatch)
    assert planned().runs_left == 0
    # Further trials may change the choice, which would be replicated again.
    extended = planned(config(trials=4))
    assert (extended.runs_left, extended.runs_again, extended.at_most) == (2 * 1, 2 * 2, True)


def test_a_plan_raises_the_errors_of_a_start(
    planned: Planned, small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(Runner(), config(), small_corpus, tmp_path / "w", monkeypatch)
    with pytest.raises(StudyError, match="must be asked the same question"):
        planned(config(sampler="random"))
    with pytest.raises(ConfigError, match="must not hold a password"):
        planned(config(name="t", storage="postgresql+psycopg://me:secret@host/db"))


def refusals(study: StudyConfig, corpus: Path, workspace: Path) -> list[str]:
    """What `plan` and `run` say."""
    said = []
    for start in (make_plan, partial(check_before_start, say=print)):
        with pytest.raises((ConfigError, StudyError, TrackingError)) as raised:
            start(study, {"corpus": str(corpus)}, workspace)
        said.append(str(raised.value))
    return said


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"storage": "foo://host/studies"}, "`storage` must be the URL of a database that SQLAlchemy or"),
        ({"storage": "mysql+nodriver://host/studies"}, "`storage` must be the URL of a database that SQLAlchemy or an"),
        ({"storage": "oracle+cx_oracle://host/studies"}, "oracle://host/studies` needs the package cx_Oracle"),
        ({"storage": "postgresql+psycopg_async://host/x"}, "`storage` must not use an asynchronous driver"),
        ({"base": {"epochs": 3, "device": "cpu", "tracking": {"uri": "http://127.0.0.1:9"}}}, "127.0.0.1:9"),
    ],
)  # fmt: skip
def test_plan_refuses_what_run_refuses(
    changes: dict[str, Any], wanted: str, small_corpus: Path, tmp_path: Path
) -> None:
    one, other = refusals(config(**changes), small_corpus, tmp_path / "w")
    assert wanted in one
    assert one == other
    assert not (tmp_path / "w").exists()


STUDY = """\
name: s
question: q?
base: {corpus: set below, epochs: 3, device: cpu, tracking: {uri: off}}
space:
  optimizer.learning_rate: {kind: float, low: 0.001, high: 0.1}
methods:
  joint:
    set: {method: {name: joint_unimodal}}
  wide:
    set: {method: {name: remix, warmup: 1, filter: {rule: margin}}}
    space:
      method.filter.threshold: {kind: float, low: 0.0, high: 9.0}
  taste:
    set:
      method: {name: unimodal, modality: taste}
  remix:
    set: {method: {name: remix, warmup: 1, share: {kind: fixed, parts: {audio: 0.5, smell: 0.5}}}}
    first: [{optimizer.learning_rate: 0.01}]
reference: remix
trials: 3
replicates: 2
"""


def test_what_only_the_corpus_reveals_names_method_and_line(small_corpus: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(STUDY)
    one, other = refusals(read_study(path, {}), small_corpus, tmp_path / "w")
    assert one == other
    head, *lines = one.splitlines()
    assert head == f"{path} has 3 problems with the corpus {small_corpus / 'store'}:"
    assert [line.removeprefix(f"  - {path}:").split(", but")[0] for line in lines] == [
        "12: `methods.wide.space.method.filter.threshold`: `method.filter.threshold` must be at most 2",
        "15: `methods.taste.set.method.modality`: `method.modality` must be one of audio, video",
        "17: `methods.remix.set.method.share`: `method.share` must name audio, video once each",
    ]
