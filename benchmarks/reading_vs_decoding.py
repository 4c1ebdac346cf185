"""(c) Reading batches from the clip store vs decoding the same clips each time

Both return the same arrays of audio and video, for real files:
    tiny   clips of the synthetic corpus: 1 second, 64 x 64 pixels, 8 frames per second
    ogm    clips of CREMA-D's size: 2.5 seconds, 480 x 360 pixels, 30 frames per second, smooth and thus fast to decode
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import Result, in_turns, median, seconds
from remix_study.datasets.corpus import prepare_corpus
from remix_study.datasets.manifest import read_manifest, write_manifest
from remix_study.datasets.synthetic import SyntheticSpec, render
from remix_study.media.checks import Checks
from remix_study.media.clip import decode_clip
from remix_study.media.decoders import decoder_named
from remix_study.media.presets import PRESETS
from remix_study.media.source import source_at
from remix_study.sample import Clip, SampleId

_LENGTH_S, _WIDTH, _HEIGHT, _FPS, _RATE = 2.5, 480, 360, 30, 44100


def measure(quick: bool) -> Iterator[Result]:
    rounds = 1 if quick else 7
    with tempfile.TemporaryDirectory() as name:
        spec = SyntheticSpec(train=8 if quick else 256, val=8, test=8)
        ratio = _ratio(render(Path(name), spec), "tiny", rounds)
        yield Result("(c) decoding / reading: clips of 64 x 64, preset tiny", ratio, at_least=300)
    with tempfile.TemporaryDirectory() as name:
        ratio = _ratio(_large_clips(Path(name), 4 if quick else 64), "ogm", rounds)
        yield Result(f"(c) decoding / reading: clips of {_WIDTH} x {_HEIGHT}, preset ogm", ratio, at_least=300)


def _ratio(manifest: Path, preset: str, rounds: int) -> float:
    source = source_at(manifest.parent)
    clips = {clip.id: clip for clip in read_manifest(manifest)}
    store = prepare_corpus(manifest, preset=PRESETS[preset], name="benchmark")
    rows = store.rows("train")
    few = rows[:: max(1, len(rows) // 16)]
    batches = np.array_split(np.random.default_rng(0).permutation(rows), max(1, len(rows) // 64))
    decoder, checks = decoder_named("decord"), Checks()

    def read() -> None:
        for batch in batches:
            for modality in store.modalities:
                store.gather(modality, batch)

    def decode() -> None:
        for row in few:
            decode_clip(clips[store.ids[row]], source, PRESETS[preset], decoder, checks)

    with _one_thread():
        times = in_turns([lambda: seconds(read, calls=5) / len(rows), lambda: seconds(decode) / len(few)], rounds)
    return median([decoding / reading for reading, decoding in times])


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread, as preparation does; on a busy machine, more threads would slow down decoding."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _large_clips(folder: Path, clips: int) -> Path:
    """Write clips with the same content, and return their manifest. Decoding does not cache by content."""
    first = folder / "clip-00.mp4"
    _write_large(first)
    rows = []
    for number in range(clips):
        path = folder / f"clip-{number:02d}.mp4"
        if path != first:
            path.write_bytes(first.read_bytes())
        paths = {"audio": path.name, "video": path.name}
        rows.append(Clip(SampleId(path.stem), paths, label=f"class-{number % 2}", split="train"))
    write_manifest(folder / "manifest.jsonl", rows)
    return folder / "manifest.jsonl"


def _write_large(path: Path) -> None:
    """Write a clip of a drifting pattern with a tone."""
    import av

    y, x = np.mgrid[:_HEIGHT, :_WIDTH]
    with av.open(str(path), "w") as file:
        video = file.add_stream("mpeg4", rate=_FPS)
        video.width, video.height, video.pix_fmt, video.bit_rate = _WIDTH, _HEIGHT, "yuv420p", 1_000_000
        sound = file.add_stream("aac", rate=_RATE, layout="mono")
        for number in range(round(_LENGTH_S * _FPS)):
            grey = 128 + 60 * np.sin(x / 40 + number / 5) * np.cos(y / 30)
            picture = av.VideoFrame.from_ndarray(grey.astype(np.uint8), format="gray").reformat(format="yuv420p")
            picture.pts, picture.time_base = number, Fraction(1, _FPS)
            file.mux(video.encode(picture))
        wave = 0.3 * np.sin(np.arange(round(_LENGTH_S * _RATE)) * 440 * 2 * np.pi / _RATE)
        block = av.AudioFrame.from_ndarray(wave.astype(np.float32)[None], format="fltp", layout="mono")
        block.sample_rate, block.pts, block.time_base = _RATE, 0, Fraction(1, _RATE)
        file.mux(sound.encode(block))
        file.mux(video.encode(None))
        file.mux(sound.encode(None))
