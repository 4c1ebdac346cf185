"""How well the classes of a synthetic corpus can be told at best: the accuracy of an oracle

The oracle knows how clips are rendered (datasets/synthetic.py), and of each clip the signal-to-noise ratios and which
modalities are only noise. It does not know the class, nor frequency, phase and drift. It is a bank of matched filters:
the likelihood of a signal in white noise, averaged over these unknowns (Helstrom, Statistical Theory of Signal
Detection, 1960, chapters III and V), with equal priors of the classes. No classifier has a higher expected accuracy on
the same signals. Signals are those before compression, rounding and clipping, and of the video the frames that are
stored. Where classes are equally likely, one of them is drawn, which counts as the probability that it is right.
"""

# C classes, K combinations of unknowns, F frames, P phases, N values of a signal

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from remix_study.datasets.synthetic import (
    BANDS_HZ,
    CONTRAST,
    CYCLES,
    FPS,
    LOUDNESS,
    RATE,
    RATES,
    SENSOR,
    SENSORS,
    SIDE,
    STEPS,
    SyntheticSpec,
    clip_of,
    signals_of,
)
from remix_study.datasets.truth import informative
from remix_study.modality import AUDIO, VIDEO

MOST_CLIPS = 1000  # the standard error of the accuracy is then below 1.6 points
_FINENESS = 4  # frequencies of the audio per hertz
_PHASE_P = 2 * math.pi * np.arange(32) / 32
_IN_PHASE_P, _BEHIND_P = math.sqrt(2) * np.cos(_PHASE_P), math.sqrt(2) * np.sin(_PHASE_P)


class Oracle(NamedTuple):
    """The accuracy of the oracle.

    Attributes:
        accuracy: of each modality alone, and of `all`, in [0, 1].
        clips: number of test clips.
    """

    accuracy: Mapping[str, float]
    clips: int

    def plain(self) -> dict[str, Any]:
        """As JSON data, rounded to four digits."""
        return {"accuracy": {m: round(each, 4) for m, each in self.accuracy.items()}, "clips": self.clips}


def oracle(spec: SyntheticSpec, modalities: Sequence[str] | None = None, frames: Sequence[int] = (FPS // 2,)) -> Oracle:
    """Compute the accuracy of the oracle on the first test clips, at most `MOST_CLIPS`.

    Args:
        modalities: those that are stored; default: all.
        frames: numbers of the stored frames of each video.
    """
    known = spec.modalities if modalities is None else tuple(modalities)
    subsets = {**{m: (m,) for m in known}, **({"all": known} if len(known) > 1 else {})}
    clips = min(spec.test, MOST_CLIPS)
    right = dict.fromkeys(subsets, 0.0)
    for number in range(clips):
        logs = log_likelihoods(spec, "test", number, frames)
        for name, subset in subsets.items():
            log_C = log_posterior(spec, {m: logs[m] for m in subset})
            best_C = log_C == log_C.max()
            right[name] += float(best_C[number % spec.classes] / best_C.sum())
    return Oracle({name: total / clips for name, total in right.items()}, clips)


def log_posterior(spec: SyntheticSpec, logs: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """Log-probability of each class (C,), up to a constant, from the log-likelihoods of patterns by modality.

    A class of a pair shows each combination of patterns with the right parity equally often. A modality that is not
    given may have shown either pattern.
    """
    log_C: NDArray[np.float64] = np.sum(list(logs.values()), axis=0)
    whole = set(logs) == set(spec.modalities)
    for first in spec.pairs:
        even, odd = 0.0, -np.inf  # log-probability that an even or odd number of modalities shows the second pattern
        for each in logs.values():
            one, two = each[first], each[first + 1]
            even, odd = np.logaddexp(even + one, odd + two), np.logaddexp(even + two, odd + one)
        given = len(spec.modalities) - 1 if whole else len(logs)
        either = np.logaddexp(even, odd)
        log_C[first], log_C[first + 1] = (even, odd) if whole else (either, either)
        log_C[first : first + 2] -= given * math.log(2)
    return log_C


def log_likelihoods(
    spec: SyntheticSpec, split: str, number: int, frames: Sequence[int] = (FPS // 2,)
) -> dict[str, NDArray[np.float64]]:
    """Log-likelihood ratio of each pattern (C,) against noise alone, by modality; zeros where there is only noise."""
    truth: Mapping[str, Any] = clip_of(spec, split, number).truth
    shows, signals = informative(truth) or {}, signals_of(spec, split, number)
    filters = {
        AUDIO: lambda noise: _of_wave(signals[AUDIO] / LOUDNESS, noise, spec.classes),
        VIDEO: lambda noise: _of_sines(
            (signals[VIDEO][list(frames)].ravel() - 128.0) / CONTRAST, noise, _gratings(spec.classes, tuple(frames))
        ),
        SENSOR: lambda noise: _of_sines(signals[SENSOR].ravel(), noise, _waves(spec.classes)),
    }
    return {
        m: filters[m](10 ** (-truth[f"{m}_snr_db"] / 20)) if shows[m] else np.zeros(spec.classes)
        for m in spec.modalities
    }


def _of_wave(wave_N: NDArray[np.floating], noise: float, classes: int) -> NDArray[np.float64]:
    """Averages over phases in closed form, and over the frequencies of a band in steps of a quarter of a hertz.

    For so many samples, a sine's energy does not depend on its phase.
    """
    from scipy.special import ive

    low, high = BANDS_HZ
    amplitude_K = math.sqrt(2) * np.abs(np.fft.rfft(wave_N, RATE * _FINENESS))
    hertz_K = np.arange(len(amplitude_K)) / _FINENESS
    inside_K = (hertz_K >= low) & (hertz_K < high)
    hertz_K, z_K = hertz_K[inside_K], amplitude_K[inside_K] / noise**2
    band_K = (classes * np.log(hertz_K / low) / math.log(high / low)).astype(int)
    # Frequencies are uniform on a logarithmic scale, so that the density of one hertz is proportional to 1 / hertz.
    log_K = (
        np.log(ive(0, z_K)) + z_K - RATE / (2 * noise**2) - np.log(hertz_K * _FINENESS * math.log(high / low) / classes)
    )
    return np.array([np.logaddexp.reduce(log_K[band_K == band]) for band in range(classes)])


class _Bank(NamedTuple):
    """Filters for sqrt(2) sin(2 pi (cycles + phase)): parts in phase and a quarter behind, and the energy of each."""

    sine_CKN: NDArray[np.float64]
    cosine_CKN: NDArray[np.float64]
    energy_CKP: NDArray[np.float64]


def _bank(cycles_CKN: NDArray[np.float64]) -> _Bank:
    sine_CKN, cosine_CKN = np.sin(2 * math.pi * cycles_CKN), np.cos(2 * math.pi * cycles_CKN)
    energy_CKP = (
        (sine_CKN**2).sum(axis=2)[..., None] * _IN_PHASE_P**2
        + (cosine_CKN**2).sum(axis=2)[..., None] * _BEHIND_P**2
        + (2 * sine_CKN * cosine_CKN).sum(axis=2)[..., None] * _IN_PHASE_P * _BEHIND_P
    )
    return _Bank(sine_CKN, cosine_CKN, energy_CKP)


@functools.lru_cache(maxsize=2)
def _gratings(classes: int, frames: tuple[int, ...]) -> _Bank:
    y, x = np.mgrid[:SIDE, :SIDE]
    angle_C11 = (math.pi * np.arange(classes) / classes)[:, None, None]
    along_CHW = x * np.cos(angle_C11) + y * np.sin(angle_C11)
    drifts = np.linspace(-1, 1, 17) if len(frames) > 1 else np.zeros(1)  # of one frame, drift is part of the phase
    moved_DF = drifts[:, None] * np.array(frames) / FPS
    cycles = np.linspace(*CYCLES, 21)[:, None, None, None, None] * along_CHW[:, None, None, None]
    return _bank((cycles + moved_DF[:, :, None, None]).reshape(classes, -1, len(frames) * SIDE * SIDE))


@functools.lru_cache(maxsize=2)
def _waves(classes: int) -> _Bank:
    lag_CD = np.arange(classes)[:, None] / classes * np.arange(SENSORS)
    turned_KT = np.linspace(*RATES, 41)[:, None] * np.arange(STEPS)
    return _bank((turned_KT[:, :, None] - lag_CD[:, None, None]).reshape(classes, -1, STEPS * SENSORS))


def _of_sines(values_N: NDArray[np.floating], noise: float, bank: _Bank) -> NDArray[np.float64]:
    """Averages over the K combinations and over the phases."""
    product_CKP = (bank.sine_CKN @ values_N)[..., None] * _IN_PHASE_P + (bank.cosine_CKN @ values_N)[
        ..., None
    ] * _BEHIND_P
    log_CKP = (product_CKP - bank.energy_CKP / 2) / noise**2
    result_C: NDArray[np.float64] = np.logaddexp.reduce(log_CKP, axis=(1, 2)) - math.log(log_CKP[0].size)
    return result_C
