"""Conversion of frames to RGB: the colours of ffmpeg's rgb24"""

import shutil
import subprocess
from pathlib import Path

import av
import av.filter
import numpy as np
import pytest
from numpy.typing import NDArray

from remix_study.media.images import read_image
from remix_study.media.pixels import to_rgb
from tests.corrupt_media import Picture, write_clip

FFMPEG = Path(shutil.which("ffmpeg") or "missing")
# Kind -> format, width, height, interlaced, and column 6 of what ffmpeg 5.1 makes of `planes` (red and green).
KINDS: dict[str, tuple[str, int, int, bool, list[int], list[int]]] = {
    "even": (
        "yuv420p", 16, 12, False,
        [255, 211, 0, 0, 100, 100, 211, 211, 0, 100, 100, 0],
        [160, 26, 151, 151, 255, 255, 26, 26, 151, 255, 255, 151],
    ),
    "ten bits": (
        "yuv420p10le", 16, 12, False,
        [255, 164, 25, 0, 74, 160, 181, 181, 26, 80, 95, 0],
        [151, 52, 123, 166, 255, 255, 42, 42, 122, 255, 255, 152],
    ),
    "odd": (
        "yuv420p", 15, 11, False,
        [255, 148, 0, 0, 95, 242, 211, 78, 0, 91, 102],
        [153, 62, 139, 171, 255, 216, 29, 97, 161, 255, 255],
    ),
    "interlaced": (
        "yuv420p", 16, 12, True,  # both fields in one, as ffmpeg does
        [255, 211, 0, 0, 100, 100, 211, 211, 0, 100, 100, 0],
        [160, 26, 151, 151, 255, 255, 26, 26, 151, 255, 255, 151],
    ),
    "interlaced, ten bits": (
        "yuv420p10le", 16, 12, True,
        [255, 164, 25, 0, 74, 160, 181, 181, 26, 80, 95, 0],
        [151, 52, 123, 166, 255, 255, 42, 42, 122, 255, 255, 152],
    ),
}  # fmt: skip


def planes(kind: str) -> list[NDArray[np.generic]]:
    """Sharp edges of brightness and of both colours, in both directions."""
    pixels, width, height = KINDS[kind][:3]
    top, form = (255, np.uint8) if pixels == "yuv420p" else (1023, np.uint16)
    across, down = np.meshgrid(np.arange(width), np.arange(height))
    brightness = np.where((across + down) % 5 < 2, 0.75, 0.3)
    across, down = np.meshgrid(np.arange(-(-width // 2)), np.arange(-(-height // 2)))
    blue, red = np.where(across % 4 < 2, 0.8, 0.2), np.where(down % 3 < 1, 0.85, 0.25)
    return [np.rint(plane * top).astype(form) for plane in (brightness, blue, red)]


def frame_of(kind: str) -> av.VideoFrame:
    pixels, width, height, interlaced = KINDS[kind][:4]
    frame = av.VideoFrame(width, height, pixels)
    for plane, values in zip(frame.planes, planes(kind), strict=True):
        rows = np.zeros((plane.height, plane.line_size), np.uint8)
        content = np.ascontiguousarray(values).view(np.uint8)
        rows[:, : content.shape[1]] = content
        plane.update(rows.tobytes())
    return flagged(frame) if interlaced else frame


def flagged(frame: av.VideoFrame) -> av.VideoFrame:
    """The frame, marked as interlaced."""
    graph = av.filter.Graph()
    source = graph.add(
        "buffer", f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}:time_base=1/1000"
    )
    graph.link_nodes(source, graph.add("setfield", "tff"), graph.add("buffersink")).configure()
    graph.push(frame)
    marked = graph.vpull()
    assert marked.interlaced_frame
    return marked


@pytest.mark.parametrize("kind", KINDS)
def test_colours_at_edges_are_those_of_ffmpeg(kind: str) -> None:
    """Other processors may round in another way."""
    column_H3 = to_rgb(frame_of(kind))[:, 6].astype(int)
    np.testing.assert_allclose(column_H3[:, 0], KINDS[kind][4], atol=2)
    np.testing.assert_allclose(column_H3[:, 1], KINDS[kind][5], atol=2)


@pytest.mark.parametrize("number", range(18))
def test_every_colour_space_is_converted(number: int) -> None:
    frame = frame_of("even")
    frame.colorspace = number
    assert to_rgb(frame).shape == (12, 16, 3)


@pytest.mark.parametrize("pixels", ["pal8", "gray", "ya8", "gray16le", "monow", "rgba64be", "bgra", "rgb8", "p010le"])
def test_pixels_of_any_format_are_converted(pixels: str) -> None:
    frame = av.VideoFrame(16, 12, pixels)
    for plane in frame.planes:
        plane.update(bytes(plane.buffer_size))
    assert to_rgb(frame).shape == (12, 16, 3)


PICTURES = {
    "ten bits.mkv": Picture("ffv1", pixels="yuv420p10le"),
    "odd.avi": Picture("mpeg4", size=(63, 47)),
    "interlaced.mp4": Picture(options={"x264-params": "interlaced=1:tff=1"}),
    "interlaced ten bits.mkv": Picture(pixels="yuv420p10le", options={"x264-params": "interlaced=1:tff=1"}),
    "quarter.mkv": Picture("ffv1", pixels="yuv411p"),
    "odd.jpg": Picture("mjpeg", frames=1, pixels="yuvj420p", size=(63, 47)),
}


@pytest.mark.slow
@pytest.mark.skipif(not FFMPEG.exists(), reason="needs the program ffmpeg")
@pytest.mark.parametrize("name", PICTURES)
def test_frames_equal_those_of_the_program_ffmpeg(name: str, tmp_path: Path) -> None:
    path = write_clip(tmp_path / name, [PICTURES[name]], [], format="image2" if name.endswith("jpg") else None)
    command = [str(FFMPEG), "-v", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-vsync", "0", "-"]
    raw = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout
    width, height = PICTURES[name].size
    if name.endswith("jpg"):
        frames = [read_image(path)]
    else:
        with av.open(str(path)) as file:
            frames = [to_rgb(frame) for frame in file.decode(video=0)]
    np.testing.assert_array_equal(np.stack(frames), np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3))
