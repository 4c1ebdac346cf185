"""Data augmentation for training

    frames   one random candidate of each segment of a video, if the store has several
    crop     RandomResizedCrop of each frame independently (Szegedy et al., CVPR 2015, arXiv 1409.4842; as in
             torchvision: area 0.08 to 1, aspect 3/4 to 4/3, ten attempts, then the central crop)
    flip     horizontal flip of each frame independently; the horizontal component of flow is negated
    masks    SpecAugment (Park et al., Interspeech 2019, arXiv 1904.08779): a band of time and a band of frequency are
             set to the mean of the spectrogram
    shift    circular shift of a spectrogram along time

Random numbers are derived from (seed, epoch, sample), so the augmentation of a sample does not depend on its rank, its
batch or a restart. Crops are taken from stored frames, which were already resized to a square; the published programs
crop the original frame and then resize, so ours are slightly softer. Flow is not cropped, since enlarging it would
change the motion that it encodes; the UCF-101 protocol does not crop either.
"""

# N training samples, B samples of a batch, n rows of one modality, T frames, C channels, H x W pixels, K draws

import functools
import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from remix_study.seeds import stream

_AREA, _LOG_ASPECT, _ATTEMPTS = (0.08, 1.0), (math.log(3 / 4), math.log(4 / 3)), 10


@dataclass(frozen=True)
class Augmentation:
    """Enabled transforms.

    `time_mask`, `frequency_mask`: largest widths in frames and bands. `shift`: largest shift, part of the length.
    """

    crop: bool = False
    flip: bool = False
    random_frames: bool = False
    time_mask: int = 0
    frequency_mask: int = 0
    shift: float = 0.0

    def __bool__(self) -> bool:
        return self != Augmentation()


@dataclass(frozen=True)
class Draws:
    """Random numbers for one batch: the samples `samples_B` of `count` training samples, in one epoch."""

    augmentation: Augmentation
    seed: int
    epoch: int
    count: int
    samples_B: NDArray[np.int64]

    def of(self, chosen_B: NDArray[np.bool_]) -> "Draws":
        """The random numbers of a subset of the samples."""
        return replace(self, samples_B=self.samples_B[chosen_B])

    def uniforms(self, what: str, K: int) -> NDArray[np.float64]:
        """(B, K) uniform numbers in [0, 1); independent for different `what`."""
        return _table(self.seed, self.epoch, what, self.count, K)[self.samples_B]


@functools.lru_cache(maxsize=12)  # transforms of all modalities in one epoch
def _table(seed: int, epoch: int, what: str, N: int, K: int) -> NDArray[np.float64]:
    return stream(seed, f"augment {what}", epoch).random((N, K))


def choose_frames(segments: int, candidates: int, rows: int, draws: Draws | None, what: str) -> NDArray[np.int64]:
    """Indices (rows, segments) of the frames to use, of segments * candidates; without `draws` the middle ones."""
    first_T = np.arange(segments) * candidates
    if draws is None or not draws.augmentation.random_frames:
        return np.broadcast_to(first_T + candidates // 2, (rows, segments)).astype(np.int64)
    return np.asarray(first_T + (draws.uniforms(f"{what} frames", segments) * candidates).astype(np.int64))


def move_pictures(frames_nTHWC: torch.Tensor, draws: Draws, what: str, *, flow: bool) -> torch.Tensor:
    """Crop and flip each frame (float, 0 to 255) independently; the result has the same shape."""
    n, T, H, W, C = frames_nTHWC.shape
    crop = draws.augmentation.crop and not flow
    if not crop and not draws.augmentation.flip:
        return frames_nTHWC
    flips_F = np.zeros(n * T, np.bool_)
    if draws.augmentation.flip:
        flips_F = draws.uniforms(f"{what} flip", T).reshape(n * T) < 0.5
    device = frames_nTHWC.device
    pictures_FCHW = frames_nTHWC.reshape(n * T, H, W, C).permute(0, 3, 1, 2)
    if crop:
        uniforms_FK = draws.uniforms(f"{what} crop", T * (2 * _ATTEMPTS + 2)).reshape(n * T, -1)
        grid_FHW2 = _grid(crop_boxes(uniforms_FK, H, W), flips_F, H, W, device)
        pictures_FCHW = torch.nn.functional.grid_sample(
            pictures_FCHW, grid_FHW2, mode="bilinear", padding_mode="border", align_corners=False
        )
    else:  # exact, without interpolation
        turned = torch.from_numpy(flips_F).to(device)
        pictures_FCHW = torch.where(turned[:, None, None, None], pictures_FCHW.flip(3), pictures_FCHW)
    if flow:
        turned = torch.from_numpy(flips_F).to(device)[:, None, None]
        pictures_FCHW = pictures_FCHW.clone()
        pictures_FCHW[:, 0] = torch.where(turned, 256 - pictures_FCHW[:, 0], pictures_FCHW[:, 0])
    return pictures_FCHW.permute(0, 2, 3, 1).reshape(n, T, H, W, C)


def crop_boxes(uniforms_FK: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
    """Crops (F, 4) as top, left, height, width in pixels, from 22 uniform numbers each."""
    area_FA = (_AREA[0] + uniforms_FK[:, :_ATTEMPTS] * (_AREA[1] - _AREA[0])) * height * width
    low, high = _LOG_ASPECT
    aspect_FA = np.exp(low + uniforms_FK[:, _ATTEMPTS : 2 * _ATTEMPTS] * (high - low))
    w_FA, h_FA = np.rint(np.sqrt(area_FA * aspect_FA)), np.rint(np.sqrt(area_FA / aspect_FA))
    fits_FA = (w_FA > 0) & (w_FA <= width) & (h_FA > 0) & (h_FA <= height)
    first_F = fits_FA.argmax(axis=1)
    every = np.arange(len(first_F))
    h_F, w_F = h_FA[every, first_F], w_FA[every, first_F]
    top_F = np.floor(uniforms_FK[:, -2] * (height - h_F + 1))
    left_F = np.floor(uniforms_FK[:, -1] * (width - w_F + 1))
    none_F = ~fits_FA.any(axis=1)
    central = _central(height, width)
    boxes_F4 = np.stack([top_F, left_F, h_F, w_F], axis=1)
    boxes_F4[none_F] = central
    return boxes_F4


def _central(height: int, width: int) -> tuple[float, float, float, float]:
    aspect = width / height
    low, high = (math.exp(bound) for bound in _LOG_ASPECT)
    if aspect < low:
        w, h = width, round(width / low)
    elif aspect > high:
        w, h = round(height * high), height
    else:
        w, h = width, height
    return float((height - h) // 2), float((width - w) // 2), float(h), float(w)


def _grid(
    boxes_F4: NDArray[np.float64], flips_F: NDArray[np.bool_], height: int, width: int, device: torch.device
) -> torch.Tensor:
    """Sampling grid (F, H, W, 2) for `grid_sample`: source coordinates of each pixel, in [-1, 1]."""
    top_F, left_F, h_F, w_F = boxes_F4.T
    y_FH, x_FW = _places(top_F, h_F, height), _places(left_F, w_F, width)
    x_FW[flips_F] = x_FW[flips_F, ::-1]
    y, x = (torch.from_numpy(places).to(device, torch.float32) for places in (y_FH, x_FW))
    shape = (len(boxes_F4), height, width)
    return torch.stack([x[:, None, :].expand(shape), y[:, :, None].expand(shape)], dim=3)


def _places(first_F: NDArray[np.float64], length_F: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Source coordinates of a crop resized to `size` pixels; clamped to the crop, as in torchvision."""
    centres_FS = (np.arange(size) + 0.5) * length_F[:, None] / size - 0.5
    within_FS = first_F[:, None] + np.clip(centres_FS, 0, length_F[:, None] - 1)
    return np.asarray((2 * within_FS + 1) / size - 1)


def mask_spectrograms(values_nFT: torch.Tensor, time_axis: int, draws: Draws, what: str) -> torch.Tensor:
    """Shift and mask spectrograms (n, F, T), or (n, T, F) with `time_axis` 0; a new tensor."""
    settings = draws.augmentation
    axes = {"time": 1 + time_axis, "frequency": 2 - time_axis}
    values = values_nFT
    if settings.shift > 0:
        values = _rolled(values, axes["time"], draws.uniforms(f"{what} shift", 1)[:, 0], settings.shift)
    widths = {"time": settings.time_mask, "frequency": settings.frequency_mask}
    if any(widths.values()):
        # In float64, so that the order of summation, which depends on the batch, does not change the result.
        mean = values.mean(dim=(1, 2), keepdim=True, dtype=torch.float64).to(values.dtype)
    for name, most in widths.items():
        if most > 0:
            hidden = _bands(values.shape[axes[name]], most, draws.uniforms(f"{what} {name} mask", 2))
            mask = torch.from_numpy(hidden).to(values.device).unsqueeze(3 - axes[name])
            values = torch.where(mask, mean, values)
    return values


def _rolled(values: torch.Tensor, axis: int, uniform_n: NDArray[np.float64], most: float) -> torch.Tensor:
    length = values.shape[axis]
    by_n = np.rint((2 * uniform_n - 1) * most * length).astype(np.int64)
    places_nL = torch.from_numpy((np.arange(length) - by_n[:, None]) % length).to(values.device)
    return values.gather(axis, places_nL.unsqueeze(3 - axis).expand_as(values))


def _bands(length: int, most: int, uniforms_n2: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Masks (n, length): one band at a random position, 0 to `most` wide."""
    width_n = np.floor(uniforms_n2[:, 0] * (min(most, length) + 1))
    start_n = np.floor(uniforms_n2[:, 1] * (length - width_n + 1))
    places = np.arange(length)
    return np.asarray((places >= start_n[:, None]) & (places < (start_n + width_n)[:, None]))
