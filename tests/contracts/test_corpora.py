"""The contract of a corpus: clips decode, groups stay within splits, and the same files give the same clips"""

import collections
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from remix_study.datasets.ave import Ave
from remix_study.datasets.corpus import Corpus, Found
from remix_study.datasets.cremad import Cremad
from remix_study.datasets.kinetics_sounds import KineticsSounds
from remix_study.datasets.manifest import SPLITS, read_manifest, write_manifest
from remix_study.datasets.mosei import mosei_at
from remix_study.datasets.synthetic import SyntheticSpec, render
from remix_study.datasets.ucf101 import Ucf101
from remix_study.errors import ManifestError
from remix_study.media.checks import Checks
from remix_study.media.clip import decode_clip
from remix_study.media.decoders import PyAVDecoder
from remix_study.media.presets import PRESETS, Preset
from remix_study.media.source import Source, source_at
from tests.miniature import ave, cremad, kinetics_sounds, mosei, ucf101

TINY = PRESETS["tiny"]


class CorpusContract:
    write: Callable[[Path], Any]
    """Writes a miniature of the corpus into a folder"""
    make: Callable[[Path], Corpus]
    """Opens the corpus of a folder"""

    @pytest.fixture(scope="class")
    @classmethod
    def corpus(cls, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
        root = tmp_path_factory.mktemp("corpus")
        cls.write(root)
        return cls.make(root)

    @pytest.fixture(scope="class")
    @classmethod
    def found(cls, corpus: Corpus) -> Found:
        return corpus.find()

    def test_its_manifest_is_valid_and_reads_back_equal(self, found: Found, corpus: Corpus) -> None:
        path = Path(corpus.source.root) / "written.jsonl"
        write_manifest(path, found.clips)
        assert tuple(read_manifest(path)) == found.clips
        path.unlink()

    def test_every_split_has_every_class(self, found: Found) -> None:
        classes = {clip.label for clip in found.clips}
        for split in SPLITS:
            assert {clip.label for clip in found.clips if clip.split == split} == classes

    def test_no_group_is_in_two_splits(self, found: Found) -> None:
        splits = collections.defaultdict(set)
        for clip in found.clips:
            if clip.group is not None:
                splits[clip.group].add(clip.split)
        assert all(len(found_in) == 1 for found_in in splits.values())

    def test_every_clip_decodes_to_the_shapes_of_the_preset(self, corpus: Corpus, found: Found) -> None:
        preset = corpus.preset
        for clip in found.clips:
            rows = decode_clip(clip, corpus.source, preset, PyAVDecoder(), Checks()).rows
            assert {m: row.shape for m, row in rows.items()} == {m: preset.shape(m) for m in preset.modalities}

    def test_the_card_states_origin_and_licence(self, found: Found) -> None:
        assert {"corpus", "licence", "citation", "split"} <= found.facts.keys()
        assert all(found.facts.values())

    def test_absent_clips_are_not_found(self, found: Found) -> None:
        assert not set(found.absent) & {clip.id for clip in found.clips}

    def test_the_same_files_give_the_same_clips_in_the_same_order(
        self, corpus: Corpus, found: Found, tmp_path: Path
    ) -> None:
        shutil.copytree(corpus.source.root, tmp_path / "copy")
        again = type(self).make(tmp_path / "copy").find()
        assert again == found

    def test_a_folder_without_the_corpus_raises(self, tmp_path: Path) -> None:
        (tmp_path / "letter.txt").write_text("nothing to be seen here")
        with pytest.raises(ManifestError) as caught:
            type(self).make(tmp_path).find()
        assert str(caught.value).endswith(".")


@dataclass(frozen=True)
class _OfManifest:
    """Adapter for a rendered corpus, which already has a manifest."""

    source: Source
    preset: Preset = TINY
    name: str = "synthetic"

    def find(self) -> Found:
        facts = {"corpus": "rendered", "licence": "none needed", "citation": "none", "split": "rendered"}
        return Found(tuple(read_manifest(Path(self.source.root) / "manifest.jsonl")), facts)


class TestSynthetic(CorpusContract):
    make = staticmethod(lambda root: _OfManifest(source_at(root)))

    @staticmethod
    def write(folder: Path) -> Path:
        return render(folder, SyntheticSpec(train=6, val=3, test=3, classes=3), workers=2)

    def test_rendering_twice_produces_the_same_bytes(self, tmp_path: Path) -> None:
        contents = []
        for name in ("one", "two"):
            folder = self.write(tmp_path / name).parent
            files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix in (".mp4", ".jsonl"))
            contents.append({path.relative_to(folder): path.read_bytes() for path in files})
        assert contents[0] == contents[1]
        counts = collections.Counter(path.suffix for path in contents[0])
        assert counts[".mp4"] >= 3


class TestCremad(CorpusContract):
    write = staticmethod(lambda root: cremad.write(root, sentences=["IEO"]))
    make = staticmethod(lambda root: Cremad(source_at(root), preset=TINY))


class TestCremadAsArrays(CorpusContract):
    write = staticmethod(lambda root: cremad.write(root, sentences=["IEO"], layout="arrays"))
    make = staticmethod(lambda root: Cremad(source_at(root), preset=TINY))


class TestKineticsSounds(CorpusContract):
    write = staticmethod(kinetics_sounds.write)
    make = staticmethod(lambda root: KineticsSounds(source_at(root), preset=TINY))


class TestAve(CorpusContract):
    write = staticmethod(ave.write)
    make = staticmethod(lambda root: Ave(source_at(root), preset=TINY))


class TestUcf101(CorpusContract):
    write = staticmethod(ucf101.write)
    make = staticmethod(lambda root: Ucf101(source_at(root), side=16))


class TestUcf101WithGivenFlow(CorpusContract):
    write = staticmethod(lambda root: ucf101.write(root, flow="uv"))
    make = staticmethod(lambda root: Ucf101(source_at(root), flow="given", side=16))


class TestMosei(CorpusContract):
    write = staticmethod(lambda root: mosei.write_pickle(root / "aligned_50.pkl", aligned=True))
    make = staticmethod(lambda root: mosei_at(root, root / "unpacked"))


class TestMoseiAsArrays(CorpusContract):
    write = staticmethod(mosei.write_clips)
    make = staticmethod(lambda root: mosei_at(root, root / "unpacked", labels=7))
