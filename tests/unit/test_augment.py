import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from remix_study.augment import Augmentation, Draws, choose_frames, crop_boxes, mask_spectrograms, move_pictures
from remix_study.seeds import stream
from tests.examples import examples


def draws(rows: int | Sequence[int] = 40, *, seed: int = 0, epoch: int = 0, count: int = 1000, **what: Any) -> Draws:
    samples = np.arange(rows) if isinstance(rows, int) else np.asarray(rows)
    return Draws(Augmentation(**what), seed, epoch, count, samples)


def pictures(rows: int, frames: int = 2, height: int = 12, width: int = 10, channels: int = 3) -> torch.Tensor:
    shape = (rows, frames, height, width, channels)
    return torch.from_numpy(stream(1, "pictures").integers(0, 256, shape)).float()


def spectrograms(rows: int, bands: int = 9, frames: int = 14) -> torch.Tensor:
    return torch.from_numpy(stream(1, "spectrograms").standard_normal((rows, bands, frames))).float()


# --- randomness ------------------------------------------------------------------------------------------------------


def test_draws_depend_on_seed_epoch_and_sample_only() -> None:
    everyone = draws(100).uniforms("video crop", 5)
    assert everyone.shape == (100, 5)
    assert 0 <= everyone.min() < 0.05 < 0.95 < everyone.max() < 1
    assert abs(everyone.mean() - 0.5) < 0.05
    some = [70, 3, 99, 3]
    # Draws depend neither on the other samples of the batch nor on the number of samples.
    assert np.array_equal(draws(some).uniforms("video crop", 5), everyone[some])
    assert np.array_equal(draws(100, count=100).uniforms("video crop", 5), everyone)
    chosen = np.arange(100) % 3 == 0
    assert np.array_equal(draws(100).of(chosen).uniforms("video crop", 5), everyone[chosen])
    others = (draws(100, seed=1), draws(100, epoch=1))
    for other in (*(d.uniforms("video crop", 5) for d in others), draws(100).uniforms("flow crop", 5)):
        assert not np.isin(other, everyone).any()


@pytest.mark.parametrize("what", [{"crop": True}, {"flip": True}, {"crop": True, "flip": True}])
def test_a_picture_does_not_depend_on_its_batch(what: dict[str, Any]) -> None:
    whole = pictures(8)
    together = move_pictures(whole.clone(), draws(8, **what), "video", flow=False)
    assert not torch.equal(together, whole)
    for row in range(8):
        alone = move_pictures(whole[[row]], draws([row], **what), "video", flow=False)
        assert torch.equal(alone[0], together[row])


def test_a_spectrogram_does_not_depend_on_its_batch() -> None:
    what: dict[str, Any] = {"time_mask": 5, "frequency_mask": 4, "shift": 0.5}
    whole = spectrograms(8, 257, 188)
    together = mask_spectrograms(whole, 1, draws(8, **what), "audio")
    for row in range(8):
        assert torch.equal(mask_spectrograms(whole[[row]], 1, draws([row], **what), "audio")[0], together[row])


def test_settings_that_do_nothing_are_falsy() -> None:
    assert not Augmentation()
    whats: list[dict[str, Any]] = [{"crop": True}, {"random_frames": True}, {"time_mask": 1}, {"shift": 0.1}]
    assert all(Augmentation(**what) for what in whats)


# --- frames ----------------------------------------------------------------------------------------------------------


def test_evaluation_uses_the_middle_candidate_of_each_segment() -> None:
    assert choose_frames(2, 3, 4, None, "video").tolist() == [[1, 4]] * 4
    assert choose_frames(3, 1, 1, None, "video").tolist() == [[0, 1, 2]]
    assert choose_frames(2, 3, 4, draws(4, crop=True), "video").tolist() == [[1, 4]] * 4  # not asked for


def test_training_samples_candidates_uniformly() -> None:
    chosen = choose_frames(2, 3, 900, draws(900, random_frames=True), "video")
    assert chosen.shape == (900, 2)
    assert (chosen // 3 == [0, 1]).all()
    for segment in range(2):
        assert np.bincount(chosen[:, segment] % 3) == pytest.approx([300] * 3, abs=60)
    pairs = np.unique(chosen, axis=0)
    assert len(pairs) == 9  # segments are drawn independently


# --- crops -----------------------------------------------------------------------------------------------------------


def defined_box(u: NDArray[np.float64], height: int, width: int) -> tuple[int, int, int, int]:
    """Return top, left, height and width as defined by torchvision, in a loop over attempts."""
    for attempt in range(10):
        area = height * width * (0.08 + u[attempt] * (1 - 0.08))
        aspect = math.exp(math.log(3 / 4) + u[10 + attempt] * (math.log(4 / 3) - math.log(3 / 4)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return math.floor(u[20] * (height - h + 1)), math.floor(u[21] * (width - w + 1)), h, w
    if width / height < 3 / 4:
        w, h = width, round(width / (3 / 4))
    elif width / height > 4 / 3:
        w, h = round(height * (4 / 3)), height
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


@examples(60)
@given(height=st.integers(1, 300), width=st.integers(1, 300), seed=st.integers(0, 1000))
def test_crops_follow_the_definition(height: int, width: int, seed: int) -> None:
    uniforms_FK = stream(seed, "test").random((16, 22))
    boxes_F4 = crop_boxes(uniforms_FK, height, width)
    assert boxes_F4.tolist() == [list(defined_box(u, height, width)) for u in uniforms_FK]
    top, left, h, w = boxes_F4.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (h >= 1).all()
    assert (w >= 1).all()
    assert (top + h <= height).all()
    assert (left + w <= width).all()


def test_a_frame_that_no_crop_fits_gets_the_central_crop() -> None:
    uniforms_FK = np.ones((1, 22)) - 1e-9  # all of the area at aspect 4/3, ten times
    assert crop_boxes(uniforms_FK, 200, 40).tolist() == [[73, 0, 53, 40]]
    assert crop_boxes(uniforms_FK, 40, 200).tolist() == [[0, 73, 40, 53]]
    assert crop_boxes(uniforms_FK, 40, 40).tolist() == [[0, 0, 40, 40]]


def test_crops_cover_the_published_range_of_areas_and_aspects() -> None:
    _, _, h, w = crop_boxes(stream(0, "test").random((4000, 22)), 224, 224).T
    areas, aspects = h * w / 224**2, w / h
    assert (areas.min(), areas.max()) == pytest.approx((0.08, 1.0), abs=0.02)
    assert (aspects.min(), aspects.max()) == pytest.approx((3 / 4, 4 / 3), abs=0.02)
    assert np.median(np.log(aspects)) == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("flip", [False, True])
def test_a_crop_is_enlarged_and_possibly_flipped(flip: bool) -> None:
    """Compared with torch's resizing of the crop alone: pixels outside of it are not used."""
    whole, chance = pictures(6, frames=3, height=40, width=32), draws(6, crop=True, flip=flip)
    seen = move_pictures(whole.clone(), chance, "video", flow=False)
    assert seen.shape == whole.shape
    boxes_F4 = crop_boxes(chance.uniforms("video crop", 3 * 22).reshape(18, 22), 40, 32).astype(int)
    mirrored = chance.uniforms("video flip", 3).reshape(18) < 0.5
    for frame, (top, left, h, w) in enumerate(boxes_F4):
        row, t = divmod(frame, 3)
        piece = whole[row, t, top : top + h, left : left + w].permute(2, 0, 1)[None]
        expected = interpolate(piece, size=(40, 32), mode="bilinear", align_corners=False)[0].permute(1, 2, 0)
        if flip and mirrored[frame]:
            expected = expected.flip(1)
        torch.testing.assert_close(seen[row, t], expected, rtol=0, atol=0.02)  # of 255
    assert len(np.unique(boxes_F4, axis=0)) == 18  # each frame independently


# --- flips -----------------------------------------------------------------------------------------------------------


def test_a_flip_mirrors_about_half_of_the_frames_exactly() -> None:
    whole = pictures(100)
    seen = move_pictures(whole.clone(), draws(100, flip=True), "video", flow=False)
    mirrored = np.array([[torch.equal(seen[i, t], whole[i, t].flip(1)) for t in range(2)] for i in range(100)])
    kept = np.array([[torch.equal(seen[i, t], whole[i, t]) for t in range(2)] for i in range(100)])
    assert (mirrored != kept).all()
    assert 70 < mirrored.sum() < 130
    assert (mirrored[:, 0] != mirrored[:, 1]).any()


def test_flipping_flow_negates_its_horizontal_component() -> None:
    whole = pictures(50, channels=2)
    seen = move_pictures(whole.clone(), draws(50, flip=True), "flow", flow=True)
    mirrored = whole.flip(3)
    mirrored[..., 0] = 256 - mirrored[..., 0]  # 128 is no motion
    turned = 0
    for i in range(50):
        for t in range(2):
            is_turned = torch.equal(seen[i, t], mirrored[i, t])
            assert is_turned or torch.equal(seen[i, t], whole[i, t])
            turned += is_turned
    assert 30 < turned < 70


def test_flow_is_not_cropped() -> None:
    whole = pictures(5, channels=2)
    assert move_pictures(whole, draws(5, crop=True), "flow", flow=True) is whole
    both = move_pictures(whole.clone(), draws(5, crop=True, flip=True), "flow", flow=True)
    assert torch.equal(both, move_pictures(whole.clone(), draws(5, flip=True), "flow", flow=True))


# --- spectrograms ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["time", "frequency"])
@pytest.mark.parametrize("time_axis", [0, 1])
def test_a_mask_is_one_band_of_limited_width_with_the_mean(kind: str, time_axis: int) -> None:
    most = 4
    whole = spectrograms(400)
    seen = mask_spectrograms(whole, time_axis, draws(400, **{f"{kind}_mask": most}), "audio")
    along = 1 if (kind == "time") == (time_axis == 0) else 2  # the axis of (n, ., .) that the mask is a band of
    hidden = (seen != whole).numpy()
    lines = hidden.any(axis=3 - along)
    assert (lines == hidden.all(axis=3 - along)).all()  # the band covers the other axis completely
    mean = whole.double().mean(dim=(1, 2)).float()
    torch.testing.assert_close(seen, torch.where(torch.from_numpy(hidden), mean[:, None, None], whole))
    widths = lines.sum(axis=1)
    assert np.bincount(widths, minlength=most + 1) == pytest.approx([80] * 5, abs=35)  # 0 to `most`, equally often
    edges = np.diff(np.pad(lines, ((0, 0), (1, 1))).astype(int), axis=1)
    assert ((edges == 1).sum(axis=1) == (widths > 0)).all()  # one band, not several
    assert lines.any(axis=0).all()  # at any position


def test_masks_use_the_mean_of_the_whole_spectrogram() -> None:
    whole = spectrograms(50)
    seen = mask_spectrograms(whole, 1, draws(50, time_mask=5, frequency_mask=3), "audio")
    for row in range(50):
        changed = seen[row][seen[row] != whole[row]]
        assert changed.numel() == 0 or float(changed.max() - changed.min()) == 0
        if changed.numel():
            assert float(changed[0]) == pytest.approx(float(whole[row].mean()), abs=1e-6)


@pytest.mark.parametrize("time_axis", [0, 1])
def test_a_shift_is_circular_in_time(time_axis: int) -> None:
    whole = spectrograms(200, 20, 20)
    seen = mask_spectrograms(whole, time_axis, draws(200, shift=0.25), "audio")
    found = []
    for row in range(200):
        fits = [by for by in range(-10, 10) if torch.equal(seen[row], whole[row].roll(by, dims=time_axis))]
        assert len(fits) == 1
        found += fits
    assert (min(found), max(found)) == (-5, 5)
    assert abs(np.mean(found)) < 1


def test_a_mask_may_be_as_wide_as_the_spectrogram() -> None:
    whole = spectrograms(30, 3, 4)
    seen = mask_spectrograms(whole, 1, draws(30, time_mask=99), "audio")
    assert seen.isfinite().all()
    assert (seen != whole).flatten(1).all(dim=1).any()


def test_masking_does_not_modify_its_input() -> None:
    whole = spectrograms(10)
    before = whole.clone()
    mask_spectrograms(whole, 1, draws(10, time_mask=3, frequency_mask=3, shift=0.5), "audio")
    assert torch.equal(whole, before)
