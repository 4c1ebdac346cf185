"""What users and their scripts see of the commands: help, error messages, and the shape of JSON output

`tests/unit/cli/test_snapshots.py` compares it with `help.txt`, `errors.txt` and `json.txt` in this folder, so that a
change of words is made on purpose. Renew the files after such a change, and read the difference:

    python -m tests.golden.make_snapshots
"""

import contextlib
import io
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import click
import typer
import yaml

from remix_study.cli import main as cli
from remix_study.files.disk import exclusive_lock
from tests.studies import Runner, config

FOLDER = Path(__file__).parent
RENEW = "If the change is meant, renew the file with: python -m tests.golden.make_snapshots"
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_BOX = re.compile(r"[╭╮╰╯│─┃━]+")


def help_text() -> str:
    """The help of all commands, without borders and alignment; the first line names the version of typer."""
    with mock.patch.dict(os.environ, {"COLUMNS": "200", "NO_COLOR": "1"}):
        return "\n".join([f"typer {typer.__version__}\n", *(_help(words) for words in commands())])


def commands() -> list[tuple[str, ...]]:
    """The words of all commands and groups of commands."""
    return list(_walk(typer.main.get_command(cli.app), ()))


def _walk(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    yield words
    for name, inner in getattr(command, "commands", {}).items():
        yield from _walk(inner, (*words, name))


def _help(words: tuple[str, ...]) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        typer.main.get_command(cli.app).main([*words, "--help"], prog_name="remix-study")
    lines = (" ".join(_BOX.sub(" ", _ANSI.sub("", line)).split()) for line in out.getvalue().splitlines())
    return f"$ {' '.join(('remix-study', *words, '--help'))}\n" + "".join(f"{line}\n" for line in lines if line)


def error_text(folder: Path, corpus: Path) -> str:
    """The messages of commands with wrong input.

    Args:
        folder: an empty folder.
        corpus: a small corpus.
    """
    shown = []
    with contextlib.chdir(folder):
        _write_inputs(folder, corpus)
        for line in ERRORS.strip().splitlines():
            code, out, err = invoke(*line.split())
            message = f"{out}{err}".replace(str(folder), "FOLDER").replace(str(corpus), "CORPUS").rstrip()
            shown.append(f"$ remix-study {line}\n{message}\nexit status {code}\n")
    return "\n".join(shown)


ERRORS = """
run missing.yaml
run syntax.yaml
run unknown_key.yaml
run run.yaml
train s.yaml
run values.yaml
train wrong.yaml
train run.yaml --set epochs
train run.yaml --set epochs=many
train run.yaml --set corpus=nowhere
train run.yaml --name ../x
plan s.yaml --corpus nowhere
status nobody
list --workspace missing
stop nobody
best nobody
report nobody
export nobody
retrain nobody --seeds 2
ui --workspace empty
schema trial
demo --train 3
demo --study run.yaml
prepare manifest missing.csv
prepare manifest missing.csv --check
prepare manifest missing.csv --check --decoder vlc
prepare cremad --root missing --check --split mine
prepare synthetic --out c --preset huge
prepare synthetic --out c --recipe noisy
prepare synthetic --out c --recipe xor --classes 2 --blind 0.9
submit s.yaml
submit s.yaml --cluster missing.yaml --workspace s3://bucket/w
"""


def _write_inputs(folder: Path, corpus: Path) -> None:
    run = {
        "corpus": str(corpus), "method": {"name": "joint"}, "epochs": 1, "device": "cpu", "tracking": {"uri": "off"},
    }  # fmt: skip
    study = _study()
    files = {
        "run.yaml": run,
        "wrong.yaml": {**run, "method": {"name": "joined"}, "epochs": 0, "optimiser": {}},
        "s.yaml": study,
        "unknown_key.yaml": {**study, "trails": 3},
        "values.yaml": {**study, "trials": 0, "sampler": "bayes", "reference": "nobody"},
    }
    for name, content in files.items():
        (folder / name).write_text(yaml.safe_dump(content, sort_keys=False))
    (folder / "syntax.yaml").write_text("name: s\nmethods: [\n")
    (folder / "empty").mkdir()


def json_text(folder: Path, corpus: Path) -> str:
    """The shape of what `--json` prints, of a study with made-up runs.

    Args:
        folder: an empty folder.
        corpus: a small corpus.
    """
    path = folder / "s.yaml"
    path.write_text(yaml.safe_dump(_study()))
    given = (str(path), "--corpus", str(corpus), "--workspace", str(folder / "w"), "--json")
    named = ("s", "--workspace", str(folder / "w"), "--json")
    runner = Runner(fails=lambda task: (task.stage, task.number) == ("search", 1))
    found = []
    with mock.patch("remix_study.study.study.execute", runner):
        found.append(_shape_of("plan", *given, "--no-timing"))
        found.append(_shape_of("plan", *given, called="plan, with timing"))
        found.append(_shape_of("run", *given))
        found.append(_shape_of("status", *named))
        with exclusive_lock(folder / "w" / "studies" / "s" / "lock"):
            found.append(_shape_of("status", *named, called="status, of a running study"))
        found.append(_shape_of("list", *named[1:]))
        found.append(_shape_of("methods", "--json"))
        found.append(_shape_of("retrain", "s", "--seeds", "1", *named[1:]))
    return "\n".join(found)


def _shape_of(command: str, *words: str, called: str | None = None) -> str:
    code, out, err = invoke(command, *words)
    assert code == 0, err
    content = json.loads(out)
    for method in content["methods"] if command == "plan" else ():
        del method["example"]  # its shape is that of a run file (search_spaces/run.schema.json)
    lines = sorted(shape(content).items())
    return f"$ remix-study {called or command} --json\n" + "".join(f"{path}: {kind}\n" for path, kind in lines)


def shape(content: Any, path: str = "") -> dict[str, str]:
    """Dotted path -> types of all values of JSON content; `[]` stands for all items of a list."""
    found: dict[str, str] = {}
    inner: list[tuple[str, Any]] = []
    match content:
        case Mapping() if content:
            inner = [(f"{path}.{key}" if path else str(key), value) for key, value in content.items()]
        case list() if content:
            inner = [(f"{path}[]", value) for value in content]
        case _:
            return {path: type(content).__name__.replace("NoneType", "null")}
    for name, value in inner:
        for key, kind in shape(value, name).items():
            found[key] = " or ".join(sorted({*kind.split(" or "), *found.get(key, kind).split(" or ")}))
    return found


def invoke(*words: str) -> tuple[int, str, str]:
    """Run a command in this process: its exit status, output and messages."""
    out, err = io.StringIO(), io.StringIO()
    status: Any = 0
    with (
        mock.patch.object(sys, "argv", ["remix-study", *words]),
        contextlib.redirect_stdout(out), contextlib.redirect_stderr(err),
    ):  # fmt: skip
        try:
            cli.main()
        except SystemExit as end:
            status = end.code
    return int(status or 0), _ANSI.sub("", out.getvalue()), _ANSI.sub("", err.getvalue())


def _study() -> dict[str, Any]:
    return config(storage=None).model_dump(mode="json", exclude_defaults=True)


def main() -> None:
    """Write all snapshots."""
    from remix_study.datasets.corpus import prepare_synthetic
    from remix_study.datasets.synthetic import SyntheticSpec

    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary).resolve()
        corpus = place / "small-corpus"
        prepare_synthetic(corpus, SyntheticSpec(train=96, val=48, test=48, classes=4), preset="tiny")
        for name in ("errors", "json"):
            (place / name).mkdir()
        for name, text in (
            ("help", help_text()),
            ("errors", error_text(place / "errors", corpus)),
            ("json", json_text(place / "json", corpus)),
        ):
            (FOLDER / f"{name}.txt").write_text(text)
            click.echo(f"wrote {FOLDER / name}.txt")


if __name__ == "__main__":
    main()
