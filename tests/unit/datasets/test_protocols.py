"""Published protocols: their lists are recognised, also with missing files, and other lists are refused"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from remix_study.datasets.protocols import PROTOCOLS, digest_of, require_published
from remix_study.errors import ManifestError
from remix_study.media.presets import preset_named
from tests.miniature import cremad, kinetics_sounds

TRAIN, TEST = cremad.clips(2), cremad.clips(4)[24:]


def published(name: str, train: list[str], test: list[str]) -> Any:
    return replace(PROTOCOLS[name], digests={"train": digest_of(train), "test": digest_of(test)})


def touched(root: Path, *names: str) -> Path:
    """Create files without content: lists and names are enough to find clips."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def found_in(name: str, root: Path, lists: Path) -> Any:
    return PROTOCOLS[name].make(str(root), lists, preset_named("tiny")).find()


def test_the_lists_are_known_by_their_clips_also_if_files_are_missing(tmp_path: Path) -> None:
    gone = TRAIN[0]
    root = touched(tmp_path / "c", *(f"VideoFlash/{clip}.flv" for clip in cremad.clips(4) if clip != gone))
    found = found_in("cremad", root, cremad.write_lists(tmp_path / "lists", TRAIN, TEST))
    require_published(published("cremad", TRAIN, TEST), found)
    assert list(found.absent) == [gone]


@pytest.mark.parametrize("change", ["a clip less", "two clips exchanged"])
def test_other_lists_are_refused(tmp_path: Path, change: str) -> None:
    root = touched(tmp_path / "c", *(f"VideoFlash/{clip}.flv" for clip in cremad.clips(4)))
    lists: Mapping[str, tuple[list[str], list[str]]] = {
        "a clip less": (TRAIN[:-1], TEST),
        "two clips exchanged": ([*TRAIN[:-1], TEST[0]], [*TEST[1:], TRAIN[-1]]),
    }
    found = found_in("cremad", root, cremad.write_lists(tmp_path / "lists", *lists[change]))
    with pytest.raises(ManifestError, match="must be those of OGM-GE, with 6698 clips for training and 744 for test"):
        require_published(published("cremad", TRAIN, TEST), found)


def test_the_seed_of_the_validation_clips_does_not_matter(tmp_path: Path) -> None:
    names = [kinetics_sounds.clip(label, n) for label in kinetics_sounds.LABELS for n in range(12)]
    root = touched(tmp_path / "k", *(f"{name}.mp4" for name in names))
    train, test = names[:30], names[30:]
    found = found_in("kinetics_sounds", root, kinetics_sounds.write_lists(tmp_path / "lists", train, test))
    short = [kinetics_sounds.short(name) for name in test]
    require_published(published("kinetics_sounds", train, short), found)
    assert {"train", "val", "test"} >= set(found.listed.values())
