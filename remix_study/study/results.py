"""Results of a study: the comparison of its methods, as numbers and as a sentence

Methods are compared with the reference on the held-out test set, per seed and test clip (outcomes.py). The p values are
adjusted for the planned comparisons (Holm), which include those of combinations with their parts (combinations.py); a
difference is reported only if the adjusted value is significant.

Does not import torch, so that the report and the terminal show results quickly.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np

from remix_study.config.run import RunConfig
from remix_study.config.study import StudyConfig
from remix_study.errors import ConfigError, StudyError
from remix_study.launch.predictions import Correct, read_correct
from remix_study.statistics import Estimate, sampling_error
from remix_study.study.combinations import Pair, configs_of, family_of, of_combinations, of_controls, planned
from remix_study.study.comparison import Bar, Ceiling, Combination, IncompleteStudyError, Method, Part, StudyResult
from remix_study.study.fairness import is_in, unequal_keys
from remix_study.study.gain import CALIBRATED, FUSED, LATE_SUM, gains, readouts
from remix_study.study.ledger import (
    REPLICATE,
    SEARCH,
    Ledger,
    ReplicateRecord,
    TrialRecord,
    chosen_replicates,
    ended_trials,
)
from remix_study.study.outcomes import Paired, Replicated, Term, adjusted, contrast, outcomes, over_clips, paired, ratio
from remix_study.study.search_space import chosen_space, configure, space_of
from remix_study.study.sentences import sentence
from remix_study.study.separate import SEPARATE, Separate, modalities_of, separate_networks
from remix_study.study.shown import extensions

_CORRECT = "correct the cause"
_TIMES = ("time/total_train_s", "time/total_score_s")
_METHODS_NAMED = 3


def compare(
    study: StudyConfig,
    replicates: Mapping[str, Replicated],
    best: Mapping[str, Mapping[str, Any]],
    failures: Sequence[str],
    *,
    select: Literal["best", "last"] = "best",
    unequal: Sequence[str] = (),
    unchecked: Sequence[str] = (),
    extensions: Sequence[str] = (),
    separate: Separate | None = None,
) -> StudyResult:
    """Compare the methods of a study. A method without a complete replicate is left out and named in the sentence.

    Args:
        replicates: method -> its replicates.
        best: method -> its chosen hyperparameters.
        failures: what failed, with the reasons.
        select: the epoch whose weights the replicates evaluated (`evaluation.select`).
        unequal: differences in settings between the methods, with the reasons.
        unchecked: methods whose settings are not valid in this version, so that they cannot be compared.
        extensions: how the plan changed after test results had been shown, one sentence each.
        separate: the combination of the unimodal ceilings; None without a ceiling of each modality.

    Raises:
        StudyError: no method has a complete replicate.
    """
    networks = {} if separate is None else {SEPARATE: separate.replicated}
    given = replicates
    replicates, other_clips = _same_clips(study, {**replicates, **networks})
    combined = replicates.pop(SEPARATE, None)
    seen = {name: replicates[name] for name in study.methods if name in replicates and replicates[name].summaries}
    if not seen:
        raise StudyError(
            f"Cannot compare methods: none has a complete replicate ({'; '.join(failures) or 'none was run'}). Resume "
            "the study first."
        )
    other = "test/accuracy_last" if select == "best" else "test/accuracy_best"
    alone = {study.methods[name].ceiling_of: each for name, each in seen.items()}
    trained_alone = {m: each for m, each in alone.items() if m is not None}
    ceilings = {m: _ceiling(m, each) for m, each in trained_alone.items()}
    configs = configs_of(study)
    pairs = planned(study, configs)
    tests, ahead_there = _tests(pairs, seen, "test/accuracy"), _ahead(study, seen, _tests(pairs, seen, other), other)
    ahead = _ahead(study, seen, tests, "test/accuracy")
    methods = tuple(
        Method(
            name=name,
            params=best.get(name, {}),
            seeds={n: {**s, **_sufficiency(s, ceilings)} for n, s in each.summaries.items()},
            ceiling_of=study.methods[name].ceiling_of,
            control_of=study.control_of(name),
            ahead=ahead.get(name),
            other_epoch=there if (there := ahead_there.get(name)) is not None and there.seeds else None,
            estimates=_estimates(each, trained_alone),
            failed=each.failed,
            family=family_of(configs[name]) if name in configs else (),
        )
        for name, each in seen.items()
    )
    failed = {name: len(each.failed) for name, each in replicates.items() if each.failed}
    clips, error = _sampling(seen.get(study.reference) or next(iter(seen.values())))
    without = _without_predictions(study, {name: given[name] for name in seen})
    result = StudyResult(
        study.name, study.question, study.reference, methods, ceilings, tuple(failures), "", select, clips, error,
        tuple(unequal), tuple(extensions), tuple(without), tuple(other_clips),
        len(pairs), study.replicates, failed,
        {name: len(each.retried) for name, each in replicates.items() if each.retried}, tuple(unchecked),
        tuple(_combinations(study, configs, seen, tests)),
        None if separate is None or combined is None else _bar(study, seen, separate, combined),
        readouts(study, seen), gains(study, _chosen(study, best), seen),
        tuple(pair.second for pair in of_controls(study, configs)),
    )  # fmt: skip
    return result._replace(sentence=sentence(result, [name for name in study.methods if name not in seen]))


def result_of(ledger: Ledger) -> StudyResult | None:
    """The comparison from all replicates so far of the chosen hyperparameters; None if none is complete."""
    replicates: dict[str, Replicated] = {}
    best: dict[str, dict[str, Any]] = {}
    failures = [
        f"{name}-{SEARCH}-{t.number}: {t.reason}"
        for name, trials in ledger.trials.items()
        for t in trials
        if t.state == "failed" and t.reason is not None and not t.retried
    ]
    for name in ledger.study.methods:
        chosen = ledger.chosen(name)
        if chosen is None:
            continue
        best[name] = chosen.params
        summaries: dict[int, dict[str, float]] = {}
        correct: dict[int, Correct] = {}
        failed, retried = [], []
        for record in chosen_replicates(ledger, name):
            label = f"{name}-{REPLICATE}-{record.number}"
            if record.failed_before:
                retried.append(record.number)
                failures.append(f"{label}: failed before it was run again: {'; '.join(record.failed_before)}")
            if record.state == "failed":
                failed.append(record.number)
                failures.append(f"{label}: {record.reason}")
            elif record.state == "complete":
                summary = _summary(record)
                if summary is None:
                    failures.append(f"{label}: was complete, but {record.folder} no longer has a result")
                    continue
                summaries[record.number] = summary
                if (found := read_correct(Path(record.folder))) is not None:
                    correct[record.number] = found
        replicates[name] = Replicated(summaries, correct, tuple(failed), tuple(retried))
    if not any(each.summaries for each in replicates.values()):
        return None
    configs = configs_of(ledger.study)
    return compare(
        ledger.study,
        replicates,
        best,
        failures,
        select=next((config.evaluation.select for config in configs.values()), "best"),
        unequal=_unequal(ledger, configs),
        unchecked=[name for name in ledger.study.methods if name not in configs],
        extensions=extensions(ledger.folder, ledger.study),
        separate=separate_networks(ledger, modalities_of(replicates)),
    )


def _chosen(study: StudyConfig, best: Mapping[str, Mapping[str, Any]]) -> dict[str, RunConfig]:
    """Method -> its chosen configuration, of those that are valid in this version."""
    found = {}
    for name, params in best.items():
        space = chosen_space(study, name)
        with suppress(ConfigError, KeyError):  # a choice may have had other labels in an earlier version
            known = {path: value for path, value in params.items() if path in space}
            found[name] = configure(study, name, known, study.seed, {})
    return found


def require_every_method(result: StudyResult | None, ledger: Ledger) -> StudyResult:
    """Return the result of a study that has ended, if it has one of each method.

    Raises:
        IncompleteStudyError: it lacks that of some methods. The message says why.
    """
    there = set() if result is None else {method.name for method in result.methods}
    missing = {name: _why_missing(ledger, name) for name in ledger.study.methods if name not in there}
    if result is not None and not missing:
        return result
    named = "; ".join(f"{name} ({why})" for name, (_, why) in list(missing.items())[:_METHODS_NAMED])
    named += f"; and {len(missing) - _METHODS_NAMED} more" if len(missing) > _METHODS_NAMED else ""
    lacks = "No method has a result" if result is None else "No result for"
    remedies = " and ".join(dict.fromkeys(remedy for remedy, _ in missing.values()))
    option = " with --retry-failed" if _CORRECT in remedies else ""
    raise IncompleteStudyError(
        f"The comparison of the study {ledger.study.name} is incomplete. {lacks}: {named}. {remedies[0].upper()}"
        f"{remedies[1:]}, then rerun the command{option}.",
        result,
    )


def _why_missing(ledger: Ledger, name: str) -> tuple[str, str]:
    """Return a remedy, and why a method has no complete replicate."""
    searched = ledger.study.searched(name)
    if searched != name and ledger.chosen(name) is None:
        remedy, why = _why_missing(ledger, searched)
        return remedy, f"`{searched}`, whose shares it replays, has no complete trial: {why}"
    records: Sequence[TrialRecord | ReplicateRecord] = chosen_replicates(ledger, name)
    what = "replicates"
    if ledger.chosen(name) is None:
        records, what = [each for each in ledger.trials.get(name, ()) if not each.retried], "trials"
    failed = [each.reason or "for an unknown reason" for each in records if each.state == "failed"]
    if failed:
        return _CORRECT, f"{len(failed)} of {len(records)} {what} failed, the last with: {failed[-1].rstrip('.')}"
    if any(each.state == "complete" for each in records):
        return "delete the folders of its replicates", "the results of its replicates are missing"
    if any(each.state == "pruned" for each in records):
        return "raise `trials`", f"all {len(records)} trials were pruned"
    return "raise `budget`", "the budget is used up"


def _unequal(ledger: Ledger, configs: Mapping[str, RunConfig]) -> list[str]:
    """Differences between the methods as text: keys of the configuration with their reason, and numbers of trials."""
    study = ledger.study
    spaces = {name: space_of(study, method) for name, method in study.methods.items() if method.replay is None}
    found = []
    for path, difference in unequal_keys({n: c for n, c in configs.items() if n in spaces}, spaces).items():
        reasons = [each.reason for each in study.unequal if is_in(path, [each.key])]
        found.append(f"{path} is {difference.replace('`', '')}" + (f" ({reasons[0]})" if reasons else ""))
    ended = {name: ended_trials(ledger.trials.get(name, ())) for name in spaces}
    if len({min(number, study.trials) for number in ended.values()}) > 1:
        found.append(f"trials: {', '.join(f'{number} for {name}' for name, number in ended.items())}")
    return found


def _same_clips(study: StudyConfig, replicates: Mapping[str, Replicated]) -> tuple[dict[str, Replicated], list[str]]:
    """The replicates without predictions of other clips than the reference's first, and where those were."""
    order = sorted(replicates, key=lambda name: name != study.reference)
    ids = next((c.ids for name in order for _, c in sorted(replicates[name].correct.items())), ())
    found, others = {}, []
    for name, each in replicates.items():
        different = [n for n, c in sorted(each.correct.items()) if c.ids != ids]
        found[name] = each._replace(correct={n: c for n, c in each.correct.items() if n not in different})
        others += [f"{name} {', '.join(map(str, different))}"] if different else []
    return found, others


def _without_predictions(study: StudyConfig, replicates: Mapping[str, Replicated]) -> Iterator[str]:
    """`joint 0, 3`: compared replicates without readable predictions, by method; unimodal ceilings are not tested."""
    if study.reference not in replicates:
        return
    compared = [each for name, each in replicates.items()
                if name != study.reference and study.methods[name].ceiling_of is None]  # fmt: skip
    for name, each in replicates.items():
        others = compared if name == study.reference else [replicates[study.reference]]
        missing = [str(n) for n in sorted(each.summaries)
                   if n not in each.correct and any(n in other.summaries for other in others)]  # fmt: skip
        if missing and study.methods[name].ceiling_of is None:
            yield f"{name} {', '.join(missing)}"


def _summary(record: ReplicateRecord) -> dict[str, float] | None:
    from remix_study.launch.folder import RunFolder

    return RunFolder(Path(record.folder)).result()


def _ceiling(modality: str, replicates: Replicated) -> Ceiling:
    head, probe, own = (
        [s[key] for s in replicates.summaries.values() if key in s]
        for key in ("test/accuracy", f"probe/accuracy/{modality}", f"best/own_epoch_accuracy_uni/{modality}")
    )
    means = [float(np.mean(found)) if found else None for found in (probe, own)]
    return Ceiling(float(np.mean(head)), *means)


def _sufficiency(summary: Mapping[str, float], ceilings: Mapping[str, Ceiling]) -> dict[str, float]:
    """Sufficiency of the unimodal heads, if they are trained, and of linear probes, as metrics."""
    if not ceilings:
        return {}
    # Imported here, because they import torch, which a study without ceilings does not need.
    from remix_study.metrics import sufficiency_ratio
    from remix_study.training.final_evaluation import sufficiency

    alone = {m: summary[f"test/accuracy_uni/{m}"] for m in ceilings if f"test/accuracy_uni/{m}" in summary}
    # Sufficiency above chance is left out: only the run itself knows the majority class of its split.
    found = sufficiency(alone, {m: ceiling.head for m, ceiling in ceilings.items()}, chance=0.0)
    found = {key: value for key, value in found.items() if "above_chance" not in key}
    for m, ceiling in ceilings.items():
        own = summary.get(f"best/own_epoch_accuracy_uni/{m}")
        if own is not None and ceiling.own_epoch is not None:
            own_ratio = sufficiency_ratio(own, ceiling.own_epoch)
            if own_ratio is not None:
                found[f"sufficiency/own_epoch_ratio/{m}"] = own_ratio
        probed = summary.get(f"probe/accuracy/{m}")
        if probed is None or ceiling.probe is None:
            continue
        probe_ratio = sufficiency_ratio(probed, ceiling.probe)
        if probe_ratio is not None:
            found[f"sufficiency/probe_ratio/{m}"] = probe_ratio
    return found


def _estimates(replicates: Replicated, ceilings: Mapping[str, Replicated]) -> dict[str, Estimate]:
    """Accuracies over test clips, and sufficiency, with their intervals."""
    keys = dict.fromkeys(key for summary in replicates.summaries.values() for key in summary)
    found = {key: over_clips(replicates, key) for key in keys}
    for m, ceiling in ceilings.items():
        own, probe = f"test/accuracy_uni/{m}", f"probe/accuracy/{m}"
        own_epoch = f"best/own_epoch_accuracy_uni/{m}"
        for key, metric, of_ceiling in (
            ("ratio", own, "test/accuracy"), ("probe_ratio", probe, probe), ("own_epoch_ratio", own_epoch, own_epoch),
        ):  # fmt: skip
            found[f"sufficiency/{key}/{m}"] = ratio(replicates, ceiling, metric, of_ceiling)
    return {key: value for key, value in found.items() if value is not None}


def _sampling(replicates: Replicated) -> tuple[int | None, float | None]:
    """Number of test clips, and the standard error of one seed's accuracy that is due to their choice."""
    seeds = sorted(replicates.summaries)
    value_SC = outcomes(replicates, "test/accuracy", seeds)
    if value_SC is None:
        return None, None
    return value_SC.shape[1], sampling_error(value_SC, replicates.correct[seeds[0]].group_C)


def _tests(pairs: Sequence[Pair], replicates: Mapping[str, Replicated], metric: str) -> dict[tuple[str, str], Paired]:
    """The first minus the second method of each planned pair, in both directions; with Holm's correction."""
    found = {
        (pair.first, pair.second): paired(replicates[pair.first], replicates[pair.second], metric)
        for pair in pairs
        if pair.first in replicates and pair.second in replicates
    }
    found = adjusted(found, len(pairs))
    turned = {
        (second, first): paired(replicates[second], replicates[first], metric)._replace(p_holm=each.p_holm)
        for (first, second), each in found.items()
    }
    return found | turned


def _ahead(
    study: StudyConfig, replicates: Mapping[str, Replicated], tests: Mapping[tuple[str, str], Paired], metric: str
) -> dict[str, Paired]:
    """The reference minus each other method; unimodal ceilings are not tested."""
    if study.reference not in replicates:
        return {}
    return {
        name: tests.get((study.reference, name)) or paired(replicates[study.reference], each, metric)
        for name, each in replicates.items()
        if name != study.reference
    }


def _bar(study: StudyConfig, seen: Mapping[str, Replicated], separate: Separate, networks: Replicated) -> Bar:
    """The separately trained networks, and each method minus them, with and without calibration."""
    others = [name for name, each in study.methods.items() if each.ceiling_of is None]
    pairs = {"late_sum": (FUSED, LATE_SUM), "late_calibrated": (CALIBRATED, CALIBRATED)}
    found = {
        (view, name): contrast([Term(1, seen[name], own), Term(-1, networks, theirs)])
        for view, (own, theirs) in pairs.items()
        for name in others
        if name in seen and any(own in summary for summary in seen[name].summaries.values())
    }
    without = sum(name in seen and ("late_calibrated", name) not in found for name in others)
    tests = adjusted(found, 2 * len(others) - without)
    late_sum, calibrated = (
        {name: ahead for (of, name), ahead in tests.items() if of == view} for view in pairs
    )  # fmt: skip
    seeds = {n: {**summary, **_time_of(n, separate, seen)} for n, summary in networks.summaries.items()}
    row = Method(
        SEPARATE, {}, seeds, None, None, late_sum.get(study.reference),
        estimates=_estimates(networks, {}), failed=tuple(separate.missing),
    )  # fmt: skip
    return Bar(row, separate.missing, late_sum, calibrated)


def _time_of(number: int, separate: Separate, seen: Mapping[str, Replicated]) -> dict[str, float]:
    """The time of training all networks of a replicate, if it was recorded."""
    summaries = [each.summaries.get(number, {}) for name in separate.ceilings.values() if (each := seen.get(name))]
    if len(summaries) < len(separate.ceilings) or not all(_TIMES[0] in summary for summary in summaries):
        return {}
    return {key: sum(summary.get(key, 0.0) for summary in summaries) for key in _TIMES}


def _combinations(
    study: StudyConfig, configs: Mapping[str, RunConfig], seen: Mapping[str, Replicated],
    tests: Mapping[tuple[str, str], Paired],
) -> Iterator[Combination]:  # fmt: skip
    """Each combination with its parts, and each method with controls of its own, if any of them has a replicate."""
    found = [*of_combinations(study, configs), *of_controls(study, configs)]
    for name in dict.fromkeys(pair.first for pair in found):
        parts = [
            Part(pair.second, pair.lacks, tests[name, pair.second], pair.control)
            for pair in found
            if pair.first == name and name in seen and pair.second in seen
        ]
        if parts:
            yield Combination(name, tuple(p for p in parts if not p.control), tuple(p for p in parts if p.control))
