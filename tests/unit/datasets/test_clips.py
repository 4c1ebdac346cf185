from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from remix_study.augment import Augmentation, Draws
from remix_study.datasets.clips import ClipReader, input_shape
from remix_study.datasets.corpus import open_corpus, prepare_corpus
from remix_study.datasets.synthetic import SyntheticSpec, render
from remix_study.errors import StoreError
from remix_study.media.presets import PRESETS, FeaturePreset, FlowPreset, Part, Preset, VideoPreset, preset_named
from remix_study.media.shards import shard_name
from remix_study.media.statistics import IMAGENET
from remix_study.media.store import ClipStore
from remix_study.seeds import stream

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ClipStore:
    folder = tmp_path_factory.mktemp("corpus")
    manifest = render(folder, SyntheticSpec(train=8, val=2, test=2, classes=2), workers=2)
    return prepare_corpus(manifest, preset=PRESETS["tiny"], name="test", decoder="pyav", workers=2)


def test_only_active_rows_of_active_modalities_are_read(store: ClipStore) -> None:
    reader = ClipReader(store, CPU)
    samples = np.array([5, 1, 3])
    batch = reader.read(samples, np.array([[True, False]] * 3))
    assert set(batch.inputs) == {"audio"}
    assert reader.rows_read == {"audio": 3, "video": 0}
    batch = reader.read(samples, np.array([[True, True], [False, True], [True, False]]))
    assert reader.rows_read == {"audio": 5, "video": 2}
    assert batch.inputs["audio"].shape == (2, 1, 32, 32)
    assert batch.inputs["video"].shape == (2, 3, 1, 16, 16)
    everything = reader.read(samples, np.ones((3, 2), dtype=np.bool_))
    torch.testing.assert_close(batch.inputs["audio"], everything.inputs["audio"][[0, 2]])
    torch.testing.assert_close(batch.inputs["video"], everything.inputs["video"][[0, 1]])
    assert batch.labels_B.tolist() == store.labels_N[samples].tolist()
    assert batch.samples_B.tolist() == samples.tolist()


def test_read_inactive_reads_all_rows(store: ClipStore) -> None:
    reader = ClipReader(store, CPU)
    batch = reader.read(np.array([0, 1]), np.array([[True, False]] * 2), read_inactive=True)
    assert reader.rows_read == {"audio": 2, "video": 2}
    assert batch.inputs["video"].shape[0] == 2
    assert batch.active_BM.tolist() == [[True, False]] * 2


def test_the_training_split_is_normalised(store: ClipStore) -> None:
    rows = store.rows("train")
    batch = ClipReader(store, CPU).read(rows, np.ones((len(rows), 2), dtype=np.bool_))
    for values in batch.inputs.values():
        assert values.dtype == torch.float32
        assert float(values.mean()) == pytest.approx(0, abs=1e-4)
        assert float(values.std()) == pytest.approx(1, abs=1e-3)


def test_channels_last_holds_the_same_values_and_folds_without_a_copy(store: ClipStore) -> None:
    samples, active = np.array([2, 0]), np.ones((2, 2), dtype=np.bool_)
    plain = ClipReader(store, CPU).read(samples, active).inputs["video"]
    last = ClipReader(store, CPU, channels_last=True).read(samples, active).inputs["video"]
    torch.testing.assert_close(plain, last)
    assert plain.is_contiguous()
    folded = last.transpose(1, 2).flatten(0, 1)
    assert folded.is_contiguous(memory_format=torch.channels_last)
    assert folded.data_ptr() == last.data_ptr()


def test_a_mask_of_another_shape_raises(store: ClipStore) -> None:
    with pytest.raises(ValueError, match=r"must have shape \(2, 2\)"):
        ClipReader(store, CPU).read(np.array([0, 1]), np.ones((2, 3), dtype=np.bool_))


def test_opening_a_corpus_with_a_changed_manifest_raises(store: ClipStore) -> None:
    manifest = store.path.parent / "manifest.jsonl"
    assert open_corpus(store.path.parent).digest == store.digest
    before = manifest.read_text()
    manifest.write_text(before.replace("grating-00", "grating-01"))
    with pytest.raises(StoreError, match="has changed since"):
        open_corpus(store.path.parent)
    manifest.write_text(before)


# --- every kind of modality ------------------------------------------------------------------------------------------

# Two segments of three candidates; frame f of a row is f * 40 plus a little noise.
KINDS: Mapping[str, Part] = {
    "audio": preset_named("tiny").parts["audio"],
    "video": VideoPreset(2, 8, 6, "bilinear", candidates=3, normalise="imagenet"),
    "flow": FlowPreset(2, 8, 6),
    "vector": FeaturePreset("vector", (5,)),
    "sequence": FeaturePreset("sequence", (4, 5)),
    "image": FeaturePreset("image", (7, 9)),
}
STATISTICS: Mapping[str, tuple[Any, Any]] = {
    "audio": (-1.5, 2.0),
    "video": tuple(of.tolist() for of in IMAGENET),
    "flow": (128 / 255, 0.1),
    "vector": ([0.0, 1, 2, 3, 4], [1.0, 2, 1, 2, 1]),
    "sequence": ([4.0, 3, 2, 1, 0], [1.0, 2, 1, 2, 1]),
    "image": (0.5, 3.0),
}
COUNT = 12
EVERYTHING = Augmentation(crop=True, flip=True, random_frames=True, time_mask=9, frequency_mask=9, shift=0.3)


@pytest.fixture(scope="module")
def stored() -> dict[str, NDArray[Any]]:
    """Return the arrays of a store with every kind of modality; features have missing values."""
    draw = stream(0, "rows")
    rows: dict[str, NDArray[Any]] = {}
    for m, part in KINDS.items():
        shape = (COUNT, *part.shape)
        values: NDArray[Any] = draw.standard_normal(shape)
        if m == "video":
            values = np.arange(6)[:, None, None, None] * 40 + draw.integers(0, 20, shape)
        elif m == "flow":
            values = draw.integers(0, 256, shape)
        rows[m] = values.astype(part.dtype)
    rows["vector"][3, 2] = rows["sequence"][5, 2:] = np.nan
    return rows


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory, stored: dict[str, NDArray[Any]]) -> ClipStore:
    return store_of(tmp_path_factory.mktemp("kinds"), stored)


def store_of(
    folder: Path,
    rows: Mapping[str, NDArray[Any]],
    parts: Mapping[str, Part] = KINDS,
    statistics: Mapping[str, tuple[Any, Any]] = STATISTICS,
) -> ClipStore:
    preset = Preset("kinds", parts)
    for m, values in rows.items():
        np.save(folder / shard_name(m, 0), values)
    manifest = {
        "name": "kinds", "fingerprint": "kinds", "modalities": preset.modalities, "classes": ["a", "b"],
        "splits": ["train"], "card": {}, "manifest_digest": "kinds", "preset": preset.plain(),
        "per_shard": dict.fromkeys(rows, COUNT), "statistics": statistics,
        "files": {},
    }  # fmt: skip
    index: list[dict[str, Any]] = [
        {"id": f"{i}", "label": "ab"[i % 2], "split": "train", "group": None, "truth": {}} for i in range(COUNT)
    ]
    return ClipStore(folder, manifest, index)


def inputs(reader: ClipReader, samples: NDArray[np.int64], draws: Draws | None = None) -> Mapping[str, torch.Tensor]:
    return reader.read(samples, np.ones((len(samples), len(reader.modalities)), np.bool_), draws=draws).inputs


def draws_for(samples: NDArray[np.int64], augmentation: Augmentation = EVERYTHING, epoch: int = 0) -> Draws:
    return Draws(augmentation, 0, epoch, COUNT, samples)


def test_every_kind_of_modality_has_its_shape_and_is_normalised(
    kinds: ClipStore, stored: dict[str, NDArray[Any]]
) -> None:
    """Compared with the same formula in NumPy, in double precision."""
    samples = np.array([7, 5, 3])
    seen = inputs(ClipReader(kinds, CPU), samples)
    assert {m: tuple(x.shape) for m, x in seen.items()} == {
        "audio": (3, 1, 32, 32), "video": (3, 3, 2, 8, 6), "flow": (3, 2, 2, 8, 6), "vector": (3, 5),
        "sequence": (3, 4, 5), "image": (3, 1, 7, 9),
    }  # fmt: skip
    assert {m: (3, *input_shape(part)) for m, part in kinds.preset.parts.items()} == {
        m: tuple(x.shape) for m, x in seen.items()
    }
    for m, x in seen.items():
        values = stored[m][samples].astype(np.float64)
        if m in ("video", "flow"):
            values /= 255
        if m == "video":
            values = values[:, [1, 4]]  # the middle candidate of each segment
        mean, deviation = (np.asarray(of) for of in STATISTICS[m])
        expected = np.nan_to_num((values - mean) / deviation, nan=0.0)
        if m in ("video", "flow"):
            expected = np.moveaxis(expected, 4, 1)
        assert x.dtype == torch.float32
        np.testing.assert_allclose(x.numpy().reshape(expected.shape), expected, atol=2e-5)
    assert float(seen["vector"][2, 2]) == 0  # a missing value becomes the mean
    assert (seen["sequence"][1, 2:] == 0).all()


def test_without_draws_the_result_is_bitwise_equal_to_the_plain_formula(
    kinds: ClipStore, stored: dict[str, NDArray[Any]]
) -> None:
    """Runs without `augment` must keep their results across versions."""
    samples = np.arange(COUNT)
    seen = inputs(ClipReader(kinds, CPU), samples)
    audio = torch.from_numpy(stored["audio"]).float().sub_(torch.tensor(-1.5)).div_(torch.tensor(2.0))
    assert torch.equal(seen["audio"], audio[:, None])
    mean, deviation = (torch.tensor(of) for of in STATISTICS["video"])
    middle = torch.from_numpy(stored["video"][:, [1, 4]]).float()
    video = middle.mul_(1 / (255 * deviation)).sub_(mean / deviation).permute(0, 4, 1, 2, 3)
    assert torch.equal(seen["video"], video)


def test_draws_without_augmentations_change_nothing(kinds: ClipStore) -> None:
    samples, reader = np.array([7, 5, 3]), ClipReader(kinds, CPU)
    plain, drawn = inputs(reader, samples), inputs(reader, samples, draws_for(samples, Augmentation()))
    assert all(torch.equal(plain[m], drawn[m]) for m in KINDS)


def test_training_draws_any_candidate_of_each_segment(kinds: ClipStore) -> None:
    samples, reader = np.arange(COUNT), ClipReader(kinds, CPU)
    seen = set()
    for epoch in range(4):
        video = inputs(reader, samples, draws_for(samples, Augmentation(random_frames=True), epoch))["video"]
        pixels_T = (video[:, 0].double() * IMAGENET[1][0] + IMAGENET[0][0]).mul(255).mean(dim=(2, 3))
        candidates = (pixels_T / 40).floor().long()
        assert (candidates // 3 == torch.tensor([0, 1])).all()
        seen |= set(candidates.flatten().tolist())
    assert seen == set(range(6))


def test_augmentation_changes_video_and_audio_but_not_features(kinds: ClipStore) -> None:
    samples, reader = np.arange(COUNT), ClipReader(kinds, CPU)
    plain, drawn = inputs(reader, samples), inputs(reader, samples, draws_for(samples))
    again, later = inputs(reader, samples, draws_for(samples)), inputs(reader, samples, draws_for(samples, epoch=1))
    for m in ("audio", "video", "flow"):
        assert drawn[m].shape == plain[m].shape
        assert drawn[m].isfinite().all()
        assert not torch.equal(drawn[m], plain[m])
        assert torch.equal(drawn[m], again[m])
        assert not torch.equal(drawn[m], later[m])
    for m in ("vector", "sequence", "image"):
        assert torch.equal(drawn[m], plain[m])


def test_augmentation_of_a_sample_does_not_depend_on_the_rest_of_its_batch(kinds: ClipStore) -> None:
    samples, reader = np.array([9, 2, 7, 0]), ClipReader(kinds, CPU)
    together = inputs(reader, samples, draws_for(samples))
    columns = {m: column for column, m in enumerate(reader.modalities)}
    for m in KINDS:
        active_BM = np.zeros((4, len(columns)), np.bool_)
        active_BM[[0, 2], columns[m]] = True
        active_BM[1, columns["audio" if m == "video" else "video"]] = True
        batch = reader.read(samples, active_BM, draws=draws_for(samples))
        assert torch.equal(batch.inputs[m], together[m][[0, 2]])
        alone = reader.read(samples[[2]], active_BM[[2]], draws=draws_for(samples[[2]]))
        assert torch.equal(alone.inputs[m][0], together[m][2])


def test_augmented_video_folds_without_a_copy_and_does_not_depend_on_the_layout(kinds: ClipStore) -> None:
    samples = np.arange(COUNT)
    for augmentation in (EVERYTHING, Augmentation(flip=True), Augmentation(random_frames=True)):
        draws = draws_for(samples, augmentation)
        plain = inputs(ClipReader(kinds, CPU), samples, draws)
        last = inputs(ClipReader(kinds, CPU, channels_last=True), samples, draws)
        for m in ("video", "flow"):
            assert torch.equal(plain[m], last[m])
            assert plain[m].is_contiguous()
            folded = last[m].transpose(1, 2).flatten(0, 1)
            assert folded.is_contiguous(memory_format=torch.channels_last)
            assert folded.data_ptr() == last[m].data_ptr()


def test_time_masks_of_filter_banks_use_the_other_axis(tmp_path: Path) -> None:
    """In the stored row, frame t has the value t in every band."""
    bank = np.broadcast_to(np.arange(1024)[:, None], (COUNT, 1024, 128)).astype(np.float16)
    parts = {"audio": preset_named("fbank1024+none").parts["audio"]}
    store = store_of(tmp_path, {"audio": bank}, parts, {"audio": (0.0, 1.0)})
    samples = np.arange(COUNT)
    seen = inputs(ClipReader(store, CPU), samples, draws_for(samples, Augmentation(shift=0.3)))["audio"]
    assert seen.shape == (COUNT, 1, 1024, 128)
    steps = seen[:, 0, :, 0].diff(dim=1)
    assert ((steps == 1) | (steps == -1023)).all()  # in order, except where the end wraps around to the start
    assert (seen == seen[..., :1]).all()
    assert (seen[:, 0, 0, 0] != 0).any()


def test_video_and_flow_use_different_draws(tmp_path: Path) -> None:
    """Both modalities hold the same two byte patterns, whose values depend only on the horizontal position."""
    across = np.broadcast_to(np.arange(6)[:, None] * 10, (COUNT, 2, 8, 6, 2)).astype(np.uint8)
    parts: dict[str, Part] = {"flow": KINDS["flow"], "video": VideoPreset(2, 8, 6, "bilinear")}
    video = np.broadcast_to(across[..., :1], (COUNT, 2, 8, 6, 3))
    store = store_of(tmp_path, {"flow": across, "video": video}, parts, {"flow": (0.0, 1.0), "video": (0.0, 1.0)})
    samples = np.arange(COUNT)
    seen = inputs(ClipReader(store, CPU), samples, draws_for(samples, Augmentation(flip=True)))
    mirrored = {m: x[:, 1, :, 0, 0] > x[:, 1, :, 0, -1] for m, x in seen.items()}  # channel 1: v, which keeps its sign
    assert not torch.equal(mirrored["flow"], mirrored["video"])
    assert 0 < mirrored["flow"].sum() < mirrored["flow"].numel()
