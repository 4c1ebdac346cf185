"""A store's card: what is in it, where it comes from, how it was cut and decoded, what is missing

As plain data it is what MLflow shows as the dataset of a run; as `card.md` it is for people.
"""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

from remix_study.media.presets import AudioPreset, FeaturePreset, FlowPreset, Part, Preset, VideoPreset

SPLITS = ("train", "val", "test")


def make_card(
    facts: Mapping[str, Any],
    *,
    name: str,
    fingerprint: str,
    preset: Preset,
    decoder: str,
    index: Sequence[Mapping[str, Any]],
    quarantined: Sequence[Mapping[str, Any]],
    size: int,
) -> dict[str, Any]:
    """`facts`: what the corpus says of itself (licence, citation, split in words ...); kept, and put first."""
    counts = collections.Counter((row["split"], row["label"]) for row in index)
    classes = sorted({label for _, label in counts})
    splits = [split for split in SPLITS if any(split == seen for seen, _ in counts)]
    by_split = {split: {label: counts[split, label] for label in classes} for split in splits}
    groups: dict[str, set[str]] = {split: set() for split in splits}
    for row in index:
        if row["group"] is not None:
            groups[row["split"]].add(row["group"])
    of_class = collections.Counter(row["label"] for row in index)
    return {
        **facts,
        "name": name,
        "digest": fingerprint,
        "clips": len(index),
        "classes": len(classes),
        "clips_by_split": {split: sum(by_split[split].values()) for split in splits},
        "clips_by_split_and_class": by_split,
        "groups_by_split": {split: len(found) for split, found in groups.items() if found},
        "imbalance": round(max(of_class.values()) / min(of_class.values()), 3) if of_class else 1.0,
        "preset": preset.name,
        "modalities": {m: in_words(preset.parts[m]) for m in preset.modalities},
        "decoder": decoder,
        "quarantined": len(quarantined),
        "quarantined_by_reason": dict(sorted(collections.Counter(str(q["stage"]) for q in quarantined).items())),
        "bytes": size,
    }


def in_words(part: Part) -> str:
    """What is kept of a modality."""
    shape = " x ".join(map(str, part.shape))
    match part:
        case AudioPreset():
            rate = f"{part.sample_rate / 1000:g} kHz, {part.seconds:g} s"
            kind = {
                "stft": f"log STFT, n_fft {part.n_fft}, hop {part.hop}",
                "mel": f"log mel, {part.mels} bands, n_fft {part.n_fft}, hop {part.hop}",
                "fbank": f"Kaldi filter banks, {part.mels} bands every {1000 * part.hop / part.sample_rate:g} ms",
            }[part.transform]
            return f"{rate}, {kind}, {shape}"
        case VideoPreset():
            of = f", {part.candidates} candidates each" if part.candidates > 1 else ""
            return f"middle frames of {part.frames} segments{of}, {part.height} x {part.width}"
        case FlowPreset():
            return f"flow ({part.source}) at the middle frames of {part.frames} segments, {part.height} x {part.width}"
        case FeaturePreset():
            return f"ready {part.layout}, {shape}"


def markdown(card: Mapping[str, Any]) -> str:
    """The card as a page."""
    lines = [f"# {card.get('corpus', card['name'])}", ""]
    told = ("licence", "citation", "split", "fold")
    lines += [f"- **{key.capitalize()}**: {card[key]}" for key in told if card.get(key)]
    lines += [
        f"- **Clips**: {card['clips']} of {card['classes']} classes; the largest class has {card['imbalance']:g} times "
        "as many as the smallest",
        f"- **Left out**: {_left_out(card)}",
        f"- **Decoder**: {card['decoder']}; preset `{card['preset']}`; {card['bytes'] / 1e9:.2f} GB",
        f"- **Digest**: `{card['digest']}`",
        "",
        "| modality | what is kept |",
        "|---|---|",
        *(f"| {m} | {words} |" for m, words in card["modalities"].items()),
        "",
    ]
    lines += _counts(card)
    if card.get("warnings"):
        lines += ["## Warnings", "", *(f"- {warning}" for warning in card["warnings"]), ""]
    lines += ["## Use", "", "In a run or a study: `corpus:` and the folder that holds this store. In Python:", ""]
    lines += ["```python", "from remix_study.media.store import ClipStore", "", 'store = ClipStore.open(Path("..."))']
    lines += ["```", ""]
    return "\n".join(lines)


def _left_out(card: Mapping[str, Any]) -> str:
    absent = sum(card.get("absent_by_class", {}).values())
    said = [f"{count} {reason}" for reason, count in card["quarantined_by_reason"].items()]
    bad = f"{card['quarantined']} unusable ({', '.join(said)}; see quarantine.jsonl)" if said else "none unusable"
    return f"{bad}; {absent} that the lists name are not there" if absent else bad


def _counts(card: Mapping[str, Any]) -> list[str]:
    splits = list(card["clips_by_split"])
    absent = card.get("absent_by_class", {})
    head = ["class", *splits, *(["absent"] if absent else [])]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---|" * (len(head) - 1)]
    classes = sorted({label for split in splits for label in card["clips_by_split_and_class"][split]} | set(absent))
    for label in classes:
        cells = [str(card["clips_by_split_and_class"][split].get(label, 0)) for split in splits]
        lines.append("| " + " | ".join([label, *cells, *([str(absent.get(label, 0))] if absent else [])]) + " |")
    totals = [str(card["clips_by_split"][split]) for split in splits]
    lines.append("| all | " + " | ".join([*totals, *([str(sum(absent.values()))] if absent else [])]) + " |")
    if card["groups_by_split"]:
        groups = [str(card["groups_by_split"].get(split, 0)) for split in splits]
        lines.append("| groups | " + " | ".join([*groups, *([""] if absent else [])]) + " |")
    return [*lines, ""]
