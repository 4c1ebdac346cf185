"""What a store is made of, as one fingerprint

The fingerprint is the sha256 of canonical JSON, by lines: schema, decoder and its version, preset, checks; and for each
clip its manifest row with path, size and content sha256 of its files. Not their times: a copied corpus is the same
corpus.
"""

import concurrent.futures
import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from remix_study.errors import StoreError
from remix_study.media.checks import Checks
from remix_study.media.decoders import DecoderName, decoder_version
from remix_study.media.flow import opencv_version
from remix_study.media.presets import FlowPreset, Preset
from remix_study.media.source import Source, row_of
from remix_study.media.workers import available_cores
from remix_study.sample import Clip

SCHEMA = 2
_AT_ONCE = 512  # files asked for: a promise of each of a million would take more memory than the plan
Progress = Callable[[int, int], None]
"""(done, total)"""


@dataclasses.dataclass(frozen=True)
class Plan:
    """One store that is to be; `sources[path]` is (bytes, sha256), or None where there is no such file."""

    clips: tuple[Clip, ...]
    source: Source
    preset: Preset
    decoder: DecoderName
    checks: Checks
    sources: dict[str, tuple[int, str] | None]

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """What is done with every clip."""
        settings = {
            "schema": SCHEMA,
            "decoder": decoder_version(self.decoder),
            "preset": self.preset.plain(),
            "checks": dataclasses.asdict(self.checks),
        }
        if any(isinstance(part, FlowPreset) and part.source == "computed" for part in self.preset.parts.values()):
            settings["flow"] = f"opencv {opencv_version()}"
        return settings

    @functools.cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(canonical_json(self.settings).encode())
        for clip in self.clips:  # one by one: as text, a million of them are half a gigabyte
            digest.update(b"\n" + canonical_json(self._content(clip)).encode())
        return digest.hexdigest()

    def _content(self, clip: Clip) -> dict[str, Any]:
        sources = {m: [clip.paths[m], self.sources[row_of(clip.paths[m])[0]]] for m in self.preset.modalities}
        return {**describe(clip), "start": clip.start, "end": clip.end, "sources": sources}


def plan_store(
    clips: Sequence[Clip],
    source: Source,
    preset: Preset,
    decoder: DecoderName,
    checks: Checks,
    progress: Progress | None = None,
) -> Plan:
    """Read every source file once, for its checksum.

    Raises:
        StoreError: a clip has no file for a modality of the preset, or the decoder is not installed as it must be.
    """
    decoder_version(decoder)
    without = [clip.id for clip in clips if not set(preset.modalities) <= set(clip.paths)]
    if without:
        raise StoreError(
            f"the preset {preset.name!r} needs {' and '.join(preset.modalities)} of every clip, but {len(without)} "
            f"clips lack one of them, {without[0]} first. Complete their `paths` or choose another preset."
        )
    paths = sorted({row_of(clip.paths[m])[0] for clip in clips for m in preset.modalities})
    sources: dict[str, tuple[int, str] | None] = {}
    with concurrent.futures.ThreadPoolExecutor(available_cores()) as pool:  # hashing frees the GIL
        for first in range(0, len(paths), _AT_ONCE):
            some = paths[first : first + _AT_ONCE]
            for path, identity in zip(some, pool.map(source.identity, some), strict=True):
                sources[path] = identity
                if progress is not None:
                    progress(len(sources), len(paths))
    return Plan(tuple(clips), source, preset, decoder, checks, sources)


def describe(clip: Clip) -> dict[str, Any]:
    """What the index says of a clip, apart from what decoding it showed."""
    return {
        "id": clip.id,
        "label": clip.label,
        "split": clip.split,
        "group": clip.group,
        "truth": dict(clip.truth),
    }


def canonical_json(content: object) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def manifest_digest(manifest: Path) -> str:
    """sha256 of a manifest's rows, whatever their layout; a store remembers it, so that a changed manifest shows.

    Raises:
        StoreError: the manifest cannot be read as JSON Lines.
    """
    try:
        with manifest.open(encoding="utf-8") as file:
            return rows_digest(json.loads(line) for line in file if line.strip())
    except (OSError, ValueError) as error:
        raise StoreError(f"{manifest} must be a readable manifest (JSON Lines), but it is not: {error}") from error


def rows_digest(rows: Iterable[Mapping[str, Any]]) -> str:
    """What `manifest_digest` gives for a manifest of these rows."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(canonical_json(row).encode() + b"\n")
    return digest.hexdigest()
