import numpy as np
import pytest
import torch

from remix_study.datasets.clips import ClipReader
from remix_study.datasets.corpus import open_corpus, prepare_corpus
from remix_study.datasets.synthetic import SyntheticSpec, render
from remix_study.errors import StoreError
from remix_study.media.presets import PRESETS
from remix_study.media.store import ClipStore

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ClipStore:
    folder = tmp_path_factory.mktemp("corpus")
    manifest = render(folder, SyntheticSpec(train=8, val=2, test=2, classes=2), workers=2)
    return prepare_corpus(manifest, preset=PRESETS["tiny"], name="test", decoder="pyav", workers=2)


def test_only_active_rows_of_active_modalities_are_read(store: ClipStore) -> None:
    reader = ClipReader(store, CPU)
    samples = np.array([5, 1, 3])
    batch = reader.read(samples, np.array([[True, False]] * 3))
    assert set(batch.inputs) == {"audio"}
    assert reader.rows_read == {"audio": 3, "video": 0}
    batch = reader.read(samples, np.array([[True, True], [False, True], [True, False]]))
    assert reader.rows_read == {"audio": 5, "video": 2}
    assert batch.inputs["audio"].shape == (2, 1, 32, 32)
    assert batch.inputs["video"].shape == (2, 3, 1, 16, 16)
    everything = reader.read(samples, np.ones((3, 2), dtype=np.bool_))
    torch.testing.assert_close(batch.inputs["audio"], everything.inputs["audio"][[0, 2]])
    torch.testing.assert_close(batch.inputs["video"], everything.inputs["video"][[0, 1]])
    assert batch.labels_B.tolist() == store.labels_N[samples].tolist()
    assert batch.samples_B.tolist() == samples.tolist()


def test_all_rows_are_read_where_masking_happens_later(store: ClipStore) -> None:
    reader = ClipReader(store, CPU)
    batch = reader.read(np.array([0, 1]), np.array([[True, False]] * 2), read_inactive=True)
    assert reader.rows_read == {"audio": 2, "video": 2}
    assert batch.inputs["video"].shape[0] == 2
    assert batch.active_BM.tolist() == [[True, False]] * 2


def test_the_train_split_is_normalised(store: ClipStore) -> None:
    rows = store.rows("train")
    batch = ClipReader(store, CPU).read(rows, np.ones((len(rows), 2), dtype=np.bool_))
    for values in batch.inputs.values():
        assert values.dtype == torch.float32
        assert float(values.mean()) == pytest.approx(0, abs=1e-4)
        assert float(values.std()) == pytest.approx(1, abs=1e-3)


def test_channels_last_holds_the_same_values_and_folds_without_a_copy(store: ClipStore) -> None:
    samples, active = np.array([2, 0]), np.ones((2, 2), dtype=np.bool_)
    plain = ClipReader(store, CPU).read(samples, active).inputs["video"]
    last = ClipReader(store, CPU, channels_last=True).read(samples, active).inputs["video"]
    torch.testing.assert_close(plain, last)
    assert plain.is_contiguous()
    folded = last.transpose(1, 2).flatten(0, 1)
    assert folded.is_contiguous(memory_format=torch.channels_last)
    assert folded.data_ptr() == last.data_ptr()


def test_a_mask_of_another_shape_is_refused(store: ClipStore) -> None:
    with pytest.raises(ValueError, match=r"must have shape \(2, 2\)"):
        ClipReader(store, CPU).read(np.array([0, 1]), np.ones((2, 3), dtype=np.bool_))


def test_a_corpus_whose_manifest_changed_is_not_opened(store: ClipStore) -> None:
    manifest = store.path.parent / "manifest.jsonl"
    assert open_corpus(store.path.parent).digest == store.digest
    before = manifest.read_text()
    manifest.write_text(before.replace("grating-00", "grating-01"))
    with pytest.raises(StoreError, match="has changed since"):
        open_corpus(store.path.parent)
    manifest.write_text(before)
