"""Checks of a corpus before it is prepared"""

import collections
import dataclasses
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from remix_study.cli.prepare_view import check_report
from remix_study.datasets.check import Bad, CheckReport, Spread, check_clips, stratified_sample
from remix_study.datasets.corpus import Found
from remix_study.media.build import build_store
from remix_study.media.presets import PRESETS, FeaturePreset, FlowPreset, Preset, preset_named
from remix_study.media.source import LocalSource, Source
from remix_study.sample import Clip, SampleId
from tests.corrupt_media import LFS, Picture, Sound, truncated, write_clip
from tests.examples import examples
from tests.hostile_source import HostileSource

SPLITS = ("train", "val", "test")
TINY = PRESETS["tiny"]


def clip(name: str, label: str = "dog", split: str = "train", **others: Any) -> Clip:
    paths = others.pop("paths", {"audio": f"{name}.mp4", "video": f"{name}.mp4"})
    return Clip(SampleId(name), paths, label, split, **others)


def check(clips: Sequence[Clip], source: Source | Path, preset: Preset = TINY, **options: Any) -> CheckReport:
    where = LocalSource(source) if isinstance(source, Path) else source
    found = options.pop("found", Found(tuple(clips), {}))
    return check_clips("corpus", found, where, preset, workers=1, **options)


def bad_of(report: CheckReport) -> dict[str, str]:
    return {bad.id: bad.stage for bad in report.bad}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Clip]]:
    """One clip of two seconds for each of two classes in each split."""
    folder = tmp_path_factory.mktemp("healthy")
    clips = []
    for number, (split, label) in enumerate((split, label) for split in SPLITS for label in ("cat", "dog")):
        write_clip(folder / f"{number}.mp4", [Picture(shade=number)], [Sound(seconds=2.2 if number == 0 else 2.0)])
        clips.append(clip(str(number), label, split, group=f"place {split} {number}"))
    return folder, clips


@pytest.fixture(scope="module")
def healthy(corpus: tuple[Path, list[Clip]]) -> CheckReport:
    folder, clips = corpus
    return check(clips, folder)


# --- a corpus without problems ---------------------------------------------------------------------------------------


def test_a_healthy_corpus_is_counted_and_measured(healthy: CheckReport) -> None:
    assert healthy.clips_by_split_and_class == {split: {"cat": 1, "dog": 1} for split in SPLITS}
    assert healthy.groups_by_split == dict.fromkeys(SPLITS, 2)
    assert (healthy.clips, healthy.decoded, healthy.bad, healthy.bad_fraction) == (6, 6, (), 0.0)
    assert healthy.durations["video"] == Spread(2.0, 2.0, 2.0)
    sound, gap = healthy.durations["audio"], healthy.durations["gap"]
    assert sound.high == pytest.approx(2.2, abs=0.07)  # AAC comes in blocks of 64 ms
    assert sound.median == pytest.approx(2.0, abs=0.07)
    assert gap.high == pytest.approx(0.2, abs=0.07)
    assert healthy.sizes == {"64 x 48": 6}
    assert healthy.frame_rates == {"10 / s": 6}
    assert healthy.sample_rates == {"16000 Hz": 6}
    assert healthy.imbalance == 1.0
    assert healthy.seconds is not None
    assert healthy.seconds > 0
    assert healthy.problems == ()
    assert healthy.warnings == ()


def test_the_size_of_the_store_is_exact(corpus: tuple[Path, list[Clip]], healthy: CheckReport, tmp_path: Path) -> None:
    folder, clips = corpus
    build_store(clips, folder, tmp_path, preset=TINY, name="corpus", manifest_digest="", workers=1)
    arrays = list((tmp_path / "store").glob("*.npy"))
    assert healthy.bytes == sum(path.stat().st_size for path in arrays)


def test_check_writes_nothing(corpus: tuple[Path, list[Clip]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, clips = corpus
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    monkeypatch.chdir(tmp_path)
    check(clips[:2], folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert list(tmp_path.iterdir()) == []


def test_the_report_is_json(healthy: CheckReport) -> None:
    plain = json.loads(json.dumps(healthy.plain()))
    assert plain["clips_by_split_and_class"]["val"] == {"cat": 1, "dog": 1}
    assert plain["durations"]["video"]["median"] == 2.0
    assert plain["bad_by_reason"] == plain["bad_by_class"] == {}


def test_a_file_of_several_clips_is_probed_once_and_each_clip_measured(corpus: tuple[Path, list[Clip]]) -> None:
    both = {"audio": "1.mp4", "video": "1.mp4"}
    cuts = [clip(f"cut {n}", paths=both, start=n / 2, end=n / 2 + 0.5) for n in range(3)]
    cuts += [clip("the rest", paths=both, start=0.25), clip("too late", paths=both, start=7)]
    cuts += [clip("beyond", paths=both, start=1.5, end=3.1), clip("tiny", paths=both, start=0.5, end=0.58)]
    progress: dict[str, list[tuple[int, int]]] = collections.defaultdict(list)
    report = check(
        cuts, corpus[0], sample=0, progress=lambda title: lambda done, total: progress[title].append((done, total))
    )
    assert progress == {"opening files": [(1, 1)]}
    assert report.durations["video"].high == 1.75
    assert report.durations["video"].median == 0.5
    assert bad_of(report) == dict.fromkeys(("too late", "beyond", "tiny"), "duration")
    assert report.duplicates == ()
    assert (report.decoded, report.seconds) == (0, None)


# --- unusable clips --------------------------------------------------------------------------------------------------


def test_every_file_is_opened_and_a_sample_is_decoded(tmp_path: Path) -> None:
    for name in ("fine", "cut"):
        write_clip(tmp_path / f"{name}.mp4", options={"movflags": "faststart"})
    truncated(tmp_path / "cut.mp4", 0.6)
    write_clip(tmp_path / "mute.mp4", sounds=())
    write_clip(tmp_path / "deaf.mp4", pictures=())
    write_clip(tmp_path / "silent.mp4", [Picture(shade=3)], [Sound(loud=0)])
    (tmp_path / "pointer.mp4").write_bytes(LFS)
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("no media")
    names = ("fine", "cut", "mute", "deaf", "silent", "pointer", "empty", "text", "gone")
    report = check([clip(name, label=name[0]) for name in names], tmp_path)
    assert bad_of(report) == {
        "cut": "duration", "mute": "audio", "deaf": "video", "silent": "silent", "pointer": "lfs-pointer",
        "empty": "empty", "text": "open", "gone": "missing",
    }  # fmt: skip
    assert report.decoded == 2
    assert report.bad_fraction == pytest.approx((7 + 2 / 2) / 9)
    assert report.bad_by_class == {name[0]: 1 for name in sorted(names) if name != "fine"}
    assert report.bad_by_reason["missing"] == 1
    assert report.problems[0].startswith("at most 1.0% of the clips may be unusable, but about 88.9% are; repair")
    assert not any(
        "unusable" in problem for problem in check([clip("fine"), clip("gone")], tmp_path, max_bad=0.5).problems
    )


def test_images_folders_and_flow_are_probed(tmp_path: Path) -> None:
    (tmp_path / "still.png").write_bytes(b"")
    (tmp_path / "frames").mkdir()
    preset = preset_named("none+1x224")
    clips = [clip(name, paths={"video": name}) for name in ("still.png", "frames", "lost", "lost.jpg")]
    assert bad_of(check(clips, tmp_path, preset)) == {
        "still.png": "empty", "frames": "frames", "lost": "missing", "lost.jpg": "missing",
    }  # fmt: skip
    given_flow = Preset("flow", {"flow": FlowPreset(1, 16, 16, source="given")})
    assert bad_of(check([clip("f", paths={"flow": "nowhere"})], tmp_path, given_flow)) == {"f": "missing"}


def test_arrays_are_probed(tmp_path: Path) -> None:
    np.save(tmp_path / "many.npy", np.arange(12, dtype=np.float32).reshape(3, 4))
    np.save(tmp_path / "short.npy", np.ones(3, np.float32))
    (tmp_path / "broken.npy").write_bytes(b"\x93NUMPY")
    preset = Preset("text", {"text": FeaturePreset("vector", (4,))})
    names = ("many.npy#0", "many.npy#1", "many.npy#2", "many.npy#3", "short.npy", "broken.npy")
    report = check([clip(name, paths={"text": name}) for name in names], tmp_path, preset)
    assert bad_of(report) == {"many.npy#3": "shape", "short.npy": "shape", "broken.npy": "format"}
    assert report.duplicates == ()  # rows of one file are not duplicates
    assert report.durations == {}


def test_a_missing_modality_is_a_problem(corpus: tuple[Path, list[Clip]]) -> None:
    report = check([clip("0", paths={"audio": "0.mp4"})], corpus[0], sample=0)
    assert (
        "the preset 'tiny' needs audio and video of every clip, but 1 lack one of them, such as 0" in report.problems[0]
    )


@pytest.mark.slow
def test_files_that_crash_or_hang_a_worker_are_reported(corpus: tuple[Path, list[Clip]]) -> None:
    clips = [clip("0"), clip("deadly"), clip("endless"), clip("1")]
    report = check(clips, HostileSource(corpus[0]), sample=0, timeout_s=1.0)
    assert bad_of(report) == {"deadly": "died", "endless": "timeout"}
    assert "reading it took more than 1 s, twice" in {bad.message for bad in report.bad}


def test_a_sampled_clip_that_crashes_a_worker_is_reported(tmp_path: Path) -> None:
    for name in ("later", "fine"):
        write_clip(tmp_path / f"{name}.mp4")
    report = check([clip("later"), clip("fine")], HostileSource(tmp_path))
    assert [(bad.id, bad.stage, bad.message) for bad in report.bad] == [
        ("later", "died", "decoding it crashed the worker process, twice")
    ]
    assert report.decoded == 2
    assert report.seconds is not None


# --- leaks, duplicates, balance --------------------------------------------------------------------------------------


def test_duplicates_are_found_by_content_not_by_name(corpus: tuple[Path, list[Clip]], tmp_path: Path) -> None:
    source = corpus[0] / "0.mp4"
    for name in ("a", "b", "c", "d"):
        (tmp_path / f"{name}.mp4").write_bytes(source.read_bytes())
    (tmp_path / "e.mp4").write_bytes((corpus[0] / "1.mp4").read_bytes())
    (tmp_path / "f.mp4").write_bytes((corpus[0] / "1.mp4").read_bytes())
    clips = [
        clip("a"), clip("b", split="val"), clip("c", start=0.5), clip("d", split="test", start=0.25), clip("e"),
        clip("f", label="cat"),
    ]  # fmt: skip
    report = check(clips, tmp_path, sample=0)
    assert report.duplicates == (("a", "b"), ("e", "f"))
    assert report.crossing == 1
    assert any(
        "must not have the same content, but 1 set of clips does: a (train) = b (val)" in p for p in report.problems
    )
    assert "1 set of clips within one split with the same content" in report.warnings
    assert "1 set of clips with the same content, but several classes: e = f" in report.warnings


def test_clips_that_a_published_split_does_not_separate_are_no_problem(tmp_path: Path) -> None:
    """The corpus has a warning of its own about them, such as AVE, whose videos have several events."""
    (tmp_path / "video.mp4").write_bytes(b"the same file")
    video = {"audio": "video.mp4", "video": "video.mp4"}
    clips = tuple(clip(name, split=split, paths=video) for name, split in zip("abc", SPLITS, strict=True))

    def problems(*shared: str) -> list[str]:
        found = Found(clips, {}, shared=frozenset(map(SampleId, shared)))
        return [each for each in check(clips, tmp_path, sample=0, found=found).problems if "same content" in each]

    assert problems("a", "b", "c") == []
    assert len(problems("a", "b")) == 1


def test_groups_in_two_splits_and_absent_classes_are_problems(corpus: tuple[Path, list[Clip]]) -> None:
    clips = [clip("0", group="ann"), clip("1", "cat", group="bob"), clip("2", split="val", group="ann")]
    report = check(clips, corpus[0], sample=0)
    assert report.leaking == ("ann",)
    assert report.groups_by_split == {"train": 2, "val": 1}
    assert any("every group must be in one split, but 1 are in several: ann" in problem for problem in report.problems)
    assert any("every class, but val has none of: cat" in problem for problem in report.problems)
    assert report.warnings == ("there is no test split, which a study's replicates need",)
    alone = check([clip("0", split="test")], corpus[0], sample=0)
    assert "the corpus must have the splits train and val, but has no train and no val" in alone.problems


def test_imbalance_causes_a_warning(corpus: tuple[Path, list[Clip]]) -> None:
    clips = [clip(f"c{n}", paths={"audio": "0.mp4", "video": "0.mp4"}, start=n / 100) for n in range(22)]
    clips += [clip("cat", "cat", paths={"audio": "1.mp4", "video": "1.mp4"})]
    report = check(clips, corpus[0], sample=0, found=Found(tuple(clips), {}, ("heed this",), {"x": "cat", "y": "fox"}))
    assert report.imbalance == 22
    assert report.warnings[0] == "heed this"
    assert "the largest class has 22 times as many clips as the smallest" in report.warnings[1]
    assert report.absent_by_class == {"cat": 1, "fox": 1}


# --- the sample ------------------------------------------------------------------------------------------------------


@examples(60)
@given(st.lists(st.tuples(st.sampled_from(SPLITS), st.sampled_from("abcd")), max_size=60), st.integers(0, 70))
def test_the_sample_is_stratified_as_evenly_as_possible(kinds: list[tuple[str, str]], wanted: int) -> None:
    clips = [clip(str(number), label, split) for number, (split, label) in enumerate(kinds)]
    chosen = stratified_sample(clips, range(len(clips)), wanted)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(wanted, len(clips))
    there, taken = collections.Counter(kinds), collections.Counter(kinds[row] for row in chosen)
    fullest = max(taken.values(), default=0)
    assert all(taken[kind] >= min(there[kind], fullest - 1) for kind in there)


def test_the_sample_is_evenly_spaced() -> None:
    clips = [clip(str(number)) for number in range(100)]
    assert stratified_sample(clips, range(100), 4) == [0, 25, 50, 75]


# --- the printed report ----------------------------------------------------------------------------------------------


def shown(report: CheckReport) -> str:
    console = Console(width=80, force_terminal=False, record=True, file=io.StringIO())
    console.print(check_report(report))
    return console.export_text()


def test_a_healthy_corpus_is_shown_as_ready(healthy: CheckReport) -> None:
    text = shown(healthy)
    assert max(len(line) for line in text.splitlines()) <= 80
    for expected in ("corpus: 6 clips", "2.00 s", "64 x 48 (6)", "16000 Hz (6)", "6 of 6", "Ready to prepare"):
        assert expected in text
    assert "unusable" in text
    assert "none found" in text
    assert "corpus: 1 clip\n" in re.sub(" +\n", "\n", shown(dataclasses.replace(healthy, clips=1)))


def report_of(**changes: Any) -> CheckReport:
    given: dict[str, Any] = {
        "name": "c", "clips": 3, "clips_by_split_and_class": {"train": {"a": 2}, "val": {"a": 1}},
        "groups_by_split": {}, "absent_by_class": {}, "durations": {}, "sizes": {}, "frame_rates": {},
        "sample_rates": {}, "bad": (), "bad_fraction": 0.0, "decoded": 3, "leaking": (), "duplicates": (),
        "crossing": 0, "imbalance": 1.0, "bytes": 5 * 10**11, "seconds": 9000.0, "cores": 2, "problems": (),
        "warnings": (),
    }  # fmt: skip
    return CheckReport(**{**given, **changes})


def test_problems_are_shown_with_names_and_fit_the_terminal() -> None:
    bad = tuple(Bad(f"[red]clip {'x' * 60} {n}", "a", "open", "no [b]media[/b] " * 9) for n in range(25))
    text = shown(
        report_of(
            bad=bad, bad_fraction=0.5, absent_by_class={"a": 4, "z": 1}, groups_by_split={"train": 2},
            leaking=("ann",), duplicates=(("p", "q"),), crossing=1,
            problems=("fix [this]",), warnings=("see [that]",),
        )
    )  # fmt: skip
    assert max(len(line) for line in text.splitlines()) <= 80
    for expected in (
        "Unusable clips: 25 open", "[red]clip", "5 more; --json lists all", "warning: see [that]", "500.00 GB",
        "problem: fix [this]", "Not ready: 1 problem to fix first.", "about 2.5 h on 2 cores",
        "50.0% of the clips", "1 set of identical clips, 1 across splits",
    ):  # fmt: skip
        assert expected in text
    row = next(line for line in text.splitlines() if line.startswith("│ z"))
    assert [cell.strip() for cell in row.strip("│").split("│")] == ["z", "0", "0", "0", "1"]


def test_many_classes_are_shown_in_part() -> None:
    text = shown(report_of(clips_by_split_and_class={"train": {f"class {n:03d}": 1 for n in range(101)}}))
    assert "61 more" in text
    assert "class 039" in text
    assert "class 040" not in text
    assert "101" in text
