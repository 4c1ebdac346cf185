"""Parsing a table with one line per clip: CSV, JSON Lines or Parquet

What the columns mean is decided in table.py.
"""

import collections
import csv
import io
import math
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from remix_study.datasets.manifest import json_row
from remix_study.errors import ManifestError

Row = dict[str, Any]


class Line(NamedTuple):
    """A line: its place in the table, such as `line 3`, and its values by column; empty cells are None."""

    place: str
    row: Row


class Raw(NamedTuple):
    """A table as parsed. `problems` are those of lines that could not be parsed, each with its place."""

    columns: list[str]
    lines: list[Line]
    problems: list[str]


def read_raw(path: str, content: bytes) -> Raw:
    """Parse a table in the format that its name says.

    Raises:
        ManifestError: the name has another suffix, or the content has another format.
    """
    match PurePosixPath(path).suffix.lower():
        case ".csv" | ".tsv" | ".txt":
            return _csv(path, _decoded(path, content))
        case ".jsonl" | ".json" | ".ndjson":
            return _json_lines(_decoded(path, content))
        case ".parquet" | ".pq":
            return _parquet(path, content)
        case _:
            raise ManifestError(f"Cannot read {path or 'the table'}: its name must end in .csv, .jsonl or .parquet.")


def _decoded(path: str, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ManifestError(
            f"{path} must be UTF-8 text, but has another byte on line {line}. Save it as UTF-8."
        ) from error


def _json_lines(text: str) -> Raw:
    lines, problems = list[Line](), list[str]()
    for number, line in enumerate(text.split("\n"), start=1):
        found: list[str] = []
        row = json_row(line, found) if line.strip() else None
        problems += [f"line {number}: {problem}" for problem in found]
        if row is not None:
            lines.append(Line(f"line {number}", row))
    return Raw(list(dict.fromkeys(key for _, row in lines for key in row)), lines, problems)


def _csv(path: str, text: str) -> Raw:
    head = text.lstrip("\r\n").partition("\n")[0]
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=max(",;\t", key=head.count), strict=True, skipinitialspace=True
    )
    header, lines, problems = list[str](), list[Line](), list[str]()
    for place, cells in _csv_lines(reader, problems):
        if not header:
            header = [cell.strip() for cell in cells]
            twice = [name for name, count in collections.Counter(header).items() if count > 1 and name]
            if twice:
                raise ManifestError(f"{path} must name each column once, but repeats {', '.join(twice)}.")
        elif len(cells) != len(header):
            problems.append(
                f"{place}: it must have {len(header)} cells, like the first line, but has {len(cells)}; put quotes "
                "around a cell that contains a comma"
            )
        else:
            row = {name: cell.strip() or None for name, cell in zip(header, cells, strict=True) if name}
            lines.append(Line(place, row))
    return Raw(header, lines, problems)


def _csv_lines(reader: Any, problems: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield the rows that are not empty, each with its first line number; a quoted cell may span several lines."""
    while True:
        place = f"line {reader.line_num + 1}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            problems.append(f"{place}: from here on it is not CSV ({error}); is a quote missing?")
            return
        if any(cell.strip() for cell in cells):
            yield place, cells


def _parquet(path: str, content: bytes) -> Raw:
    import pyarrow as pa
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(pa.BufferReader(content))
        rows = table.to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ManifestError(f"Cannot read {path} as a Parquet file: it is damaged or has another format.") from error
    lines = [
        Line(f"row {number}", {name: None if _is_gap(value) else value for name, value in row.items()})
        for number, row in enumerate(rows, start=1)
    ]
    return Raw(list(table.column_names), lines, [])


def _is_gap(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value)) or value == ""
