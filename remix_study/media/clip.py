"""Decoding one clip to the rows of a store

video           probe, choose frames, decode, check, resize
audio           probe, decode, check, cut, resample, spectrogram
images, flow    images.py, flow.py
feature arrays  features.py
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray

from remix_study.errors import MediaError
from remix_study.media import audio, video
from remix_study.media.checks import (
    RESIDUE,
    Checks,
    check_frames,
    check_holes,
    check_least,
    check_length,
    check_mix,
    check_wave,
    check_window,
)
from remix_study.media.container import Container, probe
from remix_study.media.decoders import Decoder, channel_levels
from remix_study.media.features import feature_row
from remix_study.media.flow import flow_row, sources_of
from remix_study.media.images import frame_files, is_image, read_image
from remix_study.media.presets import AudioPreset, FeaturePreset, FlowPreset, Preset, VideoPreset
from remix_study.media.source import Source, row_of
from remix_study.media.spectrogram import spectrogram
from remix_study.modality import AUDIO, VIDEO
from remix_study.sample import Clip


@dataclass(frozen=True, slots=True)
class DecodedClip:
    """The arrays of a clip.

    Attributes:
        rows: one array per modality, with the shape and dtype of the preset.
        meta: lengths, sizes and rates for the store's index.
    """

    rows: dict[str, NDArray[Any]]
    meta: dict[str, float | int]


def decode_clip(clip: Clip, source: Source, preset: Preset, decoder: Decoder, checks: Checks) -> DecodedClip:
    """Decode one clip as the preset says.

    Raises:
        MediaError: the clip is missing, damaged or incomplete; `stage` is the reason, and `path` the file, relative to
            the root of the source.
    """
    rows: dict[str, NDArray[Any]] = {}
    meta: dict[str, float | int] = {}
    with contextlib.ExitStack() as stack:
        names = {name for m, part in preset.parts.items() for name in sources_of(row_of(clip.paths[m])[0], part)}
        files = _Files({name: stack.enter_context(source.local(name)) for name in sorted(names)})
        for m in preset.modalities:
            try:
                rows[m] = _row(clip, m, files, preset, decoder, checks, meta)
            except MediaError as error:
                error.path = files.named(row_of(clip.paths[m])[0], error.path)
                raise
    return DecodedClip(rows, meta)


def _row(
    clip: Clip,
    modality: str,
    files: "_Files",
    preset: Preset,
    decoder: Decoder,
    checks: Checks,
    meta: dict[str, float | int],
) -> NDArray[Any]:
    path, row = row_of(clip.paths[modality])
    local = files.local[path]
    match preset.parts[modality]:
        case AudioPreset() as part:
            return _audio_row(clip, local, files.container(local), part, decoder, checks, meta)
        case VideoPreset() as part if local.is_dir() or is_image(local):
            return _pictures_row(clip, local, part, checks, meta)
        case VideoPreset() as part:
            return _video_row(clip, local, files.container(local), part, decoder, checks, meta)
        case FlowPreset() as part:
            container = None if part.source == "given" else files.container(local)
            folders = [files.local[name] for name in sources_of(path, part)]
            return flow_row(clip, folders, container, part, decoder, checks, meta)
        case FeaturePreset() as part:
            # Next to audio or video, `start` and `end` apply to these, and the array covers the whole clip.
            if all(isinstance(each, FeaturePreset) for each in preset.parts.values()):
                _require_no_times(clip, "feature arrays")
            return feature_row(local, row, part)
        case unreachable:
            assert_never(unreachable)


class _Files:
    """A clip's files on this machine; each is probed once."""

    def __init__(self, local: dict[str, Path]) -> None:
        self.local = local
        self._containers: dict[Path, Container] = {}

    def container(self, path: Path) -> Container:
        if path not in self._containers:
            self._containers[path] = probe(path)
        return self._containers[path]

    def named(self, name: str, bad: Path | None) -> Path:
        """The path of a bad file relative to the source's root: file `name`, or `bad` within one of the folders."""
        for other, local in self.local.items():
            if bad is not None and bad.is_relative_to(local):
                return Path(other) / bad.relative_to(local)
        return Path(name)


def _require_no_times(clip: Clip, what: str) -> None:
    if clip.start is not None or clip.end is not None:
        raise MediaError(
            f"`start` and `end` apply to audio and video files, but this clip consists of {what}. Remove them",
            stage="format",
        )


def _pictures_row(
    clip: Clip, path: Path, preset: VideoPreset, checks: Checks, meta: dict[str, float | int]
) -> NDArray[np.uint8]:
    """Read one image, repeated for every frame, or the chosen frames of a folder of images."""
    if not path.is_dir():
        frame = read_image(path)
        meta["frames"], (meta["height"], meta["width"]) = 1, frame.shape[:2]
        return np.repeat(video.resize(frame, preset)[None], preset.frames * preset.candidates, axis=0)
    _require_no_times(clip, "numbered frames")
    files = frame_files(path)
    wanted = video.candidate_frames(0, len(files), preset)
    frames = {number: read_image(files[number]) for number in sorted({0, *wanted})}
    check_frames(list(frames.values()), checks)
    meta["frames"], (meta["height"], meta["width"]) = len(files), frames[wanted[0]].shape[:2]
    resized = {number: video.resize(frames[number], preset) for number in set(wanted)}
    return np.stack([resized[number] for number in wanted])


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
    if container.audio_end_s:  # before the decoding, so that `--check`, which decodes a sample, gives the same reasons
        check_length(AUDIO, container.audio_end_s, container.duration_s, checks)
    rate, late_s = container.audio_rate, container.audio_start_s
    wave = decoder.wave(path, container, "mix" if preset.channel == "loudest" else preset.channel)
    end_s = late_s + len(wave) / rate
    check_length(AUDIO, end_s, container.duration_s, checks)
    check_window(AUDIO, clip.start, clip.end, end_s, checks, late_s)
    part = audio.cut(wave, rate, late_s, clip.start, clip.end)
    check_least(len(part) / rate, preset.least_s)
    first = (0 if clip.start is None else round(clip.start * rate)) - round(late_s * rate)
    if preset.channel == "mix" and part.std() < RESIDUE:
        check_mix(part, channel_levels(path, first, first + len(part)), checks)
    elif preset.channel == "loudest" and (levels := channel_levels(path, first, first + len(part))):
        loudest = max(range(len(levels)), key=lambda number: levels[number].deviation)
        part = audio.cut(decoder.wave(path, container, loudest), rate, late_s, clip.start, clip.end)
        meta["audio_channel"] = loudest
    check_wave(part, checks, "its audio" if preset.channel == "mix" else f"the {preset.channel} channel of its audio")
    kept_s = preset.samples / preset.sample_rate
    if len(part) > kept_s * rate:  # the preset keeps the beginning
        check_wave(part[: round(kept_s * rate)], checks, f"the beginning of its audio that is kept ({kept_s:g} s)")
    fitted = audio.fit(audio.resample(part, rate, preset.sample_rate), preset)
    meta["audio_s"] = round(len(part) / rate, 4)
    meta["audio_rate"] = rate
    row: NDArray[np.float16] = spectrogram(fitted, preset).numpy().astype(np.float16)
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
    check_window(VIDEO, clip.start, clip.end, container.video_end_s, checks, float(container.frame_times_F[0]))
    first, count = video.frames_within(container.frame_times_F, clip.start, clip.end)
    check_holes(container.holes, clip.end)
    wanted = video.candidate_frames(first, count, preset, video.span_of(container, first, count, clip.end))
    # The first frame is decoded too, so that a preset of one frame can tell a video from a still picture.
    numbers = sorted({first, *wanted})
    frames = dict(zip(numbers, decoder.frames(path, numbers, first + count), strict=True))
    check_frames(list(frames.values()), checks)
    meta["video_s"] = round(container.video_end_s - float(container.frame_times_F[0]), 4)
    meta["frames"] = count
    meta["height"], meta["width"] = frames[wanted[0]].shape[:2]
    resized = {number: video.resize(frames[number], preset) for number in set(wanted)}
    return np.stack([resized[number] for number in wanted])
