"""Commands on studies: demo, plan, run, status, list, stop, best, retrain, report, export

Heavy imports (torch, Ray, MLflow) are inside the commands, so that `--help` and usage errors take no time.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from remix_study.cli import terminal
from remix_study.cli.common import (
    DEFAULT_WORKSPACE,
    Cluster,
    Corpus,
    Json,
    Method,
    Name,
    RetryFailed,
    StudyFile,
    Workspace,
    default_output,
    err,
    fetch_corpus,
    out,
    place,
    reading,
    say,
    where_in_mlflow,
)
from remix_study.cluster import remote
from remix_study.errors import ConfigError, RemixStudyError
from remix_study.files.command_line import own_command

if TYPE_CHECKING:
    from remix_study.study.comparison import StudyResult

_FAILURES_SHOWN = 10


def demo(
    workspace: Workspace = DEFAULT_WORKSPACE,
    study: Annotated[Path | None, typer.Option(help="Study file; default: the demo.yaml of this package.")] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Trials per method.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Seeds per method in the final comparison.")] = None,
    train: Annotated[int, typer.Option(help="Training clips.")] = 1000,
    val: Annotated[int, typer.Option(help="Validation clips.")] = 500,
    test: Annotated[int, typer.Option(help="Test clips.")] = 1000,
) -> None:
    """Render synthetic clips, search hyperparameters for every method, and compare the best ones over several seeds."""
    with terminal.busy(err, "starting"):
        from remix_study.datasets.synthetic import spec_of
        from remix_study.demo import demo_study, run_demo
        from remix_study.study.ledger import read_ledger
        from remix_study.study.results import require_every_method
        from remix_study.study.storage import study_folder
    with reading(workspace):
        config = demo_study(study, trials, seeds)
    spec = spec_of("demo", train=train, val=val, test=test)
    with terminal.bars(err) as bar, terminal.live_study(err, study_folder(workspace.resolve(), config.name)) as watch:
        result, folder = run_demo(config, spec, workspace, watch, bar("rendering clips"), bar("decoding clips"))
    show(result, folder, workspace)
    require_every_method(result, read_ledger(folder))


def plan(
    file: StudyFile,
    corpus: Corpus = None,
    timing: Annotated[
        bool, typer.Option(help="Train up to 3 epochs of each method in a temporary folder to estimate the cost.")
    ] = True,
    as_json: Json = False,
    workspace: Workspace = DEFAULT_WORKSPACE,
) -> None:
    """Show what `run` would do: trials, search space, cost, disk, trials to resume. Starts no run of the study."""
    with terminal.busy(err, "starting"):
        from remix_study.api import Study
        from remix_study.study import plan as _  # noqa: F401 - imports torch while the spinner shows
    with reading(workspace):
        study = Study(file, corpus=corpus, workspace=workspace)
    fetch_corpus(study.corpus)
    with terminal.bars(err) as bar:
        found = study.plan(timed=timing, progress=bar("timing methods") if timing else None)
    if as_json:
        out.print_json(json.dumps(found.plain()))
    else:
        out.print(terminal.plan_view(found))
        say(f"Start it with: {_run_command(file, corpus, workspace)}")


def run(
    file: StudyFile,
    corpus: Corpus = None,
    retry_failed: RetryFailed = False,
    detach: Annotated[bool, typer.Option("--detach", help="Run in the background and return.")] = False,
    as_json: Json = False,
    workspace: Workspace = DEFAULT_WORKSPACE,
) -> None:
    """Run a study. Rerun the command to resume it, or to extend it after raising `trials` in the file."""
    with terminal.busy(err, "starting"):
        from remix_study.api import Study
    with reading(workspace):
        study = Study(file, corpus=corpus, workspace=workspace)
    if detach:
        _run_in_background(study.name, study.folder, workspace)
        return
    from remix_study.study.comparison import IncompleteStudyError
    from remix_study.study.stopping import leavable

    result: StudyResult | None
    incomplete = None
    with leavable(study.folder):
        fetch_corpus(study.corpus)
        with terminal.busy(err, "starting"):
            from remix_study.study import study as _  # noqa: F401 - imports Ray and torch under the spinner
        with terminal.live_study(err, study.folder) as watch:
            try:
                result = study.run(retry_failed=retry_failed, watch=watch)
            except IncompleteStudyError as error:
                result, incomplete = error.result, error
    if as_json:
        answer = None if result is None else result.sentence
        out.print_json(json.dumps({**study.status().plain(), "answer": answer}))
    else:
        show(result, study.folder, workspace)
        if any(method.failed for method in study.status().methods) and not retry_failed:
            again = _run_command(file, corpus, workspace, "--retry-failed")
            said = f"Retry the failed trials with: {again}"
            err.print(said, markup=False, emoji=False, highlight=False, soft_wrap=True)
    if incomplete is not None:
        raise incomplete


def status(
    name: Name,
    as_json: Json = False,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until no process works on the study.")] = False,
    cluster: Cluster = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
) -> None:
    """Show the status of a study: runs by state, best values so far, running trials, time left."""
    if as_json and watch:
        raise ConfigError("Give `--json` or `--watch`, not both: `--json` prints the status once.")
    if cluster is not None:
        remote.remote_status(cluster, name, place(workspace), as_json=as_json, watch=watch)
        return
    from remix_study.study.status import existing, study_status

    folder = _study_folder(workspace, name)
    if as_json:
        out.print_json(json.dumps(study_status(folder).plain()))
    elif watch:
        terminal.follow(out, lambda: study_status(existing(workspace, name)))
    else:
        out.print(terminal.status_view(study_status(folder)))
        say(f"In MLflow: {_where_in_mlflow(folder, workspace)}")


def list_studies(
    as_json: Json = False,
    workspace: Workspace = DEFAULT_WORKSPACE,
) -> None:
    """List the studies of the workspace."""
    from remix_study.study.status import existing, study_names, study_status

    found, unreadable = [], []
    for name in study_names(workspace):
        try:
            found.append(study_status(existing(workspace, name)))
        except RemixStudyError as error:  # the others are listed all the same
            unreadable.append(str(error))
    if as_json:
        out.print_json(json.dumps([each.plain() for each in found]))
    elif found:
        out.print(terminal.studies_table(found))
    if unreadable:
        raise RemixStudyError("\n".join(unreadable))
    if not found and not as_json:
        start = own_command("run", "FILE", workspace=workspace)
        say(f"No studies in {place(workspace)}. Start one with: {start}")


def stop(
    name: Name,
    cluster: Cluster = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
) -> None:
    """Stop a study after the current epochs, and print the command that resumes it."""
    if cluster is not None:
        remote.remote_stop(cluster, name, place(workspace))
        return
    from remix_study.study.question import CONFIG
    from remix_study.study.status import ask_to_stop, existing

    folder = existing(workspace, name)
    by = ask_to_stop(folder)
    say(f"{name} (process {by}) stops after the current epochs.")
    say(f"Resume it with: {_run_command(folder / CONFIG, None, workspace)}")


def best(
    name: Name,
    method: Method = None,
    out_: Annotated[Path | None, typer.Option("--out", help="Output file; default: in the study's folder.")] = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
) -> None:
    """Write the best configuration so far as a run file, and print the command that trains it."""
    from remix_study.files.disk import write_atomically
    from remix_study.study.status import best_run, study_status

    folder = _study_folder(workspace, name)
    best = best_run(folder, method)
    path = default_output(folder, f"best-{best.method}.yaml") if out_ is None else out_
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, best.run.to_yaml())
    objectives = study_status(folder).objectives
    values = ", ".join(f"{name} {value:.4f}" for name, value in zip(objectives, best.values, strict=False))
    replays = "" if best.searched == best.method else f", whose configuration {best.method} has"
    say(f"{best.searched}, trial {best.number}{replays}: {values} (validation)")
    for key, value in best.params.items():
        say(f"  {key}: {value}")
    say(f"Train it with: {own_command('train', path, workspace=workspace)}")


def retrain(
    name: Name,
    seeds: Annotated[int, typer.Option(min=1, help="Number of additional seeds.")],
    method: Method = None,
    with_control: Annotated[bool, typer.Option("--with-control", help="Train on the control clips, too.")] = False,
    as_json: Json = False,
    workspace: Workspace = DEFAULT_WORKSPACE,
) -> None:
    """Train the best configuration with more seeds, and evaluate each on the test set."""
    with terminal.busy(err, "starting"):
        from remix_study.api import Study
        from remix_study.study import study as _  # noqa: F401 - as for `run`
    study = Study.open(name, workspace)
    with terminal.live_study(err, study.folder) as watch:
        runs = study.retrain(seeds, method, with_control=with_control, watch=watch)
    if as_json:
        out.print_json(runs.to_json(orient="records"))
    else:
        out.print(terminal.retrained_table(runs))
        say(f"In MLflow: {_where_in_mlflow(study.folder, workspace)}")


def report(
    name: Name,
    out_: Annotated[Path | None, typer.Option("--out", help="Output folder; default: in the study's folder.")] = None,
    cluster: Cluster = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
) -> None:
    """Write the report: a page with the comparison, its figures and tables. Works while the study runs."""
    if cluster is not None:
        remote.remote_report(cluster, name, place(workspace), out_)
        return
    from remix_study.report.page import write_report

    folder = _study_folder(workspace, name)
    with terminal.busy(err, "writing the report"):
        page, *others = write_report(folder, default_output(folder, "report") if out_ is None else out_)
    say(str(page))
    say(f"{len(others)} figures and tables in the same folder")


def export(
    name: Name,
    out_: Annotated[Path | None, typer.Option("--out", help="Output folder; default: in the study's folder.")] = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
) -> None:
    """Export all trials and epochs as Parquet and CSV."""
    from remix_study.study.export import export

    folder = _study_folder(workspace, name)
    with terminal.bars(err) as bar:
        written = export(folder, default_output(folder, "export") if out_ is None else out_, bar("reading runs"))
    for path in written:
        say(str(path))


def show(result: "StudyResult | None", folder: Path, workspace: Path) -> None:
    """Print the comparison, the failed runs, and where to find the report and MLflow's page."""
    from remix_study.study.status import study_status

    if result is not None:
        out.print(terminal.comparison(result))
        out.print(result.sentence)
    failures = study_status(folder).failures
    for failure in failures[:_FAILURES_SHOWN]:
        err.print(f"[yellow]failed:[/yellow] {escape(failure)}", soft_wrap=True)
    if len(failures) > _FAILURES_SHOWN:
        err.print(f"[yellow]failed:[/yellow] {len(failures) - _FAILURES_SHOWN} more; the report lists all")
    say(f"\nReport: {place(folder)}/report/report.html")
    say(f"In MLflow: {_where_in_mlflow(folder, workspace)}")


def _where_in_mlflow(folder: Path, workspace: Path) -> str:
    """A link to the study's runs, or the command that prints one."""
    from remix_study.config.load import load_study

    tracking = load_study(folder / "study.yaml").base.get("tracking", {})
    return where_in_mlflow(tracking.get("uri"), tracking.get("experiment", "remix"), workspace)


def _run_command(file: Path, corpus: str | None, workspace: Path, *more: str) -> str:
    """The command that runs a study file."""
    from remix_study.files.urls import corpus_at

    given = [] if corpus is None else ["--corpus", corpus_at(corpus)]
    return own_command("run", file, *given, *more, workspace=workspace)


def _study_folder(workspace: Path, name: str) -> Path:
    """The folder of an existing study; with a workspace at a URL, downloads new files with a progress bar."""
    from remix_study.study.status import existing

    with terminal.bars(err) as bar:
        return existing(workspace, name, bar("downloading files"))


def _run_in_background(name: str, folder: Path, workspace: Path) -> None:
    """Run this command without `--detach` in a new session, so that closing the terminal does not end it."""
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
    say(f"{name} runs as process {process.pid}. Its output goes to {log.resolve()}.")
    say(f"Follow it with: {own_command('status', name, '--watch', workspace=workspace)}")
