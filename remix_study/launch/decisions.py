"""Writing `decisions.parquet`: what Remix decided about each training sample

The file in the run folder has one row per training sample, as of the last epoch:

    id, label        of the clip
    score_<m>        separability of the prediction from modality m alone, at the last scoring pass (unit: method.score)
    trains_<m>       whether the sample is assigned to batches of modality m alone
    trains_all       whether the sample is assigned to batches of all modalities
    others           numeric facts about the clip in the clip store (`truth`), such as `human_audio` or `muted`, and
                     those by modality as one column each, such as `informative_audio`
"""

# N training samples, M modalities

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from remix_study.files.disk import write_atomically
from remix_study.media.store import ClipStore
from remix_study.remix import RemixPlan
from remix_study.sample import Fact, Truth

DECISIONS = "decisions.parquet"


def write_decisions(
    folder: Path, plan: RemixPlan, store: ClipStore, rows_N: NDArray[np.int64], modalities: Sequence[str]
) -> Path | None:
    """Write the file and return its path; return None if the run never left its warm-up.

    Args:
        folder: the run folder.
        plan: the run's Remix plan.
        store: the clip store.
        rows_N: the training samples' rows in the store.
        modalities: their names, in the order of the plan's arrays.
    """
    import pyarrow as pa
    import pyarrow.parquet

    columns = decisions(plan, store, rows_N, modalities)
    if columns is None:
        return None
    content = io.BytesIO()
    pyarrow.parquet.write_table(pa.table(columns), content)
    write_atomically(folder / DECISIONS, content.getvalue())
    return folder / DECISIONS


def decisions(
    plan: RemixPlan, store: ClipStore, rows_N: NDArray[np.int64], modalities: Sequence[str]
) -> dict[str, Any] | None:
    """Return the columns of the file by name, or None before the first assignment.

    The score columns are missing if the filter rule uses no scores. Arguments as for `write_decisions`.
    """
    assignment = plan.assignment
    if assignment is None:
        return None
    columns: dict[str, Any] = {
        "id": [str(store.ids[row]) for row in rows_N],
        "label": [store.classes[store.labels_N[row]] for row in rows_N],
    }
    if plan.last_scoring_pass is not None:
        columns |= {f"score_{m}": plan.last_scoring_pass.scores_NM[:, i] for i, m in enumerate(modalities)}
    columns |= {f"trains_{m}": assignment.assigned_NM[:, i] for i, m in enumerate(modalities)}
    columns["trains_all"] = assignment.joint_N
    facts = [flat_facts(store.truth[row]) for row in rows_N]
    for key in sorted({key for fact in facts for key in fact if _is_number(fact[key])} - columns.keys()):
        columns[key] = np.array([_number(fact, key) for fact in facts])
    return columns


def flat_facts(facts: Mapping[str, Truth]) -> dict[str, Fact]:
    """Return facts with one key for each modality of a fact: `informative_audio`."""
    flat: dict[str, Fact] = {}
    for key, value in facts.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}_{m}": each for m, each in value.items()}
        else:
            flat[key] = value
    return flat


def _is_number(value: object) -> bool:
    return isinstance(value, bool | int | float)


def _number(fact: Mapping[str, Any], key: str) -> float:
    value = fact.get(key)
    return float(value) if _is_number(value) else float("nan")  # type: ignore[arg-type]  # mypy does not narrow
