"""Feature arrays: one `.npy` file per clip, or one row of a larger file (`features.npy#17`)

Arrays are read without pickle, so that a corpus cannot run code.

Missing values: in vectors and sequences, infinities and NaN mark what a front end could not measure (COVAREP writes
-inf for the logarithm of silence). They are stored as NaN, and a model receives the mean of their column instead. An
image has a single mean, so that a missing value would look like audio of medium loudness. An image with missing values
is therefore rejected.
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
    """Read the features of one clip.

    Args:
        path: a `.npy` file.
        row: the row of the file to read; None for the whole array.

    Returns:
        float32 of `preset.shape`; missing values are NaN. Sequences are cut or padded with NaN.

    Raises:
        MediaError: stages of `check_file`; `format` (not an array of numbers), `shape`, `not-finite` (only missing
            values, or an image with any).
    """
    array = open_array(path)
    if row is not None:
        if array.ndim == 0 or row >= len(array):
            raise MediaError(f"it must have a row {row}, but has {len(array) if array.ndim else 0} rows", stage="shape")
        array = array[row]
    with np.errstate(over="ignore"):  # values beyond float32 become infinite, and count as missing
        values = np.array(array, dtype=np.float32)
    values = _fit(values, preset)
    values[~np.isfinite(values)] = np.nan
    missing = int(np.isnan(values).sum())
    if preset.layout == "image" and missing:
        raise MediaError(f"an image must hold finite numbers, but {missing} of its values are not", stage="not-finite")
    if missing == values.size:
        raise MediaError("it holds no finite number", stage="not-finite")
    return values


def open_array(path: Path) -> NDArray[Any]:
    """Open a `.npy` file as a memory map.

    Raises:
        MediaError: stages of `check_file`; `format`: it is not an array of real numbers, or it is truncated.
    """
    check_file(path)
    try:
        # `np.load` would also open archives and pickles. `open_memmap` reads one format, and no objects.
        array = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, EOFError, SyntaxError, MemoryError) as error:
        why = "it holds pickled objects, which could run code" if "objects" in str(error) else "truncated or damaged"
        raise MediaError(f"it must be a .npy file of numbers, but is not one ({why})", stage="format") from error
    if not isinstance(array, np.ndarray) or not (
        np.issubdtype(array.dtype, np.floating) or np.issubdtype(array.dtype, np.integer) or array.dtype == np.bool_
    ):
        raise MediaError(f"it must be a .npy file of real numbers, but holds {_kind(array)}", stage="format")
    return array


def _kind(array: Any) -> str:
    return str(array.dtype) if isinstance(array, np.ndarray) else "no array"


def _fit(values: NDArray[np.float32], preset: FeaturePreset) -> NDArray[np.float32]:
    if preset.layout == "sequence" and values.ndim == 2 and values.shape[1] == preset.shape[1]:
        length = preset.shape[0]
        padded = np.full(preset.shape, np.nan, np.float32)
        padded[: min(length, len(values))] = values[:length]
        return padded
    if values.shape != preset.shape:
        steps = " with any number of steps" if preset.layout == "sequence" else ""
        raise MediaError(f"its shape must be {tuple(preset.shape)}{steps}, but is {tuple(values.shape)}", stage="shape")
    return values
