"""Unimodal networks that were trained separately, combined without further training: the bar for joint training

For replicate n of a study with a unimodal ceiling of every modality, the log-probabilities of the ceilings' replicates
n are combined for each clip:

    late sum                  added
    calibrated late product   added with an exponent for each modality, fitted on the validation split
                              (metrics/late_product.py)

Clips are matched by their ids. All networks of replicate n have the same seed as replicate n of every method.
"""

# N clips, M modalities, C classes

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from remix_study.launch.predictions import Correct, Logs, read_logs
from remix_study.modality import canonical_order
from remix_study.study.ledger import Ledger, ReplicateRecord, chosen_replicates
from remix_study.study.needed import ceilings_of
from remix_study.study.outcomes import Replicated

SEPARATE = "separate networks"  # the name of the row; no method can have it, because of the space
_PREFIXES = ("test/accuracy_uni/", "test/accuracy_only/", "probe/accuracy/", "train/total_updates/")
_SPLITS = ("val", "test")


class Separate(NamedTuple):
    """The separately trained networks of a study.

    Attributes:
        ceilings: modality -> the method that trains it alone.
        replicated: their combination, for each replicate that could be combined.
        missing: number -> why the replicate could not be combined.
    """

    ceilings: Mapping[str, str]
    replicated: Replicated
    missing: Mapping[int, str]


def separate_networks(ledger: Ledger, modalities: Sequence[str]) -> Separate | None:
    """Combine the unimodal ceilings of a study; None if it has no ceiling of some modality, or one modality only."""
    ceilings = ceilings_of(ledger.study)
    if len(modalities) < 2 or not set(modalities) <= ceilings.keys():
        return None
    used = {m: ceilings[m] for m in canonical_order(modalities)}
    records = {m: {r.number: r for r in chosen_replicates(ledger, name)} for m, name in used.items()}
    summaries: dict[int, dict[str, float]] = {}
    correct: dict[int, Correct] = {}
    missing: dict[int, str] = {}
    for number in range(ledger.study.replicates):
        why = [said for m, name in used.items() if (said := _lacks(name, records[m].get(number)))]
        if not why:
            logs = {m: read_logs(Path(records[m][number].folder)) for m in used}
            why = _unreadable(used, logs)
            if not why:
                summaries[number], correct[number] = combined({m: each for m, each in logs.items() if each is not None})
        if why:
            missing[number] = " and ".join(why)
    return Separate(used, Replicated(summaries, correct), missing)


def modalities_of(replicates: Mapping[str, Replicated]) -> tuple[str, ...]:
    """The modalities of the methods, by the metrics of their replicates, in the canonical order."""
    keys = {key for each in replicates.values() for summary in each.summaries.values() for key in summary}
    return canonical_order({key.removeprefix(p) for key in keys for p in _PREFIXES if key.startswith(p)})


def combined(logs: Mapping[str, Mapping[str, Logs]]) -> tuple[dict[str, float], Correct]:
    """The metrics of the late sum and of the calibrated late product on the test split, and the clips predicted.

    Args:
        logs: modality -> split -> log-probabilities of the clips, which are the same for all modalities.
    """
    # Imported here, because the package imports torch, which a study without ceilings does not need.
    from remix_study.metrics.calibration import calibration_error, cross_entropy
    from remix_study.metrics.late_product import fit_exponents, late_product

    stacked = {split: np.stack([each[split].logs_NC for each in logs.values()], axis=1) for split in _SPLITS}
    first = next(iter(logs.values()))
    exponents_M = fit_exponents(stacked["val"], first["val"].labels_N)
    test = first["test"]
    views = {"late_sum": np.ones(len(logs)), "late_calibrated": exponents_M}
    found: dict[str, float] = {}
    correct = {}
    for view, w_M in views.items():
        logs_NC = late_product(stacked["test"], w_M)
        correct[view] = logs_NC.argmax(axis=1) == test.labels_N
        found[f"test/accuracy_{view}"] = float(correct[view].mean())
        found[f"test/cross_entropy_{view}"] = cross_entropy(logs_NC, test.labels_N)
        found[f"test/calibration_error_{view}"] = calibration_error(logs_NC, test.labels_N)
    found |= {f"late_calibrated/exponent/{m}": float(w) for m, w in zip(logs, exponents_M, strict=True)}
    return found, Correct(test.ids, test.group_C, correct)


def _lacks(name: str, record: ReplicateRecord | None) -> str:
    """Why a ceiling has no predictions of a replicate; empty if it may have."""
    if record is None:
        return f"{name} has not run"
    if record.state == "complete":
        return ""
    return f"{name} failed" if record.state == "failed" else f"{name} has not ended"


def _unreadable(ceilings: Mapping[str, str], logs: Mapping[str, Mapping[str, Logs] | None]) -> list[str]:
    """Why predictions cannot be combined: they are missing, or not of the same clips and classes."""
    found = []
    for m, name in ceilings.items():
        splits = logs[m]
        if splits is None or not set(_SPLITS) <= splits.keys():
            found.append(f"the predictions of {name} are missing or damaged")
        elif any(np.isnan(splits[split].logs_NC).any() for split in _SPLITS):
            found.append(f"{name} predicts values that are not numbers")
    if found:
        return found
    first, *others = ceilings
    for m in others:
        for split in _SPLITS:
            one, two = (logs[each][split] for each in (first, m))  # type: ignore[index]  # none is None, see above
            alike = one.ids == two.ids and one.logs_NC.shape == two.logs_NC.shape
            if not alike or not np.array_equal(one.labels_N, two.labels_N):
                found.append(f"{ceilings[first]} and {ceilings[m]} predict other {split} clips or classes")
                break
    return found
