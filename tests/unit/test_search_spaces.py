"""The shipped studies: valid configurations, required baselines and controls, and descriptions"""

import functools
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from remix_study.assemble import assemble
from remix_study.config.assignment import ArgminShareConfig, FixedShareConfig, PermutedConfig, RandomConfig
from remix_study.config.balancing import Additions
from remix_study.config.load import load_study
from remix_study.config.method import RemixConfig
from remix_study.config.run import AdamConfig, ResNet18Config, StepRateConfig
from remix_study.config.study import AshaConfig, StudyConfig
from remix_study.fit import require_fit
from remix_study.launch.teachers import untrained_teachers
from remix_study.media.presets import AUDIO_FRONT_ENDS, FeaturePreset, FlowPreset, Part, Preset, VideoPreset
from remix_study.media.publish import StoreContent, write_metadata
from remix_study.media.shards import shard_name
from remix_study.media.store import ClipStore
from remix_study.statistics import seeds_for_sign_flip
from remix_study.study.combinations import components, configs_of, of_combinations, of_controls, planned
from remix_study.study.outcomes import FEWEST_SEEDS
from remix_study.study.search_space import configure, space_of
from remix_study.study.study_file import check_study, read_study
from remix_study.tracking.tracker import NullTracker
from remix_study.training.loop import train
from remix_study.world import Solo

FOLDER = Path(__file__).parents[2] / "search_spaces"
FILES = sorted(FOLDER.glob("*.yaml"))
_SOUND, _PICTURES, _FLOW = AUDIO_FRONT_ENDS["tiny"], VideoPreset(2, 16, 16, "area", candidates=3), FlowPreset(2, 16, 16)
_SERIES = FeaturePreset("sequence", (6, 5))
_AUDIO_AND_VIDEO: dict[str, Part] = {"audio": _SOUND, "video": _PICTURES}
# Studies of real corpora, and small presets with the modalities of those corpora.
CORPORA: dict[str, dict[str, Part]] = {
    "cremad_ogm": _AUDIO_AND_VIDEO,
    "cremad_tuned": _AUDIO_AND_VIDEO,
    "cremad_actor": _AUDIO_AND_VIDEO,
    "kinetics_sounds": _AUDIO_AND_VIDEO,
    "ave": _AUDIO_AND_VIDEO,
    "ucf101": {"video": _PICTURES, "flow": _FLOW},
    "mosei": {"audio": _SERIES, "text": _SERIES, "video": _SERIES},
}
GENERAL = [path for path in FILES if path.stem not in CORPORA]
# tests/unit/training/test_added_methods.py trains the methods of combinations.yaml.
METHODS = [
    (path, name)
    for path in FILES
    if path.stem != "combinations"
    for name, method in load_study(path).methods.items()
    if method.replay is None  # the run that it replays does not exist yet
]

every = pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
general = pytest.mark.parametrize("path", GENERAL, ids=lambda path: path.name)
of_corpora = pytest.mark.parametrize("name", CORPORA)


@pytest.fixture(scope="session")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ClipStore]:
    """Return a function that creates a clip store of noise with the modalities of a study's corpus."""

    @functools.cache
    def store(modalities: tuple[str, ...], study: str) -> ClipStore:
        folder = tmp_path_factory.mktemp(study) / "store"
        folder.mkdir()
        draw = np.random.default_rng(0)
        splits = ["train"] * 48 + ["val"] * 16 + ["test"] * 16
        for m in modalities:
            part = CORPORA[study][m]
            values = (
                draw.integers(0, 256, (80, *part.shape)) if part.dtype == np.uint8 else draw.random((80, *part.shape))
            )
            np.save(folder / shard_name(m, 0), values.astype(part.dtype))
        write_metadata(
            folder,
            StoreContent(
                name=study,
                fingerprint=study,
                manifest_digest="",
                decoder="none",
                preset=Preset(study, CORPORA[study]),
                per_shard=dict.fromkeys(modalities, 80),
                rows=80,
                index=[
                    {"id": f"{i}", "label": f"class {i % 4}", "split": split, "group": None, "truth": {}, "meta": {}}
                    for i, split in enumerate(splits)
                ],
                quarantine=[],
                facts={},
            ),
        )
        return ClipStore.open(folder)

    return lambda study: store(tuple(sorted(CORPORA[study])), study)


def test_the_shipped_studies_are_named_like_their_files() -> None:
    wanted = {
        "demo", "remix_thresholds", "reassembly_schedules", "ablation", "backbones", "fusions", "heads_or_dropout",
        "sensitivity",
    }  # fmt: skip
    assert wanted <= {path.stem for path in FILES}
    names = [load_study(path).name for path in FILES]
    assert sorted(names) == sorted(set(names)) == sorted(path.stem for path in FILES)


@of_corpora
def test_extreme_configurations_fit_the_corpus_of_a_study(name: str, noise: Callable[[str], ClipStore]) -> None:
    settings = {"corpus": str(noise(name).path)}
    study = read_study(FOLDER / f"{name}.yaml", settings)
    for run in check_study(study, settings):
        require_fit(run, noise(name))


@of_corpora
def test_a_study_of_a_real_corpus_has_baselines_and_names_comparable_results(name: str) -> None:
    path = FOLDER / f"{name}.yaml"
    study = load_study(path)
    runs = {each: configure(study, each, (m.first or [{}])[0], 0, {}) for each, m in study.methods.items()}
    assert {"joint", "joint_unimodal", "unimodal", "remix"} == {run.method.name for run in runs.values()}
    assert {m.ceiling_of for m in study.methods.values()} == {None, *CORPORA[name]}
    assert any(method.control_of for method in study.methods.values())
    assert study.replicates >= 5
    comment = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any("Corpus: remix-study prepare" in line for line in comment)
    assert any("Comparable with:" in line for line in comment)
    if name != "cremad_ogm":
        rate = "optimizer.learning_rate"
        assert rate in study.space
        assert all(len({params[rate] for params in method.first}) >= 2 for method in study.methods.values())


def test_the_recipe_of_the_paper_matches_the_released_code() -> None:
    study = load_study(FOLDER / "cremad_ogm.yaml")
    run = configure(study, "remix", {}, 0, {})
    assert isinstance(run.method, RemixConfig)
    assert run.model.encoder == ResNet18Config(name="resnet18")
    assert run.optimizer == AdamConfig(learning_rate=5e-5, weight_decay=1e-4)
    assert run.rate == StepRateConfig(every=0.5, factor=0.1)
    assert (run.epochs, run.global_batch, run.method.warmup, run.masking) == (60, 64, 10, "zero_feature")
    assert (run.method.warmup_weight, run.method.weight, run.method.order) == (0.5, 1.0, "blocks")
    assert study.trials == 1


@general
def test_extreme_configurations_fit_the_small_corpus(path: Path, small_corpus: Path, small_store: ClipStore) -> None:
    settings = {"corpus": str(small_corpus)}
    study = read_study(path, settings)
    runs = check_study(study, settings)
    assert len(runs) >= 2 * len(study.methods)
    for run in runs:
        require_fit(run, small_store)


@general
def test_every_method_searches_the_same_learning_rates_and_starts_with_good_ones(path: Path) -> None:
    study = load_study(path)
    rate = "optimizer.learning_rate"
    for method in (each for each in study.methods.values() if each.replay is None):
        assert space_of(study, method)[rate] == study.space[rate]
        assert {0.001, 0.003} <= {params[rate] for params in method.first}


@general
def test_every_study_has_a_random_control_baselines_and_ceilings(path: Path) -> None:
    study = load_study(path)
    firsts = {name: study.methods[study.searched(name)].first[0] for name in study.methods}
    runs = {name: configure(study, name, first, 0, {}) for name, first in firsts.items()}
    random_controls = [
        name
        for name, run in runs.items()
        if isinstance(run.method, RemixConfig)
        and isinstance(run.method.filter, RandomConfig | PermutedConfig)
        and (run.method.share is None or isinstance(run.method.share, FixedShareConfig | ArgminShareConfig))
    ]
    labelled = [name for name in random_controls if runs[name].targets is None]
    assert labelled
    assert all(study.methods[name].control_of or name == study.reference for name in labelled)
    assert {"joint", "joint_unimodal", "unimodal", "remix"} <= {run.method.name for run in runs.values()}
    assert {m.ceiling_of for m in study.methods.values()} == {None, "audio", "video"}
    assert study.replicates >= 5


def test_some_study_uses_several_seeds_and_some_study_prunes() -> None:
    studies = [load_study(path) for path in FILES]
    assert any(study.seeds_per_trial > 1 for study in studies)
    assert any(isinstance(study.pruner, AshaConfig) for study in studies)


@pytest.mark.parametrize("name", ["combinations", "combinations_small"])
def test_every_combination_is_compared_with_both_parts_and_a_random_assignment(name: str) -> None:
    study = load_study(FOLDER / f"{name}.yaml")
    configs = configs_of(study)
    whole = [each for each, config in configs.items() if len(components(config)) > 1
             and study.methods[each].control_of is None]  # fmt: skip
    parts, controls = of_combinations(study, configs), of_controls(study, configs)
    for each in whole:
        (added,) = components(configs[each]) - {"remix"}
        assert {pair.lacks for pair in parts if pair.first == each} == {"remix", added}
        (control,) = [pair.second for pair in controls if pair.first == each]
        assert control == each.replace("remix", "permuted")
        assert study.methods[control].space == study.methods[each].space
    assert len(whole) >= 3


def test_every_method_is_in_the_study_of_combinations() -> None:
    configs = configs_of(load_study(FOLDER / "combinations.yaml")).values()
    named = {name for config in configs for name in components(config)} - {"joint_unimodal", "remix"}
    assert named == Additions.model_fields.keys() - {"ogm"}, "OGM-GE, which the paper combines, stands for both"


def runs_of(study: StudyConfig) -> int:
    return sum(study.trials_of(name) * study.seeds_per_trial + study.replicates for name in study.methods)


@every
def test_the_first_comments_state_question_and_cost(path: Path) -> None:
    _, question, cost = path.read_text().splitlines()[:3]
    assert re.match(r"# Question: .+\?$", question)
    assert re.match(r"# Cost: .*\b(\d+) (small )?runs\b", cost)
    assert f"= {runs_of(load_study(path))} " in cost


@every
def test_the_table_states_question_and_cost(path: Path) -> None:
    study = load_study(path)
    (row,) = [line for line in (FOLDER / "README.md").read_text().splitlines() if f"[{path.name}]" in line]
    assert study.question in row
    assert f"{runs_of(study)} runs" in row


@pytest.mark.slow
@pytest.mark.parametrize(("path", "name"), METHODS, ids=lambda value: getattr(value, "stem", value))
def test_every_method_trains(
    path: Path, name: str, small_corpus: Path, small_store: ClipStore, noise: Callable[[str], ClipStore], tmp_path: Path
) -> None:
    """Train the first configuration of each method for two epochs, including a warm-up of one for Remix."""
    study = load_study(path)
    real = path.stem in CORPORA
    store = noise(path.stem) if real else small_store
    short: dict[str, object] = {
        "corpus": str(store.path if real else small_corpus),
        "epochs": 2,
        "device": "cpu",
        "evaluation.probe": False,
        "tracking.uri": "off",
    }
    first = (study.methods[name].first or [{}])[0]
    given = configure(study, name, first, 0, short | {"epochs": 60})
    if isinstance(given.model.encoder, ResNet18Config):
        short["model.encoder"] = {"name": "resnet18", "width": 4}
    remix = isinstance(given.method, RemixConfig)
    config = configure(study, name, first, 0, short | ({"method.warmup": 1} if remix else {}))
    require_fit(config, store)
    teachers = untrained_teachers(config, store)
    result = train(assemble(config, store, Solo(), torch.device("cpu"), NullTracker(), tmp_path, teachers=teachers))
    assert len(result.history) == 2
    assert 0 <= result.summary[study.objective[0].metric] <= 1
    assert ("remix/entropy" in result.history[-1]) == remix


@every
def test_choices_rest_on_two_seeds_and_replicates_allow_a_verdict(path: Path) -> None:
    study, text = load_study(path), path.read_text()
    if all(not method.space for method in study.methods.values()) and not study.space:
        assert "nothing is searched" in text
    else:
        assert study.seeds_per_trial >= 2
    comparisons = len(planned(study, configs_of(study)))
    pattern = r"^replicates: .*the exact sign-flip test (?:would need|needs) (\d+) for (\d+) comparisons"
    (said,) = re.findall(pattern, text, re.MULTILINE)
    assert (int(said[0]), int(said[1])) == (seeds_for_sign_flip(comparisons), comparisons)
    assert study.replicates >= FEWEST_SEEDS
