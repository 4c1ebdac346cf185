"""The comparison of a study as text: its sentence, and the title of its figures"""

from collections.abc import Mapping, Sequence

from remix_study.statistics import FEWEST_GROUPS
from remix_study.study.comparison import Bar, Combination, Gain, Method, Part, StudyResult
from remix_study.study.outcomes import FEWEST_SEEDS, Paired, Verdict
from remix_study.units import listed

MOST_IN_FULL = 6  # names that a title lists
_MOST_TOLD = 8  # comparisons that are told with all their numbers; of more, the tables have these
_MOST_LISTED = 12  # methods without a clear difference that are named; more are counted
_MOST_CLEAR = 3  # controls with a clear difference that are told with all their numbers
_MOST_NUMBERS = 8  # of replicates
# What a verdict says about the reference, before the name of another method.
VERDICTS: Mapping[Verdict, str] = {
    "ahead": "ahead of", "open": "no significant difference from", "behind": "behind", "unknown": "no verdict on",
}  # fmt: skip


def headline(result: StudyResult) -> str:
    """The comparison as the title of a figure: "remix: ahead of joint; no significant difference from remix_random"."""
    compared = [(c.name, c.ahead) for c in result.others if c.ahead is not None]
    if compared and all(ahead.verdict == "unknown" for _, ahead in compared):
        few = all(ahead.seeds < FEWEST_SEEDS for _, ahead in compared)
        return f"{result.reference}: {'too few replicates for a verdict' if few else 'no verdict'}"
    groups = {verdict: [name for name, ahead in compared if ahead.verdict == verdict] for verdict in VERDICTS}
    said = [f"{VERDICTS[verdict]} {_named(names)}" for verdict, names in groups.items() if names]
    return f"{result.reference}: {'; '.join(said)}" if said else result.reference


def _named(names: Sequence[str]) -> str:
    return listed(names) if len(names) <= MOST_IN_FULL else f"{len(names)} methods"


def sentence(result: StudyResult, missing: Sequence[str]) -> str:
    """The comparison as text, in paragraphs. `missing`: methods without a complete replicate."""
    name = result.reference
    more = cautions(result)
    if missing:
        more.append(f"Not compared, because they have no complete replicate: {', '.join(missing)}.")
    last = " ".join(more)
    if name in missing:
        return _paragraphs(f"{name} has no complete replicate yet, so no method can be compared with it.", last)
    compared = [(c, c.ahead) for c in result.others if c.ahead is not None]
    further = [*combinations(result), *separate_networks(result), *gain(result), last]
    if not compared:
        if missing:
            return _paragraphs(f"No method can be compared with {name} yet.", *further)
        return _paragraphs(f"{name} is the only method of this study: it is compared with none.", *further)
    seeds = max(ahead.seeds for _, ahead in compared)
    if seeds == 0:
        return _paragraphs(f"No method has a complete replicate with the same number as one of {name}.", *further)
    if seeds == 1:
        return _paragraphs(f"One replicate is too few for a comparison: use at least {FEWEST_SEEDS}.", *further)
    said = "; ".join(_findings(result, compared))
    clips = "" if result.clips is None else f", {result.clips} clips"
    return _paragraphs(f"On the held-out test set ({seeds} seeds{clips}): {said}.", *further)


def _paragraphs(*paragraphs: str) -> str:
    return "\n\n".join(filter(None, paragraphs))


def _told_briefly(result: StudyResult) -> bool:
    """Whether there are too many comparisons to tell all their numbers."""
    further = sum(len(each.parts) + len(each.controls) for each in result.combinations)
    return sum(c.ahead is not None for c in result.others) + further > _MOST_TOLD


def combinations(result: StudyResult) -> list[str]:
    """Whether combinations add something to their parts, and what their controls show, as a sentence each."""
    whole = [each for each in result.combinations if each.parts]
    controls = [(each.name, part) for each in result.combinations for part in each.controls]
    brief = _told_briefly(result)
    found = []
    if whole and not brief:
        found.append(f"Combinations: {'; '.join(map(_combination, whole))}.")
    elif whole:
        groups: dict[str, list[str]] = {}
        for each in whole:
            groups.setdefault(judgement(each), []).append(_with_clear_parts(each))
        said = [f"{group}: {listed(names)}" for group, names in groups.items()]
        many = "combination" if len(whole) == 1 else "combinations"
        found.append(f"Of {len(whole)} {many}, {'; '.join(said)}.")
    if controls and not brief:
        found.append(f"Controls: {'; '.join(_controlled(name, part) for name, part in controls)}.")
    elif controls:
        found.append(f"Controls: {'; '.join(_controls_briefly(controls))}.")
    return found


def _with_clear_parts(combination: Combination) -> str:
    """`remix_ogm_ge (ogm_ge +3.7 points)`: the combination with the parts from which it differs significantly."""
    clear = [part for part in combination.parts if part.ahead.verdict in ("ahead", "behind")]
    if not clear:
        return combination.name
    return f"{combination.name} ({', '.join(f'{part.name} {part.ahead.mean:+.1f} points' for part in clear)})"


def _controls_briefly(controls: Sequence[tuple[str, Part]]) -> list[str]:
    """One clause for each thing that controls lack, and what it does; if few are clear, these in full."""
    clear = [(name, part) for name, part in controls if part.ahead.verdict in ("ahead", "behind")]
    said = [_controlled(name, part) for name, part in clear] if len(clear) <= _MOST_CLEAR else []
    words: Mapping[Verdict, str] = {"ahead": "{} helps", "behind": "{} hurts", "open": "no evidence that {} helps"}
    groups: dict[str, list[tuple[str, Paired]]] = {}
    for verdict in words:
        for name, part in controls:
            same = part.ahead.verdict == verdict or (verdict == "open" and part.ahead.verdict == "unknown")
            if same and (verdict == "open" or len(clear) > _MOST_CLEAR):
                groups.setdefault(words[verdict].format(part.lacks), []).append((name, part.ahead))
    return [*said, *(f"{start} {_with_numbers(found)}" for start, found in groups.items())]


def _with_numbers(found: Sequence[tuple[str, Paired]]) -> str:
    """`a (+1.2 points) and b (-0.1 points)`, or of many `20 methods (-0.1 to +1.2 points)`."""
    if len(found) <= _MOST_LISTED:
        return listed([f"{name} ({ahead.mean:+.1f} points)" for name, ahead in found])
    means = [ahead.mean for _, ahead in found]
    return f"{len(found)} methods ({min(means):+.1f} to {max(means):+.1f} points)"


def separate_networks(result: StudyResult) -> list[str]:
    """How the methods compare with separately trained unimodal networks, as one sentence; empty without such."""
    bar = result.bar
    if bar is None:
        return []
    said = [
        f"{which}: {_grouped(found)}"
        for which, found in (
            ("Compared with the late sum of separately trained unimodal networks", bar.late_sum),
            ("calibrated late products of both", bar.late_calibrated),
        )
        if any(ahead.seeds > 1 for ahead in found.values())
    ]
    return [f"{'; '.join(said)}."] if said else []


def missing_networks(bar: Bar) -> str:
    """Why replicates of separately trained networks are missing: `audio_alone failed (replicates 0 and 3)`."""
    why: dict[str, list[str]] = {}
    for number, reason in bar.missing.items():
        why.setdefault(reason, []).append(str(number))
    said = []
    for reason, numbers in why.items():
        more = [f"{len(numbers) - _MOST_NUMBERS} more"] if len(numbers) > _MOST_NUMBERS else []
        shown = listed([*numbers[:_MOST_NUMBERS], *more])
        said.append(f"{reason} (replicate{'s' if len(numbers) > 1 else ''} {shown})")
    return "; ".join(said)


def _grouped(found: Mapping[str, Paired]) -> str:
    """`ahead: a (+1.2 points); no significant difference: b`"""
    words: Mapping[Verdict, str] = {
        "ahead": "ahead", "open": "no significant difference", "behind": "behind", "unknown": "no verdict",
    }  # fmt: skip
    groups = {verdict: [f"{name} ({a.mean:+.1f} points)" for name, a in found.items()
                        if a.seeds > 1 and a.verdict == verdict] for verdict in words}  # fmt: skip
    return ", ".join(
        f"{words[verdict]}: {listed(names) if len(names) <= MOST_IN_FULL else f'{len(names)} methods'}"
        for verdict, names in groups.items() if names
    )  # fmt: skip


def gain(result: StudyResult) -> list[str]:
    """What the gain of the reference consists of, or of the first method that has one, as one sentence."""
    found = gain_told(result)
    if found is None:
        return []
    parts = [part for part in found.parts if part.ahead.seeds]
    numbers = [f"{part.name} {part.ahead.mean:+.1f} ({_range(part.ahead)})" for part in parts]
    said = (
        f"Of the {found.whole.mean:+.1f} points of {found.method} over {found.baseline}, with 95 % intervals: "
        f"{', '.join(numbers)}"
    )
    verdicts = {part.ahead.verdict for part in parts}
    clear = [part.name for part in parts if part.ahead.verdict in ("ahead", "behind")]
    if verdicts <= {"unknown"}:
        said += "; no verdict"
    else:
        said += f"; significant: {listed(clear) if clear else 'none'}"
    if found.missing:
        said += f". Not measured separately: {listed([each.partition(':')[0] for each in found.missing])}"
    return [f"{said}."]


def gain_told(result: StudyResult) -> Gain | None:
    """The gain that the sentence tells; None if there is none of at least two seeds."""
    told = [each for each in result.gains if each.whole.seeds > 1]
    return next((each for each in told if each.method == result.reference), told[0] if told else None)


def _range(ahead: Paired) -> str:
    return f"{ahead.low:+.1f} to {ahead.high:+.1f}" if ahead.low > float("-inf") else "no interval"


def judgement(combination: Combination) -> str:
    """What a combination adds to its parts, in a word or two."""
    verdicts = [part.ahead.verdict for part in combination.parts]
    if "behind" in verdicts:
        return "worse than a part"
    better, unknown = verdicts.count("ahead"), verdicts.count("unknown")
    if unknown == len(verdicts):
        return "no verdict"
    if better == len(verdicts):
        return "better than each part"
    if unknown:
        return f"better than {better} of {len(verdicts)} parts, no verdict on {unknown}"
    if better > 1:
        return f"better than {better} of {len(verdicts)} parts"
    return "better than one part only" if better else "no evidence of adding anything"


def _combination(combination: Combination) -> str:
    """Whether a combination adds something to its parts, as a clause."""
    name, parts = combination.name, combination.parts
    by = {verdict: [part for part in parts if part.ahead.verdict == verdict] for verdict in VERDICTS}
    apart = [part.name for part in by["unknown"] if not part.ahead.seeds]
    unknown = [part for part in by["unknown"] if part.ahead.seeds]
    said = []
    if by["ahead"]:
        said.append(f"{name} adds to {_numbers(by['ahead'])}")
    if by["behind"]:
        said.append(f"{name if not said else 'it'} loses to {_numbers(by['behind'])}")
    if by["open"]:
        said.append(f"there is no evidence that {name if not said else 'it'} adds anything to {_numbers(by['open'])}")
    if unknown:
        who, start = ("it", "there is no verdict") if said else (name, "no verdict")
        said.append(f"{start} on whether {who} adds anything to {_numbers(unknown)}")
    if apart:
        said.append(f"{name if not said else 'it'} has no replicate in common with {listed(apart)}")
    return ", but ".join(said)


def _numbers(parts: Sequence[Part]) -> str:
    return listed([f"{part.name} ({part.ahead.mean:+.1f} points, {_confidence(part.ahead)})" for part in parts])


def _controlled(name: str, part: Part) -> str:
    control = Method(part.name, {}, {}, None, part.lacks, None)
    return _finding(name, control, part.ahead)


def compared_with(result: StudyResult) -> str:
    """`7 comparisons with remix`: what p-values are adjusted for."""
    said = f"{result.comparisons} comparison{'s' if result.comparisons != 1 else ''} with {result.reference}"
    kinds = [("combinations with their parts", any(each.parts for each in result.combinations)),
             ("methods with their controls", any(each.controls for each in result.combinations))]  # fmt: skip
    more = [f"of {kind}" for kind, some in kinds if some]
    return listed([said, *more])


def cautions(result: StudyResult) -> list[str]:
    """What a reader of the comparison must know, one sentence each."""
    found = [
        *_diverged(result), *_replicates(result), *_training_clips(result), *_clips(result), *_other_epoch(result),
        *result.extensions,
    ]  # fmt: skip
    if result.bar is not None and result.bar.missing:
        found.append(f"The separately trained networks are incomplete: {missing_networks(result.bar)}.")
    if result.unequal:
        found.append(f"The settings of the methods differ: {'; '.join(result.unequal)}.")
    if result.unchecked:
        found.append(
            f"The settings of {', '.join(result.unchecked)} are not valid in this version, so that they cannot be "
            "compared with those of the other methods."
        )
    return found


def _diverged(result: StudyResult) -> list[str]:
    counts = ", ".join(f"{c.name} ({len(c.diverged)} of {len(c.seeds)})" for c in result.methods if c.diverged)
    if not counts:
        return []
    return [
        f"Replicates diverged (their loss grew a thousandfold): {counts}. Search lower values of "
        "`optimizer.learning_rate`, or set `clip_norm`."
    ]


def _replicates(result: StudyResult) -> list[str]:
    """Replicates that are missing, that failed, and how many a verdict needs."""
    found = []
    open_ones = [f"{c.name} {len(c.seeds)}" for c in result.methods
                 if len(c.seeds) + result.failed.get(c.name, 0) < result.planned]  # fmt: skip
    if open_ones:
        found.append(f"Not all {result.planned} replicates have ended: {', '.join(open_ones)}. Rerun the study.")
    elif any(c.ahead is not None and 1 < c.ahead.seeds < FEWEST_SEEDS for c in result.others):
        found.append(f"A verdict needs at least {FEWEST_SEEDS} replicates: raise `replicates` and rerun the study.")
    if result.failed:
        worst = [f"from {c.name} is {c.ahead.with_failures:+.1f} points" for c in result.others
                 if c.ahead is not None and c.ahead.with_failures is not None]  # fmt: skip
        counted = f" If they count as 0 % correct, the difference {' and that '.join(worst)}." if worst else ""
        failed = ", ".join(f"{number} of {name}" for name, number in result.failed.items())
        found.append(f"Replicates failed: {failed}; the comparison is over the others.{counted}")
    if result.retried:
        retried = ", ".join(f"{number} of {name}" for name, number in result.retried.items())
        found.append(f"Replicates that had failed were run again: {retried}.")
    return found


def _training_clips(result: StudyResult) -> list[str]:
    """How many clips the replicates trained on, if a part of the training split is control data."""
    summaries = [summary for c in result.methods for summary in c.seeds.values() if "train/control_clips" in summary]
    if not summaries:
        return []
    trained, control = (counted([int(s[f"train/{key}"]) for s in summaries]) for key in ("clips", "control_clips"))
    return [
        f"Each replicate trained on {trained} clips of the training split, and left {control} out as control clips, "
        "which methods may read while they train (`control_fraction`)."
    ]


def counted(numbers: Sequence[int]) -> str:
    """`467`, or `467 to 469` if the numbers differ."""
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _clips(result: StudyResult) -> list[str]:
    """Test clips that are missing, too few or not the same."""
    found = []
    if result.without_predictions:
        found.append(
            "A test needs the predictions of every replicate, but predictions.parquet is missing or damaged for "
            f"{'; '.join(result.without_predictions)}, so the intervals of these methods are over seeds only. Version "
            "0.1 did not write it; otherwise, delete the folders of these replicates and rerun the study."
        )
    if result.other_clips:
        found.append(
            f"These replicates predict other test clips than those of {result.reference}: "
            f"{'; '.join(result.other_clips)}. Delete their folders and rerun the study."
        )
    groups = [c.ahead.groups for c in result.others if c.ahead is not None and c.ahead.groups is not None]
    if groups and min(groups) == 1:
        found.append("All test clips are in one group, so there is no interval over clips.")
    elif groups and min(groups) < FEWEST_GROUPS:
        found.append(
            f"The test clips form only {min(groups)} groups: with fewer than {FEWEST_GROUPS}, intervals and p-values "
            "are rough."
        )
    return found


def _other_epoch(result: StudyResult) -> list[str]:
    """The verdicts that change with the weights of the other epoch (`evaluation.select`)."""
    changed = [
        f"{VERDICTS[c.other_epoch.verdict]} {c.name} ({c.other_epoch.mean:+.1f} points)"
        for c in result.others
        if c.ahead is not None and c.other_epoch is not None and c.ahead.verdict != c.other_epoch.verdict
    ]
    if not changed:
        return []
    other = "last" if result.select == "best" else "best"
    return [f"With the weights of the {other} epoch instead: {result.reference}: {'; '.join(changed)}."]


def _findings(result: StudyResult, compared: Sequence[tuple[Method, Paired]]) -> list[str]:
    """The comparison of the reference with each method, as clauses; of many methods, one clause for each verdict.

    Controls of other methods than the reference lead to no conclusion about it.
    """
    name = result.reference
    compared = [(c._replace(control_of=None) if c.name in result.of_others else c, ahead) for c, ahead in compared]
    if not _told_briefly(result):
        return [_finding(name, c, ahead) for c, ahead in compared]
    in_full = [(c, ahead) for c, ahead in compared if c.control_of or ahead.seeds == 0]
    words: Mapping[Verdict, str] = {
        "ahead": f"{name} beats", "open": f"no significant difference between {name} and",
        "behind": f"{name} loses to", "unknown": f"no verdict on {name} and",
    }  # fmt: skip
    said = []
    for verdict, start in words.items():
        group = [(c, ahead) for c, ahead in compared if ahead.verdict == verdict and (c, ahead) not in in_full]
        if group:
            ordered = sorted(group, key=lambda each: -each[1].mean)
            said.append(f"{start} {_with_numbers([(c.name, ahead) for c, ahead in ordered])}")
    return [*said, *(_finding(name, c, ahead) for c, ahead in in_full)]


def _finding(name: str, c: Method, ahead: Paired) -> str:
    """The comparison of the reference `name` with one method, as a clause."""
    if ahead.seeds == 0:
        return f"{name} and {c.name} have no replicate in common"
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
    said = [text] if (text := interval_text(ahead)) else []
    said.append(f"{ahead.wins}/{ahead.seeds} seeds")
    if ahead.p_holm is not None and ahead.verdict != "unknown":
        said.append(f"Holm {p_text(ahead.p_holm)}")
    return ", ".join(said)


def interval_text(ahead: Paired) -> str:
    """`95 % interval -1.2 to +3.4`; empty if there is none."""
    if ahead.low == float("-inf"):
        return ""
    return f"95 % interval {ahead.low:+.1f} to {ahead.high:+.1f}"


def p_text(p: float) -> str:
    """`p = 0.034`, or `p < 0.001` for smaller values."""
    return "p < 0.001" if p < 0.001 else f"p = {p_digits(p)}" if p < 0.1 else f"p = {p:.2f}"


def p_digits(p: float) -> str:
    """A p-value with three decimals, or with as many as show on which side of 0.05 it is, such as `0.0496`."""
    return next(text for digits in range(3, 20) if (text := f"{p:.{digits}f}") and (float(text) < 0.05) == (p < 0.05))
