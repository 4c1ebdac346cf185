"""Compare assignments of Remix with human ratings: does it train the modality that people find hard?

Raters of CREMA-D named the emotion of a clip from the voice alone, from the face alone, and from both. Clips fall into
four groups by the modalities from which the raters' vote equals the label. For each group: the score of the model's
unimodal predictions, and the modality that Remix assigned.

Scores exist for clips of the training split only. A score measures the distance of a prediction from uniform, that is,
how certain the model is, not whether it is right; and the model was trained on these clips.
"""

# S seeds, N clips of a group, B bootstrap samples

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from remix_study.figures.chart import QUIET, Axis, Chart, Key, Mark, Panel, Points, Rule
from remix_study.modality import canonical_order
from remix_study.report.styles import Style
from remix_study.report.table import Table
from remix_study.study.ledger import Ledger, chosen_replicates

HUMAN = "human_"
_BOOTSTRAPS = 1000
_log = logging.getLogger(__name__)


class Interval(NamedTuple):
    """A mean with its 95 % interval, from a bootstrap over seeds and clips."""

    mean: float
    low: float
    high: float


class Group(NamedTuple):
    """Clips that people recognise from the same modalities.

    `share`: among the clips that train exactly one modality, the fraction that trains `first`. `scores[m]`: the mean
    score of modality m.
    """

    name: str
    clips: int
    share: Interval | None
    scores: dict[str, Interval]


class Agreement(NamedTuple):
    """Agreement of one method's assignments with human ratings, over its replicates.

    `share`: as in `Group`, over all clips. `lead`: the share of the clips recognised from `second` only minus the share
    of those recognised from `first` only; above 0, Remix trains the modality that people find hard. `correlations[m]`:
    for each seed, Spearman's correlation between how clearly people recognise a clip from m and the model's score of m.
    """

    method: str
    first: str
    second: str
    seeds: int
    share: float
    groups: tuple[Group, ...]
    lead: Interval | None
    correlations: dict[str, tuple[float, ...]]


def agreements(ledger: Ledger) -> tuple[Agreement, ...]:
    """The agreement of every method whose replicates recorded assignments of clips with ratings for two modalities."""
    found = []
    for method in ledger.study.methods:
        folders = [Path(r.folder) for r in chosen_replicates(ledger, method) if r.state == "complete"]
        read = [columns for folder in folders if (columns := _read(folder)) is not None]
        if (agreement := agreement_of(method, read)) is not None:
            found.append(agreement)
    return tuple(found)


def _read(folder: Path) -> dict[str, Any] | None:
    path = folder / "decisions.parquet"
    if not path.exists():
        return None
    import pyarrow as pa
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        _log.warning("Leaving out %s, which cannot be read: %s", path, str(error).splitlines()[0])
        return None
    return {name: table[name].to_numpy() for name in table.column_names}


def agreement_of(method: str, seeds: Sequence[Mapping[str, Any]]) -> Agreement | None:
    """The agreement of one method.

    Args:
        method: its name.
        seeds: for each replicate, the columns of its `decisions.parquet` (launch/decisions.py).

    Returns:
        None if fewer than two modalities have ratings, or no clip is in all replicates.
    """
    rated = rated_modalities(seeds[0]) if seeds else ()
    alike = _of_common_clips(seeds)
    if len(rated) < 2 or not len(alike[0]["id"]):
        return None
    first, second = rated[:2]
    knows = {m: np.asarray(alike[0][HUMAN + m], dtype=np.float64) for m in (first, second)}
    known_N = np.isfinite(knows[first]) & np.isfinite(knows[second])
    by = {m: knows[m] >= 1 for m in knows}  # a tie between the label and another emotion does not count
    members = {
        f"{first} only": by[first] & ~by[second],
        f"{second} only": by[second] & ~by[first],
        "each": by[first] & by[second],
        "neither": ~by[first] & ~by[second],
    }
    draw = np.random.default_rng(0)
    groups = tuple(
        _group(name, mask & known_N, alike, (first, second), draw)
        for name, mask in members.items()
        if (mask & known_N).any()
    )
    # A replicate may train all rated clips through both modalities.
    shares = [_share_of(columns, first)[known_N & _single(columns)] for columns in alike]
    share = float(np.mean([each.mean() for each in shares if len(each)])) if any(map(len, shares)) else math.nan
    lead = _lead(alike, members[f"{second} only"] & known_N, members[f"{first} only"] & known_N, first, draw)
    return Agreement(
        method, first, second, len(alike), share, groups, lead,
        {m: _correlations(alike, m, known_N) for m in (first, second) if f"score_{m}" in alike[0]},
    )  # fmt: skip


def _of_common_clips(seeds: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the clips that are in all replicates, in one order: a control split differs from seed to seed."""
    if not seeds:
        return []
    common = set.intersection(*(set(columns["id"]) for columns in seeds))
    order = [clip for clip in seeds[0]["id"] if clip in common]
    rows = [dict(zip(columns["id"], range(len(columns["id"])), strict=True)) for columns in seeds]
    return [
        {name: np.asarray(values)[[row[clip] for clip in order]] for name, values in columns.items()}
        for row, columns in zip(rows, seeds, strict=True)
    ]


def rated_modalities(columns: Mapping[str, Any]) -> tuple[str, ...]:
    """The modalities that Remix trains and that have human ratings, in the canonical order."""
    trained = {name.removeprefix("trains_") for name in columns if name.startswith("trains_")} - {"all"}
    return canonical_order(m for m in trained if HUMAN + m in columns)


def _single(columns: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Mask of the samples that train exactly one modality."""
    own = [columns[name] for name in columns if name.startswith("trains_") and name != "trains_all"]
    return np.asarray((np.sum(own, axis=0) == 1) & ~np.asarray(columns["trains_all"], dtype=np.bool_))


def _share_of(columns: Mapping[str, Any], modality: str) -> NDArray[np.float64]:
    return np.asarray(columns[f"trains_{modality}"], dtype=np.float64)


def _group(
    name: str,
    mask_N: NDArray[np.bool_],
    seeds: Sequence[Mapping[str, Any]],
    pair: tuple[str, str],
    draw: np.random.Generator,
) -> Group:
    weights_BN, seeds_BS = _resamples(int(mask_N.sum()), len(seeds), draw)
    # A sample that trains both modalities, or none, is left out.
    sides_SN = np.array([np.where(_single(s), _share_of(s, pair[0]), np.nan)[mask_N] for s in seeds])
    scores = {
        m: _interval(np.array([s[f"score_{m}"][mask_N] for s in seeds]), weights_BN, seeds_BS)
        for m in pair
        if f"score_{m}" in seeds[0]
    }
    return Group(
        name,
        int(mask_N.sum()),
        _interval(sides_SN, weights_BN, seeds_BS),
        {m: interval for m, interval in scores.items() if interval is not None},
    )


def _resamples(clips: int, seeds: int, draw: np.random.Generator) -> tuple[NDArray[Any], NDArray[Any]]:
    """How often each bootstrap sample contains each clip, and each seed."""
    weights_BN = draw.multinomial(clips, np.full(clips, 1 / clips), size=_BOOTSTRAPS)
    seeds_BS = draw.multinomial(seeds, np.full(seeds, 1 / seeds), size=_BOOTSTRAPS)
    return weights_BN, seeds_BS


def _means_B(values_SN: NDArray[np.float64], weights_BN: NDArray[Any], seeds_BS: NDArray[Any]) -> NDArray[np.float64]:
    there_SN = np.isfinite(values_SN)
    sums_BS = weights_BN @ np.where(there_SN, values_SN, 0.0).T
    counts_BS = weights_BN @ there_SN.T.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((sums_BS * seeds_BS).sum(axis=1) / (counts_BS * seeds_BS).sum(axis=1))


def _interval(values_SN: NDArray[np.float64], weights_BN: NDArray[Any], seeds_BS: NDArray[Any]) -> Interval | None:
    if not np.isfinite(values_SN).any():
        return None
    drawn_B = _means_B(values_SN, weights_BN, seeds_BS)
    low, high = np.nanquantile(drawn_B, [0.025, 0.975])
    return Interval(float(np.nanmean(values_SN)), float(low), float(high))


def _lead(
    seeds: Sequence[Mapping[str, Any]],
    second_only_N: NDArray[np.bool_],
    first_only_N: NDArray[np.bool_],
    first: str,
    draw: np.random.Generator,
) -> Interval | None:
    if not second_only_N.any() or not first_only_N.any():
        return None
    seeds_BS = draw.multinomial(len(seeds), np.full(len(seeds), 1 / len(seeds)), size=_BOOTSTRAPS)
    drawn, means = [], []
    for mask_N in (second_only_N, first_only_N):
        weights_BN, _ = _resamples(int(mask_N.sum()), 1, draw)
        sides_SN = np.array([np.where(_single(s), _share_of(s, first), np.nan)[mask_N] for s in seeds])
        if not np.isfinite(sides_SN).any():
            return None
        drawn.append(_means_B(sides_SN, weights_BN, seeds_BS))
        means.append(float(np.nanmean(sides_SN)))
    low, high = np.nanquantile(drawn[0] - drawn[1], [0.025, 0.975])
    return Interval(means[0] - means[1], float(low), float(high))


def _correlations(seeds: Sequence[Mapping[str, Any]], modality: str, known_N: NDArray[np.bool_]) -> tuple[float, ...]:
    from scipy.stats import spearmanr

    level = seeds[0].get(f"{HUMAN}level_{modality}")
    clarity_N = np.asarray(seeds[0][HUMAN + modality], dtype=np.float64) * (1.0 if level is None else level)
    there_N = known_N & np.isfinite(clarity_N)
    if there_N.sum() < 3 or np.ptp(clarity_N[there_N]) == 0:
        return ()
    found = [float(spearmanr(clarity_N[there_N], s[f"score_{modality}"][there_N]).statistic) for s in seeds]
    return tuple(value for value in found if np.isfinite(value))


# --- words, table, picture -------------------------------------------------------------------------------------------


def sentence(a: Agreement) -> str:
    """The finding, in one sentence."""
    if a.lead is None:
        return f"No comparison: no clip is recognised from {a.first} only, or none from {a.second} only."
    lead, low, high = 100 * a.lead.mean, 100 * a.lead.low, 100 * a.lead.high
    share = {group.name: 100 * group.share.mean for group in a.groups if group.share is not None}
    said = (
        f"{a.method} assigns {share[f'{a.second} only']:.0f} % of the clips that people recognise from {a.second} only "
        f"to {a.first}, and {share[f'{a.first} only']:.0f} % of those that they recognise from {a.first} only "
        f"({lead:+.1f} points, 95 % interval {low:+.1f} to {high:+.1f})"
    )
    if a.lead.low > 0:
        return f"{said}: it trains the modality that people find hard."
    if a.lead.high < 0:
        return f"{said}: it trains the modality that people find easy."
    return f"{said}: no significant relation to what people find hard."


def title(found: Sequence[Agreement]) -> str:
    """The finding for the first method that can be compared."""
    for a in found:
        if a.lead is not None:
            if a.lead.low > 0:
                return f"{a.method} trains the modality that people find hard: {100 * a.lead.mean:+.0f} points"
            if a.lead.high < 0:
                return f"{a.method} trains the modality that people find easy: {100 * a.lead.mean:+.0f} points"
            return f"No significant relation between {a.method} and human ratings"
    return "Remix and human ratings"


def ratings_table(found: Sequence[Agreement]) -> Table:
    """One row per method and group."""
    if not found:
        return Table("Assignments by human recognition", ("method", "recognised from", "clips"), ())
    first, second = found[0].first, found[0].second
    header = ("method", "recognised from", "clips", f"trains {first} (%)", f"score of {first}", f"score of {second}")
    rows = tuple(
        (a.method, _words(g.name, a), str(g.clips), _shown(g.share, 100, 1),
         *(_shown(g.scores.get(m), 1, 3) for m in (first, second)))
        for a in found
        for g in a.groups
    )  # fmt: skip
    return Table("Assignments by human recognition, mean and 95 % interval", header, rows)


def correlations_note(found: Sequence[Agreement]) -> str:
    """Correlations of scores with human ratings, for each method."""
    said = [
        f"{a.method}: " + ", ".join(f"{m} {_range(values)}" for m, values in a.correlations.items() if values)
        for a in found
        if any(a.correlations.values())
    ]
    if not said:
        return "No correlation is available: no method of this study has scores."
    return (
        "Spearman's correlation between how clearly people recognise a clip from one modality (1 if their vote is the "
        "label, times the rated intensity) and the model's score for that modality, mean and range over seeds: "
        f"{'; '.join(said)}. Scores measure how certain the model is of its training clips, not whether it is right."
    )


def chart(found: Sequence[Agreement], style_of: Mapping[str, Style]) -> Chart | None:
    """The modality that Remix assigns to the clips of each group, and their scores."""
    if not found:
        return None
    first, second = found[0].first, found[0].second
    names = tuple(dict.fromkeys(_counted(g, found[0]) for a in found for g in a.groups))
    panels = [_panel(found, style_of, names, f"clips that train {first} alone (%)", None, wide=True)]
    for m in (first, second):
        if any(m in g.scores for a in found for g in a.groups):
            panels.append(_panel(found, style_of, names, f"score of {m}", m, wide=False))
    legend = [Key(a.method, style_of[a.method].colour, style_of[a.method].symbol, method=a.method) for a in found]
    legend.append(Key("over all clips", QUIET, dash="dash"))
    caption = (
        f"Training clips by whether people recognise the label from {first} or {second} alone (in brackets: number of "
        f"clips). Top: among clips that train one modality only, the share that trains {first}. Bottom: score, the "
        "distance of the model's unimodal prediction from uniform. Mean over replicates and 95 % interval from a "
        "bootstrap over seeds and clips."
    )
    return Chart("people", title(found), caption, tuple(panels), tuple(legend))


def _panel(
    found: Sequence[Agreement],
    style_of: Mapping[str, Style],
    names: tuple[str, ...],
    axis: str,
    modality: str | None,
    *,
    wide: bool,
) -> Panel:
    marks: list[Mark] = []
    scale = 100.0 if modality is None else 1.0
    if modality is None:
        marks += [Rule(100 * a.share, style_of[a.method].colour) for a in found if math.isfinite(a.share)]
    for a in found:
        values = [(_counted(g, found[0]), g.share if modality is None else g.scores.get(modality)) for g in a.groups]
        known = [(name, value) for name, value in values if value is not None]
        if not known:
            continue
        style = style_of[a.method]
        marks.append(
            Points(
                tuple(scale * v.mean for _, v in known), tuple(name for name, _ in known), style.colour,
                style.symbol, 11,
                error=tuple((scale * (v.mean - v.low), scale * (v.high - v.mean)) for _, v in known),
                labels=tuple(f"{a.method}, {name}: {_shown(v, scale, 1 if scale > 1 else 3)}" for name, v in known),
                method=a.method,
            )
        )  # fmt: skip
    return Panel("", Axis(axis), Axis("", categories=names), tuple(marks), wide=wide)


def _counted(group: Group, a: Agreement) -> str:
    return f"{_words(group.name, a)} ({group.clips})"


def _words(name: str, a: Agreement) -> str:
    return {"each": f"{a.first} and {a.second}", "neither": "neither"}.get(name, name)


def _shown(interval: Interval | None, scale: float, digits: int) -> str:
    if interval is None:
        return ""
    mean, low, high = (f"{scale * value:.{digits}f}" for value in interval)
    return f"{mean} ({low} to {high})"


def _range(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:+.2f}"
    return f"{np.mean(values):+.2f} ({min(values):+.2f} to {max(values):+.2f})"
