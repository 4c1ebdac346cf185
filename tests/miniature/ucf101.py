"""A miniature of UCF-101: AVI files of three classes that differ in motion, with the published folders and lists"""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
from numpy.typing import NDArray

CLASSES = {"Archery": "Archery", "HandstandPushups": "HandStandPushups", "YoYo": "YoYo"}
"""How the file names spell each class"""
FRAMES, HEIGHT, WIDTH = 9, 48, 64
MOTION = {"Archery": (3, 0), "HandstandPushups": (0, -2), "YoYo": (-2, 2)}
"""Motion to the right and down, in pixels per frame"""
_TEST_GROUPS, _TRAIN_GROUPS = (1, 2), (8, 9, 10)


def write(
    root: Path, *, split: int = 1, without: Sequence[str] = (), flow: Literal["none", "uv", "xy", "mixed"] = "none"
) -> Path:
    """Write two clips of each group. `without` names clips whose video is omitted."""
    lists = root / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    (lists / "classInd.txt").write_text("".join(f"{i} {name}\r\n" for i, name in enumerate(CLASSES, start=1)))
    train: list[str] = []
    test: list[str] = []
    for number, (label, spelt) in enumerate(CLASSES.items(), start=1):
        (root / "UCF-101" / label).mkdir(parents=True)
        for group in (*_TEST_GROUPS, *_TRAIN_GROUPS):
            for clip in (1, 2):
                stem = f"v_{spelt}_g{group:02d}_c{clip:02d}"
                line = f"{label}/{stem}.avi"
                (test if group in _TEST_GROUPS else train).append(line + f" {number}" * (group in _TRAIN_GROUPS))
                if stem not in without:
                    write_video(root / "UCF-101" / line, MOTION[label], seed=100 * group + clip)
                if flow != "none":
                    write_flow(root, label, stem, MOTION[label], flow)
    (lists / f"trainlist{split:02d}.txt").write_text("\r\n".join(train) + "\r\n")
    (lists / f"testlist{split:02d}.txt").write_text("\r\n".join(test) + "\r\n")
    return root


def moving(motion: tuple[int, int], seed: int) -> Iterator[NDArray[np.uint8]]:
    """Return RGB frames of a texture that moves by `motion` pixels per frame."""
    draw = np.random.default_rng(seed)
    noise = np.kron(draw.integers(0, 256, (16, 20, 3)), np.ones((8, 8, 1)))  # (128, 160): room to move
    smooth = sum(np.roll(noise, (i, j), (0, 1)) for i in range(-2, 3) for j in range(-2, 3)) / 25
    texture = np.asarray(smooth).astype(np.uint8)
    for number in range(FRAMES):
        left, top = 40 - motion[0] * number, 40 - motion[1] * number
        yield np.ascontiguousarray(texture[top : top + HEIGHT, left : left + WIDTH])


def write_video(path: Path, motion: tuple[int, int], seed: int) -> Path:
    with av.open(str(path), "w", format="avi") as file:
        stream = file.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.qmin = stream.codec_context.qmax = 2
        for number, picture in enumerate(moving(motion, seed)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def write_flow(root: Path, label: str, stem: str, motion: tuple[int, int], layout: str) -> None:
    """Write constant flow images, 128 + 6 grey levels per pixel, in `uv` folders, or with `xy` or `mixed` names."""
    for number in range(1, FRAMES):
        for channel, pixels in zip("uv", motion, strict=True):
            if layout == "uv":
                path = root / "tvl1_flow" / channel / stem / f"frame{number:06d}.jpg"
            elif layout == "xy":
                path = root / "flow" / stem / f"flow_{'x' if channel == 'u' else 'y'}_{number:05d}.jpg"
            else:
                path = root / "rawframes" / label / stem / f"{'x' if channel == 'u' else 'y'}_{number:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_grey(path, np.full((HEIGHT, WIDTH), 128 + 6 * pixels, np.uint8))


def write_grey(path: Path, picture: NDArray[np.uint8]) -> Path:
    """Write an image whose height and width are even."""
    if path.suffix == ".png":
        codec, pixels, planes = "png", "gray", picture
    else:  # JPEG has full-range luma; chroma is neutral
        colour = np.full((picture.shape[0] // 2, picture.shape[1]), 128, np.uint8)
        codec, pixels, planes = "mjpeg", "yuvj420p", np.concatenate([picture, colour])
    with av.open(str(path), "w", format="image2") as file:
        stream = file.add_stream(codec, rate=1)
        (stream.height, stream.width), stream.pix_fmt = picture.shape, pixels
        file.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format=pixels)))
        file.mux(stream.encode(None))
    return path
