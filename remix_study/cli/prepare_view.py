"""Tables for `remix-study prepare ... --check`: clips, problems, and the cost of preparing the corpus"""

from pathlib import PurePath

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from remix_study.cli.narrow import Fitted
from remix_study.datasets.check import Bad, CheckReport, Spread
from remix_study.units import duration, file_size

_CLASSES_SHOWN = 40
_CLIPS_SHOWN = 20


def check_report(report: CheckReport) -> Group:
    """The report of a check as tables that fit 80 columns, with the verdict last."""
    parts: list[RenderableType] = [_counts(report), "", _facts(report), ""]
    if report.bad:
        parts += [_bad(report), ""]
    parts += [f"[yellow]warning:[/yellow] {escape(warning)}" for warning in report.warnings]
    parts += [f"[bold red]problem:[/bold red] {escape(problem)}" for problem in report.problems]
    parts.append(_verdict(report))
    return Group(*parts)


def _verdict(report: CheckReport) -> str:
    count = len(report.problems)
    if count:
        return f"[bold red]Not ready:[/bold red] {count} problem{'s' * (count > 1)} to fix first."
    return "[bold green]Ready to prepare:[/bold green] run the command with --out and without --check."


def _counts(report: CheckReport) -> Fitted:
    """Clips by class and split, with unusable and absent clips."""
    by_split = report.clips_by_split_and_class
    splits = list(by_split)
    others = {"unusable": report.bad_by_class, "absent": report.absent_by_class}
    others = {name: counts for name, counts in others.items() if counts}
    table = Table(
        title=f"{escape(report.name)}: {report.clips} clip{'s' * (report.clips != 1)}",
        title_justify="left",
        title_style="bold",
    )
    table.add_column("class", overflow="fold")
    for name in splits:
        table.add_column(name, justify="right")
    for name in others:
        table.add_column(name, justify="right", style="red")
    classes = sorted({label for of in by_split.values() for label in of} | set(report.absent_by_class))
    for label in classes[:_CLASSES_SHOWN]:
        cells = [by_split[split].get(label, 0) for split in splits]
        table.add_row(escape(label), *map(str, cells), *(str(of.get(label, 0)) for of in others.values()))
    if len(classes) > _CLASSES_SHOWN:
        table.add_row(f"[dim]{len(classes) - _CLASSES_SHOWN} more[/dim]")
    table.add_section()
    totals = [sum(by_split[split].values()) for split in splits]
    table.add_row("all", *map(str, totals), *(str(sum(of.values())) for of in others.values()))
    if report.groups_by_split:
        table.add_row("groups", *(str(report.groups_by_split.get(split, 0)) for split in splits))
    return Fitted(table)


def _facts(report: CheckReport) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    titles = {"audio": "audio duration", "video": "video duration", "gap": "difference"}
    for name, spread in report.durations.items():
        table.add_row(titles[name], _spread(spread))
    counts = {"frame size": report.sizes, "frame rate": report.frame_rates, "sample rate": report.sample_rates}
    for name, counted in counts.items():
        if counted:
            table.add_row(name, ", ".join(f"{value} ({count})" for value, count in counted.items()))
    table.add_row("largest class", f"{report.imbalance:.1f} times the smallest")
    table.add_row("duplicates", _duplicates(report))
    if report.groups_by_split:
        table.add_row("groups in two splits", str(len(report.leaking) or "none"))
    table.add_row("decoded in this check", f"{report.decoded} of {report.clips}")
    table.add_row("unusable", f"{report.bad_fraction:.1%} of the clips" if report.bad else "none found")
    table.add_row("size of the store", file_size(report.bytes))
    if report.seconds is not None:
        cores = f"{report.cores} core{'s' * (report.cores > 1)}"
        table.add_row("time to prepare", f"about {duration(report.seconds)} on {cores}")
    return table


def _duplicates(report: CheckReport) -> str:
    count = len(report.duplicates)
    if not count:
        return "none"
    return f"{count} set{'s' * (count > 1)} of identical clips, {report.crossing or 'none'} across splits"


def _bad(report: CheckReport) -> Group:
    counted = ", ".join(f"{count} {stage}" for stage, count in report.bad_by_reason.items())
    title = f"Unusable clips: {escape(counted)}"
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in ("clip", "class", "reason"):
        table.add_column(column, overflow="fold")
    for bad in report.bad[:_CLIPS_SHOWN]:
        table.add_row(escape(bad.id), escape(bad.label), escape(_reason(bad)))
    more = len(report.bad) - _CLIPS_SHOWN
    return Group(Fitted(table), *([f"[dim]{more} more; --json lists all[/dim]"] if more > 0 else []))


def _reason(bad: Bad) -> str:
    known = bad.path is None or bad.id in (bad.path, PurePath(bad.path).stem)  # the clip is named after the file
    return f"{bad.stage}: {bad.message}" + ("" if known else f" ({bad.path})")


def _spread(spread: Spread) -> str:
    low, median, high = (f"{value:.2f}" for value in (spread.low, spread.median, spread.high))
    return f"{high} s" if low == high else f"{low} to {high} s, median {median} s"
