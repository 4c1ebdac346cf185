"""Frames and wave out of a file: what a backend must do, and the two that do it

Both give the same frames bit for bit and the same wave up to the last bits of a lossy codec (tests/contracts). Neither
uses random access: on cut files and on re-ordered key frames it gives wrong frames without a word (specs/media.md).
"""

# T chosen frames of H x W pixels

import importlib.metadata
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from remix_study.errors import MediaError, StoreError
from remix_study.media.container import Container

DecoderName = Literal["decord", "pyav"]
DECODERS: tuple[DecoderName, ...] = ("decord", "pyav")


class Decoder(Protocol):
    @property
    def name(self) -> str: ...

    def frames(self, path: Path, wanted_T: Sequence[int], count: int) -> list[NDArray[np.uint8]]:
        """Frames (H, W, 3) RGB by ascending number, upright, reading `count` frames through so that damage shows.

        Raises:
            MediaError: stage `video`; the track is absent or damaged, or ends before the last wanted frame.
        """
        ...

    def wave(self, path: Path, container: Container) -> NDArray[np.float32]:
        """The whole audio track, mono, at the file's own rate, without the silence before a late start.

        Mono is FFmpeg's own mix, which keeps the power of independent channels: (left + right) / sqrt 2 for stereo. It
        may exceed 1.

        Raises:
            MediaError: stage `audio`; the track is absent or damaged.
        """
        ...


class DecordDecoder:
    """decord2, imported on first use: its import maps every CUDA library into the process."""

    name = "decord"

    def frames(self, path: Path, wanted_T: Sequence[int], count: int) -> list[NDArray[np.uint8]]:
        import decord

        wanted = set(wanted_T)
        chosen: list[NDArray[np.uint8]] = []
        try:
            reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
            for number in range(min(count, len(reader))):
                frame = reader.next()
                if number in wanted:
                    chosen.append(frame.asnumpy())
        except (Exception, StopIteration) as error:  # RuntimeError or DECORDError, which is no RuntimeError
            raise MediaError(f"its video track cannot be decoded ({_short(error, path)})", stage="video") from error
        return _all_of(chosen, wanted_T)

    def wave(self, path: Path, container: Container) -> NDArray[np.float32]:
        import decord

        if container.audio_tracks > 1:
            raise MediaError(
                f"it has {container.audio_tracks} audio tracks, and decord does not say which one it reads; "
                "use the decoder `pyav`",
                stage="audio",
            )
        try:
            # Neither decord's resampling (a delay in 0.6) nor mono=False (uninitialised memory in old versions); and
            # not its add_padding, after which `[:]` loses as many samples at the end as were added in front.
            reader = decord.AudioReader(str(path), ctx=decord.cpu(0), sample_rate=-1, mono=True)
            wave: NDArray[np.float32] = reader[:].asnumpy()[0].astype(np.float32)
        except Exception as error:
            raise MediaError(f"its audio track cannot be decoded ({_short(error, path)})", stage="audio") from error
        return wave


class PyAVDecoder:
    """PyAV, one thread; the stricter of the two on damaged audio."""

    name = "pyav"

    def frames(self, path: Path, wanted_T: Sequence[int], count: int) -> list[NDArray[np.uint8]]:
        import av

        wanted = set(wanted_T)
        chosen: list[NDArray[np.uint8]] = []
        try:
            with av.open(str(path)) as file:
                stream = file.streams.best("video")
                stream.codec_context.thread_count = 1
                for number, frame in enumerate(file.decode(stream)):
                    if number >= count:
                        break
                    if number in wanted:
                        # FFmpeg leaves rotation to the player; decord applies it.
                        upright = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
                        chosen.append(np.ascontiguousarray(upright))
        except (av.FFmpegError, ValueError) as error:
            raise MediaError(f"its video track cannot be decoded ({_short(error, path)})", stage="video") from error
        return _all_of(chosen, wanted_T)

    def wave(self, path: Path, container: Container) -> NDArray[np.float32]:  # noqa: ARG002  # the seam's shape
        import av

        parts: list[NDArray[np.float32]] = []
        try:
            with av.open(str(path)) as file:
                stream = file.streams.best("audio")
                stream.codec_context.thread_count = 1
                to_mono = av.AudioResampler(format="fltp", layout="mono", rate=stream.rate)
                for frame in file.decode(stream):
                    parts += [mixed.to_ndarray()[0] for mixed in to_mono.resample(frame)]
                if parts:
                    parts += [mixed.to_ndarray()[0] for mixed in to_mono.resample(None)]
        except (av.FFmpegError, ValueError) as error:
            raise MediaError(f"its audio track cannot be decoded ({_short(error, path)})", stage="audio") from error
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def decoder_named(name: DecoderName) -> Decoder:
    match name:
        case "decord":
            return DecordDecoder()
        case "pyav":
            return PyAVDecoder()


def decoder_version(name: DecoderName) -> str:
    """Distribution and version, without importing it; part of a store's fingerprint.

    Raises:
        StoreError: the backend is not installed, or decord and decord2 overwrite each other's files.
    """
    if name == "pyav":
        return f"av {importlib.metadata.version('av')}"
    found = {dist: version for dist in ("decord", "decord2") if (version := _version(dist)) is not None}
    if len(found) == 2:
        raise StoreError(
            "`decord` and `decord2` share one import name, so only one may be installed, but both are. "
            "Run `pip uninstall decord decord2` and then `pip install decord2`."
        )
    if not found:
        raise StoreError("the decoder `decord` is not installed. Run `pip install decord2`, or use the decoder `pyav`.")
    ((dist, version),) = found.items()
    return f"{dist} {version}"


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _all_of(chosen: list[NDArray[np.uint8]], wanted_T: Sequence[int]) -> list[NDArray[np.uint8]]:
    if len(chosen) < len(wanted_T):
        raise MediaError(f"its video track ends before frame {wanted_T[len(chosen)]}", stage="video")
    return chosen


def _short(error: BaseException, path: Path) -> str:
    # decord puts clock times and thread addresses in its messages; a report must be the same in two builds.
    text: Any = str(error).splitlines()[0] if str(error) else ""
    text = re.sub(r"\[\d\d:\d\d:\d\d\]\s*|\S*/project/src/", "", text.replace(str(path), path.name))
    return f"{type(error).__name__}: {text[:120]}".rstrip(": ")
