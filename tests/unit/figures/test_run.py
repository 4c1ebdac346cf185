import io
import sys

import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from remix_study.figures.run import (
    MethodResults,
    assignment,
    comparison,
    draw_assignment,
    draw_comparison,
    draw_learning_curves,
    draw_score_histograms,
    draw_what_methods_did,
    learning_curves,
    schedules,
    score_histograms,
    what_methods_did,
)

MODALITIES = ("audio", "video")
HISTORY = [
    {"val/accuracy": 0.3, "val/accuracy_uni/audio": 0.3, "val/accuracy_uni/video": 0.2},
    {
        "val/accuracy": 0.6,
        "val/accuracy_uni/audio": 0.5,
        "val/accuracy_uni/video": 0.4,
        "val/accuracy_late_sum": 0.55,
        "remix/share/audio": 0.3,
        "remix/share/video": 0.5,
        "remix/joint_share": 0.1,
        "remix/churn": 0.2,
    },
    {"val/accuracy": 0.5, "remix/share/audio": 0.25, "remix/share/video": 0.75},
]


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def words(figure: Figure) -> str:
    suptitle = figure.get_suptitle()
    return " ".join([suptitle, *(text.get_text() for axes in figure.axes for text in axes.texts)])


def test_learning_curves_mark_the_best_epoch() -> None:
    data = learning_curves(HISTORY, MODALITIES)
    assert data.best_epoch == 1
    assert data.title == "Best at epoch 1: 60 % fused, 50 % from audio alone, 40 % from video alone"
    assert data.late_sum is not None
    assert data.late_sum.epochs == [1]
    assert data.heads["audio"].values == [0.3, 0.5]
    figure = draw_learning_curves(data)
    assert all(name in words(figure) for name in ("fused", "audio head", "video head", "late sum"))
    assert png(figure).startswith(b"\x89PNG")


def test_a_resumed_history_keeps_its_epochs() -> None:
    assert learning_curves([{"epoch": 7.0, "val/accuracy": 0.1}], MODALITIES).fused.epochs == [7]


def test_line_labels_do_not_overlap() -> None:
    history = [{"val/accuracy": 0.5, "val/accuracy_uni/audio": 0.5, "val/accuracy_uni/video": 0.5}] * 2
    figure = draw_learning_curves(learning_curves(history, MODALITIES))
    png(figure)
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_shares_of_the_assignment_add_up_to_one() -> None:
    data = assignment(HISTORY, MODALITIES, warmup_epochs=1)
    assert data.epochs == [1, 2]
    assert data.untrained == pytest.approx([0.1, 0.0])
    assert data.churn is not None
    assert data.churn.epochs == [1]
    totals = np.sum([*data.shares.values(), data.joint, data.untrained], axis=0)
    assert totals == pytest.approx([1.0, 1.0])
    assert data.title == "Remix: audio trains 25 % of the samples in the last epoch, video 75 %"
    assert "warm-up" in words(draw_assignment(data))


def test_planned_shares_are_drawn_beside_those_that_happened() -> None:
    plan = {"schedule/share/audio": 0.25, "schedule/share/video": 0.5, "schedule/joint_share": 0.25}
    history = [*HISTORY, {**HISTORY[-1], "epoch": len(HISTORY), **plan}]
    data = assignment(history, MODALITIES, warmup_epochs=1)
    assert [(line.name, line.epochs, line.values) for line in data.planned] == [
        ("audio", [len(HISTORY)], [0.25]), ("video", [len(HISTORY)], [0.75]),
    ]  # fmt: skip
    assert png(draw_assignment(data)) != png(draw_assignment(data._replace(planned=())))
    assert assignment(HISTORY, MODALITIES).planned == ()


def test_schedules_have_a_panel_each_and_a_line_for_each_modality() -> None:
    history = [{"schedule/weight/audio": 1.0 - e / 4, "schedule/weight/video": 1.0, "schedule/filter/threshold": e,
                "schedule/share/audio": 0.5, "schedule/phase": 1.0} for e in range(4)]  # fmt: skip
    data = schedules(history, MODALITIES)
    assert {panel.label: list(panel.parts) for panel in data.panels} == {
        "weight": ["audio", "video"], "filter threshold": [""],
    }  # fmt: skip
    assert data.panels[0].parts["audio"].values == [1.0, 0.75, 0.5, 0.25]


def test_every_score_is_counted_once() -> None:
    scores_NM = np.random.default_rng(0).random((200, 2)) * [[1.0, 2.0]]
    scores_NM[3, 0] = np.nan
    labels_N = np.arange(200) % 5
    whole = score_histograms(scores_NM, MODALITIES)
    assert (whole.counts[""]["audio"].sum(), whole.counts[""]["video"].sum()) == (199, 200)
    assert whole.title.startswith("Highest separability from video")
    by_class = score_histograms(scores_NM, MODALITIES, labels_N, list("abcde"))
    assert list(by_class.counts) == list("abcde")
    assert sum(int(counts["video"].sum()) for counts in by_class.counts.values()) == 200
    assert len(draw_score_histograms(whole).axes) == 1
    assert sum(axes.get_visible() for axes in draw_score_histograms(by_class).axes) == 5


def test_the_comparison_is_sorted_and_has_a_title() -> None:
    remix = MethodResults("remix", [0.80, 0.82, 0.81], {"audio": [0.7, 0.7, 0.7], "video": [0.6, 0.6, 0.6]})
    joint = MethodResults("joint", [0.70, 0.71, 0.69], {})
    data = comparison([joint, remix])
    assert [result.method for result in data.methods] == ["remix", "joint"]
    assert data.title == "remix leads with 81 %, 11.0 points above joint"
    figure = draw_comparison(data)
    assert "81.0 ± 1.0 %" in words(figure)
    dots = [item for item in figure.axes[0].collections if isinstance(item, PathCollection)]
    assert [np.shape(item.get_offsets()) for item in dots] == [(3, 2), (3, 2)]
    assert png(figure).startswith(b"\x89PNG")


def test_three_modalities_have_one_order_and_titles_fit() -> None:
    """Titles that name every modality were cut at the right; probes had other colours than shares had."""
    names = ("audio", "video", "text")
    history = [
        {
            "val/accuracy": 0.8,
            **{f"val/accuracy_uni/{m}": 0.5 for m in names},
            **{f"remix/share/{m}": 0.3 for m in names},
        }
    ] * 2
    scores_NM = np.random.default_rng(0).random((40, 3))
    methods = [MethodResults("remix", [0.9], {m: [0.8] for m in sorted(names)})]
    figures = [
        draw_learning_curves(learning_curves(history, names)),
        draw_assignment(assignment(history, names)),
        draw_score_histograms(score_histograms(scores_NM, names)),
        draw_score_histograms(score_histograms(scores_NM, names, np.arange(40) % 2, ["no", "yes"])),
        draw_comparison(comparison(methods)._replace(title="remix: level with " + " and ".join(["another one"] * 8))),
    ]
    for figure in figures:
        png(figure)
        title = figure._suptitle  # type: ignore[attr-defined]  # matplotlib has no other way
        box = title.get_window_extent()
        assert box.x1 <= figure.bbox.width
        assert not any(legend.get_window_extent().overlaps(box) for legend in figure.legends)
    legend = figures[-1].axes[1].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["audio", "video", "text"]


def test_a_difference_within_the_seeds_deviation_is_not_a_lead() -> None:
    close = [MethodResults("remix", [0.80, 0.90], {}), MethodResults("joint", [0.84, 0.84], {})]
    assert "No clear difference" in comparison(close).title
    assert "reaches" in comparison(close[:1]).title
    assert len(draw_comparison(comparison(close)).axes) == 1


def test_missing_data_raises() -> None:
    with pytest.raises(ValueError, match="val/accuracy"):
        learning_curves([{"train/loss": 1.0}], MODALITIES)
    with pytest.raises(ValueError, match="has not used Remix yet"):
        assignment([{"val/accuracy": 1.0}], MODALITIES)
    with pytest.raises(ValueError, match=r"\(N, 2\)"):
        score_histograms(np.zeros((4, 3)), MODALITIES)
    with pytest.raises(ValueError, match="at least one"):
        comparison([])


def test_no_global_figure_state_is_used() -> None:
    draw_comparison(comparison([MethodResults("remix", [0.8], {})]))
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


def test_quantities_of_added_methods_have_a_panel_each_and_a_line_for_each_modality() -> None:
    acted = {"method/a/ratio/video": 2.0, "method/a/factor/video": 0.5, "method/a/ratio/audio": 1.0}
    more = {"method/a/factor/audio": 1.0, "method/b/heads": 3.0, "method/b/cross_entropy/fused": 0.25}
    data = what_methods_did([{"train/loss": 1.0}, acted | more, acted], MODALITIES)
    assert [panel.label for panel in data.panels] == ["a: ratio", "a: factor", "b: heads", "b: cross-entropy (nats)"]
    assert data.panels[1].parts["video"].epochs == [1, 2]
    assert set(data.panels[2].parts) == {""}
    assert data.title == (
        "a: factor 0.5 for video, 1 for audio; b: cross-entropy 0.25 nats for fused (means over epochs)"
    )
    figure = draw_what_methods_did(data)
    assert [len(axes.lines) for axes in figure.axes] == [2, 2, 1, 1]
    assert png(figure).startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="no added method has acted yet"):
        what_methods_did([{"val/accuracy": 0.5}], MODALITIES)
