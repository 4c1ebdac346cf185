"""The code of docs/python.md runs"""

import re
from pathlib import Path

import pytest

import remix_study
from remix_study.api import Study
from tests import commands

pytestmark = [pytest.mark.ray, pytest.mark.slow]
PAGE = Path(__file__).parents[2] / "docs" / "python.md"


def test_the_notebook_runs(tmp_path: Path) -> None:
    cells = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    assert len(cells) == 7
    # Like a notebook: all cells in one process, which has no script file.
    done = commands.run("-c", "\n".join(cells), cwd=tmp_path, timeout=500)
    assert done.returncode == 0, done.stderr
    assert "12 runs, about" in done.stdout
    assert re.search(r"On the held-out test set \(2 seeds, \d+ clips\): .*remix", done.stdout)
    assert "complete Used(" in done.stdout
    folder = tmp_path / "workspace" / "studies" / "notebook"
    assert (folder / "report" / "report.html").exists()
    assert (folder / "export" / "epochs.parquet").exists()
    study = Study.open("notebook", tmp_path / "workspace")
    assert set(study.trials().stage) == {"search", "replicate", "final"}
    assert [s.name for s in remix_study.studies(tmp_path / "workspace")] == ["notebook"]


def test_every_public_method_is_documented() -> None:
    table = PAGE.read_text().partition("|---|---|---|")[2]
    public = {name for name, value in vars(Study).items() if callable(value) and not name.startswith("_")}
    assert public - {"open"} == set(re.findall(r"`(\w+)\(", table)) - {"studies"}
