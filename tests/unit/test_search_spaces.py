"""The studies that are shipped: possible, honest, and what their README says of them"""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from remix_study import config as c
from remix_study.assemble import check
from remix_study.config import StudyConfig, load_study
from remix_study.media.store import ClipStore
from remix_study.study.search_space import check_study, configure, read_study, space_of
from remix_study.training.loop import Run, train

FOLDER = Path(__file__).parents[2] / "search_spaces"
FILES = sorted(FOLDER.glob("*.yaml"))
CONTENDERS = [(path, name) for path in FILES for name in load_study(path).methods]

every = pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)


def test_the_questions_are_there() -> None:
    wanted = {"demo", "remix_thresholds", "reassembly_schedules", "ablation", "methods"}
    assert wanted <= {path.stem for path in FILES}
    names = [load_study(path).name for path in FILES]
    assert sorted(names) == sorted(set(names)) == sorted(path.stem for path in FILES)


@every
def test_every_corner_is_a_possible_run_of_the_corpus(path: Path, small_corpus: Path, small_store: ClipStore) -> None:
    settings = {"corpus": str(small_corpus)}
    study = read_study(path, settings)
    runs = check_study(study, settings)
    assert len(runs) >= 2 * len(study.methods)
    for run in runs:
        check(run, small_store)


@every
def test_every_method_has_the_same_learning_rates_and_known_good_ones_first(path: Path) -> None:
    study = load_study(path)
    rate = "optimizer.learning_rate"
    for method in study.methods.values():
        assert space_of(study, method)[rate] == study.space[rate]
        assert {0.001, 0.003} <= {point[rate] for point in method.first}


@every
def test_every_study_has_a_control_by_lot_honest_baselines_and_ceilings(path: Path) -> None:
    study = load_study(path)
    runs = {name: configure(study, name, method.first[0], 0, {}) for name, method in study.methods.items()}
    by_lot = [
        name
        for name, run in runs.items()
        if isinstance(run.method, c.RemixConfig) and isinstance(run.method.filter, c.RandomConfig)
    ]
    assert by_lot
    assert all(study.methods[name].control_of for name in by_lot)
    assert {"joint", "joint_unimodal", "unimodal", "remix"} == {run.method.name for run in runs.values()}
    assert {m.ceiling_of for m in study.methods.values()} == {None, "audio", "video"}
    assert study.replicates >= 5


def test_noise_and_time_are_thought_of_somewhere() -> None:
    studies = [load_study(path) for path in FILES]
    assert any(study.seeds_per_trial > 1 for study in studies)
    assert any(isinstance(study.pruner, c.AshaConfig) for study in studies)


def runs_of(study: StudyConfig) -> int:
    return len(study.methods) * (study.trials * study.seeds_per_trial + study.replicates)


@every
def test_the_first_comments_tell_question_and_cost(path: Path) -> None:
    _, question, cost = path.read_text().splitlines()[:3]
    assert re.match(r"# Question: .+\?$", question)
    assert re.match(r"# Cost: .*\b(\d+) (small )?runs\b", cost)
    assert f"= {runs_of(load_study(path))} " in cost


@every
def test_the_table_tells_question_and_cost(path: Path) -> None:
    study = load_study(path)
    (row,) = [line for line in (FOLDER / "README.md").read_text().splitlines() if f"[{path.name}]" in line]
    assert study.question in row
    assert f"{runs_of(study)} runs" in row


@pytest.mark.slow
@pytest.mark.parametrize(("path", "name"), CONTENDERS, ids=lambda value: getattr(value, "stem", value))
def test_every_contender_trains(path: Path, name: str, small_corpus: Path, assembled: Callable[..., Run]) -> None:
    """Its first point, through the warm-up and one epoch on."""
    study = load_study(path)
    short = {
        "corpus": str(small_corpus),
        "epochs": 2,
        "device": "cpu",
        "evaluation.probe": False,
        "tracking.uri": "off",
    }
    first = study.methods[name].first[0]
    remix = isinstance(configure(study, name, first, 0, {}).method, c.RemixConfig)
    config = configure(study, name, first, 0, short | ({"method.warmup": 1} if remix else {}))
    result = train(assembled(config))
    assert len(result.history) == 2
    assert 0 <= result.summary[study.objective[0].metric] <= 1
    assert ("remix/entropy" in result.history[-1]) == remix
