"""Publishing a store: copy the good rows, write the metadata, and rename the folder

    store/<modality>-*.npy    the good rows, in manifest order, in shards
    store/index.jsonl         one line per row
    store/quarantine.jsonl    one line per unusable clip, with the reason
    store/card.md, card.json  a description for readers and for MLflow
    store/manifest.json       written last: sizes and checksums of all other files, classes, statistics, fingerprint

The folder is renamed to its final name only when it is complete.
"""

# N rows

import collections
import concurrent.futures
import hashlib
import json
import shlex
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from remix_study.errors import StoreError
from remix_study.files import operations
from remix_study.files.disk import checksum, sync, write_atomically
from remix_study.media.card import Census, make_card, markdown
from remix_study.media.decoders import decoder_version
from remix_study.media.partial import RETRIED, Partial, RowStatus
from remix_study.media.plan import SCHEMA, Plan, canonical_json, describe
from remix_study.media.presets import Preset
from remix_study.media.shards import Layout, RowReader
from remix_study.media.statistics import statistics_of
from remix_study.media.store import manifest_checksum
from remix_study.media.workers import available_cores

_COPY_BYTES = 2**22


def quarantine_row(plan: Plan, status: RowStatus) -> dict[str, Any]:
    """A line of quarantine.jsonl."""
    clip = plan.clips[status["row"]]
    return {
        **{key: value for key, value in describe(clip).items() if key != "truth"},
        "paths": {m: clip.paths[m] for m in plan.preset.modalities},
        "stage": status["stage"],
        "message": status["message"],
        **({"path": path} if (path := status.get("path")) is not None else {}),
    }


def check_quarantine(plan: Plan, bad: Sequence[RowStatus], max_bad_fraction: float, report: Path) -> None:
    """Write the report of unusable clips, and check that they are few enough.

    Args:
        bad: statuses of the unusable clips.
        max_bad_fraction: the largest fraction of unusable clips, 0 to 1.
        report: the file to write; it is not written if all clips are usable.

    Raises:
        StoreError: too many clips are unusable, or a class lost all clips of a split.
    """
    if not bad:
        return
    write_atomically(report, _lines(quarantine_row(plan, status) for status in bad))
    reasons = collections.Counter(str(status["stage"]) for status in bad)
    counted = ", ".join(f"{count} {stage}" for stage, count in sorted(reasons.items()))
    if len(bad) > max_bad_fraction * len(plan.clips):
        raise StoreError(
            f"Too many clips are unusable: {len(bad)} of {len(plan.clips)} ({counted}), but at most "
            f"{max_bad_fraction:.1%} may be, such as {plan.clips[bad[0]['row']].id}: {bad[0]['message']}. "
            f"{report} lists them. Repair or remove them, or allow more (`--max-bad`)."
        )
    unusable = {status["row"] for status in bad}
    left = {(clip.split, clip.label) for row, clip in enumerate(plan.clips) if row not in unusable}
    lost = sorted({(clip.split, clip.label) for clip in plan.clips} - left)
    if lost:
        which = "; ".join(f"class {label!r} in split {split!r}" for split, label in lost)
        raise StoreError(
            f"All clips of some classes are unusable: {which} ({counted}). {report} lists them. Repair them, or remove "
            "the class from the manifest."
        )


def publish(
    plan: Plan, partial: Partial, folder: Path, *, name: str, manifest_digest: str, card: Mapping[str, Any]
) -> None:
    """Publish an unfinished store as `folder`, replacing an older store, and delete the unfinished one."""
    fresh = fresh_folder(folder)
    good_n = partial.good_n
    for modality in plan.preset.modalities:
        _compact(partial, modality, good_n, fresh)
    write_metadata(
        fresh,
        StoreContent(
            name=name,
            fingerprint=_fingerprint(plan, partial.bad),
            plan=plan.fingerprint,
            manifest_digest=manifest_digest,
            decoder=decoder_version(plan.decoder),
            preset=plan.preset,
            per_shard={m: layout.per_shard for m, layout in partial.layouts.items()},
            rows=len(good_n),
            index=({**describe(plan.clips[row]), "meta": partial.status(row)["meta"]} for row in good_n),
            quarantine=[quarantine_row(plan, status) for status in partial.bad],
            facts=card,
            settings=plan.settings,
        ),
    )
    replace_folder(fresh, folder)
    partial.close()
    operations.remove_folder(partial.folder)


def _fingerprint(plan: Plan, bad: Sequence[RowStatus]) -> str:
    """The fingerprint of the store: that of the plan, unless clips are lost that another build may decode."""
    lost = sorted(plan.clips[status["row"]].id for status in bad if status["stage"] in RETRIED)
    return hashlib.sha256(canonical_json([plan.fingerprint, lost]).encode()).hexdigest() if lost else plan.fingerprint


@dataclass(frozen=True)
class StoreContent:
    """A store without its arrays.

    Attributes:
        per_shard: rows per shard, by modality.
        rows: number of rows.
        index: the entries of index.jsonl, one per row; iterated once.
        quarantine: the entries of quarantine.jsonl.
        facts: what the corpus states about itself, for the card.
        base: fingerprint of the store that this one is derived from.
        plan: fingerprint of the plan. The store has the same one, unless a clip is lost that another build may decode.
            None for a derived store.
        settings: of the plan; a derived store has none.
    """

    name: str
    fingerprint: str
    manifest_digest: str
    decoder: str
    preset: Preset
    per_shard: Mapping[str, int]
    rows: int
    index: Iterable[Mapping[str, Any]]
    quarantine: Sequence[Mapping[str, Any]]
    facts: Mapping[str, Any]
    base: str | None = None
    plan: str | None = None
    settings: Mapping[str, Any] | None = None


def write_metadata(folder: Path, content: StoreContent, known: Mapping[str, Mapping[str, Any]] | None = None) -> None:
    """Write all files of a store except the arrays, which are in `folder` already.

    Args:
        known: sizes and checksums that were computed before, by file name.
    """
    layouts = {m: Layout(m, part, content.rows, content.per_shard[m]) for m, part in content.preset.parts.items()}
    census, train_N = Census(), np.zeros(content.rows, np.bool_)

    def counted() -> Iterator[Mapping[str, Any]]:
        for number, row in enumerate(content.index):
            census.count(row)
            train_N[number] = row["split"] == "train"
            yield row

    write_atomically(folder / "index.jsonl", _lines(counted()))
    write_atomically(folder / "quarantine.jsonl", _lines(content.quarantine))
    census.left_out.update(str(row["stage"]) for row in content.quarantine)
    card = make_card(
        content.facts, name=content.name, fingerprint=content.fingerprint, preset=content.preset,
        decoder=content.decoder, census=census, size=sum(layout.bytes for layout in layouts.values()),
    )  # fmt: skip
    write_atomically(folder / "card.json", _pretty(card))
    write_atomically(folder / "card.md", markdown(card))
    rows_n = np.flatnonzero(train_N) if train_N.any() else np.arange(content.rows)
    statistics = {m: statistics_of(RowReader(folder, layout), rows_n) for m, layout in sorted(layouts.items())}
    manifest = {
        "schema": SCHEMA,
        "name": content.name,
        "fingerprint": content.fingerprint,
        "manifest_digest": content.manifest_digest,
        "decoder": content.decoder,
        **({} if content.settings is None else {"settings": content.settings}),
        "preset": content.preset.plain(),
        "modalities": list(content.preset.modalities),
        "rows": content.rows,
        "per_shard": dict(content.per_shard),
        "classes": census.classes,
        "splits": census.splits,
        "statistics": {m: [np.asarray(each).tolist() for each in of] for m, of in statistics.items()},
        "card": card,
        "files": _checksums(folder, known or {}),
    }
    if content.base is not None:
        manifest["derived_from"] = content.base
    if content.plan not in (None, content.fingerprint):
        manifest["plan"] = content.plan
    manifest["sha256"] = manifest_checksum(manifest)
    write_atomically(folder / "manifest.json", _pretty(manifest))


def _checksums(folder: Path, known: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    paths = sorted(folder.iterdir())
    with concurrent.futures.ThreadPoolExecutor(available_cores()) as pool:  # hashing releases the GIL
        found = pool.map(lambda path: dict(known.get(path.name) or checksum(path)), paths)
        return {path.name: each for path, each in zip(paths, found, strict=True)}


def _lines(rows: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
    return (canonical_json(row).encode() + b"\n" for row in rows)


def _pretty(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _compact(partial: Partial, modality: str, rows_n: NDArray[np.int64], target: Path) -> None:
    before = partial.layouts[modality]
    after = Layout(modality, before.part, len(rows_n), before.per_shard)
    reader = partial.reader(modality)
    for shard, name in enumerate(after.names):
        first = shard * after.per_shard
        here_n = rows_n[first : first + after.per_shard]
        # Shards before the first unusable clip are unchanged.
        if len(here_n) == before.rows_of(shard) and here_n[-1] == first + len(here_n) - 1:
            link_or_copy(partial.rows_folder / name, target / name)
            continue
        with operations.create(target / name) as file:
            file.write(after.header(shard))
            for block in reader.blocks(here_n):
                file.write(block.data)
            file.flush()
            operations.fsync(file.fileno())


def link_or_copy(source: Path, target: Path) -> None:
    """Create a hard link, or a copy if the file systems differ or do not support links."""
    try:
        operations.link(source, target)
    except OSError:
        with source.open("rb") as original, operations.create(target) as copy:
            shutil.copyfileobj(original, copy, _COPY_BYTES)
        sync(target)


def fresh_folder(folder: Path) -> Path:
    """Create an empty folder next to `folder`, to be filled and passed to `replace_folder`."""
    fresh = folder.with_name(f"{folder.name}.fresh")
    _remove(fresh)
    fresh.mkdir(parents=True)
    return fresh


def replace_folder(fresh: Path, folder: Path) -> None:
    """Rename `fresh` to `folder`, replacing an older folder. After a crash, `folder` is the older or the new one.

    On a file system that cannot exchange two names in one step, there is no `folder` for a moment.
    """
    sync(fresh)
    old = folder.with_name(f"{folder.name}.old")
    _remove(old)
    if not folder.exists():
        operations.rename(fresh, folder)
    elif operations.exchange(fresh, folder):
        old = fresh
    else:
        operations.rename(folder, old)
        try:
            operations.rename(fresh, folder)
        except OSError:
            operations.rename(old, folder)
            raise
    sync(folder.parent)
    _remove(old)


def require_no_link(folder: Path) -> None:
    """Check that a store can be built in `folder` and later replaced, before hours of work.

    Raises:
        StoreError: it is a symbolic link, whose target may belong to another corpus.
    """
    if folder.is_symlink():
        target = folder.readlink()
        raise StoreError(
            f"Cannot build a store in {folder}: it is a symbolic link to {target}, and a store behind a link is never "
            f"replaced. Remove the link (`rm {shlex.quote(str(folder))}`), or build on the other disk with `--out`."
        )


def _remove(path: Path) -> None:
    """Remove a folder with its content, or a file or link; do nothing if there is none."""
    if path.is_dir() and not path.is_symlink():
        operations.remove_folder(path)
    else:
        operations.remove(path)
