"""Feature arrays: what is stored, and which errors are raised"""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from remix_study.errors import MediaError
from remix_study.media.checks import Checks
from remix_study.media.clip import decode_clip
from remix_study.media.decoders import PyAVDecoder
from remix_study.media.presets import FeaturePreset, Part, Preset
from remix_study.media.source import source_at
from remix_study.sample import Clip, SampleId

VECTOR = FeaturePreset("vector", (5,))
SEQUENCE = FeaturePreset("sequence", (4, 3))
IMAGE = FeaturePreset("image", (6, 7), normalise="none")


def row_of(
    root: Path, part: Part, path: str = "a.npy", modality: str = "text", start: float | None = None
) -> NDArray[np.float32]:
    clip = Clip(SampleId("a"), {modality: path}, "x", "train", start=start)
    row = decode_clip(clip, source_at(root), Preset("p", {modality: part}), PyAVDecoder(), Checks()).rows[modality]
    assert row.shape == part.shape
    assert row.dtype == part.dtype
    return row


def refusal(root: Path, part: Part, path: str = "a.npy", start: float | None = None) -> tuple[str | None, str]:
    with pytest.raises(MediaError) as caught:
        row_of(root, part, path, start=start)
    return caught.value.stage, str(caught.value)


@pytest.mark.parametrize("part", [VECTOR, SEQUENCE, IMAGE])
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.int64, np.uint8])
def test_an_array_of_the_right_shape_is_stored_unchanged(tmp_path: Path, part: FeaturePreset, kind: type) -> None:
    values: NDArray[Any] = np.arange(np.prod(part.shape)).reshape(part.shape).astype(kind)
    np.save(tmp_path / "a.npy", values)
    np.testing.assert_array_equal(row_of(tmp_path, part), values)


def test_a_precomputed_spectrogram_can_be_the_audio(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal(IMAGE.shape).astype(np.float32)
    np.save(tmp_path / "a.npy", values)
    np.testing.assert_array_equal(row_of(tmp_path, IMAGE, modality="audio"), values)


def test_a_clip_can_be_a_row_of_an_array(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((20, 5)).astype(np.float32)
    np.save(tmp_path / "a.npy", values)
    for row in (0, 17, 19):
        np.testing.assert_array_equal(row_of(tmp_path, VECTOR, f"a.npy#{row}"), values[row])
    assert refusal(tmp_path, VECTOR, "a.npy#20") == ("shape", "it must have a row 20, but has 20 rows")


def test_a_row_of_a_scalar_raises(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.float32(1))
    assert refusal(tmp_path, VECTOR, "a.npy#0")[0] == "shape"


def test_reading_a_row_does_not_read_the_whole_array(tmp_path: Path) -> None:
    """Only a memory map can return the last row of a sparse file of 1 TB."""
    rows = 50_000_000_000
    np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.float32, (rows, 5))[-1] = [1, 2, 3, 4, 5]
    assert row_of(tmp_path, VECTOR, f"a.npy#{rows - 1}").tolist() == [1, 2, 3, 4, 5]
    (tmp_path / "a.npy").unlink()  # pytest keeps its folders, and not every copy of one is sparse


def test_a_sequence_is_cut_or_padded_with_nan(tmp_path: Path) -> None:
    values = np.arange(18, dtype=np.float32).reshape(6, 3)
    np.save(tmp_path / "a.npy", values)
    np.testing.assert_array_equal(row_of(tmp_path, SEQUENCE), values[:4])
    np.save(tmp_path / "a.npy", values[:2])
    short = row_of(tmp_path, SEQUENCE)
    np.testing.assert_array_equal(short[:2], values[:2])
    assert np.isnan(short[2:]).all()


@pytest.mark.parametrize("part", [VECTOR, SEQUENCE])
def test_infinities_are_stored_as_nan(tmp_path: Path, part: FeaturePreset) -> None:
    values = np.ones(part.shape)
    values.reshape(-1)[:4] = -np.inf, np.inf, np.nan, 1e300  # the last is infinite as float32
    np.save(tmp_path / "a.npy", values)
    row = row_of(tmp_path, part).reshape(-1)
    assert np.isnan(row[:4]).all()
    assert (row[4:] == 1).all()


@pytest.mark.parametrize("part", [VECTOR, SEQUENCE])
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_an_array_without_finite_values_raises(tmp_path: Path, part: FeaturePreset, value: float) -> None:
    np.save(tmp_path / "a.npy", np.full(part.shape, value))
    assert refusal(tmp_path, part)[0] == "not-finite"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_image_with_missing_values_raises(tmp_path: Path, value: float) -> None:
    values = np.ones(IMAGE.shape)
    values[2, 3] = value
    np.save(tmp_path / "a.npy", values)
    assert refusal(tmp_path, IMAGE) == ("not-finite", "an image must hold finite numbers, but 1 of its values are not")


@pytest.mark.parametrize(
    ("part", "shape"),
    [
        (VECTOR, (4,)), (VECTOR, (5, 1)), (VECTOR, ()), (SEQUENCE, (4, 2)), (SEQUENCE, (3,)), (SEQUENCE, (1, 4, 3)),
        (IMAGE, (7, 6)), (IMAGE, (6, 8)),
    ],
)  # fmt: skip
def test_a_wrong_shape_raises_and_names_both_shapes(
    tmp_path: Path, part: FeaturePreset, shape: tuple[int, ...]
) -> None:
    np.save(tmp_path / "a.npy", np.ones(shape))
    stage, text = refusal(tmp_path, part)
    assert stage == "shape"
    assert f"must be {part.shape}" in text
    assert f"is {shape}" in text


def test_an_empty_sequence_raises(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((0, 3)))
    assert refusal(tmp_path, SEQUENCE)[0] == "not-finite"


class _Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_pickle_is_not_executed(tmp_path: Path, wrapped: bool) -> None:
    """Neither as an array of objects, nor as a bare pickle that is named like an array."""
    proof = tmp_path / "it-ran"
    if wrapped:
        np.save(tmp_path / "a.npy", np.array([_Bomb(proof)], dtype=object), allow_pickle=True)
    else:
        (tmp_path / "a.npy").write_bytes(pickle.dumps(_Bomb(proof)))
    stage, text = refusal(tmp_path, VECTOR)
    assert stage == "format"
    assert ("could run code" if wrapped else "damaged") in text
    assert not proof.exists()


@pytest.mark.parametrize("kind", ["complex", "text", "struct", "date"])
def test_an_array_without_real_numbers_raises(tmp_path: Path, kind: str) -> None:
    arrays = {
        "complex": np.ones(5, np.complex64),
        "text": np.array(["a"] * 5),
        "struct": np.zeros(5, [("x", "f4")]),
        "date": np.zeros(5, "datetime64[s]"),
    }
    np.save(tmp_path / "a.npy", arrays[kind])
    assert refusal(tmp_path, VECTOR)[0] == "format"


def test_every_truncation_raises(tmp_path: Path) -> None:
    np.save(tmp_path / "whole.npy", np.ones(5, np.float32))
    content = (tmp_path / "whole.npy").read_bytes()
    for length in range(1, len(content)):
        (tmp_path / "a.npy").write_bytes(content[:length])
        assert refusal(tmp_path, VECTOR)[0] == "format", length


@pytest.mark.parametrize(
    ("content", "stage"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "lfs-pointer"),
        (b"1,2,3,4,5\n", "format"),
        (b"PK\x03\x04 an archive of arrays", "format"),
    ],
)
def test_files_that_are_not_arrays_raise(tmp_path: Path, content: bytes, stage: str) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    assert refusal(tmp_path, VECTOR)[0] == stage


def test_an_npz_archive_raises(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.ones(5))
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    assert refusal(tmp_path, VECTOR)[0] == "format"


def test_missing_files_and_folders_raise(tmp_path: Path) -> None:
    assert refusal(tmp_path, VECTOR)[0] == "missing"
    (tmp_path / "a.npy").mkdir()
    assert refusal(tmp_path, VECTOR)[0] == "not-a-file"


def test_start_and_end_of_a_clip_of_arrays_raise(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones(5))
    stage, text = refusal(tmp_path, VECTOR, start=1.0)
    assert stage == "format"
    assert "`start`" in text
