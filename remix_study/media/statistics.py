"""Mean and standard deviation by which a modality is normalised

They are computed over the training split, in one pass that holds a few rows in memory: one number for spectrograms and
images, one per column for vectors and sequences. A preset may also ask for ImageNet's, or for none. Missing values
(NaN) are ignored.
"""

# K columns (1 if all values share one mean), n rows of a block

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from remix_study.media.presets import FeaturePreset, Part
from remix_study.media.shards import RowReader

Statistics = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Mean and standard deviation, which broadcast against the last axis of a row. Those of bytes are of value / 255."""

IMAGENET = (np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225]))


def statistics_of(reader: RowReader, rows_n: NDArray[np.int64]) -> Statistics:
    """The statistics of a modality's rows.

    Args:
        rows_n: numbers of the rows, usually those of the training split.
    """
    part = reader.layout.part
    if part.normalise == "none":
        return np.float64(0), np.float64(1)  # type: ignore[return-value]  # NumPy scalars broadcast as arrays do
    if part.normalise == "imagenet":
        return IMAGENET
    blocks = reader.blocks(rows_n)
    return _of_bytes(blocks) if part.dtype == np.uint8 else _of_numbers(blocks, part)


def _of_bytes(blocks: Iterator[NDArray[Any]]) -> Statistics:
    """Exact: the sums of one block are integers below 2**53 in float64, and blocks are added as Python integers."""
    count, total, squares = 0, 0, 0
    for block in blocks:
        values = block.reshape(-1).astype(np.float64)
        count, total, squares = count + values.size, total + int(values.sum()), squares + int(values @ values)
    if not count:
        return np.asarray(0.0), np.asarray(1.0)
    deviation = math.sqrt((count * squares - total**2) / (255 * count) ** 2)
    return np.asarray(total / (255 * count)), np.asarray(deviation or 1.0)


def _of_numbers(blocks: Iterator[NDArray[Any]], part: Part) -> Statistics:
    """Merge blocks by the formula of Chan, Golub and LeVeque (1979), which is stable for any mean."""
    by_column = isinstance(part, FeaturePreset) and part.layout != "image"
    K = part.shape[-1] if by_column else 1
    count, mean, squares = np.zeros(K), np.zeros(K), np.zeros(K)
    for block in blocks:
        values = block.astype(np.float64).reshape(-1, K)
        finite = np.isfinite(values)
        n = finite.sum(axis=0)
        total = count + n
        own = np.divide(np.where(finite, values, 0).sum(axis=0), n, out=np.zeros(K), where=n > 0)
        shift = np.where(n > 0, own - mean, 0)
        spread = (np.where(finite, values - own, 0) ** 2).sum(axis=0)
        share = np.divide(n, total, out=np.zeros(K), where=total > 0)
        squares += spread + shift**2 * count * share
        mean, count = mean + shift * share, total
    deviation = np.sqrt(np.divide(squares, count, out=np.zeros(K), where=count > 0))
    deviation[deviation == 0] = 1.0
    return (mean, deviation) if by_column else (mean.reshape(()), deviation.reshape(()))
