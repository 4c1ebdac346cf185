"""Untrusted pickles load as arrays and containers or raise, and never run code"""

import builtins
import collections
import datetime
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from remix_study.datasets.pickled_arrays import load
from remix_study.errors import ManifestError
from tests.examples import examples

CONTENT: dict[str, Any] = {
    "float64": np.random.default_rng(0).standard_normal((4, 3, 2)),
    "float32": np.arange(6, dtype=np.float32).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big endian": np.arange(3, dtype=">i4"),
    "booleans": np.array([True, False]),
    "texts": np.array(["one", "three"]),
    "bytes": np.array([b"one", b"three"]),
    "empty": np.zeros((0, 3)),
    "none": None,
    "number": np.float32(2.5),
    "plain": [1, 2.5, "text", b"\x00\xff", (True, {3})],
}


def written(folder: Path, content: object, protocol: int = 4) -> Path:
    path = folder / "content.pkl"
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_containers_are_read_back(tmp_path: Path, protocol: int) -> None:
    read = load(written(tmp_path, CONTENT, protocol))
    assert read.keys() == CONTENT.keys()
    for key, value in CONTENT.items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(read[key], value, strict=True)
        else:
            assert read[key] == value


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_of_objects_become_lists(tmp_path: Path, protocol: int) -> None:
    objects = np.array([["a", 1], ["b", None]], dtype=object)
    assert load(written(tmp_path, {"id": objects}, protocol)) == {"id": [["a", 1], ["b", None]]}
    assert load(written(tmp_path, collections.OrderedDict(a=1), protocol)) == {"a": 1}


def test_an_object_in_two_places_is_returned_in_both(tmp_path: Path) -> None:
    array = np.arange(3)
    read = load(written(tmp_path, [array, {"same": array}]))
    assert read[0].tolist() == read[1]["same"].tolist() == [0, 1, 2]


class Runs:
    """An object whose pickle calls `function`."""

    def __init__(self, function: Any, *given: Any) -> None:
        self.call = (function, given)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("deep", [False, True])
def test_a_malicious_pickle_runs_no_code(tmp_path: Path, protocol: int, deep: bool) -> None:
    proof = tmp_path / "it ran"
    for evil in (
        Runs(os.system, f"touch '{proof}'"),
        Runs(builtins.eval, f"open({str(proof)!r}, 'w')"),
        Runs(Path.touch, proof),
        Runs(np.save, str(proof), np.zeros(1)),
    ):
        content = {"train": [np.zeros(3), ({"x": evil},)]} if deep else evil
        with pytest.raises(ManifestError, match=r"but contains `.+`\. Reading stopped before") as raised:
            load(written(tmp_path, content, protocol))
        assert "ask its author for .npy files" in str(raised.value)
        assert not proof.exists()


@pytest.mark.parametrize(
    "content",
    [
        datetime.date(2020, 1, 1),
        np.array([1 + 2j, 3]).view([("re", "f8"), ("im", "f8")]),  # named columns
        np.array(["2020-01-01"], "datetime64[D]"),
        b"cnumpy\ndtype\n.",  # a name without its call
        b"cnumpy\ndtype\n(dVmake\nc_codecs\nencode\nsb.",  # BUILD, which would change the reader
        b"c_codecs\nencode\n(dS'__defaults__'\nNsb.",
        b"c_codecs\nencode\n(S'a'\nS'rot13'\ntR.",
        b"P1\n.",  # a reference to an object outside the file
    ],
)
def test_other_types_raise(tmp_path: Path, content: object) -> None:
    with pytest.raises(ManifestError, match="may hold only arrays in plain containers"):
        load(written(tmp_path, content))


def test_arrays_with_less_content_than_stated_raise(tmp_path: Path) -> None:
    array = np.zeros((2, 3))
    good = pickle.dumps(array, protocol=2)
    wrong = good.replace(b"K\x02K\x03\x86", b"K\x02K\x7f\x86")
    assert wrong != good
    with pytest.raises(ManifestError, match="is damaged"):
        load(written(tmp_path, wrong))


def test_files_that_are_not_pickles_raise(tmp_path: Path) -> None:
    for content in (b"", b"version https://git-lfs.github.com/spec/v1", b"\x80\x04."):
        with pytest.raises(ManifestError, match=r"The pickle .* is damaged"):
            load(written(tmp_path, content))
    with pytest.raises(ManifestError, match="cannot be read: No such file"):
        load(tmp_path / "absent.pkl")


@pytest.mark.parametrize("code", [b"\x8d", b"\x8e", b"\x96", b"\x95"], ids=["text", "bytes", "bytearray", "frame"])
def test_a_length_that_exceeds_the_file_is_damage_and_not_a_lack_of_memory(tmp_path: Path, code: bytes) -> None:
    with pytest.raises(ManifestError, match=r"The pickle .* is damaged"):
        load(written(tmp_path, b"\x80\x05" + code + (2**62).to_bytes(8, "little") + b"abc."))


def test_an_object_that_contains_itself_raises(tmp_path: Path) -> None:
    itself: list[Any] = []
    itself.append(itself)
    with pytest.raises(ManifestError, match="is damaged"):
        load(written(tmp_path, itself))


def test_nested_shared_lists_load_in_linear_time(tmp_path: Path) -> None:
    """Fifty lists, each holding the previous one twice: 2**50 entries if shared lists were visited repeatedly."""
    doubled: list[Any] = [1]
    for _ in range(50):
        doubled = [doubled, doubled]
    assert len(load(written(tmp_path, doubled))) == 2


@examples(200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_pickles_raise_or_load_plain_data(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(pickle.dumps(CONTENT, protocol=data.draw(st.sampled_from([0, 2, 4, 5]))))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(1, len(content)))] if data.draw(st.booleans()) else content
    try:
        load(written(tmp_path, bytes(content)))
    except ManifestError:
        return
