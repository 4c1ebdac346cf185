"""Files on shared storage cannot execute code, and values from YAML files are never passed to a shell

The tests search the package's source for dangerous calls. Exceptions are listed with their reasons.
"""

import ast
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml

from remix_study.config.run import RunConfig
from remix_study.config.yaml_source import load, read_text
from remix_study.errors import ConfigError

ROOT = Path(__file__).parents[2]
SOURCES = [*sorted((ROOT / "remix_study").rglob("*.py")), *sorted(ROOT.glob("*.py"))]
ALLOWED = {
    ("media/workers.py", "pickle.loads"): "jobs that this process pickled for its own child process",
    ("launch/ray_decoding.py", "pickle.loads"): "jobs that the driver pickled for its own Ray actor",
    ("media/build.py", "pickle.loads"): "bytes that the same object pickled and kept in memory",
    ("study/trial_errors.py", "cloudpickle.loads"): "the error that Tune has just pickled in the same process",
}
RUNS_CODE = {
    "pickle.load", "pickle.loads", "pickle.Unpickler", "cloudpickle.load", "cloudpickle.loads", "dill.load",
    "dill.loads", "joblib.load", "marshal.loads", "shelve.open", "pandas.read_pickle", "pd.read_pickle",
    "yaml.load", "yaml.unsafe_load", "yaml.full_load", "eval", "exec", "torch.hub.load",
}  # fmt: skip
SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "pty.spawn"}


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    """Return all calls in the source: file relative to the package, dotted name, syntax node."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                base = ROOT / "remix_study"
                yield str(path.relative_to(base if path.is_relative_to(base) else ROOT)), ast.unparse(node.func), node


def argument(call: ast.Call, name: str) -> object:
    """Return the value of a constant keyword argument, or None."""
    found = [each.value for each in call.keywords if each.arg == name]
    return found[0].value if found and isinstance(found[0], ast.Constant) else None


def test_no_file_is_read_by_a_function_that_can_execute_code() -> None:
    found = {(file, name) for file, name, _ in calls() if name in RUNS_CODE}
    assert found == set(ALLOWED)


def test_yaml_cannot_construct_python_objects(tmp_path: Path) -> None:
    text = f"a: !!python/object/apply:os.system ['touch {tmp_path / 'mark'}']\n"
    with pytest.raises(ConfigError, match="could not determine a constructor"):
        read_text(text, "run.yaml")
    with pytest.raises(yaml.YAMLError, match="could not determine a constructor"):
        load(text)
    assert not (tmp_path / "mark").exists()


def test_checkpoints_are_loaded_with_weights_only() -> None:
    loads = [(file, call) for file, name, call in calls() if name == "torch.load"]
    assert [file for file, _ in loads] == ["training/checkpoint.py"]
    assert all(argument(call, "weights_only") is True for _, call in loads)


def test_arrays_are_loaded_without_pickle() -> None:
    assert not [file for file, _, call in calls() if argument(call, "allow_pickle") is True]


def test_no_shell_is_started() -> None:
    found = [
        file for file, name, call in calls() if name in SHELLS or (name != "dict" and argument(call, "shell") is True)
    ]
    assert found == []


class Intruder:
    """An object that creates a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.slow
@pytest.mark.parametrize("as_torch", [True, False])
def test_a_planted_checkpoint_is_rejected(recipe: Callable[..., RunConfig], tmp_path: Path, as_torch: bool) -> None:
    """An attacker who can write to shared storage replaces the checkpoint from which a run resumes."""
    mark, file = tmp_path / "mark", tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(recipe().model_dump(mode="json")))
    command = [sys.executable, "-m", "remix_study", "train", str(file), "--workspace", str(tmp_path), "--name", "r"]
    assert subprocess.run(command, capture_output=True).returncode == 0
    folder = tmp_path / "runs" / "r"
    (folder / "result.json").unlink()  # like a run that was killed in its last epoch
    intruder, planted = Intruder(mark), folder / "checkpoints" / "last.pt"
    assert planted.exists()
    if as_torch:
        torch.save({"model": intruder}, planted)
    else:
        planted.write_bytes(pickle.dumps(intruder))
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert not mark.exists()
    message = " ".join(done.stderr.split())
    assert re.search(r"Cannot load checkpoint \S+last\.pt: .*could execute code \(none was executed\)", message)
    assert "Traceback" not in message
