"""Writing `predictions.parquet`: what the best epoch of a run predicts for each clip

The file in the run folder has one row per clip of the validation and test splits:

    split, id, group, label      of the clip; `group` is null if it has none
    log_p_fused                  log-probabilities (nats) of the classes, in their order, from the fused head
    log_p_late_sum, log_p_<m>    if heads are trained: from their sum, and from the head of modality m

The names of the classes, in order, are in the metadata `classes` of the schema, as a JSON list.
"""

# N clips of a split, C classes

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from remix_study.files.disk import write_atomically
from remix_study.media.store import ClipStore

if TYPE_CHECKING:  # imports torch, which reading the file does not need
    from remix_study.training.final_evaluation import Predictions

PREDICTIONS = "predictions.parquet"


def write_predictions(
    folder: Path, predictions: "Mapping[str, Predictions]", store: ClipStore, rows: Mapping[str, NDArray[np.int64]]
) -> Path:
    """Write the file and return its path.

    Args:
        folder: the run folder.
        predictions: split -> view -> log-probabilities (N, C).
        store: the clip store.
        rows: split -> rows of the store, in the order of the predictions.
    """
    import pyarrow as pa
    import pyarrow.parquet

    tables = []
    for split, views in predictions.items():
        columns = {
            "split": pa.array([split] * len(rows[split])),
            "id": pa.array([str(store.ids[row]) for row in rows[split]]),
            "group": pa.array([store.groups[row] for row in rows[split]], pa.string()),
            "label": pa.array([store.classes[store.labels_N[row]] for row in rows[split]]),
        }
        for view, logs_NC in views.items():
            flat = pa.array(np.ascontiguousarray(logs_NC, dtype=np.float32).reshape(-1))
            columns[f"log_p_{view}"] = pa.FixedSizeListArray.from_arrays(flat, logs_NC.shape[1])
        tables.append(pa.table(columns))
    table = pa.concat_tables(tables).replace_schema_metadata({"classes": json.dumps(list(store.classes))})
    content = io.BytesIO()
    pyarrow.parquet.write_table(table, content)
    write_atomically(folder / PREDICTIONS, content.getvalue())
    return folder / PREDICTIONS
