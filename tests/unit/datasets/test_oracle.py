import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from remix_study.datasets.oracle import log_likelihoods, log_posterior, oracle
from remix_study.datasets.synthetic import (
    CONTRAST,
    LOUDNESS,
    SyntheticSpec,
    clip_of,
    grating,
    signals_of,
    spec_of,
    tone,
    travelling,
)
from remix_study.seeds import stream

# So noisy that a likelihood is smooth in frequency and phase, and some thousand drawn signals cover it.
NOISY = SyntheticSpec(
    test=24, classes=3, audio_snr_db=(-38, -34), video_snr_db=(-22, -14), sensor_snr_db=(-18, -8), muted=0.2, blind=0.2,
    sensor=True, seed=5,
)  # fmt: skip


def scaled(modality: str, signal: NDArray[Any]) -> NDArray[np.floating]:
    """The values of a signal, with a pattern of unit RMS."""
    match modality:
        case "audio":
            return np.asarray(signal / LOUDNESS, float)
        case "video":
            return np.ravel((signal[4] - 128.0) / CONTRAST)
        case _:
            return np.asarray(signal, float).ravel()


def clean_signals(modality: str, label: int, classes: int, count: int) -> NDArray[np.floating]:
    """(count, values) of the renderers themselves, almost without noise."""
    draws = [stream(7, f"{modality} {label}", number) for number in range(count)]
    signals: list[NDArray[Any]]
    match modality:
        case "audio":
            signals = [tone(draw, label, classes, snr_db=60, muted=False) for draw in draws]
        case "video":
            signals = [grating(draw, label, classes, snr_db=60) for draw in draws]
        case _:
            signals = [travelling(draw, label, classes, snr_db=60) for draw in draws]
    return np.stack([scaled(modality, signal) for signal in signals])


@pytest.mark.parametrize(
    ("modality", "count"), [("sensor", 1500), ("video", 1500), pytest.param("audio", 1200, marks=pytest.mark.slow)]
)
def test_likelihoods_agree_with_those_of_drawn_signals(modality: str, count: int) -> None:
    drawn = [clean_signals(modality, label, NOISY.classes, count) for label in range(NOISY.classes)]
    errors, spread = [], []
    for number in range(NOISY.test):
        truth = clip_of(NOISY, "test", number).truth
        assert isinstance(truth["informative"], dict)
        found_C = log_likelihoods(NOISY, "test", number)[modality]
        if not truth["informative"][modality]:
            assert (found_C == 0).all()
            continue
        values_N = scaled(modality, signals_of(NOISY, "test", number)[modality])
        variance = 10 ** (-float(str(truth[f"{modality}_snr_db"])) / 10)
        log_CK = np.array([(each @ values_N - (each**2).sum(axis=1) / 2) / variance for each in drawn], dtype=float)
        expected_C = np.logaddexp.reduce(log_CK, axis=1) - math.log(count)
        errors += list(found_C - expected_C)
        spread += list(expected_C)
    assert np.abs(errors).max() < 0.3 * np.std(spread), (np.abs(errors).max(), np.std(spread))


def test_the_probability_of_a_pair_sums_over_all_combinations() -> None:
    spec = SyntheticSpec(classes=4, sensor=True, interaction="xor")
    logs = {m: stream(1, m).standard_normal(4) for m in spec.modalities}
    of = {m: np.exp(each) for m, each in logs.items()}
    for subset in (("audio",), ("audio", "sensor"), spec.modalities):
        expected = [math.prod(of[m][label] for m in subset) for label in (0, 1)]
        for second in (0, 1):
            total = 0.0
            for bits in [(a, b, (second + a + b) % 2) for a in (0, 1) for b in (0, 1)]:
                shown = dict(zip(spec.modalities, bits, strict=True))
                total += math.prod(of[m][2 + shown[m]] for m in subset) / 4
            expected.append(total)
        found = log_posterior(spec, {m: logs[m] for m in subset})
        np.testing.assert_allclose(np.exp(found), expected)


def test_without_noise_the_oracle_errs_only_where_a_modality_shows_nothing() -> None:
    spec = SyntheticSpec(test=40, muted=0.3, blind=0.2, audio_snr_db=(10, 15), video_snr_db=(10, 15))
    truth = [clip_of(spec, "test", number).truth["informative"] for number in range(40)]
    found = oracle(spec).accuracy
    for m in ("audio", "video"):
        shows = np.mean([each[m] for each in truth if isinstance(each, dict)])
        assert found[m] == pytest.approx(shows + (1 - shows) / 8)
    assert found["all"] == 1
    assert oracle(spec, ("video",)).accuracy == {"video": found["video"]}


def test_one_modality_is_at_chance_between_the_classes_of_a_pair() -> None:
    spec = spec_of("xor", muted=0.0, test=24, audio_snr_db=(10, 15), video_snr_db=(10, 15))
    for number in (number for number in range(24) if number % 8 >= 4):
        logs = log_likelihoods(spec, "test", number)
        first = number % 8 // 2 * 2
        for m in spec.modalities:
            log_C = log_posterior(spec, {m: logs[m]})
            assert log_C[first] == log_C[first + 1] == log_C.max()
        assert log_posterior(spec, logs).argmax() == number % 8
    assert oracle(spec).plain() == {"accuracy": {"audio": 0.75, "video": 0.75, "all": 1.0}, "clips": 24}


def test_more_frames_tell_more() -> None:
    spec = SyntheticSpec(test=40, classes=3, video_snr_db=(-18, -18))
    one, two = (oracle(spec, ("video",), frames).accuracy["video"] for frames in ((4,), (2, 6)))
    assert two > one + 0.05
