import dataclasses
import hashlib
import itertools
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from remix_study.datasets.corpus import prepare_synthetic
from remix_study.datasets.manifest import read_manifest, row_of_clip
from remix_study.datasets.synthetic import (
    RECIPES,
    SyntheticSpec,
    clip_of,
    grating,
    render,
    signals_of,
    spec_of,
    tone,
    travelling,
    write_clip,
)
from remix_study.datasets.truth import informative, informative_NM
from remix_study.errors import ConfigError, StoreError
from remix_study.media.container import probe
from remix_study.media.decoders import PyAVDecoder
from remix_study.media.presets import VIDEO_FRONT_ENDS
from remix_study.media.video import resize
from remix_study.seeds import stream

SPEC = SyntheticSpec(train=6, val=3, test=3, classes=3, muted=0.5, seed=4)
EARLIER = ("train", "val", "test", "classes", "audio_snr_db", "video_snr_db", "muted", "seed")


def truths(spec: SyntheticSpec, count: int, split: str = "train") -> list[dict[str, Any]]:
    return [dict(clip_of(spec, split, number).truth) for number in range(count)]


@pytest.mark.slow
def test_an_interrupted_rendering_resumes_and_keeps_finished_clips(tmp_path: Path) -> None:
    manifest = render(tmp_path, SPEC, workers=2)
    clips = sorted(tmp_path.rglob("*.mp4"))
    assert len(clips) == 12
    before = {clip: clip.read_bytes() for clip in clips}
    manifest.unlink()
    clips[3].unlink()
    os.utime(clips[0], (1, 1))
    seen: list[tuple[int, int]] = []
    render(tmp_path, SPEC, workers=2, progress=lambda *counts: seen.append(counts))
    assert seen == [(11, 12), (12, 12)]
    assert clips[0].stat().st_mtime == 1
    assert {clip: clip.read_bytes() for clip in clips} == before


def test_specs_of_version_0_1_keep_their_clips() -> None:
    rows, signals = hashlib.sha256(), hashlib.sha256()
    for split, number in [(each, n) for each in ("train", "val", "test") for n in range(SPEC.count(each))]:
        rows.update((json.dumps(row_of_clip(clip_of(SPEC, split, number))) + "\n").encode())
        found = signals_of(SPEC, split, number)
        signals.update(found["video"].tobytes() + (found["audio"] * 1000).round().astype(np.int16).tobytes())
    # Of version 0.1, whose files had the same bytes as those of this version.
    assert rows.hexdigest() == "8871fe64102f52e92b7f40cee6bb5ea230c1171b30b12467bd1297da094b73fd"
    assert signals.hexdigest() == "887a23c8b7c656bcd1b3328e9711c33157f669cc1433cca97d6dfc5d8f20806a"


def test_another_spec_in_the_same_folder_raises_and_one_of_version_0_1_does_not(tmp_path: Path) -> None:
    before = render(tmp_path, SPEC, workers=1).read_bytes()
    recorded = json.loads((tmp_path / "synthetic.json").read_text())
    (tmp_path / "synthetic.json").write_text(json.dumps({key: recorded[key] for key in EARLIER}))
    assert render(tmp_path, SPEC, workers=1).read_bytes() == before
    with pytest.raises(StoreError, match=r"blind 0\.0 \(wanted 0\.25\)"):
        render(tmp_path, dataclasses.replace(SPEC, blind=0.25), workers=1)
    (tmp_path / "synthetic.json").write_text(json.dumps(recorded | {"rain": True}))
    with pytest.raises(StoreError, match=r"rain True \(wanted None\)"):
        render(tmp_path, SPEC, workers=1)
    (tmp_path / "synthetic.json").write_text(json.dumps(recorded))
    other = SyntheticSpec(train=6, val=3, test=3, classes=3, muted=0.1, seed=4)
    with pytest.raises(StoreError, match=r"muted 0\.5 \(wanted 0\.1\)"):
        render(tmp_path, other, workers=1)


def test_truth_and_balance_are_as_specified(tmp_path: Path) -> None:
    clips = read_manifest(render(tmp_path, SPEC, workers=2))
    assert {clip.split: sum(other.split == clip.split for other in clips) for clip in clips} == {
        "train": 6,
        "val": 3,
        "test": 3,
    }
    assert {sum(clip.label == label for clip in clips) for label in {clip.label for clip in clips}} == {4}
    for clip in clips:
        assert isinstance(clip.truth["muted"], bool)
        assert 0 <= float(str(clip.truth["audio_snr_db"])) <= 15
        assert -8 <= float(str(clip.truth["video_snr_db"])) <= 2


def test_compression_keeps_signal_and_noise(tmp_path: Path) -> None:
    draw = stream(0, "test")
    frames = grating(draw, 1, 8, snr_db=-5)
    wave = tone(draw, 6, 8, snr_db=5, muted=False)
    write_clip(tmp_path / "a.mp4", frames, wave)
    container = probe(tmp_path / "a.mp4")
    preset = VIDEO_FRONT_ENDS["tiny"]
    decoded = [resize(frame, preset)[..., 0] for frame in PyAVDecoder().frames(tmp_path / "a.mp4", range(8), 8)]
    assert np.corrcoef(np.stack(decoded).ravel(), frames.ravel())[0, 1] > 0.99
    heard = PyAVDecoder().wave(tmp_path / "a.mp4", container)[:8000]
    assert np.corrcoef(heard, wave)[0, 1] > 0.98


def test_a_tone_is_in_its_band_at_its_snr() -> None:
    edges = np.geomspace(200, 1700, 9)
    for label in range(8):
        wave = tone(stream(1, "tone", label), label, 8, snr_db=60, muted=False)
        peak = np.abs(np.fft.rfft(wave)).argmax()
        assert edges[label] - 1 <= peak <= edges[label + 1] + 1
    clean, noisy = (tone(stream(1, "tone"), 2, 8, snr_db=snr, muted=False) for snr in (60.0, 3.0))
    assert 10 * np.log10(np.var(clean) / np.var(noisy - clean)) == pytest.approx(3, abs=0.3)
    muted = tone(stream(1, "tone"), 2, 8, snr_db=3, muted=True)
    assert np.var(noisy) / np.var(muted) == pytest.approx(1 + 10**0.3, rel=0.1)


def test_a_grating_has_its_angle() -> None:
    for label in range(8):
        picture = grating(stream(2, "grating", label), label, 8, snr_db=40)[0].astype(float)
        spectrum = np.abs(np.fft.fftshift(np.fft.fft2(picture - picture.mean(), (64, 64))))
        y, x = np.unravel_index(spectrum.argmax(), spectrum.shape)
        angle = np.degrees(np.arctan2(y - 32, x - 32)) % 180
        away = abs(angle - 180 * label / 8)
        assert min(away, 180 - away) < 10


def test_all_invalid_values_of_a_spec_are_listed() -> None:
    with pytest.raises(ConfigError, match=r"`val` must be at least.*`muted` must be.*`audio_snr_db` must be"):
        SyntheticSpec(val=3, muted=2, audio_snr_db=(5, 1))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"blind": 1.5}, "`blind` must be between 0 and 1, but is 1.5."),
        (
            {"muted": 0.6, "blind": 0.5},
            "`muted` and `blind` must add up to at most 1, because a clip is only noise in one",
        ),
        ({"label_noise": 0.9}, "`label_noise` must be between 0 and 1 - 1 / classes (0.875)"),
        ({"sensor": True, "sensor_snr_db": (3.0, 1.0)}, "`sensor_snr_db` must be (low, high) within -60..60 dB"),
        ({"sensor_off": 0.1}, "`sensor_off` needs `sensor`."),
        ({"interaction": "and"}, "`interaction` must be none or xor, but is 'and'."),
        ({"interaction": "xor", "classes": 2}, "`interaction: xor` needs at least 4 `classes`"),
        ({"recipe": "dumb"}, "`recipe` must be one of demo, muted, blind, xor, three, but is 'dumb'."),
    ],
)
def test_an_option_that_cannot_be_is_one_sentence(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        spec_of(**options)
    assert said in str(caught.value)


def test_an_option_beside_a_recipe_replaces_that_of_the_recipe() -> None:
    assert spec_of("muted", train=50) == SyntheticSpec(train=50, video_snr_db=(-11, -1), muted=0.3)
    assert spec_of("muted", muted=0.0).muted == 0
    assert spec_of() == SyntheticSpec()
    assert {name: spec_of(name) for name in RECIPES}.keys() == {"demo", "muted", "blind", "xor", "three"}


@pytest.mark.parametrize("turned", [{"muted": 0.5}, {"label_noise": 0.5}, {"sensor_off": 0.2}, {"interaction": "xor"}])
def test_an_option_changes_nothing_else(turned: dict[str, Any]) -> None:
    base = SyntheticSpec(train=40, blind=0.2, sensor=True)
    own = {"muted": {"muted", "informative"}, "label_noise": {"clean_label"}, "sensor_off": {"informative"}}
    changed = own.get(next(iter(turned)), {"shown"})
    for before, after in zip(truths(base, 40), truths(dataclasses.replace(base, **turned), 40), strict=True):
        assert {key for key in before | after if before.get(key) != after.get(key)} <= changed


def test_a_clip_is_only_noise_in_at_most_one_modality_and_as_often_as_the_options_say() -> None:
    spec = SyntheticSpec(train=3000, muted=0.2, blind=0.1, sensor=True, sensor_off=0.3)
    noise_only = Counter(
        m for truth in truths(spec, spec.train) for m, shows in truth["informative"].items() if not shows
    )
    assert {m: round(count / spec.train, 1) for m, count in noise_only.items()} == {
        "audio": 0.2,
        "video": 0.1,
        "sensor": 0.3,
    }
    assert all(sum(truth["informative"].values()) >= 2 for truth in truths(spec, 200))
    assert all(truth["informative"]["audio"] != truth["muted"] for truth in truths(spec, 200))


def test_where_a_modality_is_only_noise_its_signal_is_missing() -> None:
    spec = SyntheticSpec(
        train=60, muted=0.3, blind=0.3, sensor=True, sensor_off=0.3,
        audio_snr_db=(30, 30), video_snr_db=(30, 30), sensor_snr_db=(30, 30),
    )  # fmt: skip
    for number in range(60):
        signals, truth = signals_of(spec, "train", number), clip_of(spec, "train", number).truth["informative"]
        assert isinstance(truth, dict)
        heard = {
            "audio": signals["audio"] / 0.15,
            "video": (signals["video"] - 128.0) / 18,
            "sensor": signals["sensor"],
        }
        assert {m: bool(each.std() > 0.5) for m, each in heard.items()} == truth


def test_label_noise_changes_training_labels_only_and_keeps_the_clean_one() -> None:
    spec = SyntheticSpec(train=2000, val=100, test=100, label_noise=0.25)
    clips = [clip_of(spec, "train", number) for number in range(spec.train)]
    changed = [clip for clip in clips if "clean_label" in clip.truth]
    assert len(changed) / spec.train == pytest.approx(0.25, abs=0.03)
    assert all(clip.truth["clean_label"] != clip.label for clip in changed)
    labels = [clip.truth.get("clean_label", clip.label) for clip in clips]
    assert labels == [clip_of(SyntheticSpec(), "train", number).label for number in range(spec.train)]
    assert (
        len(
            {
                clip.label
                for clip in changed
                if clip.truth["clean_label"] == clips[0].truth.get("clean_label", clips[0].label)
            }
        )
        == 7
    )
    assert not any("clean_label" in truth for split in ("val", "test") for truth in truths(spec, 100, split))


def test_label_noise_that_leaves_a_class_without_training_clips_raises(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="`label_noise` leaves no training clip of tone-and-grating-0"):
        render(tmp_path / "c", SyntheticSpec(train=8, val=8, test=8, label_noise=0.8), workers=1)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("sensor", [False, True])
@pytest.mark.parametrize("classes", [4, 7, 8])
def test_no_proper_subset_of_the_modalities_tells_the_classes_of_a_pair_apart(classes: int, sensor: bool) -> None:
    spec = SyntheticSpec(train=1600, classes=classes, sensor=sensor, interaction="xor")
    assert list(spec.pairs) == {4: [2], 7: [5], 8: [4, 6]}[classes]
    shown = np.array([list(truth["shown"].values()) for truth in truths(spec, spec.train)])
    label_N = np.arange(spec.train) % classes
    assert (shown[label_N < spec.pairs[0]] == label_N[label_N < spec.pairs[0], None]).all()
    for first in spec.pairs:
        bits_NM, second_N = shown[label_N // 2 * 2 == first] - first, label_N[label_N // 2 * 2 == first] - first
        if first % 2:
            pair = (label_N == first) | (label_N == first + 1)
            bits_NM, second_N = shown[pair] - first, label_N[pair] - first
        assert (bits_NM.sum(axis=1) % 2 == second_N).all()
        for size in range(1, len(spec.modalities)):
            for subset in itertools.combinations(range(len(spec.modalities)), size):
                tables = [Counter(map(tuple, bits_NM[second_N == each][:, subset].tolist())) for each in (0, 1)]
                assert len(tables[0]) == 2**size
                assert all(abs(tables[0][key] - tables[1][key]) < 0.2 * tables[0].total() for key in tables[0])


def test_a_wave_reaches_each_sensor_with_the_lag_of_its_class() -> None:
    for label in range(8):
        values_TD = travelling(stream(3, "wave", label), label, 8, snr_db=40).astype(float)
        phase_D = np.angle(np.fft.rfft(values_TD * np.hanning(32)[:, None], 512, axis=0)[16:110])
        steps = np.diff(phase_D[np.abs(np.fft.rfft(values_TD[:, 0] * np.hanning(32), 512)[16:110]).argmax()])
        np.testing.assert_allclose((-steps / (2 * np.pi)) % 1 % 0.99, label / 8, atol=0.05)
    off = travelling(stream(3, "wave"), 2, 8, snr_db=6, off=True)
    assert np.var(off) == pytest.approx(10**-0.6, rel=0.3)


def test_the_truth_of_version_0_1_says_what_is_informative() -> None:
    assert informative({"muted": True, "audio_snr_db": 3.0}) == {"audio": False, "video": True}
    assert informative({"informative": {"audio": True, "video": False}, "muted": False}) == {
        "audio": True,
        "video": False,
    }
    assert informative({"muted": True}) is None
    assert informative({"informative": {"audio": "yes"}}) is None


@pytest.mark.slow
def test_a_store_of_three_modalities_has_the_truth_and_the_card_the_oracle(tmp_path: Path) -> None:
    spec = spec_of("three", train=8, val=4, test=4, classes=4, label_noise=0.2, seed=1)
    store = prepare_synthetic(tmp_path, spec, preset="tiny")
    assert store.modalities == ("audio", "video", "sensor")
    assert store.gather("sensor", store.rows("test")).shape == (4, 32, 4)
    np.testing.assert_array_equal(
        store.gather("sensor", store.rows("train"))[0], signals_of(spec, "train", 0)["sensor"]
    )
    known_NM = informative_NM(store, store.rows("train"), ("video", "sensor"))
    assert known_NM is not None
    assert known_NM.tolist() == [
        [bool(truth["informative"]["video"]), bool(truth["informative"]["sensor"])] for truth in truths(spec, 8)
    ]
    assert informative_NM(store, store.rows("train"), ("video", "smell")) is None
    assert set(store.card["oracle"]["accuracy"]) == {"audio", "video", "sensor", "all"}
    assert store.card["oracle"]["clips"] == 4
    text = (tmp_path / "store" / "card.md").read_text()
    assert "**Options**: video_snr_db -11 to -1, seed 1, label_noise 0.2, sensor True, sensor_off 0.15" in text
    assert "**Oracle**: audio " in text
    assert "**Recipe**" not in text
