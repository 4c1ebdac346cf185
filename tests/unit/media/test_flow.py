"""Optical flow: computed flow, its quantization, and precomputed flow images"""

import builtins
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from remix_study.errors import MediaError, StoreError
from remix_study.media.checks import Checks
from remix_study.media.clip import decode_clip
from remix_study.media.decoders import Decoder, DecordDecoder, PyAVDecoder, decoder_named
from remix_study.media.flow import opencv_version, quantise
from remix_study.media.plan import plan_store
from remix_study.media.presets import FlowPreset, Preset
from remix_study.media.source import source_at
from remix_study.sample import Clip, SampleId
from tests.miniature import ucf101


def flow_of(
    root: Path,
    path: str,
    preset: FlowPreset | None = None,
    decoder: Decoder | None = None,
    start: float | None = None,
    end: float | None = None,
) -> NDArray[Any]:
    part = preset or FlowPreset(3, ucf101.HEIGHT, ucf101.WIDTH)
    clip = Clip(SampleId("a"), {"flow": path}, "a", "train", start=start, end=end)
    rows = decode_clip(clip, source_at(root), Preset("flow", {"flow": part}), decoder or PyAVDecoder(), Checks()).rows
    assert rows["flow"].shape == part.shape
    assert rows["flow"].dtype == np.uint8
    return rows["flow"]


def pixels(row: NDArray[Any], bound: float = 20.0) -> NDArray[np.float64]:
    """Return the motion to the right and down: the median over frames and pixels."""
    medians: NDArray[np.float64] = np.median((row.astype(np.float64) - 128) / 127 * bound, axis=(0, 1, 2))
    return medians


@pytest.mark.parametrize("motion", [(3, 0), (0, -2), (-2, 2)])
def test_flow_is_in_pixels_to_the_right_and_down(tmp_path: Path, motion: tuple[int, int]) -> None:
    ucf101.write_video(tmp_path / "a.avi", motion, seed=1)
    assert pixels(flow_of(tmp_path, "a.avi")) == pytest.approx(motion, abs=0.3)


def test_flow_is_measured_at_the_stored_size(tmp_path: Path) -> None:
    ucf101.write_video(tmp_path / "a.avi", (3, 0), seed=1)
    half = FlowPreset(1, ucf101.HEIGHT // 2, ucf101.WIDTH // 2)
    assert pixels(flow_of(tmp_path, "a.avi", half)) == pytest.approx((1.5, 0), abs=0.3)


def test_flow_is_deterministic_and_equal_for_both_decoders(tmp_path: Path) -> None:
    ucf101.write_video(tmp_path / "a.avi", (-2, 2), seed=2)
    first = flow_of(tmp_path, "a.avi")
    assert np.array_equal(flow_of(tmp_path, "a.avi"), first)
    assert np.array_equal(flow_of(tmp_path, "a.avi", decoder=DecordDecoder()), first)


def test_each_chosen_frame_needs_a_next_frame(tmp_path: Path) -> None:
    ucf101.write_video(tmp_path / "a.avi", (1, 0), seed=1)
    preset = FlowPreset(ucf101.FRAMES - 1, 16, 16)
    assert flow_of(tmp_path, "a.avi", preset).shape[0] == ucf101.FRAMES - 1
    with pytest.raises(MediaError, match="it has 9 frames, but 10 are needed") as raised:
        flow_of(tmp_path, "a.avi", FlowPreset(ucf101.FRAMES, 16, 16))
    assert raised.value.stage == "frames"
    with pytest.raises(MediaError, match="it has 3 frames, but 4 are needed"):
        flow_of(tmp_path, "a.avi", FlowPreset(3, 16, 16), start=0.08, end=0.2)


def test_a_size_below_the_minimum_of_opencv_raises(tmp_path: Path) -> None:
    """OpenCV 5 crashes the process on a frame of 14 x 64 pixels."""
    ucf101.write_video(tmp_path / "a.avi", (1, 0), seed=1)
    with pytest.raises(MediaError, match="at least 16 x 16 pixels, but the preset stores 14 x 64") as raised:
        flow_of(tmp_path, "a.avi", FlowPreset(1, 14, 64))
    assert raised.value.stage == "flow"


@given(st.floats(-1e6, 1e6), st.floats(0.1, 100))
def test_quantise_maps_pixels_to_bytes(value: float, bound: float) -> None:
    (byte,) = quantise(np.array([value], np.float32), bound)
    decoded = (float(byte) - 128) / 127 * bound
    assert decoded == pytest.approx(min(max(value, -bound), bound), abs=bound / 127 * 0.51)
    assert byte >= 1


def test_quantise_maps_no_motion_and_nan_to_128() -> None:
    assert quantise(np.array([0.0, np.nan, 20.0, -20.0], np.float32), 20.0).tolist() == [128, 128, 255, 1]


@pytest.mark.parametrize(
    ("layout", "path"),
    [
        ("uv", "tvl1_flow/u/v_Archery_g01_c01"),
        ("xy", "flow/v_Archery_g01_c01"),
        ("mixed", "rawframes/Archery/v_Archery_g01_c01"),
    ],
)
def test_given_images_are_stored_unchanged(tmp_path: Path, layout: str, path: str) -> None:
    ucf101.write_flow(tmp_path, "Archery", "v_Archery_g01_c01", (5, -7), layout)
    if layout == "mixed":  # frames of the video beside it
        ucf101.write_grey(tmp_path / path / "img_00001.png", np.zeros((4, 4), np.uint8))
    row = flow_of(tmp_path, path, FlowPreset(3, 16, 16, source="given")).astype(int)
    assert np.abs(row - [128 + 30, 128 - 42]).max() <= 1  # JPEG


def test_given_images_are_the_middle_ones_in_numeric_order(tmp_path: Path) -> None:
    for number in range(1, 11):  # no leading zeros: 10 comes after 9
        ucf101.write_grey(tmp_path / "a" / f"x_{number}.png", np.full((4, 4), 10 * number, np.uint8))
        ucf101.write_grey(tmp_path / "a" / f"y_{number}.png", np.full((4, 4), 10 * number + 5, np.uint8))
    row = flow_of(tmp_path, "a", FlowPreset(2, 4, 4, source="given"))
    assert row[:, 0, 0].tolist() == [[30, 35], [80, 85]]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()


def test_unpaired_flow_images_raise(tmp_path: Path) -> None:
    given = FlowPreset(1, 4, 4, source="given")
    grey = np.full((4, 4), 128, np.uint8)
    for name in ("x_1.png", "x_2.png", "y_1.png", "y_3.png"):
        ucf101.write_grey(tmp_path / "a" / name, grey)
    with pytest.raises(MediaError, match="there are 2 and 2, or their numbers differ") as raised:
        flow_of(tmp_path, "a", given)
    assert raised.value.stage == "flow"
    (tmp_path / "u" / "b").mkdir(parents=True)
    ucf101.write_grey(tmp_path / "u" / "b" / "frame1.png", grey)
    with pytest.raises(MediaError, match="the folder v/b with its vertical motion is missing"):
        flow_of(tmp_path, "u/b", given)
    with pytest.raises(MediaError, match="no such folder of flow images") as raised:
        flow_of(tmp_path, "c", given)
    assert raised.value.stage == "missing"


def test_a_missing_opencv_raises_with_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *others: Any) -> Any:
        if name == "cv2":
            raise ImportError(name)
        return real(name, *others)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(StoreError, match=r"pip install 'remix-study\[flow\]'"):
        opencv_version()


def test_the_vertical_motion_in_a_folder_of_its_own_belongs_to_the_clip(tmp_path: Path) -> None:
    """The fingerprint of a store depends on it, and it is downloaded from a URL."""
    preset = Preset("given", {"flow": FlowPreset(2, 4, 4, source="given")})
    clip = Clip(SampleId("b"), {"flow": "u/b"}, "a", "train")

    def fingerprint(vertical: int) -> str:
        for folder, grey in (("u", 100), ("v", vertical)):
            (tmp_path / folder / "b").mkdir(parents=True, exist_ok=True)
            for number in range(1, 4):
                image = np.full((4, 4), grey, np.uint8)
                ucf101.write_grey(tmp_path / folder / "b" / f"frame{number}.png", image)
        return plan_store([clip], source_at(tmp_path), preset, "pyav", Checks()).fingerprint

    assert fingerprint(200) != fingerprint(20)
    system = fsspec.filesystem("memory")
    system.put(str(tmp_path), "/flow", recursive=True)
    try:
        row = decode_clip(clip, source_at("memory://flow"), preset, decoder_named("pyav"), Checks()).rows["flow"]
        assert row[0, 0, 0].tolist() == [100, 20]
        system.pipe_file("/flow/v/b/frame3.png", b"not an image")
        with pytest.raises(MediaError) as raised:
            decode_clip(clip, source_at("memory://flow"), preset, decoder_named("pyav"), Checks())
        assert raised.value.path == Path("v/b/frame3.png")
    finally:
        system.rm("/flow", recursive=True)
