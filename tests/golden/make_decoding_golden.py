"""Golden digests of the rows that each decoder gives for fixed clips, one clip per container and codec

`python -m tests.golden.make_decoding_golden` decodes the clips in tests/golden/clips with the installed decoders, and
writes the result to decoding_golden.json under the versions of the decoders and of FFmpeg's libraries. Results of other
versions are kept. With `--clips`, the clips are encoded again first; then remove the results of other versions.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import TypedDict

import av
import numpy as np
from numpy.typing import NDArray

from remix_study.media.checks import Checks
from remix_study.media.clip import decode_clip
from remix_study.media.decoders import DecoderName, decoder_named, decoder_version
from remix_study.media.presets import PRESETS, Preset
from remix_study.media.source import source_at
from remix_study.sample import Clip, SampleId
from tests.decoders import installed
from tests.timed_media import HEIGHT, WIDTH, Kind, video_preset, write_timed

FOLDER = Path(__file__).parent
CLIPS, GOLDEN = FOLDER / "clips", FOLDER / "decoding_golden.json"
SECONDS = 0.6
KINDS = (
    Kind("mp4", "mpeg4", "libmp3lame"),
    Kind("mp4", "libx264", "aac", b_frames=2),
    Kind("mp4", "libx264", "libopus", 48000),
    Kind("mov", "mpeg4", "pcm_s16le"),
    Kind("3gp", "mpeg4", "aac"),
    Kind("mkv", "libx264", "ac3", 48000),
    Kind("mkv", "ffv1", "flac"),
    Kind("webm", "libvpx", "libopus", 48000),
    Kind("webm", "libvpx-vp9", "libopus", 48000),
    Kind("flv", "flv", "libmp3lame", 22050),
    Kind("avi", "mpeg4", "pcm_s16le"),
    Kind("ts", "libx264", "aac", b_frames=2),
    Kind("ts", "mpeg2video", "mp2", 48000),
    Kind("mpg", "mpeg2video", "ac3", 48000, 2),
    Kind("wmv", "wmv2", "wmav2", 44100),
    Kind("nut", "mpeg4", "pcm_s16le"),
)


class Rows(TypedDict):
    """The rows of a clip.

    `video`: SHA-256 of three frames at their own size, which are the same on every processor. `audio`: the mean of each
    band of the log-mel spectrogram, whose last bits depend on the processor.
    """

    video: str
    audio: list[float]


def name_of(kind: Kind) -> str:
    return f"{kind.picture}-{kind.sound}.{kind.suffix}"


def coloured(second: float, fps: int) -> NDArray[np.uint8]:
    """RGB (H, W, 3): a slope of each colour that moves with time, and a square of another colour."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    step = round(second * fps)
    picture = np.stack([x + 4 * step, 6 * y + 2 * step, 255 - x - 3 * step], axis=-1) % 256
    picture[8:24, 5 * step % WIDTH :][:, :16] = (230, 40, 200)
    return picture.astype(np.uint8)


def versions_of(decoder: DecoderName) -> str:
    """The version of a decoder, with those of FFmpeg's libraries if it tells them."""
    version = decoder_version(decoder)
    if decoder != "pyav":
        return version
    libraries = ("libavcodec", "libavformat", "libswscale", "libswresample")
    return ", ".join([version, *(f"{name} {'.'.join(map(str, av.library_versions[name]))}" for name in libraries)])


def rows_of(path: Path, decoder: DecoderName) -> Rows:
    preset = Preset("golden", {"audio": PRESETS["tiny"].parts["audio"], "video": video_preset(3)})
    clip = Clip(SampleId("a"), {"audio": path.name, "video": path.name}, "x", "train")
    rows = decode_clip(clip, source_at(path.parent), preset, decoder_named(decoder), Checks()).rows
    bands = rows["audio"].astype(np.float64).mean(axis=1)
    return Rows(
        video=hashlib.sha256(rows["video"].tobytes()).hexdigest(),
        audio=[round(float(band), 2) for band in bands],
    )


def main() -> None:
    known = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if "--clips" in sys.argv[1:]:
        CLIPS.mkdir(exist_ok=True)
        for kind in KINDS:
            write_timed(CLIPS / name_of(kind), kind, SECONDS, picture=coloured)
    for decoder in installed():
        known[versions_of(decoder)] = {path.name: rows_of(path, decoder) for path in sorted(CLIPS.iterdir())}
    GOLDEN.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
