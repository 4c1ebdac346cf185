from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from remix_study.datasets.corpus import Found, prepare
from remix_study.datasets.cremad import COUNTS, Cremad, draw_validation
from remix_study.datasets.manifest import SPLITS
from remix_study.errors import ConfigError, ManifestError
from remix_study.media.presets import PRESETS, FeaturePreset, preset_named
from remix_study.media.source import LocalSource, source_at
from remix_study.sample import Clip
from tests.miniature import cremad

TINY = PRESETS["tiny"]


class Named(LocalSource):
    """A source that only lists names: finding clips must not open media."""

    def __init__(self, root: Path, names: list[str]) -> None:
        super().__init__(root)
        self._names = names

    def list(self, below: str = "") -> list[str]:
        return sorted([*self._names, *super().list(below)])


def released(names: list[str]) -> list[str]:
    return [path for clip in names for path in (f"VideoFlash/{clip}.flv", f"AudioWAV/{clip}.wav")]


def found(root: Path, names: list[str], **options: Any) -> Found:
    root.mkdir(exist_ok=True)
    return Cremad(Named(root, names), preset=TINY, **options).find()


def by_id(clips: tuple[Clip, ...]) -> dict[str, Clip]:
    return {clip.id: clip for clip in clips}


def warning_with(of: Found, words: str) -> str:
    """Return the only warning that contains these words."""
    (warning,) = [each for each in of.warnings if words in each]
    return warning


# --- layouts ---------------------------------------------------------------------------------------------------------


def test_video_and_audio_are_read_from_their_own_files(tmp_path: Path) -> None:
    clips = found(tmp_path, released(["1001_IEO_NEU_XX", "1002_IEO_NEU_XX", "1003_DFA_ANG_HI"])).clips
    assert dict(clips[0].paths) == {"audio": "AudioWAV/1001_IEO_NEU_XX.wav", "video": "VideoFlash/1001_IEO_NEU_XX.flv"}
    assert [clip.label for clip in clips] == ["NEU", "NEU", "ANG"]
    assert clips[2].truth["sentence"] == "DFA"
    assert clips[2].truth["level"] == "HI"


def test_without_wav_files_the_audio_of_the_video_is_used(tmp_path: Path) -> None:
    root = cremad.write(tmp_path / "root", actors=3, emotions=["ANG"], sentences=["IEO"], layout="flv")
    corpus = Cremad(source_at(root), preset=TINY)
    assert all(clip.paths["audio"] == clip.paths["video"] for clip in corpus.find().clips)
    store = prepare(corpus, tmp_path / "out", decoder="pyav", workers=1)
    assert store.gather("audio", np.array([0])).std() > 0


def test_frames_of_ogm_ge_are_used_without_videos(tmp_path: Path) -> None:
    frames = [f"Image-01-FPS/1001_IEO_NEU_XX/{number:05d}.jpg" for number in range(2)]
    names = ["AudioWAV/1001_IEO_NEU_XX.wav", *frames, *released(["1002_IEO_NEU_XX", "1003_IEO_NEU_XX"])]
    of = found(tmp_path, [name for name in names if not name.endswith(".flv")] + [
        f"Image-01-FPS/{1002 + n}_IEO_NEU_XX/00000.jpg" for n in range(2)
    ])  # fmt: skip
    assert of.clips[0].paths["video"] == "Image-01-FPS/1001_IEO_NEU_XX"
    assert of.facts["layout"] == "audio from AudioWAV/*.wav; video from Image-01-FPS/*/"


def test_of_two_copies_of_the_clips_one_is_used_and_the_other_reported(tmp_path: Path) -> None:
    names = released(["1001_IEO_NEU_XX", "1002_IEO_NEU_XX", "1003_IEO_NEU_XX"])
    of = found(tmp_path, [*names, "Video24/1001_IEO_NEU_XX.mp4"])
    assert {clip.paths["video"].split("/")[0] for clip in of.clips} == {"VideoFlash"}
    assert warning_with(of, "ignored").endswith("the same clips in Video24/*.mp4 are ignored.")


def test_folders_without_common_clips_are_joined(tmp_path: Path) -> None:
    names = [f"{clip[:4]}/{clip}.flv" for clip in cremad.clips(3)]
    assert len(found(tmp_path, names).clips) == len(names)


def test_spectrograms_are_kept_unchanged(tmp_path: Path) -> None:
    root = cremad.write(tmp_path / "root", actors=3, emotions=["ANG", "SAD"], sentences=["IEO"], layout="arrays")
    corpus = Cremad(source_at(root), preset=TINY)
    assert corpus.preset.parts["audio"] == FeaturePreset("image", cremad.ARRAY_SHAPE, "none")
    assert corpus.preset.parts["video"] == TINY.parts["video"]
    store = prepare(corpus, tmp_path / "out", decoder="pyav", workers=1)
    given = np.load(root / corpus.find().clips[0].paths["audio"])
    np.testing.assert_array_equal(store.gather("audio", np.array([0]))[0], given)


def test_arrays_that_are_not_spectrograms_raise(tmp_path: Path) -> None:
    root = cremad.write(tmp_path, actors=3, emotions=["ANG"], sentences=["IEO"], layout="arrays")
    for path in (root / "audio").iterdir():
        np.save(path, np.zeros(7, np.float32))
    with pytest.raises(ManifestError, match=r"must be spectrograms of numbers \(F, T\), but have the shapes \(7,\)"):
        _ = Cremad(source_at(root), preset=TINY).preset


def test_the_most_frequent_array_shape_is_used(tmp_path: Path) -> None:
    root = cremad.write(tmp_path, actors=4, emotions=["ANG"], sentences=["IEO"], layout="arrays")
    np.save(root / "audio" / "1001_IEO_ANG_XX.npy", np.zeros((17, 99), np.float32))
    (root / "audio" / "1002_IEO_ANG_XX.npy").write_bytes(b"damaged")
    assert Cremad(source_at(root), preset=TINY).preset.shape("audio") == cremad.ARRAY_SHAPE


def test_files_of_a_modality_that_is_not_kept_may_be_missing(tmp_path: Path) -> None:
    names = [f"AudioWAV/{clip}.wav" for clip in cremad.clips(3)]
    (tmp_path / "root").mkdir()
    clips = Cremad(Named(tmp_path / "root", names), preset=preset_named("stft188+none")).find().clips
    assert set(clips[0].paths) == {"audio"}
    with pytest.raises(ManifestError, match=r"No video files found .*Give the folder .*`--preset stft188\+none`"):
        found(tmp_path, names)


def test_a_clip_without_one_of_its_modalities_is_excluded_and_reported(tmp_path: Path) -> None:
    names = released(cremad.clips(3))
    names.remove("AudioWAV/1002_IEO_SAD_XX.wav")
    names.remove("VideoFlash/1003_IEO_FEA_XX.flv")
    of = found(tmp_path, names)
    assert not {"1002_IEO_SAD_XX", "1003_IEO_FEA_XX"} & by_id(of.clips).keys()
    assert "clips with video but no audio, excluded (1): 1002_IEO_SAD_XX." in of.warnings
    assert "clips with audio but no video, excluded (1): 1003_IEO_FEA_XX." in of.warnings


# --- names and counts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["1001_IEO_NEU_XX_copy", "1001_IEO_NEU", "1001_IEO_JOY_XX", "1001_ABC_NEU_XX", "1_IEO_NEU_XX", "neutral"]
)
def test_a_file_with_an_invalid_name_is_excluded_and_reported(tmp_path: Path, name: str) -> None:
    of = found(tmp_path, [*released(cremad.clips(3)), f"VideoFlash/{name}.flv"])
    assert len(of.clips) == len(cremad.clips(3))
    assert warning_with(of, "names") == f"files whose names are not CREMA-D's, excluded (1): VideoFlash/{name}.flv."


def test_the_misspelt_file_of_the_release_is_accepted(tmp_path: Path) -> None:
    names = [name.replace("1040_ITH_SAD_XX.wav", "1040_ITH_SAD_X.wav") for name in released(
        [*cremad.clips(3), "1040_ITH_SAD_XX"]
    )]  # fmt: skip
    of = found(tmp_path, names)
    assert by_id(of.clips)["1040_ITH_SAD_XX"].paths["audio"] == "AudioWAV/1040_ITH_SAD_X.wav"
    assert not [warning for warning in of.warnings if "left out" in warning]


def test_differences_from_the_complete_corpus_are_reported_by_class(tmp_path: Path) -> None:
    of = found(tmp_path, released(cremad.clips(3, emotions=["ANG", "NEU"])))
    assert warning_with(of, "CREMA-D has") == (
        "CREMA-D has 7442 clips, but 12 were found: ANG 6 of 1271, DIS 0 of 1271, FEA 0 of 1271, HAP 0 of 1271, "
        "NEU 6 of 1087, SAD 0 of 1271, actors 3 of 91."
    )
    assert sum(COUNTS.values()) == 7442


def test_corrupt_clips_of_the_release_are_reported(tmp_path: Path) -> None:
    of = found(tmp_path, released([*cremad.clips(3), "1064_IEO_DIS_MD"]))
    assert warning_with(of, "corrupt").endswith(" (1): 1064_IEO_DIS_MD.")


def test_clips_of_the_table_of_names_without_files_are_absent(tmp_path: Path) -> None:
    names = cremad.clips(3)
    cremad.write_tables(tmp_path, names, 3)
    of = found(tmp_path, released(names[:-2]))
    assert of.absent == {name: name.split("_")[2] for name in names[-2:]}
    assert warning_with(of, "listed clips").startswith(
        f"2 of {len(names)} listed clips are missing or incomplete, by class: NEU 1"
    )


# --- splits by actor -------------------------------------------------------------------------------------------------


def test_no_actor_is_in_two_parts_and_parts_are_stratified_by_sex(tmp_path: Path) -> None:
    names = cremad.clips(40, sentences=["IEO"])
    cremad.write_tables(tmp_path, names, 40)
    of = found(tmp_path, released(names))
    people = {split: {clip.group for clip in of.clips if clip.split == split} for split in SPLITS}
    assert sum(map(len, people.values())) == 40
    assert [len(people[split]) for split in SPLITS] == [28, 4, 8]
    for split in SPLITS:
        women = {clip.group for clip in of.clips if clip.split == split and clip.truth["sex"] == "female"}
        assert len(women) == len(people[split]) / 2
    assert of.facts["actors"].startswith("train 28 (14 female, 14 male, aged 2")


def test_missing_files_do_not_change_the_actors_of_a_part(tmp_path: Path) -> None:
    names = cremad.clips(20)
    whole, part = found(tmp_path, released(names)), found(tmp_path, released(names[::3]))
    assert {clip.group: clip.split for clip in part.clips} == {clip.group: clip.split for clip in whole.clips}


def test_another_seed_draws_other_actors(tmp_path: Path) -> None:
    names = released(cremad.clips(20))
    drawn = [
        {clip.group for clip in found(tmp_path, names, seed=seed).clips if clip.split == "test"} for seed in (0, 1)
    ]
    assert drawn[0] != drawn[1]


def test_every_actor_is_tested_in_exactly_one_fold(tmp_path: Path) -> None:
    of = found(tmp_path, released(cremad.clips(12)), split="folds", folds=4)
    assert {clip.id: clip.split for clip in of.clips} == of.folds[0]
    actors = [{split: {i[:4] for i, s in fold.items() if s == split} for split in SPLITS} for fold in of.folds]
    assert len(actors) == 4
    for number, fold in enumerate(actors):
        assert not fold["train"] & fold["val"] | fold["train"] & fold["test"] | fold["val"] & fold["test"]
        assert fold["val"] == actors[(number + 1) % 4]["test"]
    assert sum(len(fold["test"]) for fold in actors) == 12


def test_too_few_actors_for_the_parts_raise(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="`split` actor needs at least 3 actors, but the clips have only 2"):
        found(tmp_path, released(cremad.clips(2)))
    with pytest.raises(ManifestError, match="`split` folds needs at least 5 actors"):
        found(tmp_path, released(cremad.clips(4)), split="folds")


@pytest.mark.parametrize(("options", "message"), [
    ({"split": "speaker"}, "`split` must be one of actor, ogm, folds"),
    ({"split": "folds", "folds": 2}, "`folds` must be at least 3"),
])  # fmt: skip
def test_invalid_options_raise(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Cremad(source_at(tmp_path), **options)


# --- published lists -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("prefix", "bom"), [("", True), ("ogm_", False)])
def test_published_lists_are_the_split_and_common_actors_are_counted(tmp_path: Path, prefix: str, bom: bool) -> None:
    names = cremad.clips(4)
    test, train = names[::4], [name for name in names if name not in names[::4]]
    lists = cremad.write_lists(tmp_path / "lists", train, test, prefix=prefix, bom=bom)
    of = found(tmp_path / "root", released(names), split="ogm", lists=lists)
    clips = by_id(of.clips)
    assert {i for i, clip in clips.items() if clip.split == "test"} == set(test)
    assert sum(clip.split == "val" for clip in of.clips) == round(len(train) * 744 / 6698)
    assert {clip.group for clip in of.clips} == {None}
    assert clips["1002_IEO_FEA_XX"].truth["actor"] == "1002"
    assert warning_with(of, "published parts").startswith("4 of 4 actors are in both published parts, train and test")


def test_lists_can_be_in_the_root(tmp_path: Path) -> None:
    names = cremad.clips(3)
    cremad.write_lists(tmp_path / "root" / "data" / "CREMAD", names[3:], names[:3])
    assert len(found(tmp_path / "root", released(names), split="ogm").clips) == len(names)


def test_the_number_of_actors_is_counted_from_the_files(tmp_path: Path) -> None:
    names = cremad.clips(4)
    lists = cremad.write_lists(tmp_path / "lists", names[:36], names[36:])
    of = found(tmp_path / "root", released(names), split="ogm", lists=lists)
    assert not [warning for warning in of.warnings if "published parts" in warning]


def test_listed_clips_without_files_are_absent_and_unlisted_ones_excluded(tmp_path: Path) -> None:
    names = cremad.clips(4)
    lists = cremad.write_lists(tmp_path / "lists", names[8:-1], names[:8])
    of = found(tmp_path / "root", released(names[1:]), split="ogm", lists=lists)
    assert of.absent == {"1001_DFA_ANG_XX": "ANG"}
    assert warning_with(of, "neither") == f"clips in neither published list, excluded (1): {names[-1]}."
    assert names[-1] not in by_id(of.clips)


def test_missing_files_do_not_change_the_validation_clips(tmp_path: Path) -> None:
    names = cremad.clips(20)
    lists = cremad.write_lists(tmp_path / "lists", names[20:], names[:20])
    parts = [found(tmp_path / "root", released(there), split="ogm", lists=lists) for there in (names, names[::2])]
    whole, half = ({clip.id: clip.split for clip in of.clips} for of in parts)
    assert half == {each: whole[each] for each in half}


def test_validation_clips_are_drawn_from_each_class_in_proportion() -> None:
    counts = {"NEU": 973, "HAP": 1148, "SAD": 1131, "FEA": 1138, "DIS": 1142, "ANG": 1166}
    names = [f"{1000 + n % 91}_{n // 91}_{emotion}_XX" for emotion, count in counts.items() for n in range(count)]
    val = draw_validation(names, 744, seed=0)
    assert len(val) == 744
    for emotion, count in counts.items():
        assert abs(sum(f"_{emotion}_" in each for each in val) - 744 * count / 6698) < 1
    assert draw_validation(reversed(names), 744, seed=0) == val
    assert draw_validation(names, 744, seed=1) != val


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1001_IEO_ANG_XX,SAD", r"line 1: the label of 1001_IEO_ANG_XX must be ANG, as in its name, but is SAD"),
        ("1001_IEO_ANG_XX", r"line 1: the label of 1001_IEO_ANG_XX must be ANG, as in its name, but is nothing"),
        ("1001_IEO_ANG_XX,5", r"must be ANG, as in its name, but is 5"),
        ("clip7,ANG", r"line 1: 'clip7' must be a name such as 1001_IEO_NEU_XX"),
        (
            "1001_IEO_ANG_XX,ANG\n1001_IEO_ANG_XX,ANG",
            r"line 2: 1001_IEO_ANG_XX must be listed once, but is also on line 1",
        ),
        ("\n", "it has no clips"),
    ],
)
def test_a_list_with_problems_raises_with_their_lines(tmp_path: Path, line: str, message: str) -> None:
    names = cremad.clips(3)
    lists = cremad.write_lists(tmp_path / "lists", names, names[:1])
    (lists / "train.csv").write_text(line)
    with pytest.raises(ManifestError, match=message):
        found(tmp_path / "root", released(names), split="ogm", lists=lists)


def test_a_clip_in_both_lists_raises(tmp_path: Path) -> None:
    names = cremad.clips(3)
    lists = cremad.write_lists(tmp_path / "lists", names, names[:1])
    with pytest.raises(ManifestError, match="1001_DFA_ANG_XX must be in one of the lists, but is in both"):
        found(tmp_path / "root", released(names), split="ogm", lists=lists)


def test_the_published_split_without_lists_raises_with_their_origin(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"needs the published list train\.csv, which was not found\. Take"):
        found(tmp_path / "root", released(cremad.clips(3)), split="ogm")
    with pytest.raises(ManifestError, match="`--lists` must be the folder that holds the published lists"):
        found(tmp_path / "root", released(cremad.clips(3)), split="ogm", lists=tmp_path / "nowhere")


# --- human ratings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["summaryTable.csv", "processedResults/summaryTable.csv"])
def test_votes_become_human_recognition_rates(tmp_path: Path, where: str) -> None:
    names = released(cremad.clips(3))
    (tmp_path / where).parent.mkdir(exist_ok=True)
    cremad.write_votes(tmp_path / where, {
        "1001_IEO_ANG_XX": (("A", "80"), ("D:A", "30: 50.00"), ("H", "57.38")),
        "1001_IEO_SAD_XX": (("A:D:N", "30:40:50"), ("S", "100"), ("F:N:S:A", "1:2:3:4")),
    })  # fmt: skip
    clips = by_id(found(tmp_path, names).clips)
    angry, sad = (dict(clips[f"1001_IEO_{emotion}_XX"].truth) for emotion in ("ANG", "SAD"))
    assert {key: angry[key] for key in angry if key.startswith("human")} == {
        "human_audio": 1.0, "human_video": 0.5, "human_both": 0.0,
        "human_level_audio": 0.8, "human_level_video": 0.4, "human_level_both": 0.5738,
    }  # fmt: skip
    assert (sad["human_audio"], sad["human_video"], sad["human_both"]) == (0.0, 1.0, 0.25)
    assert sad["human_level_audio"] == 0.4
    assert "human_audio" not in clips["1001_IEO_DIS_XX"].truth


@pytest.mark.parametrize("vote", [("X", "50"), ("A", "loud"), ("A:D", "50"), ("A", "101"), ("", "")])
def test_an_invalid_vote_is_reported_and_the_others_kept(tmp_path: Path, vote: tuple[str, str]) -> None:
    cremad.write_votes(tmp_path / "summaryTable.csv", {"1001_IEO_ANG_XX": (("A", "80"), vote, ("A", "1"))})
    of = found(tmp_path, released(cremad.clips(3)))
    assert warning_with(of, "cannot be read") == (
        "votes of summaryTable.csv that cannot be read (1): 1001_IEO_ANG_XX (Face)."
    )
    truth = by_id(of.clips)["1001_IEO_ANG_XX"].truth
    assert "human_video" not in truth
    assert truth["human_both"] == 1.0


def test_a_table_with_other_columns_causes_a_warning(tmp_path: Path) -> None:
    (tmp_path / "summaryTable.csv").write_text("a,b\n1,2\n")
    assert warning_with(found(tmp_path, released(cremad.clips(3))), "columns").startswith(
        "no clips were found in summaryTable.csv, which must have the columns"
    )


def test_short_or_invalid_lines_of_a_table_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "VideoDemographics.csv").write_text('"ActorID","Age","Sex"\n1001\n1002,old,\n1003,²,"Male",x\n,,\n')
    (tmp_path / "SentenceFilenames.csv").write_text("Stimulus_Number,Filename\n1\n2,mine\n")
    of = found(tmp_path, released(cremad.clips(3)))
    assert not of.absent
    assert {clip.truth.get("sex") for clip in of.clips} == {None, "male"}
    assert not [clip for clip in of.clips if "age" in clip.truth]


def test_a_corpus_at_a_url_is_found_equally(tmp_path: Path) -> None:
    root = cremad.write(tmp_path, actors=3, emotions=["ANG"], sentences=["IEO"], layout="arrays")
    memory = fsspec.filesystem("memory")
    memory.put(str(root), "/corpora/cremad", recursive=True)
    try:
        there = Cremad(source_at("memory://corpora/cremad"), preset=TINY)
        here = Cremad(source_at(root), preset=TINY)
        assert there.find() == here.find()
        assert there.preset == here.preset
    finally:
        memory.rm("/corpora", recursive=True)


def test_actors_without_demographics_are_reported(tmp_path: Path) -> None:
    names = cremad.clips(4)
    cremad.write_tables(tmp_path, names, 3)
    of = found(tmp_path, released(names))
    assert warning_with(of, "VideoDemographics") == "actors that are missing in VideoDemographics.csv (1): 1004."
    first, last = of.clips[0].truth, of.clips[-1].truth
    assert (first["sex"], first["age"]) == ("male", 20)
    assert "sex" not in last


def test_each_fold_becomes_a_store_with_its_own_card(tmp_path: Path) -> None:
    root = cremad.write(tmp_path / "root", actors=3, emotions=["ANG", "SAD"], sentences=["IEO"])
    corpus = Cremad(source_at(root), split="folds", folds=3, preset=TINY)
    prepare(corpus, tmp_path / "out", decoder="pyav", workers=1)
    assert sorted(path.name for path in (tmp_path / "out").glob("fold-*")) == ["fold-0", "fold-1", "fold-2"]
    facts = corpus.find().facts  # each fold's card repeats them
    assert facts["split"].startswith("3 folds by actor (seed 0); fold k is tested on part k")
    assert [part.split(" (")[0] for part in facts["actors"].split("; ")] == ["part 0 1", "part 1 1", "part 2 1"]
