# ruff: noqa: E501 - a table with one row per file
"""Study and run files from strangers: refused in one sentence with the line, or they mean what they say"""

from pathlib import Path

import pytest

from remix_study.cli import main as cli
from remix_study.config.load import load_run
from remix_study.config.study import StudyConfig
from remix_study.errors import ConfigError
from remix_study.study.study_file import read_study

STUDY = """\
name: question
question: Does Remix beat joint?
base: {corpus: corpus, epochs: 6, global_batch: 32}
space:
  optimizer.learning_rate: {kind: float, low: 5.0e-4, high: 1.0e-2, log: true}
methods:
  joint_unimodal:
    set: {method: {name: joint_unimodal}}
    first: [{optimizer.learning_rate: 1.0e-3}]
  remix:
    set: {method: {name: remix, warmup: 2}}
    space:
      method.filter.rule: {kind: choice, of: [argmin, margin]}
      method.filter.threshold: {kind: float, low: 0.0, high: 1.0, when: {method.filter.rule: margin}}
      method.rescore_every: {kind: int, low: 1, high: 4}
reference: remix
objective: best/val_accuracy
sampler: tpe
trials: 3
replicates: 2
"""
RUN = "corpus: corpus\nmethod: {name: remix, warmup: 1}\nepochs: 2\n"
RATE = "{kind: float, low: 5.0e-4, high: 1.0e-2, log: true}"
INT = "{kind: int, low: 1, high: 4}"
FIRST = ("    first: [{optimizer.learning_rate: 1.0e-3}]\n", "")
LONG = "m" * 250
NAMED = " must be a name of at most 64 letters, digits, `_`, `-` and `.` that begins with a letter or digit"


def study(text: str, tmp_path: Path) -> StudyConfig:
    (tmp_path / "s.yaml").write_text(text, encoding="utf-8")
    return read_study(tmp_path / "s.yaml", {})


def refusal(text: str, tmp_path: Path) -> str:
    with pytest.raises(ConfigError) as raised:
        study(text, tmp_path)
    return str(raised.value).replace(f"{tmp_path}/", "")


def changed(*changes: tuple[str, str], end: str = "") -> str:
    text = STUDY
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text + end


@pytest.mark.parametrize(
    ("text", "said"),
    [
        # numbers, booleans and texts
        (changed(("epochs: 6", "epochs: 010")), "s.yaml:3: the number 010 has a leading zero. Write 10"),
        (changed(("trials: 3", "trials: yes")), "s.yaml:19: `trials` must be an integer, but is 'yes'"),
        (changed(("trials: 3", "trials: true")), "s.yaml:19: `trials` must be an integer, but is true"),
        (changed(("trials: 3", "trials: '3'")), "s.yaml:19: `trials` must be an integer, but is '3'; leave out the quotes"),
        (changed(("trials: 3", "trials: 2.5")), "s.yaml:19: `trials` must be an integer, but is 2.5"),
        (changed((RATE, "{kind: choice, of: [yes]}"), FIRST), "s.yaml:5: `space.optimizer.learning_rate` must be a number, but is 'yes'"),
        (changed((RATE, "{kind: choice, of: [true]}"), FIRST), "s.yaml:5: `space.optimizer.learning_rate` must be a number, but is true"),
        (changed(end="budget: {cpu_hours: 1:30}\n"), "s.yaml:21: `budget.cpu_hours` must be a number, but is '1:30'"),
        (changed(("epochs: 6", "epochs: 6, augment: {crop: yes}")), "s.yaml:3: `base.augment.crop` must be true or false, but is 'yes'"),
        (changed(("epochs: 6", "epochs: 6, augment: {crop: 1}")), "s.yaml:3: `base.augment.crop` must be true or false, but is 1"),
        (changed(("name: question", "name: 3")), "s.yaml:1: `name` must be a string, but is 3; put it in quotes"),
        # finite numbers
        (changed(end="budget: {cpu_hours: .inf}\n"), "s.yaml:21: `budget.cpu_hours` must be a finite number, but is .inf"),
        (changed(("epochs: 6", "epochs: 6, clip_norm: .inf")), "s.yaml:3: `base.clip_norm` must be a finite number, but is .inf"),
        (changed((RATE, RATE.replace("5.0e-4", ".nan"))), "s.yaml:5: `space.optimizer.learning_rate.low` must be a finite number, but is .nan"),
        (changed(("optimizer.learning_rate: " + RATE, "optimizer.weight_decay: {kind: choice, of: [.inf]}"), FIRST), "s.yaml:5: `space.optimizer.weight_decay` must be a finite number, but is .inf"),
        (changed((RATE, RATE.replace("1.0e-2", "1e400"))), "s.yaml:5: the number 1e400 is too large"),
        (changed((RATE, "{kind: float, low: -1.0e+308, high: 1.0e+308}")), "s.yaml:5: `space.optimizer.learning_rate`: `high` minus `low` must be a finite number"),
        (changed((INT, "{kind: int, low: 1, high: 99999999999999999999}")), "s.yaml:15: `methods.remix.space.method.rescore_every.high` must be an integer of at most 9007199254740991"),
        (changed(("trials: 3", "trials: " + "9" * 5000)), "s.yaml:19: the number 99999999... has more than 300 digits"),
        (changed(end="seed: 4294967296\n"), "s.yaml:21: `seed` must be at most 4294967295, but is 4294967296"),
        # choices
        (changed(("[argmin, margin]", "[argmin, margin, argmin]")), "s.yaml:13: `methods.remix.space.method.filter.rule`: `of` must name each value once, but has argmin twice"),
        (changed((INT, "{kind: choice, of: [1, 1.0]}")), "`of` must name each value once, but has 1.0 twice"),
        (changed((INT, "{kind: choice, of: [1, .nan]}")), "s.yaml:15: `methods.remix.space.method.rescore_every`: `of` must not contain .nan"),
        (changed(("sampler: tpe", "sampler: bayes")), "s.yaml:18: `sampler` must be one of tpe, gp, cmaes, nsga2, random, grid, but is 'bayes'; did you mean `tpe` or `gp`?"),
        # keys
        (changed(end="trials: 4\n"), "s.yaml:19: `trials` occurs twice, in lines 19 and 21"),
        (changed((f"optimizer.learning_rate: {RATE}", f"optimizer.learning_rate: {RATE}\n  optimizer: {{kind: choice, of: {{a: {{name: sgd, learning_rate: 0.1}}, b: {{name: adam}}}}}}")), "s.yaml:5: `space.optimizer.learning_rate` must not be searched, since `optimizer` sets it, too (in a)"),
        # size
        (changed((RATE, "{kind: float, low: 0.0005, high: 0.01, step: 1.0e-9}"), ("low: 0.0, high: 1.0,", "low: 0.0, high: 1.0, step: 1.0e-9,"), ("sampler: tpe", "sampler: grid")), "s.yaml:18: `sampler`: `optimizer.learning_rate` has 9,500,001 values"),
        (changed(end="x: " + "[" * 3000 + "]" * 3000), "s.yaml:21: it nests more than 100 levels deep"),
        (changed(end="".join(" " * n + "x:\n" for n in range(300))), "it nests more than 100 levels deep"),
        ("a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True)) + STUDY, "s.yaml:5: it has more than 50,000 keys and values, counting aliases"),
        (changed(("methods:\n", "methods:\n" + "".join(f"  m{n}: {{}}\n" for n in range(201)))), "s.yaml:6: `methods` must have at most 200 entries, but has 203"),
        (changed(("space:\n  opt", "space:\n" + "".join(f"  x{n}: {INT}\n" for n in range(100)) + "  opt")), "s.yaml:4: `space` must have at most 100 entries, but has 101"),
        (changed((INT, f"{{kind: choice, of: {list(range(1, 1002))}}}")), "s.yaml:15: `methods.remix.space.method.rescore_every.of` must have at most 1,000 entries, but has 1,001"),
        # names
        (changed(("  joint_unimodal:\n", "  joint/a:\n")), f"s.yaml:7: a method{NAMED}, because it becomes part of folders and metrics, but is 'joint/a'"),
        (changed(("  joint_unimodal:\n", "  ../../../../esc/x:\n")), f"s.yaml:7: a method{NAMED}"),
        (changed(("  joint_unimodal:\n", f"  {LONG}:\n")), "but is 'mmmmmmmmmmmmmmmmmmmm'... (250 characters)"),
        (changed(("  joint_unimodal:\n", '  "a=b|c":\n')), "s.yaml:7: a method"),
        (changed(("  joint_unimodal:\n", "  Remix:\n")), "s.yaml:10: `methods.remix` must differ from `Remix` in more than upper and lower case"),
        (changed(("name: question", "name: ..")), f"s.yaml:1: `name`{NAMED}"),
        (changed(("name: question", 'name: "q\\n"')), f"s.yaml:1: `name`{NAMED}"),
        (changed(("name: question", "name: " + "q" * 65)), f"s.yaml:1: `name`{NAMED}"),
        (changed(("name: joint_unimodal}", "name: unimodal, modality: a.b}")), "s.yaml:8: `methods.joint_unimodal.set.method.modality` must be a name of at most 64 letters, digits, `_` and `-`"),
        (changed(("epochs: 6", "epochs: 6, model: {encoders: {../x: {name: tiny}}}")), "s.yaml:3: `base.model.encoders.../x` must be a name"),
        (changed(("epochs: 6", "epochs: 6, tracking: {experiment: ''}")), "s.yaml:3: `base.tracking.experiment` must not be empty"),
        (changed(("epochs: 6", f"epochs: 6, tracking: {{experiment: {'x' * 501}}}")), "s.yaml:3: `base.tracking.experiment` must have at most 500 characters, but has 501"),
        # syntax
        (changed(("  remix:\n", "\tremix:\n")), "s.yaml:10 as YAML: found a tab character"),
        (changed(("Does Remix beat", "Does Remix: beat")), "s.yaml:2 as YAML: mapping values are not allowed"),
        (changed(("log: true}", "log: true")), "s.yaml:6 as YAML: "),
        (changed(("trials: 3", "trials: *x")), "s.yaml:19 as YAML: found undefined alias"),
        (changed(("trials: 3", "trials: !!python/object:x 3")), "s.yaml:19 as YAML: could not determine a constructor for the tag"),
        (changed(("trials: 3", "trials: !!set {a}")), "s.yaml:19 as YAML: could not determine a constructor for the tag '!!set'"),
        (changed(("trials: 3", "trials: !!int abc")), "s.yaml:19: 'abc' is not an integer"),
        (changed(("trials: 3", "trials: !!bool yes")), "s.yaml:19: 'yes' is not true or false"),
        (changed(("Does Remix", '"Does \\0 Remix"\nx: "a')), "s.yaml:2: a string must not contain the character NUL"),
        (changed(("trials: 3", "trials: \x073")), "s.yaml:19 as YAML: the character #x0007 is not allowed"),
        (changed(("Does Remix", "Doés\x07 Remix")), "s.yaml:2 as YAML: the character #x0007 is not allowed"),
        (changed(end="---\na: 1\n"), "s.yaml:21 as YAML: found another document"),
        (changed(end="? [a, b]\n: 1\n"), "s.yaml:21 as YAML: found unhashable key"),
        (changed(end="a: &a [*a]\n"), "s.yaml:21: `&a` contains itself"),
        (changed(end="a: &a {<<: *a}\n"), "s.yaml:21: `&a` contains itself"),
        ("", "Cannot read s.yaml:1: it must contain `key: value` lines, but is empty"),
        # another kind of file
        (RUN, "s.yaml:2: `method` makes this a run file, but a study file is needed. Use: remix-study train"),
    ],
)  # fmt: skip
def test_a_wrong_study_file_is_refused_in_one_sentence_with_its_line(text: str, said: str, tmp_path: Path) -> None:
    found = refusal(text, tmp_path)
    assert said in found
    assert len(found.splitlines()) <= 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (RUN.replace("warmup: 1", "warmup: 0, filter: {rule: band, lower: .nan, upper: 1.0}"), "r.yaml:2: `method.filter.lower` must be a finite number, but is .nan"),
        (RUN.replace("warmup: 1", "warmup: 0, filter: {rule: margin, threshold: .nan}"), "r.yaml:2: `method.filter.threshold` must be a"),
        (RUN.replace("warmup: 1", "warmup: 0, filter: {rule: tempered, temperature: .nan}"), "r.yaml:2: `method.filter.temperature` must be at least 0, but is .nan"),
        (RUN.replace("warmup: 1", "warmup: 0, share: {kind: fixed, parts: {audio: true, video: 0.0}}"), "r.yaml:2: `method.share.parts.audio` must be a number, but is true"),
        (RUN + "evaluation: {ceilings: {audio: true}}\n", "r.yaml:4: `evaluation.ceilings.audio` must be a number, but is true"),
        (RUN + "seed: 99999999999999999999\n", "r.yaml:4: `seed` must be an integer of at most 9007199254740991 in size"),
        (STUDY, "r.yaml:6: `methods` makes this a study file, but a run file is needed. Use: remix-study run"),
    ],
)  # fmt: skip
def test_a_wrong_run_file_is_refused_in_one_sentence_with_its_line(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        load_run(path)
    found = str(raised.value).replace(f"{tmp_path}/", "")
    assert said in found
    assert len(found.splitlines()) <= 2


@pytest.mark.parametrize(
    "text",
    [
        STUDY,
        changed(("  remix:\n", "  r-2.mix_A:\n"), ("reference: remix", "reference: r-2.mix_A")),
        changed(("trials: 3", "trials: 1e1")),
        changed((INT, "{kind: choice, of: [1, 2.0]}")),
        changed(("epochs: 6", "epochs: 6, tracking: {experiment: /Users/someone@example.org/../a study}")),
        changed(("[argmin, margin]", "[tempered]"), ("method.filter.threshold: {kind: float, low: 0.0, high: 1.0, when: {method.filter.rule: margin}}", "method.filter.temperature: {kind: choice, of: [.inf, 0.5]}")),
        changed(("Does Remix beat joint?", "'=1+1 | <b>&amp;</b> \u00e9'")),
        changed(end="seed: 4294967295\n"),
        "\ufeff" + STUDY,
    ],
)  # fmt: skip
def test_an_unusual_but_valid_study_file_is_taken(text: str, tmp_path: Path) -> None:
    assert study(text, tmp_path).trials in (3, 10)


def test_choices_that_are_too_many_together_are_refused(tmp_path: Path) -> None:
    many = f"{{kind: choice, of: {[0.001 + n / 1e6 for n in range(900)]}}}"
    methods = "".join(f"  m{n}:\n    set: {{method: {{name: joint_unimodal}}}}\n" for n in range(12))
    text = changed((RATE, many), FIRST, ("methods:\n", f"methods:\n{methods}"))
    assert "s.yaml:6: `methods`: the choices of all methods may have at most 10,000 values together" in refusal(
        text, tmp_path
    )


@pytest.mark.parametrize("content", [b"name: \xff\xfe\n", b"name: a\nquestion: \xff\n"])
def test_a_file_that_is_not_utf8_names_the_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"s\.yaml:{len(content.splitlines())} as YAML: .* Save it as UTF-8\."):
        read_study(tmp_path / "s.yaml", {})


def test_a_file_that_is_too_large_is_not_read_whole(tmp_path: Path) -> None:
    with (tmp_path / "s.yaml").open("w") as file:
        file.truncate(20_000_000)
    with pytest.raises(ConfigError, match=r"it has more than 10,000,000 characters, which is too large"):
        read_study(tmp_path / "s.yaml", {})


@pytest.mark.parametrize(
    ("key", "given", "near"),
    [
        ("sampler", "TPE", "tpe"), ("sampler", "bayes", "tpe` or `gp"), ("sampler", "TPESampler", "tpe"),
        ("sampler", "Gaussian process", "gp"), ("sampler", "CMA-ES", "cmaes"), ("sampler", "NSGA-II", "nsga2"),
        ("sampler", "RandomSampler", "random"), ("sampler", "optuna", "tpe"), ("sampler", "hyperopt", "tpe"),
        ("pruner", "ASHA", "asha"), ("pruner", "SuccessiveHalvingPruner", "asha"), ("pruner", "hyperban", "hyperband"),
    ],
)  # fmt: skip
def test_other_spellings_and_names_of_samplers_and_pruners_lead_to_ours(
    key: str, given: str, near: str, tmp_path: Path
) -> None:
    text = changed(("sampler: tpe\n", "")) + f"{key}: {given if key == 'sampler' else f'{{name: {given}}}'}\n"
    assert f"; did you mean `{near}`?" in refusal(text, tmp_path)


def test_the_command_for_a_file_of_the_other_kind_works_in_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "a folder"
    place.mkdir()
    monkeypatch.chdir(place)
    for name, text in (("r.yaml", RUN), ("s.yaml", STUDY)):
        (place / name).write_text(text)
    for words, use in (
        (("run", "r.yaml"), "train 'PLACE/r.yaml'"),
        (("plan", "r.yaml"), "train 'PLACE/r.yaml'"),
        (("demo", "--study", "r.yaml"), "train 'PLACE/r.yaml'"),
        (("train", "s.yaml"), "run 'PLACE/s.yaml'"),
    ):
        monkeypatch.setattr("sys.argv", ["remix-study", *words, "--workspace", "w s"])
        with pytest.raises(SystemExit, match="1"):
            cli.main()
        said = capsys.readouterr().err.strip()
        assert said.endswith(f"Use: remix-study {use} --workspace 'PLACE/w s'".replace("PLACE", str(place)))
