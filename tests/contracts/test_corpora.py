"""What every corpus must do: its manifest is valid, its clips decode, no group crosses splits, and it is repeatable"""

import collections
from collections.abc import Callable
from pathlib import Path

from remix_study.datasets.manifest import SPLITS, read_manifest
from remix_study.datasets.synthetic import SyntheticSpec, render
from remix_study.media.checks import Checks
from remix_study.media.clip import decode_clip
from remix_study.media.decoders import PyAVDecoder
from remix_study.media.presets import PRESETS
from remix_study.media.source import source_at


class CorpusContract:
    make: Callable[[Path], Path]

    def test_the_manifest_names_all_splits_with_all_classes(self, tmp_path: Path) -> None:
        clips = read_manifest(type(self).make(tmp_path))
        classes = {clip.label for clip in clips}
        for split in SPLITS:
            assert {clip.label for clip in clips if clip.split == split} == classes

    def test_every_clip_decodes(self, tmp_path: Path) -> None:
        manifest = type(self).make(tmp_path)
        for clip in read_manifest(manifest):
            rows = decode_clip(clip, source_at(manifest.parent), PRESETS["tiny"], PyAVDecoder(), Checks()).rows
            assert set(rows) == {"audio", "video"}

    def test_made_twice_it_is_the_same(self, tmp_path: Path) -> None:
        contents = []
        for name in ("one", "two"):
            folder = type(self).make(tmp_path / name).parent
            files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix in (".mp4", ".jsonl"))
            contents.append({path.relative_to(folder): path.read_bytes() for path in files})
        assert contents[0] == contents[1]
        counts = collections.Counter(path.suffix for path in contents[0])
        assert counts[".mp4"] >= 3


class TestSynthetic(CorpusContract):
    @staticmethod
    def make(folder: Path) -> Path:
        return render(folder, SyntheticSpec(train=6, val=3, test=3, classes=3), workers=2)
