"""The studies that are shipped: possible, honest, and what their README says of them"""

import functools
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from remix_study.assemble import assemble
from remix_study.config.load import load_study
from remix_study.config.run import AdamConfig, RandomConfig, RemixConfig, ResNet18Config, StepRateConfig
from remix_study.config.study import AshaConfig, StudyConfig
from remix_study.fit import require_fit
from remix_study.media.presets import AUDIO_FRONT_ENDS, FeaturePreset, FlowPreset, Part, Preset, VideoPreset
from remix_study.media.publish import StoreContent, write_metadata
from remix_study.media.shards import shard_name
from remix_study.media.store import ClipStore
from remix_study.study.search_space import configure, space_of
from remix_study.study.study_file import check_study, read_study
from remix_study.tracking.tracker import NullTracker
from remix_study.training.loop import train
from remix_study.world import Solo

FOLDER = Path(__file__).parents[2] / "search_spaces"
FILES = sorted(FOLDER.glob("*.yaml"))
_SOUND, _PICTURES, _FLOW = AUDIO_FRONT_ENDS["tiny"], VideoPreset(2, 16, 16, "area", candidates=3), FlowPreset(2, 16, 16)
_SERIES = FeaturePreset("sequence", (6, 5))
_HEARD_AND_SEEN: dict[str, Part] = {"audio": _SOUND, "video": _PICTURES}
# Studies of real corpora, and small parts of the kinds that those corpora have.
CORPORA: dict[str, dict[str, Part]] = {
    "cremad_ogm": _HEARD_AND_SEEN,
    "cremad_tuned": _HEARD_AND_SEEN,
    "cremad_actor": _HEARD_AND_SEEN,
    "kinetics_sounds": _HEARD_AND_SEEN,
    "ave": _HEARD_AND_SEEN,
    "ucf101": {"video": _PICTURES, "flow": _FLOW},
    "mosei": {"audio": _SERIES, "text": _SERIES, "video": _SERIES},
}
GENERAL = [path for path in FILES if path.stem not in CORPORA]
METHODS = [(path, name) for path in FILES for name in load_study(path).methods]

every = pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
general = pytest.mark.parametrize("path", GENERAL, ids=lambda path: path.name)
of_corpora = pytest.mark.parametrize("name", CORPORA)


@pytest.fixture(scope="session")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ClipStore]:
    """A store of noise with the kinds of modalities that a study's corpus has; the shared corpus for the others."""

    @functools.cache
    def store(kind: tuple[str, ...], study: str) -> ClipStore:
        folder = tmp_path_factory.mktemp(study) / "store"
        folder.mkdir()
        draw = np.random.default_rng(0)
        splits = ["train"] * 48 + ["val"] * 16 + ["test"] * 16
        for m in kind:
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
                per_shard=dict.fromkeys(kind, 80),
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


def test_the_questions_are_there() -> None:
    wanted = {"demo", "remix_thresholds", "reassembly_schedules", "ablation", "methods"}
    assert wanted <= {path.stem for path in FILES}
    names = [load_study(path).name for path in FILES]
    assert sorted(names) == sorted(set(names)) == sorted(path.stem for path in FILES)


@of_corpora
def test_every_corner_is_a_possible_run_of_a_corpus_of_its_kind(name: str, noise: Callable[[str], ClipStore]) -> None:
    settings = {"corpus": str(noise(name).path)}
    study = read_study(FOLDER / f"{name}.yaml", settings)
    for run in check_study(study, settings):
        require_fit(run, noise(name))


@of_corpora
def test_a_study_of_a_real_corpus_is_honest_and_says_what_it_compares_with(name: str) -> None:
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
        assert all(len({point[rate] for point in method.first}) >= 2 for method in study.methods.values())


def test_the_recipe_of_the_paper_is_what_its_code_released() -> None:
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
def test_every_corner_is_a_possible_run_of_the_corpus(path: Path, small_corpus: Path, small_store: ClipStore) -> None:
    settings = {"corpus": str(small_corpus)}
    study = read_study(path, settings)
    runs = check_study(study, settings)
    assert len(runs) >= 2 * len(study.methods)
    for run in runs:
        require_fit(run, small_store)


@general
def test_every_method_has_the_same_learning_rates_and_known_good_ones_first(path: Path) -> None:
    study = load_study(path)
    rate = "optimizer.learning_rate"
    for method in study.methods.values():
        assert space_of(study, method)[rate] == study.space[rate]
        assert {0.001, 0.003} <= {point[rate] for point in method.first}


@general
def test_every_study_has_a_control_by_lot_honest_baselines_and_ceilings(path: Path) -> None:
    study = load_study(path)
    runs = {name: configure(study, name, method.first[0], 0, {}) for name, method in study.methods.items()}
    by_lot = [
        name
        for name, run in runs.items()
        if isinstance(run.method, RemixConfig) and isinstance(run.method.filter, RandomConfig)
    ]
    assert by_lot
    assert all(study.methods[name].control_of for name in by_lot)
    assert {"joint", "joint_unimodal", "unimodal", "remix"} == {run.method.name for run in runs.values()}
    assert {m.ceiling_of for m in study.methods.values()} == {None, "audio", "video"}
    assert study.replicates >= 5


def test_noise_and_time_are_thought_of_somewhere() -> None:
    studies = [load_study(path) for path in FILES]
    assert any(study.seeds_per_trial > 1 for study in studies)
    assert any(isinstance(study.pruner, AshaConfig) for study in studies)


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
@pytest.mark.parametrize(("path", "name"), METHODS, ids=lambda value: getattr(value, "stem", value))
def test_every_contender_trains(
    path: Path, name: str, small_corpus: Path, small_store: ClipStore, noise: Callable[[str], ClipStore], tmp_path: Path
) -> None:
    """Its first point, through the warm-up and one epoch on."""
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
    result = train(assemble(config, store, Solo(), torch.device("cpu"), NullTracker(), tmp_path))
    assert len(result.history) == 2
    assert 0 <= result.summary[study.objective[0].metric] <= 1
    assert ("remix/entropy" in result.history[-1]) == remix
