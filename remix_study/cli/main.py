"""The command line: parses, calls, prints

Heavy imports (torch, Ray, MLflow) are inside the commands: `--help` and a misspelt option answer at once.
"""

import errno
import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.logging import RichHandler

from remix_study.cli import prepare, servers, study, submit, terminal
from remix_study.cli.common import DEFAULT_WORKSPACE, Workspace, err, fetch_corpus, out, place
from remix_study.errors import ConfigError, RemixStudyError, StudyStopped
from remix_study.version import __version__

app = typer.Typer(
    help="Data Remixing for multimodal models: train it, search it, see whether it worked.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

# What a person can mend without reading our code: no room, no permission, a file where a folder should be.
MENDABLE = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EEXIST}


@app.callback(invoke_without_command=True)
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and what the libraries say.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if version:
        out.print(__version__)
        raise typer.Exit
    if not debug:
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
        for name in ("mlflow", "alembic", "ray", "ray.train", "ray.tune"):
            logging.getLogger(name).setLevel(logging.ERROR)
    handler = RichHandler(console=err, show_time=False, show_path=False, rich_tracebacks=False)
    logging.basicConfig(level=logging.INFO if debug else logging.WARNING, handlers=[handler], format="%(message)s")


@app.command("train")
def _train(
    config: Annotated[Path, typer.Argument(help="A run as YAML.")],
    changes: Annotated[list[str] | None, typer.Option("--set", help="a.b=value; may be given several times.")] = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
    name: Annotated[str | None, typer.Option(help="The run's name; default: method, seed and digest.")] = None,
) -> None:
    """Train one run. The same command resumes it if it was interrupted."""
    from remix_study.config.load import load_run

    parsed = load_run(config, changes or [])
    with terminal.busy(err, "starting"):
        from remix_study.launch.run import run_one
    fetch_corpus(parsed.corpus)
    with terminal.epochs(err, parsed.epochs) as watch:
        summary = run_one(parsed, workspace, name, on_start=watch)
    out.print(terminal.summary_table(summary))
    if parsed.tracking.uri != "off":
        out.print(f"Look at it with: remix-study ui --workspace {place(workspace)}", soft_wrap=True)


@app.command("schema")
def _schema(kind: Annotated[str, typer.Argument(help="study or run.")]) -> None:
    """The JSON schema of a study or a run, with which an editor completes and checks the YAML."""
    from remix_study.config.schema import text

    if kind not in ("study", "run"):
        raise ConfigError(f"the schema must be `study` or `run`, but is {kind!r}.")
    sys.stdout.write(text(kind))


app.command("demo")(study.demo)
app.add_typer(prepare.app, name="prepare")
app.command("plan")(study.plan)
app.command("run")(study.run)
app.command("submit")(submit.submit)
app.command("status")(study.status)
app.command("list")(study.list_studies)
app.command("stop")(study.stop)
app.command("best")(study.best)
app.command("retrain")(study.retrain)
app.command("report")(study.report)
app.command("export")(study.export)
app.command("ui")(servers.ui)
app.command("serve")(servers.serve)


def main() -> None:
    """The entry point: an error of ours is one sentence and exit 1, unless `--debug` asks for the traceback."""
    debug = "--debug" in sys.argv
    try:
        app()
    except StudyStopped as stop:
        err.print(str(stop))
        sys.exit(130)
    except RemixStudyError as error:
        if debug:
            raise
        _complain(str(error))
    except OSError as error:
        if debug or error.errno not in MENDABLE:
            raise
        place = f" at {error.filename}" if error.filename else ""
        _complain(
            f"the disk must be writable and have room, but{place}: {error.strerror}. Free some, and run it again."
        )
    except KeyboardInterrupt:
        err.print("stopped; the same command goes on from the last checkpoint")
        sys.exit(130)


def _complain(message: str) -> None:
    err.print("[bold red]error:[/bold red] ", end="")
    err.print(message, markup=False, highlight=False, soft_wrap=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
