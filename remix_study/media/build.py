"""Decode a corpus once into a clip store, on all cores

    plan        what the store is made of -> fingerprint
    decode      worker processes write rows where they belong and return only how it went
    quarantine  what could not be used, counted, reported, and refused if it is too much
    publish     the store appears whole, or not at all

Kill it at any moment and give the same command: it goes on where it was and ends in the same bytes.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from remix_study.errors import MediaError, StoreError
from remix_study.media.checks import Checks
from remix_study.media.clip import decode_clip
from remix_study.media.decoders import DecoderName, decoder_named
from remix_study.media.disk import sole_writer, storage_errors
from remix_study.media.partial import Partial, RowFile, RowStatus
from remix_study.media.plan import Plan, Progress, plan_store
from remix_study.media.presets import Preset
from remix_study.media.publish import check_quarantine, publish
from remix_study.media.store import ClipStore
from remix_study.media.workers import run_jobs
from remix_study.sample import Clip


def build_store(
    clips: Sequence[Clip],
    root: Path,
    out: Path,
    *,
    preset: Preset,
    name: str,
    manifest_digest: str,
    decoder: DecoderName = "decord",
    checks: Checks | None = None,
    workers: int | None = None,
    chunk: int = 32,
    timeout_s: float = 60.0,
    max_bad_fraction: float = 0.01,
    replace: bool = False,
    card: Mapping[str, str] | None = None,
    progress: Progress | None = None,
    reading: Progress | None = None,
) -> ClipStore:
    """`out`/store, built from `clips` whose paths are relative to `root`.

    A store of the same fingerprint is kept as it is. `workers` None means all cores. `card` adds facts such as the
    licence. `reading(done, total)` counts source files while their checksums are taken, `progress(done, total)` clips.

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
        with sole_writer(out / ".store.lock"):
            plan = plan_store(clips, root, preset, decoder, checks, reading)
            if (kept := _kept(folder, plan, replace=replace)) is not None:
                shutil.rmtree(out / "store.partial", ignore_errors=True)
                return kept
            partial = Partial(out / "store.partial", plan)
            try:
                _decode(plan, partial, workers, chunk, timeout_s, progress)
                bad = [s for _, s in sorted(partial.statuses.items()) if s["stage"] is not None]
                check_quarantine(plan, bad, max_bad_fraction, partial.folder / "quarantine.jsonl")
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
class _DecodeRow:
    """The work of a worker process: decode clip `row` and write its rows."""

    clips: tuple[Clip, ...]
    root: Path
    preset: Preset
    decoder: DecoderName
    checks: Checks
    files: Mapping[str, RowFile]

    def __call__(self, row: int) -> RowStatus:
        try:
            decoded = decode_clip(self.clips[row], self.root, self.preset, decoder_named(self.decoder), self.checks)
        except MediaError as error:
            return RowStatus(row=row, stage=error.stage, message=str(error), meta={})
        except Exception as error:  # whatever a damaged file provokes must not stop the other clips
            return RowStatus(row=row, stage="decode", message=f"it cannot be decoded ({type(error).__name__})", meta={})
        for modality, values in decoded.rows.items():
            self.files[modality].write(row, values)
        return RowStatus(row=row, stage=None, message="", meta=decoded.meta)


def _decode(
    plan: Plan, partial: Partial, workers: int | None, chunk: int, timeout_s: float, progress: Progress | None
) -> None:
    total = len(plan.clips)
    todo = [row for row in range(total) if row not in partial.statuses]

    def record(status: RowStatus) -> None:
        partial.record(status)
        if partial.waiting >= chunk:
            partial.flush()
        if progress is not None:
            progress(len(partial.statuses), total)

    def on_result(_row: int, status: object) -> None:
        record(status)  # type: ignore[arg-type]  # what _DecodeRow returned, through a pipe

    def on_lost(row: int, reason: str) -> None:
        told = {
            "timeout": f"decoding it took more than {timeout_s:g} s, twice",
            "died": "decoding it ended its process, twice",
        }
        record(RowStatus(row=row, stage=reason, message=told[reason], meta={}))

    work = _DecodeRow(plan.clips, plan.root, plan.preset, plan.decoder, plan.checks, partial.files)
    if progress is not None:
        progress(total - len(todo), total)
    try:
        run_jobs(work, todo, on_result=on_result, on_lost=on_lost, workers=workers, chunk=chunk, timeout_s=timeout_s)
    finally:
        partial.flush()
