"""Every command that a command prints works when it is pasted into a terminal in any folder"""

import html
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from remix_study import Study
from remix_study.cli import main as cli
from remix_study.config.load import load_run
from remix_study.files.command_line import own_command
from remix_study.files.disk import exclusive_lock
from remix_study.study import study as study_module
from tests import mlflow_database
from tests.studies import Runner, config

_COMMAND = re.compile(r"(?:^|`|: )(remix-study [a-z][^`\n]*?)(?:`|\.?$)", re.MULTILINE)
Say = Callable[..., str]


@pytest.mark.parametrize("word", ["plain", "w s", "it's", "[red]", "$HOME", ":smile:", "a\\b", "*"])
def test_a_command_line_holds_any_path(word: str, tmp_path: Path) -> None:
    line = own_command("run", tmp_path / word / "s.yaml", "--corpus", word, workspace=tmp_path / word)
    assert shlex.split(line) == [
        "remix-study", "run", f"{tmp_path / word / 's.yaml'}", "--corpus", word, "--workspace", f"{tmp_path / word}",
    ]  # fmt: skip


def test_the_workspace_at_a_url_is_named_by_its_url(tmp_path: Path) -> None:
    (tmp_path / ".url").write_text("s3://bucket/w")
    assert own_command("list", workspace=tmp_path) == "remix-study list --workspace s3://bucket/w"
    (tmp_path / "s.yaml").touch()
    assert own_command("run", tmp_path / "s.yaml", workspace=tmp_path).split()[2] == f"{tmp_path / 's.yaml'}"


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    def run(*words: str, status: int = 0) -> str:
        """Run a command in this process, and return what it prints."""
        monkeypatch.setattr(sys, "argv", ["remix-study", *words])
        code: Any = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
        shown = capsys.readouterr()
        assert (code or 0) == status, (words, shown)
        return shown.out + shown.err

    return run


@pytest.fixture
def folder(tmp_path: Path, small_corpus: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a study file and a corpus, whose study is made up and whose servers end at once."""
    here = tmp_path / "my [bold] folder"
    (here / "studies").mkdir(parents=True)
    (here / "corpus").symlink_to(small_corpus)
    mlflow_database.install(here / "w s")
    base = {"corpus": "given", "epochs": 3, "device": "cpu", "tracking": {"experiment": "an experiment"}}
    content = config(base=base).model_dump(mode="json", exclude_defaults=True)
    (here / "studies" / "s.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.chdir(here)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(study_module, "execute", Runner(fails=lambda task: (task.stage, task.number) == ("search", 1)))
    monkeypatch.setattr("remix_study.cli.servers._stay", _interrupt)
    return here


def _interrupt(server: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.slow
def test_all_printed_commands_work_in_another_folder(
    folder: Path, say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = ("--workspace", "w s")
    given = ("studies/s.yaml", "--corpus", "corpus", *place)
    texts = [
        say("ui", "--workspace", "empty", status=1),
        say("list", *place, status=1),
        say("status", "s", *place, status=1),
        say("plan", *given, "--no-timing"),
        say("run", *given),
        say("status", "s", *place),
        say("best", "s", *place),
        say("best", "s", "--out", "my best.yaml", *place),
        say("retrain", "s", "--seeds", "1", *place),
    ]
    page = Path(say("report", "s", *place).splitlines()[0])
    texts += [html.unescape(re.sub(r"<[^>]+>", "\n", page.read_text()))]
    with exclusive_lock(folder / "w s" / "studies" / "s" / "lock"):
        texts.append(say("stop", "s", *place))
    with monkeypatch.context() as patched:
        patched.setattr("subprocess.Popen", lambda *args, **kwargs: type("Process", (), {"pid": 1})())
        texts.append(say("run", *given, "--detach"))
    found = list(dict.fromkeys(command for text in texts for command in _COMMAND.findall(text)))
    kinds = {shlex.split(command)[1] for command in found}
    assert kinds == {"demo", "run", "status", "best", "train", "report", "retrain", "ui"}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    ran: list[Any] = []

    def trained(*given: Any, **options: Any) -> dict[str, float]:
        ran.append(given)
        return {}

    monkeypatch.setattr("remix_study.launch.run.run_one", trained)
    done = Study.open("s", folder / "w s").result(), folder / "w s" / "studies" / "s"
    monkeypatch.setattr("remix_study.demo.run_demo", lambda *given: done)
    for command in found:
        words = shlex.split(command, comments=True)[1:]
        assert "--workspace" in words, command
        words = [f"{folder}/studies/s.yaml" if word == "FILE" else word for word in words]
        say(*words, *(["--corpus", f"{folder}/corpus"] if "FILE" in command else []))
    assert list(elsewhere.iterdir()) == []
    assert {given[0].method.name for given in ran} == {"remix"}
    assert load_run(folder / "my best.yaml").method.name == "remix"
