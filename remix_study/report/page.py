"""Write the report of a study: one self-contained page, and its charts and tables as files

    report.html          the whole report, including plotly.js, so that it works offline
    figures/*.png        its charts, for print and for MLflow
    tables/*.csv         its numbers
    comparison.*         the comparison of methods, also written to the study's folder

Files are replaced atomically. Any process may write a report, also while the study runs: it reads the study's storage
and the run folders of the chosen configurations.
"""

import base64
import io
import json
import re
from collections.abc import Callable
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from remix_study.figures.chart import INK, QUIET, Key
from remix_study.figures.web import spec
from remix_study.files.disk import storage_errors, write_atomically
from remix_study.modality import canonical_order
from remix_study.report.sections import Report, make_report
from remix_study.report.styles import Style, styles
from remix_study.report.table import to_csv, to_markdown
from remix_study.report.tables import comparison_table
from remix_study.study.comparison import StudyResult
from remix_study.study.ledger import read_ledger
from remix_study.study.remote import driver_of
from remix_study.study.results import result_of
from remix_study.study.sentences import headline
from remix_study.study.shown import note_shown

PAGE = "report.html"
_SHAPES = {
    "circle": '<circle cx="8" cy="8" r="4.6"/>',
    "square": '<rect x="3.8" y="3.8" width="8.4" height="8.4"/>',
    "diamond": '<path d="M8 2.4 13 8 8 13.6 3 8Z"/>',
    "triangle-up": '<path d="M8 3 13.2 12.4H2.8Z"/>',
    "triangle-down": '<path d="M8 13 2.8 3.6h10.4Z"/>',
    "x": '<path d="m4.6 3 3.4 3.4L11.4 3 13 4.6 9.6 8l3.4 3.4-1.6 1.6L8 9.6 4.6 13 3 11.4 6.4 8 3 4.6Z"/>',
    "cross": '<path d="M6.6 3h2.8v3.6H13v2.8H9.4V13H6.6V9.4H3V6.6h3.6Z"/>',
    "star": '<path d="m8 2 1.8 4 4.3.4-3.3 2.9 1 4.2L8 11.2l-3.8 2.3 1-4.2L1.9 6.4 6.2 6Z"/>',
    "tick": '<path d="M7 2h2v12H7Z"/>',
}
_STRIPES = '<path d="{}" stroke="var(--paper)" stroke-width="2" stroke-linecap="round"/>'
_DASHES = {"solid": "", "dash": "6 3", "dot": "2 2.4", "dashdot": "6 2.4 2 2.4"}


def write_report(
    folder: Path, out: Path | None = None, on_progress: Callable[[int, int], None] | None = None
) -> list[Path]:
    """Write the report of a study.

    Args:
        folder: the study's folder.
        out: where to write; by default `report` in `folder`.
        on_progress: called with the number of finished steps and of all steps.

    Returns:
        The files of the report, the page first.

    Raises:
        StoreError: the disk is full, or `out` cannot be written.
    """
    from remix_study.figures.png import pictures

    say = on_progress or (lambda done, total: None)  # noqa: ARG005 - called with both
    place = folder / "report" if out is None else out
    ledger = read_ledger(folder, intermediate=True)
    result = result_of(ledger)
    report = make_report(ledger, result, at_work=driver_of(folder) is not None)
    steps = len(report.charts) + 2
    say(1, steps)
    with storage_errors(place):
        for part in (place / "figures", place / "tables"):
            part.mkdir(parents=True, exist_ok=True)
        stills: dict[str, bytes] = {}
        written = []
        for done, chart in enumerate(report.charts, start=2):
            titled, stills[chart.key] = pictures(chart)
            written.append(_written(place / "figures" / f"{chart.key}.png", titled))
            say(done, steps)
        written += [_written(place / "tables" / name, to_csv(table)) for name, table in report.tables.items()]
        if result is not None:
            note_shown(folder, ledger.study)
            for name, content in comparison_files(result).items():
                written.append(_written(place / name, content))
                _written(folder / name, content)
        page = _written(place / PAGE, render(report, styles(ledger.study), stills))
    say(steps, steps)
    return [page, *written]


def comparison_files(result: StudyResult) -> dict[str, str | bytes]:
    """The comparison as CSV, as Markdown, and as a picture."""
    from remix_study.figures.run import MethodResults, comparison, draw_comparison

    table = comparison_table(result)
    prefix = "probe/accuracy/"
    methods = []
    for c in result.others:
        heads = {key.removeprefix(prefix) for s in c.seeds.values() for key in s if key.startswith(prefix)}
        probes = {m: c.values(prefix + m).tolist() for m in canonical_order(heads)}
        methods.append(MethodResults(c.name, c.values("test/accuracy").tolist(), probes))
    files: dict[str, str | bytes] = {
        "comparison.csv": to_csv(table),
        "comparison.md": f"{to_markdown(table)}\n{result.sentence}\n",
    }
    if methods:
        picture = io.BytesIO()
        draw_comparison(comparison(methods)._replace(title=headline(result))).savefig(picture, dpi=150, format="png")
        files["comparison.png"] = picture.getvalue()
    return files


def render(report: Report, style_of: dict[str, Style], stills: dict[str, bytes]) -> str:
    """The page as HTML. `stills[key]`: the picture of each chart, shown in print and without JavaScript."""
    from plotly.offline import get_plotlyjs

    figures: dict[str, Any] = {}
    for chart in report.charts:
        for i, panel in enumerate(chart.panels):
            figures[f"{chart.key}-{i}"] = spec(panel)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"kind": lambda block: type(block).__name__, "number": _is_number}
    swatches = {name: swatch(Key(name, style.colour, style.symbol)) for name, style in style_of.items()}
    template = environment.from_string(files("remix_study.report").joinpath("page.html").read_text(encoding="utf-8"))
    return template.render(
        report=report,
        figures=Markup(_json(figures)),
        heights={key: figure["layout"]["height"] for key, figure in figures.items()},
        plotly=Markup(get_plotlyjs()),  # trusted: not user input
        stills={key: base64.b64encode(png).decode() for key, png in stills.items()},
        swatch=swatch,
        swatches=swatches,
        written=f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}",
    )


def swatch(key: Key) -> Markup:
    """A legend entry as an SVG image."""
    colour = {INK: "currentColor", QUIET: "var(--quiet)"}.get(key.colour, key.colour)
    width, parts = 16, ""
    if key.hatch is not None:
        stripes = {"/": "M0 12 12 0M6 18 18 6", "x": "M2 2 14 14M14 2 2 14", ".": "M5 5h.1M11 5h.1M5 11h.1M11 11h.1"}
        parts = f'<rect x="2" y="2" width="12" height="12" fill="{colour}"/>'
        parts += _STRIPES.format(stripes[key.hatch]) if key.hatch else ""
    if key.dash is not None:
        dash = f' stroke-dasharray="{_DASHES[key.dash]}"' if _DASHES[key.dash] else ""
        width, parts = 28, f'<path d="M0 8h28" stroke="{colour}" stroke-width="2"{dash}/>'
    if key.symbol is not None:
        paint = f'stroke="{colour}" stroke-width="1.6"' if key.hollow else f'fill="{colour}"'
        parts += f'<g {paint} transform="translate({(width - 16) // 2})">{_SHAPES[key.symbol]}</g>'
    kind = "swatch long" if width > 16 else "swatch"
    return Markup(f'<svg class="{kind}" viewBox="0 0 {width} 16">{parts}</svg>')


def _written(path: Path, content: str | bytes) -> Path:
    write_atomically(path, content)
    return path


def _json(content: Any) -> str:
    """JSON that is safe within a script element."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _is_number(cell: str) -> bool:
    return re.match(r"[+\-<]? ?\d[\d.]*( ?[±/×x%]| to |$| [a-z]{1,6}$)", cell) is not None
