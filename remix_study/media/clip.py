"""One clip from its files to the rows of a store

probe -> which frames, which seconds -> decode -> checks -> resize / resample, spectrogram
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from remix_study.errors import MediaError
from remix_study.media import audio, video
from remix_study.media.checks import Checks, check_frames, check_length, check_wave
from remix_study.media.container import Container, probe
from remix_study.media.decoders import Decoder
from remix_study.media.presets import AudioPreset, Preset, VideoPreset
from remix_study.media.spectrogram import log_spectrogram
from remix_study.modality import AUDIO, VIDEO
from remix_study.sample import Clip


@dataclass(frozen=True, slots=True)
class DecodedClip:
    """`rows[m]` has the preset's shape and dtype; `meta` is plain data for the index."""

    rows: dict[str, NDArray[Any]]
    meta: dict[str, float | int]


def decode_clip(clip: Clip, root: Path, preset: Preset, decoder: Decoder, checks: Checks) -> DecodedClip:
    """
    Raises:
        MediaError: the clip is not whole; `stage` is the reason.
    """
    rows: dict[str, NDArray[Any]] = {}
    meta: dict[str, float | int] = {}
    containers = {path: probe(root / path) for path in {clip.paths[m] for m in preset.modalities}}
    if preset.audio is not None:
        path = clip.paths[AUDIO]
        rows[AUDIO] = _audio_row(clip, root / path, containers[path], preset.audio, decoder, checks, meta)
    if preset.video is not None:
        path = clip.paths[VIDEO]
        rows[VIDEO] = _video_row(clip, root / path, containers[path], preset.video, decoder, checks, meta)
    return DecodedClip(rows, meta)


def _audio_row(
    clip: Clip,
    path: Path,
    container: Container,
    preset: AudioPreset,
    decoder: Decoder,
    checks: Checks,
    meta: dict[str, float | int],
) -> NDArray[np.float16]:
    if container.audio_rate is None:
        raise MediaError("it has no audio track", stage="audio")
    wave = decoder.wave(path, container)
    check_length(AUDIO, container.audio_start_s + len(wave) / container.audio_rate, container.duration_s, checks)
    part = audio.cut(wave, container.audio_rate, container.audio_start_s, clip.start, clip.end)
    if not len(part):
        raise MediaError(f"its audio track ends before `start` ({clip.start} s)", stage="duration")
    check_wave(part, checks)
    fitted = audio.fit(audio.resample(part, container.audio_rate, preset.sample_rate), preset)
    meta["audio_s"] = round(len(part) / container.audio_rate, 4)
    meta["audio_rate"] = container.audio_rate
    row: NDArray[np.float16] = log_spectrogram(fitted, preset).numpy().astype(np.float16)
    return row


def _video_row(
    clip: Clip,
    path: Path,
    container: Container,
    preset: VideoPreset,
    decoder: Decoder,
    checks: Checks,
    meta: dict[str, float | int],
) -> NDArray[np.uint8]:
    if container.frame_times_F is None:
        raise MediaError("it has no video track", stage="video")
    check_length(VIDEO, container.video_end_s, container.duration_s, checks)
    first, count = video.frames_within(container.frame_times_F, clip.start, clip.end)
    wanted = video.middle_frames(first, count, preset.frames)
    # The first frame beside the wanted ones: a preset of one frame could not tell a video from a still picture.
    looked_at = sorted({first, *wanted})
    seen = decoder.frames(path, looked_at, first + count)
    check_frames(seen, checks)
    frames = [frame for number, frame in zip(looked_at, seen, strict=True) if number in wanted]
    meta["video_s"] = round(container.video_end_s - float(container.frame_times_F[0]), 4)
    meta["frames"] = count
    meta["height"], meta["width"] = frames[0].shape[:2]
    return np.stack([video.resize(frame, preset) for frame in frames])
