import inspect
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, get_args

import numpy as np
import pytest
import torch

from remix_study import models, remix
from remix_study.assemble import assemble, training_order
from remix_study.balancing import CrossEntropy, balanced_weights
from remix_study.config.run import EncoderConfig, RunConfig
from remix_study.fit import require_fit
from remix_study.media.presets import AUDIO_FRONT_ENDS, FeaturePreset, FlowPreset, Preset, VideoPreset
from remix_study.media.store import ClipStore
from remix_study.metrics import late_product
from remix_study.models.transformer import Block
from remix_study.networks import ENCODERS, build_model, modalities_of
from remix_study.sample import Batch
from remix_study.tracking.model import save_model
from remix_study.tracking.tracker import NullTracker
from remix_study.training.evaluate import evaluate
from remix_study.training.run import Run
from remix_study.world import Solo
from tests.unit.stores import changed, with_text

Recipe = Callable[..., RunConfig]


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
        ({"rule": "learning_progress", "passes": 3}, remix.ByCost(remix.LearningProgress(3, 0.5), explore=0.3)),
        ({"rule": "cartography", "still": 0.2}, remix.ByCost(remix.Cartography(5, 0.5, 0.2))),
        ({"rule": "coalition_gain", "tau": 0.3, "explore": 0.1}, remix.ByCost(remix.CoalitionGain(0.3), explore=0.1)),
    ],
)
def test_every_rule_is_built_and_trains_an_epoch_plan(
    recipe: Recipe, assembled: Callable[..., Run], method: dict[str, Any], rule: remix.Filter
) -> None:
    plan = assembled(recipe({"method.filter": method})).method.plan
    assert isinstance(plan, remix.RemixPlan)
    assert plan.settings.filter == rule


@pytest.mark.parametrize("rule", ["random", "cartography"])
def test_a_rule_within_classes_knows_the_classes_of_the_training_samples(
    recipe: Recipe, assembled: Callable[..., Run], rule: str
) -> None:
    share = {"kind": "fixed", "parts": {"audio": 0.5, "video": 0.5}}
    run = assembled(recipe({"method.filter": {"rule": rule, "within": "class"}, "method.share": share}))
    assert isinstance(run.method.plan, remix.RemixPlan)
    labels_N = vars(run.method.plan.settings.filter)["labels_N"]
    np.testing.assert_array_equal(labels_N, run.reader.store.labels_N[run.rows["train"]])


def test_a_run_with_too_few_scoring_passes_for_its_rule_warns(
    recipe: Recipe, assembled: Callable[..., Run], caplog: pytest.LogCaptureFixture
) -> None:
    method = {"name": "remix", "warmup": 1, "filter": {"rule": "cartography"}}
    for epochs, every in ((4, 1), (6, 2)):
        assembled(recipe({"method": method | {"rescore_every": every}, "epochs": epochs}), f"enough{every}")
    assert caplog.text == ""
    assembled(recipe({"method": method | {"rescore_every": 2}, "epochs": 5}), "few")
    assert "needs 3 scoring passes before it assigns by its costs, but the run has 2" in caplog.text


@pytest.mark.parametrize(("kind", "idle"), [
    ("progress", True), ("held_out_progress", True), ("block_gain", True), ("calibrated_progress", False),
    ("by_score", False),
])  # fmt: skip
def test_a_share_that_follows_a_drop_warns_if_there_is_one_assignment(
    recipe: Recipe, assembled: Callable[..., Run], caplog: pytest.LogCaptureFixture, kind: str, idle: bool
) -> None:
    method = {"name": "remix", "warmup": 1, "filter": {"rule": "random"}, "share": {"kind": kind}}
    assembled(recipe({"method": method | {"rescore_every": 2}, "epochs": 4}), "several")
    assert "never moves" not in caplog.text
    assembled(recipe({"method": method | {"rescore_every": 2}, "epochs": 3}), "one")
    assert ("never moves" in caplog.text) == idle


def test_a_phase_without_an_epoch_warns(
    recipe: Recipe, assembled: Callable[..., Run], caplog: pytest.LogCaptureFixture
) -> None:
    """Two epochs after the warm-up have no room for audio alone, video alone and both."""
    method = {"name": "remix", "warmup": 1, "phases": "smp"}
    assembled(recipe({"method": method, "epochs": 5}), "enough")
    assert caplog.text == ""
    assembled(recipe({"method": method, "epochs": 3}), "few")
    assert "phase 1 of method.phases has no epoch, because it is too short for 2 epochs" in caplog.text
    assert caplog.text.count("has no epoch") == 1


def test_a_detector_that_never_judges_warns(
    recipe: Recipe, assembled: Callable[..., Run], caplog: pytest.LogCaptureFixture
) -> None:
    method = {"name": "joint_unimodal"}
    assembled(recipe({"method": method, "targets": {"of": "history", "begin": 2}, "epochs": 3}), "judges")
    assert caplog.text == ""
    assembled(recipe({"method": method, "targets": {"of": "history", "begin": 3}, "epochs": 3}), "never")
    assert "the detector `history` judges from epoch 3 on, so it never judges in 3 epochs" in caplog.text


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
    "method",
    [
        {"name": "joint"},
        {"name": "joint_unimodal"},
        {"name": "unimodal", "modality": "audio"},
        {"name": "remix", "warmup": 1},
    ],
    ids=lambda method: str(method["name"]),
)
def test_every_loss_term_has_the_configured_cross_entropy(
    recipe: Recipe, assembled: Callable[..., Run], method: dict[str, Any]
) -> None:
    run = assembled(recipe({"method": method, "loss": {"label_smoothing": 0.2, "class_weights": "balanced"}}))
    labels_N = run.reader.store.labels_N[run.rows["train"]]
    expected = CrossEntropy(0.2, balanced_weights(labels_N, 4))
    assert [vars(rule)["cross_entropy"] for rule in run.method.losses] == [expected] * len(run.method.losses)
    plain = assembled(recipe({"method": method}), "plain")
    assert [vars(rule)["cross_entropy"] for rule in plain.method.losses] == [CrossEntropy()] * len(run.method.losses)


def test_the_control_split_is_no_part_of_what_is_trained_on(
    recipe: Recipe, assembled: Callable[..., Run], small_store: ClipStore
) -> None:
    whole, run = assembled(recipe()), assembled(recipe({"control_fraction": 0.25}), "control")
    assert "control" not in whole.rows
    assert {split: len(rows) for split, rows in run.rows.items()} == {"train": 72, "val": 48, "test": 48, "control": 24}
    assert sorted([*run.rows["train"], *run.rows["control"]]) == small_store.rows("train").tolist()
    planned = run.method.plan.plan(0, lambda score: pytest.fail("the warm-up needs no scores"))
    assert planned.schedule.samples_TB.max() == 71  # positions in the rest of the training split


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ({"name": "mmcosine"}, models.CosineFusion), ({"name": "mla"}, models.EntropyFusion),
        ({"name": "remix", "warmup": 1, "with": ["mmcosine"]}, models.CosineFusion),
    ],
)  # fmt: skip
def test_a_method_brings_its_fusion(recipe: Recipe, small_store: ClipStore, method: dict[str, Any], kind: type) -> None:
    assert type(build_model(recipe({"method": method}), small_store).fusion) is kind


@pytest.mark.parametrize(
    ("rate", "factors"),
    [
        ({"name": "constant"}, [1, 1, 1, 1]),
        ({"name": "step", "every": 0.5, "factor": 0.1}, [1, 1, 0.1, 0.1]),
        ({"name": "cosine", "warmup": 1, "final": 0.5}, [0.5, 1, 0.875, 0.625]),
    ],
)
def test_every_learning_rate_schedule_is_built(
    recipe: Recipe, assembled: Callable[..., Run], rate: dict[str, Any], factors: list[float]
) -> None:
    run = assembled(recipe({"rate": rate, "epochs": 4}))
    assert [run.rate(epoch) for epoch in range(4)] == pytest.approx(factors)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("concat", models.ConcatFusion), ("sum", models.SumFusion), ("decision", models.DecisionFusion),
        ("film", models.FiLMFusion), ("gated", models.GatedFusion),
        ("film_published", models.PublishedFiLMFusion), ("gated_published", models.PublishedGatedFusion),
        ("mmtm", models.MMTMFusion), ("centralnet", models.CentralNetFusion),
        ("attention", models.AttentionFusion), ({"name": "sum"}, models.SumFusion),
        ({"name": "attention", "width": 12, "heads": 3, "layers": 1, "dropout": 0.5}, models.AttentionFusion),
    ],
)  # fmt: skip
def test_every_fusion_is_built(recipe: Recipe, small_store: ClipStore, name: object, kind: type) -> None:
    config = recipe({"model.fusion": name})
    require_fit(config, small_store)
    assert type(build_model(config, small_store).fusion) is kind


@pytest.mark.parametrize("fusion", ["mmtm", "centralnet"])
def test_fusions_inside_the_encoders_take_any_modalities_of_pictures(recipe: Recipe, fusion: str) -> None:
    preset = Preset("p", {"audio": AUDIO_FRONT_ENDS["tiny"], "video": VideoPreset(2, 20, 32, "area", candidates=3),
                          "flow": FlowPreset(2, 16, 24), "text": FeaturePreset("image", (9, 40))})  # fmt: skip
    store = SimpleNamespace(preset=preset, modalities=tuple(preset.parts), classes=("a", "b"))
    model = build_model(recipe({"model.fusion": fusion}), store).eval()  # type: ignore[arg-type]
    shapes = {"audio": (1, *AUDIO_FRONT_ENDS["tiny"].shape), "video": (3, 2, 20, 32), "flow": (2, 2, 16, 24),
              "text": (1, 9, 40)}  # fmt: skip
    order = model.modalities
    batch = Batch(order, {m: torch.randn(2, *shapes[m]) for m in order}, torch.ones(2, 4, dtype=torch.bool),
                  torch.arange(2), torch.arange(2))  # fmt: skip
    assert model(batch).logits_BC.shape == (2, 2)
    if isinstance(model.fusion, models.CentralNetFusion):
        height, width = (min(shapes[m][-2:][axis] for m in order) for axis in (0, 1))
        assert model.fusion.sizes[0] == (-(-height // 2), -(-width // 2))


@pytest.mark.slow
@pytest.mark.parametrize("fusion", [{"name": "attention", "dropout": 0.5}, "mmtm", "centralnet"])
def test_a_logged_model_has_its_fusion(
    recipe: Recipe, assembled: Callable[..., Run], tmp_path: Path, fusion: object
) -> None:
    import mlflow.pytorch

    run = assembled(recipe({"model.fusion": fusion}))
    batch = run.reader.read(run.rows["val"][:5], np.ones((5, 2), np.bool_))
    run.model(batch)  # in training mode, so that running means are not those of a new model
    save_model(run.model, batch, tmp_path / "model", {"audio": 0.5, "video": 1.5})
    loaded = mlflow.pytorch.load_model(str(tmp_path / "model"))
    with torch.no_grad():
        expected = run.model.eval()(batch).logits_BC
        torch.testing.assert_close(loaded(*(batch.inputs[m] for m in run.model.modalities)), expected)
        product_BC = loaded(*(batch.inputs[m] for m in run.model.modalities), view="late_calibrated").numpy()
    rows = run.rows["val"][:5]
    found = evaluate(run.model, run.reader, rows, Solo(), batch=5, autocast=False, keep=True).log_probabilities
    assert found is not None
    wanted = late_product(np.stack([found["audio"], found["video"]], axis=1), np.array([0.5, 1.5]))
    np.testing.assert_allclose(product_BC, wanted, atol=1e-5)


def test_the_options_of_attention_are_used(recipe: Recipe, small_store: ClipStore) -> None:
    options = {"name": "attention", "width": 12, "heads": 3, "layers": 1, "dropout": 0.5}
    fusion = build_model(recipe({"model.fusion": options}), small_store).fusion
    assert isinstance(fusion, models.AttentionFusion)
    (block,) = fusion.blocks
    assert isinstance(block, Block)
    assert (len(fusion.class_token_W), block.heads, block.dropout.probability) == (12, 3, 0.5)


@pytest.mark.parametrize(
    ("method", "idle"),
    [({"warmup": 0}, True), ({"warmup": 1}, False), ({"warmup": 0, "joint_share": 0.2}, False)],
)
def test_greedy_warns_if_it_never_acts(
    recipe: Recipe, assembled: Callable[..., Run], caplog: pytest.LogCaptureFixture, method: dict[str, Any], idle: bool
) -> None:
    assembled(recipe({"model.fusion": {"name": "mmtm", "greedy": {}}, "method": {"name": "remix", **method}}))
    assert ("greedy never acts" in caplog.text) == idle


@pytest.mark.parametrize("fusion", ["film", "film_published", "gated_published"])
def test_a_published_fusion_warns_with_remix_which_encoder_it_blocks(
    recipe: Recipe, assembled: Callable[..., Run], caplog: pytest.LogCaptureFixture, fusion: str
) -> None:
    assembled(recipe({"model.fusion": fusion}))
    blocked = {"film_published": "video", "gated_published": "audio"}.get(fusion)
    warned = [line for line in caplog.messages if "only through a bias" in line]
    assert [f"a batch of {blocked} alone" in line for line in warned] == [True] * (blocked is not None)
    caplog.clear()
    assembled(recipe({"model.fusion": fusion, "method": {"name": "joint_unimodal"}}))
    assert "only through a bias" not in caplog.text


@pytest.mark.parametrize(
    ("layout", "kind", "shape"),
    [
        ("vector", models.VectorEncoder, (2, 6)),
        ("sequence", models.SequenceEncoder, (2, 5, 6)),
        ("image", models.TinyEncoder, (2, 1, 5, 6)),
    ],
)
def test_features_get_the_default_encoder_of_their_layout(
    recipe: Recipe,
    small_store: ClipStore,
    layout: Literal["vector", "sequence", "image"],
    kind: type[models.Encoder],
    shape: tuple[int, ...],
) -> None:
    store = with_text(small_store, layout)
    require_fit(recipe(), store)
    model = build_model(recipe(), store)
    assert type(model.encoders["text"]) is kind
    assert model.encode("text", torch.randn(shape)).shape == (2, model.widths["text"])


def test_encoders_of_features_get_their_settings(recipe: Recipe, small_store: ClipStore) -> None:
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
    require_fit(recipe(), store)
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


def test_training_order_is_video_first_by_default() -> None:
    assert training_order(
        RunConfig.model_validate({"corpus": "c", "method": {"name": "remix"}}).method, ("audio", "video")
    ) == (
        "video",
        "audio",
    )
    content = {"corpus": "c", "method": {"name": "remix", "training_order": ["audio", "video"]}}
    assert training_order(RunConfig.model_validate(content).method, ("audio", "video")) == ("audio", "video")


def test_shares_and_settings_are_passed_to_the_plan(recipe: Recipe, assembled: Callable[..., Run]) -> None:
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
    settings = plan.settings
    assert settings.share == remix.FixedShare((0.3, 0.7))
    assert settings.how == remix.Reassembly("alternate", (1, 0), 32, "drop", 4)
    assert (settings.joint_share, settings.rescore_every, settings.warmup) == (0.25, 3, 1)


def test_initial_weights_depend_on_the_seed_alone(recipe: Recipe, small_store: ClipStore, tmp_path: Path) -> None:
    def weights(config: RunConfig) -> dict[str, torch.Tensor]:
        return build_model(config, small_store).state_dict()

    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = weights(recipe())
    assert torch.equal(torch.get_rng_state(), before)  # building a model does not change the global random stream
    torch.manual_seed(2)
    again = weights(recipe({"method": {"name": "joint"}, "optimizer.learning_rate": 0.5, "epochs": 7}))
    assert first.keys() == again.keys()
    assert all(torch.equal(first[key], again[key]) for key in first)
    other = weights(recipe({"seed": 1}))
    assert not torch.equal(first["heads.audio.weight"], other["heads.audio.weight"])


def test_threads_build_equal_weights(recipe: Recipe, small_store: ClipStore) -> None:
    """Other threads draw from the global generator at the same time, as dropout does."""
    config, over = recipe({"model.encoder": {"name": "resnet18"}}), threading.Event()

    def disturb() -> None:
        while not over.is_set():
            torch.rand(8)

    with ThreadPoolExecutor(4) as pool:
        disturbing = pool.submit(disturb)
        models = list(pool.map(lambda _: build_model(config, small_store).state_dict(), range(3)))
        over.set()
        disturbing.result()
    for other in models[1:]:
        assert all(torch.equal(value, other[key]) for key, value in models[0].items())


def test_channels_last_keeps_the_weights(recipe: Recipe, small_store: ClipStore, tmp_path: Path) -> None:
    runs = [
        assemble(recipe({"channels_last": last}), small_store, Solo(), torch.device("cpu"), NullTracker(), tmp_path)
        for last in (True, False)
    ]
    one, other = (run.model.encoders["video"].state_dict()["stem.weight"] for run in runs)
    assert torch.equal(one, other)
    assert one.is_contiguous(memory_format=torch.channels_last)
    assert not other.is_contiguous(memory_format=torch.channels_last)


def test_every_encoder_of_the_configuration_is_built_from_its_fields() -> None:
    union = get_args(get_args(EncoderConfig)[0])
    assert set(union) == set(ENCODERS)
    for config_class, encoder_class in ENCODERS.items():
        (_, *parameters) = inspect.signature(encoder_class).parameters  # the first is the size of the input
        assert sorted(parameters) == sorted(config_class.model_fields.keys() - {"name"})
        assert set(encoder_class.takes) <= {"image", "sequence", "vector"}
