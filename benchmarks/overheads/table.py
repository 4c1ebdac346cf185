"""Ratios of the measured costs, for the table of `benchmarks.run`"""

import math
from collections.abc import Iterator

from benchmarks.measure import Result
from benchmarks.overheads.all_costs import costs
from benchmarks.overheads.studies import Costs


def measure(quick: bool) -> Iterator[Result]:
    """Measure all costs and yield their ratios."""
    yield from ratios(costs(quick))


def ratios(found: Costs) -> Iterator[Result]:
    """Yield the ratios of measured costs, as `costs` returns them."""
    few, many = found["driver"]["sqlite"][0], found["driver"]["sqlite"][-1]
    span = f"{many['trials']:,} recorded trials vs {few['trials']:,}"
    for what, name in (("ask_s", "ask"), ("tell_s", "tell")):
        yield Result(f"the driver's {name}, {span}", many[what] / few[what], note=_growth(few, many, what))
    most = found["running"][-1]
    yield Result(
        f"a suggestion with {most['running']:,} trials running: cached by the driver vs Optuna alone",
        most["ask_s"] / most["unremembered_s"], at_most=0.1,
    )  # fmt: skip
    for name, rows in found["samplers"].items():
        yield Result(f"{name}: a suggestion, {rows[-1]['trials']:,} trials vs {rows[0]['trials']:,}",
                     rows[-1]["ask_s"] / rows[0]["ask_s"], note=_growth(rows[0], rows[-1], "ask_s"))  # fmt: skip
    for name, pruning in found["judge"].items():
        rung = pruning["rungs"][-1]
        yield Result(f"{name}: the pruner at a rung, {rung['running']:,.0f} running, vs at another epoch",
                     rung["rung_s"] / pruning["epoch_s"])  # fmt: skip
    for name in ("sqlite", "server"):
        if name in found["mlflow"]:
            sent = found["mlflow"][name]
            yield Result(f"MLflow ({name}): sending the start and end of a run vs one epoch",
                         (sent["start_s"] + sent["end_s"]) / sent["epoch_s"])  # fmt: skip
    few, many = found["tune"][0], found["tune"][-1]
    yield Result(f"Ray Tune: a trial without a run, {many['trials']:,} trials vs {few['trials']:,}",
                 many["driver_s"] / few["driver_s"], note=_growth(few, many, "driver_s"))  # fmt: skip


def _growth(few: dict[str, float], many: dict[str, float], what: str) -> str:
    exponent = math.log(many[what] / few[what]) / math.log(many["trials"] / few["trials"])
    return f"grows as trials to the power of {exponent:.2f}"
