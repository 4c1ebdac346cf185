"""What a person sees in the terminal: bars on long work, tables at the end; quiet where there is no terminal"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
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

if TYPE_CHECKING:
    from remix_study.launch.folder import RunFolder
    from remix_study.media.store import ClipStore
    from remix_study.report.tables import Table as Plain
    from remix_study.study.results import StudyResult
    from remix_study.study.study import Watch
    from remix_study.study.survey import Survey
    from remix_study.study.tasks import Outcome, Task

Bar = Callable[[str], Callable[[int, int], None]]
_FOLLOW_S = 1.0
_LOOK_S = 0.3  # another process writes the history; a file has no event to wait for


@contextmanager
def busy(console: Console, what: str) -> Iterator[None]:
    """A spinner for what has no measure, such as importing torch."""
    with console.status(what):
        yield


@contextmanager
def bars(console: Console) -> Iterator[Bar]:
    """`bar(title)` gives a callback (done, total); its bar appears with the first call."""
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
    """Follows the history of the run that was started last, whichever process trains it."""
    with _progress(console) as progress:
        ended = threading.Event()
        current: list[tuple[TaskID, RunFolder]] = []

        def start(name: str, folder: "RunFolder") -> None:
            current.append((progress.add_task(name, total=total, note=""), folder))

        def follow() -> None:
            while not ended.wait(_LOOK_S):
                look()

        def look() -> None:
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
            look()


def study_watch(bar: Bar) -> "Watch":
    """One bar for all runs of a study, with the newest result beside it."""
    from remix_study.study.study import Watch

    update = bar("training runs")

    def done(task: "Task", outcome: "Outcome", complete: int, total: int) -> None:
        if outcome.summary is None:
            note = f"{task.job.name}: failed"
        else:
            split = "test" if "test/accuracy" in outcome.summary else "val"
            key = "test/accuracy" if split == "test" else "best/val_accuracy"
            note = f"{task.job.name}: {split} {100 * outcome.summary[key]:.1f} %"
        update(complete, total, note)  # type: ignore[call-arg]

    return Watch(update, done)


def standing(found: "Survey") -> Group:
    """A summary line, one line per method, one per running run, and what failed."""
    table = Table()
    table.add_column("method", no_wrap=True)
    for name in ("trials", "failed", "replicates", found.objective):
        table.add_column(name, justify="right")
    for m in found.methods:
        best = "" if m.best is None else f"{m.best:.4f} (trial {m.best_number})"
        table.add_row(m.name, f"{m.complete}/{m.trials}", str(m.failed), f"{m.replicated}/{m.replicates}", best)
    lines = [f"[dim]failed:[/dim] {escape(failure)}" for failure in found.failures]
    for run in found.running:
        seen = "" if run.val_accuracy is None else f"  val {100 * run.val_accuracy:.1f} %"
        lines.append(f"[dim]training:[/dim] {run.name}  epoch {run.epoch}/{run.epochs}{seen}")
    return Group(escape(found.question), _summary(found), table, *lines)


def _summary(found: "Survey") -> str:
    said = f"[bold]{found.name}[/bold]: {found.state}, {found.runs_complete} of {found.runs} runs complete"
    if found.holder is not None:
        said += f", process {found.holder}"
    if found.seconds_left is not None:
        said += f", about {timedelta(seconds=round(found.seconds_left))} left"
    return said


def follow(console: Console, look: "Callable[[], Survey]") -> None:
    """Show a study anew every few moments, until nobody works on it."""
    found = look()
    with Live(standing(found), console=console, auto_refresh=False) as live:
        pause = threading.Event()
        while found.holder is not None:
            pause.wait(_FOLLOW_S)
            found = look()
            live.update(standing(found), refresh=True)


def studies_table(found: "Sequence[Survey]") -> Table:
    table = Table()
    for name in ("study", "state", "runs", "question"):
        table.add_column(name, no_wrap=name == "study")
    for each in found:
        table.add_row(each.name, each.state, f"{each.runs_complete}/{each.runs}", escape(each.question))
    return table


def store_line(store: "ClipStore") -> str:
    counts = ", ".join(f"{len(store.rows(split))} {split}" for split in store.splits)
    bad = store.card.get("quarantined", 0)
    left_out = f"; {bad} clips left out, see {store.path / 'quarantine.jsonl'}" if bad else ""
    return f"{store.path}: {counts}; {len(store.classes)} classes; {' and '.join(store.modalities)}{left_out}"


def summary_table(summary: Mapping[str, float]) -> Table:
    table = Table(title="The run in numbers", title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    shown = ("best/", "test/", "test_balance/", "sufficiency/", "probe/", "time/")
    for key in sorted(k for k in summary if k.startswith(shown)):
        table.add_row(key, f"{summary[key]:.4g}")
    return table


def comparison(result: "StudyResult") -> Group:
    """The comparison in two tables that fit 80 columns: does it win, and is each modality learnt?"""
    from remix_study.report.tables import accuracy_table, sufficiency_table

    return Group(*(_drawn(table, result.reference) for table in (accuracy_table(result), sufficiency_table(result))))


def _drawn(data: "Plain", bold: str) -> Table:
    table = Table(title=data.title, title_justify="left", title_style="")
    for number, name in enumerate(data.header):
        table.add_column(name, justify="left" if number == 0 else "right", no_wrap=number == 0)
    for row in data.rows:
        table.add_row(*row, style="bold" if row[0] == bold else "")
    return table
