"""Consoles and options that several commands share"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from remix_study.cli import terminal
from remix_study.files import DEFAULT_WORKSPACE

__all__ = [
    "DEFAULT_WORKSPACE", "Cluster", "Corpus", "Json", "Method", "Name", "RetryFailed", "StudyFile", "Workspace",
    "default_output", "err", "fetch_corpus", "out", "place", "reading", "say", "where_in_mlflow",
]  # fmt: skip

out, err = Console(), Console(stderr=True)


def _workspace(where: str | Path) -> Path:
    from remix_study.files.mirror import workspace_at

    return workspace_at(where)


def place(folder: Path) -> str:
    """The folder as the user named it: the URL if the folder mirrors one, otherwise its path."""
    from remix_study.files.mirror import place_of

    return place_of(folder)


Workspace = Annotated[
    Path,
    typer.Option(
        envvar="REMIX_STUDY_WORKSPACE",
        parser=_workspace,
        metavar="PATH|URL",
        help="Folder or URL (s3://bucket/folder) of runs, studies and MLflow's database.",
    ),
]
Name = Annotated[str, typer.Argument(help="Name of the study, as in its file.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Method = Annotated[str | None, typer.Option(help="Method; default: the study's reference method.")]
StudyFile = Annotated[Path, typer.Argument(help="Study file (YAML), such as those in search_spaces/.")]
Corpus = Annotated[str | None, typer.Option(help="Folder or URL of the corpus; overrides the study file.")]
RetryFailed = Annotated[
    bool, typer.Option("--retry-failed", help="Run failed trials again, with the same hyperparameters.")
]
Cluster = Annotated[
    Path | None,
    typer.Option("--cluster", help="Cluster file; runs the command on the head of that cluster over ssh."),
]


def say(text: str) -> None:
    """Print a line as it is: paths and commands may hold brackets, and are copied from one line."""
    out.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)


@contextmanager
def reading(workspace: Path) -> Iterator[None]:
    """In this context, the command that is printed for a file of the other kind names the workspace."""
    from remix_study.config.load import OtherKindError

    try:
        yield
    except OtherKindError as error:
        raise error.in_workspace(workspace) from None


def default_output(folder: Path, name: str) -> Path:
    """The default output path of a command: in the study's folder, or in the current one for a workspace at a URL."""
    from remix_study.files.mirror import url_of

    return folder / name if url_of(folder) is None else Path(f"{folder.name}-{name}")


def fetch_corpus(corpus: str) -> None:
    """Download a corpus at a URL with a progress bar; does nothing for a local folder."""
    from remix_study.files.urls import is_url

    if is_url(corpus):
        from remix_study.datasets.corpus import open_corpus

        with terminal.bars(err) as bar:
            open_corpus(corpus, fetching=bar("downloading the corpus, MB"))


def where_in_mlflow(uri: str | None, experiment: str, workspace: Path) -> str:
    """A link to the runs of an experiment, or the command that prints one.

    Args:
        uri: the value of `tracking.uri`.
    """
    if uri == "off":
        return "not tracked (`tracking.uri` is off)"
    from remix_study.files.command_line import own_command
    from remix_study.tracking.address import absolute, tracking_address
    from remix_study.tracking.review import links_of

    links = links_of(tracking_address(uri, workspace), experiment)
    if links is not None:
        return links.table
    given = [] if uri is None else ["--uri", absolute(uri)]
    return own_command("ui", "--experiment", experiment, *given, workspace=workspace)
