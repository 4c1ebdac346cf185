"""The sections of the report

    answer       the question, and the answer in one sentence
    methods      test accuracy, significance and budget of every method
    published    published values of the same protocol, if the study repeats one
    gains        parts of the gain over joint training; fusion and calibration
    modalities   sufficiency and balance
    training     learning curves, imbalance, assignments, gradient directions and scores over epochs
    did          what the added methods did over epochs, if the study has any
    people       Remix's assignments compared with human ratings, if the corpus has them
    search       search history, Pareto fronts, importances, hyperparameters
    time         where the time went, and what each method costs
    failures     failed runs and their reasons
    reproduce    commands, versions, the study file

A report may be written while the study runs. A section without data says so.
"""

from collections.abc import Sequence
from typing import NamedTuple

from remix_study.figures.chart import Chart
from remix_study.figures.quantities import planned_values
from remix_study.report import human_ratings, run_charts, run_data, search_charts, search_data
from remix_study.report.blocks import Block, Note, Section, section
from remix_study.report.published import published_section
from remix_study.report.reproduce import reproduce
from remix_study.report.search_tables import (
    budget_table,
    chosen_table,
    cost_table,
    curves_table,
    failures_table,
    importances_table,
    trials_table,
    work_table,
)
from remix_study.report.styles import Styles, styles
from remix_study.report.table import Table
from remix_study.report.tables import (
    BALANCE,
    balance_table,
    bar_table,
    calibration_table,
    combinations_table,
    cross_entropy_table,
    differences_table,
    gain_table,
    heads_table,
    methods_table,
    readouts_table,
    sufficiency_table,
)
from remix_study.report.words import plural, unit_of
from remix_study.statistics import seeds_for_sign_flip, smallest_sign_flip_p
from remix_study.study.comparison import StudyResult
from remix_study.study.importance import evaluator_name, importances, why_unknown
from remix_study.study.ledger import Ledger
from remix_study.study.outcomes import FEWEST_SEEDS
from remix_study.study.sentences import compared_with, gain_told, headline, missing_networks
from remix_study.units import duration, listed

_FAILURES_SHOWN = 60


class Report(NamedTuple):
    """The content of a report. `state`: progress of the study; `tables`: file name -> table, written as CSV."""

    name: str
    question: str
    answer: str
    confidence: str
    state: str
    sections: tuple[Section, ...]
    tables: dict[str, Table]

    @property
    def charts(self) -> tuple[Chart, ...]:
        return tuple(block for section in self.sections for block in section.blocks if isinstance(block, Chart))


def make_report(ledger: Ledger, result: StudyResult | None, at_work: bool) -> Report:
    """Compute everything that the report shows, from the ledger and the run folders of the chosen configurations.

    Args:
        ledger: the study's trials and replicates.
        result: the comparison; None if no method has a complete replicate.
        at_work: whether the study runs now.
    """
    study, style_of = ledger.study, styles(ledger.study)
    budgets = search_data.budgets(ledger)
    runs = [r for name in study.methods if (r := run_data.runs_of(ledger, name)) is not None]
    names = run_data.modalities(runs, result)
    trained, curves = _training(runs, names, style_of)
    did, more_curves = _did(runs, style_of)
    searched, weights = _search(ledger, style_of)
    failed = search_data.failures(ledger)
    tables = {
        "budget.csv": budget_table(budgets, study.trials, study.replicates),
        "work.csv": work_table(search_data.work(ledger)),
        "chosen.csv": chosen_table(ledger),
        "trials.csv": trials_table(ledger),
        "failures.csv": failures_table(failed),
        "importances.csv": importances_table(weights),
        "curves.csv": curves_table(curves | more_curves),
    }
    if result is not None:
        tables |= {
            "methods.csv": methods_table(result, {b.method: b.trials for b in budgets}),
            "differences.csv": differences_table(result),
            "sufficiency.csv": sufficiency_table(result),
            "heads.csv": heads_table(result),
            "balance.csv": balance_table(result),
        }
        if costs := run_data.costs(result):
            tables["cost.csv"] = cost_table(costs, run_data.baseline(result))
        more = {
            "combinations.csv": combinations_table(result),
            "separate.csv": bar_table(result),
            "gains.csv": gain_table(result),
            "readouts.csv": readouts_table(result),
            "calibration.csv": calibration_table(result),
            "cross_entropy.csv": cross_entropy_table(result),
        }
        tables |= {name: table for name, table in more.items() if table.rows}
    published = published_section(result, ledger.folder)
    for block in () if published is None else published.blocks:
        if isinstance(block, Table):
            tables["published.csv"] = block
    rated = human_ratings.agreements(ledger)
    if rated:
        tables["people.csv"] = human_ratings.ratings_table(rated)
    sections = (
        _methods(ledger, result, budgets, style_of),
        *([] if published is None else [published]),
        *([] if result is None else _gains(result, style_of)),
        _modalities(result, names, style_of),
        trained,
        *([did] if did is not None else []),
        *([_human_ratings(rated, style_of)] if rated else []),
        searched,
        _time(budgets, runs, result),
        _failures(failed),
        reproduce(ledger),
    )
    return Report(
        name=study.name,
        question=study.question,
        answer=_answer(result),
        confidence=_confidence(result),
        state=_state(ledger, budgets, at_work),
        sections=sections,
        tables=tables,
    )


# --- the answer ------------------------------------------------------------------------------------------------------


def _answer(result: StudyResult | None) -> str:
    return "No answer yet: no method has a complete replicate." if result is None else result.sentence


def _confidence(result: StudyResult | None) -> str:
    """The statistical test behind the answer."""
    if result is None:
        return ""
    compared = [c.ahead for c in result.others if c.ahead is not None and c.ahead.seeds > 1]
    if not compared:
        return "No test is possible: no method shares at least two seeds with the reference."
    seeds = sorted({ahead.seeds for ahead in compared})
    over = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    if all(ahead.clips is None for ahead in compared):
        return f"Differences are over {over} seeds, with 95 % t intervals. Without predictions, there is no test."
    clips = max(ahead.clips for ahead in compared if ahead.clips is not None)
    grouped = next((f" in {ahead.groups} groups" for ahead in compared if ahead.groups is not None), "")
    said = (
        f"Differences are taken per seed and test clip ({over} seeds, {plural(clips, 'clip')}{grouped}); seeds "
        "and clips are both random effects. Intervals are 95 % t intervals (Satterthwaite's degrees of freedom), not "
        f"adjusted. p-values are two-sided and Holm-adjusted for {compared_with(result)}; "
        f"a difference is significant if p < 0.05, with at least {FEWEST_SEEDS} seeds."
    )
    if result.sampling_error is not None:
        said += (
            f" The choice of these test clips alone moves an accuracy by {100 * result.sampling_error:.1f} points "
            "(standard error)."
        )
    smallest = smallest_sign_flip_p(seeds[-1])
    needed = seeds_for_sign_flip(result.comparisons)
    return (
        f"{said} The table also has the exact sign-flip p over {over} seeds. It is at least {smallest:.2g}; with "
        f"{plural(result.comparisons, 'comparison')}, this test needs at least {needed} seeds."
    )


def _state(ledger: Ledger, budgets: Sequence[search_data.Budget], at_work: bool) -> str:
    study = ledger.study
    trials, wanted = sum(min(b.trials, study.trials) for b in budgets), sum(map(study.trials_of, study.methods))
    replicates, needed = sum(min(b.replicates, study.replicates) for b in budgets), study.replicates * len(budgets)
    said = f"{trials} of {plural(wanted, 'trial')} and {replicates} of {plural(needed, 'replicate')} finished"
    if trials >= wanted and replicates >= needed:
        return f"Complete: {plural(wanted, 'trial')}, {plural(needed, 'replicate')}."
    return f"Still running: {said}." if at_work else f"Not complete: {said}."


def _methods(
    ledger: Ledger, result: StudyResult | None, budgets: Sequence[search_data.Budget], style_of: Styles
) -> Section:
    blocks: list[Block | None] = []
    title = "Methods"
    if result is not None:
        title = headline(result)
        blocks += [
            run_charts.accuracies(run_data.accuracies(result), result, style_of),
            methods_table(result, {b.method: b.trials for b in budgets}),
            run_charts.differences(run_data.differences(result), result, style_of),
            differences_table(result),
            run_charts.combinations(result, style_of),
            combinations_table(result),
            run_charts.separate_networks(result, style_of),
            bar_table(result),
            *([Note(_separate_note(result))] if result.bar is not None else []),
        ]
    else:
        blocks.append(Note("No method has a complete replicate yet, so there is nothing to compare."))
    blocks += [
        budget_table(budgets, ledger.study.trials, ledger.study.replicates),
        Note(_fairness(budgets, ledger.study.trials, result)),
        work_table(search_data.work(ledger)),
        chosen_table(ledger),
    ]
    return section("methods", "Methods", title, blocks)


def _fairness(budgets: Sequence[search_data.Budget], planned: int, result: StudyResult | None) -> str:
    """Whether all methods were given the same."""
    counts = {b.trials for b in budgets if b.replays is None}
    if len(counts) == 1:
        said = f"Every method had {plural(counts.pop(), 'trial')}."
    else:
        short = [f"{b.method} {b.trials}" for b in budgets if b.replays is None and b.trials < max(counts)]
        said = (
            f"Budgets are not equal yet: {max(counts)} of {planned} trials for the leading methods, but only "
            f"{listed(short)}."
        )
    said = f"{said} Failed and pruned trials count. A trial that was retried after a failure counts once."
    for b in budgets:
        if b.replays is not None:
            said = f"{said} {b.method} has no trials of its own: it has the configuration of {b.replays}."
        if b.needs:
            said = (
                f"{said} {b.method} needs the runs of {listed([*b.needs])}, which were trained once and count for it, "
                f"too: {duration(b.total_s + b.needed_s)} of running time, of which {duration(b.total_s)} are its own."
            )
    if result is None or result.unchecked:  # the sentence tells which settings cannot be checked
        return said
    if result.unequal:
        return f"{said} The settings of the methods differ: {'; '.join(result.unequal)}."
    return (
        f"{said} Methods differ in `method` only: epochs, encoders, batches, data, evaluation and the search of all "
        "other hyperparameters are the same."
    )


# --- gains -----------------------------------------------------------------------------------------------------------


def _gains(result: StudyResult, style_of: Styles) -> list[Section]:
    """What the gains consist of, and what other predictions of the same networks gain; empty without either."""
    missing = [f"{each.method}: {'; '.join(each.missing)}." for each in result.gains if each.missing]
    blocks: list[Block | None] = [run_charts.gains(result, style_of), gain_table(result)]
    if result.gains:
        blocks.append(Note(_GAINS.format(parts=plural(sum(len(each.parts) for each in result.gains), "part"))))
    if missing:
        blocks.append(Note(f"Not measured separately, with what a study needs for it. {' '.join(missing)}"))
    if result.readouts:
        blocks += [
            readouts_table(result), Note(_READOUTS.format(tests=plural(len(result.readouts), "difference"))),
            calibration_table(result), cross_entropy_table(result),
        ]  # fmt: skip
    title = "Fusion and calibration" if gain_told(result) is None else run_charts.gains_title(result)
    found = section("gains", "Gains", title, blocks)
    return [found] if found.blocks else []


_GAINS = (
    "The parts of a gain sum to it, if all methods have the same replicates. Parts of training are differences of "
    "calibrated late products, which combine the heads of all methods alike. Fusion: fused head minus late sum, of the "
    "method minus of the baseline; calibration: late sum minus calibrated late product, likewise. Both are positive if "
    "the baseline would gain more than the method from a calibrated late product, which needs no training. p-values "
    "are Holm-adjusted for {parts}, apart from the other comparisons of this report."
)
_READOUTS = (
    "The calibrated late product multiplies the predictions of the unimodal heads, each raised to an exponent that is "
    "fitted on the validation split after training. p-values are Holm-adjusted for {tests} of this table."
)


def _separate_note(result: StudyResult) -> str:
    """What the separately trained networks are, and the replicates that could not be combined."""
    assert result.bar is not None
    said = (
        "Separate networks: the unimodal ceilings with the same seed, whose log-probabilities are added for each clip. "
        "They need no further training, so joint training should beat them. p-values are Holm-adjusted for the "
        f"{plural(result.bar.comparisons, 'comparison')} with them, apart from the other comparisons of this report."
    )
    return f"{said} Not combined: {missing_networks(result.bar)}." if result.bar.missing else said


# --- every modality --------------------------------------------------------------------------------------------------


def _modalities(result: StudyResult | None, names: Sequence[str], style_of: Styles) -> Section:
    if result is None:
        waiting = Note("Sufficiency and balance are measured on replicates. No replicate is complete yet.")
        return section("modalities", "Modalities", "Modalities", [waiting])
    heads = run_data.heads(result, names)
    balance = [found for metric in BALANCE if (found := run_data.measured(result, metric)) is not None]
    blocks: list[Block | None] = [run_charts.heads(heads, style_of), sufficiency_table(result)]
    if (own := heads_table(result)).rows:
        blocks.append(own)
    if not result.ceilings:
        blocks.append(
            Note(
                "No method of this study has `ceiling_of`, so the accuracy of each modality alone is unknown. The "
                "report shows probes, but no sufficiency."
            )
        )
    blocks += [run_charts.balance(balance, style_of), balance_table(result)]
    return section("modalities", "Modalities", run_charts.weakest(heads) if heads else "Modalities", blocks)


# --- training --------------------------------------------------------------------------------------------------------

_UNITS_OF_SCORES = {"kl": "bits", "kl_normalised": "0 to 1", "true_class": "0 to 1", "cross_entropy": "nats"}


def _training(
    runs: Sequence[run_data.Runs], names: Sequence[str], style_of: Styles
) -> tuple[Section, dict[str, Sequence[run_data.Band]]]:
    """The section, and its curves by metric."""
    curves: dict[str, Sequence[run_data.Band]] = {}

    def of(*metrics: str) -> list[tuple[str, Sequence[run_data.Band]]]:
        found: list[tuple[str, Sequence[run_data.Band]]] = [
            (metric, run_data.bands(runs, metric)) for metric in metrics
        ]
        curves.update({metric: bands for metric, bands in found if bands})
        return found

    source = _source(runs)
    learning = run_charts.over_epochs(
        "learning", "Learning curves",
        f"{source} Lines: mean over runs; bands: ± one standard deviation.",
        of("val/accuracy", *(f"val/accuracy_uni/{m}" for m in names), "val/accuracy_late_sum"), style_of,
    )  # fmt: skip
    balance = run_charts.over_epochs(
        "balance-epochs", "Balance during training",
        f"On the validation split; 0 means balanced. {source}", of("balance/accuracy_gap", "balance/imbalance"),
        style_of,
    )  # fmt: skip
    shares = {m: run_data.bands(runs, f"remix/share/{m}") for m in names}
    rest = [(metric, bands) for metric, bands in of("remix/resting_share") if _ever(bands)]
    # What controllers of the shares read; without the losses that scoring passes show for every share.
    read = of(*(f"remix/{what}/{m}" for what in ("share_gain", "exponent", "control_cross_entropy") for m in names))
    plans = {metric: dict(of(metric.replace("remix/", "schedule/", 1))) for metric in
             (*(f"remix/share/{m}" for m in names), "remix/joint_share")}  # fmt: skip
    planned = {metric: bands for metric, found in plans.items() for bands in found.values() if bands}
    assignment = run_charts.over_epochs(
        "assignment", run_charts.shares_title(shares, run_data.bands(runs, "remix/joint_share")),
        "Shares of the training samples that train one modality alone, all modalities together, or nothing, and the "
        "share that was reassigned since the last scoring pass; and what controllers of the shares read. The warm-up "
        f"trains jointly. {'Thin dotted lines: planned by schedules and phases. ' if planned else ''}{source}",
        [*of(*(f"remix/share/{m}" for m in names), "remix/joint_share"), *rest, *of("remix/entropy", "remix/churn"),
         *read],
        style_of, planned=planned,
    )  # fmt: skip
    scheduled = [key for r in runs for history in r.histories for key in planned_values(history)]
    schedules = run_charts.over_epochs(
        "schedules", "Schedules", f"What schedules and phases planned; docs/metrics.md defines it. {source}",
        of(*dict.fromkeys(scheduled)), style_of,
    )  # fmt: skip
    c1 = {m: of(f"clash/c1/{m}")[0][1] for m in names}
    clashes = [*((f"clash/c1/{m}", bands) for m, bands in c1.items()), *of(*(f"clash/c2/{m}" for m in names))]
    conflicts = [each for k in (1, 2) for each in of(*(f"clash/c{k}_negative/{m}" for m in names)) if _ever(each[1])]
    directions = run_charts.over_epochs(
        "directions", run_charts.directions_title(c1),
        "Cosines between two gradients of an encoder, mean over the measured steps of an epoch: of the fused and the "
        "unimodal loss, and of the fused loss with all modalities and with the encoder's own. 1 is the same direction, "
        "below 0 is conflict. The second needs samples that train several modalities, which Remix has in the warm-up "
        f"and as joint samples. {source}", [*clashes, *conflicts], style_of,
    )  # fmt: skip
    unit = " or ".join(sorted({_UNITS_OF_SCORES.get(r.score, r.score) for r in runs if r.score is not None})) or "unit"
    quantiles = {m: {q: of(f"remix/score_{q}/{m}")[0][1] for q in ("q10", "q50", "q90")} for m in names}
    more = of("remix/margin", *(f"remix/train_cross_entropy/{m}" for m in names))
    scores = run_charts.scores(quantiles, more, unit, style_of)
    remixed = any(shares.values())
    blocks: list[Block | None] = [learning, balance, assignment if remixed else None, schedules, directions, scores]
    if remixed and directions is None:
        blocks.append(
            Note(
                "No run measured the directions of gradients. `evaluation: {clash_every: 8}` in `base` measures them "
                "in every eighth step."
            )
        )
    if learning is None:
        blocks.append(Note("No run of a chosen configuration has finished an epoch yet."))
    elif not remixed:
        blocks.append(Note("No Remix method has finished its warm-up, so there is no assignment to show."))
    return section("training", "Training", _training_title(curves.get("val/accuracy", ())), blocks), curves


def _did(runs: Sequence[run_data.Runs], style_of: Styles) -> tuple[Section | None, dict[str, Sequence[run_data.Band]]]:
    """The section on added methods, None if none has acted, and its curves by metric."""
    curves: dict[str, Sequence[run_data.Band]] = {}
    blocks: list[Block | None] = []
    for method, recorded in run_data.methods_quantities(runs).items():
        found = [(quantity, run_data.bands(runs, quantity.metric)) for quantity in recorded]
        curves |= {quantity.metric: bands for quantity, bands in found if bands}
        using = [r for r in runs if any(band.method == r.method for _, bands in found for band in bands)]
        blocks.append(run_charts.what_method_did(method, found, _source(using), style_of))
    return section("did", "Added methods", "What the added methods did", blocks) if curves else None, curves


def _human_ratings(found: Sequence[human_ratings.Agreement], style_of: Styles) -> Section:
    blocks: list[Block | None] = [
        *(Note(human_ratings.sentence(a)) for a in found),
        human_ratings.chart(found, style_of),
        human_ratings.ratings_table(found),
        Note(human_ratings.correlations_note(found)),
    ]
    return section("people", "Human ratings", human_ratings.title(found), blocks)


def _ever(bands: Sequence[run_data.Band]) -> bool:
    return any(value > 5e-4 for band in bands for value in band.mean)


def _training_title(found: Sequence[run_data.Band]) -> str:
    if not found:
        return "Training"
    top = max(found, key=lambda b: max(b.mean))
    best = max(top.mean)
    return f"Highest validation accuracy: {top.method}, {100 * best:.1f} % at epoch {top.epochs[top.mean.index(best)]}"


def _source(runs: Sequence[run_data.Runs]) -> str:
    """Which runs the curves show."""
    said = []
    replicated = [r for r in runs if r.source == "replicates" and r.histories]
    if replicated:
        counts = sorted({len(r.histories) for r in replicated})
        over = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        said.append(f"Replicates of each chosen configuration ({over} each).")
    early = [r.method for r in runs if r.source == "search" and r.histories]
    if early:
        said.append(f"For {listed(early)}, the chosen trial itself, since there are no replicates yet.")
    return " ".join(said)


# --- the search ------------------------------------------------------------------------------------------------------


def _search(ledger: Ledger, style_of: Styles) -> tuple[Section, dict[str, dict[str, float]]]:
    """The section, and the importances by method."""
    study = ledger.study
    metric, direction = study.objective[0].metric, study.objective[0].direction
    weights: dict[str, dict[str, float]] = {}
    unknown: dict[str, str] = {}
    for name, trials in ledger.trials.items():
        found = importances(study, name, trials)
        if found is None:
            unknown[name] = why_unknown(study, name, trials) or ""
        else:
            weights[name] = found
    how = sorted({evaluator_name(study, name, ledger.trials[name]) for name in weights})
    history = search_charts.history(search_data.progress(ledger), metric, direction, style_of)
    pairs = [((metric, other), search_data.fronts(ledger, i)) for i, other in enumerate(study.metrics) if i > 0]
    pruner_metric = getattr(study.pruner, "metric", "val/accuracy")
    blocks: list[Block | None] = [
        history,
        search_charts.fronts(pairs, style_of),
        search_charts.importances(weights, unknown, how, metric, style_of),
        search_charts.parallels(search_data.parallels(ledger)),
        search_charts.slices(search_data.slices(ledger), metric, style_of),
        search_charts.pruned(search_data.pruned(ledger), pruner_metric, style_of),
    ]
    if history is None:
        blocks.append(Note("No trial is complete yet."))
    elif not weights:
        blocks.append(Note(f"No importances. {search_charts.without_importance(unknown)}"))
    if len(study.objective) > 1:
        blocks.append(Note(f"Charts with a single objective show the first: {unit_of(metric).name} ({direction}d)."))
    return section("search", "Search", "Search" if history is None else history.title, blocks), weights


# --- time, failures, reproduction ------------------------------------------------------------------------------------


def _time(budgets: Sequence[search_data.Budget], runs: Sequence[run_data.Runs], result: StudyResult | None) -> Section:
    chart = search_charts.seconds(budgets, run_data.parts(runs))
    blocks: list[Block | None] = [chart or Note("No run has ended yet.")]
    costs = run_data.costs(result) if result is not None else ()
    if result is not None and costs:
        blocks += [cost_table(costs, run_data.baseline(result)), Note(_cost(costs, result))]
    return section("time", "Time and cost", "Time and cost" if chart is None else chart.title, blocks)


def _cost(found: Sequence[run_data.Cost], result: StudyResult) -> str:
    """How predictions compare, and how to read the table of costs."""
    whole = {c.name for c in result.others}
    ratios = [c.inference for c in found if c.inference is not None and c.method in whole]
    said = (
        "Training time includes scoring passes and what methods do before an epoch. Runs that share a machine slow "
        "each other down, so times are comparable within the study only; multiply-adds do not depend on the machine, "
        "and leave out heads and fusion."
    )
    if ratios:
        said = (
            f"With all modalities, a prediction takes {min(ratios):.2f} to {max(ratios):.2f} times as long as with "
            f"{run_data.baseline(result)}, in the fastest replicate of each. {said}"
        )
    if any(c.peak_bytes is not None for c in found):
        return f"{said} Peak memory is that of tensors on the GPU of one worker."
    return f"{said} Memory and absolute times are shown for runs on a GPU only."


def _failures(found: Sequence[search_data.Failure]) -> Section:
    if not found:
        return section("failures", "Failures", "Nothing failed", [Note("No trial or replicate failed.")])
    causes: dict[str, int] = {}
    for f in found:
        causes[f.cause] = causes.get(f.cause, 0) + len(f.numbers)
    total = sum(causes.values())
    said = listed([f"{count} {cause}" for cause, count in sorted(causes.items(), key=lambda item: -item[1])])
    table = failures_table(found)
    blocks: list[Block | None] = [table._replace(rows=table.rows[:_FAILURES_SHOWN])]
    if len(table.rows) > _FAILURES_SHOWN:
        blocks.append(
            Note(
                f"Showing {_FAILURES_SHOWN} of {len(table.rows)} kinds of failure; tables/failures.csv has all of them."
            )
        )
    return section("failures", "Failures", f"{plural(total, 'run')} failed: {said}", blocks)
