"""The report page, from an Optuna storage and run folders"""

import csv
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import optuna
import pytest
import yaml
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from remix_study.config.study import StudyConfig
from remix_study.launch.predictions import PREDICTIONS
from remix_study.report import page
from remix_study.report.page import PAGE, write_report
from remix_study.report.reproduce import git_commit
from remix_study.report.sections import make_report
from remix_study.study.ledger import read_ledger
from remix_study.study.results import result_of
from remix_study.study.sentences import interval_text
from remix_study.study.storage import open_storage, optuna_name
from tests.unit.report.conftest import RATE, MakeStudy, write_outcomes, write_run

LEVELS = {"joint": 0.7, "remix": 0.8, "audio_alone": 0.6}


def history(method: str, level: float) -> list[dict[str, float]]:
    """Return the history of four epochs, of which the first is Remix's warm-up."""
    found = []
    for epoch in range(4):
        record = {"epoch": float(epoch), "val/accuracy": level * (epoch + 1) / 4, "balance/imbalance": 0.2}
        record |= {"val/accuracy_uni/audio": level / 2, "clash/c1/audio": level, "clash/c1_negative/audio": 0.0}
        if method == "remix":
            record["remix/joint_share"] = 0.1 if epoch else 1.0
            if epoch:
                record |= {"method/ogm/ratio/audio": 2.0, "method/ogm/factor/audio": level, "method/ogm/steps": 3.0}
                record |= {"remix/share/audio": 0.4, "remix/share/video": 0.5, "remix/margin": 0.2}
                record |= {f"remix/score_{q}/{m}": 0.5 for q in ("q10", "q50", "q90") for m in ("audio", "video")}
        found.append(record)
    return found


MakeFolder = Callable[..., Path]


def create_study(
    folder: Path, make_study: MakeStudy, trials: int, replicates: int, methods: tuple[str, ...], **changes: Any
) -> Path:
    """Write a study. Each method has `trials` complete trials (the last is replicated), a pruned and a failed one."""
    given: dict[str, Any] = {name: {} for name in methods}
    if "audio_alone" in given:
        given["audio_alone"] = {"ceiling_of": "audio"}
    second = {"weight": {"kind": "float", "low": 0.0, "high": 1.0}}
    space = {RATE: {"kind": "float", "low": 0.001, "high": 0.1, "log": True}, **second}
    study = make_study(methods=given, trials=trials + 2, replicates=max(1, replicates), space=space, **changes)
    (folder / "study.yaml").write_text(yaml.safe_dump(study.model_dump(mode="json")))
    (folder / "question.json").write_text('{"corpus": "0123abcd"}')
    for name in methods:
        _fill(study, name, folder, trials, replicates)
    return folder


@pytest.fixture
def make_folder(tmp_path: Path, make_study: MakeStudy) -> MakeFolder:
    """Return a function that writes a small study."""

    def make(trials: int = 2, replicates: int = 2, methods: tuple[str, ...] = tuple(LEVELS), **changes: Any) -> Path:
        return create_study(tmp_path, make_study, trials, replicates, methods, **changes)

    return make


class Whole(NamedTuple):
    """A study with all features, and its report. Tests only read it."""

    folder: Path
    files: list[Path]
    steps: list[tuple[int, int]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, make_study: MakeStudy) -> Whole:
    folder = create_study(tmp_path_factory.mktemp("whole"), make_study, 9, 5, tuple(LEVELS))
    steps: list[tuple[int, int]] = []
    files = write_report(folder, on_progress=lambda done, total: steps.append((done, total)))
    return Whole(folder, files, steps)


def _fill(study: StudyConfig, name: str, folder: Path, trials: int, replicates: int) -> None:
    level = LEVELS[name]
    distributions: dict[str, BaseDistribution] = {
        RATE: FloatDistribution(0.001, 0.1, log=True),
        "weight": FloatDistribution(0.0, 1.0),
    }

    def ended(number: int, state: TrialState, **more: Any) -> optuna.trial.FrozenTrial:
        params = {RATE: 0.001 * 1.3 ** (number % 15), "weight": (7 * number % 10) / 10}
        return create_trial(state=state, params=params, distributions=distributions, **more)

    made = optuna.create_study(
        study_name=optuna_name(study.name, name),
        storage=open_storage(None, folder),
        directions=[objective.direction for objective in study.objective],
    )
    for number in range(trials):
        run = (
            write_run(folder / "runs" / f"{name}-search-{number}", history(name, level))
            if number == trials - 1
            else "/not/there"
        )
        values = [level + 0.001 * number, 0.1][: len(study.objective)]
        attrs = {"seconds": 60.0, "folders": {"0": run}, "seed_values": {"0": values[0]}}
        made.add_trial(ended(number, TrialState.COMPLETE, values=values, user_attrs=attrs))
    if len(study.objective) == 1:
        early = {1: 0.987654321, 2: 0.987654322}  # better than any complete trial, but never chosen
        made.add_trial(ended(trials, TrialState.PRUNED, intermediate_values=early, user_attrs={"seconds": 20.0}))
    failed = {"reason": "NotANumberError: <script>alert(1)</script>", "cause": "not a number", "seconds": 1.0}
    made.add_trial(ended(trials + 1, TrialState.FAIL, user_attrs=failed))
    if trials == 0:
        return
    params = made.trials[trials - 1].params
    for number in range(replicates):
        summary = {
            "test/accuracy": level + 0.004 * number * (name == "remix"), "probe/accuracy/audio": level,
            "test/accuracy_uni/audio": level, "test_balance/imbalance": 0.1 + 0.01 * number,
            "time/total_train_s": 50.0, "time/total_score_s": 2.0,
        }  # fmt: skip
        summary |= {f"test/accuracy_{epoch}": summary["test/accuracy"] for epoch in ("best", "last")}
        run = write_run(folder / "runs" / f"{name}-replicate-{number}", history(name, level), summary)
        write_outcomes(Path(run), round(250 * summary["test/accuracy"]))
        replicate = {"state": "complete", "folder": run, "params": params, "seconds": 55.0}
        made.set_user_attr(f"replicate {number}", replicate)


class Page(HTMLParser):
    """The resources that a browser would load, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.loads: list[str] = []
        self.words: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self.ids += [known["id"] or ""] if "id" in known else []
        self.links += [known["href"] or ""] if tag == "a" else []
        self.loads += [known[k] or "" for k in ("src", "href") if tag != "a" and k in known]
        if tag not in ("meta", "img", "br", "path", "circle", "rect"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if self._open:
            self.words.setdefault(self._open[-1], []).append(data)


def read(folder: Path) -> tuple[str, Page, dict[str, Any]]:
    """Return the source of the page, its parsed parts, and the plotly figures."""
    text = (folder / PAGE).read_text()
    found = re.search(r'<script type="application/json" id="specs">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return text, Page(text), json.loads(found[1])


def test_the_page_of_a_complete_study_is_self_contained(whole: Whole) -> None:
    folder, files, steps = whole
    out = folder / "report"
    assert files[0] == out / PAGE
    assert {f.relative_to(out).as_posix() for f in files if f.suffix == ".csv"} == {
        *(f"tables/{name}.csv" for name in ("budget", "work", "chosen", "trials", "failures", "importances", "curves")),
        *(f"tables/{name}.csv" for name in ("methods", "differences", "sufficiency", "heads", "balance", "cost")),
        "comparison.csv",
    }  # fmt: skip
    charts = {f.stem for f in files if f.parent.name == "figures"}
    assert charts == {
        "accuracy", "differences", "modalities", "balance", "learning", "balance-epochs", "assignment", "directions",
        "scores", "method-ogm", "history", "importances", "parallel", "slices", "pruned", "time",
    }  # fmt: skip
    assert all(f.read_bytes().startswith(b"\x89PNG") for f in files if f.suffix == ".png")
    assert steps[-1][0] == steps[-1][1] == len(charts) + 2
    assert [done for done, _ in steps] == sorted({done for done, _ in steps})

    text, parts, specs = read(out)
    assert all(load.startswith("data:image/png;base64,") for load in parts.loads)
    assert len(parts.loads) == len(charts)
    assert {link.removeprefix("#") for link in parts.links} <= set(parts.ids)
    assert {f"{key}-0" for key in charts} <= set(specs)
    assert set(specs) <= set(parts.ids)
    assert "Plotly" in text
    assert len(text) < 15e6
    assert [(plan["trials"], plan["replicates"]) for plan in json.loads((folder / "shown.json").read_text())] == [
        (11, 5)
    ]
    # The comparison is also in the study's folder.
    for name in ("comparison.md", "comparison.csv", "comparison.png"):
        assert (folder / name).read_bytes() == (out / name).read_bytes()
    assert "remix beats joint by" in (folder / "comparison.md").read_text()


def test_the_page_has_answer_test_budget_and_versions(whole: Whole) -> None:
    folder = whole.folder
    _, parts, _ = read(folder / "report")
    made = result_of(read_ledger(folder))
    assert made is not None
    text = " ".join(words for found in parts.words.values() for words in found)
    (joint,) = [c.ahead for c in made.methods if c.name == "joint"]
    assert joint is not None
    assert [joint.mean, joint.seeds, joint.clips] == pytest.approx([10.8, 5, 250])
    assert f"remix beats joint by 10.8 points ({interval_text(joint)}, 5/5 seeds, Holm p < 0.001)" in text
    assert "Differences are taken per seed and test clip (5 seeds, 250 clips)" in text
    assert "p-values are two-sided and Holm-adjusted for 1 comparison with remix" in text
    assert "The choice of these test clips alone moves an accuracy by 2.5 points (standard error)." in text
    assert (
        "the exact sign-flip p over 5 seeds. It is at least 0.062; with 1 comparison, this test needs at least 6"
        in text
    )
    assert "Complete: 33 trials, 15 replicates." in text
    assert "Every method had 11 trials." in text
    assert "remix-study retrain s --seeds 5" in text
    assert "corpus digest 0123abcd" in text
    assert re.search(r"torch \d.*ray \d.*optuna \d.*mlflow \d", text)
    assert "runs failed: 3 not a number" in " ".join(parts.words["h2"])
    assert any("seeds_per_trial: 1" in words for words in parts.words["pre"])  # study.yaml itself


def test_user_text_is_escaped(whole: Whole) -> None:
    folder = whole.folder
    text, parts, _ = read(folder / "report")
    assert "<script>alert" not in text
    assert "NotANumberError: <script>alert(1)</script>" in "".join(parts.words["td"])
    assert "".join(parts.words["h1"]) == "does <b>it</b> help?"
    assert len(re.findall("<script", text.split("</style>")[-1])) >= 3  # charts, plotly, ours


def test_pruned_trials_are_in_their_own_chart_only(whole: Whole) -> None:
    folder = whole.folder
    _, _, specs = read(folder / "report")
    holding = {key for key, spec in specs.items() if "98.7654" in json.dumps(spec)}
    assert holding == {"pruned-0"}
    assert "0.98765" not in (folder / "report" / "tables" / "trials.csv").read_text()


def test_tables_have_the_numbers_of_the_page(whole: Whole) -> None:
    folder = whole.folder
    tables = folder / "report" / "tables"
    methods = {row["method"]: row for row in csv.DictReader((tables / "methods.csv").open())}
    assert [methods[m]["role"] for m in ("remix", "joint", "audio_alone")] == ["reference", "other", "audio alone"]
    differences = {row["method"]: row for row in csv.DictReader((tables / "differences.csv").open())}
    joint = differences["joint"]
    assert [joint[k] for k in ("remix ahead by", "p (sign flip)", "verdict")] == [
        "+10.8",
        "0.062",
        "ahead",
    ]
    assert [methods["remix"][k] for k in ("test accuracy", "std over seeds", "last epoch")] == ["80.8", "0.6", "80.8"]
    trials = list(csv.DictReader((tables / "trials.csv").open()))
    assert len(trials) == 3 * 11
    assert {row["state"] for row in trials} == {"complete", "pruned", "failed"}
    curves = list(csv.DictReader((tables / "curves.csv").open()))
    acted = [row["epoch"] for row in curves if row["metric"] == "method/ogm/factor/audio"]
    assert acted == ["1", "2", "3"]
    assert "What the added methods did" in (whole.folder / "report" / PAGE).read_text()
    remix = [row for row in curves if (row["metric"], row["method"]) == ("val/accuracy", "remix")]
    assert [(row["epoch"], row["mean"], row["runs"]) for row in remix] == [
        ("0", "0.2", "5"), ("1", "0.4", "5"), ("2", "0.6", "5"), ("3", "0.8", "5"),
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "answer", "more"),
    [
        ({"trials": 0, "replicates": 0}, "No answer yet: no method has a complete", "No trial is complete yet."),
        ({"replicates": 0}, "No answer yet", "since there are no replicates yet"),
        (
            {"replicates": 1},
            "One replicate is too few for a comparison",
            "shares at least two seeds with the reference",
        ),
        (
            {"methods": ("remix",)},
            "remix is the only method of this study",
            "the accuracy of each modality alone is unknown",
        ),
        ({"methods": ("remix", "joint")}, "no verdict on remix and joint", "A verdict needs at least 5 replicates"),
        (
            {"methods": ("remix", "joint"), "replicates": 5},
            "remix beats joint",
            "the accuracy of each modality alone is unknown",
        ),
    ],
)
def test_an_unfinished_study_has_a_page(make_folder: MakeFolder, given: dict[str, Any], answer: str, more: str) -> None:
    folder = make_folder(**given)
    write_report(folder)
    _, parts, _ = read(folder / "report")
    text = " ".join(words for found in parts.words.values() for words in found)
    assert answer in text
    assert more in text


def test_a_study_without_trials_has_a_page(tmp_path: Path, make_study: MakeStudy) -> None:
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(make_study().model_dump(mode="json")))
    files = write_report(tmp_path)
    text = files[0].read_text()
    assert "Not complete: 0 of 8 trials and 0 of 4 replicates finished" in text
    assert "corpus digest not recorded" in text
    assert not (tmp_path / "comparison.md").exists()


@pytest.mark.slow
def test_several_objectives_have_a_pareto_front(make_folder: MakeFolder) -> None:
    objective = ["best/val_accuracy", {"metric": "best/balance_imbalance", "direction": "minimize"}]
    folder = make_folder(objective=objective, trials=3)
    write_report(folder)
    _, parts, specs = read(folder / "report")
    assert "pareto-0" in specs
    assert any("show the first: validation accuracy, best epoch (maximized)" in words for words in parts.words["p"])


@pytest.mark.slow
def test_the_report_skips_missing_run_folders(make_folder: MakeFolder) -> None:
    folder = make_folder()
    for path in folder.glob("runs/joint-*/*"):
        path.unlink()
    write_report(folder)
    text, _, _ = read(folder / "report")
    assert "Not compared, because they have no complete replicate: joint." in text


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Debian's Chromium: apt-get install chromium")
def test_the_page_fits_a_narrow_window(whole: Whole, tmp_path: Path) -> None:
    """Also with paths, which have no spaces. Wide tables scroll by themselves."""
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<iframe id="page" src="{(whole.folder / "report" / PAGE).as_uri()}" width="400" height="900"></iframe>'
        '<script>onload = () => { const inner = document.getElementById("page").contentDocument.scrollingElement; '
        "document.body.append(`width ${inner.scrollWidth} height ${inner.scrollHeight}`) }</script>"
    )
    done = subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--dump-dom",
         f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000", frame.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    measured = re.search(r"width (\d+) height (\d+)<", done.stdout)
    assert measured is not None, done.stdout[-500:] + done.stderr[-500:]
    assert int(measured[1]) <= 400
    assert int(measured[2]) > 2000, "the whole page was shown"


def test_the_state_of_a_running_study(make_folder: MakeFolder) -> None:
    folder = make_folder(trials=1, replicates=1)
    ledger = read_ledger(folder)
    study = ledger.study.model_copy(update={"trials": 50})
    report = make_report(ledger._replace(study=study), result_of(ledger), at_work=True)
    assert report.state == "Still running: 9 of 150 trials and 3 of 3 replicates finished."


def test_the_report_of_runs_without_predictions_says_that_there_is_no_test(make_folder: MakeFolder) -> None:
    folder = make_folder(trials=1, replicates=5)
    for file in folder.glob(f"runs/*/{PREDICTIONS}"):  # which version 0.1 did not write
        file.unlink()
    ledger = read_ledger(folder)
    report = make_report(ledger, result_of(ledger), at_work=False)
    assert (
        report.confidence
        == "Differences are over 5 seeds, with 95 % t intervals. Without predictions, there is no test."
    )
    assert "no verdict on remix and joint" in report.answer


@pytest.mark.slow
def test_an_interrupted_report_keeps_the_old_page(make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_folder(trials=2, replicates=1)
    (before, *_) = write_report(folder)
    text = before.read_text()

    def killed(*args: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(page, "render", killed)
    with pytest.raises(KeyboardInterrupt):
        write_report(folder)
    assert before.read_text() == text
    assert not list(folder.rglob("*.part"))


@pytest.mark.slow
def test_the_report_can_be_written_to_another_folder(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder(trials=1, replicates=1)
    files = write_report(folder, tmp_path / "elsewhere" / "deep")
    assert all(f.is_relative_to(tmp_path / "elsewhere" / "deep") for f in files)
    assert not (folder / "report").exists()


def test_the_commit_is_that_of_the_checkout() -> None:
    commit = git_commit()
    assert commit is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", commit)


def test_importing_the_report_imports_no_heavy_library() -> None:
    heavy = "{'torch', 'ray', 'mlflow', 'matplotlib', 'plotly', 'sklearn'}"
    script = f"import sys, remix_study.report.page; assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
