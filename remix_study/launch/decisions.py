"""What Remix decided about every training sample, for people and for the report: `decisions.parquet` in a run's folder

One line per sample of the training split, as of the last epoch:

    id, label        of the clip
    score_<m>        separability of its prediction from modality m alone, at the last look (unit: see method.score)
    trains_<m>       whether it is in the batches of modality m alone
    trains_all       whether it is in batches that train all modalities
    others           what the clip store knows of the clip as a number (`truth`), such as `human_audio` or `muted`
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

DECISIONS = "decisions.parquet"


def write_decisions(
    folder: Path, plan: RemixPlan, store: ClipStore, rows_N: NDArray[np.int64], modalities: Sequence[str]
) -> Path | None:
    """The file, or None where nothing has been decided yet: a run that never left its warm-up."""
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
    """The columns above; scores are absent where the filter needed none, and None before the first decision."""
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
    facts = [store.truth[row] for row in rows_N]
    for key in sorted({key for fact in facts for key in fact if _is_number(fact[key])} - columns.keys()):
        columns[key] = np.array([_number(fact, key) for fact in facts])
    return columns


def _is_number(value: object) -> bool:
    return isinstance(value, bool | int | float)


def _number(fact: Mapping[str, Any], key: str) -> float:
    value = fact.get(key)
    return float(value) if _is_number(value) else float("nan")  # type: ignore[arg-type]  # it is a number
