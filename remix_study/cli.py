"""The command line: parses, calls, prints

Heavy imports (torch, Ray, MLflow) are inside the commands: `--help` and a misspelt option answer at once.
"""

import contextlib
import errno
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape

from remix_study import __version__, afar, prepare, submit, terminal
from remix_study.errors import ConfigError, RemixStudyError, StudyStopped, TrackingError

if TYPE_CHECKING:
    from remix_study.study.results import StudyResult
    from remix_study.tracking.review import Links
    from remix_study.tracking.server import MLflowServer

app = typer.Typer(
    help="Data Remixing for multimodal models: train it, search it, see whether it worked.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(prepare.app, name="prepare")
app.command("submit")(submit.submit)

out, err = Console(), Console(stderr=True)


def _workspace(where: str | Path) -> Path:
    from remix_study.media.mirror import workspace_at

    return workspace_at(where)


def _place(folder: Path) -> str:
    """As a person would name it: a copy by the URL of what it is a copy of."""
    from remix_study.media.mirror import place_of

    return place_of(folder)


Workspace = Annotated[
    Path,
    typer.Option(
        envvar="REMIX_STUDY_WORKSPACE",
        parser=_workspace,
        metavar="PATH|URL",
        help="Where runs, studies, corpora and MLflow's database live: a folder, or a URL such as s3://bucket/here.",
    ),
]
DEFAULT_WORKSPACE = Path("workspace")
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
    from remix_study.config import load_run

    parsed = load_run(config, changes or [])
    with terminal.busy(err, "starting"):
        from remix_study.launch.run import run_one
    _fetch(parsed.corpus)
    with terminal.epochs(err, parsed.epochs) as watch:
        summary = run_one(parsed, workspace, name, on_start=watch)
    out.print(terminal.summary_table(summary))
    if parsed.tracking.uri != "off":
        out.print(f"Look at it with: remix-study ui --workspace {_place(workspace)}", soft_wrap=True)


@app.command("demo")
def _demo(
    workspace: Workspace = DEFAULT_WORKSPACE,
    study: Annotated[Path | None, typer.Option(help="Another study file than the shipped demo.yaml.")] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Trials per method.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Seeds of the final comparison.")] = None,
    train: Annotated[int, typer.Option(help="Training clips.")] = 1000,
    val: Annotated[int, typer.Option(help="Validation clips.")] = 500,
    test: Annotated[int, typer.Option(help="Test clips.")] = 1000,
) -> None:
    """Render clips, search every method with the same budget, and compare the best of each over fresh seeds."""
    with terminal.busy(err, "starting"):
        from remix_study.datasets.synthetic import SyntheticSpec
        from remix_study.demo import DEMO_VIDEO_SNR_DB, demo_study, run_demo
        from remix_study.study.storage import study_folder
    config = demo_study(study, trials, seeds)
    spec = SyntheticSpec(train=train, val=val, test=test, video_snr_db=DEMO_VIDEO_SNR_DB)
    with terminal.bars(err) as bar, terminal.live_study(err, study_folder(workspace.resolve(), config.name)) as watch:
        result, folder = run_demo(config, spec, workspace, watch, bar("rendering clips"), bar("decoding clips"))
    _show(result, folder, workspace)


def _show(result: "StudyResult | None", folder: Path, workspace: Path) -> None:
    """The answer, what failed, and where to look on."""
    from remix_study.study.survey import survey

    if result is not None:
        out.print(terminal.comparison(result))
        out.print(result.sentence)
    failures = survey(folder).failures
    for failure in failures[:_FAILURES_SHOWN]:
        err.print(f"[yellow]failed:[/yellow] {escape(failure)}", soft_wrap=True)
    if len(failures) > _FAILURES_SHOWN:
        err.print(f"[yellow]failed:[/yellow] and {len(failures) - _FAILURES_SHOWN} more, in the report")
    if result is None:
        err.print("No method has a result yet.")
    out.print(f"\nReport: {_place(folder)}/report/report.html", soft_wrap=True, highlight=False)
    out.print(f"In MLflow: {_where_in_mlflow(folder, workspace)}", soft_wrap=True, highlight=False)


def _where_in_mlflow(folder: Path, workspace: Path) -> str:
    """A link that opens on the study's runs, or the command that prints it."""
    from remix_study.config import load_study

    tracking = load_study(folder / "study.yaml").base.get("tracking", {})
    uri, experiment = tracking.get("uri"), tracking.get("experiment", "remix")
    if uri in ("off", False):
        return "not tracked (`tracking.uri` is off)"
    from remix_study.tracking.address import tracking_address
    from remix_study.tracking.review import links_of

    links = links_of(tracking_address(uri, workspace), experiment)
    if links is not None:
        return links.table
    given = f" --uri '{uri}'" if uri is not None else ""
    return f"remix-study ui --workspace {_place(workspace)} --experiment {experiment}{given}"


def _looked_up(workspace: Path, name: str) -> Path:
    """The folder of a study that has begun; of a workspace at a URL, what is new there is fetched under a bar."""
    from remix_study.study.survey import existing

    with terminal.bars(err) as bar:
        return existing(workspace, name, bar("fetching files"))


def _beside(folder: Path, name: str) -> Path:
    """Where to write what is read from a study: into it; of a study at a URL, where the person is."""
    from remix_study.media.mirror import home_of

    return folder / name if home_of(folder) is None else Path(f"{folder.name}-{name}")


_FAILURES_SHOWN = 10
Name = Annotated[str, typer.Argument(help="The study's name, as its file gives it.")]
Json = Annotated[bool, typer.Option("--json", help="For machines.")]


@app.command("plan")
def _plan(
    file: Annotated[Path, typer.Argument(help="A study as YAML, such as those in search_spaces/.")],
    corpus: Annotated[str | None, typer.Option(help="Another corpus than the file names: a folder or a URL.")] = None,
    timing: Annotated[bool, typer.Option(help="Train a few epochs of each method to estimate the cost.")] = True,
    as_json: Json = False,
    workspace: Workspace = DEFAULT_WORKSPACE,
) -> None:
    """What `run` would do: trials, search space, cost, disk, what goes on where it was. Starts nothing."""
    with terminal.busy(err, "starting"):
        from remix_study.api import Study
        from remix_study.study import plan as _  # noqa: F401 - torch takes its time, under this spinner
    study = Study(file, corpus=corpus, workspace=workspace)
    _fetch(study.corpus)
    with terminal.bars(err) as bar:
        found = study.plan(timed=timing, progress=bar("timing methods") if timing else None)
    if as_json:
        out.print_json(json.dumps(found.plain()))
    else:
        out.print(terminal.planned(found))
        out.print(f"Start it with: remix-study run {file}{'' if corpus is None else f' --corpus {corpus}'} "
                  f"--workspace {_place(workspace)}", soft_wrap=True, highlight=False)  # fmt: skip


@app.command("run")
def _run(
    file: Annotated[Path, typer.Argument(help="A study as YAML, such as those in search_spaces/.")],
    corpus: Annotated[str | None, typer.Option(help="Another corpus than the file names: a folder or a URL.")] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try the points of failed trials again.")
    ] = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="Leave it running in the background, and give the terminal back.")
    ] = False,
    as_json: Json = False,
    workspace: Workspace = DEFAULT_WORKSPACE,
) -> None:
    """Run a study to its end. The same command resumes it, or extends it where the file now has more trials."""
    with terminal.busy(err, "starting"):
        from remix_study.api import Study
    study = Study(file, corpus=corpus, workspace=workspace)
    if detach:
        _leave_running(study.name, study.folder)
        return
    from remix_study.study.stopping import leavable

    with leavable(study.folder):
        _fetch(study.corpus)
        with terminal.busy(err, "starting"):
            from remix_study.study import study as _  # noqa: F401 - Ray and torch take their time, under this spinner
        with terminal.live_study(err, study.folder) as watch:
            result = study.run(retry_failed=retry_failed, watch=watch)
    if as_json:
        answer = None if result is None else result.sentence
        out.print_json(json.dumps({**study.status().plain(), "answer": answer}))
        return
    _show(result, study.folder, workspace)
    if study.status().failures and not retry_failed:
        err.print("To try failed trials again, add --retry-failed.")


def _fetch(corpus: str) -> None:
    """A corpus at a URL is downloaded first, under a bar."""
    from remix_study.media.urls import is_url

    if is_url(corpus):
        from remix_study.datasets.corpus import open_corpus

        with terminal.bars(err) as bar:
            open_corpus(corpus, fetching=bar("fetching the corpus, MB"))


def _leave_running(name: str, folder: Path) -> None:
    """The same command without `--detach`, in a session of its own that no terminal ends."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "run.log"
    words = [word for word in sys.argv[1:] if word != "--detach"]
    with log.open("a") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "remix_study", *words],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    out.print(f"{name} runs as process {process.pid}, and writes what it has to say to {log}.", soft_wrap=True)
    out.print(f"Look at it with: remix-study status {name} --watch", soft_wrap=True, highlight=False)


@app.command("status")
def _status(
    name: Name,
    as_json: Json = False,
    watch: Annotated[bool, typer.Option("--watch", help="Stay, and show it anew until nobody works on it.")] = False,
    cluster: afar.ClusterFile = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
) -> None:
    """How a study stands: runs by state, best so far, what trains now, the time left."""
    if cluster is not None:
        afar.status_there(cluster, name, _place(workspace), as_json=as_json, watch=watch)
        return
    from remix_study.study.survey import existing, survey

    folder = _looked_up(workspace, name)
    if as_json:
        out.print_json(json.dumps(survey(folder).plain()))
    elif watch:
        terminal.follow(out, lambda: survey(existing(workspace, name)))
    else:
        out.print(terminal.standing(survey(folder)))
        out.print(f"In MLflow: {_where_in_mlflow(folder, workspace)}", soft_wrap=True, highlight=False)


@app.command("list")
def _list(
    as_json: Json = False,
    workspace: Workspace = DEFAULT_WORKSPACE,
) -> None:
    """All studies of the workspace."""
    from remix_study.study.survey import existing, names, survey

    found = [survey(existing(workspace, name)) for name in names(workspace)]
    if as_json:
        out.print_json(json.dumps([each.plain() for each in found]))
    elif found:
        out.print(terminal.studies_table(found))
    else:
        out.print(f"No study has begun in {_place(workspace)}. Start one with: remix-study run FILE", soft_wrap=True)


@app.command("stop")
def _stop(
    name: Name,
    cluster: afar.ClusterFile = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
) -> None:
    """End the runs after the epochs under way, and begin none. The command that started the study goes on later."""
    if cluster is not None:
        afar.stop_there(cluster, name, _place(workspace))
        return
    from remix_study.study.survey import ask_to_stop, existing

    by = ask_to_stop(existing(workspace, name))
    out.print(f"{name} (process {by}) stops after the epochs under way; the command that started it goes on later.")


@app.command("best")
def _best(
    name: Name,
    method: Annotated[str | None, typer.Option(help="Default: the study's reference.")] = None,
    out_: Annotated[Path | None, typer.Option("--out", help="Where to write it; default: the study's folder.")] = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
) -> None:
    """Write the best point so far as a run, and print the command that trains it."""
    from remix_study.study.survey import best_run, survey

    folder = _looked_up(workspace, name)
    best = best_run(folder, method)
    path = _beside(folder, f"best-{best.method}.yaml") if out_ is None else out_
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(best.run.to_yaml())
    objectives = survey(folder).objectives
    values = ", ".join(f"{name} {value:.4f}" for name, value in zip(objectives, best.values, strict=False))
    out.print(f"{best.method}, trial {best.number}: {values} (validation)", soft_wrap=True, highlight=False)
    for key, value in best.params.items():
        out.print(f"  {key}: {value}", highlight=False)
    out.print(f"remix-study train {path} --workspace {_place(workspace)}", soft_wrap=True, highlight=False)


@app.command("retrain")
def _retrain(
    name: Name,
    seeds: Annotated[int, typer.Option(min=1, help="How many further seeds.")],
    method: Annotated[str | None, typer.Option(help="Default: the study's reference.")] = None,
    as_json: Json = False,
    workspace: Workspace = DEFAULT_WORKSPACE,
) -> None:
    """Train the best point with further seeds, and look at the test split with each."""
    with terminal.busy(err, "starting"):
        from remix_study.api import Study
        from remix_study.study import study as _  # noqa: F401 - as for `run`
    study = Study.open(name, workspace)
    with terminal.live_study(err, study.folder) as watch:
        runs = study.retrain(seeds, method, watch=watch)
    if as_json:
        out.print_json(runs.to_json(orient="records"))
    else:
        out.print(terminal.retrained(runs))
        out.print(f"In MLflow: {_where_in_mlflow(study.folder, workspace)}", soft_wrap=True, highlight=False)


@app.command("report")
def _report(
    name: Name,
    out_: Annotated[Path | None, typer.Option("--out", help="A folder; default: `report` in the study's.")] = None,
    cluster: afar.ClusterFile = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
) -> None:
    """One page that answers the study's question, with its pictures and tables as files; also while it runs."""
    if cluster is not None:
        afar.report_there(cluster, name, _place(workspace), out_)
        return
    from remix_study.report.page import write_report

    folder = _looked_up(workspace, name)
    with terminal.busy(err, "writing the report"):
        page, *others = write_report(folder, _beside(folder, "report") if out_ is None else out_)
    out.print(str(page), soft_wrap=True, highlight=False)
    out.print(f"and {len(others)} pictures and tables beside it", highlight=False)


@app.command("export")
def _export(
    name: Name,
    out_: Annotated[Path | None, typer.Option("--out", help="A folder; default: `export` in the study's.")] = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
) -> None:
    """All trials and all epochs as Parquet and CSV."""
    from remix_study.study.export import export

    folder = _looked_up(workspace, name)
    with terminal.bars(err) as bar:
        written = export(folder, _beside(folder, "export") if out_ is None else out_, bar("reading runs"))
    for path in written:
        out.print(str(path), soft_wrap=True, highlight=False)


@app.command("schema")
def _schema(kind: Annotated[str, typer.Argument(help="study or run.")]) -> None:
    """The JSON schema of a study or a run, with which an editor completes and checks the YAML."""
    from remix_study.schema import text

    if kind not in ("study", "run"):
        raise ConfigError(f"the schema must be `study` or `run`, but is {kind!r}.")
    sys.stdout.write(text(kind))


@app.command("ui")
def _ui(
    workspace: Workspace = DEFAULT_WORKSPACE,
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 5000,
    experiment: Annotated[str | None, typer.Option(help="Default: the one that was used last.")] = None,
    uri: Annotated[
        str | None,
        typer.Option(help="A tracking database or server; default: MLFLOW_TRACKING_URI, else the workspace's."),
    ] = None,
) -> None:
    """Open MLflow on the loopback address, and print links that land on the runs with columns and charts ready."""
    with terminal.busy(err, "starting MLflow"):
        from remix_study.launch.review import experiment_to_show, open_views, settle
        from remix_study.tracking.address import check, default_uri, is_server, tracking_address
        from remix_study.tracking.server import MLflowServer
    _require_no_password("--uri", uri)
    address = tracking_address(uri, workspace)
    if address == default_uri(workspace) and not (workspace / "mlflow.db").exists():
        raise ConfigError(
            f"the workspace must hold runs, but {workspace} has no mlflow.db. Run `remix-study demo` or `train` first, "
            "or name another --workspace."
        )
    check(address)
    settle(address)
    shown = experiment_to_show(address, experiment)
    if is_server(address):  # a server that runs already
        _show_links(shown, open_views(address, shown, address.rstrip("/")))
        return
    with _until_ended(), MLflowServer(address, port=port) as server:
        links = open_views(address, shown, server.url)
        _show_links(shown, links)
        _stay(server)


@contextlib.contextmanager
def _until_ended() -> Iterator[None]:
    """A server's command ends by Ctrl-C, SIGTERM or with its terminal, and its server's processes with it."""
    from remix_study.tracking.signals import ended_by

    try:
        with ended_by(KeyboardInterrupt):
            yield
    except KeyboardInterrupt:
        err.print("the server has ended; the same command starts it again")


def _stay(server: "MLflowServer") -> NoReturn:
    err.print("Ctrl-C ends the server.")
    status = server.wait()
    raise TrackingError(f"MLflow's server must run until it is told to end, but ended by itself with status {status}.")


def _show_links(experiment: str, links: "Links") -> None:
    out.print(f"Experiment [bold]{escape(experiment)}[/bold]")
    for what, link in (("runs  ", links.table), ("charts", links.charts)):
        out.print(f"{what}  {link}", soft_wrap=True, highlight=False)


@app.command("serve")
def _serve(
    backend: Annotated[
        str | None,
        typer.Option(help="MLflow's database, such as 'postgresql+psycopg://me:$DB_PASSWORD@host/mlflow'; $NAME is "
                     "taken from the environment; default: mlflow.db in the workspace."),
    ] = None,
    artifacts: Annotated[
        str | None,
        typer.Option(help="Where artifacts lie: a folder, or s3://bucket/mlflow and the like. Only the server needs "
                     "credentials for it. Default: mlartifacts in the workspace."),
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 for all of this machine.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 5000,
    workers: Annotated[int, typer.Option(min=1, help="Processes that answer; 0.3 GB each.")] = 2,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(help="A name that clients and browsers call it by; may be given several times. This machine's own "
                     "name, loopback and private addresses are known."),
    ] = None,
    auth: Annotated[
        bool | None,
        typer.Option("--auth/--no-auth", help="Ask for MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD; default: "
                     "on every address but loopback."),
    ] = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
) -> None:  # fmt: skip
    """MLflow's tracking server for a cluster, until Ctrl-C or SIGTERM: database, artifacts, and a password."""
    from remix_study.credentials import redact
    from remix_study.media.mirror import home_of
    from remix_study.tracking.address import default_uri
    from remix_study.tracking.server import MLflowServer, admin_from_environment, is_loopback, names_of

    _require_no_password("--backend", backend)
    if backend is None and home_of(workspace.resolve()) is not None:
        raise ConfigError(
            f"MLflow's database cannot lie at {_place(workspace)}, so `--backend` must name one. For example: "
            "--backend 'postgresql+psycopg://$DB_USER:$DB_PASSWORD@host/mlflow'"
        )
    address = backend or default_uri(workspace)
    alone = is_loopback(host)
    admin = admin_from_environment() if auth or (auth is None and not alone) else None
    if admin is None and not alone:
        err.print("[yellow]anybody who reaches this address can read, change and delete everything on it[/yellow]")
    names = names_of(host, allowed_host or ())

    with _until_ended():
        with terminal.busy(err, "starting MLflow"):
            server = MLflowServer(
                address, port=port, host=host, workers=workers, artifacts=artifacts, admin=admin, names=names,
                tell=lambda line: err.print(line, markup=False, highlight=False, soft_wrap=True),
            )  # fmt: skip
            server.start()
        try:
            called = server.url if alone else f"http://{names[0]}:{server.port}"
            out.print(f"MLflow serves {redact(address)} at {called}", soft_wrap=True, highlight=False)
            out.print(f"export MLFLOW_TRACKING_URI={called}", soft_wrap=True, highlight=False)
            if admin is not None:
                out.print(f"export MLFLOW_TRACKING_USERNAME={admin.name} MLFLOW_TRACKING_PASSWORD=...", soft_wrap=True,
                          highlight=False)  # fmt: skip
            _stay(server)
        finally:
            server.stop()


def _require_no_password(option: str, url: str | None) -> None:
    from remix_study.credentials import holds_password, redact

    if url is not None and holds_password(url):
        raise ConfigError(
            f"`{option}` must not hold a password, which every user of this machine could read, but is {redact(url)}. "
            "Write $DB_PASSWORD in its place, in single quotes, and set that in the environment."
        )


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
