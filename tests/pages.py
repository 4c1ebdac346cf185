"""Documentation pages and their code blocks"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import typer

from remix_study.cli.main import app

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "clusters").glob("*.md")],
)


class Block(NamedTuple):
    """A fenced code block, with the heading above it."""

    section: str
    language: str
    text: str


def blocks(page: Path) -> Iterator[Block]:
    """Yield all code blocks of a page, in order."""
    section = ""
    for part in re.finditer(
        r"^#+ (?P<title>[^\n]+)$|^```(?P<language>\w+)\n(?P<text>.*?)^```$", page.read_text(), re.M | re.S
    ):
        if part["title"] is not None:
            section = part["title"]
        else:
            yield Block(section, part["language"], part["text"])


def blocks_in(language: str, page: Path = README) -> list[Block]:
    """Return the code blocks of one language."""
    return [block for block in blocks(page) if block.language == language]


def shell_commands(page: Path, section: str | None = None) -> list[list[str]]:
    """Return the words of each line of the shell blocks, without comments and leading variable assignments."""
    found = [block for block in blocks_in("bash", page) if section in (None, block.section)]
    split = [shlex.split(line, comments=True) for block in found for line in block.text.splitlines()]
    return [[word for n, word in enumerate(words) if n or not re.match(r"[A-Z_]+=", word)] for words in split if words]


def parse_command(words: list[str]) -> None:
    """Parse the words of a `remix-study` command without running it.

    Raises:
        click.UsageError: an unknown command or option, or a value of the wrong type.
    """
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        name, *words = words
        command = command.commands[name]
    command.make_context(command.name, words)
