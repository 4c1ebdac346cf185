"""(f) Preparing a corpus: two processes vs one, all cores vs plain loops, and memory

The clips resemble those of Kinetics-Sounds: 3 seconds of 320 x 240 pixels in H.264 at 30 frames per second, with AAC
sound. A clip store keeps nine frames of 224 x 224 and a spectrogram of each (preset kinetics_sounds).

    cores     decoding with two processes vs one, from the first finished clip to the last. Starting the processes and
              computing checksums is reported separately.
    loops     decoding with all cores vs a loop that only decodes the same frames and the sound
    memory    private memory of the driver and of its largest worker, for some clips and for four times as many
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.measure import Result, in_turns, median, seconds
from remix_study.media.build import build_store
from remix_study.media.presets import PRESETS, VIDEO_FRONT_ENDS
from remix_study.media.video import candidate_frames
from remix_study.media.workers import available_cores
from remix_study.sample import Clip, SampleId

_PRESET = PRESETS["kinetics_sounds"]
_WIDTH, _HEIGHT, _FPS, _RATE = 320, 240, 30, 44100
_VIDEO = VIDEO_FRONT_ENDS["3x224r"]  # as in the preset
_SAMPLED_S = 0.02


@dataclass(frozen=True)
class Scale:
    """Size of the benchmark."""

    clips: int
    rounds: int
    few: int  # memory is measured for so many clips, and for four times as many
    length_s: float

    @classmethod
    def of(cls, quick: bool) -> "Scale":
        return cls(8, 1, 2, 1.0) if quick else cls(800, 3, 200, 3.0)


@dataclass(frozen=True)
class Times:
    """Seconds of one preparation."""

    start: float  # until the first clip is done
    clips: float  # per clip, from the first to the last
    total: float


def measure(quick: bool) -> Iterator[Result]:
    scale = Scale.of(quick)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        clips = render(root, scale.clips, scale.length_s)
        few = clips[: max(2, scale.clips // 8)]
        crews = sorted({1, 2, available_cores()})
        turns = in_turns([partial(prepared, clips, root, workers) for workers in crews], scale.rounds)
        loops = in_turns([lambda: _each(decord_loop, few, root), lambda: _each(pyav_loop, few, root)], scale.rounds)
        few_and_many = [peaks(root, scale.few), peaks(root, 4 * scale.few)]
    one, two, crew = (median([times[i].clips for times in turns]) for i in (0, 1, -1))
    yield Result(
        "(f) decoding with 2 processes / 1 (as fast)",
        median([times[0].clips / times[1].clips for times in turns]),
        at_least=1.7,
        note=f"{1 / two:.1f} clips per second, {1 / one:.1f} with one",
    )
    yield Result(
        "(f) the whole preparation with 2 processes / 1 (as fast)",
        median([times[0].total / times[1].total for times in turns]),
        note="including checksums, starting processes, and publishing",
    )
    yield Result("(f) time until the first clip is done", median([times[1].start for times in turns]), unit="s")
    for index, loop in enumerate(("decord", "PyAV")):
        each = median([times[index] for times in loops])
        yield Result(
            f"(f) preparing with all cores / a plain loop of {loop} (as fast)",
            each / crew,
            note=f"the loop: {1 / each:.1f} clips per second, decoding only",
        )
    for role, index in (("the driver", 0), ("a worker", 1)):
        small, large = few_and_many[0][index], few_and_many[1][index]
        yield Result(
            f"(f) memory of {role}: {4 * scale.few} clips / {scale.few}",
            large / small,
            at_most=1.2,
            note=f"{large / 2**20:.0f} MB private memory at most, for {4 * scale.few} clips",
        )


def prepared(clips: Sequence[Clip], root: Path, workers: int) -> Times:
    """Prepare the clips in a temporary clip store, and return the times."""
    ends: list[float] = []

    def progress(done: int, _: int) -> None:
        if done:
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory(dir=root) as out:
        started = time.perf_counter()
        build_store(
            clips, root, Path(out), preset=_PRESET, name="benchmark", manifest_digest="", workers=workers,
            progress=progress,
        )  # fmt: skip
        total = time.perf_counter() - started
    return Times(ends[0] - started, (ends[-1] - ends[0]) / (len(ends) - 1), total)


def decord_loop(path: Path) -> None:
    """Decode a clip with decord as in a tutorial: default threads, frames by number."""
    import decord

    reader = decord.VideoReader(str(path))
    frames = reader.get_batch(candidate_frames(0, len(reader), _VIDEO)).asnumpy()
    wave = decord.AudioReader(str(path), mono=True)[:].asnumpy()
    assert len(frames)
    assert wave.size


def pyav_loop(path: Path) -> None:
    """Decode the same frames and the sound of a clip with PyAV."""
    import av

    with av.open(str(path)) as file:
        track = file.streams.video[0]
        track.thread_type = "AUTO"
        wanted = set(candidate_frames(0, track.frames, _VIDEO))
        frames = [f.to_ndarray(format="rgb24") for n, f in enumerate(file.decode(track)) if n in wanted]
    with av.open(str(path)) as file:
        wave = [frame.to_ndarray() for frame in file.decode(audio=0)]
    assert frames
    assert wave


def _each(loop: Callable[[Path], None], clips: Sequence[Clip], root: Path) -> float:
    """Return the seconds per clip."""

    def all_of_them() -> None:
        for clip in clips:
            loop(root / clip.paths["video"])

    return seconds(all_of_them) / len(clips)


def peaks(root: Path, clips: int) -> tuple[int, int]:
    """Return the peak private memory of the driver and of its largest worker, in bytes, without mapped files."""
    driver = subprocess.Popen([sys.executable, "-m", "benchmarks.preparing", str(root), str(clips)])
    most = {"driver": 0, "worker": 0}
    while driver.poll() is None:
        for pid in _family(driver.pid):
            role = "driver" if pid == driver.pid else "worker"
            most[role] = max(most[role], _own_bytes(pid))
        time.sleep(_SAMPLED_S)  # Linux records no peak of private memory, so it is sampled
    if driver.returncode:
        raise RuntimeError(f"The preparation exited with status {driver.returncode}; see its output above.")
    return most["driver"], most["worker"]


def _family(root: int) -> list[int]:
    """Return the ids of a process and its descendants."""
    found, children = [], [root]
    while children:
        found.append(pid := children.pop())
        try:
            for thread in Path(f"/proc/{pid}/task").iterdir():
                children += map(int, (thread / "children").read_text().split())
        except OSError:  # the process has ended
            continue
    return found


def _own_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def render(root: Path, clips: int, length_s: float) -> list[Clip]:
    """Write clips with the same content to separate files. Decoding does not cache by content."""
    first = root / "clip-0000.mp4"
    _encode(first, length_s)
    found = []
    for number in range(clips):
        path = root / f"clip-{number:04d}.mp4"
        if path != first:
            path.write_bytes(first.read_bytes())
        paths = {"audio": path.name, "video": path.name}
        found.append(Clip(SampleId(path.stem), paths, label=f"class-{number % 2}", split="train"))
    return found


def _encode(path: Path, length_s: float) -> None:
    """Write a clip of a drifting pattern under noise, as costly to decode as a real scene, with a tone."""
    import av

    y, x = np.mgrid[:_HEIGHT, :_WIDTH]
    draw = np.random.default_rng(0)
    with av.open(str(path), "w") as file:
        video = file.add_stream("libx264", rate=_FPS, options={"preset": "veryfast", "crf": "28"})
        video.width, video.height, video.pix_fmt = _WIDTH, _HEIGHT, "yuv420p"
        sound = file.add_stream("aac", rate=_RATE, layout="stereo")
        for number in range(round(length_s * _FPS)):
            grey = 128 + 60 * np.sin(x / 20 + number / 5) * np.cos(y / 15) + draw.normal(0, 8, x.shape)
            pixels = np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
            picture = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
            picture.pts, picture.time_base = number, Fraction(1, _FPS)
            file.mux(video.encode(picture))
        wave = 0.3 * np.sin(np.arange(round(length_s * _RATE)) * 440 * 2 * np.pi / _RATE)
        block = av.AudioFrame.from_ndarray(np.tile(wave.astype(np.float32), (2, 1)), format="fltp", layout="stereo")
        block.sample_rate, block.pts, block.time_base = _RATE, 0, Fraction(1, _RATE)
        file.mux(sound.encode(block))
        file.mux(video.encode(None))
        file.mux(sound.encode(None))


if __name__ == "__main__":
    folder, count = Path(sys.argv[1]), int(sys.argv[2])
    names = [f"clip-{number:04d}.mp4" for number in range(count)]
    listed = [
        Clip(SampleId(name), {"audio": name, "video": name}, f"class-{number % 2}", "train")
        for number, name in enumerate(names)
    ]
    prepared(listed, folder, workers=2)
