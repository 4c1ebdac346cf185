"""The plan of a store: its clips, source files and settings, and their fingerprint

The fingerprint is the SHA-256 of canonical JSON lines: first the schema, the decoder with its version, the version of
our own decoding, the preset and the checks; then for each clip its manifest row with the path, size and SHA-256 of its
files. Modification times do not count, so that a copy of a corpus has the same fingerprint.
"""

import concurrent.futures
import dataclasses
import functools
import hashlib
import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from remix_study.errors import StoreError
from remix_study.media.checks import Checks
from remix_study.media.decoders import DecoderName, decoder_version
from remix_study.media.flow import opencv_version, sources_of
from remix_study.media.presets import FeaturePreset, FlowPreset, Preset
from remix_study.media.source import Source, row_of
from remix_study.media.workers import available_cores
from remix_study.sample import Clip

SCHEMA = 2
# Raised when decoding a file gives other rows than before: stores that were built before are then built again.
DECODING = 2
_MB = 10**6
_AT_ONCE = 512  # files submitted to the thread pool at once: a million futures would take more memory than the plan
Progress = Callable[[int, int], None]
"""(done, total)"""


class Megabytes:
    """Adds up bytes, also from several threads, and reports them in megabytes, rounded up."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done, self._total, self._progress, self._lock = 0, total, progress, threading.Lock()

    def add(self, count: int) -> None:
        if self._progress is not None:
            with self._lock:
                self._done += count
                self._progress(-(-self._done // _MB), -(-self._total // _MB))


@dataclasses.dataclass(frozen=True)
class Plan:
    """A store to build. `sources[path]` is (bytes, sha256), or None if the file is missing."""

    clips: tuple[Clip, ...]
    source: Source
    preset: Preset
    decoder: DecoderName
    checks: Checks
    sources: dict[str, tuple[int, str] | None]

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """The settings that apply to every clip, as JSON data."""
        settings = {
            "schema": SCHEMA,
            "decoder": decoder_version(self.decoder),
            "preset": self.preset.plain(),
            "checks": dataclasses.asdict(self.checks),
        }
        if any(not isinstance(part, FeaturePreset) for part in self.preset.parts.values()):
            settings["decoding"] = DECODING
        if any(isinstance(part, FlowPreset) and part.source == "computed" for part in self.preset.parts.values()):
            settings["flow"] = f"opencv {opencv_version()}"
        return settings

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the settings, clips and source files."""
        digest = hashlib.sha256(canonical_json(self.settings).encode())
        for clip in self.clips:  # one at a time, because the text of a million clips takes half a gigabyte
            digest.update(b"\n" + canonical_json(self._content(clip)).encode())
        return digest.hexdigest()

    def _content(self, clip: Clip) -> dict[str, Any]:
        sources = {
            m: [clip.paths[m], *(self.sources[path] for path in sources_of(row_of(clip.paths[m])[0], part))]
            for m, part in self.preset.parts.items()
        }
        return {**describe(clip), "start": clip.start, "end": clip.end, "sources": sources}


def plan_store(
    clips: Sequence[Clip],
    source: Source,
    preset: Preset,
    decoder: DecoderName,
    checks: Checks,
    progress: Progress | None = None,
) -> Plan:
    """Plan a store. Reads every source file once to compute its checksum.

    Args:
        progress: called as `progress(done, total)` with numbers of source files.

    Raises:
        StoreError: a clip has no file for a modality of the preset, or the decoder is not installed.
    """
    decoder_version(decoder)
    without = [clip.id for clip in clips if not set(preset.modalities) <= set(clip.paths)]
    if without:
        raise StoreError(
            f"The preset {preset.name!r} needs {' and '.join(preset.modalities)} of every clip, but {len(without)} "
            f"clips lack one of them, such as {without[0]}. Complete their `paths`, or choose another preset."
        )
    paths = sorted(
        {
            path
            for clip in clips
            for m, part in preset.parts.items()
            for path in sources_of(row_of(clip.paths[m])[0], part)
        }
    )
    sources: dict[str, tuple[int, str] | None] = {}
    with concurrent.futures.ThreadPoolExecutor(available_cores()) as pool:  # hashing releases the GIL
        for first in range(0, len(paths), _AT_ONCE):
            some = paths[first : first + _AT_ONCE]
            for path, identity in zip(some, pool.map(source.identity, some), strict=True):
                sources[path] = identity
                if progress is not None:
                    progress(len(sources), len(paths))
    return Plan(tuple(clips), source, preset, decoder, checks, sources)


def describe(clip: Clip) -> dict[str, Any]:
    """A clip's entry in the index, without the `meta` that decoding adds."""
    return {
        "id": clip.id,
        "label": clip.label,
        "split": clip.split,
        "group": clip.group,
        "truth": dict(clip.truth),
    }


def canonical_json(content: object) -> str:
    """JSON with sorted keys and without spaces, for digests."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def manifest_digest(manifest: Path) -> str:
    """SHA-256 of a manifest's rows, whatever their formatting. Stores keep it to detect a changed manifest.

    Raises:
        StoreError: the manifest cannot be read as JSON Lines.
    """
    try:
        with manifest.open(encoding="utf-8") as file:
            return rows_digest(json.loads(line) for line in file if line.strip())
    except (OSError, ValueError) as error:
        raise StoreError(f"Cannot read the manifest {manifest} as JSON Lines: {error}") from error


def rows_digest(rows: Iterable[Mapping[str, Any]]) -> str:
    """The `manifest_digest` of a manifest with these rows."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(canonical_json(row).encode() + b"\n")
    return digest.hexdigest()
