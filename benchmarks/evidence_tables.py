"""Tables of benchmarks/evidence.py in Markdown, from the ledgers of its studies"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.combinations import markdown
from remix_study.launch.folder import RunFolder
from remix_study.launch.predictions import read_correct
from remix_study.statistics import Estimate
from remix_study.study.comparison import Gain
from remix_study.study.ledger import Ledger, chosen_replicates
from remix_study.study.outcomes import Paired, Replicated, adjusted, over_clips, paired
from remix_study.study.results import result_of
from remix_study.study.sentences import p_digits
from remix_study.study.separate import SEPARATE, modalities_of, separate_networks

VIEWS = {
    "fused head": "test/accuracy",
    "late sum": "test/accuracy_late_sum",
    "calibrated late product": "test/accuracy_late_calibrated",
}
REFERENCES = ("joint_unimodal", "random")
EXPLAINED = ("remix", "share_calibrated_progress")  # whose gains are shown for all recipes in one table
# The differences that are shown first: method, other, view.
MAIN = (
    ("remix", "joint", "fused head"),
    ("remix", "joint_unimodal", "fused head"),
    ("remix", "joint_unimodal", "calibrated late product"),
    ("remix", "remix_random_at_share", "calibrated late product"),
    ("random", "joint_unimodal", "fused head"),
    ("random", "joint_unimodal", "calibrated late product"),
    ("share_calibrated_progress", "random", "calibrated late product"),
    ("umt", "joint_unimodal", "calibrated late product"),
    ("share_calibrated_progress_umt", "umt", "calibrated late product"),
    ("joint_unimodal_abstain_truth", "joint_unimodal", "calibrated late product"),
    ("joint_unimodal_abstain_history", "joint_unimodal", "calibrated late product"),
    ("random_abstain_truth", "random", "calibrated late product"),
    ("random_abstain_history", "random", "calibrated late product"),
)
PRECISION, RECALL = "targets/precision/", "targets/recall/"
CONFIRMATION = "confirmation"


def page(ledgers: Mapping[str, Mapping[str, Ledger]]) -> str:
    """All tables of studies that have results; empty without any.

    Args:
        ledgers: recipe -> `selection` or `confirmation` -> what the study has recorded.
    """
    parts: list[str] = []
    confirmed: dict[str, dict[str, Replicated]] = {}
    gains: dict[str, tuple[Gain, ...]] = {}
    for recipe, stages in ledgers.items():
        for stage, ledger in stages.items():
            found, result = replicated(ledger), result_of(ledger)
            if result is None:
                continue
            parts += [f"## {recipe}, {stage}", tables(found)]
            if result.gains:
                parts += ["Parts of the gains:", parts_of_gains(result.gains)]
            if detected := detections(ledger):
                parts += ["Detection of uninformative samples, means of the last epoch:", detected]
            if stage == CONFIRMATION:
                confirmed[recipe], gains[recipe] = found, result.gains
    if confirmed:
        of_gains = [gains_overview(gains, method) for method in EXPLAINED]
        first = [main_differences(confirmed), overview(confirmed), *of_gains, candidates(confirmed)]
        parts = ["## All recipes, confirmation", *first, *parts]
    return "\n\n".join(parts) + "\n" if parts else ""


def replicated(ledger: Ledger) -> dict[str, Replicated]:
    """The complete replicates of each method, and of the separately trained unimodal networks."""
    found = {}
    for name in ledger.study.methods:
        complete = {r.number: Path(r.folder) for r in chosen_replicates(ledger, name) if r.state == "complete"}
        summaries = {
            n: summary for n, folder in complete.items() if (summary := RunFolder(folder).result()) is not None
        }
        correct = {n: each for n in summaries if (each := read_correct(complete[n])) is not None}
        if summaries:
            found[name] = Replicated(summaries, correct)
    bar = separate_networks(ledger, modalities_of(found))
    ceilings = {name for name, method in ledger.study.methods.items() if method.ceiling_of is not None}
    others = {name: each for name, each in found.items() if name not in ceilings}
    return others | ({SEPARATE: bar.replicated} if bar is not None and bar.replicated.summaries else {})


def tables(found: Mapping[str, Replicated]) -> str:
    """Accuracies of all methods and views, and their differences from each reference, in Markdown.

    Args:
        found: method -> its replicates.
    """
    head = ["method", "seeds", *VIEWS]
    rows = [[_named(name), str(len(each.summaries)), *_accuracies(each)] for name, each in found.items()]
    parts = ["Test accuracy in percent, with its 95 % interval over seeds and test clips:", markdown([head, *rows])]
    for reference in REFERENCES:
        if reference in found:
            parts += [
                f"Difference from `{reference}` in the same view, in points, with its 95 % interval, the seeds on "
                "which the method is ahead, and p after Holm's correction for the table:",
                markdown([["method", *VIEWS], *_differences(found, reference)]),
            ]
    return "\n\n".join(parts)


def _accuracies(method: Replicated) -> list[str]:
    return [_percent(over_clips(method, metric)) for metric in VIEWS.values()]


def _percent(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    mean, low, high = (100 * each for each in estimate.as_fraction()[:3])
    return f"{mean:.2f}" if np.isinf(low) else f"{mean:.2f} ({low:.2f} to {high:.2f})"


def differences(found: Mapping[str, Replicated], reference: str) -> dict[tuple[str, str], Paired]:
    """(method, view) -> the method minus the reference in this view, adjusted for all of them."""
    pairs = {
        (name, view): pair
        for name, each in found.items()
        for view, metric in VIEWS.items()
        if name != reference and (pair := paired(each, found[reference], metric)).seeds
    }
    return adjusted(pairs, len(pairs))


def _differences(found: Mapping[str, Replicated], reference: str) -> list[list[str]]:
    pairs = differences(found, reference)
    names = [name for name in found if name != reference]
    return [[_named(name), *(_difference(pairs.get((name, view))) for view in VIEWS)] for name in names]


def _difference(pair: Paired | None) -> str:
    if pair is None:
        return ""
    interval = "" if np.isinf(pair.low) else f" ({_signed(pair.low)} to {_signed(pair.high)})"
    if pair.p_holm is None or pair.verdict == "unknown":  # too few seeds
        p = ""
    else:
        p = f", p {p_digits(pair.p_holm)}" if pair.p_holm >= 0.001 else ", p < 0.001"
    return f"{_signed(pair.mean)}{interval}, {pair.wins}/{pair.seeds}{p}"


def _signed(value: float) -> str:
    return f"{round(value, 2) + 0.0:+.2f}"  # never -0.00


def main_differences(by_recipe: Mapping[str, Mapping[str, Replicated]]) -> str:
    """The differences of `MAIN` on every recipe, in Markdown.

    Args:
        by_recipe: recipe -> method -> its replicates in the confirmation.
    """
    rows = []
    for method, other, view in MAIN:
        pairs = [
            paired(found[method], found[other], VIEWS[view]) if {method, other} <= set(found) else None
            for found in by_recipe.values()
        ]
        cells = [f"{_signed(each.mean)}, {each.wins}/{each.seeds}" if each and each.seeds else "" for each in pairs]
        if any(cells):
            rows.append([f"{_named(method)} - {_named(other)}", view, *cells])
    return (
        "Differences in points, and the seeds on which they are above 0:\n\n"
        f"{markdown([['difference', 'of the', *by_recipe], *rows])}"
    )


def overview(by_recipe: Mapping[str, Mapping[str, Replicated]]) -> str:
    """Of each view, the accuracy of every method on every recipe, and its difference from `joint_unimodal`.

    Args:
        by_recipe: recipe -> method -> its replicates in the confirmation.
    """
    names = dict.fromkeys(name for found in by_recipe.values() for name in found)
    parts = []
    for view, metric in VIEWS.items():
        rows = [[_named(name), *(_overview(found, name, metric) for found in by_recipe.values())] for name in names]
        parts += [
            f"Test accuracy of the {view} in percent (difference from `{REFERENCES[0]}` in the same view, in points; "
            "seeds on which the method is ahead):",
            markdown([["method", *by_recipe], *(row for row in rows if any(row[1:]))]),
        ]
    return "\n\n".join(parts)


def _overview(found: Mapping[str, Replicated], name: str, metric: str) -> str:
    accuracy = over_clips(found[name], metric) if name in found else None
    if accuracy is None:
        return ""
    text = f"{100 * accuracy.mean:.1f}"
    if name == REFERENCES[0] or REFERENCES[0] not in found:
        return text
    pair = paired(found[name], found[REFERENCES[0]], metric)
    return f"{text} ({round(pair.mean, 1) + 0.0:+.1f}, {pair.wins}/{pair.seeds})"


def parts_of_gains(gains: Iterable[Gain]) -> str:
    """The parts of the gain of each method over `joint_unimodal`, in Markdown."""
    rows = [
        [_named(gain.method), name, measured, _difference(pair)]
        for gain in gains
        if gain.baseline == REFERENCES[0]
        for name, measured, pair in [
            ("whole gain", "fused heads", gain.whole),
            *((part.name, part.measured, part.ahead) for part in gain.parts),
        ]
    ]
    return markdown([["method", "part", "measured as", "points (95 % interval), seeds above 0, p (Holm)"], *rows])


def gains_overview(by_recipe: Mapping[str, Iterable[Gain]], method: str) -> str:
    """The parts of the gain of a method over `joint_unimodal` on every recipe, in Markdown.

    Args:
        by_recipe: recipe -> the gains in its confirmation.
    """
    cells: dict[str, dict[str, str]] = {}
    for recipe, gains in by_recipe.items():
        for gain in gains:
            if (gain.method, gain.baseline) == (method, REFERENCES[0]):
                for name, pair in [("whole gain", gain.whole), *((part.name, part.ahead) for part in gain.parts)]:
                    cells.setdefault(name, {})[recipe] = _difference(pair)
    rows = [[name, *(found.get(recipe, "") for recipe in by_recipe)] for name, found in cells.items()]
    return (
        f"Parts of the gain of {_named(method)} over {_named(REFERENCES[0])}, in points, with 95 % intervals, the "
        f"seeds on which they are above 0, and p after Holm's correction for all parts of a study:\n\n"
        f"{markdown([['part', *by_recipe], *rows])}"
    )


def detections(ledger: Ledger) -> str:
    """Precision and recall of the detectors in the last epoch, in Markdown; empty if no method has a detector."""
    rows = []
    for name in ledger.study.methods:
        folders = [Path(r.folder) for r in chosen_replicates(ledger, name) if r.state == "complete"]
        rows += detection_rows(name, [RunFolder(folder).history[-1] for folder in folders])
    head = ["method", "modality", "seeds with judged samples", "precision", "recall"]
    return markdown([head, *rows]) if rows else ""


def detection_rows(method: str, last: Sequence[Mapping[str, float]]) -> list[list[str]]:
    """A row for each modality in which a detector judges samples uninformative.

    Args:
        last: the metrics of the last epoch of each replicate.
    """
    rows = []
    for m in sorted({key.removeprefix(PRECISION) for each in last for key in each if key.startswith(PRECISION)}):
        told = [each for each in last if PRECISION + m in each]
        values = ([each[key + m] for each in told if key + m in each] for key in (PRECISION, RECALL))
        means = [f"{np.mean(each):.2f}" if each else "" for each in values]
        rows.append([_named(method), m, f"{len(told)} of {len(last)}", *means])
    return rows


def candidates(by_recipe: Mapping[str, Mapping[str, Replicated]]) -> str:
    """On how many recipes a method is ahead of both references on nine of ten seeds, with the calibrated late product.

    Args:
        by_recipe: recipe -> method -> its replicates in the confirmation.
    """
    view = "calibrated late product"
    names = dict.fromkeys(name for found in by_recipe.values() for name in found if name not in REFERENCES)
    rows = []
    for name in names:
        cells, passed = [], 0
        for found in by_recipe.values():
            pairs = [paired(found[name], found[each], VIEWS[view]) for each in REFERENCES if {name, each} <= set(found)]
            known = [pair for pair in pairs if pair.seeds]
            cells.append(", ".join(f"{pair.wins}/{pair.seeds}" for pair in known))
            passed += len(known) == len(REFERENCES) and all(pair.wins >= 0.9 * pair.seeds for pair in known)
        rows.append([_named(name), *cells, f"{passed} of {len(by_recipe)}"])
    ahead = " and of ".join(map(_named, REFERENCES))
    table = markdown([["method", *by_recipe, "recipes passed"], *rows])
    return f"Seeds on which the {view} of a method is ahead of that of {ahead}:\n\n{table}"


def _named(method: str) -> str:
    return method if method == SEPARATE else f"`{method}`"
