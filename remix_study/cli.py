"""The command line: parses, calls, prints

Heavy imports (torch, Ray, MLflow) are inside the commands: `--help` and a misspelt option answer at once.
"""

import errno
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.logging import RichHandler

from remix_study import __version__, terminal
from remix_study.errors import ConfigError, RemixStudyError

if TYPE_CHECKING:
    pass

app = typer.Typer(
    help="Data Remixing for multimodal models: train it, search it, see whether it worked.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
prepare = typer.Typer(help="Turn media files into a clip store that training reads.", no_args_is_help=True)
app.add_typer(prepare, name="prepare")

out, err = Console(), Console(stderr=True)

Workspace = Annotated[
    Path,
    typer.Option(envvar="REMIX_STUDY_WORKSPACE", help="Where runs, studies, corpora and MLflow's database live."),
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


@prepare.command("synthetic")
def _prepare_synthetic(
    out_: Annotated[Path, typer.Option("--out", help="The corpus folder: clips, manifest and store.")],
    train: Annotated[int, typer.Option(help="Training clips.")] = 1000,
    val: Annotated[int, typer.Option(help="Validation clips.")] = 500,
    test: Annotated[int, typer.Option(help="Test clips.")] = 1000,
    classes: Annotated[int, typer.Option(help="Classes.")] = 8,
    audio_snr: Annotated[tuple[float, float], typer.Option(help="Audio signal-to-noise ratio, low and high, dB.")] = (
        0.0,
        15.0,
    ),
    video_snr: Annotated[tuple[float, float], typer.Option(help="Video signal-to-noise ratio, low and high, dB.")] = (
        -8.0,
        2.0,
    ),
    muted: Annotated[float, typer.Option(help="Part of the clips whose sound is noise only.")] = 0.15,
    seed: Annotated[int, typer.Option(help="The same seed renders the same bytes.")] = 0,
    preset: Annotated[str, typer.Option(help="What the store keeps of a clip.")] = "tiny",
    replace: Annotated[bool, typer.Option("--replace", help="Replace a store that was made otherwise.")] = False,
) -> None:
    """Render the procedural corpus as real clips, and decode them once."""
    from remix_study.datasets.corpus import prepare_synthetic
    from remix_study.datasets.synthetic import SyntheticSpec

    spec = SyntheticSpec(
        train=train, val=val, test=test, classes=classes, audio_snr_db=audio_snr, video_snr_db=video_snr, muted=muted,
        seed=seed,
    )  # fmt: skip
    with terminal.bars(err) as bar:
        store = prepare_synthetic(
            out_,
            spec,
            preset=preset,
            on_render=bar("rendering clips"),
            on_decode=bar("decoding clips"),
            replace=replace,
        )
    out.print(terminal.store_line(store))


@prepare.command("manifest")
def _prepare_manifest(
    manifest: Annotated[Path, typer.Argument(help="JSON Lines: id, path or paths, label, split, group, start, end.")],
    out_: Annotated[Path | None, typer.Option("--out", help="The corpus folder; default: the manifest's.")] = None,
    preset: Annotated[str, typer.Option(help="What the store keeps of a clip.")] = "tiny",
    decoder: Annotated[str, typer.Option(help="decord or pyav.")] = "decord",
    workers: Annotated[int | None, typer.Option(help="Processes; default: one per core.")] = None,
    max_bad: Annotated[float, typer.Option(help="Part of the clips that may be unusable, 0 to 1.")] = 0.01,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a store that was made otherwise.")] = False,
) -> None:
    """Decode the clips of a manifest once. Unusable clips are listed with their reasons, and left out."""
    from remix_study.datasets.corpus import prepare_corpus
    from remix_study.media.presets import preset_named

    if decoder not in ("decord", "pyav"):
        raise ConfigError(f"`--decoder` must be decord or pyav, but is {decoder!r}.")
    with terminal.bars(err) as bar:
        store = prepare_corpus(
            manifest, out_, preset=preset_named(preset), name=manifest.resolve().parent.name, decoder=decoder,
            workers=workers, max_bad_fraction=max_bad, replace=replace, progress=bar("decoding clips"),
        )  # fmt: skip
    out.print(terminal.store_line(store))


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
    with terminal.epochs(err, parsed.epochs) as watch:
        summary = run_one(parsed, workspace, name, on_start=watch)
    out.print(terminal.summary_table(summary))
    if parsed.tracking.uri != "off":
        out.print(f"Look at it with: remix-study ui --workspace {workspace}", soft_wrap=True)


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
    config = demo_study(study, trials, seeds)
    spec = SyntheticSpec(train=train, val=val, test=test, video_snr_db=DEMO_VIDEO_SNR_DB)
    err.print(f"[bold]{config.question}[/bold]")
    with terminal.bars(err) as bar:
        watch = terminal.study_watch(bar)
        result, folder = run_demo(config, spec, workspace, watch, bar("rendering clips"), bar("decoding clips"))
    out.print(terminal.comparison(result))
    out.print(result.sentence)
    for failure in result.failures:
        err.print(f"[yellow]failed:[/yellow] {failure}")
    out.print(f"\nTable and picture: {folder}\nEvery run, its curves and its assignments: remix-study ui "
              f"--workspace {workspace}", soft_wrap=True)  # fmt: skip


@app.command("ui")
def _ui(
    workspace: Workspace = DEFAULT_WORKSPACE,
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 5000,
    experiment: Annotated[str | None, typer.Option(help="Default: the one that was used last.")] = None,
    uri: Annotated[str | None, typer.Option(help="Another tracking database than the workspace's.")] = None,
) -> None:
    """Open MLflow on the loopback address, and print links that land on the runs with columns and charts ready."""
    with terminal.busy(err, "starting MLflow"):
        from remix_study.launch.review import experiment_to_show, open_views, settle
        from remix_study.tracking.address import default_uri
        from remix_study.tracking.server import MLflowServer
    address = uri or default_uri(workspace)
    if uri is None and not (workspace / "mlflow.db").exists():
        raise ConfigError(
            f"the workspace must hold runs, but {workspace} has no mlflow.db. Run `remix-study demo` or `train` first, "
            "or name another --workspace."
        )
    settle(address)
    shown = experiment_to_show(address, experiment)
    with MLflowServer(address, port=port) as server:
        links = open_views(address, shown, server.url)
        out.print(f"Experiment [bold]{shown}[/bold]")
        for what, link in (("runs  ", links.table), ("charts", links.charts)):
            out.print(f"{what}  {link}", soft_wrap=True, highlight=False)
        err.print("Ctrl-C ends the server.")
        server.wait()


def main() -> None:
    """The entry point: an error of ours is one sentence and exit 1, unless `--debug` asks for the traceback."""
    debug = "--debug" in sys.argv
    try:
        app()
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
