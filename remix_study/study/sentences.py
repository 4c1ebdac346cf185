"""The comparison of a study as text: its sentence, and the title of its figures"""

from collections.abc import Sequence

from remix_study.statistics import FEWEST_GROUPS
from remix_study.study.comparison import Method, StudyResult
from remix_study.study.outcomes import FEWEST_SEEDS, Paired


def headline(result: StudyResult) -> str:
    """The comparison as the title of a figure: "remix: ahead of joint; level with remix_random"."""
    compared = [(c.name, c.ahead.verdict) for c in result.others if c.ahead is not None]
    if compared and all(verdict == "unknown" for _, verdict in compared):
        why = "predictions" if any(c.ahead.clips is None and c.ahead.seeds >= FEWEST_SEEDS for c in result.others
                                   if c.ahead is not None) else "seeds"  # fmt: skip
        return (
            f"{result.reference}: too few seeds for a verdict" if why == "seeds" else f"{result.reference}: no verdict"
        )
    words = {"ahead": "ahead of", "open": "level with", "behind": "behind", "unknown": "no verdict on"}
    groups = {verdict: [name for name, found in compared if found == verdict] for verdict in words}
    said = [f"{words[verdict]} {' and '.join(names)}" for verdict, names in groups.items() if names]
    return f"{result.reference}: {'; '.join(said)}" if said else result.reference


def sentence(result: StudyResult, missing: Sequence[str]) -> str:
    """The comparison as text. `missing`: methods without a complete replicate."""
    name = result.reference
    left_out = [f"Not compared, because they have no complete replicate: {', '.join(missing)}."] if missing else []
    if name in missing:
        return _joined(f"{name} has no complete replicate yet, so no method can be compared with it.", *left_out)
    compared = [(c, c.ahead) for c in result.others if c.ahead is not None]
    seeds = max((ahead.seeds for _, ahead in compared), default=0)
    if not compared:
        if missing:
            return _joined(f"No method can be compared with {name} yet.", *left_out)
        return f"{name} is the only method of this study: it is compared with none."
    if seeds < 2:
        return _joined(f"One seed is too few for a comparison: use at least {FEWEST_SEEDS}.", *left_out)
    said = "; ".join(_finding(name, c, ahead) for c, ahead in compared)
    clips = "" if result.clips is None else f", {result.clips} clips"
    return _joined(f"On the held-out test set ({seeds} seeds{clips}): {said}.", *cautions(result), *left_out)


def cautions(result: StudyResult) -> list[str]:
    """What a reader of the comparison must know, one sentence each."""
    compared = [c.ahead for c in result.others if c.ahead is not None]
    found = []
    few = min((ahead.seeds for ahead in compared), default=FEWEST_SEEDS)
    if few < FEWEST_SEEDS:
        found.append(f"A verdict needs at least {FEWEST_SEEDS} seeds: raise `replicates` and rerun the study.")
    if result.without_predictions:
        found.append(
            "A test needs the predictions of every replicate, but predictions.parquet is missing or damaged for "
            f"{'; '.join(result.without_predictions)}, so intervals are over seeds only. Version 0.1 did not write it; "
            "otherwise, delete the folders of these replicates and rerun the study."
        )
    groups = [ahead.groups for ahead in compared if ahead.groups is not None]
    if groups and min(groups) < FEWEST_GROUPS:
        found.append(
            f"The test clips form only {min(groups)} groups: with fewer than {FEWEST_GROUPS}, intervals and p-values "
            "are rough."
        )
    found += _failures(result)
    found += _other_epoch(result)
    found += result.extensions
    if result.unequal:
        found.append(f"The methods were not given the same: {'; '.join(result.unequal)}.")
    return found


def _failures(result: StudyResult) -> list[str]:
    failed = [f"{len(c.failed)} of {c.name}" for c in result.methods if c.failed]
    if not failed:
        return []
    worst = [f"{c.ahead.with_failures:+.1f} points to {c.name}" for c in result.others
             if c.ahead is not None and c.ahead.with_failures is not None]  # fmt: skip
    counted = f" If they count as 0 % correct, the difference is {', '.join(worst)}." if worst else ""
    return [f"Replicates failed: {', '.join(failed)}; the comparison is over the others.{counted}"]


def _other_epoch(result: StudyResult) -> list[str]:
    """The verdicts that change with the weights of the other epoch (`evaluation.select`)."""
    words = {"ahead": "ahead of", "open": "level with", "behind": "behind", "unknown": "without a verdict on"}
    changed = [
        f"{words[c.other_epoch.verdict]} {c.name} ({c.other_epoch.mean:+.1f} points)"
        for c in result.others
        if c.ahead is not None and c.other_epoch is not None and c.ahead.verdict != c.other_epoch.verdict
    ]
    if not changed:
        return []
    other = "last" if result.select == "best" else "best"
    return [f"With the weights of the {other} epoch instead, {result.reference} is {'; '.join(changed)}."]


def _joined(*sentences: str) -> str:
    return " ".join(sentences)


def _finding(name: str, c: Method, ahead: Paired) -> str:
    """The comparison of the reference `name` with one method, as a clause."""
    by, how_sure = f"{abs(ahead.mean):.1f} points", _confidence(ahead)
    match ahead.verdict:
        case "ahead":
            said = f"{name} beats {c.name} by {by} ({how_sure})"
            return said + (f", so {c.control_of} helps" if c.control_of else "")
        case "behind":
            said = f"{name} loses to {c.name} by {by} ({how_sure})"
            return said + (f", so {c.control_of} hurts here" if c.control_of else "")
        case "open":
            why = " after the correction for several comparisons" if ahead.corrected_away else ""
            said = f"no significant difference between {name} and {c.name}{why} ({ahead.mean:+.1f} points, {how_sure})"
            return said + (f", so there is no evidence that {c.control_of} helps" if c.control_of else "")
        case _:
            return f"no verdict on {name} and {c.name} ({ahead.mean:+.1f} points, {how_sure})"


def _confidence(ahead: Paired) -> str:
    said = [interval_text(ahead)] if ahead.seeds > 1 else []
    said.append(f"{ahead.wins}/{ahead.seeds} seeds")
    if ahead.p_holm is not None and ahead.verdict != "unknown":
        said.append(f"Holm {p_text(ahead.p_holm)}")
    return ", ".join(said)


def interval_text(ahead: Paired) -> str:
    """`95 % interval -1.2 to +3.4`."""
    return f"95 % interval {ahead.low:+.1f} to {ahead.high:+.1f}"


def p_text(p: float) -> str:
    """`p = 0.034`, or `p < 0.001` for smaller values."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"
