"""A folder with a manifest becomes a clip store, and is opened only if the two still belong together

corpus/manifest.jsonl   what there is
corpus/clips/...        the files, wherever the manifest says
corpus/store/           what training reads
"""

from pathlib import Path
from typing import Any

from remix_study.datasets.manifest import read_manifest
from remix_study.datasets.synthetic import SyntheticSpec, render
from remix_study.media.build import build_store
from remix_study.media.plan import Progress, manifest_digest
from remix_study.media.presets import Preset, preset_named
from remix_study.media.store import ClipStore


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


def open_corpus(folder: Path, *, verify: bool = False) -> ClipStore:
    """The store of a corpus folder, or a store on its own.

    Raises:
        StoreError: there is none, it is damaged, or the manifest beside it has changed since.
    """
    store = ClipStore.open(folder, verify=verify)
    manifest = folder / "manifest.jsonl"
    if manifest.exists():
        store.matches(manifest)
    return store
