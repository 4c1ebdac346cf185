"""(b) Scores, assignment and schedule for a whole corpus vs a loop over its samples, and the memory that they need

For each sample, the loop does what the released code does: it takes a row of probabilities from a tensor, compares it
with a uniform distribution, and appends the sample to one of two lists. Then it shuffles the lists and splits them into
batches.
"""

# N samples, M modalities (audio, video), C classes, T steps, B samples of one global batch

import json
import os
import random
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.measure import Result, in_turns, median, seconds
from remix_study.epoch import Schedule, ScoreFunction, ScoringPass
from remix_study.remix import Argmin, Assignment, Reassembly, RemixPlan, RemixSettings, kl_from_uniform, reassemble
from remix_study.seeds import stream

BATCH = 64
CLASSES = (6, 31)  # CREMA-D, Kinetics-Sounds


class Size(NamedTuple):
    """Size of a corpus whose probabilities are float32."""

    samples: int
    modalities: int
    classes: int

    @property
    def input_bytes(self) -> int:
        return 4 * self.samples * self.modalities * self.classes


def measure(quick: bool) -> Iterator[Result]:
    yield from _speed(samples=200 if quick else 19_000, rounds=1 if quick else 7)
    yield _memory(Size(1_000, 3, 40) if quick else Size(1_000_000, 3, 400))


def _speed(samples: int, rounds: int) -> Iterator[Result]:
    for classes in CLASSES:
        times = in_turns(_methods(samples, classes), rounds)
        size = f"{samples:,} samples, {classes} classes"
        yield Result(f"(b) loop / ours: {size}", median([loop / ours for ours, _, loop in times]), at_least=100)
        yield Result("(b) loop / ours with all that is logged", median([loop / logged for _, logged, loop in times]))


def _methods(samples: int, classes: int) -> list[Callable[[], float]]:
    """Return three functions that measure one decision: ours, ours with all logged metrics, and the loop."""
    probs_NMC = random_probabilities(samples, 2, classes)
    tensor_NMC = torch.from_numpy(probs_NMC)
    labels_N = np.zeros(samples, np.int64)
    plan = _plan(samples, 2, classes)

    def scoring_pass(score: ScoreFunction) -> ScoringPass:
        scores_NM = score(probs_NMC, labels_N)
        return ScoringPass(scores_NM, np.zeros_like(scores_NM))

    return [
        lambda: seconds(lambda: decide(probs_NMC), calls=15),
        lambda: seconds(lambda: plan.plan(0, scoring_pass), calls=15),
        lambda: seconds(lambda: decide_one_by_one(tensor_NMC)),
    ]


def decide(probs_NMC: NDArray[np.float32]) -> Schedule:
    """Decide for all samples at once, as remix_study does. The reversed order of modalities gives ties to video."""
    ordered = Argmin()(kl_from_uniform(probs_NMC)[:, ::-1], None, stream(0, "filter"))
    assignment = Assignment(ordered.assigned_NM[:, ::-1], ordered.joint_N)
    return reassemble(assignment, _how(probs_NMC.shape[1]), stream(0, "reassemble"))


def decide_one_by_one(probs_NMC: torch.Tensor) -> list[list[int]]:
    """Decide as the released code does, and return batches of video, then batches of audio."""
    audio: list[int] = []
    video: list[int] = []
    for sample in range(len(probs_NMC)):
        audio_bits, video_bits = (bits_of_one(row_C) for row_C in probs_NMC[sample])
        (audio if audio_bits < video_bits else video).append(sample)
    batches = []
    draw = random.Random(0)
    for group in (video, audio):
        draw.shuffle(group)
        batches += [group[start : start + BATCH] for start in range(0, len(group), BATCH)]
    return batches


def bits_of_one(probs_C: torch.Tensor) -> float:
    """Return the KL divergence from uniform in bits for one sample and modality, computed as in the released code."""
    row = probs_C.cpu().numpy()
    uniform = np.full(len(row), 1 / len(row))
    clipped = np.clip(row, 1e-9, 1.0)
    return float(np.sum(clipped * np.log2(clipped / uniform)))


def random_probabilities(samples: int, modalities: int, classes: int) -> NDArray[np.float32]:
    """Return random float32 (N, M, C) probabilities whose rows sum to 1, computed in place to save memory."""
    draw = stream(0, "benchmark probabilities")
    probs_NMC = np.empty((samples, modalities, classes), np.float32)
    for start in range(0, samples, 4096):
        part = probs_NMC[start : start + 4096]
        draw.random(out=part, dtype=np.float32)
        np.power(part, 8, out=part)  # a few likely classes among many
        part += 1e-6
        part /= part.sum(axis=2, keepdims=True)
    return probs_NMC


def _plan(samples: int, modalities: int, classes: int) -> RemixPlan:
    settings = RemixSettings(warmup=0, score="kl", filter=Argmin(), how=_how(modalities))
    names = ("audio", "video", "flow")[:modalities]
    return RemixPlan(settings, names, np.zeros(samples, np.int64), classes, seed=0)


def _how(modalities: int) -> Reassembly:
    return Reassembly("blocks", tuple(reversed(range(modalities))), BATCH)


def _memory(size: Size) -> Result:
    name = f"(b) memory above input: {size.samples:,} x {size.modalities} x {size.classes}"
    needed, free = size.input_bytes + 2e9, _free_bytes()
    if free is not None and free < needed:
        note = f"needs {needed / 1e9:.1f} GB of free memory; this machine has {free / 1e9:.1f} GB"
        return Result(name, None, at_most=2.0, unit="GB", note=note)
    # A separate process, because the peak memory of this one comes from other benchmarks.
    command = [sys.executable, "-m", "benchmarks.decisions", *map(str, size)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    peak: int = json.loads(done.stdout)["peak_bytes"]
    note = f"peak memory of a process, including Python and torch, minus {size.input_bytes / 1e9:.1f} GB"
    return Result(name, (peak - size.input_bytes) / 1e9, at_most=2.0, unit="GB", note=note)


def _free_bytes() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def _peak_bytes(size: Size) -> int:
    """Return the peak memory of this process after a decision for a corpus of this size."""
    decide(random_probabilities(*size))
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if os.uname().sysname == "Darwin" else largest * 1024  # kibibytes on Linux


if __name__ == "__main__":
    print(json.dumps({"peak_bytes": _peak_bytes(Size(*map(int, sys.argv[1:])))}))
