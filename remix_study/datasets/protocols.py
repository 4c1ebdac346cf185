"""Published protocols: a corpus, its published lists, and the preset with which papers on balance use it

A result can be compared with published ones only if it was measured on the same clips. The lists of a protocol are
therefore compared with a digest of the published ones, and missing clips are counted.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from remix_study.datasets.corpus import Corpus, Found
from remix_study.datasets.cremad import Cremad
from remix_study.datasets.kinetics_sounds import KineticsSounds
from remix_study.errors import ManifestError
from remix_study.media.presets import Preset
from remix_study.media.source import source_at


@dataclass(frozen=True)
class Protocol:
    """A published protocol.

    Attributes:
        corpus: its name in sentences.
        preset: name of the preset.
        train, test: number of clips in the published lists; validation clips are a part of `train`.
        digests: `train` or `test` -> digest of the ids of these clips, see `digest_of`.
        make: builds the corpus from its root, the folder of the lists, and a preset.
    """

    corpus: str
    preset: str
    train: int
    test: int
    digests: Mapping[str, str]
    make: Callable[[str, Path | None, Preset], Corpus]


def _cremad(root: str, lists: Path | None, preset: Preset) -> Corpus:
    return Cremad(source_at(root), split="ogm", lists=lists, preset=preset)


def _kinetics_sounds(root: str, lists: Path | None, preset: Preset) -> Corpus:
    return KineticsSounds(source_at(root), lists=lists, preset=preset)


PROTOCOLS: Mapping[str, Protocol] = {
    "cremad": Protocol(
        "CREMA-D", "remix", 6698, 744,
        {"train": "0f03b406eb943e5d", "test": "2a5837cebb2d8380"}, _cremad,
    ),
    "kinetics_sounds": Protocol(
        "Kinetics-Sounds", "kinetics_sounds", 14799, 2597,
        {"train": "f7da320e81d7c6c6", "test": "4b78ea36de0819ec"}, _kinetics_sounds,
    ),
}  # fmt: skip
"""Name -> protocol; both with the lists of OGM-GE (Peng et al., CVPR 2022)"""


def digest_of(clips: Iterable[str]) -> str:
    """16 hex digits of the SHA-256 of the sorted ids, one per line."""
    return hashlib.sha256("\n".join(sorted(clips)).encode()).hexdigest()[:16]


def require_published(protocol: Protocol, found: Found) -> None:
    """Check that the lists are the published ones. Files may be missing.

    Raises:
        ManifestError: the lists have other clips.
    """
    test = [clip for clip, split in found.listed.items() if split == "test"]
    train = [clip for clip, split in found.listed.items() if split != "test"]
    if {"train": digest_of(train), "test": digest_of(test)} == dict(protocol.digests):
        return
    raise ManifestError(
        f"The lists of {protocol.corpus} must be those of OGM-GE, with {protocol.train} clips for training and "
        f"{protocol.test} for test, but have other clips ({len(train)} and {len(test)}), so that the result could not "
        "be compared with published ones. Give the folder of the published lists with `--lists`; for other lists, use "
        "`prepare` and a study file."
    )
