from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from remix_study.config.assignment import READING_CONTROL, MarginConfig
from remix_study.config.load import load_run, load_study, parse_run, put, validate_study
from remix_study.config.method import RemixConfig
from remix_study.config.run import (
    AdamConfig,
    AugmentConfig,
    ConstantRateConfig,
    RunConfig,
    StepRateConfig,
    TinyEncoderConfig,
)
from remix_study.config.study import FloatDimension, StudyConfig
from remix_study.config.yaml_source import YamlSource
from remix_study.errors import ConfigError


def problems(content: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        parse_run(content, "run.yaml")
    return str(raised.value).splitlines()


def plain(**changes: Any) -> dict[str, Any]:
    return {"corpus": "corpus", "method": {"name": "joint"}, "epochs": 20, **changes}


def test_all_problems_are_reported_at_once_with_their_paths_and_the_most_similar_key() -> None:
    head, *lines = problems(
        {
            "corpus": "corpus",
            "method": {"name": "remix", "warmpu": 3, "filter": {"rule": "argmni"}},
            "model": {"encoders": {"audio": {"name": "resnet18", "widht": 8}}},
            "optimizer": {"name": "sgd"},
            "evaluation": {"ceilings": {"audio": "high"}},
            "optimiser": {},
            "epochs": "many",
        }
    )
    assert head == "run.yaml has 7 problems:"
    text = "\n".join(lines)
    for wanted in (
        "`method.warmpu` is not a known key; did you mean `warmup`?",
        "`method.filter.rule` must be one of argmin, ",
        "but is 'argmni'; did you mean `argmin`?",
        "`model.encoders.audio.widht` is not a known key; did you mean `width`?",
        "`optimizer.learning_rate` is missing",
        "`evaluation.ceilings.audio` must be a number, but is 'high'",
        "`optimiser` is not a known key; did you mean `optimizer`?",
        "`epochs` must be an integer, but is 'many'",
    ):
        assert wanted in text


def test_an_unknown_key_without_a_similar_one_gets_the_list_of_known_keys() -> None:
    (_, line) = problems(plain(tracking={"zzzzz": 1}))
    assert line.endswith("`tracking.zzzzz` is not a known key; known keys: uri, experiment, model")


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"global_batch": 33, "workers": 2}, "multiple of the number of workers (2), but is 33; use 32 or 34"),
        ({"global_batch": 1, "workers": 2}, "but is 1; use 2, or change"),
        ({"global_batch": 16, "smallest_batch": 17}, "`smallest_batch` must be at most `global_batch` (16)"),
        ({"workers": 4, "smallest_batch": 2}, "`smallest_batch` must be at least `workers` (4)"),
        ({"method": {"name": "remix", "warmup": 20}}, "`method.warmup` must be below `epochs` (20)"),
        (
            {"method": {"name": "remix", "accumulate": True}},
            "`method.accumulate` needs `order: mixed`, but `method.order` is blocks, in which batches are not mixed",
        ),
        (
            {"method": {"name": "remix", "accumulate": True, "order": "mixed"}, "masking": "zero_feature"},
            "`method.accumulate` needs `masking: skip_encoder`, because with `zero_feature` the optimizer moves every",
        ),
        (
            {"method": {"name": "remix", "accumulate": True, "order": "mixed"}, "masking": "zero_input"},
            "`method.accumulate` needs `masking: skip_encoder`, because with `zero_input` the optimizer moves every",
        ),
        (
            {"masking": "learned_token", "model": {"fusion": "decision"}},
            "`masking: learned_token` has no effect with `model.fusion: decision`, which leaves inactive modalities",
        ),
        ({"method": {"name": "joint", "accumulate": True}}, "`method.accumulate` is not a known key"),
        *[
            ({"method": {"name": "remix", "warmup_weight": weight}}, f"`method.warmup_weight{said}")
            for weight, said in (
                (-1, "` must be at least 0, but is -1"),
                ("x", "` must be a number, but is 'x'"),
                (None, "` must be a number, but is null"),
                (True, "` must be a number, but is true"),
                ([], "` must be a number, but is a list"),
                ({"audio": -1}, ".audio` must be at least 0, but is -1"),
                ({"audio": "x"}, ".audio` must be a number, but is 'x'"),
            )
        ],
        ({"micro_batch": 0}, "`micro_batch` must be at least 1, but is 0"),
        ({"rate": {"name": "cosine", "warmup": 20}}, "`rate.warmup` must be below `epochs` (20)"),
        ({"evaluation": {"ceilings": {"audio": 85}}}, "`evaluation.ceilings.audio` must be at most 1, but is 85"),
        ({"method": {"name": "remix", "filter": {"rule": "band", "lower": 1, "upper": 1}}}, "`lower` must be below"),
        (
            {"method": {"name": "remix", "share": {"kind": "fixed", "parts": {"audio": 0.5, "video": 0.6}}}},
            "its parts must sum to 1, but sum to 1.1",
        ),
        (
            {"method": {"name": "remix", "predictions": "dropout", "filter": {"rule": "reducible_loss"}}},
            "reducible_loss` compares the losses of unimodal heads, which `predictions: dropout` does not have",
        ),
        *[
            (
                {"method": {"name": "remix", "filter": {"rule": rule, "within": "class"}}},
                "`method.filter.within: class` gives every class the shares of the whole, so it needs `method.share`",
            )
            for rule in ("random", "cartography")
        ],
        *[
            (
                {"method": {"name": "remix", "share": {"kind": "by_score"}, "filter": {"rule": rule, **options}}},
                f"`method.share: {{kind: by_score}}` has no effect with the filter `{rule}`, which gives each modality",
            )
            for rule, options in {
                "argmin": {},
                "permuted": {},
                "max_share": {"share": 0.6},
                "margin": {"threshold": 0.1},
            }.items()
        ],
        *[
            (
                {"method": {"name": "remix", "share": {"kind": "block_gain"}, "order": order}},
                f"`method.share: {{kind: block_gain}}` needs `order: blocks`, in which each modality has one block of "
                f"batches that can be judged, but `method.order` is {order}",
            )
            for order in ("alternate", "shuffled", "proportional", "mixed")
        ],
        *[
            (
                {"method": {"name": "remix", "share": {"kind": kind}}, "control_fraction": 0},
                f"`control_fraction` must be above 0, because `share: {{kind: {kind}}}` reads the control split while",
            )
            for kind in READING_CONTROL
        ],
    ],
)
def test_contradictions_are_refused_with_a_remedy(changes: dict[str, Any], wanted: str) -> None:
    found = problems(plain(**changes))
    assert wanted in "\n".join(found)
    assert "constrained" not in "\n".join(found)


def test_several_contradictions_are_reported_together() -> None:
    text = "\n".join(problems(plain(global_batch=5, workers=2, method={"name": "remix", "warmup": 99})))
    assert "`global_batch`" in text
    assert "`method.warmup`" in text


@pytest.mark.parametrize(
    ("part", "key", "word", "others"),
    [
        ("method", "name", word, others)
        for word, others in {
            "joint": {}, "joint_unimodal": {}, "unimodal": {"modality": "audio"}, "remix": {},
        }.items()
    ]
    + [
        ("method.filter", "rule", word, others)
        for word, others in {
            "argmin": {}, "inverted": {}, "random": {}, "permuted": {}, "tempered": {"temperature": 0.5},
            "margin": {"threshold": 0.1}, "quantile": {"fraction": 0.3}, "max_share": {"share": 0.6},
            "band": {"lower": 0.1, "upper": 0.9}, "learning_progress": {"passes": 3, "explore": 0.1},
            "cartography": {"penalty": 1.0}, "coalition_gain": {"tau": 0.2},
            "reducible_loss": {"reference_epochs": 3},
        }.items()
    ]
    + [
        ("method.share", "kind", "fixed", {"parts": {"audio": 0.4, "video": 0.6}}),
        ("method.share", "kind", "progress", {}),
        ("method.share", "kind", "calibrated_progress", {"rate": 0.3, "calibration": 0.0, "lowest": 0.1}),
        ("method.share", "kind", "held_out_progress", {"rate": 0.3, "lowest": None}),
        ("method.share", "kind", "block_gain", {"rate": 0.3, "lowest": 0.0}),
        ("model.encoder", "name", "tiny", {}),
        ("model.encoder", "name", "resnet18", {"width": 8}),
        ("model.encoder", "name", "vector", {"hidden": 8, "width": 4}),
        ("model.encoder", "name", "sequence", {"width": 8, "layers": 1}),
        ("optimizer", "name", "sgd", {"learning_rate": 0.1}),
        ("optimizer", "name", "adam", {}),
        ("optimizer", "name", "adamw", {"learning_rate": 0.1}),
        ("rate", "name", "constant", {}),
        ("rate", "name", "step", {}),
        ("rate", "name", "cosine", {"warmup": 2}),
    ],
)  # fmt: skip
def test_every_type_is_selected_by_its_name(part: str, key: str, word: str, others: dict[str, Any]) -> None:
    content = plain(method={"name": "remix"})
    put(content, part, {key: word, **others})
    found: Any = parse_run(content, "run.yaml")
    for step in part.split("."):
        found = getattr(found, step)
    assert getattr(found, key) == word
    assert {k: getattr(found, k) for k in others} == others


def test_the_width_of_a_sequence_must_be_divisible_by_the_heads() -> None:
    with pytest.raises(ConfigError, match=r"`model.encoder.width`: .*multiple of 4"):
        parse_run(plain(model={"encoder": {"name": "sequence", "width": 10}}), "run.yaml")


def test_training_transforms_are_off_by_default_and_invalid_ones_are_reported_at_once() -> None:
    run = parse_run(plain(), "run.yaml")
    assert run.augment == AugmentConfig(
        crop=False, flip=False, frames="middle", time_mask=0, frequency_mask=0, shift=0.0
    )
    wrong = {"crop": "often", "frames": "any", "time_mask": -1, "frequency_mask": 1.5, "shift": 1.5, "flp": True}
    with pytest.raises(ConfigError) as raised:
        parse_run(plain(augment=wrong), "run.yaml")
    text = str(raised.value)
    assert all(f"augment.{name}" in text for name in wrong)
    assert "flip" in text  # suggested for `flp`


def test_a_group_without_its_type_has_the_default_type() -> None:
    run = parse_run(plain(optimizer={"learning_rate": 0.5}, rate={"factor": 0.5}, model={"encoder": {}}), "run.yaml")
    assert run.optimizer == AdamConfig(learning_rate=0.5)
    assert run.rate == StepRateConfig(factor=0.5)
    assert run.model.encoder == TinyEncoderConfig()


def test_a_run_can_be_written_and_read(recipe: Callable[..., RunConfig]) -> None:
    run = recipe(
        {"method.filter": {"rule": "tempered", "temperature": float("inf")}, "method.share": {"kind": "progress"}}
    )
    assert parse_run(yaml.safe_load(run.to_yaml()), "again") == run
    assert RunConfig.model_validate(run.model_dump(mode="json")) == run


# --- files and --set -------------------------------------------------------------------------------------------------


def write(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text)
    return path


def test_changes_are_applied_to_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "corpus: corpus\nmethod: {name: remix, warmup: 2}\n")
    run = load_run(
        path, ["method.warmup=3", "method.filter={rule: margin, threshold: 0.5}", "rate.name=constant", "epochs = 9"]
    )
    assert isinstance(run.method, RemixConfig)
    assert (run.method.warmup, run.method.filter) == (3, MarginConfig(rule="margin", threshold=0.5))
    assert (run.rate, run.epochs) == (ConstantRateConfig(name="constant"), 9)


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ("method.warmup", "Cannot apply `--set method.warmup`: it has no `=`"),
        ("method.warmup=[1", "Cannot read the value of `--set method.warmup=[1` as YAML: "),
        ("corpus.name=x", "Cannot set `corpus.name`: `corpus` is 'corpus', not a group of keys"),
        ("method.warmpu=3", "`method.warmpu` is not a known key; did you mean `warmup`?"),
    ],
)
def test_a_change_that_cannot_be_applied_is_explained(tmp_path: Path, change: str, wanted: str) -> None:
    path = write(tmp_path, "corpus: corpus\nmethod: {name: remix}\n")
    with pytest.raises(ConfigError) as raised:
        load_run(path, [change])
    assert wanted in str(raised.value)


def test_a_problem_is_reported_with_its_line_or_as_a_change(tmp_path: Path) -> None:
    path = write(tmp_path, "corpus: corpus\nmethod:\n  name: remix\n  oder: mixed\nepochs: ten\n")
    with pytest.raises(ConfigError) as raised:
        load_run(path, ["rate.name=stepp", "workers=3"])
    assert str(raised.value).splitlines() == [
        f"{path} has 3 problems:",
        "  - --set: `rate.name` must be one of constant, step, cosine, but is 'stepp'; did you mean `step`?",
        f"  - {path}:4: `method.oder` is not a known key; did you mean `order`?",
        f"  - {path}:5: `epochs` must be an integer, but is 'ten'",
    ]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("corpus: [", " as YAML: "),
        ("a: &a\n  b: *a\n", "contains itself"),
        ("- a\n- b\n", "it must contain `key: value` lines, but contains a list"),
        ("", "it must contain `key: value` lines, but is empty"),
    ],
)
def test_a_file_that_is_not_a_configuration_is_reported(tmp_path: Path, text: str, wanted: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as raised:
        load_run(path)
    assert wanted in str(raised.value)
    assert str(path) in str(raised.value)


def test_files_that_cannot_be_read_are_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Cannot read the configuration .*: No such file"):
        load_run(tmp_path / "absent.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\xfa\x00")
    with pytest.raises(ConfigError, match=r"as YAML: .*Save it as UTF-8"):
        load_run(tmp_path / "bytes.yaml")


# --- digest ----------------------------------------------------------------------------------------------------------


def test_the_digest_depends_on_configuration_and_corpus_but_not_on_locations(recipe: Callable[..., RunConfig]) -> None:
    run = recipe()
    assert run.digest("data") == recipe().digest("data")
    assert run.digest("data") == recipe({"corpus": "elsewhere"}).digest("data")
    assert run.digest("data") == recipe({"tracking": {"uri": "http://elsewhere", "experiment": "x"}}).digest("data")
    assert run.digest("data") != run.digest("other data")
    changes: list[dict[str, Any]] = [
        {"seed": 1}, {"epochs": 3}, {"method.warmup": 0}, {"workers": 2}, {"evaluation.test": True},
        {"augment.flip": True}, {"micro_batch": 8},
    ]  # fmt: skip
    for change in changes:
        assert run.digest("data") != recipe(change).digest("data")


# --- studies ---------------------------------------------------------------------------------------------------------


def test_all_problems_of_a_study_are_reported_at_once(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        name: a b
        question: does it work?
        base: {}
        methods:
          joint: {space: {optimizer.learning_rate: {kind: flaot, low: 1, high: 2}}}
          remix: {spaec: {}, space: {epochs: {kind: int, low: 3, high: 2}, seed: {kind: choice, of: []}}}
        reference: remix
        trials: 0
        replicates: 1
        """,
    )
    with pytest.raises(ConfigError) as raised:
        load_study(path)
    text = str(raised.value)
    assert text.splitlines()[0] == f"{path} has 6 problems:"
    for line, wanted in (
        (2, "`name` must be a name of at most 64 letters"),
        (6, "`methods.joint.space.optimizer.learning_rate.kind` must be one of float, int, choice, but is 'flaot'; "
            "did you mean `float`?"),
        (7, "`methods.remix.spaec` is not a known key; did you mean `space`?"),
        (7, "`methods.remix.space.epochs`: `low` must not exceed"),
        (7, "`methods.remix.space.seed.of` must have at least 1, but is empty"),
        (9, "`trials` must be at least 1, but is 0"),
    ):  # fmt: skip
        assert f"{path}:{line}: {wanted}" in text


def test_the_reference_must_be_a_method() -> None:
    content = {
        "name": "s",
        "question": "q",
        "base": {},
        "methods": {"joint": {}},
        "reference": "remix",
        "trials": 1,
        "replicates": 1,
    }
    with pytest.raises(ValueError, match="`reference` must be one of joint, but is remix"):
        StudyConfig.model_validate(content)


def test_all_contradictions_of_a_study_are_reported_at_once() -> None:
    content = {
        "name": "s", "question": "q", "base": {}, "methods": {"joint": {}}, "reference": "jiont", "trials": 1,
        "replicates": 1, "objective": ["best/val_accuracy", "best/val_macro_f1"], "sampler": "cmaes", "pruner": "asha",
    }  # fmt: skip
    found, problems = validate_study(YamlSource("study.yaml", content))
    assert found is None
    assert [each.keys for each in problems] == [("reference",), ("sampler",), ("pruner",)]
    assert problems[0].text() == "`reference` must be one of joint, but is jiont; did you mean `joint`?"
    assert "use tpe, gp or nsga2" in problems[1].text()


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ({"objective": "last/val_accuracy"}, {"objective": [{"metric": "last/val_accuracy", "direction": "maximize"}]}),
        ({"pruner": "asha"}, {"pruner": {"name": "asha", "grace": 4, "reduction": 3, "metric": "val/accuracy"}}),
    ],
)
def test_short_and_long_forms_are_equal(short: dict[str, Any], long: dict[str, Any]) -> None:
    content = {"name": "s", "question": "q", "base": {}, "methods": {"joint": {}}, "reference": "joint", "trials": 1,
               "replicates": 1}  # fmt: skip
    assert StudyConfig.model_validate(content | short) == StudyConfig.model_validate(content | long)


def test_studies_from_different_files_may_be_equal(tmp_path: Path) -> None:
    lines = ["name: s", "question: q", "base: {}", "methods: {joint: {}}", "reference: joint", "trials: 1",
             "replicates: 1"]  # fmt: skip
    one = load_study(write(tmp_path, "\n".join(lines)))
    other = load_study(write(tmp_path, "\n".join(["# upside down", *reversed(lines)])))
    assert one == other == StudyConfig.model_validate(one.model_dump())
    assert (one.source.line(("trials",)), other.source.line(("trials",))) == (6, 3)


def test_a_logarithmic_dimension_must_be_above_zero() -> None:
    with pytest.raises(ValueError, match="nor be 0 on a log scale"):
        FloatDimension(kind="float", low=0, high=1, log=True)


def test_shares_of_argmin_are_refused_in_the_phases_in_which_they_change_nothing() -> None:
    phases = [{"until": 0.5, "share": {"kind": "by_score"}, "filter": {"rule": "random"}},
              {"share": {"kind": "by_score"}}]  # fmt: skip
    method = {"name": "remix", "warmup": 1, "phases": phases}
    (line,) = [each for each in problems(plain(method=method)) if "by_score" in each]
    assert "`method.phases.1.share: {kind: by_score}` has no effect with the filter `argmin`" in line
    parse_run(plain(method=method | {"phases": [*phases[:1], {"joint": True}]}), "run.yaml")
