import re
from pathlib import Path

import pytest

from remix_study.report.words import plural, unit_of
from remix_study.units import listed

METRICS = Path(__file__).parents[3] / "docs" / "metrics.md"


@pytest.mark.parametrize(
    ("metric", "label", "scale"),
    [
        ("best/val_accuracy", "validation accuracy, best epoch (%)", 100),
        ("last/val_accuracy", "validation accuracy, last epoch (%)", 100),
        ("val/accuracy_uni/audio", "validation accuracy of the audio head (%)", 100),
        ("test/accuracy", "test accuracy (%)", 100),
        ("best/val_cross_entropy", "validation cross-entropy, best epoch (nats)", 1),
        ("balance/accuracy_gap", "accuracy gap of the heads (points)", 1),
        ("test_balance/imbalance", "Shapley imbalance, test (0 to 1)", 1),
        ("best/balance_imbalance", "Shapley imbalance, best epoch (0 to 1)", 1),
        ("best/balance_utilisation/video", "utilisation of video, best epoch (share of the accuracy)", 1),
        ("best/val_accuracy_late_calibrated", "validation accuracy, calibrated late product, best epoch (%)", 100),
        ("test/calibration_error_uni/audio", "test calibration error of the audio head (%)", 100),
        ("late_calibrated/exponent/video", "exponent of video in the calibrated late product (1 in the late sum)", 1),
        ("remix/share/video", "samples that train video alone (%)", 100),
        ("probe/accuracy/video", "linear probe of video (%)", 100),
        ("train/samples/video", "samples that train video", 1),
        ("train/samples", "train/samples", 1),
        ("train/total_updates/audio", "updates of the audio encoder, all epochs", 1),
        ("time/train_s", "time/train_s (s)", 1),
        ("method/agm/cross_entropy/audio", "cross-entropy of audio (nats)", 1),
        ("method/mmpareto/weight_fused/video", "weight fused of video", 1),
        ("method/any/count", "count", 1),
        ("something/else", "something/else", 1),
    ],
)
def test_metrics_have_names_and_units(metric: str, label: str, scale: float) -> None:
    unit = unit_of(metric)
    assert (unit.label, unit.scale) == (label, scale)


def test_every_accuracy_and_balance_metric_has_its_own_name() -> None:
    rows = [line for line in METRICS.read_text().splitlines() if line.startswith("| `")]
    names = [name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])]
    wanted = [n for n in names if re.match(r"(best|last|val|test|balance|test_balance|sufficiency|probe)[/_]", n)]
    assert len(wanted) > 30
    nameless = {n for n in wanted if unit_of(n.replace("<modality>", "audio")).name == n.replace("<modality>", "audio")}
    assert nameless == {"best/epoch"}


def test_values_are_shown_in_their_unit() -> None:
    assert unit_of("val/accuracy").shown(0.9342) == "93.4 %"
    assert unit_of("val/cross_entropy").shown(0.31234567) == "0.3123 nats"
    assert unit_of("balance/imbalance").shown(0.05) == "0.05"
    assert unit_of("train/total_samples/audio").shown(123456.0) == "123456"


def test_plurals_and_lists() -> None:
    assert [plural(n, "trial") for n in (0, 1, 2)] == ["0 trials", "1 trial", "2 trials"]
    assert [listed(n) for n in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]
