"""Decode a corpus once into a clip store, on all cores

    plan        what the store is made of -> fingerprint
    decode      worker processes write rows where they belong and return only how it went
    quarantine  what could not be used, counted, reported, and refused if it is too much
    publish     the store appears whole, or not at all

Kill it at any moment and give the same command: it goes on where it was and ends in the same bytes.
"""

import dataclasses
import pickle
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from remix_study.errors import MediaError, RemixStudyError, StoreError, cause_of
from remix_study.files.disk import sole_writer, storage_errors
from remix_study.media.checks import Checks
from remix_study.media.clip import decode_clip
from remix_study.media.decoders import DecoderName, decoder_named
from remix_study.media.partial import Partial, RowStatus, refuse_other_settings
from remix_study.media.plan import Plan, Progress, plan_store
from remix_study.media.presets import Preset
from remix_study.media.publish import check_quarantine, publish
from remix_study.media.shards import SHARD_BYTES, RowWriter
from remix_study.media.source import Source, source_at
from remix_study.media.store import ClipStore
from remix_study.media.workers import RunJobs, run_jobs
from remix_study.sample import Clip


def build_store(
    clips: Sequence[Clip],
    root: Path | str,
    out: Path,
    *,
    preset: Preset,
    name: str,
    manifest_digest: str,
    decoder: DecoderName = "pyav",
    checks: Checks | None = None,
    workers: int | None = None,
    chunk: int = 32,
    timeout_s: float = 60.0,
    max_bad_fraction: float = 0.01,
    replace: bool = False,
    wait: bool = False,
    card: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    reading: Progress | None = None,
    run: RunJobs = run_jobs,
    shard_bytes: int = SHARD_BYTES,
) -> ClipStore:
    """`out`/store, built from `clips` whose paths are relative to `root`, a folder or a URL.

    A store of the same fingerprint is kept as it is. `workers` None means all cores. `card` adds facts such as the
    licence. `reading(done, total)` counts source files while their checksums are taken, `progress(done, total)` clips.
    `run` is who decodes: processes of this machine, or a cluster's, whose workers send rows instead of writing them.
    With `wait`, another build of this store is waited for.

    Raises:
        StoreError: nothing is lost and the message says what helps: another store is there and `replace` is False,
            another process builds it, the disk is full or not writable, too many clips are unusable (above
            `max_bad_fraction`, between 0 and 1), a class lost all clips of a split.
    """
    if not clips:
        raise StoreError("a store needs at least one clip, but the manifest has none.")
    folder, checks = out / "store", checks or Checks()
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        with sole_writer(out / ".store.lock", wait=wait):
            plan = plan_store(clips, source_at(root), preset, decoder, checks, reading)
            if (kept := _kept(folder, plan, replace=replace)) is not None:
                shutil.rmtree(out / "store.partial", ignore_errors=True)
                return kept
            if not replace:
                refuse_other_settings(out / "store.partial", plan)
            partial = Partial(out / "store.partial", plan, shard_bytes)
            try:
                _decode(plan, partial, run, workers, chunk, timeout_s, progress)
                check_quarantine(plan, partial.bad, max_bad_fraction, partial.folder / "quarantine.jsonl")
            except BaseException:
                partial.close()
                raise
            publish(plan, partial, folder, name=name, manifest_digest=manifest_digest, card=dict(card or {}))
    return ClipStore.open(folder)


def _kept(folder: Path, plan: Plan, *, replace: bool) -> ClipStore | None:
    if not folder.exists():
        return None
    try:
        store = ClipStore.open(folder)
    except StoreError:
        if replace:
            return None
        raise
    if store.digest == plan.fingerprint:
        return store
    if replace:
        return None
    raise StoreError(
        f"{folder} holds a store of other content or settings (fingerprint {store.digest[:12]}, wanted "
        f"{plan.fingerprint[:12]}). Choose another folder, or replace it (`replace`)."
    )


@dataclass(frozen=True)
class Decoded:
    """What a worker says of a clip; `rows` only where it has not written them itself."""

    status: RowStatus
    rows: dict[str, NDArray[Any]]


@dataclass(frozen=True)
class PackedClips:
    """Clips as one piece of memory: a million of them as objects, in every worker, would be gigabytes."""

    content: NDArray[np.uint8]
    ends_N: NDArray[np.int64]

    @classmethod
    def of(cls, clips: Sequence[Clip]) -> "PackedClips":
        content, ends = bytearray(), np.zeros(len(clips), np.int64)
        for row, clip in enumerate(clips):
            content += pickle.dumps(dataclasses.replace(clip, truth={}))
            ends[row] = len(content)
        return cls(np.frombuffer(content, np.uint8), ends)

    def __getitem__(self, row: int) -> Clip:
        clip: Clip = pickle.loads(self.content[self.ends_N[row - 1] if row else 0 : self.ends_N[row]].data)
        return clip


@dataclass(frozen=True)
class DecodeRow:
    """The work of a worker process: decode clip `row`, and write its rows where there are `writers` for them."""

    clips: PackedClips
    source: Source
    preset: Preset
    decoder: DecoderName
    checks: Checks
    writers: Mapping[str, RowWriter]

    def __call__(self, row: int) -> Decoded:
        try:
            decoded = decode_clip(self.clips[row], self.source, self.preset, decoder_named(self.decoder), self.checks)
        except MediaError as error:
            return Decoded(RowStatus(row=row, stage=error.stage, message=str(error), meta={}), {})
        except RemixStudyError:  # no fault of the clip: a package is missing, a source does not answer
            raise
        except Exception as error:  # whatever a damaged file provokes must not stop the other clips
            stage, why = "decode", f"it cannot be decoded ({type(error).__name__})"
            if cause_of(error) == "out of memory":
                stage, why = "memory", "decoding it takes too much memory"
            return Decoded(RowStatus(row=row, stage=stage, message=why, meta={}), {})
        status = RowStatus(row=row, stage=None, message="", meta=decoded.meta)
        if not self.writers:
            return Decoded(status, decoded.rows)
        for modality, values in decoded.rows.items():
            self.writers[modality].write(row, values)
        return Decoded(status, {})


def _decode(
    plan: Plan,
    partial: Partial,
    run: RunJobs,
    workers: int | None,
    chunk: int,
    timeout_s: float,
    progress: Progress | None,
) -> None:
    total = len(plan.clips)
    todo = [row for row in range(total) if row not in partial]

    def record(status: RowStatus) -> None:
        partial.record(status)
        if partial.waiting >= chunk:
            partial.flush()
        if progress is not None:
            progress(len(partial), total)

    def on_result(row: int, result: object) -> None:
        assert isinstance(result, Decoded)
        for modality, values in result.rows.items():
            partial.writers[modality].write(row, values)
        record(result.status)

    def on_lost(row: int, reason: str) -> None:
        told = {
            "timeout": f"decoding it took more than {timeout_s:g} s, twice",
            "died": "decoding it ended its process, twice",
            "memory": "decoding it takes too much memory",
        }
        record(RowStatus(row=row, stage=reason, message=told[reason], meta={}))

    writers = partial.writers if run is run_jobs else {}
    work = DecodeRow(PackedClips.of(plan.clips), plan.source, plan.preset, plan.decoder, plan.checks, writers)
    if progress is not None:
        progress(total - len(todo), total)
    try:
        run(work, todo, on_result=on_result, on_lost=on_lost, workers=workers, chunk=chunk, timeout_s=timeout_s)
    finally:
        partial.flush()
