"""What the command modules share: consoles, options, and names of places as a person would give them"""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from remix_study.cli import terminal

out, err = Console(), Console(stderr=True)


def _workspace(where: str | Path) -> Path:
    from remix_study.files.mirror import workspace_at

    return workspace_at(where)


def place(folder: Path) -> str:
    """As a person would name it: a copy by the URL of what it is a copy of."""
    from remix_study.files.mirror import place_of

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


Name = Annotated[str, typer.Argument(help="The study's name, as its file gives it.")]


Json = Annotated[bool, typer.Option("--json", help="For machines.")]


def beside(folder: Path, name: str) -> Path:
    """Where to write what is read from a study: into it; of a study at a URL, where the person is."""
    from remix_study.files.mirror import url_of

    return folder / name if url_of(folder) is None else Path(f"{folder.name}-{name}")


def fetch_corpus(corpus: str) -> None:
    """A corpus at a URL is downloaded first, under a bar."""
    from remix_study.files.urls import is_url

    if is_url(corpus):
        from remix_study.datasets.corpus import open_corpus

        with terminal.bars(err) as bar:
            open_corpus(corpus, fetching=bar("fetching the corpus, MB"))
