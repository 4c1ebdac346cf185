import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from remix_study.media.presets import FeaturePreset, VideoPreset
from remix_study.media.shards import Layout, RowReader, RowWriter, row_bytes, rows_per_shard
from tests.examples import examples
from tests.unit.media.rows import write_rows

VIDEO = VideoPreset(frames=5, height=2, width=2, resize="area")


@examples(40)
@given(count=st.integers(1, 23), per_shard=st.integers(1, 30), seed=st.integers(0, 99), rows=st.integers(0, 40))
def test_gather_matches_indexing_one_array(
    tmp_path_factory: pytest.TempPathFactory, count: int, per_shard: int, seed: int, rows: int
) -> None:
    draw = np.random.default_rng(seed)
    values = draw.integers(0, 256, (count, *VIDEO.shape), dtype=np.uint8)
    reader = write_rows(tmp_path_factory.mktemp("shards"), VIDEO, values, per_shard)
    rows_n = draw.integers(0, count, rows)
    frames_nT = draw.integers(0, 5, (rows, 3))
    np.testing.assert_array_equal(reader.gather(rows_n), values[rows_n])
    np.testing.assert_array_equal(reader.gather(rows_n, frames_nT), values[rows_n[:, None], frames_nT])
    blocks = list(reader.blocks(rows_n))
    np.testing.assert_array_equal(np.concatenate([values[:0], *blocks]), values[rows_n])


def test_each_shard_is_a_plain_npy_file_of_limited_size(tmp_path: Path) -> None:
    values = np.arange(7 * 3, dtype=np.float32).reshape(7, 3)
    part = FeaturePreset("vector", (3,))
    per_shard = rows_per_shard(part, shard_bytes=40)
    assert per_shard == 3
    reader = write_rows(tmp_path, part, values, per_shard)
    assert reader.layout.names == ["m-00000.npy", "m-00001.npy", "m-00002.npy"]
    np.testing.assert_array_equal(np.concatenate([np.load(tmp_path / name) for name in reader.layout.names]), values)
    sizes = [(tmp_path / name).stat().st_size for name in reader.layout.names]
    assert sizes == [reader.layout.size(shard) for shard in range(3)]
    assert sum(sizes) == reader.layout.bytes
    assert rows_per_shard(part, shard_bytes=1) == 1, "a row must not be divided"


def test_a_row_of_another_size_raises(tmp_path: Path) -> None:
    reader = write_rows(tmp_path, FeaturePreset("vector", (3,)), np.ones((2, 3), np.float32), 2)
    with pytest.raises(ValueError, match="12 bytes, but got 16"):
        RowWriter(tmp_path, reader.layout).write(0, np.zeros(4, np.float32))
    np.testing.assert_array_equal(reader.gather(np.array([0, 1])), np.ones((2, 3)))


def test_no_more_than_max_open_shards_are_mapped(tmp_path: Path) -> None:
    values = np.arange(60, dtype=np.float32).reshape(60, 1)
    reader = write_rows(tmp_path, FeaturePreset("vector", (1,)), values, 1, max_open=5)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(2):
        np.testing.assert_array_equal(reader.gather(np.arange(60)[::-1]), values[::-1])
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 5
    again: RowReader = pickle.loads(pickle.dumps(reader))
    assert not again._maps
    np.testing.assert_array_equal(again.gather(np.array([59, 0])), values[[59, 0]])


def test_a_shard_replaced_by_another_array_raises(tmp_path: Path) -> None:
    reader = write_rows(tmp_path, FeaturePreset("vector", (2,)), np.ones((4, 2), np.float32), 2)
    np.save(tmp_path / "m-00001.npy", np.ones((2, 4), np.float16))  # as many bytes
    np.testing.assert_array_equal(reader.gather(np.array([1])), np.ones((1, 2)))
    with pytest.raises(ValueError, match=r"m-00001\.npy holds float16"):
        reader.gather(np.array([1, 2]))


def test_random_reads_allocate_only_the_batch(tmp_path: Path) -> None:
    """Pages of mapped files belong to the operating system, which may reclaim them."""
    part = VideoPreset(frames=2, height=128, width=128, resize="area")
    layout = Layout("m", part, 1500, 100)
    for shard, name in enumerate(layout.names):  # sparse files of 147 MB
        with (tmp_path / name).open("wb") as file:
            file.write(layout.header(shard))
            file.truncate(layout.size(shard))
    reader = RowReader(tmp_path, layout)
    rows_N = np.random.default_rng(0).permutation(1500)
    before = own_bytes()
    most = 0
    for batch in np.array_split(rows_N, 100):
        gathered = reader.gather(batch)
        most = max(most, own_bytes() - before)
    assert gathered.nbytes == 15 * row_bytes(part)
    assert most < 20 * 2**20


def own_bytes() -> int:
    """Return the anonymous memory of this process in bytes, without mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))
