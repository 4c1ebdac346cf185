"""Progress bars and tables in the terminal; without a terminal, no bars"""

import contextlib
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from remix_study.cli.narrow import Fitted
from remix_study.errors import RemixStudyError
from remix_study.units import duration, file_size

if TYPE_CHECKING:
    import pandas as pd

    from remix_study.config.balancing import Card
    from remix_study.datasets.corpus import Found
    from remix_study.launch.folder import RunFolder
    from remix_study.media.store import ClipStore
    from remix_study.report.table import Table as Plain
    from remix_study.study.comparison import StudyResult
    from remix_study.study.listener import StudyListener
    from remix_study.study.plan import Plan
    from remix_study.study.status import StudyStatus

Bar = Callable[[str], Callable[[int, int], None]]
_REFRESH_S = 1.0
_FAILURES_SHOWN = 5
_POLL_S = 0.3  # another process writes the history, so there is no event to wait for


@contextmanager
def busy(console: Console, what: str) -> Iterator[None]:
    """Show a spinner for work without measurable progress, such as importing torch."""
    with console.status(what):
        yield


@contextmanager
def bars(console: Console) -> Iterator[Bar]:
    """Yield `bar`: `bar(title)` returns a callback `(done, total)`, whose first call shows the bar."""
    with _progress(console) as progress:

        def bar(title: str) -> Callable[[int, int], None]:
            line: list[TaskID] = []

            def update(done: int, total: int, note: str = "") -> None:
                if not line:
                    line.append(progress.add_task(title, total=total, note=""))
                progress.update(line[0], completed=done, total=total, note=note)

            return update

        yield bar


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[note]}"),
        console=console,
        disable=not console.is_terminal,
    )


@contextmanager
def epochs(console: Console, total: int) -> "Iterator[Callable[[str, RunFolder], None]]":
    """Show progress in epochs: yields a function that starts following a run, whichever process trains it."""
    with _progress(console) as progress:
        ended = threading.Event()
        current: list[tuple[TaskID, RunFolder]] = []

        def start(name: str, folder: "RunFolder") -> None:
            current.append((progress.add_task(name, total=total, note=""), folder))

        def follow() -> None:
            while not ended.wait(_POLL_S):
                refresh()

        def refresh() -> None:
            for line, folder in current:
                history = folder.history
                if history:
                    last = history[-1]
                    note = f"loss {last['train/loss']:.3f}  val {100 * last['val/accuracy']:.1f} %"
                    progress.update(line, completed=len(history), note=note)

        watcher = threading.Thread(target=follow, daemon=True)
        watcher.start()
        try:
            yield start
        finally:
            ended.set()
            watcher.join()
            refresh()


@contextmanager
def live_study(console: Console, folder: Path) -> "Iterator[StudyListener]":
    """Show the status of a study while this process runs it.

    In a terminal, the status refreshes every few seconds. Otherwise, each event is one plain line, for a log.

    Args:
        console: where to print.
        folder: the study's folder.
    """
    from remix_study.study.listener import StudyListener
    from remix_study.study.status import study_status
    from remix_study.study.stopping import end_soon, end_with_ray

    if not console.is_terminal:

        def line(words: str) -> None:
            console.print(words, markup=False, highlight=False, soft_wrap=True)

        yield StudyListener(
            begin=lambda ended, total: line(f"{ended} of {total} runs ended"),
            done=lambda task, outcome, ended, total: line(
                f"{ended} of {total} runs ended: {task.name} is {outcome.state}"
            ),
            say=line,
            interrupted=end_soon,
            terminated=lambda: end_with_ray(line),
        )
        return
    ended = threading.Event()
    with Live(console=console, auto_refresh=False) as live:

        def begin(done: int, total: int) -> None:  # noqa: ARG001 - as StudyListener asks
            threading.Thread(target=refresh, daemon=True).start()

        def refresh() -> None:
            pause = 0.0
            while not ended.wait(pause):
                started = time.monotonic()
                with contextlib.suppress(RemixStudyError, OSError):  # a file may be half written
                    live.update(status_view(study_status(folder)), refresh=True)
                # At most a tenth of the time: reading ten thousand trials must not slow down the driver.
                pause = max(_REFRESH_S, 9 * (time.monotonic() - started))

        try:
            say = live.console.print
            yield StudyListener(begin=begin, say=say, interrupted=end_soon, terminated=lambda: end_with_ray(say))
        finally:
            ended.set()
            with contextlib.suppress(RemixStudyError, OSError):
                live.update(status_view(study_status(folder)), refresh=True)


def status_view(found: "StudyStatus") -> Group:
    """The status of a study: a summary, a table of methods, running runs and failures."""
    table = Table()
    table.add_column("method", no_wrap=True)
    pruned = any(m.pruned for m in found.methods)
    for name in ("trials", *(("pruned",) if pruned else ()), "failed", "replicates", *found.objectives):
        table.add_column(name, justify="right")
    for m in found.methods:
        best = [f"{value:.4f}" for value in m.best or ()]
        if best:
            best[0] += f" (trial {m.best_number})"
        early = (str(m.pruned),) if pruned else ()
        searched = f"{m.ended}/{m.trials}" if m.trials else "none"  # a control with the configuration of its method
        table.add_row(m.name, searched, *early, str(m.failed), f"{m.replicated}/{m.replicates}", *best)
    lines = [f"[dim]failed:[/dim] {escape(failure)}" for failure in found.failures[-_FAILURES_SHOWN:]]
    if len(found.failures) > _FAILURES_SHOWN:
        lines.insert(0, f"[dim]failed:[/dim] {len(found.failures)} runs; the most recent:")
    for run in found.running:
        accuracy = "" if run.val_accuracy is None else f"  val {100 * run.val_accuracy:.1f} %"
        left = "" if not run.seconds_left else f"  {duration(run.seconds_left)} left"
        if run.preempted is not None:
            lines.append(f"[dim]waiting:[/dim] {run.name}  {run.preempted}")
            continue
        lines.append(f"[dim]training:[/dim] {run.name}  epoch {run.epoch}/{run.epochs or '?'}{accuracy}{left}")
    return Group(escape(found.question), _summary(found), Fitted(table), *lines)


def _summary(found: "StudyStatus") -> str:
    text = f"[bold]{found.name}[/bold]: {found.state}, {found.runs_ended} of {found.runs} runs ended"
    if found.retrained:
        text += f", {found.retrained} retrained"
    if found.holder is not None:
        text += f", process {found.holder}"
    if found.seconds_left:
        text += f", about {duration(found.seconds_left)} left"
    limits = [f"{used:.2f} of {allowed:g} {name.replace('_', ' ')}" for name, (used, allowed) in found.budget.items()]
    text += f"\n[dim]used:[/dim] {'; '.join(limits) if limits else f'{found.used.cpu_hours:.2f} CPU hours'}"
    return text


def follow(console: Console, read: "Callable[[], StudyStatus]") -> None:
    """Refresh the status of a study until no process works on it."""
    found = read()
    with Live(status_view(found), console=console, auto_refresh=False) as live:
        pause = threading.Event()
        while found.holder is not None:
            pause.wait(_REFRESH_S)
            found = read()
            live.update(status_view(found), refresh=True)


def plan_view(found: "Plan") -> Group:
    """The plan of a study: runs, search space and cost."""
    table = Table(title="Runs (ended / all)", title_justify="left", title_style="")
    table.add_column("method", no_wrap=True)
    timed = any(m.cost is not None for m in found.methods)
    for name in ("trials", "resumed", "replicates", *(("epoch", "trial", "disk") if timed else ())):
        table.add_column(name, justify="right", no_wrap=True)
    for m in found.methods:
        cost: list[str] = []
        if m.cost is not None:
            cost = [duration(m.cost.epoch_s), duration(m.cost.trial_s), file_size(m.cost.bytes)]
        replicates = f"{m.replicates - m.replicates_left}/{m.replicates}"
        table.add_row(m.name, f"{m.ended}/{m.trials}", str(len(m.resumed)), replicates, *cost)
    known = max(len(m.points) for m in found.methods)
    first = (
        f"the first {known} trials of a method use the known-good values under `first`, then"
        if known
        else "all trials:"
    )
    if found.sampler == "grid":
        first = "all combinations of the"
    return Group(
        f"[bold]{escape(found.question)}[/bold]",
        f"[dim]corpus:[/dim] {escape(found.corpus)}",
        Fitted(table),
        _space(found),
        f"[dim]search:[/dim] {first} {found.sampler}; pruner: {found.pruner}; {found.concurrency} at once",
        *_order(found),
        *([_comparisons(found)] if found.comparisons else []),
        _cost(found),
    )


def _order(found: "Plan") -> list[str]:
    """For each method that needs runs of others: what comes first, and what it costs with those runs."""
    lines = []
    for m in found.methods:
        if m.needs:
            line = (
                f"[dim]order:[/dim] {m.name} after {' and '.join(m.needs)}, whose runs it needs; they are trained once"
            )
            if m.counted_s is not None:
                own_s = m.all_s(found.seeds_per_trial) or 0.0
                line += f" and count for it, too: {duration(m.counted_s)}, of which {duration(own_s)} are its own"
            lines.append(line)
    return lines


def _comparisons(found: "Plan") -> str:
    """What the number of replicates allows to find."""
    enough = found.replicates >= found.replicates_for_verdict
    several = f"{found.comparisons} comparison{'s' if found.comparisons > 1 else ''}"
    return (
        f"[dim]comparison:[/dim] {several} over {found.replicates} "
        f"replicate{'' if found.replicates == 1 else 's'}; a verdict needs "
        f"{found.replicates_for_verdict}{'' if enough else ' [yellow](raise `replicates`)[/yellow]'}, and the exact "
        f"sign-flip test at least {found.replicates_for_sign_flip}"
    )


def _space(found: "Plan") -> Fitted:
    """The search space: dimensions that all methods share, then those of each method."""
    table = Table(title="Search space", title_justify="left", title_style="")
    for name in ("method", "parameter", "values", "tried first"):
        table.add_column(name, no_wrap=name == "parameter")
    everyone = [row for row in found.methods[0].space if all(row in m.space for m in found.methods)]
    several = len(found.methods) > 1
    rows = [("all", row) for row in everyone if several]
    rows += [(m.name, row) for m in found.methods for row in m.space if not several or row not in everyone]
    if not rows:
        table.add_row("[dim]empty[/dim]")
    before = ""
    for method, row in rows:
        values = row.range + (f", {row.scale}" if row.scale else "")
        values += f" (when {row.when})" if row.when else ""
        table.add_row(method if method != before else "", row.path, escape(values), escape(", ".join(row.first)))
        before = method
    return Fitted(table)


def _cost(found: "Plan") -> str:
    text = f"[bold]{found.runs_left} runs[/bold] left"
    if found.runs_again:
        text += f", and {found.runs_again} replicates again if further trials change the choice"
    if found.cost is not None and found.seconds is not None and found.bytes is not None:
        gpus = f", {found.cost.gpu_hours:.2g} GPU hours" if found.cost.gpu_hours else ""
        text += f", {'at most ' if found.at_most else ''}about {duration(found.seconds)}"
        text += f" ({found.cost.cpu_hours:.2g} CPU hours{gpus})"
        text += f" and {file_size(found.bytes)} of disk"
        if found.bytes_free is not None:
            text += f" ({file_size(found.bytes_free)} free)"
    for name, (used, allowed) in found.budget.items():
        text += f"\nbudget: {used:.2f} of {allowed:g} {name.replace('_', ' ')} used"
    if found.bytes is not None and found.bytes_free is not None and found.bytes > found.bytes_free:
        text += "\n[bold red]There is not enough disk.[/bold red] Use another --workspace."
    return text


def retrained_table(runs: "pd.DataFrame") -> Fitted:
    """The runs of `retrain`, with mean and standard deviation."""
    heads = {name: f"{name.rpartition('/')[2]} head" for name in runs.columns if name.startswith("test/accuracy_uni/")}
    known = {
        "best/val_accuracy": "validation", "test/accuracy": "test", "test/accuracy_late_sum": "late sum",
        "test/accuracy_late_calibrated": "late product", **heads,
    }  # fmt: skip
    shown = [name for name in known if name in runs.columns]
    title = "Accuracy in %: best epoch on validation, all others on the test set"
    table = Table(title=title, title_justify="left", title_style="")
    for name in ("seed", *(known[name] for name in shown)):
        table.add_column(name, justify="right")
    for row in runs.to_dict(orient="records"):
        table.add_row(str(row["number"]), *(f"{100 * row[name]:.1f}" for name in shown))
    std = runs[shown].std(ddof=1).fillna(0.0)
    table.add_row("mean ± std", *(f"{100 * runs[name].mean():.1f} ± {100 * std[name]:.1f}" for name in shown),
                  style="bold")  # fmt: skip
    return Fitted(table)


def studies_table(found: "Sequence[StudyStatus]") -> Fitted:
    table = Table()
    for name in ("study", "state", "runs", "question"):
        table.add_column(name, no_wrap=name == "study")
    for each in found:
        table.add_row(each.name, each.state, f"{each.runs_ended}/{each.runs}", escape(each.question))
    return Fitted(table)


def methods_table(found: "Sequence[tuple[Card, str]]") -> Fitted:
    """The added methods with where they act under Remix, below what they change."""
    table = Table()
    for name in ("changes", "with Remix", "options"):
        table.add_column(name, no_wrap=name == "changes")
    for changes in dict.fromkeys(card.changes for card, _ in found):
        table.add_row(changes, "", "", style="bold")
        rows = [each for each in found if each[0].changes == changes]
        for card, where in rows:
            own = {key: value for key, value in card.options.items() if key not in ("begin", "end")}
            table.add_row(f"  {card.name}", where, _options(own), end_section=card is rows[-1][0])
    return Fitted(table)


def method_lines(card: "Card", where: str) -> list[str]:
    """The description of a method. `where`: the batches of Remix in which it acts, or `no`."""
    combined = card.with_remix if where != "no" else f"cannot be added: {card.with_remix}"
    return [
        card.name, f"    {card.does}.", f"    changes: {card.changes}", f"    needs: {card.needs}",
        f"    with Remix: {combined}", f"    options: {_options(card.options)}",
    ]  # fmt: skip


def _options(given: Mapping[str, object]) -> str:
    return ", ".join(f"{key}: {'null' if value is None else value}" for key, value in given.items())


def store_line(store: "ClipStore") -> str:
    counts = ", ".join(f"{len(store.rows(split))} {split}" for split in store.splits)
    bad = store.card.get("quarantined", 0)
    skipped = f"; {bad} clips skipped, see {store.path / 'quarantine.jsonl'}" if bad else ""
    return f"{store.path}: {counts}; {len(store.classes)} classes; {' and '.join(store.modalities)}{skipped}"


def absent_table(found: "Found") -> Fitted:
    """Per class, how many of the clips that the corpus's lists name were found."""
    table = Table(title="Clips in the corpus's lists", title_justify="left")
    for column in ("class", "found", "absent"):
        table.add_column(column, justify="left" if column == "class" else "right")
    present = Counter(clip.label for clip in found.clips)
    absent = Counter(found.absent.values())
    for label in sorted(present.keys() | absent.keys()):
        table.add_row(label, str(present[label]), str(absent[label]))
    table.add_section()
    table.add_row("all", str(present.total()), str(absent.total()))
    return Fitted(table)


def summary_table(summary: Mapping[str, float]) -> Fitted:
    table = Table(title="Results of the run", title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    shown = ("best/", "test/", "test_balance/", "sufficiency/", "probe/", "time/")
    for key in sorted(k for k in summary if k.startswith(shown)):
        table.add_row(key, f"{summary[key]:.4g}")
    return Fitted(table)


def comparison(result: "StudyResult") -> Group:
    """The comparison as tables that fit 80 columns: accuracies, sufficiency, combinations, and the gain of the
    sentence.
    """
    from remix_study.report.tables import (
        accuracy_table,
        combinations_table,
        details_table,
        gain_table,
        groups,
        sufficiency_table,
    )
    from remix_study.study.sentences import gain_told

    by_family = [len(group) for group in groups(result)]
    tables = [
        _drawn(each(result), result.reference, by_family) for each in (accuracy_table, details_table, sufficiency_table)
    ]
    numbers = ("difference", "95 % interval", "p (Holm)")
    told = result._replace(gains=(gain,) if (gain := gain_told(result)) is not None else ())
    for whole, kept in (
        (combinations_table(result), ("method", "minus", *numbers)),
        (gain_table(told), ("method", "part", *numbers)),
    ):
        if whole.rows:
            places = [whole.header.index(name) for name in kept]
            head, *rows = [tuple(row[n] for n in places) for row in (whole.header, *whole.rows)]
            tables.append(_drawn(whole._replace(header=head, rows=tuple(rows))))
    return Group(*tables)


def plain_table(data: "Plain") -> Fitted:
    """A table as text, which fits 80 columns where its cells allow it."""
    return _drawn(data)


def _drawn(data: "Plain", bold: str = "", by_family: Sequence[int] = ()) -> Fitted:
    """A table, with a line after each family; `by_family`: their numbers of rows."""
    data = data.without_empty_columns()
    table = Table(title=data.title, title_justify="left", title_style="")
    for number, name in enumerate(data.header):
        # A column is as wide as its cells, so that the table fits 80 columns: headings are wrapped, cells are not.
        width = max([*map(len, name.split()), *(len(row[number]) for row in data.rows)])
        heading = "\n".join(textwrap.wrap(name, width))
        table.add_column(heading, justify="left" if number == 0 else "right", no_wrap=number == 0)
    ends = set(accumulate(by_family))
    for number, row in enumerate(data.rows, start=1):
        table.add_row(*row, style="bold" if row[0] == bold else "", end_section=number in ends)
    return Fitted(table)
