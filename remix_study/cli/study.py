"""Commands on studies: demo, plan, run, status, list, stop, best, retrain, report, export

Heavy imports (torch, Ray, MLflow) are inside the commands: `--help` and a misspelt option answer at once.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from remix_study.cli import terminal
from remix_study.cli.common import DEFAULT_WORKSPACE, Json, Name, Workspace, beside, err, fetch_corpus, out, place
from remix_study.cluster import remote

if TYPE_CHECKING:
    from remix_study.study.results import StudyResult

_FAILURES_SHOWN = 10


def demo(
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


def plan(
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
    fetch_corpus(study.corpus)
    with terminal.bars(err) as bar:
        found = study.plan(timed=timing, progress=bar("timing methods") if timing else None)
    if as_json:
        out.print_json(json.dumps(found.plain()))
    else:
        out.print(terminal.planned(found))
        out.print(f"Start it with: remix-study run {file}{'' if corpus is None else f' --corpus {corpus}'} "
                  f"--workspace {place(workspace)}", soft_wrap=True, highlight=False)  # fmt: skip


def run(
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
        fetch_corpus(study.corpus)
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


def status(
    name: Name,
    as_json: Json = False,
    watch: Annotated[bool, typer.Option("--watch", help="Stay, and show it anew until nobody works on it.")] = False,
    cluster: remote.ClusterFile = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
) -> None:
    """How a study stands: runs by state, best so far, what trains now, the time left."""
    if cluster is not None:
        remote.status_there(cluster, name, place(workspace), as_json=as_json, watch=watch)
        return
    from remix_study.study.status import existing, survey

    folder = _looked_up(workspace, name)
    if as_json:
        out.print_json(json.dumps(survey(folder).plain()))
    elif watch:
        terminal.follow(out, lambda: survey(existing(workspace, name)))
    else:
        out.print(terminal.standing(survey(folder)))
        out.print(f"In MLflow: {_where_in_mlflow(folder, workspace)}", soft_wrap=True, highlight=False)


def list_studies(
    as_json: Json = False,
    workspace: Workspace = DEFAULT_WORKSPACE,
) -> None:
    """All studies of the workspace."""
    from remix_study.study.status import existing, names, survey

    found = [survey(existing(workspace, name)) for name in names(workspace)]
    if as_json:
        out.print_json(json.dumps([each.plain() for each in found]))
    elif found:
        out.print(terminal.studies_table(found))
    else:
        out.print(f"No study has begun in {place(workspace)}. Start one with: remix-study run FILE", soft_wrap=True)


def stop(
    name: Name,
    cluster: remote.ClusterFile = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
) -> None:
    """End the runs after the epochs under way, and begin none. The command that started the study goes on later."""
    if cluster is not None:
        remote.stop_there(cluster, name, place(workspace))
        return
    from remix_study.study.status import ask_to_stop, existing

    by = ask_to_stop(existing(workspace, name))
    out.print(f"{name} (process {by}) stops after the epochs under way; the command that started it goes on later.")


def best(
    name: Name,
    method: Annotated[str | None, typer.Option(help="Default: the study's reference.")] = None,
    out_: Annotated[Path | None, typer.Option("--out", help="Where to write it; default: the study's folder.")] = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
) -> None:
    """Write the best point so far as a run, and print the command that trains it."""
    from remix_study.study.status import best_run, survey

    folder = _looked_up(workspace, name)
    best = best_run(folder, method)
    path = beside(folder, f"best-{best.method}.yaml") if out_ is None else out_
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(best.run.to_yaml())
    objectives = survey(folder).objectives
    values = ", ".join(f"{name} {value:.4f}" for name, value in zip(objectives, best.values, strict=False))
    out.print(f"{best.method}, trial {best.number}: {values} (validation)", soft_wrap=True, highlight=False)
    for key, value in best.params.items():
        out.print(f"  {key}: {value}", highlight=False)
    out.print(f"remix-study train {path} --workspace {place(workspace)}", soft_wrap=True, highlight=False)


def retrain(
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


def report(
    name: Name,
    out_: Annotated[Path | None, typer.Option("--out", help="A folder; default: `report` in the study's.")] = None,
    cluster: remote.ClusterFile = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
) -> None:
    """One page that answers the study's question, with its pictures and tables as files; also while it runs."""
    if cluster is not None:
        remote.report_there(cluster, name, place(workspace), out_)
        return
    from remix_study.report.page import write_report

    folder = _looked_up(workspace, name)
    with terminal.busy(err, "writing the report"):
        page, *others = write_report(folder, beside(folder, "report") if out_ is None else out_)
    out.print(str(page), soft_wrap=True, highlight=False)
    out.print(f"and {len(others)} pictures and tables beside it", highlight=False)


def export(
    name: Name,
    out_: Annotated[Path | None, typer.Option("--out", help="A folder; default: `export` in the study's.")] = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
) -> None:
    """All trials and all epochs as Parquet and CSV."""
    from remix_study.study.export import export

    folder = _looked_up(workspace, name)
    with terminal.bars(err) as bar:
        written = export(folder, beside(folder, "export") if out_ is None else out_, bar("reading runs"))
    for path in written:
        out.print(str(path), soft_wrap=True, highlight=False)


def _show(result: "StudyResult | None", folder: Path, workspace: Path) -> None:
    """The answer, what failed, and where to look on."""
    from remix_study.study.status import survey

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
    out.print(f"\nReport: {place(folder)}/report/report.html", soft_wrap=True, highlight=False)
    out.print(f"In MLflow: {_where_in_mlflow(folder, workspace)}", soft_wrap=True, highlight=False)


def _where_in_mlflow(folder: Path, workspace: Path) -> str:
    """A link that opens on the study's runs, or the command that prints it."""
    from remix_study.config.load import load_study

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
    return f"remix-study ui --workspace {place(workspace)} --experiment {experiment}{given}"


def _looked_up(workspace: Path, name: str) -> Path:
    """The folder of a study that has begun; of a workspace at a URL, what is new there is fetched under a bar."""
    from remix_study.study.status import existing

    with terminal.bars(err) as bar:
        return existing(workspace, name, bar("fetching files"))


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
