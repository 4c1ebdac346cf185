"""The `remix-study` command: registers all commands and turns errors into messages

Heavy imports (torch, Ray, MLflow) are inside the commands, so that `--help` and usage errors take no time.
"""

import errno
import json
import logging
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from rich.logging import RichHandler
from typer.core import TyperGroup

from remix_study.cli import prepare, reproduce, servers, study, submit, terminal, verify
from remix_study.cli.common import (
    DEFAULT_WORKSPACE,
    Json,
    Workspace,
    err,
    fetch_corpus,
    out,
    reading,
    say,
    where_in_mlflow,
)
from remix_study.errors import INTERRUPTED, ConfigError, RemixStudyError, RunPreempted, StudyStopped
from remix_study.tracking.signals import Terminated, signal_handlers, terminate
from remix_study.version import __version__


class _Interrupted(RemixStudyError):  # noqa: N818 - the user's request, not an error
    """Ctrl-C or SIGTERM; typer would end silently."""

    def __init__(self, status: int, *, announced: bool = False) -> None:
        super().__init__(INTERRUPTED)
        self.status, self.announced = status, announced


def _interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of a handler
    raise KeyboardInterrupt


# The order of `--help`, from one's own clips to a report. Typer would list the group `prepare` last.
_ORDER = (
    "demo", "prepare", "verify", "train", "plan", "run", "status", "list", "stop", "report", "best", "retrain",
    "export", "ui", "serve", "submit", "reproduce", "methods", "schema",
)  # fmt: skip


class _Commands(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=_ORDER.index)

    def invoke(self, ctx: Any) -> Any:
        interrupt = {} if signal.getsignal(signal.SIGINT) == signal.SIG_IGN else {signal.SIGINT: _interrupt}
        try:
            with signal_handlers({**interrupt, signal.SIGTERM: terminate}):
                return super().invoke(ctx)
        except Terminated:
            raise _Interrupted(128 + signal.SIGTERM) from None
        except KeyboardInterrupt as interrupt:
            raise _Interrupted(128 + signal.SIGINT, announced=interrupt.args == (INTERRUPTED,)) from None
        except SystemExit as end:
            if end.code != 128 + signal.SIGTERM:
                raise
            raise _Interrupted(end.code) from None  # a run has recorded its end


app = typer.Typer(
    cls=_Commands,
    help="Data Remixing for multimodal models: train runs, search hyperparameters, compare methods.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

# Errors that a user can fix without a traceback, and what helps.
_SPACE, _PLACE, _DISK = "Check free space and permissions", "Check the path, or choose another one", "Check the disk"
_LIMIT = "Raise the limit of open files (`ulimit -n`)"
USER_ERRORS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EPERM), _SPACE),
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENOENT, errno.ENOTEMPTY), _PLACE),
    **dict.fromkeys((errno.ENAMETOOLONG, errno.ELOOP), _PLACE),
    **dict.fromkeys((errno.EIO, errno.ESTALE), _DISK),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), _LIMIT),
}


@app.callback(invoke_without_command=True)
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and the libraries' log messages.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        out.print(__version__)
        raise typer.Exit
    if not debug:
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
        for name in ("mlflow", "alembic", "ray", "ray.autoscaler", "ray.train", "ray.tune"):
            logging.getLogger(name).setLevel(logging.ERROR)
    handler = RichHandler(console=err, show_time=False, show_path=False, rich_tracebacks=False)
    logging.basicConfig(level=logging.INFO if debug else logging.WARNING, handlers=[handler], format="%(message)s")


def _train(
    config: Annotated[Path, typer.Argument(help="Run file (YAML).")],
    changes: Annotated[list[str] | None, typer.Option("--set", help="Override a key: a.b=value; repeatable.")] = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
    name: Annotated[str | None, typer.Option(help="Name of the run; default: method, seed and digest.")] = None,
) -> None:
    """Train one run. Rerun the command to resume an interrupted run."""
    from remix_study.config.load import load_run

    with reading(workspace):
        parsed = load_run(config, changes or [])
    with terminal.busy(err, "starting"):
        from remix_study.launch.run import run_one
    fetch_corpus(parsed.corpus)
    with terminal.epochs(err, parsed.epochs) as watch:
        summary = run_one(parsed, workspace, name, on_start=watch)
    out.print(terminal.summary_table(summary))
    if parsed.tracking.uri != "off":
        say(f"In MLflow: {where_in_mlflow(parsed.tracking.uri, parsed.tracking.experiment, workspace)}")


def _schema(kind: Annotated[str, typer.Argument(help="`study` or `run`.")]) -> None:
    """Print the JSON schema of study or run files, with which editors complete and check the YAML."""
    from remix_study.config.schema import text

    if kind not in ("study", "run"):
        raise ConfigError(f"`KIND` must be `study` or `run`, but is {kind!r}.")
    typer.echo(text(kind), nl=False)


def _methods(
    names: Annotated[list[str] | None, typer.Argument(help="Methods to describe; default: a table of all.")] = None,
    as_json: Json = False,
) -> None:
    """List the methods that can be added to a way of training, or describe some of them."""
    from remix_study.config.balancing import cards
    from remix_study.config.problems import closest_match
    from remix_study.config.run import with_remix

    every = {card.name: card for card in cards()}
    for name in names or ():
        if name not in every:
            near = closest_match(name, every)
            raise ConfigError(
                f"There is no method `{name}`"
                + (f"; did you mean `{near}`?" if near else ". List them: remix-study methods")
            )
    found = [(every[name], with_remix(name)) for name in dict.fromkeys(names or every)]
    if as_json:
        out.print_json(json.dumps([card._asdict() | {"combines_with_remix": where != "no"} for card, where in found]))
        return
    if names:
        for card, where in found:
            for line in terminal.method_lines(card, where):
                say(line)
        return
    out.print(terminal.methods_table(found))
    say("Most act from the epoch `begin` on and stop before `end`.")
    say("Add one with `method: {name: remix, with: [NAME]}`, or train jointly with one:")
    say("`method: {name: NAME}`. `remix-study methods NAME` describes it.")


app.command("demo")(study.demo)
app.add_typer(prepare.app, name="prepare")
app.command("verify")(verify.verify)
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
app.command("train")(_train)
app.command("reproduce")(reproduce.reproduce)
app.command("methods")(_methods)
app.command("schema")(_schema)


def main() -> None:
    """Run the command line. Print an error of ours as one message and exit with 1; with `--debug`, raise it."""
    debug = "--debug" in sys.argv
    try:
        app()
    except _Interrupted as interrupted:
        if not interrupted.announced:
            err.print(str(interrupted))
        sys.exit(interrupted.status)
    except StudyStopped as stop:
        err.print(str(stop))
        sys.exit(130)
    except RunPreempted as preempted:
        err.print(f"The run was {preempted}. Rerun the command to resume from there.", soft_wrap=True, highlight=False)
        sys.exit(143)
    except RemixStudyError as error:
        if debug:
            raise
        _exit_with_error(str(error))
    except OSError as error:
        if debug or error.errno not in USER_ERRORS:
            raise
        path = error.filename if error.filename2 is None else error.filename2  # the new name of a temporary file
        what = f"Cannot read or write {path}" if path else "Cannot write to the disk"
        _exit_with_error(f"{what}: {error.strerror}. {USER_ERRORS[error.errno]}, then rerun the command.")


def _exit_with_error(message: str) -> None:
    err.print("[bold red]error:[/bold red] ", end="")
    err.print(message, markup=False, highlight=False, soft_wrap=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
