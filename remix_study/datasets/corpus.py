"""Preparing and opening the clip store of a corpus

Each corpus is a module of this package, whose class finds the clips below a root (`Corpus.find`). `prepare` writes
them as a manifest and decodes them once:

    out/manifest.jsonl   the clips, by paths relative to the root
    out/absent.csv       listed clips whose files are missing; only if there are any
    out/store/           the clip store that training reads
    out/fold-0/store/    with folds: the same rows under other splits

A store is opened only if the manifest next to it has not changed since it was built.
"""

import collections
import contextlib
import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from remix_study.datasets.manifest import read_manifest, row_of_clip, write_manifest
from remix_study.datasets.oracle import oracle
from remix_study.datasets.synthetic import FPS, SENSOR, SENSORS, STEPS, SyntheticSpec, card_facts, render
from remix_study.errors import ManifestError, StoreError
from remix_study.files import operations
from remix_study.files.disk import storage_errors, write_atomically
from remix_study.files.urls import is_url, path_of
from remix_study.media.build import build_store
from remix_study.media.derive import derive_store
from remix_study.media.integrity import Damage
from remix_study.media.plan import Progress, manifest_digest, rows_digest
from remix_study.media.presets import Channel, FeaturePreset, Preset, VideoPreset, preset_named, with_channel
from remix_study.media.remote_store import local_copy
from remix_study.media.source import Source
from remix_study.media.store import SMALL_BYTES, ClipStore, damage_of, store_folder, store_manifest
from remix_study.media.video import middle_frames
from remix_study.sample import Clip, SampleId
from remix_study.units import cell_as_text


@dataclass(frozen=True)
class Found:
    """The clips that were found of a corpus.

    Attributes:
        clips: the clips, in a fixed order.
        facts: for the store's card: at least `corpus`, `licence`, `citation` and a description of the `split`.
        warnings: sentences that a user should read.
        absent: classes of the listed clips whose files are missing, by id.
        folds: for each fold, the split of every clip.
        listed: the split of every clip of the published lists, also of missing ones; empty without lists.
        shared: clips with the same content as one of another split, as published; `warnings` name them.
    """

    clips: tuple[Clip, ...]
    facts: Mapping[str, str]
    warnings: tuple[str, ...] = ()
    absent: Mapping[str, str] = field(default_factory=dict)
    folds: tuple[Mapping[SampleId, str], ...] = ()
    listed: Mapping[str, str] = field(default_factory=dict)
    shared: frozenset[SampleId] = frozenset()


class Corpus(Protocol):
    """A corpus with its options."""

    @property
    def name(self) -> str:
        """A short name, such as `cremad`."""
        ...

    @property
    def source(self) -> Source:
        """The corpus's files."""
        ...

    @property
    def preset(self) -> Preset:
        """What is kept of each clip."""
        ...

    def find(self) -> Found:
        """Find the clips from lists and file names, without opening media files.

        The same files give the same clips in the same order.

        Raises:
            ManifestError: the root does not have the layout of this corpus. The message names the expected layout.
        """
        ...


def prepare(
    corpus: Corpus, out: Path, *, found: Found | None = None, channel: Channel = "mix", **options: Any
) -> ClipStore:
    """Prepare a corpus: find its clips, build their store, write the manifest, and derive a store for each fold.

    Args:
        out: the folder for the manifest and the stores.
        found: the result of `corpus.find()`, if it is known.
        channel: what to keep of audio with several channels.
        options: passed to `build_store`.

    Returns:
        The store in `out`/store.

    Raises:
        ManifestError: raised by `Corpus.find`; or no clip was found, or `out` holds a manifest of the corpus's owner.
        StoreError: raised by `build_store`.
        ConfigError: `channel` is not `mix`, and the corpus has no audio from media files.
    """
    found = corpus.find() if found is None else found
    if not found.clips:
        raise ManifestError(f"Cannot prepare {corpus.name}: no clips found at {corpus.source.root}. Check the folder.")
    manifest = out / "manifest.jsonl"
    own = _is_the_owners(manifest, found.clips, corpus.source.root)
    digest = manifest_digest(manifest) if own else rows_digest(row_of_clip(clip) for clip in found.clips)
    store = build_store(
        found.clips, corpus.source.root, out, preset=with_channel(corpus.preset, channel), name=corpus.name,
        manifest_digest=digest, card=_facts(found), **options,
    )  # fmt: skip
    # Written after the store: if `build_store` raises, `out` may hold another store with its own manifest.
    with storage_errors(out):
        if not own:
            write_manifest(manifest, found.clips)
        write_absent(out / "absent.csv", found.absent)
    for number, splits in enumerate(found.folds):
        derive_store(store, out / f"fold-{number}", splits, card={"fold": f"{number} of {len(found.folds)}"})
    with storage_errors(out):
        _remove_folds(out, len(found.folds))
    return store


def _remove_folds(out: Path, first: int) -> None:
    """Remove the stores of the folds from number `first` on, which an earlier preparation with more folds derived."""
    for folder in out.glob("fold-*"):
        number = folder.name.removeprefix("fold-")
        if not number.isdecimal() or int(number) < first:
            continue
        try:
            derived = ClipStore.open(folder).base is not None
        except StoreError:  # not a store, or one that a user should see
            continue
        if derived:
            operations.remove_folder(folder / "store")
            (folder / ".store.lock").unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # files of the user stay
                folder.rmdir()


def _is_the_owners(path: Path, clips: Sequence[Clip], root: str) -> bool:
    """Whether `path` is a manifest that belongs to the corpus's own files, and must not be overwritten.

    Raises:
        ManifestError: it does, and it lists other clips than `clips`.
    """
    own = path.exists() and str(path.parent.absolute()) == root and not _written_by_us(path)
    if own and read_manifest(path) != list(clips):
        raise ManifestError(
            f"Cannot write {path}: this manifest belongs to the corpus, and has other splits or keys. Choose another "
            "folder with `--out`."
        )
    return own


def _written_by_us(manifest: Path) -> bool:
    """Whether the store next to a manifest was built from it, because then an earlier preparation wrote both."""
    try:
        ClipStore.open(manifest.parent).require_manifest(manifest)
    except StoreError:
        return False
    return True


def _facts(found: Found) -> dict[str, Any]:
    absent = collections.Counter(found.absent.values())
    return {**found.facts, "warnings": list(found.warnings), "absent_by_class": dict(sorted(absent.items()))}


def write_absent(path: Path, absent: Mapping[str, str]) -> None:
    """Write one line (class, id) per absent clip; without absent clips, delete the file."""
    if not absent:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["class", "id"])
    rows = sorted((label, clip) for clip, label in absent.items())
    writer.writerows([cell_as_text(cell) for cell in row] for row in rows)
    write_atomically(path, text.getvalue())


def prepare_corpus(manifest: Path, out: Path | None = None, *, preset: Preset, name: str, **options: Any) -> ClipStore:
    """Build the store of a manifest's clips.

    Args:
        out: the store is built in `out`/store; by default next to the manifest.
        options: passed to `build_store`.

    Raises:
        ManifestError: raised by `read_manifest`.
        StoreError: raised by `build_store`.
    """
    clips = read_manifest(manifest)
    root = manifest.parent
    return build_store(
        clips, root, out or root, preset=preset, name=name, manifest_digest=manifest_digest(manifest), **options
    )


def prepare_synthetic(
    out: Path,
    spec: SyntheticSpec,
    *,
    preset: str,
    on_render: Progress | None = None,
    on_decode: Progress | None = None,
    **options: Any,
) -> ClipStore:
    """Render the synthetic corpus and build its store. An interrupted call resumes when it is repeated.

    The card of a new store states the accuracy of an oracle on the test clips (datasets/oracle.py).

    Args:
        on_render, on_decode: called as `on_render(done, total)` with numbers of clips.
        options: passed to `build_store`.

    Raises:
        ConfigError: `preset` is not the name of a preset.
        StoreError: `out` cannot be written, or holds another corpus.
    """
    wanted = _with_sensors(preset_named(preset), spec)  # first, so that a misspelt name raises at once
    manifest = render(out, spec, progress=on_render)
    is_new = options.get("replace") or not (out / "store" / "manifest.json").exists()
    card = {**card_facts(spec), "oracle": _oracle_facts(spec, wanted)} if is_new else {}
    return prepare_corpus(manifest, preset=wanted, name="synthetic", card=card, progress=on_decode, **options)


def _with_sensors(preset: Preset, spec: SyntheticSpec) -> Preset:
    if not spec.sensor:
        return preset
    sensors = FeaturePreset("sequence", (STEPS, SENSORS))
    return Preset(f"{preset.name}+{SENSOR}", {**preset.parts, SENSOR: sensors})


def _oracle_facts(spec: SyntheticSpec, preset: Preset) -> dict[str, Any]:
    frames = {min(part.frames, FPS) for part in preset.parts.values() if isinstance(part, VideoPreset)}
    return oracle(spec, preset.modalities, *(middle_frames(0, FPS, count) for count in frames)).plain()


def open_corpus(where: Path | str, *, verify: bool = False, fetching: Progress | None = None) -> ClipStore:
    """Open the store of a corpus folder, or a store's own folder. A store at a URL is downloaded once per machine.

    The files of a small store are compared with their checksums, once per machine. Training compares those of a large
    store.

    Args:
        where: a folder or a URL.
        verify: read all files and compare their checksums, whatever was compared before.
        fetching: called as `fetching(done, total)` with megabytes of a download.

    Raises:
        StoreError: there is no store, it is damaged, or the manifest next to it has changed since it was built.
        SourceError: the URL does not answer, or access is denied.
    """
    remote = is_url(where)
    folder = local_copy(str(where), verify=verify, progress=fetching) if remote else path_of(where)
    store = ClipStore.open(folder, verify=verify and not remote)
    if remote:
        store.remedy = "Rerun the command: it downloads the damaged files again."
    if not verify:
        store.require_intact(at_most_bytes=SMALL_BYTES)
    manifest = folder / "manifest.jsonl"
    if manifest.exists():
        store.require_manifest(manifest)
    return store


class VerifiedStore(NamedTuple):
    """A store whose files were read: their number and size, and the damaged ones."""

    folder: Path
    files: int
    bytes: int
    damages: tuple[Damage, ...]


def stores_of(where: Path | str, *, fetching: Progress | None = None) -> list[Path]:
    """The folders of a corpus's store and of the stores of its folds. A damaged copy of a URL is downloaded again.

    Args:
        where: the folder or URL of a corpus or a store.
        fetching: called as `fetching(done, total)` with megabytes of a download.

    Raises:
        StoreError: there is no store.
        SourceError: the URL does not answer, access is denied, or the store there is damaged.
    """
    folder = local_copy(str(where), verify=True, progress=fetching) if is_url(where) else path_of(where)
    folds = sorted(folder.glob("fold-*/store/manifest.json"))
    return [store_folder(folder), *(manifest.parent for manifest in folds)]


def verify_store(folder: Path, *, known: bool = False, progress: Progress | None = None) -> VerifiedStore:
    """Read all files of a store, and compare them and the manifest next to the store with its manifest.json.

    Args:
        folder: the store's own folder.
        known: do not read files again that have not changed since they were last read.
        progress: called as `progress(done, total)` with megabytes.
    """
    files: Mapping[str, Mapping[str, Any]] = {}
    try:
        manifest = store_manifest(folder)
        files = manifest["files"]
        damages = damage_of(folder, manifest, known=known, progress=progress)
        if not damages:
            store = ClipStore.open(folder)
            if (beside := folder.parent / "manifest.jsonl").exists():
                store.require_manifest(beside)
    except StoreError as error:
        damages = [Damage("manifest.json", str(error))]
    return VerifiedStore(folder, len(files), sum(of["bytes"] for of in files.values()), tuple(damages))
