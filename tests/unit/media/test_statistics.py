import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from remix_study.media.presets import AUDIO_FRONT_ENDS, FeaturePreset, FlowPreset, Normalise, VideoPreset
from remix_study.media.shards import Layout, RowReader
from remix_study.media.statistics import statistics_of
from tests.examples import examples
from tests.unit.media.rows import write_rows


@examples(20)
@given(count=st.integers(1, 40), seed=st.integers(0, 99))
def test_pixel_statistics_are_exact_for_every_block_size(
    tmp_path_factory: pytest.TempPathFactory, count: int, seed: int
) -> None:
    part = VideoPreset(frames=2, height=3, width=3, resize="area")
    draw = np.random.default_rng(seed)
    values = draw.integers(0, 256, (count, *part.shape), dtype=np.uint8)
    rows_n = draw.permutation(count)[: max(1, count // 2)]
    found = []
    for block in (1, 200, 2**22):
        reader = write_rows(tmp_path_factory.mktemp("rows"), part, values, 7, block_bytes=block)
        found.append(statistics_of(reader, rows_n))
    assert found[0] == found[1] == found[2]
    scaled = values[rows_n] / 255
    assert found[0] == pytest.approx((scaled.mean(), scaled.std()))


def test_deviation_of_constant_pixels_is_one(tmp_path: Path) -> None:
    part = FlowPreset(frames=1, height=2, width=2)
    mean, deviation = statistics_of(
        write_rows(tmp_path, part, np.full((3, *part.shape), 128, np.uint8), 2), np.arange(3)
    )
    assert float(mean) == pytest.approx(128 / 255)
    assert deviation == 1


def test_feature_statistics_are_per_column_and_ignore_missing_values(tmp_path: Path) -> None:
    part = FeaturePreset("sequence", (2, 3))
    values = np.random.default_rng(0).normal([0, 1e4, 5], [1, 1e-1, 0], (50, 2, 3)).astype(np.float32)
    values[:, 1, 0] = np.nan
    values[3, 0, 1] = np.inf
    mean_D, deviation_D = statistics_of(write_rows(tmp_path, part, values, 8), np.arange(40))
    seen = np.where(np.isfinite(values[:40]), values[:40], np.nan).astype(np.float64).reshape(-1, 3)
    assert mean_D == pytest.approx(np.nanmean(seen, axis=0))
    assert deviation_D[:2] == pytest.approx(np.nanstd(seen, axis=0)[:2])
    assert deviation_D[2] == 1, "a constant column must not be scaled"


def test_a_column_without_values_has_mean_zero_and_deviation_one(tmp_path: Path) -> None:
    values = np.array([[np.nan, 1.0], [np.nan, 3.0]], np.float32)
    mean_D, deviation_D = statistics_of(write_rows(tmp_path, FeaturePreset("vector", (2,)), values, 2), np.arange(2))
    assert (mean_D.tolist(), deviation_D.tolist()) == ([0, 2], [1, 1])


def test_a_spectrogram_has_one_mean_and_one_deviation(tmp_path: Path) -> None:
    part = AUDIO_FRONT_ENDS["tiny"]
    values = np.random.default_rng(0).normal(-7, 3, (30, *part.shape)).astype(np.float16)
    mean, deviation = statistics_of(write_rows(tmp_path, part, values, 7), np.arange(30))
    assert mean.shape == deviation.shape == ()
    assert (mean, deviation) == pytest.approx((values.astype(np.float64).mean(), values.astype(np.float64).std()))


@pytest.mark.parametrize(("normalise", "mean"), [("none", 0.0), ("imagenet", [0.485, 0.456, 0.406])])
def test_fixed_statistics_read_no_files(tmp_path: Path, normalise: Normalise, mean: object) -> None:
    part = VideoPreset(frames=1, height=2, width=2, resize="area", normalise=normalise)
    found, deviation = statistics_of(RowReader(tmp_path, Layout("video", part, 5, 5)), np.arange(5))  # has no files
    assert np.asarray(found).tolist() == mean
    assert np.asarray(deviation).dtype == np.float64


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_rows(tmp_path: Path) -> None:
    part = VideoPreset(frames=1, height=200, width=200, resize="area")
    layout = Layout("video", part, 1000, 1000)
    with (tmp_path / layout.names[0]).open("wb") as file:
        file.write(layout.header(0))
        file.truncate(layout.size(0))
    peaks = []
    for rows in (100, 1000):
        tracemalloc.start()
        statistics_of(RowReader(tmp_path, layout), np.arange(rows))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]
