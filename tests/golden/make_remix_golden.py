"""Reference implementation of Data Remixing in plain Python, and its golden numbers

It follows the released code (Data Remixing, arXiv 2506.11550) and shares no code with `remix_study`. The command
`python tests/golden/make_remix_golden.py` rewrites remix_golden.json with identical bytes.
"""

import hashlib
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

AUDIO, VIDEO = 0, 1


def separability(probs: list[float]) -> float:
    """Return D = sum_k p_k log2(p_k K), p clipped to [1e-9, 1], in bits."""
    total = 0.0
    for p in probs:
        clipped = min(max(p, 1e-9), 1.0)
        total += clipped * math.log2(clipped * len(probs))
    return total


def released_choice(score_audio: float, score_video: float) -> int:
    """Return the column of audio if D_a < D_v, otherwise that of video."""
    return AUDIO if score_audio < score_video else VIDEO


def released_epoch(
    probs: list[list[list[float]]], batch: int, shuffle: Callable[[list[int]], list[int]]
) -> tuple[list[list[float]], list[int], list[tuple[int, list[int]]]]:
    """Return scores, choices and batches (modality, samples): first video, then audio; last batches may be smaller."""
    scores = [[separability(sample[AUDIO]), separability(sample[VIDEO])] for sample in probs]
    choices = [released_choice(audio, video) for audio, video in scores]
    batches: list[tuple[int, list[int]]] = []
    for modality in (VIDEO, AUDIO):
        subset = shuffle([i for i, choice in enumerate(choices) if choice == modality])
        while subset:
            batches.append((modality, subset[:batch]))
            subset = subset[batch:]
    return scores, choices, batches


def stream(seed: int, purpose: str, epoch: int) -> np.random.Generator:
    """Return a PCG64 seeded by the first 16 bytes of the SHA-256 of seed, purpose and epoch, joined by NUL."""
    digest = hashlib.sha256(f"{seed}\0{purpose}\0{epoch}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))


def golden(seed: int = 5, epoch: int = 3, batch: int = 4, classes: int = 3) -> dict[str, Any]:
    """Return the golden numbers of eleven random samples, two ties, a certain and a uniform prediction."""
    generator = random.Random(7)
    probs: list[list[list[float]]] = []
    for _ in range(11):
        rows = [[generator.random() ** 2 for _ in range(classes)] for _ in (AUDIO, VIDEO)]
        probs.append([[value / sum(row) for value in row] for row in rows])
    even, certain = [1 / classes] * classes, [1.0, 0.0, 0.0]
    probs += [[even, even], [certain, certain], [even, certain], [certain, even]]
    keys = stream(seed, "reassemble", epoch).random(len(probs)).tolist()
    scores, choices, batches = released_epoch(probs, batch, lambda subset: sorted(subset, key=keys.__getitem__))
    return {
        "seed": seed,
        "epoch": epoch,
        "batch": batch,
        "probs": probs,
        "scores": scores,
        "choices": choices,
        "batches": [{"modality": modality, "samples": samples} for modality, samples in batches],
    }


if __name__ == "__main__":
    Path(__file__).with_name("remix_golden.json").write_text(json.dumps(golden(), indent=1) + "\n")
