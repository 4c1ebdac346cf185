import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from remix_study import models, remix
from remix_study.assemble import assemble, build_model, check, modalities_of, training_order
from remix_study.config.run import RunConfig
from remix_study.datasets.corpus import prepare_corpus
from remix_study.datasets.manifest import read_manifest, write_manifest
from remix_study.errors import ConfigError
from remix_study.media.presets import FeaturePreset, FlowPreset, Preset, preset_named
from remix_study.media.store import ClipStore
from remix_study.tracking.tracker import NullTracker
from remix_study.training.loop import Run
from remix_study.world import Solo

Recipe = Callable[..., RunConfig]


@pytest.fixture(scope="module")
def audio_store(small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> ClipStore:
    """The same clips, of which only the sound is told: M = 1."""
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
        check(config, store)
    head, *lines = str(raised.value).splitlines()
    assert head == f"the configuration does not fit {store.path}:"
    return lines


def changed(store: ClipStore, **attributes: Any) -> ClipStore:
    other = copy.copy(store)
    for name, value in attributes.items():
        setattr(other, name, value)
    return other


def with_text(store: ClipStore, layout: Literal["vector", "sequence", "image"] = "vector") -> ClipStore:
    """As if it had a third modality."""
    shape = (6,) if layout == "vector" else (5, 6)
    preset = Preset("three", {**store.preset.parts, "text": FeaturePreset(layout, shape)})
    return changed(store, modalities=("audio", "video", "text"), preset=preset)


# --- what the corpus must have ---------------------------------------------------------------------------------------


def test_a_fitting_configuration_passes(recipe: Recipe, small_store: ClipStore) -> None:
    check(recipe({"evaluation.test": True}), small_store)


def test_a_class_absent_from_a_split_is_named(recipe: Recipe, small_store: ClipStore) -> None:
    labels_N = small_store.labels_N.copy()
    rows = small_store.rows("val")
    labels_N[rows[labels_N[rows] == 2]] = 0
    (line,) = problems(recipe(), changed(small_store, labels_N=labels_N))
    assert f"every class must occur in `val`, but {small_store.classes[2]} does not" in line


def test_a_split_is_only_missed_where_it_is_needed(recipe: Recipe, audio_store: ClipStore) -> None:
    alone = {"method": {"name": "unimodal", "modality": "audio"}}
    check(recipe(alone), audio_store)
    (line,) = problems(recipe({**alone, "evaluation.test": True}), audio_store)
    assert "the corpus must have a split `test`, but has train, val" in line


def test_more_than_the_training_clips_cannot_be_asked_of_a_batch(recipe: Recipe, small_store: ClipStore) -> None:
    (line,) = problems(recipe({"global_batch": 200, "smallest_batch": 100}), small_store)
    assert "`smallest_batch` must be at most the 96 training clips, but is 100" in line


@pytest.mark.parametrize(
    ("method", "wanted"),
    [
        ({"filter": {"rule": "margin", "threshold": 2.5}}, "`method.filter.threshold` must be at most 2, but is 2.5"),
        (
            {"score": "kl_normalised", "filter": {"rule": "margin", "threshold": 1.5}},
            "`method.filter.threshold` must be at most 1, but is 1.5: the score `kl_normalised` lies in [0, 1]",
        ),
        ({"filter": {"rule": "band", "lower": 2, "upper": 3}}, "must let some scores through, but [2, 3] does not"),
        ({"filter": {"rule": "max_share", "share": 0.4}}, "`method.filter.share` must be at least 1/2"),
        ({"training_order": ["video"]}, "`method.training_order` must name audio, video once each"),
        (
            {"share": {"kind": "fixed", "parts": {"audio": 1.0}}},
            "`method.share.parts` must name audio, video once each",
        ),
    ],
)
def test_what_does_not_fit_scores_and_modalities_is_refused(
    recipe: Recipe, small_store: ClipStore, method: dict[str, Any], wanted: str
) -> None:
    (line,) = problems(recipe({"method": {"name": "remix", "warmup": 1, **method}}), small_store)
    assert wanted in line


def test_the_range_follows_the_number_of_classes(recipe: Recipe, small_store: ClipStore) -> None:
    config = recipe({"method.filter": {"rule": "margin", "threshold": 2.5}})
    check(config, changed(small_store, classes=(*small_store.classes, "e", "f", "g", "h"), labels_N=np.arange(192) % 8))


def test_one_modality_is_not_enough_for_anything_multimodal(recipe: Recipe, audio_store: ClipStore) -> None:
    for name in ("joint", "joint_unimodal", "remix"):
        method = {"name": name} | ({"warmup": 1} if name == "remix" else {})
        (line,) = problems(recipe({"method": method}), audio_store)
        assert f"`{name}` needs at least two modalities, but the corpus has only audio" in line
    (line,) = problems(recipe({"method": {"name": "unimodal", "modality": "video"}}), audio_store)
    assert "`method.modality` must be one of audio, but is video" in line


def test_film_is_for_two_modalities(recipe: Recipe, small_store: ClipStore, audio_store: ClipStore) -> None:
    told = "\n".join(problems(recipe({"method": {"name": "joint"}, "model.fusion": "film"}), audio_store))
    assert "`model.fusion: film` needs two modalities, but the corpus has 1" in told
    (line,) = problems(recipe({"model.fusion": "film"}), with_text(small_store))
    assert "`model.fusion: film` needs two modalities, but the corpus has 3" in line
    # A unimodal run has no fusion to speak of.
    check(recipe({"model.fusion": "film", "method": {"name": "unimodal", "modality": "audio"}}), audio_store)


def test_progress_shares_of_three_cannot_each_be_above_a_third(recipe: Recipe, small_store: ClipStore) -> None:
    (line,) = problems(recipe({"method.share": {"kind": "progress", "lowest": 0.4}}), with_text(small_store))
    assert "`method.share.lowest` must be below 1/3, but is 0.4" in line


def test_unknown_modalities_are_named_wherever_they_are(recipe: Recipe, small_store: ClipStore) -> None:
    config = recipe({"model.encoders": {"vidoe": {"name": "tiny"}}, "evaluation.ceilings": {"adio": 0.9}})
    one, other = problems(config, small_store)
    assert "`model.encoders` names vidoe, but the corpus has audio, video" in one
    assert "`evaluation.ceilings` names adio, but the corpus has audio, video" in other


def test_an_encoder_that_was_chosen_must_fit(recipe: Recipe, small_store: ClipStore) -> None:
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
    told = problems(recipe({"model.encoder": {"name": "vector"}}), with_text(small_store, "vector"))
    assert ["spectrograms" in told[0], "video must take pictures" in told[1], len(told)] == [True, True, 2]
    # Only what the run uses is looked at.
    check(
        recipe({"model.encoders": chosen, "method": {"name": "unimodal", "modality": "video"}}),
        with_text(small_store, "sequence"),
    )


def test_a_transform_must_have_something_to_act_on(
    recipe: Recipe, small_store: ClipStore, audio_store: ClipStore
) -> None:
    everything = {"crop": True, "flip": True, "time_mask": 5, "frequency_mask": 5, "shift": 0.1}
    check(recipe({"augment": everything}), small_store)
    alone = {"method": {"name": "unimodal", "modality": "audio"}}
    check(recipe({"augment": everything, **alone}), small_store)  # the recipe of a study, for one of its ceilings
    one, other = problems(recipe({"augment": everything, **alone}), audio_store)
    assert "`augment.crop` is for video, but the corpus has audio; leave it out" in one
    assert "`augment.flip` is for video or flow, but the corpus has audio; leave it out" in other

    flow = Preset("flow", {"flow": FlowPreset(3, 8, 8), "text": FeaturePreset("vector", (6,))})
    silent = changed(small_store, modalities=("flow", "text"), preset=flow)
    lines = problems(recipe({"augment": everything}), silent)
    names = [line.split("`")[1] for line in lines]
    assert names == ["augment.crop", "augment.time_mask", "augment.frequency_mask", "augment.shift"]
    assert "but the corpus has flow, text (features); leave it out" in lines[0]


def test_a_mask_must_leave_something(recipe: Recipe, small_store: ClipStore) -> None:
    check(recipe({"augment": {"time_mask": 31, "frequency_mask": 31}}), small_store)
    one, other = problems(recipe({"augment": {"time_mask": 32, "frequency_mask": 40}}), small_store)
    assert "`augment.time_mask` must be below the 32 frames of a spectrogram, but is 32" in one
    assert "`augment.frequency_mask` must be below the 32 bands of a spectrogram, but is 40" in other


def test_random_frames_need_a_store_that_has_them(recipe: Recipe, small_store: ClipStore) -> None:
    config = recipe({"augment": {"frames": "random"}})
    (line,) = problems(config, small_store)
    assert "`augment.frames: random` needs several frames of each segment, but the store has one" in line
    preset = preset_named("stft188+2x224r")
    check(config, changed(small_store, preset=preset))


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what is told where there is no GPU")
def test_a_gpu_that_is_not_there_is_told_with_everything_else(recipe: Recipe, audio_store: ClipStore) -> None:
    assert len(problems(recipe({"device": "cuda", "method": {"name": "joint"}}), audio_store)) == 2


# --- words to objects ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "rule"),
    [
        ({"rule": "argmin"}, remix.Argmin()),
        ({"rule": "inverted"}, remix.Inverted()),
        ({"rule": "random"}, remix.Random()),
        ({"rule": "permuted"}, remix.Permuted()),
        ({"rule": "tempered", "temperature": 0.5}, remix.Tempered(0.5)),
        ({"rule": "margin", "threshold": 0.1, "close": "each"}, remix.Margin(0.1, "each")),
        ({"rule": "quantile", "fraction": 0.3, "otherwise": "rest"}, remix.Quantile(0.3, "rest")),
        ({"rule": "max_share", "share": 0.6}, remix.MaxShare(0.6)),
        ({"rule": "band", "lower": 0.1, "upper": 0.9}, remix.Band(0.1, 0.9, "joint")),
    ],
)
def test_every_rule_is_built_and_trains_an_epoch_plan(
    recipe: Recipe, assembled: Callable[..., Run], method: dict[str, Any], rule: remix.Filter
) -> None:
    plan = assembled(recipe({"method.filter": method})).method.plan
    assert isinstance(plan, remix.RemixPlan)
    assert plan._settings.filter == rule


@pytest.mark.parametrize(
    ("optimizer", "kind", "settings"),
    [
        ({"name": "sgd", "learning_rate": 0.2, "momentum": 0.5}, torch.optim.SGD, {"lr": 0.2, "momentum": 0.5}),
        (
            {"name": "adam", "learning_rate": 0.2, "weight_decay": 0.3},
            torch.optim.Adam,
            {"lr": 0.2, "weight_decay": 0.3},
        ),
        ({"name": "adamw", "learning_rate": 0.2}, torch.optim.AdamW, {"lr": 0.2, "weight_decay": 0.01}),
    ],
)
def test_every_optimizer_is_built(
    recipe: Recipe, assembled: Callable[..., Run], optimizer: dict[str, Any], kind: type, settings: dict[str, float]
) -> None:
    run = assembled(recipe({"optimizer": optimizer}))
    assert type(run.optimizer) is kind
    (group,) = run.optimizer.param_groups
    assert {key: group[key] for key in settings} == settings
    assert len(group["params"]) == len(list(run.model.parameters()))


@pytest.mark.parametrize(
    ("rate", "factors"),
    [
        ({"name": "constant"}, [1, 1, 1, 1]),
        ({"name": "step", "every": 0.5, "factor": 0.1}, [1, 1, 0.1, 0.1]),
        ({"name": "cosine", "warmup": 1, "final": 0.5}, [0.5, 1, 0.875, 0.625]),
    ],
)
def test_every_rate_is_built(
    recipe: Recipe, assembled: Callable[..., Run], rate: dict[str, Any], factors: list[float]
) -> None:
    run = assembled(recipe({"rate": rate, "epochs": 4}))
    assert [run.rate(epoch) for epoch in range(4)] == pytest.approx(factors)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("concat", models.ConcatFusion), ("sum", models.SumFusion), ("decision", models.DecisionFusion),
        ("film", models.FiLMFusion), ("gated", models.GatedFusion),
    ],
)  # fmt: skip
def test_every_fusion_is_built(recipe: Recipe, small_store: ClipStore, name: str, kind: type) -> None:
    config = recipe({"model.fusion": name})
    check(config, small_store)
    assert type(build_model(config, small_store).fusion) is kind


@pytest.mark.parametrize(
    ("layout", "kind", "shape"),
    [
        ("vector", models.VectorEncoder, (2, 6)),
        ("sequence", models.SequenceEncoder, (2, 5, 6)),
        ("image", models.TinyEncoder, (2, 1, 5, 6)),
    ],
)
def test_features_get_the_encoder_that_fits_them(
    recipe: Recipe,
    small_store: ClipStore,
    layout: Literal["vector", "sequence", "image"],
    kind: type[models.Encoder],
    shape: tuple[int, ...],
) -> None:
    store = with_text(small_store, layout)
    check(recipe(), store)
    model = build_model(recipe(), store)
    assert type(model.encoders["text"]) is kind
    assert model.encode("text", torch.randn(shape)).shape == (2, model.widths["text"])


def test_features_get_the_settings_that_they_were_given(recipe: Recipe, small_store: ClipStore) -> None:
    sizes = {"name": "sequence", "width": 8, "layers": 1}
    own = build_model(recipe({"model.encoders": {"text": sizes}}), with_text(small_store, "sequence"))
    encoder = own.encoders["text"]
    assert isinstance(encoder, models.SequenceEncoder)
    assert (encoder.out_features, len(encoder.blocks)) == (8, 1)
    sizes = {"name": "vector", "width": 8, "hidden": 3}
    encoder = build_model(recipe({"model.encoders": {"text": sizes}}), with_text(small_store)).encoders["text"]
    assert isinstance(encoder, models.VectorEncoder)
    assert [p.shape[0] for p in encoder.parameters()] == [3, 3, 8, 8]


def test_flow_has_two_channels(recipe: Recipe, small_store: ClipStore) -> None:
    preset = Preset("flow", {"video": small_store.preset.parts["video"], "flow": FlowPreset(1, 16, 16)})
    store = changed(small_store, modalities=("video", "flow"), preset=preset)
    check(recipe(), store)
    model = build_model(recipe(), store)
    assert model.encode("flow", torch.randn(2, 2, 1, 16, 16)).shape == (2, 128)


def test_one_modality_may_have_another_encoder(recipe: Recipe, small_store: ClipStore) -> None:
    model = build_model(recipe({"model.encoders": {"video": {"name": "resnet18", "width": 2}}}), small_store)
    assert type(model.encoders["audio"]) is models.TinyEncoder
    assert type(model.encoders["video"]) is models.ResNet18
    assert model.widths == {"audio": 128, "video": 16}


def test_a_unimodal_run_has_one_modality_and_its_head_is_its_fused_head(recipe: Recipe, small_store: ClipStore) -> None:
    config = recipe({"method": {"name": "unimodal", "modality": "video"}})
    assert modalities_of(config, small_store) == ("video",)
    model = build_model(config, small_store)
    assert set(model.encoders) == {"video"}
    assert isinstance(model.fusion, models.DecisionFusion)


def test_training_order_is_video_first_unless_said() -> None:
    assert training_order(
        RunConfig.model_validate({"corpus": "c", "method": {"name": "remix"}}).method, ("audio", "video")
    ) == (
        "video",
        "audio",
    )
    said = {"corpus": "c", "method": {"name": "remix", "training_order": ["audio", "video"]}}
    assert training_order(RunConfig.model_validate(said).method, ("audio", "video")) == ("audio", "video")


def test_shares_and_settings_reach_the_plan(recipe: Recipe, assembled: Callable[..., Run]) -> None:
    config = recipe(
        {
            "method.share": {"kind": "fixed", "parts": {"video": 0.7, "audio": 0.3}},
            "method.order": "alternate",
            "method.joint_share": 0.25,
            "method.rescore_every": 3,
            "incomplete": "drop",
            "smallest_batch": 4,
        }
    )
    plan = assembled(config).method.plan
    assert isinstance(plan, remix.RemixPlan)
    settings = plan._settings
    assert settings.share == remix.FixedShare((0.3, 0.7))
    assert settings.how == remix.Reassembly("alternate", (1, 0), 32, "drop", 4)
    assert (settings.joint_share, settings.rescore_every, settings.warmup) == (0.25, 3, 1)


def test_initial_weights_depend_on_the_seed_alone(recipe: Recipe, small_store: ClipStore, tmp_path: Path) -> None:
    def weights(config: RunConfig) -> dict[str, torch.Tensor]:
        return build_model(config, small_store).state_dict()

    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = weights(recipe())
    assert torch.equal(torch.get_rng_state(), before)  # and building leaves the global stream alone
    torch.manual_seed(2)
    again = weights(recipe({"method": {"name": "joint"}, "optimizer.learning_rate": 0.5, "epochs": 7}))
    assert first.keys() == again.keys()
    assert all(torch.equal(first[key], again[key]) for key in first)
    other = weights(recipe({"seed": 1}))
    assert not torch.equal(first["heads.audio.weight"], other["heads.audio.weight"])


def test_channels_last_is_a_layout_and_not_other_weights(
    recipe: Recipe, small_store: ClipStore, tmp_path: Path
) -> None:
    runs = [
        assemble(recipe({"channels_last": last}), small_store, Solo(), torch.device("cpu"), NullTracker(), tmp_path)
        for last in (True, False)
    ]
    one, other = (run.model.encoders["video"].state_dict()["stem.weight"] for run in runs)
    assert torch.equal(one, other)
    assert one.is_contiguous(memory_format=torch.channels_last)
    assert not other.is_contiguous(memory_format=torch.channels_last)
