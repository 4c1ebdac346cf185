"""Small media files for miniature corpora: video and audio determine the class, and clips of a class differ

The suffix determines container and codecs: FLV (Sorenson, MP3) as in CREMA-D, MP4 (MPEG-4, AAC), WAV (16 kHz), JPEG.
"""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

HEIGHT, WIDTH, RATE = 48, 64, 10
_CODECS = {".flv": ("flv1", "mp3", 22050), ".mp4": ("mpeg4", "aac", 16000), ".wav": (None, "pcm_s16le", 16000)}


def write_clip(
    path: Path, label: int, seed: int, *, seconds: float = 0.6, sound: bool = True, silent: bool = False
) -> Path:
    """Write a moving bar and a tone of 200 Hz times `label` + 1; without `sound`, no audio track."""
    picture_codec, sound_codec, rate = _CODECS[path.suffix]
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        pictures = None if picture_codec is None else file.add_stream(picture_codec, rate=RATE)
        voice = file.add_stream(sound_codec, rate=rate, layout="mono") if sound else None
        if pictures is not None:
            pictures.width, pictures.height, pictures.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            pictures.codec_context.thread_count = 1  # for reproducible bytes
            for number in range(round(seconds * RATE)):
                shot = av.VideoFrame.from_ndarray(picture(label, seed, number), format="rgb24").reformat(
                    format="yuv420p"
                )
                shot.pts, shot.time_base = number, Fraction(1, RATE)
                file.mux(pictures.encode(shot))
            file.mux(pictures.encode(None))
        if voice is not None:
            for block in _blocks(wave(label, seed, rate, seconds) * (not silent), rate, sound_codec):
                file.mux(voice.encode(block))
            file.mux(voice.encode(None))
    return path


def write_frames(folder: Path, label: int, seed: int, *, count: int = 4) -> Path:
    """Write the frames as frame_00001.jpg and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        with av.open(str(folder / f"frame_{number + 1:05d}.jpg"), "w", format="image2") as file:
            stream = file.add_stream("mjpeg", rate=1)
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
            shot = av.VideoFrame.from_ndarray(picture(label, seed, number), format="rgb24")
            file.mux(stream.encode(shot.reformat(format="yuvj420p")))
            file.mux(stream.encode(None))
    return folder


def picture(label: int, seed: int, number: int) -> NDArray[np.uint8]:
    """Return an RGB frame. The class determines the brightness of the background, the clip the position of the bar."""
    ground = np.full((HEIGHT, WIDTH, 3), 30 + 25 * (label % 8), np.uint8)
    ground[8:40, (5 * number + 11 * seed) % (WIDTH - 12) :][:, :12] = (250, 200 - 20 * (label % 8), 40)
    return ground


def wave(label: int, seed: int, rate: int, seconds: float) -> NDArray[np.float32]:
    times = np.arange(round(rate * seconds)) / rate
    noise = np.random.default_rng(seed).standard_normal(len(times))
    return (0.5 * np.sin(2 * np.pi * 200 * (label + 1) * times) + 0.03 * noise).astype(np.float32)


def _blocks(samples: NDArray[np.float32], rate: int, codec: str) -> list[Any]:
    blocks = []
    for first in range(0, len(samples), 1152):
        part = np.ascontiguousarray(samples[None, first : first + 1152])
        if codec.startswith("pcm"):
            block = av.AudioFrame.from_ndarray((part * 32767).astype(np.int16), format="s16", layout="mono")
        else:
            block = av.AudioFrame.from_ndarray(part, format="fltp", layout="mono")
        block.sample_rate, block.time_base, block.pts = rate, Fraction(1, rate), first
        blocks.append(block)
    return blocks
