"""Clips whose picture and sound carry their source time, so that a test can read which time was stored

A picture shows the number of its frame as a Gray code of white and black bars. The sound is a chirp, whose frequency
says its time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from remix_study.media.presets import AudioPreset, VideoPreset

BARS, BAR, HEIGHT, FPS, RATE = 10, 16, 32, 25, 16000
WIDTH = BARS * BAR
START_HZ, SWEEP = 300.0, 200.0  # the chirp: its frequency at time 0, and what it gains per second


@dataclass(frozen=True)
class Kind:
    """A container with its codecs. `sound_rate`: in Hz, where the codec does not take 16 kHz."""

    suffix: str
    picture: str | None
    sound: str | None
    sound_rate: int = RATE
    b_frames: int = 0

    @property
    def id(self) -> str:
        return f"{self.suffix} {self.picture} {self.sound}" + (" b-frames" if self.b_frames else "")


def write_timed(
    path: Path,
    kind: Kind,
    seconds: float,
    *,
    times_s: Sequence[float] | None = None,
    fps: int = FPS,
    options: dict[str, str] | None = None,
    picture: Callable[[float, int], NDArray[np.uint8]] | None = None,
) -> Path:
    """Encode pictures and sound from source second 0 on, with a key frame every second.

    Args:
        times_s: the source times of the pictures; by default `fps` per second.
        options: of the muxer.
        picture: returns RGB (H, W, 3) of a source time and a frame rate; by default `picture_at`.
    """
    with av.open(str(path), "w", options=options or {}) as file:
        pictures = None if kind.picture is None else _video_stream(file, kind, fps)
        voice = None if kind.sound is None else file.add_stream(kind.sound, rate=kind.sound_rate, layout="mono")
        if voice is not None:
            voice.bit_rate = 64000
        if pictures is not None:
            ticks = 1000 if times_s is not None else fps
            if times_s is not None:
                pictures.codec_context.time_base = Fraction(1, ticks)
            for second in times_s or [number / fps for number in range(round(seconds * fps))]:
                shown = (picture or picture_at)(second, fps)
                shot = av.VideoFrame.from_ndarray(shown, format="rgb24").reformat(format="yuv420p")
                shot.pts, shot.time_base = round(second * ticks), Fraction(1, ticks)
                file.mux(pictures.encode(shot))
            file.mux(pictures.encode(None))
        if voice is not None:
            for block in _blocks(chirp(seconds, kind.sound_rate), kind.sound_rate, voice):
                file.mux(voice.encode(block))
            file.mux(voice.encode(None))
    return path


def _video_stream(file: Any, kind: Kind, fps: int) -> Any:
    stream = file.add_stream(kind.picture, rate=fps)
    stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    stream.bit_rate = 2_000_000
    stream.codec_context.gop_size = fps
    stream.codec_context.max_b_frames = kind.b_frames
    stream.codec_context.thread_count = 1
    if kind.picture == "libx264":
        stream.codec_context.options = {"preset": "ultrafast", "bf": str(kind.b_frames)}
    if kind.picture in ("libvpx", "libvpx-vp9"):
        stream.codec_context.options = {"deadline": "realtime", "cpu-used": "8"}
    return stream


def _blocks(wave: NDArray[np.float32], rate: int, voice: Any) -> list[Any]:
    whole = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
    whole.sample_rate, whole.time_base, whole.pts = rate, Fraction(1, rate), 0
    fit = av.AudioResampler(
        format=voice.codec_context.format, layout="mono", rate=rate, frame_size=voice.frame_size or 1024
    )
    return [*fit.resample(whole), *fit.resample(None)]


def picture_at(second: float, fps: int = FPS) -> NDArray[np.uint8]:
    """RGB (H, W, 3): the Gray code of the frame's number, from the most significant bit."""
    number = round(second * fps)
    bits = [(number ^ (number >> 1)) >> place & 1 for place in reversed(range(BARS))]
    row = np.repeat(np.array(bits, np.uint8) * 215 + 20, BAR)
    return np.broadcast_to(row[None, :, None], (HEIGHT, WIDTH, 3)).copy()


def chirp(seconds: float, rate: int) -> NDArray[np.float32]:
    """A sweep of constant loudness."""
    t = np.arange(round(seconds * rate)) / rate
    wave: NDArray[np.float32] = (0.5 * np.sin(2 * np.pi * (START_HZ * t + SWEEP / 2 * t * t))).astype(np.float32)
    return wave


def video_preset(frames: int, candidates: int = 1) -> VideoPreset:
    return VideoPreset(frames, HEIGHT, WIDTH, "area", candidates)


def audio_preset(seconds: float) -> AudioPreset:
    return AudioPreset(
        sample_rate=8000, seconds=seconds, fill="zeros", n_fft=512, hop=128, power=1.0, floor=1e-7, pad_mode="constant",
        center=False,
    )  # fmt: skip


def picture_times(row_THW3: NDArray[np.uint8], fps: int = FPS) -> list[float]:
    """The source times of stored pictures, in seconds."""
    times = []
    for picture in row_THW3:
        bars = picture.reshape(HEIGHT, BARS, BAR, 3)[HEIGHT // 4 : -HEIGHT // 4, :, BAR // 4 : -BAR // 4].mean(
            (0, 2, 3)
        )
        number, last = 0, 0
        for bit in bars > 127:
            last ^= int(bit)
            number = number << 1 | last
        times.append(number / fps)
    return times


def sound_shift(row_FT: NDArray[np.floating[Any]], seconds: float) -> float:
    """The source time of the beginning of a stored sound, in seconds.

    Args:
        row_FT: a row of `audio_preset`.
        seconds: how much of it is sound.
    """
    preset = audio_preset(seconds)
    centres_s = (np.arange(row_FT.shape[1]) * preset.hop + preset.n_fft / 2) / preset.sample_rate
    inside = np.flatnonzero((centres_s > 0.2) & (centres_s < seconds - 0.2))
    spectrum = np.exp(row_FT[:, inside].astype(np.float64)) ** 4  # sharp peaks
    peaks = spectrum.argmax(0)
    near = np.clip(peaks[None] + np.arange(-2, 3)[:, None], 0, len(spectrum) - 1)
    weights = np.take_along_axis(spectrum, near, 0)
    hertz = (near * weights).sum(0) / weights.sum(0) * preset.sample_rate / preset.n_fft
    return float(np.median((hertz - START_HZ) / SWEEP - centres_s[inside]))


def copied(source: Path, target: Path, first_s: float, shift_s: float, **options: str) -> Path:
    """Copy the packets from `first_s` on without encoding, with timestamps that are `shift_s` later.

    Like `ffmpeg -ss ... -c copy -avoid_negative_ts disabled`, if `shift_s` is below -`first_s`.
    """
    with av.open(str(source)) as read, av.open(str(target), "w", options=options) as written:
        streams = {stream.index: written.add_stream_from_template(stream) for stream in read.streams}
        for packet in read.demux():
            if packet.dts is None or packet.pts * packet.time_base < first_s - 1e-3:
                continue
            later = round(shift_s / packet.time_base)
            packet.pts, packet.dts = packet.pts + later, packet.dts + later
            packet.stream = streams[packet.stream.index]
            written.mux(packet)
    return target


def origin_s(path: Path) -> float:
    """The source time at which `ffmpeg -ss 0` begins in a file of `write_timed`: that of its earliest timestamp."""
    if path.suffix == ".avi":  # it has no timestamps: frame n is at n / rate
        return 0.0
    with av.open(str(path)) as file:
        track = file.streams.video[0]
        first = next(frame for frame in file.decode(track))
        return begins_s(path) - float(first.pts * track.time_base)


def begins_s(path: Path) -> float:
    """A file's earliest timestamp, in seconds."""
    with av.open(str(path)) as file:
        return float((file.start_time or 0) / av.time_base)
