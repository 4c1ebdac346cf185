"""Tables of a study as plain data, for the terminal, CSV files and the report"""

# M modalities

import math
from collections.abc import Mapping, Sequence

import numpy as np

from remix_study.modality import canonical_order
from remix_study.report.table import Table, shown
from remix_study.report.words import unit_of
from remix_study.statistics import Estimate
from remix_study.study.comparison import Method, StudyResult
from remix_study.study.gain import CALIBRATED, LATE_SUM
from remix_study.study.outcomes import Paired, Verdict
from remix_study.study.sentences import p_digits


def comparison_table(result: StudyResult) -> Table:
    """Accuracy and sufficiency in one table, one row per method, all numbers in percent."""
    tables = [accuracy_table(result), _without_losses(details_table(result)), sufficiency_table(result)]
    header = [name for table in tables for name in table.header[1:]]
    empty = tuple("" for _ in tables[-1].header)  # separately trained networks have no encoder of their own
    columns = [(*table.rows, *[empty] * (len(_rows(result)) - len(table.rows))) for table in tables]
    rows = tuple(
        (rows[0][0], *(cell for row in rows for cell in row[1:]), family_text(c))
        for c, rows in zip(_rows(result), zip(*columns, strict=True), strict=True)
    )
    return Table(result.question, ("method", *header, "family"), rows)


def _without_losses(details: Table) -> Table:
    kept = details.header.index("fused head")
    return Table(details.title, details.header[:kept], tuple(row[:kept] for row in details.rows))


def accuracy_table(result: StudyResult) -> Table:
    """Test accuracy of every method, by family, in the order of `groups`; separately trained networks last."""
    header = (
        "method", "accuracy", "late sum", "calibrated late product", f"{result.reference} ahead by", "wins", "time",
    )  # fmt: skip
    slowest = _slowest(result)
    rows = (
        (
            _named(result, c),
            _percent(c, "test/accuracy") + _star(result, c) + _diverged(c),
            _mean(c, LATE_SUM),
            _calibrated(c),
            _ahead(c.ahead, result),
            _wins(c.ahead),
            _relative(c, slowest),
        )
        for c in _rows(result)
    )
    title = f"Test accuracy in %, ± half of the 95 % interval{over(result)}{_unequal(result)}"
    return Table(title, header, tuple(rows))


def details_table(result: StudyResult) -> Table:
    """Accuracies that the table of accuracies leaves out, and the cross-entropy of each prediction."""
    other, title = _other_epoch(result)
    losses = {"fused head": "", "late sum": "_late_sum", "calibrated": "_late_calibrated"}
    rows = tuple(
        (
            c.name, _mean(c, "test/balanced_accuracy"), _mean(c, other),
            *(_plain_mean(c, f"test/cross_entropy{suffix}", 1, 3) for suffix in losses.values()),
        )
        for c in _rows(result)
    )  # fmt: skip
    said = (
        f"Balanced accuracy and accuracy of the {title} in %; cross-entropy of the fused head, the late sum and the "
        "calibrated late product in nats"
    )
    return Table(said, ("method", "balanced", title, *losses), rows)


def _rows(result: StudyResult) -> list[Method]:
    """The methods in their order, and the separately trained networks."""
    return [*_ordered(result), *([result.bar.networks] if result.bar is not None else [])]


def _named(result: StudyResult, c: Method) -> str:
    """The name of a method; of separately trained networks, with the seeds that could be combined if not all could."""
    if result.bar is None or c is not result.bar.networks or not result.bar.missing:
        return c.name
    return f"{c.name} ({len(c.seeds)} of {len(c.seeds) + len(result.bar.missing)} seeds)"


def sufficiency_table(result: StudyResult) -> Table:
    """Accuracy of a linear probe on each encoder, and its ratio to the accuracy of that modality alone."""
    modalities = _modalities(result)
    header = ("method", *(name for m in modalities for name in (f"{m} probe", f"{m} sufficiency")))
    rows = (
        (c.name, *_by_modality(c, modalities, "probe/accuracy", "sufficiency/probe_ratio")) for c in _ordered(result)
    )
    title = (
        "Linear probe accuracy in %, sufficiency (its ratio to the modality alone) in %, ± half of the 95 % interval "
        "over seeds"
    )
    return Table(title, header, tuple(rows))


def calibration_table(result: StudyResult) -> Table:
    """Calibration error of each prediction, and the exponents of the calibrated late product."""
    prefix = "late_calibrated/exponent/"
    exponents = {f"exponent of {m}": f"{prefix}{m}" for m in _with_exponents(result)}
    title = (
        "Fusion and calibration: expected calibration error in % on the test split, and exponents of the calibrated "
        "late product; means over seeds"
    )
    return _of_predictions(result, title, "test/calibration_error", 100, 1, exponents)


def cross_entropy_table(result: StudyResult) -> Table:
    """Cross-entropy of each prediction."""
    title = "Fusion and calibration: cross-entropy in nats on the test split; means over seeds"
    return _of_predictions(result, title, "test/cross_entropy", 1, 3, {})


def _of_predictions(
    result: StudyResult, title: str, metric: str, scale: float, places: int, more: Mapping[str, str]
) -> Table:
    """A metric of the fused head, of the late predictions and of each head, and metrics `more` with two digits.

    Unimodal ceilings, and methods without late predictions, are left out.
    """
    late = {"late sum": f"{metric}_late_sum", "calibrated late product": f"{metric}_late_calibrated"}
    heads = {f"{m} head": f"{metric}_uni/{m}" for m in _with_exponents(result)}
    shown = {"fused head": metric, **late, **heads}
    rows = tuple(
        (
            c.name,
            *(_plain_mean(c, key, scale, places) for key in shown.values()),
            *(_plain_mean(c, key, 1, 2) for key in more.values()),
        )
        for c in _rows(result)
        if c.ceiling_of is None and any(c.estimate(key) is not None for key in late.values())
    )
    return Table(title, ("method", *shown, *more), rows)


def _with_exponents(result: StudyResult) -> tuple[str, ...]:
    prefix = "late_calibrated/exponent/"
    keys = {key for c in _rows(result) for summary in c.seeds.values() for key in summary}
    return canonical_order({key.removeprefix(prefix) for key in keys if key.startswith(prefix)})


def _plain_mean(c: Method, metric: str, scale: float, places: int) -> str:
    found = c.estimate(metric)
    return "" if found is None else f"{scale * found.mean:.{places}f}"


def heads_table(result: StudyResult) -> Table:
    """Sufficiency of the unimodal heads: in the selected epoch, and with each modality's own best epoch."""
    modalities = tuple(m for m in _modalities(result) if any(c.estimate(f"sufficiency/ratio/{m}") is not None
                                                             for c in result.others))  # fmt: skip
    header = ("method", *(f"{m}, {what}" for m in modalities for what in ("head", "sufficiency", "own best epoch")))
    rows = tuple(
        (c.name, *_by_modality(c, modalities, "test/accuracy_uni", "sufficiency/ratio", "sufficiency/own_epoch_ratio"))
        for c in _ordered(result)
        if any(c.estimate(f"test/accuracy_uni/{m}") is not None for m in modalities)
    )
    title = (
        "Unimodal heads: test accuracy in %, sufficiency (its ratio to the modality alone) in %, and the ratio of "
        "validation accuracies in each run's own best epoch of that modality; ± half of the 95 % interval, over seeds "
        "and test clips, and of the last one over seeds"
    )
    return Table(title, header, rows)


def _by_modality(c: Method, modalities: Sequence[str], accuracy: str, *ratios: str) -> list[str]:
    """For each modality, an accuracy and its ratios to that of the modality alone, which a ceiling does not have."""
    cells = []
    for m in modalities:
        cells.append(_percent(c, f"{accuracy}/{m}"))
        cells += ["" if c.ceiling_of else _percent(c, f"{ratio}/{m}") for ratio in ratios]
    return cells


def methods_table(result: StudyResult, searched: Mapping[str, int]) -> Table:
    """Test accuracy of every method. `searched[method]`: the number of trials of its search."""
    name, slowest = result.reference, _slowest(result)
    other, title = _other_epoch(result)
    failed = any(c.failed for c in result.methods)
    header = (
        "method", "test accuracy", "late sum", "calibrated late product", "95 % interval", "balanced accuracy",
        "macro-F1", title, "std over seeds", "seeds", *(["failures as 0"] if failed else []), "training time", "trials",
        "role", "family",
    )  # fmt: skip
    rows = []
    for c in _rows(result):
        spread, worst = c.spread("test/accuracy", 100), c.worst_accuracy() if c.seeds else None
        networks = result.bar is not None and c is result.bar.networks
        rows.append(
            (
                c.name,
                _mean(c, "test/accuracy") + _diverged(c),
                _mean(c, LATE_SUM),
                _calibrated(c),
                _interval(c.estimate("test/accuracy")),
                _mean(c, "test/balanced_accuracy"),
                _mean(c, "test/macro_f1"),
                _mean(c, other),
                f"{spread.std:.1f}" if spread is not None and len(c.seeds) > 1 else "",
                f"{len(c.seeds)} of {len(c.seeds) + len(c.failed)}" if c.failed else str(len(c.seeds)),
                *(["" if worst is None or networks else f"{100 * worst:.1f}"] if failed else []),
                _relative(c, slowest),
                "" if networks else str(searched.get(c.name, 0)),
                "reference" if c.name == name else "sum of ceilings" if networks else _role(c),
                family_text(c),
            )
        )
    return Table(f"Test accuracy and macro-F1 in %, means over seeds{_unequal(result)}", header, tuple(rows))


def differences_table(result: StudyResult) -> Table:
    """The reference minus every other method, with the tests; unimodal ceilings, which are not tested, last."""
    _, title = _other_epoch(result)
    header = (
        "method", f"{result.reference} ahead by", "95 % interval", "wins", "p", "p (Holm)", "p (sign flip)", "verdict",
        f"ahead by, {title}", f"verdict, {title}",
    )  # fmt: skip
    rows = []
    for c in _ordered(result):
        a, there = c.ahead, c.other_epoch
        if a is None or a.seeds == 0:
            continue
        rows.append(
            (
                c.name,
                f"{a.mean:+.1f}",
                f"{a.low:+.1f} to {a.high:+.1f}{_seeds_only(result, a)}" if math.isfinite(a.low) else "",
                _wins(a),
                _p(a.p),
                _p(a.p_holm),
                _p(a.sign_flip) if a.seeds > 1 else "",
                "" if c.ceiling_of else _VERDICTS[a.verdict],
                "" if there is None else f"{there.mean:+.1f}",
                "" if there is None or c.ceiling_of else _VERDICTS[there.verdict],
            )
        )
    title = f"Differences of test accuracy in percentage points, intervals{over(result)}{_unequal(result)}"
    return Table(title, header, tuple(rows))


def combinations_table(result: StudyResult) -> Table:
    """Combinations of methods minus each of their parts, and minus their controls, with the tests."""
    rows = [
        (each.name, part.name, part.lacks, *_tested(result, part.ahead))
        for each in result.combinations for part in (*each.parts, *each.controls)
    ]  # fmt: skip
    title = (
        "Combinations minus their parts, and methods minus their controls: test accuracy in percentage points, "
        f"intervals{over(result)}"
    )
    return Table(title, ("method", "minus", "which lacks", *_TESTS), tuple(rows))


FUSED_MINUS_SUM, BOTH_CALIBRATED = "fused head - late sum", "calibrated late products"
_TESTS = ("difference", "95 % interval", "wins", "p", "p (Holm)", "p (sign flip)", "verdict")


def _tested(result: StudyResult, a: Paired) -> tuple[str, ...]:
    """The cells of `_TESTS`."""
    if a.seeds == 0:
        return ("",) * len(_TESTS)
    return (
        f"{a.mean:+.1f}",
        f"{a.low:+.1f} to {a.high:+.1f}{_seeds_only(result, a)}" if math.isfinite(a.low) else "",
        _wins(a), _p(a.p), _p(a.p_holm), _p(a.sign_flip) if a.seeds > 1 else "", _VERDICTS[a.verdict],
    )  # fmt: skip


def bar_table(result: StudyResult) -> Table:
    """Every method minus the separately trained networks, with the tests."""
    bar = result.bar
    kinds = {} if bar is None else {FUSED_MINUS_SUM: bar.late_sum, BOTH_CALIBRATED: bar.late_calibrated}
    rows = tuple(
        (c.name, compared, *_tested(result, found[c.name]))
        for c in _ordered(result)
        for compared, found in kinds.items()
        if c.name in found
    )
    title = (
        "Methods minus separately trained unimodal networks: test accuracy in percentage points, intervals"
        f"{over(result)}"
    )
    return Table(title, ("method", "compared", *_TESTS), rows)


def readouts_table(result: StudyResult) -> Table:
    """What each method gains from the late sum of its heads, and from its calibration, with the tests."""
    rows = tuple((each.method, each.step, *_tested(result, each.ahead)) for each in result.readouts)
    title = (
        "Other predictions of the same networks: what the late sum of the unimodal heads, and its calibration, gain in "
        f"test accuracy, in percentage points, intervals{over(result)}"
    )
    return Table(title, ("method", "step", *_TESTS), rows)


def gain_table(result: StudyResult) -> Table:
    """The parts of each gain, which sum to it, with the tests."""
    rows: list[tuple[str, ...]] = []
    for each in result.gains:
        whole = _tested(result, each.whole._replace(p_holm=None))
        rows.append((each.method, "whole gain", *whole[:-1], "", each.baseline, "fused heads"))
        rows += [(each.method, part.name, *_tested(result, part.ahead), each.baseline, part.measured)
                 for part in each.parts]  # fmt: skip
    title = f"Gains over joint training in parts: test accuracy in percentage points, intervals{over(result)}"
    return Table(title, ("method", "part", *_TESTS, "over", "measured"), tuple(rows))


def _seeds_only(result: StudyResult, a: Paired) -> str:
    return "*" if result.clips is not None and a.clips is None else ""


_VERDICTS: Mapping[Verdict, str] = {
    "ahead": "ahead", "behind": "behind", "open": "not significant", "unknown": "no verdict",
}  # fmt: skip


def _interval(found: Estimate | None) -> str:
    if found is None or math.isinf(found.low):
        return ""
    limited = found.as_fraction()
    return f"{100 * limited.low:.1f} to {100 * limited.high:.1f}"


def _other_epoch(result: StudyResult) -> tuple[str, str]:
    """Metric and column title of the accuracy with the weights of the epoch that is not selected."""
    return ("test/accuracy_last", "last epoch") if result.select == "best" else ("test/accuracy_best", "best epoch")


def _unequal(result: StudyResult) -> str:
    """The keys in which methods differ; the sentence has the values and the reasons."""
    keys = [each.split(" ", 1)[0].rstrip(":") for each in result.unequal]
    return f". Not an equal comparison: methods differ in {', '.join(keys)}" if keys else ""


def over(result: StudyResult) -> str:
    """What the intervals of accuracies are over; those of single methods may be over seeds only."""
    if result.clips is None:
        return " over seeds"
    marked = result.without_predictions or result.other_clips
    return " over seeds and test clips" + (" (*: over seeds only)" if marked else "")


def _ahead(a: Paired | None, result: StudyResult) -> str:
    if a is None or a.seeds == 0:
        return ""
    return (
        f"{a.mean:+.1f} ± {(a.high - a.low) / 2:.1f}{_seeds_only(result, a)}"
        if math.isfinite(a.low)
        else f"{a.mean:+.1f}"
    )


def _star(result: StudyResult, c: Method) -> str:
    """Marks an accuracy whose interval is over seeds only, although others are over test clips, too."""
    found = c.estimate("test/accuracy")
    return "*" if result.clips is not None and found is not None and not found.over_clips else ""


def _diverged(c: Method) -> str:
    """Marks an accuracy to which diverged runs contribute."""
    return f" ({len(c.diverged)} diverged)" if c.diverged else ""


def _wins(a: Paired | None) -> str:
    return "" if a is None or a.seeds == 0 else f"{a.wins}/{a.seeds}"


def _role(c: Method) -> str:
    if c.ceiling_of is not None:
        return f"{c.ceiling_of} alone"
    return "control" if c.control_of is not None else "other"


def _p(p: float | None) -> str:
    return "" if p is None else "< 0.001" if p < 0.001 else p_digits(p)


BALANCE = (
    "test_balance/accuracy_gap",
    "test_balance/imbalance",
    "test_balance/missing_drop",
    "test_balance/abs_log_rho",
)


def balance_table(result: StudyResult) -> Table:
    """Balance metrics on the test split."""
    metrics = [m for m in BALANCE if any(c.estimate(m) is not None for c in result.methods)]
    metrics += [f"test_balance/{what}/{m}" for what in ("shapley", "utilisation") for m in _modalities(result)
                if any(c.estimate(f"test_balance/{what}/{m}") is not None for c in result.methods)]  # fmt: skip
    header = ("method", *(unit_of(m).label.replace(", test", "") for m in metrics))
    rows = tuple(
        (c.name, *(_digits(c, m) for m in metrics))
        for c in _ordered(result)
        if any(c.estimate(m) is not None for m in metrics)
    )
    return Table("Balance on the test split, mean ± half of its 95 % interval over seeds", header, rows)


def _digits(c: Method, metric: str) -> str:
    """Three significant digits of the mean, and as many decimal places for the interval."""
    found = c.estimate(metric)
    if found is None:
        return ""
    return shown(found, 1.0, 1 if abs(found.mean) >= 10 else 2 if abs(found.mean) >= 1 else 3)


def family_text(c: Method) -> str:
    """`remix + ogm_ge`: the way of training, and what is added to it."""
    return " + ".join(c.family)


def groups(result: StudyResult) -> list[list[Method]]:
    """The methods by family, in the order of the tables.

    The families are those of each way of training, the one with the best mean first; then controls; then unimodal
    ceilings. In each, the best mean is first.
    """

    def accuracy(c: Method) -> float:
        return float(np.mean(c.values("test/accuracy")))

    def group(c: Method) -> tuple[int, str]:
        if c.ceiling_of is not None:
            return (2, "")
        return (
            (1, "") if c.control_of is not None and c.name != result.reference else (0, c.family[0] if c.family else "")
        )

    found: dict[tuple[int, str], list[Method]] = {}
    for c in sorted(result.methods, key=lambda c: -accuracy(c)):
        found.setdefault(group(c), []).append(c)
    return [found[key] for key in sorted(found, key=lambda key: key[0])]


def _ordered(result: StudyResult) -> list[Method]:
    return [c for group in groups(result) for c in group]


def _modalities(result: StudyResult) -> tuple[str, ...]:
    prefix = "probe/accuracy/"
    keys = {key for c in result.others for summary in c.seeds.values() for key in summary}
    return canonical_order({key.removeprefix(prefix) for key in keys if key.startswith(prefix)})


def _seconds(c: Method) -> float | None:
    """Mean seconds of training and scoring, without evaluation; None if no replicate was timed."""
    found = [
        s["time/total_train_s"] + s.get("time/total_score_s", 0.0)
        for s in c.seeds.values()
        if "time/total_train_s" in s
    ]
    return float(np.mean(found)) if found else None


def _slowest(result: StudyResult) -> float:
    return max((s for c in result.methods if (s := _seconds(c)) is not None), default=0.0)


def _relative(c: Method, slowest: float) -> str:
    own = _seconds(c)
    return "" if own is None or slowest == 0 else f"{own / slowest:.2f}x"


def _percent(c: Method, metric: str) -> str:
    found = c.estimate(metric)
    return "" if found is None else shown(found, 100, 1)


def _mean(c: Method, metric: str) -> str:
    found = c.estimate(metric)
    return "" if found is None else f"{100 * found.mean:.1f}"


def _calibrated(c: Method) -> str:
    """The accuracy of the calibrated late product; marked if probes take the place of unimodal heads."""
    probes = c.ceiling_of is None and c.estimate(LATE_SUM) is None and c.estimate(CALIBRATED) is not None
    return _mean(c, CALIBRATED) + (" (probes)" if probes else "")
