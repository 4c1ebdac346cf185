import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from remix_study.config.assignment import READING_CONTROL
from remix_study.config.run import RunConfig
from remix_study.datasets.corpus import prepare_corpus
from remix_study.datasets.manifest import read_manifest, write_manifest
from remix_study.errors import ConfigError
from remix_study.fit import require_fit
from remix_study.media.presets import FeaturePreset, FlowPreset, Preset, preset_named
from remix_study.media.store import ClipStore
from tests.unit.stores import changed, with_text

Recipe = Callable[..., RunConfig]


@pytest.fixture(scope="module")
def audio_store(small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> ClipStore:
    """Return a store with some of the clips of `small_store`, with audio only (M = 1)."""
    folder = tmp_path_factory.mktemp("audio")
    (folder / "clips").symlink_to(small_corpus / "clips")
    clips = [
        dataclasses.replace(c, paths={"audio": c.paths["audio"]})
        for c in read_manifest(small_corpus / "manifest.jsonl")
    ]
    write_manifest(folder / "manifest.jsonl", clips[:8] + clips[96:104])
    sound = preset_named("tiny+none")
    return prepare_corpus(folder / "manifest.jsonl", preset=sound, name="audio only")


def problems(config: RunConfig, store: ClipStore) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        require_fit(config, store)
    head, *lines = str(raised.value).splitlines()
    assert head == f"the configuration does not fit {store.path}:"
    return lines


def test_a_fitting_configuration_passes(recipe: Recipe, small_store: ClipStore) -> None:
    require_fit(recipe({"evaluation.test": True}), small_store)


def test_a_class_absent_from_a_split_is_reported(recipe: Recipe, small_store: ClipStore) -> None:
    labels_N = small_store.labels_N.copy()
    rows = small_store.rows("val")
    labels_N[rows[labels_N[rows] == 2]] = 0
    (line,) = problems(recipe(), changed(small_store, labels_N=labels_N))
    assert f"every class must occur in the split `val`, but {small_store.classes[2]} does not" in line


def test_the_test_split_is_required_only_if_it_is_evaluated(recipe: Recipe, audio_store: ClipStore) -> None:
    alone = {"method": {"name": "unimodal", "modality": "audio"}}
    require_fit(recipe(alone), audio_store)
    (line,) = problems(recipe({**alone, "evaluation.test": True}), audio_store)
    assert "the corpus must have a split `test`, but has train, val" in line


def test_a_control_split_needs_two_clips_or_groups_of_every_class(recipe: Recipe, small_store: ClipStore) -> None:
    labels_N, rows = small_store.labels_N.copy(), small_store.rows("train")
    labels_N[rows[labels_N[rows] == 2][1:]] = 0
    config = recipe({"control_fraction": 0.2})
    (line,) = problems(config, changed(small_store, labels_N=labels_N))
    assert f"(`control_fraction: 0.2`), but {small_store.classes[2]} has too few clips in the training split" in line
    groups = [f"group of {label}" if label == 2 else None for label in small_store.labels_N.tolist()]
    (line,) = problems(config, changed(small_store, groups=groups))
    assert f"but {small_store.classes[2]} has too few groups in the training split; add groups" in line
    require_fit(recipe(), changed(small_store, groups=groups))


def test_smallest_batch_is_at_most_the_training_split(recipe: Recipe, small_store: ClipStore) -> None:
    (line,) = problems(recipe({"global_batch": 200, "smallest_batch": 100}), small_store)
    assert "`smallest_batch` must be at most the 96 training clips, but is 100" in line
    (line,) = problems(recipe({"global_batch": 96, "smallest_batch": 90, "control_fraction": 0.5}), small_store)
    assert "`smallest_batch` must be at most the 48 training clips, but is 90" in line


@pytest.mark.parametrize(
    ("method", "wanted"),
    [
        ({"filter": {"rule": "margin", "threshold": 2.5}}, "`method.filter.threshold` must be at most 2, but is 2.5"),
        (
            {"score": "kl_normalised", "filter": {"rule": "margin", "threshold": 1.5}},
            "`method.filter.threshold` must be at most 1, but is 1.5: the score `kl_normalised` is in [0, 1]",
        ),
        ({"filter": {"rule": "band", "lower": 2, "upper": 3}}, "must include possible scores, but [2, 3] does not"),
        ({"filter": {"rule": "max_share", "share": 0.4}}, "`method.filter.share` must be at least 1/2"),
        ({"training_order": ["video"]}, "`method.training_order` must name audio, video once each"),
        ({"warmup_weight": {"audio": 1.0}}, "`method.warmup_weight` must name audio, video once each"),
        ({"weight": {"audio": 1.0, "vdeo": 1.0}}, "`method.weight` must name audio, video once each"),
        (
            {"share": {"kind": "fixed", "parts": {"audio": 1.0}}},
            "`method.share` must name audio, video once each",
        ),
        ({"filter": {"rule": "margin", "threshold": {"from": 0, "to": 3}}}, "must be at most 2, but is 3"),
        (
            {"phases": [{"until": 0.5, "filter": {"rule": "margin", "threshold": 3}}, {}]},
            "`method.phases[0].filter.threshold` must be at most 2, but is 3",
        ),
        ({"phases": [{"until": 0.5, "only": ["text"]}, {}]}, "`only` of phase 1 names text, but the corpus has"),
        ({"phases": {"preset": "smp", "order": ["audio"]}}, "`method.phases.order` must name audio, video once each"),
        ({"warmup_weight": {"from": 1, "to": 0}}, "no sample trains several modalities after the warm-up"),
        ({"phases": [{"until": 0.5, "warmup_weight": 1}, {}]}, "`warmup_weight` has no effect in phase 1"),
        *[
            (
                {"share": {"kind": kind}, "filter": {"rule": "max_share", "share": 0.5}},
                "`method.share` has no effect with `filter: {rule: max_share, share: 0.5}`",
            )
            for kind in READING_CONTROL
        ],
    ],
)
def test_options_outside_the_range_of_scores_and_modalities_raise(
    recipe: Recipe, small_store: ClipStore, method: dict[str, Any], wanted: str
) -> None:
    (line,) = problems(recipe({"method": {"name": "remix", "warmup": 1, **method}}), small_store)
    assert wanted in line


def test_the_range_follows_the_number_of_classes(recipe: Recipe, small_store: ClipStore) -> None:
    config = recipe({"method.filter": {"rule": "margin", "threshold": 2.5}})
    require_fit(
        config, changed(small_store, classes=(*small_store.classes, "e", "f", "g", "h"), labels_N=np.arange(192) % 8)
    )


def test_multimodal_methods_need_two_modalities(recipe: Recipe, audio_store: ClipStore) -> None:
    for name in ("joint", "joint_unimodal", "remix"):
        method = {"name": name} | ({"warmup": 1} if name == "remix" else {})
        (line,) = problems(recipe({"method": method}), audio_store)
        assert f"`{name}` needs at least two modalities, but the corpus has only audio" in line
    (line,) = problems(recipe({"method": {"name": "unimodal", "modality": "video"}}), audio_store)
    assert "`method.modality` must be one of audio, but is video" in line


@pytest.mark.parametrize("fusion", ["film", "film_published", "gated_published"])
def test_fusions_of_two_need_two_modalities(
    recipe: Recipe, small_store: ClipStore, audio_store: ClipStore, fusion: str
) -> None:
    text = "\n".join(problems(recipe({"method": {"name": "joint"}, "model.fusion": fusion}), audio_store))
    assert f"`model.fusion: {fusion}` needs two modalities, but the corpus has 1" in text
    (line,) = problems(recipe({"model.fusion": fusion}), with_text(small_store))
    assert f"`model.fusion: {fusion}` needs two modalities, but the corpus has 3" in line
    # A unimodal run has no fusion.
    require_fit(recipe({"model.fusion": fusion, "method": {"name": "unimodal", "modality": "audio"}}), audio_store)


@pytest.mark.parametrize("fusion", ["mmtm", "centralnet"])
def test_fusions_inside_the_encoders_need_stages(recipe: Recipe, small_store: ClipStore, fusion: str) -> None:
    (line,) = problems(recipe({"model.fusion": fusion}), with_text(small_store))
    assert (
        f"`model.fusion: {fusion}` needs encoders with stages (tiny, resnet18), but that of text is `vector`; use "
        "another fusion" in line
    )
    require_fit(recipe({"model.fusion": fusion, "method": {"name": "unimodal", "modality": "text"}}),
                with_text(small_store))  # fmt: skip
    require_fit(recipe({"model.fusion": fusion}), small_store)


def test_greedy_needs_two_modalities(recipe: Recipe, small_store: ClipStore) -> None:
    fusion = {"name": "mmtm", "greedy": {}}
    store = with_text(small_store, "image")
    (line,) = problems(recipe({"model.fusion": fusion}), store)
    assert "`model.fusion.greedy` needs two modalities, but the corpus has 3; leave it out" in line
    require_fit(recipe({"model.fusion": "mmtm"}), store)
    require_fit(recipe({"model.fusion": fusion}), small_store)


def test_centralnet_needs_equal_encoders(recipe: Recipe, small_store: ClipStore) -> None:
    encoders = {"video": {"name": "resnet18", "width": 8}}
    (line,) = problems(recipe({"model.fusion": "centralnet", "model.encoders": encoders}), small_store)
    assert "audio has {name: tiny}, video has {name: resnet18, width: 8}; set one `model.encoder`" in line
    require_fit(recipe({"model.fusion": "mmtm", "model.encoders": encoders}), small_store)


def test_the_lowest_progress_share_depends_on_the_number_of_modalities(recipe: Recipe, small_store: ClipStore) -> None:
    (line,) = problems(recipe({"method.share": {"kind": "progress", "lowest": 0.4}}), with_text(small_store))
    assert "`method.share.lowest` must be below 1/3, but is 0.4" in line


def test_a_phase_needs_samples_for_the_modalities_that_it_trains(recipe: Recipe, small_store: ClipStore) -> None:
    def method(*phases: dict[str, object], **parts: float) -> dict[str, object]:
        share = {"audio": 0.0, "video": 0.0, "text": 1.0} | parts
        return {"name": "remix", "warmup": 1, "share": share, "phases": [*phases, {}]}

    first = {"until": 0.5, "only": ["audio", "video"]}
    (line,) = problems(recipe({"method": method(first)}), with_text(small_store))
    assert "`only` of phase 1 names audio and video, to which `method.share` gives no samples" in line
    own = first | {"share": {"audio": 0.5, "video": 0.5}}
    for phases, parts in (((own,), {}), ((first,), {"video": 0.1, "text": 0.9})):
        require_fit(recipe({"method": method(*phases, **parts)}), with_text(small_store))


def test_unknown_modalities_are_reported(recipe: Recipe, small_store: ClipStore) -> None:
    config = recipe({"model.encoders": {"vidoe": {"name": "tiny"}}, "evaluation.ceilings": {"adio": 0.9}})
    one, other = problems(config, small_store)
    assert "`model.encoders` names vidoe, but the corpus has audio, video" in one
    assert "`evaluation.ceilings` names adio, but the corpus has audio, video" in other


def test_a_configured_encoder_must_take_the_modality(recipe: Recipe, small_store: ClipStore) -> None:
    chosen = {"audio": {"name": "sequence"}, "text": {"name": "resnet18"}}
    one, other = problems(recipe({"model.encoders": chosen}), with_text(small_store, "sequence"))
    assert one.endswith(
        "the encoder of audio must take spectrograms, but `sequence` does not; "
        "use `model.encoders: {audio: {name: tiny}}`"
    )
    assert other.endswith(
        "the encoder of text must take a sequence of vectors, but `resnet18` does not; "
        "use `model.encoders: {text: {name: sequence}}`"
    )
    found = problems(recipe({"model.encoder": {"name": "vector"}}), with_text(small_store, "vector"))
    assert ["spectrograms" in found[0], "video must take pictures" in found[1], len(found)] == [True, True, 2]
    # Only modalities of the run are checked.
    require_fit(
        recipe({"model.encoders": chosen, "method": {"name": "unimodal", "modality": "video"}}),
        with_text(small_store, "sequence"),
    )


def test_the_dominant_modality_must_be_one_of_the_corpus(recipe: Recipe, small_store: ClipStore) -> None:
    require_fit(recipe({"method": {"name": "pdmp", "dominant": "video"}}), small_store)
    for method, key in (
        ({"name": "pdmp", "dominant": "text"}, "method.dominant"),
        ({"name": "remix", "warmup": 1, "with": {"pdmp": {"dominant": "text"}}}, "method.with.pdmp.dominant"),
    ):
        (line,) = problems(recipe({"method": method}), small_store)
        assert f"`{key}` must be one of audio, video, but is text" in line


def test_a_shared_head_needs_features_of_the_same_size(recipe: Recipe, small_store: ClipStore) -> None:
    require_fit(recipe({"method": {"name": "mla"}}), small_store)
    encoders = {"audio": {"name": "resnet18", "width": 8}}
    (line,) = problems(recipe({"method": {"name": "mla"}, "model.encoders": encoders}), small_store)
    assert "`mla` has one head for all modalities" in line
    assert "have 64 (audio), " in line
    assert "set the `width` of `model.encoders`" in line


def test_a_transform_needs_a_modality_that_it_applies_to(
    recipe: Recipe, small_store: ClipStore, audio_store: ClipStore
) -> None:
    everything = {"crop": True, "flip": True, "time_mask": 5, "frequency_mask": 5, "shift": 0.1}
    require_fit(recipe({"augment": everything}), small_store)
    alone = {"method": {"name": "unimodal", "modality": "audio"}}
    require_fit(
        recipe({"augment": everything, **alone}), small_store
    )  # runs of ceilings have the settings of their study
    one, other = problems(recipe({"augment": everything, **alone}), audio_store)
    assert "`augment.crop` is for video, but the corpus has audio; leave it out" in one
    assert "`augment.flip` is for video or flow, but the corpus has audio; leave it out" in other

    flow = Preset("flow", {"flow": FlowPreset(3, 8, 8), "text": FeaturePreset("vector", (6,))})
    silent = changed(small_store, modalities=("flow", "text"), preset=flow)
    lines = problems(recipe({"augment": everything}), silent)
    names = [line.split("`")[1] for line in lines]
    assert names == ["augment.crop", "augment.time_mask", "augment.frequency_mask", "augment.shift"]
    assert "but the corpus has flow, text (features); leave it out" in lines[0]


def test_a_mask_must_be_smaller_than_the_spectrogram(recipe: Recipe, small_store: ClipStore) -> None:
    require_fit(recipe({"augment": {"time_mask": 31, "frequency_mask": 31}}), small_store)
    one, other = problems(recipe({"augment": {"time_mask": 32, "frequency_mask": 40}}), small_store)
    assert "`augment.time_mask` must be below the 32 frames of a spectrogram, but is 32" in one
    assert "`augment.frequency_mask` must be below the 32 bands of a spectrogram, but is 40" in other


def test_random_frames_need_a_store_with_candidates(recipe: Recipe, small_store: ClipStore) -> None:
    config = recipe({"augment": {"frames": "random"}})
    (line,) = problems(config, small_store)
    assert "`augment.frames: random` needs several frames per segment, but the store has one" in line
    preset = preset_named("stft188+2x224r")
    require_fit(config, changed(small_store, preset=preset))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_missing_gpu_is_reported_with_all_other_problems(recipe: Recipe, audio_store: ClipStore) -> None:
    assert len(problems(recipe({"device": "cuda", "method": {"name": "joint"}}), audio_store)) == 2
