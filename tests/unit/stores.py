"""Clip stores with modified attributes"""

import copy
from typing import Any, Literal

from remix_study.media.presets import FeaturePreset, Preset
from remix_study.media.store import ClipStore


def changed(store: ClipStore, **attributes: Any) -> ClipStore:
    other = copy.copy(store)
    for name, value in attributes.items():
        setattr(other, name, value)
    return other


def with_text(store: ClipStore, layout: Literal["vector", "sequence", "image"] = "vector") -> ClipStore:
    """Return the store with a third modality, `text`, which has no rows on disk."""
    shape = (6,) if layout == "vector" else (5, 6)
    preset = Preset("three", {**store.preset.parts, "text": FeaturePreset(layout, shape)})
    return changed(store, modalities=("audio", "video", "text"), preset=preset)
