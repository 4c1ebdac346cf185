"""`remix-study verify`: read all files of a corpus's stores and compare their checksums"""

import json
from typing import Annotated

import typer

from remix_study.cli import terminal
from remix_study.cli.common import Json, err, out
from remix_study.errors import StoreError


def verify(
    corpus: Annotated[str, typer.Argument(help="Folder or URL (s3://...) of the corpus, or of a store.")],
    as_json: Json = False,
) -> None:
    """Read all files of a corpus's clip stores, and name those that are damaged."""
    with terminal.busy(err, "starting"):
        from remix_study.datasets.corpus import stores_of, verify_store
        from remix_study.files.urls import is_url, path_of
        from remix_study.units import file_size
    with terminal.bars(err) as bar:
        folders = stores_of(corpus, fetching=bar("downloading and reading the corpus, MB"))
        known = is_url(corpus)  # the files of the copy have been read
        found = [
            verify_store(folder, known=known, progress=bar(f"reading {folder.parent.name}, MB")) for folder in folders
        ]
    if as_json:
        plain = [{**each._asdict(), "folder": str(each.folder), "damages": dict(each.damages)} for each in found]
        out.print_json(json.dumps(plain))
    else:
        for each in found:
            for name, what in each.damages:
                out.print(f"{each.folder / name}: {what}", soft_wrap=True, highlight=False, markup=False)
            if not each.damages:
                words = f"{each.folder}: {each.files} files, {file_size(each.bytes)}, no damage found"
                out.print(words, soft_wrap=True, highlight=False, markup=False)
    damaged = [each for each in found if each.damages]
    if damaged:
        where = path_of(corpus) if not known else corpus
        count = sum(len(each.damages) for each in damaged)
        raise StoreError(
            f"{where} has {count} damaged file{'s' * (count > 1)}. Rerun the `remix-study prepare` command that built "
            "it, with `--replace`."
        )
