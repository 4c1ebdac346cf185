"""Mean and deviation by which a modality is normalised, as its preset says

One number for spectrograms and pictures, one per column for vectors and sequences, ImageNet's per colour, or none. They
are of the training split, in one pass over it, with memory for a few rows. Gaps (not-a-number) are left out.
"""

# K columns (or one for all), n rows of a block

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from remix_study.media.presets import FeaturePreset, Part
from remix_study.media.shards import RowReader

Statistics = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Mean and deviation; they broadcast against the last axis of a row. Of bytes: in units of value / 255"""

IMAGENET = (np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225]))


def statistics_of(reader: RowReader, rows_n: NDArray[np.int64]) -> Statistics:
    """Of these rows, normally those of the training split."""
    part = reader.layout.part
    if part.normalise == "none":
        return np.float64(0), np.float64(1)  # type: ignore[return-value]  # NumPy scalars broadcast as arrays do
    if part.normalise == "imagenet":
        return IMAGENET
    blocks = reader.blocks(rows_n)
    return _of_bytes(blocks) if part.dtype == np.uint8 else _of_numbers(blocks, part)


def _of_bytes(blocks: Iterator[NDArray[Any]]) -> Statistics:
    """Exact: sums of so few whole numbers are whole in float64 (below 2**53), and are added up as Python's."""
    count, total, squares = 0, 0, 0
    for block in blocks:
        values = block.reshape(-1).astype(np.float64)
        count, total, squares = count + values.size, total + int(values.sum()), squares + int(values @ values)
    if not count:
        return np.asarray(0.0), np.asarray(1.0)
    deviation = math.sqrt((count * squares - total**2) / (255 * count) ** 2)
    return np.asarray(total / (255 * count)), np.asarray(deviation or 1.0)


def _of_numbers(blocks: Iterator[NDArray[Any]], part: Part) -> Statistics:
    """Chan's update: exact enough whatever the mean."""
    by_column = isinstance(part, FeaturePreset) and part.layout != "image"
    K = part.shape[-1] if by_column else 1
    count, mean, squares = np.zeros(K), np.zeros(K), np.zeros(K)
    for block in blocks:
        values = block.astype(np.float64).reshape(-1, K)
        there = np.isfinite(values)
        n = there.sum(axis=0)
        total = count + n
        own = np.divide(np.where(there, values, 0).sum(axis=0), n, out=np.zeros(K), where=n > 0)
        shift = np.where(n > 0, own - mean, 0)
        spread = (np.where(there, values - own, 0) ** 2).sum(axis=0)
        share = np.divide(n, total, out=np.zeros(K), where=total > 0)
        squares += spread + shift**2 * count * share
        mean, count = mean + shift * share, total
    deviation = np.sqrt(np.divide(squares, count, out=np.zeros(K), where=count > 0))
    deviation[deviation == 0] = 1.0
    return (mean, deviation) if by_column else (mean.reshape(()), deviation.reshape(()))
