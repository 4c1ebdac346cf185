"""Ready arrays: one `.npy` file for a clip, or a row of one that holds many (`features.npy#17`)

Arrays are read without pickle: a corpus must not be able to run code. In vectors and sequences, infinities and
not-a-number stand for what a front end could not measure (COVAREP gives -inf for the logarithm of silence); they become
not-a-number, which a model receives as its column's mean. An image has one mean for all: a gap would look like sound of
middling loudness, so an image with gaps is refused.
"""

# T steps of D values

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from remix_study.errors import MediaError
from remix_study.media.checks import check_file
from remix_study.media.presets import FeaturePreset


def feature_row(path: Path, row: int | None, preset: FeaturePreset) -> NDArray[np.float32]:
    """An array of `preset.shape`.

    Raises:
        MediaError: stages of `check_file`; `format` (no array of numbers), `shape`, `not-finite` (nothing but gaps, or
            an image with any).
    """
    array = open_array(path)
    if row is not None:
        if array.ndim == 0 or row >= len(array):
            raise MediaError(f"it must have a row {row}, but has {len(array) if array.ndim else 0} rows", stage="shape")
        array = array[row]
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is a gap
        values = np.array(array, dtype=np.float32)
    values = _fitted(values, preset)
    values[~np.isfinite(values)] = np.nan
    gaps = int(np.isnan(values).sum())
    if preset.layout == "image" and gaps:
        raise MediaError(f"an image must hold finite numbers, but {gaps} of its values are not", stage="not-finite")
    if gaps == values.size:
        raise MediaError("it holds no number that is finite", stage="not-finite")
    return values


def open_array(path: Path) -> NDArray[Any]:
    """The array of a `.npy` file, mapped rather than read.

    Raises:
        MediaError: stages of `check_file`; `format`: it is no array of numbers, or is cut short.
    """
    check_file(path)
    try:
        # Not `np.load`, which by content also opens archives and pickles; this reads one format, and no objects.
        array = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, EOFError, SyntaxError, MemoryError) as error:
        why = "pickled objects, which could run code" if "objects" in str(error) else "cut short or damaged"
        raise MediaError(f"it must be a .npy file of numbers, but is not one ({why})", stage="format") from error
    if not isinstance(array, np.ndarray) or not (
        np.issubdtype(array.dtype, np.floating) or np.issubdtype(array.dtype, np.integer) or array.dtype == np.bool_
    ):
        raise MediaError("it must be a .npy file of real numbers, but holds something else", stage="format")
    return array


def _fitted(values: NDArray[np.float32], preset: FeaturePreset) -> NDArray[np.float32]:
    if preset.layout == "sequence" and values.ndim == 2 and values.shape[1] == preset.shape[1]:
        length = preset.shape[0]
        filled = np.full(preset.shape, np.nan, np.float32)
        filled[: min(length, len(values))] = values[:length]
        return filled
    if values.shape != preset.shape:
        wanted = "any number of steps" if preset.layout == "sequence" else "exactly that"
        raise MediaError(
            f"its shape must be {tuple(preset.shape)} ({wanted}), but is {tuple(values.shape)}", stage="shape"
        )
    return values
