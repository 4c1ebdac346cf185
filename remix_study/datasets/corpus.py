"""From a corpus's files to a clip store; a store is opened only if its manifest is still the one it was made from

Every corpus is one file of this package, whose class finds the clips of a root (`Corpus.find`); what it found is
written as a manifest, and decoded once:

    out/manifest.jsonl   the clips, by paths relative to the root
    out/absent.csv       clips that the corpus's lists name and that are not there; only if there are any
    out/store/           what training reads
    out/fold-0/store/    with folds: the same rows under other splits
"""

import collections
import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from remix_study.datasets.manifest import read_manifest, row_of_clip, write_manifest
from remix_study.datasets.synthetic import SyntheticSpec, render
from remix_study.errors import ManifestError, StoreError
from remix_study.files.disk import storage_errors, write_atomically
from remix_study.files.urls import is_url, path_of
from remix_study.media.build import build_store
from remix_study.media.derive import derive_store
from remix_study.media.plan import Progress, manifest_digest, rows_digest
from remix_study.media.presets import Preset, preset_named
from remix_study.media.remote_store import local_copy
from remix_study.media.source import Source
from remix_study.media.store import ClipStore
from remix_study.sample import Clip, SampleId


@dataclass(frozen=True)
class Found:
    """What a corpus's files turned out to be.

    `absent`: id -> class of the clips that lists name and that are not there. `facts` go to the store's card: at least
    `corpus`, `licence`, `citation` and `split` in words. `folds`: for each fold, the split of every clip.
    """

    clips: tuple[Clip, ...]
    facts: Mapping[str, str]
    warnings: tuple[str, ...] = ()
    absent: Mapping[str, str] = field(default_factory=dict)
    folds: tuple[Mapping[SampleId, str], ...] = ()


class Corpus(Protocol):
    """One corpus, with its options. `preset`: what is kept of its clips."""

    @property
    def name(self) -> str: ...

    @property
    def source(self) -> Source: ...

    @property
    def preset(self) -> Preset: ...

    def find(self) -> Found:
        """Look at lists and file names, not into media files; the same files give the same clips in the same order.

        Raises:
            ManifestError: the root does not have the layout of this corpus; says which was expected.
        """
        ...


def prepare(corpus: Corpus, out: Path, *, found: Found | None = None, **options: Any) -> ClipStore:
    """Find, write the manifest, decode (`build_store`, whose `options` these are), and derive a store for each fold.

    Raises:
        ManifestError, StoreError: as `Corpus.find` and `build_store`.
    """
    found = corpus.find() if found is None else found
    if not found.clips:
        raise ManifestError(f"{corpus.source.root} must hold clips of {corpus.name}, but none was found.")
    manifest = out / "manifest.jsonl"
    own = _is_the_owners(manifest, found.clips, corpus.source.root)
    digest = manifest_digest(manifest) if own else rows_digest(row_of_clip(clip) for clip in found.clips)
    store = build_store(
        found.clips, corpus.source.root, out, preset=corpus.preset, name=corpus.name, manifest_digest=digest,
        card=_facts(found), **options,
    )  # fmt: skip
    with storage_errors(out):  # after the store: where that is refused, another one is there with a manifest of its own
        if not own:
            write_manifest(manifest, found.clips)
        write_absent(out / "absent.csv", found.absent)
    for number, splits in enumerate(found.folds):
        derive_store(store, out / f"fold-{number}", splits, card={"fold": f"{number} of {len(found.folds)}"})
    return store


def _is_the_owners(path: Path, clips: Sequence[Clip], root: str) -> bool:
    """Whether a manifest is there that lies among the corpus's own files: it is not touched.

    Raises:
        ManifestError: it is, and tells of other clips.
    """
    own = path.exists() and str(path.parent.absolute()) == root and not _made_here(path)
    if own and read_manifest(path) != list(clips):
        raise ManifestError(
            f"{path} is the corpus's own, and would be overwritten with other splits or keys. Choose another folder "
            "with `--out`."
        )
    return own


def _made_here(manifest: Path) -> bool:
    """Whether the store beside it was made from it: then an earlier preparation wrote both."""
    try:
        ClipStore.open(manifest.parent).require_manifest(manifest)
    except StoreError:
        return False
    return True


def _facts(found: Found) -> dict[str, Any]:
    absent = collections.Counter(found.absent.values())
    return {**found.facts, "warnings": list(found.warnings), "absent_by_class": dict(sorted(absent.items()))}


def write_absent(path: Path, absent: Mapping[str, str]) -> None:
    """One line per absent clip: class and id; no file where nothing is absent."""
    if not absent:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["class", "id"])
    writer.writerows(sorted((label, clip) for clip, label in absent.items()))
    write_atomically(path, text.getvalue())


def prepare_corpus(manifest: Path, out: Path | None = None, *, preset: Preset, name: str, **options: Any) -> ClipStore:
    """`build_store` (whose `options` these are) for a manifest; the store is `out`/store, by default beside it.

    Raises:
        ManifestError, StoreError: as `read_manifest` and `build_store`.
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
    """Render the procedural corpus as clips and decode them once; both go on from where they were."""
    wanted = preset_named(preset)  # a misspelt one is refused before an hour of rendering
    manifest = render(out, spec, progress=on_render)
    return prepare_corpus(manifest, preset=wanted, name="synthetic", progress=on_decode, **options)


def open_corpus(where: Path | str, *, verify: bool = False, fetching: Progress | None = None) -> ClipStore:
    """The store of a corpus folder, or a store on its own; one at a URL is downloaded first, once per machine.

    `verify` compares checksums. `fetching(done, total)` counts megabytes of a download.

    Raises:
        StoreError: there is none, it is damaged, or the manifest beside it has changed since.
        SourceError: the URL does not answer, or does not let us in.
    """
    folder = local_copy(str(where), verify=verify, progress=fetching) if is_url(where) else path_of(where)
    store = ClipStore.open(folder, verify=verify)
    manifest = folder / "manifest.jsonl"
    if manifest.exists():
        store.require_manifest(manifest)
    return store
