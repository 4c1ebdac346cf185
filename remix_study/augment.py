"""Training transforms: what a sample looks like this time

    frames   one candidate of each segment of a video, where the store has several
    crop     RandomResizedCrop of every frame by itself (Szegedy et al., CVPR 2015, arXiv 1409.4842; as torchvision
             defines it: area 0.08 to 1, aspect 3/4 to 4/3, ten attempts, then the central crop)
    flip     left and right, every frame by itself; flow then runs the other way
    masks    SpecAugment (Park et al., Interspeech 2019, arXiv 1904.08779): a band of time and one of frequency become
             the mean of the spectrogram
    shift    a spectrogram starts earlier or later, what leaves on one side comes in on the other

All chance is drawn from (seed, epoch, sample): a sample looks the same whichever rank, batch or restart it is in. Crops
are of the stored picture, where the published programs crop the original frame and then resize: ours are a little
softer, and of a picture that was made square before. Flow is not cropped: enlarging it would change what it says, and
the UCF-101 protocol crops nothing.
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
    """What is done. `time_mask`, `frequency_mask`: greatest widths, frames and bands; `shift`: greatest part of it."""

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
    """Chance for the samples of one batch: `samples_B` of `count` training samples, in one epoch of one run."""

    augmentation: Augmentation
    seed: int
    epoch: int
    count: int
    samples_B: NDArray[np.int64]

    def of(self, chosen_B: NDArray[np.bool_]) -> "Draws":
        """For some of the samples."""
        return replace(self, samples_B=self.samples_B[chosen_B])

    def uniforms(self, what: str, K: int) -> NDArray[np.float64]:
        """(B, K) numbers in [0, 1), of their own for every `what`."""
        return _table(self.seed, self.epoch, what, self.count, K)[self.samples_B]


@functools.lru_cache(maxsize=12)  # the transforms of one epoch, of all modalities
def _table(seed: int, epoch: int, what: str, N: int, K: int) -> NDArray[np.float64]:
    return stream(seed, f"augment {what}", epoch).random((N, K))


def choose_frames(segments: int, candidates: int, rows: int, draws: Draws | None, what: str) -> NDArray[np.int64]:
    """Which of segments * candidates stored frames are seen, (rows, segments); without `draws` the middle ones."""
    first_T = np.arange(segments) * candidates
    if draws is None or not draws.augmentation.random_frames:
        return np.broadcast_to(first_T + candidates // 2, (rows, segments)).astype(np.int64)
    return np.asarray(first_T + (draws.uniforms(f"{what} frames", segments) * candidates).astype(np.int64))


def move_pictures(frames_nTHWC: torch.Tensor, draws: Draws, what: str, *, flow: bool) -> torch.Tensor:
    """Crop and flip float pictures (values 0 to 255), every frame by itself; the same shape, maybe another layout."""
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
    else:  # exactly: no interpolation
        turned = torch.from_numpy(flips_F).to(device)
        pictures_FCHW = torch.where(turned[:, None, None, None], pictures_FCHW.flip(3), pictures_FCHW)
    if flow:
        turned = torch.from_numpy(flips_F).to(device)[:, None, None]
        pictures_FCHW = pictures_FCHW.clone()
        pictures_FCHW[:, 0] = torch.where(turned, 256 - pictures_FCHW[:, 0], pictures_FCHW[:, 0])
    return pictures_FCHW.permute(0, 2, 3, 1).reshape(n, T, H, W, C)


def crop_boxes(uniforms_FK: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
    """(F, 4): top, left, height, width of each crop, in whole pixels, from 22 uniforms each."""
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
    """(F, H, W, 2): where in its picture each pixel of a crop comes from, both from -1 to 1."""
    top_F, left_F, h_F, w_F = boxes_F4.T
    y_FH, x_FW = _places(top_F, h_F, height), _places(left_F, w_F, width)
    x_FW[flips_F] = x_FW[flips_F, ::-1]
    y, x = (torch.from_numpy(places).to(device, torch.float32) for places in (y_FH, x_FW))
    shape = (len(boxes_F4), height, width)
    return torch.stack([x[:, None, :].expand(shape), y[:, :, None].expand(shape)], dim=3)


def _places(first_F: NDArray[np.float64], length_F: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """`length` pixels from `first` on, enlarged to `size`; as in torchvision, none beyond the crop is mixed in."""
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
        # In double precision: how a sum is split over threads depends on the batch, and must not be seen.
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
    """(n, length): a band of 0 to `most`, at most all, anywhere."""
    width_n = np.floor(uniforms_n2[:, 0] * (min(most, length) + 1))
    start_n = np.floor(uniforms_n2[:, 1] * (length - width_n + 1))
    places = np.arange(length)
    return np.asarray((places >= start_n[:, None]) & (places < (start_n + width_n)[:, None]))
