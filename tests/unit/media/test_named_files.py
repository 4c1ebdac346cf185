"""Paths that name no usable file, containers that are read or named, and the file that a quarantine names"""

import json
from pathlib import Path

import numpy as np
import pytest

from remix_study.datasets.check import check_clips
from remix_study.datasets.corpus import Found
from remix_study.errors import MediaError, StoreError
from remix_study.media.build import build_store
from remix_study.media.checks import Checks, check_file
from remix_study.media.clip import DecodedClip, decode_clip
from remix_study.media.decoders import DECODERS, DecoderName, decoder_named
from remix_study.media.partial import RowStatus
from remix_study.media.plan import plan_store
from remix_study.media.presets import AUDIO_FRONT_ENDS, FeaturePreset, FlowPreset, Preset, VideoPreset
from remix_study.media.publish import check_quarantine
from remix_study.media.source import source_at
from remix_study.sample import Clip, SampleId
from tests.corrupt_media import jpeg, write_clip

SOUND = AUDIO_FRONT_ENDS["tiny"]
PICTURES = VideoPreset(2, 24, 32, "area")


def decoded(
    root: Path, paths: dict[str, str], decoder: DecoderName = "pyav", video: VideoPreset | FlowPreset = PICTURES
) -> DecodedClip:
    kinds = {"audio": SOUND, "video": video, "flow": video, "text": FeaturePreset("vector", (5,))}
    preset = Preset("p", {m: kinds[m] for m in paths})
    return decode_clip(
        Clip(SampleId("a"), paths, "x", "train"), source_at(root), preset, decoder_named(decoder), Checks()
    )


def refusal(root: Path, paths: dict[str, str], video: VideoPreset | FlowPreset = PICTURES) -> MediaError:
    with pytest.raises(MediaError) as refused:
        decoded(root, paths, video=video)
    return refused.value


# --- containers ------------------------------------------------------------------------------------------------------


def sphere(samples: bytes, coding: str, width: int, order: str, rate: int = 16000) -> bytes:
    """A NIST SPHERE file of one channel."""
    fields = {
        "channel_count -i": 1, "sample_rate -i": rate, "sample_count -i": len(samples) // width,
        "sample_n_bytes -i": width, f"sample_byte_format -s{len(order)}": order,
        f"sample_coding -s{len(coding)}": coding,
    }  # fmt: skip
    head = "NIST_1A\n   1024\n" + "".join(f"{key} {value}\n" for key, value in fields.items()) + "end_head\n"
    return head.encode().ljust(1024) + samples


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("order", ["01", "10"])
def test_nist_sphere_is_read(tmp_path: Path, order: str, decoder: DecoderName) -> None:
    tone = np.rint(9000 * np.sin(np.arange(16000) * 2 * np.pi * 440 / 16000))
    (tmp_path / "a.sph").write_bytes(sphere(tone.astype("<i2" if order == "01" else ">i2").tobytes(), "pcm", 2, order))
    row = decoded(tmp_path, {"audio": "a.sph"}, decoder)
    assert row.meta == {"audio_s": 1.0, "audio_rate": 16000}
    low, high = (int(row.rows["audio"].astype(float).mean(1)[part].max() > -5) for part in (slice(16), slice(16, None)))
    assert (low, high) == (1, 0)


def test_nist_sphere_of_telephone_speech_is_read_and_a_compressed_one_is_named(tmp_path: Path) -> None:
    law = np.random.default_rng(0).integers(0, 256, 8000, dtype=np.uint8).tobytes()
    (tmp_path / "a.sph").write_bytes(sphere(law, "ulaw", 1, "1", rate=8000))
    assert decoded(tmp_path, {"audio": "a.sph"}).meta["audio_rate"] == 8000
    (tmp_path / "b.sph").write_bytes(sphere(law, "ulaw,embedded-shorten-v2.00", 1, "1", rate=8000))
    assert "convert" in str(refusal(tmp_path, {"audio": "b.sph"}))


@pytest.mark.parametrize(
    "content",
    [
        b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\na.ts\n",
        b"Creative Voice File\x1a\x1a\0\x0a\x01\x29\x11" + bytes(900),
        b"#!AMR-NB is not this" + bytes(900),
        b"\x64\xa3\x01\0" + bytes(900),
    ],
)
def test_a_container_that_is_not_read_is_refused_with_the_remedy(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    refused = refusal(tmp_path, {"audio": "a.wav"})
    assert refused.stage in ("format", "open")
    assert refused.stage == "open" or "ffmpeg -i" in str(refused)


# --- folders and patterns --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("modality", ["audio", "text"])
def test_a_folder_as_file_is_refused_with_the_remedy(tmp_path: Path, modality: str) -> None:
    (tmp_path / "clips").mkdir()
    refused = refusal(tmp_path, {modality: "clips"})
    assert refused.stage == "not-a-file"
    assert "give each of its files a line of its own" in str(refused)


def test_a_folder_of_videos_as_video_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips/a.mp4").touch()
    assert "give each video a line of its own" in str(refusal(tmp_path, {"video": "clips"}))


@pytest.mark.parametrize(
    "pattern", ["*.mp4", "clips/*/a.mp4", "a?.wav", "a[0-9].wav", "{a,b}.mp4", "f%03d.png", "%d.png"]
)
@pytest.mark.parametrize("modality", ["audio", "video"])
def test_a_pattern_is_refused_with_the_remedy(tmp_path: Path, pattern: str, modality: str) -> None:
    (tmp_path / "clips").mkdir()
    refused = refusal(tmp_path, {modality: pattern})
    assert refused.stage == "missing"
    assert "patterns are not expanded" in str(refused)


@pytest.mark.parametrize("name", ["gone.mp4", "100%.mp4", "a (1).wav", "a[.wav"])
def test_a_missing_file_with_a_plain_name_is_only_missing(tmp_path: Path, name: str) -> None:
    with pytest.raises(MediaError, match=r"no such file$"):
        check_file(tmp_path / name)


def test_a_build_that_fails_gives_the_first_reason(tmp_path: Path) -> None:
    clips = [Clip(SampleId(f"c{n}"), {"audio": "*.wav"}, "x", "train") for n in range(3)]
    plan = plan_store(clips, source_at(tmp_path), Preset("p", {"audio": SOUND}), "pyav", Checks())
    bad = [RowStatus(row=row, stage="missing", message="no file", path="*.wav", meta={}) for row in range(3)]
    with pytest.raises(StoreError, match=r"3 of 3 \(3 missing\).* such as c0: no file\. .*quarantine.jsonl lists them"):
        check_quarantine(plan, bad, 0.5, tmp_path / "quarantine.jsonl")


# --- the file that cannot be used ------------------------------------------------------------------------------------


def test_the_unusable_file_of_a_clip_is_named(tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    write_clip(tmp_path / "good/a.mp4")
    for number in range(3):
        (tmp_path / f"frames/{number}.jpg").parent.mkdir(exist_ok=True)
        (tmp_path / f"frames/{number}.jpg").write_bytes(jpeg((64, 48))[: 400 if number == 2 else None])
    (tmp_path / "bad.jpg").write_bytes(jpeg()[:500])
    np.save(tmp_path / "short.npy", np.zeros(3, np.float32))
    for paths, bad in (
        ({"audio": "good/a.mp4", "video": "bad.jpg"}, "bad.jpg"),
        ({"audio": "good/a.mp4", "video": "frames"}, "frames/2.jpg"),
        ({"audio": "gone.wav", "video": "good/a.mp4"}, "gone.wav"),
        ({"audio": "good/a.mp4", "text": "short.npy"}, "short.npy"),
    ):
        assert refusal(tmp_path, paths).path == Path(bad)


def test_the_unusable_image_of_optical_flow_is_named(tmp_path: Path) -> None:
    for direction in "uv":
        (tmp_path / f"flow/{direction}/clip").mkdir(parents=True)
        for number in range(2):
            image = jpeg((64, 48))[: 400 if (direction, number) == ("v", 1) else None]
            (tmp_path / f"flow/{direction}/clip/{number}.jpg").write_bytes(image)
    part = FlowPreset(2, 24, 32, source="given")
    assert refusal(tmp_path, {"flow": "flow/u/clip"}, part).path == Path("flow/v/clip/1.jpg")


@pytest.mark.slow
def test_check_and_quarantine_name_the_unusable_file(tmp_path: Path) -> None:
    clips = []
    for number in range(3):
        write_clip(tmp_path / f"{number}.mp4", pictures=())
        (tmp_path / f"{number}.jpg").write_bytes(jpeg((64, 48))[: 400 if number == 1 else None])
        clips.append(Clip(SampleId(f"c{number}"), {"audio": f"{number}.mp4", "video": f"{number}.jpg"}, "x", "train"))
    preset = Preset("p", {"audio": SOUND, "video": PICTURES})
    report = check_clips("n", Found(tuple(clips), {}), source_at(tmp_path), preset, workers=1)
    assert [(bad.id, bad.path) for bad in report.bad] == [("c1", "1.jpg")]
    build_store(
        clips, tmp_path, tmp_path / "out", preset=preset, name="n", manifest_digest="", workers=1, max_bad_fraction=0.5
    )
    (line,) = (tmp_path / "out/store/quarantine.jsonl").read_text().splitlines()
    assert (json.loads(line)["id"], json.loads(line)["path"]) == ("c1", "1.jpg")
