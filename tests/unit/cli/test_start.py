"""Signals while a command starts, and errors of the operating system"""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from remix_study.cli import main as cli

_EARLY = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), {number})
sys.meta_path.insert(0, Finder())
sys.argv = ["remix-study", "list"]
from remix_study.__main__ import main
main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "module",
    ["typer", *(pytest.param(m, marks=pytest.mark.slow) for m in ("importlib.metadata", "remix_study.study.status"))],
)
def test_a_signal_while_a_command_imports_ends_it_with_one_sentence(
    module: str, number: signal.Signals, tmp_path: Path
) -> None:
    code = _EARLY.format(module=module, number=int(number))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 128 + number, done.stderr
    assert done.stdout == ""
    assert done.stderr in (
        "Interrupted before the command began.\n",
        "Interrupted. Rerun the command to resume from the last checkpoint.\n",
    )


def test_a_closed_standard_output_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["remix-study", "schema", "run"])
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(SystemExit, match="0"):
        cli.main()


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EISDIR, errno.ENOENT, errno.ENAMETOOLONG, errno.EIO, errno.EMFILE]
)
def test_errors_of_the_operating_system_name_the_file_and_what_helps(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*given: object) -> None:
        raise OSError(number, os.strerror(number), "a/.x.part", None, "a/x")

    monkeypatch.setattr(sys, "argv", ["remix-study", "list"])
    monkeypatch.setattr("remix_study.study.status.study_names", fail)
    with pytest.raises(SystemExit, match="1"):
        cli.main()
    said = capsys.readouterr().err
    assert said.startswith(f"error: Cannot read or write a/x: {os.strerror(number)}. ")
    assert said.endswith(", then rerun the command.\n")
