"""The card of a store: its content, origin, preprocessing, and unusable clips

As JSON (`card.json`) it describes the dataset of a run in MLflow; as Markdown (`card.md`) it is for readers.
"""

import collections
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from remix_study.media.presets import AudioPreset, FeaturePreset, FlowPreset, Part, Preset, VideoPreset

SPLITS = ("train", "val", "test")
_WARNINGS_SHOWN = 20


@dataclass
class Census:
    """Counts of the clips, groups and unusable clips of a store."""

    clips: collections.Counter[tuple[str, str]] = field(default_factory=collections.Counter)  # (split, class)
    groups: dict[str, set[str]] = field(default_factory=dict)
    left_out: collections.Counter[str] = field(default_factory=collections.Counter)

    def count(self, row: Mapping[str, Any]) -> None:
        """Count one row of index.jsonl."""
        self.clips[row["split"], row["label"]] += 1
        if row["group"] is not None:
            self.groups.setdefault(row["split"], set()).add(row["group"])

    @property
    def splits(self) -> list[str]:
        return [split for split in SPLITS if any(split == counted for counted, _ in self.clips)]

    @property
    def classes(self) -> list[str]:
        return sorted({label for _, label in self.clips})


def make_card(
    facts: Mapping[str, Any],
    *,
    name: str,
    fingerprint: str,
    preset: Preset,
    decoder: str,
    census: Census,
    size: int,
) -> dict[str, Any]:
    """The card as JSON data.

    Args:
        facts: what the corpus states about itself, such as `licence`, `citation` and `split`. They come first, and do
            not replace the keys that are counted.
        census: the counts.
        size: bytes of all shards.
    """
    splits, classes = census.splits, census.classes
    by_split = {split: {label: census.clips[split, label] for label in classes} for split in splits}
    of_class = [sum(by_split[split][label] for split in splits) for label in classes]
    return {
        **facts,
        "name": name,
        "digest": fingerprint,
        "clips": sum(of_class),
        "classes": len(classes),
        "clips_by_split": {split: sum(by_split[split].values()) for split in splits},
        "clips_by_split_and_class": by_split,
        "groups_by_split": {split: len(census.groups[split]) for split in splits if split in census.groups},
        "imbalance": round(max(of_class) / min(of_class), 3) if of_class else 1.0,
        "preset": preset.name,
        "modalities": {m: in_words(preset.parts[m]) for m in preset.modalities},
        "decoder": decoder,
        "quarantined": census.left_out.total(),
        "quarantined_by_reason": dict(sorted(census.left_out.items())),
        "bytes": size,
    }


def in_words(part: Part) -> str:
    """A sentence about what is stored of a modality, and how it is normalised."""
    normalised = {"train": "the training split", "imagenet": "ImageNet"}.get(part.normalise)
    return _kept(part) + (f"; mean and deviation of {normalised}" if normalised else "")


def _kept(part: Part) -> str:
    shape = " x ".join(map(str, part.shape))
    match part:
        case AudioPreset():
            rate = f"{part.sample_rate / 1000:g} kHz, {part.seconds:g} s"
            kind = {
                "stft": f"log STFT, n_fft {part.n_fft}, hop {part.hop}",
                "mel": f"log mel, {part.mels} bands, n_fft {part.n_fft}, hop {part.hop}",
                "fbank": f"Kaldi filter banks, {part.mels} bands every {1000 * part.hop / part.sample_rate:g} ms",
            }[part.transform]
            channel = "" if part.channel == "mix" else f", {part.channel} channel"
            return f"{rate}, {kind}, {shape}{channel}"
        case VideoPreset():
            of = f", {part.candidates} candidates each" if part.candidates > 1 else ""
            return f"middle frames of {part.frames} segments{of}, {part.height} x {part.width}"
        case FlowPreset():
            return f"flow ({part.source}) at the middle frames of {part.frames} segments, {part.height} x {part.width}"
        case FeaturePreset():
            return f"feature {part.layout}, {shape}"


def markdown(card: Mapping[str, Any]) -> str:
    """The card as a Markdown page."""
    lines = [f"# {card.get('corpus', card['name'])}", ""]
    titles = {"licence": "Licence", "citation": "Citation", "split": "Split", "fold": "Fold", "recipe": "Recipe"}
    lines += [f"- **{title}**: {card[key]}" for key, title in titles.items() if card.get(key)]
    if options := card.get("options"):
        lines.append(f"- **Options**: {', '.join(f'{name} {_option(value)}' for name, value in options.items())}")
    if oracle := card.get("oracle"):
        lines.append(f"- **Oracle**: {_oracle(oracle)}")
    lines += [
        f"- **Clips**: {card['clips']} of {card['classes']} classes; the largest class has {card['imbalance']:g} times "
        "as many as the smallest",
        f"- **Excluded**: {_left_out(card)}",
        f"- **Decoder**: {card['decoder']}; preset `{card['preset']}`; {card['bytes'] / 1e9:.2f} GB",
        f"- **Digest**: `{card['digest']}`",
        "",
        "| modality | stored |",
        "|---|---|",
        *(_row(m, words) for m, words in card["modalities"].items()),
        "",
    ]
    lines += _counts(card)
    if warnings := list(card.get("warnings", [])):
        lines += ["## Warnings", "", *(f"- {warning}" for warning in warnings[:_WARNINGS_SHOWN])]
        more = len(warnings) - _WARNINGS_SHOWN
        lines += [f"- and {more} more, in card.json", ""] if more > 0 else [""]
    lines += ["## Use", "", "In a run or a study file, set `corpus:` to the folder of this store. In Python:", ""]
    lines += ["```python", "from remix_study.datasets.corpus import open_corpus", "", 'store = open_corpus("FOLDER")']
    lines += ["```", ""]
    return "\n".join(lines)


def _option(value: Any) -> str:
    return f"{value[0]:g} to {value[1]:g}" if isinstance(value, list) else str(value)


def _oracle(oracle: Mapping[str, Any]) -> str:
    parts = [f"{m} {100 * accuracy:.1f} %" for m, accuracy in oracle["accuracy"].items()]
    return (
        f"{', '.join(parts)} of {oracle['clips']} test clips. It knows how clips are rendered, the noise of each clip, "
        "and which modalities are only noise (`remix_study/datasets/oracle.py`)"
    )


def _left_out(card: Mapping[str, Any]) -> str:
    absent = sum(card.get("absent_by_class", {}).values())
    said = [f"{count} {reason}" for reason, count in card["quarantined_by_reason"].items()]
    bad = f"{card['quarantined']} unusable ({', '.join(said)}; see quarantine.jsonl)" if said else "none unusable"
    return f"{bad}; {absent} listed clips are missing" if absent else bad


def _counts(card: Mapping[str, Any]) -> list[str]:
    splits = list(card["clips_by_split"])
    absent = card.get("absent_by_class", {})
    head = ["class", *splits, *(["absent"] if absent else [])]
    lines = [_row(*head), "|---|" + "---|" * (len(head) - 1)]
    classes = sorted({label for split in splits for label in card["clips_by_split_and_class"][split]} | set(absent))
    for label in classes:
        cells = [str(card["clips_by_split_and_class"][split].get(label, 0)) for split in splits]
        lines.append(_row(label, *cells, *([str(absent.get(label, 0))] if absent else [])))
    totals = [str(card["clips_by_split"][split]) for split in splits]
    lines.append(_row("all", *totals, *([str(sum(absent.values()))] if absent else [])))
    if card["groups_by_split"]:
        groups = [str(card["groups_by_split"].get(split, 0)) for split in splits]
        lines.append(_row("groups", *groups, *([""] if absent else [])))
    return [*lines, ""]


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
