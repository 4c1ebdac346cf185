"""Files that `ray job submit` uploads"""

import json
import re
from pathlib import Path

import pytest

from remix_study.cluster.upload import MB, measure, pattern_for, upload_excludes
from remix_study.errors import ConfigError
from tests.unit.cluster.helpers import HOSTILE, fill


def test_workspaces_stores_and_ignored_files_are_excluded(folder: Path) -> None:
    excluded = (
        ".git/HEAD", ".venv/x", "mlruns/0/x", "deep/checkpoints/last.pt", "workspace/mlflow.db", "x/__pycache__/x.pyc",
        "results/mlflow.db", "older/studies/s/study.yaml", "old [1]/runs/r/digest", "my clips/clips/1.mp4",
        "bare/shard-0", "ignored", "named/by/ray",
    )  # fmt: skip
    for name in excluded:
        fill(folder / name, 10)
    for store in ("my clips/store", "bare"):
        fill(folder / store / "shard-1", 10)
        (folder / store / "manifest.json").write_text(json.dumps({"files": {}, "fingerprint": "x"}))
    (folder / ".gitignore").write_text("ignored\n")
    (folder / ".rayignore").write_text("/named\n")
    uploaded = ("tiny.yaml", "notes/study.yaml", "my model/manifest.json", "old 1/runs", ".gitignore", ".rayignore")
    for name in uploaded[:-2]:
        fill(folder / name, 1)
    assert measure(folder, upload_excludes(folder)).sizes.keys() == set(uploaded)


@pytest.mark.parametrize("name", [*HOSTILE, "a b ", "#x", "!x"])
def test_a_pattern_matches_one_path(folder: Path, name: str) -> None:
    fill(folder / name / "inside", 1)
    fill(folder / "other" / name / "inside", 1)
    assert measure(folder, [pattern_for(name)]).sizes.keys() == {f"other/{name}/inside"}


def test_the_measured_files_are_those_that_ray_packs(folder: Path, tmp_path: Path) -> None:
    from zipfile import ZipFile

    from ray._private.runtime_env.packaging import create_package

    for name in ("a/b", "a/c.yaml", "ignored/x", "workspace/x", "d e/f"):
        fill(folder / name, 3)
    (folder / ".gitignore").write_text("ignored/\n")
    excludes = list(upload_excludes(folder))
    create_package(str(folder), tmp_path / "package.zip", include_gitignore=True, excludes=excludes)
    packed = {info.filename: info.file_size for info in ZipFile(tmp_path / "package.zip").infolist()}
    assert measure(folder, excludes).sizes == {name: size for name, size in packed.items() if not name.endswith("/")}


def test_the_checkout_is_a_small_upload() -> None:
    root = Path(__file__).parents[3]
    found = measure(root, upload_excludes(root))
    assert found.bytes < 20 * MB
    assert {"remix_study/cli/main.py", "search_spaces/demo.yaml", "pyproject.toml"} <= found.sizes.keys()


@pytest.mark.parametrize("line", [b"!", b"\\", b"[z-a]", b"\xe9t\xe9/"])
@pytest.mark.parametrize("name", [".gitignore", "part/.gitignore", ".rayignore"])
def test_a_line_of_an_ignore_file_that_ray_cannot_read_is_named(name: str, line: bytes, tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    (tmp_path / name).write_bytes(b"# comment\n*.log\n" + line + b"\n")
    with pytest.raises(ConfigError, match=rf"Ray cannot read line 3 \(`.*`\) of {re.escape(name)}\. Correct or"):
        measure(tmp_path, ())
