"""Faults found in real corpora: every decoder returns correct arrays, or raises an error with the right reason"""

import dataclasses
import os
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from remix_study.errors import MediaError
from remix_study.media.audio import cut
from remix_study.media.checks import Checks, check_file
from remix_study.media.clip import decode_clip
from remix_study.media.container import probe
from remix_study.media.decoders import DECODERS, DecoderName, decoder_named
from remix_study.media.pixels import to_rgb
from remix_study.media.presets import PRESETS
from remix_study.media.source import source_at
from remix_study.sample import Clip, SampleId
from tests.corrupt_media import FAULTS, LFS, Fault, Picture, picture_of, sound_of, write_clip
from tests.decoders import installed

pytestmark = pytest.mark.slow  # some 370 clips in two decoders: ten seconds and more together

USABLE = [
    pytest.param(name, marks=pytest.mark.slow) if name == "large" else name
    for name, fault in FAULTS.items()
    if fault.reason is None
]
UNUSABLE = [name for name, fault in FAULTS.items() if fault.reason is not None]


def decoded(path: Path, decoder: DecoderName) -> Any:
    clip = Clip(SampleId("a"), {"audio": path.name, "video": path.name}, "x", "train")
    return decode_clip(clip, source_at(path.parent), PRESETS["tiny"], decoder_named(decoder), Checks())


def sequential(path: Path) -> list[NDArray[np.uint8]]:
    """Return every frame, read sequentially with plain PyAV."""
    with av.open(f"file:{path}") as file:
        return [to_rgb(frame) for frame in file.decode(file.streams.best("video"))]


def heard(path: Path) -> NDArray[np.float32]:
    with av.open(f"file:{path}") as file:
        track = file.streams.best("audio")
        to_mono = av.AudioResampler(format="fltp", layout="mono", rate=track.rate)
        frames = [mixed for frame in [*file.decode(track), None] for mixed in to_mono.resample(frame)]
        return np.concatenate([frame.to_ndarray()[0] for frame in frames])


TURNS = {"": 0, "90": -1, "180": 2, "270": 1}  # quarter turns to the left


def upright(frame: NDArray[np.uint8], how: str) -> NDArray[np.uint8]:
    return frame[:, ::-1] if how == "mirror" else np.rot90(frame, TURNS[how])


def numbers_of(frames: list[NDArray[np.uint8]], track: Picture, how: str) -> list[int]:
    """Return the number of the encoded image that each frame resembles most."""
    step = -(-track.size[0] // 128)

    def small(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
        grey: NDArray[np.float64] = picture[::step, ::step].mean(axis=2)
        return grey

    encoded = np.stack([small(upright(picture_of(number, track), how)) for number in range(track.frames)])
    return [int(np.argmin(np.abs(encoded - small(frame)).mean(axis=(1, 2)))) for frame in frames]


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", UNUSABLE)
def test_an_unusable_clip_raises_with_its_reason(name: str, decoder: DecoderName, tmp_path: Path) -> None:
    path = FAULTS[name].make(tmp_path)
    with pytest.raises(MediaError) as refused:
        decoded(path, decoder)
    assert refused.value.stage == FAULTS[name].reason
    assert str(tmp_path) not in str(refused.value)  # the report must not depend on where the corpus is


@pytest.fixture(scope="module", params=USABLE)
def usable(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Fault, Path]:
    fault = FAULTS[request.param]
    return fault, fault.make(tmp_path_factory.mktemp("fault"))


@pytest.mark.parametrize("decoder", DECODERS)
class TestUsableClips:
    def test_a_clip_is_decoded(self, usable: tuple[Fault, Path], decoder: DecoderName) -> None:
        fault, path = usable
        clip = decoded(path, decoder)
        assert clip.rows["video"].shape == (1, 16, 16, 3)
        assert clip.rows["audio"].shape == (32, 32)
        assert clip.meta["frames"] == fault.picture.frames - fault.first

    def test_frames_match_sequential_reading(self, usable: tuple[Fault, Path], decoder: DecoderName) -> None:
        fault, path = usable
        container = probe(path)
        assert container.frame_times_F is not None
        count = len(container.frame_times_F)
        frames = decoder_named(decoder).frames(path, range(count), count)
        truth = [upright(frame, fault.turn) for frame in sequential(path)]
        assert len(frames) == len(truth) == count == fault.picture.frames - fault.first
        for frame, true in zip(frames, truth, strict=True):
            np.testing.assert_array_equal(frame, true)
        assert numbers_of(frames, fault.picture, fault.turn) == list(range(fault.first, fault.picture.frames))

    def test_audio_matches_sequential_reading_and_starts_on_time(
        self, usable: tuple[Fault, Path], decoder: DecoderName
    ) -> None:
        fault, path = usable
        container = probe(path)
        assert container.audio_rate is not None
        assert container.duration_s is not None
        wave = decoder_named(decoder).wave(path, container)
        np.testing.assert_allclose(wave, heard(path), atol=1e-5)
        placed = cut(wave, container.audio_rate, container.audio_start_s, None, None)
        assert len(placed) / container.audio_rate == pytest.approx(container.duration_s, abs=0.13)
        if fault.sound is None:
            return
        assert container.audio_rate == fault.sound.rate
        assert container.frame_times_F is not None
        late_s = lag(placed, sound_of(fault.sound), fault.sound.rate) - container.frame_times_F[0]
        assert late_s == pytest.approx(fault.late_s, abs=0.012)  # Opus delays by 6.5 ms


def test_frame_times_match_the_encoded_times(usable: tuple[Fault, Path]) -> None:
    fault, path = usable
    times_F = probe(path).frame_times_F
    assert times_F is not None
    given = np.array(fault.picture.times or range(0, 10 * fault.picture.frames, 10)) / 100
    first = 1 if fault.late_s else 0  # AVI skips one frame to compensate for an encoder's delay
    steps = np.diff(given[fault.first :])
    assert np.diff(times_F)[first:] == pytest.approx(steps[first:], abs=0.002)
    assert 0 <= times_F[0] < 0.08  # MPEG and FLV encode an audio encoder's delay by starting the video late


def lag(wave: NDArray[np.float32], truth: NDArray[np.float64], rate: int) -> float:
    """Return the delay of `wave` in seconds, from its correlation with the true waveform."""
    size = 2 ** int(np.ceil(np.log2(len(wave) + len(truth))))
    product = np.fft.rfft(wave, size) * np.conj(np.fft.rfft(truth, size))
    shift = int(np.argmax(np.fft.irfft(product, size)))
    return (shift - size if shift > size // 2 else shift) / rate


def test_a_file_without_read_permission_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(LFS)
    path.chmod(0)
    if os.geteuid() == 0:  # root can read every file

        def refuse(*_: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(MediaError, match=r"cannot be read \(Permission denied\)") as refused:
        check_file(path)
    assert refused.value.stage == "unreadable"


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_clip_that_needs_too_much_memory_raises(
    decoder: DecoderName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = FAULTS["plain"].make(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise av.MemoryError(12, "Cannot allocate memory")

    monkeypatch.setattr(av, "open", refuse)
    for read in (lambda: probe(path), lambda: decoder_named(decoder).frames(path, [0], 1)):
        with pytest.raises(MediaError) as refused:
            read()
        assert refused.value.stage == "memory"


def test_a_playlist_opens_no_other_file(tmp_path: Path) -> None:
    FAULTS["plain"].make(tmp_path).rename(tmp_path / "b.mp4")
    with pytest.raises(MediaError, match="none of the containers that are read"):
        probe(FAULTS["playlist"].make(tmp_path))


def test_frames_hidden_by_an_edit_list_are_skipped_by_both_decoders(tmp_path: Path) -> None:
    from tests.corrupt_media import edited, write_clip

    path = edited(write_clip(tmp_path / "a.mp4", [Picture(b_frames=2, options={"g": "10"})], []), 7)
    container = probe(path)
    assert container.frame_times_F is not None
    assert len(container.frame_times_F) == 13
    for decoder in installed():
        frames = decoder_named(decoder).frames(path, range(13), 13)
        assert numbers_of(frames, Picture(), "") == list(range(7, 20))


def test_a_missing_last_frame_raises(tmp_path: Path) -> None:
    path = FAULTS["plain"].make(tmp_path)
    for decoder in installed():
        with pytest.raises(MediaError, match="ends after 20 of 21 frames"):
            decoder_named(decoder).frames(path, [3], 21)


def test_a_raw_stream_has_no_stated_duration(tmp_path: Path) -> None:
    from tests.corrupt_media import Sound, write_clip

    path = write_clip(tmp_path / "a.aac", [], [Sound()], format="adts")
    assert dataclasses.replace(probe(path), audio_start_s=0.0).duration_s is None


def test_an_encoder_leaves_the_priority_of_the_tests_as_it_is(tmp_path: Path) -> None:
    """SVT-AV1 makes the process of root a real-time one: the other tests of the machine then hardly ran."""
    before = os.sched_getscheduler(0)
    write_clip(tmp_path / "a.mkv", [Picture("libsvtav1", size=(64, 64))], [])
    assert {os.sched_getscheduler(int(thread.name)) for thread in Path("/proc/self/task").iterdir()} == {before}


def test_docs_list_the_outcome_of_every_fault() -> None:
    page = (Path(__file__).parents[3] / "docs" / "faults.md").read_text(encoding="utf-8")
    for name, fault in FAULTS.items():
        outcome = "| decoded |  |" if fault.reason is None else f"| excluded | `{fault.reason}` |"
        assert f"| {name} {outcome}" in page
