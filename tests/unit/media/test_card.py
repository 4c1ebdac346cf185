from typing import Any

from remix_study.media.card import Census, in_words, make_card, markdown
from remix_study.media.presets import PRESETS, FeaturePreset, FlowPreset, Preset


def card(
    facts: dict[str, Any] | None = None, bad: int = 0, preset: Preset = PRESETS["kinetics_sounds"]
) -> dict[str, Any]:
    census = Census()
    for number in range(12):
        label = "a|b" if number % 3 else "rare"
        split = "test" if number >= 9 else "train"
        census.count({"split": split, "label": label, "group": f"actor {number // 4}"})
    census.left_out.update(["silent"] * bad)
    return make_card(
        facts or {}, name="mine", fingerprint="f00d", preset=preset, decoder="pyav 1", census=census, size=2_500_000_000
    )


def test_a_card_counts_by_split_class_and_group() -> None:
    made = card(bad=2)
    assert made["clips"] == 12
    assert made["clips_by_split"] == {"train": 9, "test": 3}
    assert made["clips_by_split_and_class"] == {"train": {"a|b": 6, "rare": 3}, "test": {"a|b": 2, "rare": 1}}
    assert made["groups_by_split"] == {"train": 3, "test": 1}
    assert made["imbalance"] == 2
    assert (made["quarantined"], made["quarantined_by_reason"]) == (2, {"silent": 2})


def test_facts_of_the_corpus_do_not_replace_counted_values() -> None:
    made = card({"licence": "CC0", "clips": 99, "digest": "?"})
    assert (made["licence"], made["clips"], made["digest"]) == ("CC0", 12, "f00d")


def test_markdown_shows_all_parts_of_the_card() -> None:
    facts = {
        "corpus": "Noises", "licence": "CC0", "citation": "Someone (2020)", "split": "by actor",
        "absent_by_class": {"gone": 3, "rare": 1}, "warnings": [f"doubt {n}" for n in range(25)],
    }  # fmt: skip
    page = markdown(card(facts, bad=2)).splitlines()
    assert page[0] == "# Noises"
    assert "- **Citation**: Someone (2020)" in page
    assert "- **Split**: by actor" in page
    assert any("2 unusable (2 silent; see quarantine.jsonl); 4 listed clips are missing" in line for line in page)
    assert any("2 times as many as the smallest" in line for line in page)
    assert any("2.50 GB" in line for line in page)
    assert "| class | train | test | absent |" in page
    assert r"| a\|b | 6 | 2 | 0 |" in page, "a bar in a class's name must not split its cell"
    assert "| gone | 0 | 0 | 3 |" in page
    assert "| all | 9 | 3 | 4 |" in page
    assert "| groups | 3 | 1 |  |" in page
    assert "- doubt 19" in page
    assert "- doubt 20" not in page
    assert "- and 5 more, in card.json" in page
    assert 'store = open_corpus("FOLDER")' in page


def test_markdown_omits_missing_facts() -> None:
    page = markdown(card())
    assert page.startswith("# mine\n")
    for word in ("Licence", "Citation", "Warnings", "absent"):
        assert word not in page


def test_each_kind_of_modality_is_described_in_words() -> None:
    words = card()["modalities"]
    assert words["audio"] == "16 kHz, 10 s, Kaldi filter banks, 128 bands every 10 ms, 1024 x 128"
    assert words["video"] == (
        "middle frames of 3 segments, 3 candidates each, 224 x 224; mean and deviation of ImageNet"
    )
    assert "257 x 188" in in_words(PRESETS["ogm"].parts["audio"])
    assert "32 bands" in in_words(PRESETS["tiny"].parts["audio"])
    assert in_words(FlowPreset(3, 224, 224)).startswith("flow (computed) at the middle frames of 3 segments")
    assert in_words(FeaturePreset("sequence", (50, 300))).startswith("feature sequence, 50 x 300")
