"""Tables of the search of a study: its trials, what was chosen, budget, cost and failures"""

from collections.abc import Mapping, Sequence

from remix_study.modality import canonical_order
from remix_study.report.run_data import Band, Cost
from remix_study.report.search_data import Budget, Failure, Work
from remix_study.report.table import Table, shown
from remix_study.report.words import unit_of
from remix_study.study.ledger import Ledger
from remix_study.units import duration, file_size


def cost_table(found: Sequence[Cost], one: str) -> Table:
    """What each method costs, divided by the cost of the method `one`; absolute times on a GPU only."""
    header = (
        "method", "training time", "multiply-adds of training", "prediction time", "training time, s",
        "prediction time, ms per clip", "peak memory of training",
    )  # fmt: skip
    rows = tuple(
        (
            c.method,
            f"{shown(c.training, 1.0, 2)} x" if c.training is not None else "",
            f"{c.multiply_adds:.2f} x" if c.multiply_adds is not None else "",
            f"{c.inference:.2f} x" if c.inference is not None else "",
            f"{c.training_s:.1f}" if c.training_s is not None else "",
            f"{1000 * c.inference_s:.3f}" if c.inference_s is not None else "",
            file_size(round(c.peak_bytes)) if c.peak_bytes is not None else "",
        )
        for c in found
    )
    title = f"Cost of a run of the chosen configuration, relative to {one}, ± half of the 95 % interval over seeds"
    return Table(title, header, rows)


def budget_table(found: Sequence[Budget], trials: int, replicates: int) -> Table:
    """The budget that each method used."""
    header = (
        "method", "trials", "complete", "pruned", "failed", "retried", "running", "replicates", "search time",
        "replicate time", "retrain time",
    )  # fmt: skip
    needed = any(b.needs for b in found)  # by one of the methods
    rows = tuple(
        (
            b.method, f"{b.trials}/{trials}" if b.replays is None else f"as {b.replays}",
            *map(str, (b.complete, b.pruned, b.failed, b.retried, b.running)),
            f"{b.replicates}/{replicates}", duration(b.search_s), duration(b.replicate_s),
            duration(b.final_s) if b.final_s else "",
            *((", ".join(b.needs), duration(b.total_s + b.needed_s)) if needed else ()),
        )
        for b in found
    )  # fmt: skip
    more = ("needs the runs of", "time with those runs") if needed else ()
    title = "Budget: finished and planned trials of each method, and their total running time"
    return Table(title, (*header, *more), rows)


def work_table(found: Sequence[Work]) -> Table:
    """The epochs, updates, samples and multiply-adds that each method was given, also of pruned and failed trials."""
    keys = {key for each in found for key in each.given}
    modalities = canonical_order({key.removeprefix("updates/") for key in keys if key.startswith("updates/")})
    shown = ("epochs", *(f"{what}/{m}" for what in ("updates", "samples") for m in modalities), "multiply_adds")
    names = (f"{what} of {m}" for what in ("updates", "samples") for m in modalities)
    header = ("method", "part", "runs", "epochs", *names, "multiply-adds")
    rows = tuple((each.method, each.part, str(each.runs), *(_count(each.given.get(key)) for key in shown))
                 for each in found)  # fmt: skip
    title = (
        "What each method was given: epochs, optimizer updates and training samples of each encoder, and multiply-adds "
        "of the encoders in training and scoring"
    )
    return Table(title, header, rows)


def _count(number: float | None) -> str:
    """`12,800`, or `3.2e+12` for large numbers."""
    return "" if number is None else f"{number:,.0f}" if number < 1e9 else f"{number:.2e}"


def chosen_table(ledger: Ledger) -> Table:
    """The chosen configuration of each method, with the validation results of its trial."""
    rows = []
    for name in ledger.study.methods:
        chosen, searched = ledger.chosen(name), ledger.study.searched(name)
        if chosen is not None and searched != name:
            rows.append((name, "", *[""] * len(ledger.study.metrics), f"as {searched}"))
        elif chosen is not None:
            # Unimodal ceilings have the first objective only.
            values = [unit_of(m).shown(v, 2) for m, v in zip(ledger.study.metrics, chosen.values, strict=False)]
            values += [""] * (len(ledger.study.metrics) - len(values))
            parameters = ", ".join(f"{path} = {_plain(value)}" for path, value in chosen.params.items())
            rows.append((name, str(chosen.number), *values, parameters or "nothing was searched"))
    header = ("method", "trial", *(unit_of(m).name for m in ledger.study.metrics), "chosen configuration")
    return Table("Configuration of each method, chosen on the validation split", header, tuple(rows))


def _plain(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def failures_table(found: Sequence[Failure]) -> Table:
    header = ("method", "stage", "cause", "times", "retried", "numbers", "reason", "folder of the first")
    rows = tuple(
        (f.method, f.stage, f.cause, str(len(f.numbers)), str(f.retried), _numbers(f.numbers), f.reason, f.folder)
        for f in found
    )
    return Table("Failed runs, grouped by reason", header, rows)


def _numbers(numbers: Sequence[int]) -> str:
    first = ", ".join(map(str, numbers[:8]))
    return f"{first} and {len(numbers) - 8} more" if len(numbers) > 8 else first


def importances_table(found: Mapping[str, Mapping[str, float]]) -> Table:
    rows = tuple((name, path, f"{100 * value:.1f}") for name, values in found.items() for path, value in values.items())
    return Table("Importance of each searched hyperparameter in %", ("method", "hyperparameter", "importance"), rows)


def trials_table(ledger: Ledger) -> Table:
    """One row per trial; `remix-study export` writes more for other tools."""
    paths = tuple(dict.fromkeys(p for trials in ledger.trials.values() for t in trials for p in t.params))
    header = ("method", "number", "state", *ledger.study.metrics, "seconds", "cause", *paths)
    rows = tuple(
        (
            name, str(t.number), f"{t.state}, diverged" if t.diverged else t.state,
            *_cells(t.values, len(ledger.study.metrics)), f"{t.seconds:.1f}",
            t.cause or "", *(str(t.params[p]) if p in t.params else "" for p in paths),
        )
        for name, trials in ledger.trials.items()
        for t in trials
    )  # fmt: skip
    return Table("All trials", header, rows)


def _cells(values: Sequence[float], wanted: int) -> tuple[str, ...]:
    """The values of the objectives; a ceiling has those of the first objective only."""
    return (*map(str, values), *("",) * (wanted - len(values)))


def curves_table(found: Mapping[str, Sequence[Band]]) -> Table:
    """The numbers of every chart over epochs, in the metric's own unit; `found[metric]` are its curves."""
    rows = tuple(
        (metric, b.method, str(epoch), f"{mean:.6g}", f"{low:.6g}", f"{high:.6g}", str(b.runs))
        for metric, bands in found.items()
        for b in bands
        for epoch, mean, low, high in zip(b.epochs, b.mean, b.low, b.high, strict=True)
    )
    return Table("Mean ± std over runs", ("metric", "method", "epoch", "mean", "low", "high", "runs"), rows)
