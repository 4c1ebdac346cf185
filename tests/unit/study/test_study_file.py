"""Reading and validating study files"""

import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from remix_study.config.method import RemixConfig
from remix_study.errors import ConfigError
from remix_study.study.study_file import check_study, read_study
from tests.unit.study.small_spaces import BASE, REMIX, conditional, study


def test_check_study_returns_runs_at_the_corners_and_of_the_first_configurations() -> None:
    remix = REMIX | {"first": [{"optimizer.learning_rate": 0.001}]}
    runs = check_study(study(methods={"joint": {"set": {"method": {"name": "joint"}}}, "remix": remix}), {})
    first, *corners = [run for run in runs if run.method.name == "remix"]
    assert [run.epochs for run in runs if run.method.name == "joint"] == [4, 6, 4, 6]
    assert (first.epochs, first.optimizer.learning_rate) == (5, 0.001)
    assert [run.epochs for run in corners] == [4, 6, 4, 6, 6, 4, 4, 4]
    assert {run.method.order for run in corners if isinstance(run.method, RemixConfig)} == {"blocks", "mixed"}


def test_every_label_of_a_choice_is_checked_even_under_a_condition() -> None:
    space = {
        "method.filter.rule": {"kind": "choice", "of": ["argmin", "margin", "random"]},
        "method.filter.threshold": {
            "kind": "choice", "of": [0.1, 0.5, -1.0, 0.9], "when": {"method.filter.rule": "margin"},
        },
    }  # fmt: skip
    with pytest.raises(
        ConfigError, match=r"`methods\.remix\.space\.method\.filter\.threshold` must be at least 0, but is -1\.0"
    ):
        check_study(conditional(space=space), {})


def test_problems_of_all_methods_are_reported_at_once() -> None:
    methods = {
        "joint": {
            "set": {"method": {"name": "joint"}},
            "space": {"optimizer.learnin_rate": {"kind": "float", "low": 0, "high": 1}},
        },
        "late": {"set": {"method": {"name": "remix", "warmup": 5}}},
        "remix": REMIX | {"first": [{"method.odrer": "blocks"}]},
        "never": {"set": {"method": {"name": "remix", "warmup": 9}}},
    }
    with pytest.raises(ConfigError) as raised:
        check_study(study(methods=methods), {})
    message = str(raised.value)
    assert message.splitlines()[0] == "the study `s` has 4 problems:"
    for wanted in (
        "`methods.joint.space.optimizer.learnin_rate` is not a known key; did you mean `optimizer.learning_rate`?",
        "`methods.remix.first[0].method.odrer` is not in the search space of this method, which has ",
        "`methods.late.set.method.warmup`: `method.warmup` must be below `epochs` (4), ",
        "`methods.never.set.method.warmup`: `method.warmup` must be below `epochs` (4), ",
    ):
        assert wanted in message


def test_a_grid_must_be_finite_and_have_a_configuration_for_each_trial() -> None:
    with pytest.raises(ConfigError, match=r"`space.optimizer.learning_rate` cannot be enumerated"):
        check_study(study(sampler="grid"), {})
    with pytest.raises(ConfigError, match="`trials` must be at most 5, the size of the grid of `remix`, but is 6"):
        check_study(conditional().model_copy(update={"sampler": "grid", "trials": 6}), {})
    assert check_study(conditional().model_copy(update={"sampler": "grid", "trials": 5}), {})


def test_a_condition_that_can_never_hold_is_an_error() -> None:
    for when, message in (
        (
            {"method.order": "blocks"},
            r"must name a dimension of `remix` that comes before .*method\.filter\.rule",
        ),
        (
            {"method.filter.rule": "marign"},
            r"can never hold: `method.filter.rule` is never marign; did you mean `margin`\?",
        ),
    ):
        space: dict[str, Any] = {"method.filter.rule": {"kind": "choice", "of": ["argmin", "margin"]}}
        space["method.filter.threshold"] = {"kind": "float", "low": 0.0, "high": 1.0, "when": when}
        with pytest.raises(ConfigError, match=message):
            check_study(conditional(space=space), {})


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"method.filter.rule": "argmax"}, r"`methods\.remix\.first\[0\]\.method\.filter\.rule`.*argmax"),
        (
            {"method.filter.rule": "margin", "method.filter.threshold": 0.3},
            r"must lie in its dimension \(0 to 0\.75\), but is 0\.3",
        ),
        (
            {"method.filter.rule": "margin", "method.filter.threshold": 2.0},
            r"must lie in its dimension \(0 to 0\.75\), but is 2\.0",
        ),
    ],
)
def test_a_first_configuration_outside_the_search_space_is_an_error(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_study(conditional(first=[params]), {})


WRONG = """\
name: s
question: q?
base:
  corpus: corpus
  epochs: 5
  optimizer: {name: adam, learning_rat: 1}
  model: {fusion: film}
  model: {fusion: concat}
space:
  optimizer.learning_rate: {kind: float, low: 1.0e-4, high: 1.0e-2, log: true}
  seed: {kind: int, low: 0, high: 3}
methods:
  joint:
    set: {method: {name: joint}}
    first: [{optimizer.learning_rate: 1}]
  remix:
    set: {method: {name: remix, warmup: 3}}
    space: &space
      method.orderr: {kind: choice, of: [blocks, mixed]}
      method.share: {kind: choice, of: {free: null, progress: {kind: progres}}}
  random:
    set: {method: {name: remix, warmup: 3, filter: {rule: random}}}
    space: *space
  audio:
    set: {method: {name: unimodal}, corpus: x}
reference: remx
sampler: tpee
trails: 2
replicates: 2
objective: test/accuracy
"""


def test_every_problem_is_reported_once_with_its_line(tmp_path: Path) -> None:
    """Problems of the file, of the study and of the runs of each method do not hide each other."""
    path = tmp_path / "study.yaml"
    path.write_text(WRONG)
    with pytest.raises(ConfigError) as raised:
        read_study(path, {})
    head, *lines = str(raised.value).splitlines()
    where = [line.removeprefix(f"  - {path}:").split("`; ")[0].split("` ")[0] for line in lines]
    assert where == [
        "1: `trials",
        "6: `base.optimizer.learning_rat",
        "7: `base.model",
        "11: `space.seed",
        "15: `methods.joint.first[0].optimizer.learning_rate",
        "19: `methods.remix.space.method.orderr",
        "20: `methods.remix.space.method.share.of.progress.kind",
        "25: `methods.audio.set.method.modality",
        "25: `methods.audio.set.corpus",
        "26: `reference",
        "27: `sampler",
        "28: `trails",
        "30: `objective",
    ]
    assert head == f"{path} has {len(lines)} problems:"


def test_a_valid_file_is_read_and_settings_override_it(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(
        "name: s\nquestion: q\nbase: {epochs: 3}\nmethods: {a: {set: {method: {name: joint}}}}\nreference: a\n"
        "trials: 1\nreplicates: 1\n"
    )
    assert read_study(path, {"corpus": "elsewhere"}).name == "s"
    with pytest.raises(ConfigError, match=r":3: `base\.corpus` is missing"):
        read_study(path, {})


JUNK: list[Any] = [
    None, 1, -1, 0.5, "x", "1e-3", True, [], {}, [1, 2], {"a": 1}, [{"a": 1}], {1: 2}, float("nan"), [None],
    {"kind": "choice", "of": [[1]]}, {"kind": "float", "low": 0, "high": 1}, {"a": {"b": {"c": 1}}},
]  # fmt: skip


SHIPPED = sorted((Path(__file__).parents[3] / "search_spaces").glob("*.yaml"))


def locations(node: Any) -> Iterator[tuple[Any, Any]]:
    """Return every (group, key) of a file's content."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield node, key
        yield from locations(value)


@pytest.mark.slow
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_a_damaged_file_raises_no_other_error(path: Path, tmp_path: Path) -> None:
    """Fill, delete or misspell three random keys of a valid file, 30 times: it is read, or raises ConfigError."""
    draw = random.Random(path.name)
    broken = tmp_path / "study.yaml"
    errors = 0
    for _ in range(30):
        content = yaml.safe_load(path.read_text())
        for _ in range(3):
            group, key = draw.choice(list(locations(content)))
            match draw.choice(["fill", "empty", "misspell"]):
                case "misspell" if isinstance(group, dict):
                    group[f"{key}x"] = group.pop(key)
                case "empty":
                    del group[key]
                case _:
                    group[key] = draw.choice(JUNK)
        broken.write_text(yaml.safe_dump(content, sort_keys=False))
        with suppress(ConfigError):
            read_study(broken, {})
            continue
        errors += 1
    assert errors > 20


def test_a_file_without_storage_takes_it_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content: dict[str, Any] = {
        "name": "s",
        "question": "q",
        "base": BASE,
        "methods": {"remix": {"set": {"method": {"name": "remix", "warmup": 1}}}},
        "reference": "remix",
        "trials": 1,
        "replicates": 1,
    }
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump(content))
    monkeypatch.delenv("REMIX_STUDY_STORAGE", raising=False)
    assert read_study(path, {}).storage is None
    url = "postgresql+psycopg://me:$DB_PASSWORD@host/studies"
    monkeypatch.setenv("REMIX_STUDY_STORAGE", url)
    assert read_study(path, {}).storage == url
    path.write_text(yaml.safe_dump({**content, "storage": "journal"}))
    assert read_study(path, {}).storage == "journal"
