"""Titles and captions of charts, and their rendering with plotly and as PNG"""

import json
import math
from typing import Any, get_args

import plotly.graph_objects as go
import pytest

from remix_study.figures.chart import (
    INK,
    Area,
    Axis,
    Bars,
    Chart,
    Key,
    Line,
    Mark,
    Panel,
    Points,
    Rule,
    Symbol,
    Text,
)
from remix_study.figures.png import draw, pictures
from remix_study.figures.quantities import quantities
from remix_study.figures.web import spec
from remix_study.report import run_charts, run_data, search_charts, search_data, sections
from remix_study.report.blocks import Note
from remix_study.report.styles import Styles, method_keys, styles
from remix_study.statistics import Estimate
from remix_study.study.comparison import Bar, Combination, Gain, GainPart, Method, Part, StudyResult
from remix_study.study.outcomes import Paired
from tests.unit.report.conftest import MakeStudy


@pytest.fixture
def style_of(make_study: MakeStudy) -> Styles:
    return styles(make_study())


def points(chart: Chart, panel: int = 0) -> list[Points]:
    return [mark for mark in chart.panels[panel].marks if isinstance(mark, Points)]


def lines(chart: Chart, panel: int = 0) -> list[Line]:
    return [mark for mark in chart.panels[panel].marks if isinstance(mark, Line)]


def mean(value: float, half: float) -> Estimate:
    """A mean whose 95 % interval is `value` ± `half`."""
    return Estimate(value, value - half, value + half, None, 4.0, True)


RESULT = StudyResult("s", "q", "remix", (), {}, (), "")
PROGRESS = search_data.Progress("remix", (0, 2), (0.5, 0.75), (0, 2), (0.5, 0.75), (1, 4), (3,), 4, 2)


# --- titles, captions and marks --------------------------------------------------------------------------------------


def test_every_method_has_its_own_style_also_without_colour(make_study: MakeStudy) -> None:
    many = styles(make_study(methods={"remix": {}, **{f"m{n}": {} for n in range(20)}}))
    assert len(set(many.values())) == 21
    assert next(iter(many)) == "remix"
    assert len({(style.symbol, style.dash) for style in many.values()}) == 21 or len(many) > 8
    assert all(a.symbol != b.symbol for a, b in zip(list(many.values())[:7], list(many.values())[1:8], strict=True))
    keys = method_keys(["m3", "remix", "m3"], many, lines=True)
    assert [key.name for key in keys] == ["remix", "m3"]
    assert keys[1].colour == many["m3"].colour


def test_history_separates_trials_with_and_without_a_value(style_of: Styles) -> None:
    chart = search_charts.history([PROGRESS], "best/val_accuracy", "maximize", style_of)
    assert chart is not None
    assert chart.title == "Best trial: remix, trial 2, 75.0 % (validation)"
    (complete,), (best,) = points(chart), lines(chart)
    assert (complete.x, complete.y) == ((0, 2), (50, 75))
    assert (best.x, best.y, best.step) == ((0, 2, 4), (50, 75, 75), True)
    assert [(p.symbol, p.x) for p in points(chart, 1)] == [("tick", (1, 4)), ("x", (3,))]
    assert chart.panels[1].y.categories == ("remix",)
    assert chart.panels[0].x == chart.panels[1].x
    assert {key.name for key in chart.legend} == {"remix", "pruned", "failed"}


def test_history_of_a_minimised_objective(style_of: Styles) -> None:
    other = PROGRESS._replace(method="joint", values=(0.4, 0.2), best=(0.4, 0.2), pruned=(), failed=())
    chart = search_charts.history([PROGRESS, other], "best/val_cross_entropy", "minimize", style_of)
    assert chart is not None
    assert chart.title.startswith("Best trial: joint, trial 2, 0.2 nats")
    nothing = PROGRESS._replace(numbers=(), values=(), best_numbers=(), best=())
    assert search_charts.history([nothing], "best/val_accuracy", "maximize", style_of) is None


def test_captions_of_thinned_charts_say_how_much_is_shown(style_of: Styles) -> None:
    chart = search_charts.history([PROGRESS._replace(total=9000)], "best/val_accuracy", "maximize", style_of)
    assert chart is not None
    assert chart.caption.endswith("Showing 2 of 9,000 points: evenly selected.")
    part = search_data.Slice("a", "linear", (), (0.0, 1.0), {"remix": ((0.5,), (0.5,))}, 1, 5000)
    cut = search_charts.slices([part], "best/val_accuracy", style_of)
    assert cut is not None
    assert "Showing 1 of 5,000 points: the best ones and an even selection of the others." in cut.caption


def test_significant_differences_have_filled_markers(style_of: Styles) -> None:
    found = [
        run_data.Difference("joint", Paired(5.0, 1.0, 3.0, 7.0, 5, 5, 99, None, 0.001, 0.002)),
        run_data.Difference("joint", Paired(1.0, 1.0, 0.1, 1.9, 4, 5, 99, None, 0.04, 0.08)),
    ]
    chart = run_charts.differences(found, RESULT, style_of)
    assert chart is not None
    assert chart.title == "1 of 2 differences from remix significant"
    assert [p.hollow for p in points(chart)] == [False, True]
    assert points(chart)[0].error == ((2.0, 2.0),)
    assert "Holm p = 0.002" in points(chart)[0].labels[0]
    assert run_charts.differences([], RESULT, style_of) is None


def test_differences_without_a_verdict_have_hollow_markers(style_of: Styles) -> None:
    few = run_data.Difference("joint", Paired(2.5, 0.0, 1.0, 4.0, 3, 3, 99, None, 0.01, 0.01))
    chart = run_charts.differences([few], RESULT, style_of)
    assert chart is not None
    assert (points(chart)[0].error, points(chart)[0].hollow) == (((1.5, 1.5),), True)
    assert chart.title == "0 of 1 difference from remix significant"
    assert "no verdict (fewer than 5 seeds)" in chart.caption


def test_combinations_have_a_row_for_each_part_in_the_style_of_the_whole(style_of: Styles) -> None:
    better = Paired(2.0, 1.0, 1.0, 3.0, 5, 5, 99, None, 0.001, 0.002)
    parts = (Part("joint", "remix", better), Part("gone", "x", better._replace(seeds=1)))
    result = RESULT._replace(combinations=(Combination("remix", parts),), comparisons=3)
    chart = run_charts.combinations(result, style_of)
    assert chart is not None
    assert chart.title == "0 of 1 combination significantly better than each part"
    assert chart.panels[0].y.categories == ("remix\nminus joint",)
    (point,) = points(chart)
    assert (point.colour, point.hollow, point.labels[0][:19]) == (
        style_of["remix"].colour,
        False,
        "remix minus joint: ",
    )
    assert "3 comparisons with remix and of combinations with their parts" in chart.caption
    assert run_charts.combinations(RESULT, style_of) is None
    chart = run_charts.combinations(result._replace(combinations=(Combination("remix", parts[:1]),)), style_of)
    assert chart is not None
    assert chart.title == "1 of 1 combination significantly better than each part"


def test_a_gain_has_a_row_for_the_whole_and_each_part(style_of: Styles) -> None:
    whole = Paired(2.0, 1.0, 1.0, 3.0, 5, 5, 99, None, 0.001, 0.002)
    open_ = whole._replace(mean=0.2, low=-0.5, p_holm=0.5)
    parts = (GainPart("one modality per sample", "", open_), GainPart("fusion", "", whole._replace(mean=1.8)))
    gain = Gain("remix", "joint", whole, parts, ())
    chart = run_charts.gains(RESULT._replace(gains=(gain,)), style_of)
    assert chart is not None
    assert chart.title == "remix over joint: +2.0 points, of which +1.8 by fusion"
    assert chart.panels[0].y.categories == ("remix over\njoint", "one modality per\nsample", "fusion")
    assert [point.hollow for point in points(chart)] == [False, True, False]
    many = run_charts.gains(RESULT._replace(gains=(gain,) * 11), style_of)
    assert many is not None
    assert len(many.panels) == 8
    assert many.caption.endswith("8 of 11 methods; tables/gains.csv has all.")
    assert run_charts.gains(RESULT, style_of) is None
    none = RESULT._replace(gains=(gain._replace(whole=whole._replace(seeds=1)),))
    assert run_charts.gains(none, style_of) is None


def test_separate_networks_are_lines_across_accuracies_and_a_chart_of_differences(style_of: Styles) -> None:
    better = Paired(2.0, 1.0, 1.0, 3.0, 5, 5, 99, None, 0.001, 0.002)
    networks = Method("separate networks", {}, {0: {"test/accuracy_late_sum": 0.7}}, None, None, None)
    bar = Bar(networks, {}, {"joint": better._replace(mean=-1.0, low=-2.0, high=-0.5), "remix": better}, {})
    result = RESULT._replace(bar=bar)
    chart = run_charts.separate_networks(result, style_of)
    assert chart is not None
    assert chart.title == "Significantly better than separately trained networks: 1 of 2 fused heads"
    calibrated = run_charts.separate_networks(
        RESULT._replace(bar=bar._replace(late_calibrated={"remix": better})), style_of
    )
    assert calibrated is not None
    assert calibrated.title.endswith("1 of 2 fused heads, 1 of 1 calibrated late product")
    assert [panel.y.categories for panel in chart.panels] == [("remix", "joint")]
    row = run_data.Accuracies("remix", (0,), (0.8,), mean(0.8, 0.1), None)
    accuracies = run_charts.accuracies([row], result, style_of)
    assert accuracies is not None
    assert accuracies.panels[0].marks[0] == Rule(70.0, INK, "dot")
    assert [key.name for key in accuracies.legend] == ["separate networks, late sum"]
    assert run_charts.separate_networks(RESULT, style_of) is None


def test_what_a_method_did_is_a_chart_whose_title_names_its_last_quantity(style_of: Styles) -> None:
    def band(method: str, *values: float) -> run_data.Band:
        return run_data.Band(method, tuple(range(len(values))), values, values, values, 2)

    history = {f"method/ogm/{what}/{m}": 0.0 for m in ("audio", "video") for what in ("ratio", "factor")}
    (listed,) = quantities([history]).values()
    found = [(each, (band("joint", 0.5, 0.75), band("remix", 0.25))) for each in listed]
    chart = run_charts.what_method_did("ogm", found, "Two runs.", style_of)
    assert chart is not None
    assert (chart.key, chart.title) == (
        "method-ogm", "What ogm did in remix: factor 0.25 for audio, 0.25 for video, mean over epochs",
    )  # fmt: skip
    assert [panel.y.title for panel in chart.panels] == [
        "ratio of audio", "ratio of video", "factor of audio", "factor of video",
    ]  # fmt: skip
    assert [key.name for key in chart.legend] == ["remix", "joint"]
    assert run_charts.what_method_did("ogm", [(each, ()) for each in listed], "", style_of) is None


def test_intervals_are_error_bars_and_one_seed_has_none(style_of: Styles) -> None:
    rows = (run_data.Head("remix", mean(0.7, 0.1), mean(0.8, 0.05)), run_data.Head("joint", mean(0.6, math.inf), None))
    chart = run_charts.heads([run_data.Heads("video", rows, None, None)], style_of)
    assert chart is not None
    assert [p.error for p in points(chart)] == [(pytest.approx((10, 10)),), (pytest.approx((5, 5)),), ()]
    assert [p.labels[0].split(": ")[1] for p in points(chart)] == [
        "70.0 (60.0 to 80.0) %", "80.0 (75.0 to 85.0) %", "60.0 %",
    ]  # fmt: skip


def test_the_title_names_the_lowest_sufficiency() -> None:
    rows = (run_data.Head("remix", None, mean(0.79, 0.01), 0.99), run_data.Head("joint", None, mean(0.4, 0.01), 0.5))
    head = run_data.Heads("video", rows, 0.9, 0.8)
    assert run_charts.weakest([head]) == "Lowest sufficiency: the video probe of joint reaches 50 % of video alone"
    assert run_charts.weakest([head._replace(rows=rows[:1])]).startswith("Every encoder reaches at least 98 %")
    unknown = tuple(row._replace(sufficiency=None) for row in rows)
    assert run_charts.weakest([head._replace(rows=unknown)]) == "Test accuracy of each encoder"


def test_the_title_names_a_method_only_if_its_imbalance_stands_out(style_of: Styles) -> None:
    def title(*rows: tuple[str, Estimate]) -> str:
        chart = run_charts.balance([run_data.Measured("test_balance/imbalance", rows)], style_of)
        assert chart is not None
        return chart.title

    remix = ("remix", mean(0.1, 0.05))
    assert title(remix, ("joint", mean(0.4, 0.1))).startswith("joint is the least balanced: imbalance 0.40")
    assert title(remix, ("joint", mean(0.2, 0.1))) == "Balance of the modalities"
    one_seed = ("joint", mean(0.4, math.inf))
    assert title(("remix", mean(0.1, math.inf)), one_seed) == "Balance of the modalities"


def test_bands_are_drawn_for_more_than_one_run(style_of: Styles) -> None:
    one = run_data.Band("remix", (0, 1), (0.5, 0.6), (0.5, 0.6), (0.5, 0.6), 1)
    several = run_data.Band("joint", (0, 1), (0.5, 0.6), (0.4, 0.5), (0.6, 0.7), 3)
    chart = run_charts.over_epochs("k", "t", "c", [("val/accuracy", [one, several]), ("val/none", [])], style_of)
    assert chart is not None
    (panel,) = chart.panels
    assert panel.y.title == "validation accuracy (%)"
    assert [type(mark) for mark in panel.marks] == [Line, Area, Line]
    area = panel.marks[1]
    assert isinstance(area, Area)
    assert area.low == pytest.approx((40, 50))
    assert run_charts.over_epochs("k", "t", "c", [("val/accuracy", [])], style_of) is None


def test_what_was_planned_is_a_thin_line_beside_what_happened(style_of: Styles) -> None:
    happened = run_data.Band("remix", (0, 1), (0.5, 0.6), (0.5, 0.6), (0.5, 0.6), 1)
    planned = {"remix/share/audio": [happened._replace(mean=(0.4, 0.4))]}
    chart = run_charts.over_epochs("k", "t", "c", [("remix/share/audio", [happened])], style_of, planned=planned)
    assert chart is not None
    line, thin = chart.panels[0].marks
    assert isinstance(line, Line)
    assert isinstance(thin, Line)
    assert thin.y == pytest.approx((40, 40))
    assert thin.width < line.width
    assert thin.name == "remix, planned"


def test_scores_show_median_and_quantiles(style_of: Styles) -> None:
    def band(*means: float) -> list[run_data.Band]:
        return [run_data.Band("remix", tuple(range(len(means))), means, means, means, 2)]

    found = {
        "audio": {"q10": band(0.1, 0.2), "q50": band(1.0, 2.0), "q90": band(2.0, 3.0)},
        "video": {"q10": band(0.1, 0.2), "q50": band(0.5, 1.0), "q90": band(2.0, 3.0)},
    }
    chart = run_charts.scores(found, [("remix/margin", band(0.2, 0.3))], "bits", style_of)
    assert chart is not None
    assert chart.title == "remix scores lowest on video: median 1.00 in the last epoch, 2.00 for audio"
    assert [panel.y.title for panel in chart.panels] == [
        "score of audio (bits)", "score of video (bits)", "mean margin between the two lowest scores (bits)",
    ]  # fmt: skip
    assert [line.dash for line in lines(chart)] == ["dot", "solid", "dot"]
    assert run_charts.scores({"audio": {}}, [], "bits", style_of) is None


def test_the_title_of_shares_is_about_the_last_epoch() -> None:
    def band(method: str, *means: float) -> run_data.Band:
        return run_data.Band(method, tuple(range(len(means))), means, means, means, 2)

    shares = {"audio": [band("remix", 0.5, 0.3)], "video": [band("remix", 0.5, 0.6)]}
    assert run_charts.shares_title(shares, [band("remix", 1.0, 0.1)]) == (
        "remix, last epoch: 30 % train audio alone, 60 % train video alone and 10 % train all modalities"
    )
    assert run_charts.shares_title({"audio": []}, []) == "Assignment of samples to modalities"


def test_gradient_directions_are_named_by_the_lowest_mean() -> None:
    def band(method: str, *means: float) -> run_data.Band:
        return run_data.Band(method, tuple(range(len(means))), means, means, means, 2)

    c1 = {"audio": [band("remix", 0.9, 0.7), band("joint_unimodal", 0.8)], "video": [band("joint_unimodal", 0.2, 0.4)]}
    assert run_charts.directions_title(c1) == (
        "The fused and the unimodal loss agree least in joint_unimodal: mean cosine 0.30 for video"
    )
    assert run_charts.directions_title({"audio": []}) == "Directions of gradients"


def test_what_controllers_of_shares_read_is_drawn_beside_the_shares(style_of: Styles) -> None:
    read = {"remix/share_gain/audio": 0.1, "remix/exponent/audio": 0.9, "remix/control_cross_entropy/audio": 1.2}
    record = {"val/accuracy": 0.5, "remix/share/audio": 0.4}
    runs = [run_data.Runs("remix", "replicates", ([record, record | read],), (), "kl"),
            run_data.Runs("joint", "replicates", ([record],), (), None)]  # fmt: skip
    found, curves = sections._training(runs, ("audio",), style_of)
    (chart,) = [block for block in found.blocks if isinstance(block, Chart) and block.key == "assignment"]
    assert [panel.y.title for panel in chart.panels][-3:] == [
        "drop of the loss that the share of audio follows (nats)",
        "exponent of audio on the control split (1 in the late sum)",
        "control cross-entropy of the audio head (nats)",
    ]
    assert {name: [band.method for band in curves[name]] for name in read} == {name: ["remix"] for name in read}


@pytest.mark.parametrize("measured", [False, True])
def test_a_remix_study_shows_gradient_directions_or_says_how_to_measure_them(measured: bool, style_of: Styles) -> None:
    record = {"val/accuracy": 0.5, "remix/share/audio": 0.4, "balance/imbalance": 0.1}
    clash = {f"clash/{name}/audio": v for name, v in (("c1", 0.5), ("c1_negative", 0.25), ("c2", 0.9))}
    runs = [run_data.Runs("remix", "replicates", ([record | (clash if measured else {})],), (), "kl")]
    found, curves = sections._training(runs, ("audio",), style_of)
    charts = {block.key: block for block in found.blocks if isinstance(block, Chart)}
    notes = [block.text for block in found.blocks if isinstance(block, Note)]
    assert {"assignment", "balance-epochs"} <= set(charts)  # the allocation and the imbalance over epochs
    assert ("directions" in charts) == measured == (not any("clash_every" in note for note in notes))
    assert {metric for metric in curves if metric.startswith("clash/")} == (set(clash) if measured else set())
    if measured:
        assert [panel.y.title for panel in charts["directions"].panels] == [
            "cosine of the fused and the unimodal gradient of audio (-1 to 1)",
            "cosine of the gradients of audio with all modalities and alone (-1 to 1)",
            "steps with a negative cosine, fused and unimodal, audio (%)",
        ]


def test_importances_name_methods_without_them(style_of: Styles) -> None:
    chart = search_charts.importances(
        {"remix": {"rate": 0.75, "order": 0.25}},
        {"joint": "too few", "a": "too few"},
        ["fANOVA"],
        "val/accuracy",
        style_of,
    )
    assert chart is not None
    assert chart.title == "rate is the most important hyperparameter for 1 of 1 method"
    assert chart.panels[0].y.categories == ("rate", "order")
    assert points(chart)[0].x == (75, 25)
    assert chart.caption.endswith("Not available for joint and a: too few.")
    assert search_charts.importances({}, {"joint": "too few"}, [], "val/accuracy", style_of) is None


def test_parallel_lines_break_between_trials_and_at_missing_hyperparameters() -> None:
    axes = (
        search_data.ParallelAxis("a", True, ((0.0, "1"), (1.0, "2"))),
        search_data.ParallelAxis("val/accuracy", False, ()),
    )
    found = search_data.Parallel("remix", axes, (0.5, 0.9), ((0.0, 1.0), (None, 0.5)), ("best", "best"), 2)
    chart = search_charts.parallels([found])
    assert chart is not None
    (line,) = lines(chart)
    assert (line.x, line.y) == ((0, 1, 1, 0, 1, 1), (0.0, 1.0, None, None, 0.5, None))
    words = [mark.text for mark in chart.panels[0].marks if isinstance(mark, Text)]
    assert words == ["1", "2", "50.0 %", "90.0 %"]


def test_the_front_is_a_line_and_the_chosen_trial_a_star(style_of: Styles) -> None:
    front = search_data.Front("remix", (0, 1, 2), (0.9, 0.8, 0.85), (0.5, 0.6, 0.1), (2, 0), 2, 30)
    chart = search_charts.fronts([(("val/accuracy", "best/balance_imbalance"), [front])], style_of)
    assert chart is not None
    assert chart.title == "On the Pareto front: 2 of 30 for remix"
    assert "3 of 30 points" in chart.caption
    (line,) = lines(chart)
    assert line.x == pytest.approx((85, 90))
    assert line.y == (0.1, 0.5)
    star = points(chart)[1]
    assert star.symbol == "star"
    assert star.x == pytest.approx((85,))
    assert star.y == (0.1,)
    assert search_charts.fronts([], style_of) is None


def test_time_is_stacked_in_a_readable_unit() -> None:
    budget = search_data.Budget("remix", 1, 0, 0, 0, 0, 1, 3 * 3600.0, 3600.0, 0.0)
    chart = search_charts.seconds([budget], [run_data.Parts("remix", 1.0, 5.0, 2.0, 0.0)])
    assert chart is not None
    assert chart.title == "The search took 75 % of 4.0 h of running time"
    stages, parts = ([m for m in panel.marks if isinstance(m, Bars)] for panel in chart.panels)
    assert [(bar.name, bar.values) for bar in stages] == [("search", (3.0,)), ("replicates", (1.0,))]
    assert [(bar.name, bar.values) for bar in parts] == [
        ("scoring", (1.0,)),
        ("training", (5.0,)),
        ("evaluation", (2.0,)),
    ]
    assert search_charts.seconds([budget._replace(search_s=0.0, replicate_s=0.0)], []) is None


# --- drawing ---------------------------------------------------------------------------------------------------------

MARKS: tuple[Mark, ...] = (
    Line((1, 2, 3), (1.0, None, 2.0), "#0072B2", "dash", "square", step=True, name="a", method="remix"),
    Area((1, 2), (0.0, 1.0), (2.0, 3.0), "#D55E00"),
    *(Points((n + 1,), (1.0,), "#009E73", symbol) for n, symbol in enumerate(get_args(Symbol))),
    Points((1, 2), (1.0, 2.0), "#009E73", "circle", hollow=True, error=((0.5, 0.5), (1.0, 2.0)), labels=("x", "y")),
    Rule(2.0),
    Text(1.0, 1.0, "word"),
)
PANELS = (
    Panel("numbers", Axis("x (s)", log=True, range=(0.5, 100.0)), Axis("y (%)"), MARKS, wide=True),
    Panel("", Axis("whole", integer=True), Axis("y", ticks=((1.0, "one\ntwo"),), grid=False), MARKS),
    Panel("", Axis("", categories=("p", "q")), Axis("y"), (Points(("p", "q"), (1.0, 2.0), INK, "star"),)),
    Panel(
        "", Axis("time (s)"), Axis("", categories=("m", "n")),
        (Bars(("m", "n"), (1.0, 2.0), "#0072B2", "/", "one"), Bars(("m", "n"), (3.0, 0.0), "#E69F00", "", "two")),
    ),
)  # fmt: skip
CHART = Chart("k", "A title " * 20, "c", PANELS, (Key("a", INK, "circle", "dash"), Key("b", "#0072B2", hatch="x")))


@pytest.mark.parametrize("panel", PANELS)
def test_plotly_accepts_every_panel(panel: Panel) -> None:
    """Named colours of the page are resolved when the page draws them."""
    made = spec(panel)
    text = json.dumps(made, allow_nan=False)
    for placeholder in ("ink", "quiet", "paper", "grid"):
        text = text.replace(f"@{placeholder}", "#123456")
    whole: dict[str, Any] = json.loads(text)
    figure = go.Figure(whole)  # raises for properties and values that plotly does not have
    drawn = [mark for mark in panel.marks if not isinstance(mark, Rule | Text)]
    assert len(figure.data) == len(drawn)
    assert len(figure.layout.shapes) == sum(isinstance(mark, Rule) for mark in panel.marks)
    assert len(figure.layout.annotations) == sum(isinstance(mark, Text) for mark in panel.marks)


def test_the_range_of_a_log_axis_is_in_powers_of_ten() -> None:
    axis = spec(PANELS[0])["layout"]["xaxis"]
    assert axis["type"] == "log"
    assert axis["range"] == pytest.approx([math.log10(0.5), 2], abs=1e-5)


def test_user_text_is_escaped_and_nan_is_omitted() -> None:
    marks = (Points((math.inf, 1.23456789), ("<b>a</b>", "b"), INK, "circle", labels=("<i>", "&")),)
    made = spec(Panel("", Axis("<u>x"), Axis("", categories=("<b>a</b>", "b")), marks))
    (trace,) = made["data"]
    assert trace["x"] == [None, 1.23457]
    assert trace["y"] == ["&lt;b&gt;a&lt;/b&gt;", "b"] == made["layout"]["yaxis"]["categoryarray"]
    assert trace["text"] == ["&lt;i&gt;", "&amp;"]
    assert made["layout"]["xaxis"]["title"]["text"] == "&lt;u&gt;x"


def test_integer_axes_have_integer_ticks() -> None:
    def step(last: int) -> float:
        marks = (Line((0, last), (0.0, 1.0), INK),)
        return float(spec(Panel("", Axis("epoch", integer=True), Axis("y"), marks))["layout"]["xaxis"]["dtick"])

    assert [step(n) for n in (1, 7, 14, 60, 600)] == [1, 1, 2, 10, 100]


def test_a_picture_has_every_panel_with_names_and_units() -> None:
    figure = draw(CHART)
    assert len(figure.axes) == len(PANELS)
    first, _, third, bars = figure.axes
    assert (first.get_xlabel(), first.get_title(loc="left"), first.get_xscale()) == ("x (s)", "numbers: y (%)", "log")
    assert [label.get_text() for label in third.get_xticklabels()] == ["p", "q"]
    assert [patch.get_extents().x0 for patch in bars.patches[:2]] == [bars.patches[0].get_extents().x0] * 2
    assert bars.patches[2].get_extents().x0 == pytest.approx(bars.patches[0].get_extents().x1)  # stacked
    assert figure.legends[0].get_texts()[1].get_text() == "b"


@pytest.mark.slow
def test_the_plain_picture_lacks_only_the_title() -> None:
    titled, plain = pictures(CHART)
    assert titled.startswith(b"\x89PNG")
    sizes = [tuple(int.from_bytes(png[i : i + 4]) for i in (16, 20)) for png in (titled, plain)]
    assert abs(sizes[0][0] - sizes[1][0]) <= 1
    assert 20 < sizes[0][1] - sizes[1][1] < 120


@pytest.mark.parametrize("letters", [5, 24])
def test_the_legend_of_many_methods_leaves_room_for_the_panels(letters: int) -> None:
    panel = Panel("", Axis("epoch"), Axis("accuracy"), (Line((0, 1), (0.1, 0.9), "#0072B2"),))
    legend = tuple(Key(f"{n:0{letters}}", "#0072B2", "circle") for n in range(70))
    figure = draw(CHART._replace(panels=(panel, panel), legend=legend))
    figure.draw_without_rendering()
    inches = figure.dpi_scale_trans.inverted()
    drawn = figure.legends[0].get_window_extent().transformed(inches)
    assert drawn.x0 >= 0
    assert drawn.x1 <= figure.get_figwidth()
    for axes in figure.axes:
        place = axes.get_window_extent().transformed(inches)
        assert place.height > 1.5
        assert place.y0 > drawn.y1
