"""`predictions.parquet`: what the selected epoch of a run predicts for each clip

The file in the run folder has one row per clip of the validation and test splits:

    split, id, group, label              of the clip; `group` is null if it has none
    predicted_fused                      class that the fused head predicts
    predicted_late_sum, predicted_<m>    if heads are trained: class from their sum, and from the head of modality m
    predicted_late_calibrated            if it has one: class from the calibrated late product; cross-fitted for `val`
    predicted_best, predicted_last       class from the fused head of the best and of the last epoch; null for `val`
    log_p_fused, log_p_late_sum, ...     log-probabilities (nats) of the classes, in their order

The names of the classes, in order, are in the metadata `classes` of the schema, as a JSON list.
"""

# N clips of a split, C classes

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from remix_study.files.disk import write_atomically

if TYPE_CHECKING:  # they import torch, which reading the file does not need
    from remix_study.media.store import ClipStore
    from remix_study.training.final_evaluation import Predictions, Selection

PREDICTIONS = "predictions.parquet"


def write_predictions(
    folder: Path,
    predictions: "Mapping[str, Predictions]",
    predicted: "Mapping[Selection, NDArray[np.int64]]",
    store: "ClipStore",
    rows: Mapping[str, NDArray[np.int64]],
) -> Path:
    """Write the file and return its path.

    Args:
        folder: the run folder.
        predictions: split -> view -> log-probabilities (N, C).
        predicted: `best` or `last` -> class predicted for each test clip (N,).
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
            columns[f"predicted_{view}"] = _names(logs_NC.argmax(axis=1), store)
        for epoch, class_N in predicted.items():
            none = pa.nulls(len(rows[split]), pa.dictionary(pa.int32(), pa.string()))
            columns[f"predicted_{epoch}"] = _names(class_N, store) if split == "test" else none
        for view, logs_NC in views.items():
            flat = pa.array(np.ascontiguousarray(logs_NC, dtype=np.float32).reshape(-1))
            columns[f"log_p_{view}"] = pa.FixedSizeListArray.from_arrays(flat, logs_NC.shape[1])
        tables.append(pa.table(columns))
    table = pa.concat_tables(tables).replace_schema_metadata({"classes": json.dumps(list(store.classes))})
    content = io.BytesIO()
    pyarrow.parquet.write_table(table, content)
    write_atomically(folder / PREDICTIONS, content.getvalue())
    return folder / PREDICTIONS


def _names(class_N: NDArray[np.int64], store: "ClipStore") -> Any:
    import pyarrow as pa

    return pa.DictionaryArray.from_arrays(pa.array(class_N, pa.int32()), pa.array(store.classes, pa.string()))


class Correct(NamedTuple):
    """Which test clips of a run are predicted correctly.

    Attributes:
        ids: of the clips, sorted.
        group_C: the group of each clip, as integers; None if no clip has a group. A clip without one is a group of its
            own.
        views: `fused`, `late_sum`, `late_calibrated`, `best`, `last` or a modality -> whether each clip is predicted
            correctly, (C,).
    """

    ids: tuple[str, ...]
    group_C: NDArray[np.int64] | None
    views: dict[str, NDArray[np.bool_]]


def read_correct(folder: Path) -> Correct | None:
    """Read the file of a run folder; None if there is none, or if an earlier version wrote it without classes."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet

    path = folder / PREDICTIONS
    if not path.exists():
        return None
    try:
        names = [n for n in pyarrow.parquet.read_schema(path).names if not n.startswith("log_p_")]
        table = pyarrow.parquet.read_table(path, columns=names)
    except (pa.ArrowInvalid, OSError):  # cut off by a full disk, or being replaced
        return None
    table = table.filter(pc.equal(table["split"], "test")).sort_by("id")  # clips are compared by their position
    prefix = "predicted_"
    label = table["label"].to_numpy()
    views = {n.removeprefix(prefix): table[n].to_numpy() == label for n in names if n.startswith(prefix)}
    if not views:
        return None
    ids = tuple(table["id"].to_pylist())
    return Correct(ids, _group_numbers(table["group"].to_pylist()), views)


class Logs(NamedTuple):
    """What a run predicts for the clips of one split.

    Attributes:
        ids: of the clips, sorted.
        group_C: as of `Correct`.
        labels_N: the class of each clip, in 0..C-1.
        logs_NC: log-probabilities in nats.
    """

    ids: tuple[str, ...]
    group_C: NDArray[np.int64] | None
    labels_N: NDArray[np.int64]
    logs_NC: NDArray[np.float32]


def read_logs(folder: Path, view: str = "fused") -> dict[str, Logs] | None:
    """Split -> log-probabilities of a view in the file of a run folder; None if there is no such file or view.

    Classes are in the order of their names, so that they are the same for runs on different stores.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet

    path, column = folder / PREDICTIONS, f"log_p_{view}"
    if not path.exists():
        return None
    try:
        table = pyarrow.parquet.read_table(path, columns=["split", "id", "group", "label", column])
    except (pa.ArrowInvalid, OSError):  # cut off by a full disk, being replaced, or of a version without this column
        return None
    classes = json.loads((table.schema.metadata or {}).get(b"classes", b"[]"))
    order_C = np.argsort(classes, kind="stable")
    index = {classes[number]: place for place, number in enumerate(order_C)}
    found = {}
    for split in pc.unique(table["split"]).to_pylist():
        rows = table.filter(pc.equal(table["split"], split)).sort_by("id").combine_chunks()
        labels, flat = rows["label"].to_pylist(), rows[column].combine_chunks().flatten().to_numpy()
        if not set(labels) <= index.keys() or len(flat) != len(labels) * len(classes):
            return None
        found[split] = Logs(
            tuple(rows["id"].to_pylist()),
            _group_numbers(rows["group"].to_pylist()),
            np.asarray([index[label] for label in labels], dtype=np.int64),
            flat.reshape(len(labels), -1)[:, order_C],
        )
    return found


def _group_numbers(groups: Sequence[str | None]) -> NDArray[np.int64] | None:
    if all(group is None for group in groups):
        return None
    known: dict[object, int] = {}
    keys = [(position,) if group is None else group for position, group in enumerate(groups)]
    return np.asarray([known.setdefault(key, len(known)) for key in keys], dtype=np.int64)
