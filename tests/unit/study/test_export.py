"""Exported files can be read, and each is the old or the new one after a fault"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from remix_study.errors import StudyStopped
from remix_study.launch.predictions import PREDICTIONS
from remix_study.study.export import export, of_replicates, trial_rows
from remix_study.study.ledger import read_ledger
from remix_study.study.storage import study_folder
from tests.faults import KINDS, at_every_operation
from tests.small_studies import StoppingRunner, quick_studies, run_small, small
from tests.studies import RATE


@pytest.fixture(autouse=True)
def _quick() -> Iterator[None]:
    with quick_studies():
        yield


def test_trials_and_epochs_are_exported_as_parquet_and_csv(tmp_path: Path) -> None:
    run_small(tmp_path, small())
    written = export(study_folder(tmp_path, "s"), tmp_path / "out")
    assert [path.name for path in written] == ["trials.parquet", "trials.csv", "epochs.parquet", "epochs.csv"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(path.name for path in written)
    trials = pd.read_parquet(written[0])
    assert trials[["method", "stage", "number", "state"]].to_numpy().tolist() == [
        [method, stage, number, "complete"]
        for method in ("joint", "remix")
        for stage, number in (("search", 0), ("search", 1), ("replicate", 0))
    ]
    assert pd.read_csv(written[1])["seconds"].tolist() == trials["seconds"].tolist()
    assert len(pd.read_csv(written[3])) == len(pd.read_parquet(written[2])) == 18


def test_predictions_of_methods_with_other_views_can_be_read(tmp_path: Path) -> None:
    views = {"joint": ("fused",), "remix": ("fused", "late_calibrated")}
    rows = []
    for method, of_method in views.items():
        (tmp_path / method).mkdir()
        logs = pa.FixedSizeListArray.from_arrays(pa.array([-0.1, -2.0, -0.3, -1.0], pa.float32()), 2)
        table = pa.table({"id": ["a", "b"], **{f"log_p_{view}": logs for view in of_method}})
        pyarrow.parquet.write_table(table, tmp_path / method / PREDICTIONS)
        rows.append({"folders": [str(tmp_path / method)], "stage": "replicate", "method": method, "number": 0,
                     "chosen": True})  # fmt: skip
    pyarrow.parquet.write_table(of_replicates(rows, PREDICTIONS), tmp_path / "all.parquet")
    found = pyarrow.parquet.read_table(tmp_path / "all.parquet").to_pydict()
    assert found["log_p_late_calibrated"] == [None, None, *found["log_p_fused"][2:]]
    assert found["method"] == ["joint", "joint", "remix", "remix"]


def test_replicates_of_an_earlier_choice_are_marked_and_have_no_predictions(tmp_path: Path) -> None:
    """The study was extended, chose another trial, and was stopped within its first replicate."""
    first = [{RATE: 0.001}, {RATE: 0.002}]
    methods = {"joint": {"set": {"method": {"name": "joint"}}, "first": first}}
    run_small(tmp_path, small(trials=1, replicates=2, methods=methods, reference="joint"))
    with pytest.raises(StudyStopped):
        run_small(
            tmp_path, small(trials=2, replicates=2, methods=methods, reference="joint"), StoppingRunner(stop_after=1)
        )
    rows = trial_rows(read_ledger(study_folder(tmp_path, "s")))
    assert [(row["stage"], row["number"], row["chosen"]) for row in rows] == [
        ("search", 0, False), ("search", 1, True), ("replicate", 0, True), ("replicate", 1, False),
    ]  # fmt: skip
    table = pa.table({"id": ["a"]})
    pyarrow.parquet.write_table(table, Path(rows[3]["folders"][0]) / PREDICTIONS)
    assert of_replicates(rows, PREDICTIONS) is None
    everything = of_replicates([row | {"chosen": True} for row in rows], PREDICTIONS)
    assert everything is not None
    assert everything.num_rows == 1


def test_a_study_without_epochs_is_exported_with_its_columns(tmp_path: Path) -> None:
    with pytest.raises(StudyStopped):
        run_small(tmp_path, small(trials=1), StoppingRunner(fails=lambda task: True, stop_after=0))
    export(study_folder(tmp_path, "s"), tmp_path / "out")
    assert list(pd.read_csv(tmp_path / "out" / "epochs.csv").columns) == ["method", "stage", "number", "seed", "epoch"]


@pytest.mark.slow
@pytest.mark.parametrize(("how", "ever"), KINDS)
def test_an_exported_file_is_the_old_or_the_new_one(tmp_path: Path, how: int | str, ever: bool) -> None:
    for name, trials in (("old", 1), ("new", 2)):
        run_small(tmp_path, small(trials=trials))
        export(study_folder(tmp_path, "s"), tmp_path / name)
    old, new = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("old", "new"))

    def place(number: int) -> Path:
        return Path(shutil.copytree(tmp_path / "old", tmp_path / str(number)))

    def work(folder: Path) -> None:
        export(study_folder(tmp_path, "s"), folder)

    def check(folder: Path, succeeded: bool) -> None:
        for name in old:
            assert (folder / name).read_bytes() in ((new[name],) if succeeded else (old[name], new[name]))
        work(folder)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == new

    assert at_every_operation(work, check, place, how, ever) >= 16
