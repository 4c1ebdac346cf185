"""Building a clip store: decode a corpus once, on all cores

    plan        compute the fingerprint of the store's sources and settings
    decode      worker processes write each row in its place and return its status
    quarantine  count and report unusable clips; raise an error if there are too many
    publish     rename the finished store to its final name

A build that was killed resumes when the command is rerun, and produces the same bytes as an uninterrupted build.
"""

import dataclasses
import json
import logging
import pickle
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from remix_study.errors import MediaError, RemixStudyError, StoreError, cause_of
from remix_study.files.disk import exclusive_lock, storage_errors
from remix_study.media.checks import Checks
from remix_study.media.clip import decode_clip
from remix_study.media.decoders import DecoderName, decoder_named
from remix_study.media.partial import RETRIED, Partial, RowStatus, require_same_settings
from remix_study.media.plan import Plan, Progress, canonical_json, describe, plan_store
from remix_study.media.presets import Preset
from remix_study.media.publish import check_quarantine, publish, require_no_link
from remix_study.media.shards import SHARD_BYTES, RowWriter
from remix_study.media.source import Source, source_at
from remix_study.media.store import ClipStore, store_manifest
from remix_study.media.workers import RunJobs, run_jobs
from remix_study.sample import Clip

_log = logging.getLogger(__name__)


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
    """Build a clip store in `out`/store. An existing store of the same plan is returned unchanged.

    But with `replace`, it is built again if it lacks clips whose decoding took too long or too much memory, or crashed.

    Args:
        clips: the clips, with paths relative to `root`.
        root: a folder or a URL.
        out: a folder of this machine.
        preset: what to keep of each clip.
        name: the corpus's name.
        manifest_digest: digest of the manifest that the clips come from.
        decoder: `pyav`, `torchcodec` or `decord`.
        checks: what to accept; by default `Checks()`.
        workers: number of worker processes; None means one per core.
        chunk: largest number of clips that a worker gets at once.
        timeout_s: seconds that one clip may take.
        max_bad_fraction: largest fraction of unusable clips, 0 to 1.
        replace: replace a store or an unfinished build with other content or settings.
        wait: wait for another process that builds this store, instead of raising an error.
        card: further facts for the card, such as the licence.
        progress: called as `progress(done, total)` with numbers of clips.
        reading: called as `reading(done, total)` with numbers of source files while their checksums are computed.
        run: runs the jobs: `run_jobs` on this machine, or a function that runs them on a cluster. Workers of a cluster
            send rows back instead of writing them.
        shard_bytes: size of a shard.

    Raises:
        StoreError: another store exists and `replace` is False, another process builds the store, the disk is full or
            cannot be written, too many clips are unusable, or a class lost all clips of a split. Finished work is kept.
    """
    if not clips:
        raise StoreError("Cannot build a store: the manifest has no clips.")
    folder, checks = out / "store", checks or Checks()
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(out / ".store.lock", wait=wait):
            plan = plan_store(clips, source_at(root), preset, decoder, checks, reading)
            if (existing := _existing(folder, plan, replace=replace)) is not None:
                shutil.rmtree(out / "store.partial", ignore_errors=True)
                return existing
            require_no_link(folder)
            if not replace:
                require_same_settings(out / "store.partial", plan)
            partial = Partial(out / "store.partial", plan, shard_bytes)
            try:
                _decode(plan, partial, run, workers, chunk, timeout_s, progress)
                check_quarantine(plan, partial.bad, max_bad_fraction, partial.folder / "quarantine.jsonl")
            except BaseException:
                partial.close()
                raise
            publish(plan, partial, folder, name=name, manifest_digest=manifest_digest, card=dict(card or {}))
    return ClipStore.open(folder)


def _existing(folder: Path, plan: Plan, *, replace: bool) -> ClipStore | None:
    """The store in `folder` if it was built from the plan; None if it is missing or may be replaced."""
    if not folder.exists():
        return None
    try:
        store = ClipStore.open(folder)
        if store_manifest(folder).get("plan", store.digest) == plan.fingerprint:
            store.remedy = "Rerun the command with `--replace` to build it again."
            store.require_intact()
            lost = _lost(folder)
            if lost and replace:
                return None
            if lost:
                _log.warning(
                    "The store lacks %d %s whose decoding took too long or too much memory, or crashed, such as %s. To "
                    "try again, rerun with `--replace`, and with a longer `--timeout`.",
                    len(lost), "clip" if len(lost) == 1 else "clips", lost[0],
                )  # fmt: skip
            return store
    except StoreError:
        if replace:
            return None
        raise
    if replace:
        return None
    raise StoreError(
        f"Cannot build a store in {folder}: it holds a store that differs in {'; '.join(differences(store, plan))}. "
        "Choose another folder, or replace the store (`--replace`)."
    )


def _lost(folder: Path) -> list[str]:
    """The ids of the clips that a store lacks, but that another build may decode."""
    with (folder / "quarantine.jsonl").open(encoding="utf-8") as lines:
        return [row["id"] for row in map(json.loads, lines) if row["stage"] in RETRIED]


def differences(store: ClipStore, plan: Plan) -> list[str]:
    """What differs between a store and a plan with another fingerprint: settings, clips, or the clips' files."""
    found = [*_setting_differences(store_manifest(store.path), plan), *_clip_differences(store.path, plan)]
    return found or ["the files of the clips, or their `start` and `end`"]


def _setting_differences(manifest: Mapping[str, Any], plan: Plan) -> Iterator[str]:
    earlier = manifest.get("settings", {key: manifest[key] for key in ("decoder", "preset")})  # 0.1 kept no others
    now = json.loads(canonical_json(plan.settings))
    for key in {**now, **earlier}:
        known = key in earlier or ("settings" in manifest and key != "decoding")
        if known and earlier.get(key) != now.get(key):
            yield f"{key} ({_setting_difference(earlier.get(key), now.get(key))})"
    if "decoding" in now and "decoding" not in earlier:
        yield "the version of this program, which decodes differently"


def _setting_difference(earlier: Any, now: Any) -> str:
    if isinstance(earlier, Mapping) and isinstance(now, Mapping):
        if earlier.get("name") == now.get("name"):
            return ", ".join(_changed(earlier, now))
        earlier, now = earlier.get("name"), now.get("name")
    return f"{earlier} there, {now} wanted"


def _changed(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """The names of the values that differ, with those of the mappings around them: `parts.audio.channel`."""
    for name in {**earlier, **now}:
        old, new = earlier.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from (f"{name}.{each}" for each in _changed(old, new))
        elif old != new:
            yield name


def _clip_differences(folder: Path, plan: Plan) -> Iterator[str]:
    known: dict[str, tuple[Any, ...]] = {}
    for name in ("quarantine.jsonl", "index.jsonl"):
        with (folder / name).open(encoding="utf-8") as lines:
            known |= {row["id"]: _facts(row) for row in map(json.loads, lines)}
    planned = {str(clip.id): _facts(describe(clip)) for clip in plan.clips}
    counts = {
        "missing there": len(planned.keys() - known.keys()),
        "only there": len(known.keys() - planned.keys()),
        "with another class, split or group": sum(known[i] != planned[i] for i in known.keys() & planned.keys()),
    }
    if any(counts.values()):
        yield f"clips ({', '.join(f'{count} {what}' for what, count in counts.items() if count)})"


def _facts(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["label"], row["split"], row["group"]


@dataclass(frozen=True)
class Decoded:
    """A worker's result for one clip. `rows` is empty if the worker wrote the rows itself."""

    status: RowStatus
    rows: dict[str, NDArray[Any]]


@dataclass(frozen=True)
class PackedClips:
    """Clips pickled into one buffer, because a million objects would take gigabytes in every worker."""

    content: NDArray[np.uint8]
    ends_N: NDArray[np.int64]

    @classmethod
    def of(cls, clips: Sequence[Clip]) -> "PackedClips":
        """Pack clips without their `truth`, which decoding does not need."""
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
    """The job of a worker process: decode clip `row`, and write its rows if there are `writers`."""

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
            path = None if error.path is None else error.path.as_posix()
            return Decoded(RowStatus(row=row, stage=error.stage, message=str(error), path=path, meta={}), {})
        except RemixStudyError:  # not the clip's fault: a package is missing, or a source does not answer
            raise
        except Exception as error:  # an error that a damaged file causes must not stop the other clips
            stage, reason = "decode", f"it cannot be decoded ({type(error).__name__})"
            if cause_of(error) == "out of memory":
                stage, reason = "memory", "decoding it takes too much memory"
            return Decoded(RowStatus(row=row, stage=stage, message=reason, meta={}), {})
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
        messages = {
            "timeout": f"decoding it took more than {timeout_s:g} s, twice",
            "died": "decoding it crashed the worker process, twice",
            "memory": "decoding it takes too much memory",
        }
        record(RowStatus(row=row, stage=reason, message=messages[reason], meta={}))

    writers = partial.writers if run is run_jobs else {}
    work = DecodeRow(PackedClips.of(plan.clips), plan.source, plan.preset, plan.decoder, plan.checks, writers)
    if progress is not None:
        progress(total - len(todo), total)
    try:
        run(work, todo, on_result=on_result, on_lost=on_lost, workers=workers, chunk=chunk, timeout_s=timeout_s)
    finally:
        partial.flush()
