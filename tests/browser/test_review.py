"""The links of tracking/review.py in a real browser, because the format of MLflow's view state is undocumented

The experiment is built as for a study: runs write to their spools, a syncer sends them, and the study's run stores the
view.
"""

import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from remix_study.errors import RunPruned
from remix_study.figures.run import draw_learning_curves, learning_curves
from remix_study.tracking import RunInfo, default_uri, finishing
from remix_study.tracking.review import MODALITIES, NOTE, SEARCHED, STAGE, Links, columns, links_of, share_view
from remix_study.tracking.server import MLflowServer
from remix_study.tracking.spool import Spool, SpoolTracker, run_id_of
from remix_study.tracking.syncer import Syncer
from tests import mlflow_database

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
PATIENCE_S = 40
QUESTION = "Does Remix help on the demo corpus?"
METHODS = ("joint", "joint_unimodal", "remix")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=2250,1250",  # the grid renders only visible columns
)

# MLflow's assistant opens once in every new browser profile and covers a quarter of the page.
CLOSE_ASSISTANT = "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.server,
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM.exists() and DRIVER.exists()),
        reason="needs Debian's Chromium: apt-get install chromium chromium-driver",
    ),
]


class Study(NamedTuple):
    """A study in MLflow: links, server, experiment id, and the run ids of the study and of one trial."""

    links: Links
    host: str
    experiment: str
    parent: str
    trial: str

    def page(self, run_id: str, tab: str) -> str:
        return f"{self.host}/#/experiments/{self.experiment}/runs/{run_id}/{tab}?workflowType=machine_learning"


def info(name: str, tags: dict[str, str], params: dict[str, str | int | float | bool]) -> RunInfo:
    return RunInfo(
        name=name,
        tags={"remix_study.study": "demo", **tags},
        params=params,
        config_yaml=f"name: {name}\n",
        dataset_name="synthetic",
        dataset_digest="3f2a" * 16,
        dataset_source="store",
        dataset_profile={"train": 1000, "val": 200, "test": 200},
    )


def history(method: str, rate: float, number: int, epochs: int) -> list[dict[str, float]]:
    """Return made-up learning curves."""
    video = {"joint": 0.31, "joint_unimodal": 0.38, "remix": 0.62}[method] + 0.015 * number
    quality = 1 - abs(math.log10(rate) + 2) / 4 - 0.01 * number
    return [
        {
            "val/accuracy": quality
            * {"joint": 0.76, "joint_unimodal": 0.79, "remix": 0.85}[method]
            * (1 - math.exp(-0.4 * (epoch + 1))),
            "val/accuracy_uni/audio": quality * 0.7 * (1 - math.exp(-0.5 * (epoch + 1))),
            "val/accuracy_uni/video": quality * video * (1 - math.exp(-0.3 * (epoch + 1))),
            "val/cross_entropy": 2.3 - 1.6 * quality * (1 - math.exp(-0.3 * (epoch + 1))),
            "balance/accuracy_gap": 100 * quality * (0.7 - video) * (1 - math.exp(-0.3 * (epoch + 1))),
            "balance/imbalance": (0.35 - 0.03 * epoch if method == "remix" else 0.35) + 0.01 * number,
            **(
                {"remix/share/audio": 0.3 + 0.02 * epoch, "remix/share/video": 0.7 - 0.02 * epoch}
                if method == "remix" and epoch > 0
                else {}
            ),
        }
        for epoch in range(epochs)
    ]


def run(folder: Path, method: str, stage: str, number: int, rate: float) -> None:
    """Write the spool of a trial or replicate, like a training process."""
    tracker = SpoolTracker(folder, "demo")
    tracker.start(
        info(
            f"{method}-{stage}-{number}",
            {STAGE: stage, "remix_study.contender": method, "remix_study.number": str(number)},
            {"method.name": method, "point.optimizer.learning_rate": rate, "epochs": 8},
        )
    )
    records = history(method, rate, number, 8)
    try:
        with finishing(tracker):
            for epoch, metrics in enumerate(records):
                tracker.log_metrics(metrics, epoch)
                if rate > 0.05 and epoch == 3:
                    raise RunPruned(f"{metrics['val/accuracy']:.2f} after 4 epochs is below the best third")
                if rate < 0.0005 and epoch == 1:
                    raise MemoryError("out of memory")
            best = records[-1]
            summary = {
                "best/val_accuracy": best["val/accuracy"],
                "best/val_accuracy_uni/audio": best["val/accuracy_uni/audio"],
                "best/val_accuracy_uni/video": best["val/accuracy_uni/video"],
            }
            if stage == "replicate":
                summary["test/accuracy"] = best["val/accuracy"] - 0.02 + 0.01 * number
                summary["test/accuracy_late_calibrated"] = summary["test/accuracy"] + 0.01
            tracker.log_metrics(summary, 7)
            tracker.log_figure(
                draw_learning_curves(learning_curves(records, ("audio", "video"))), "figures/learning.png"
            )
    except (RunPruned, MemoryError):
        return
    if stage == "replicate" and method != "joint":
        video = 0.95 if method == "remix" else 0.58
        tracker.log_metrics({"sufficiency/ratio/audio": 0.97, "sufficiency/ratio/video": video + 0.01 * number}, 0)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    workspace = tmp_path_factory.mktemp("workspace")
    mlflow_database.install(workspace)
    uri, folder = default_uri(workspace), workspace / "studies" / "demo"
    parent = SpoolTracker(folder, "demo")
    tags = {STAGE: "study", MODALITIES: "audio,video", SEARCHED: "point.optimizer.learning_rate"}
    parent.start(info("demo", tags, {"question": QUESTION}))
    report = folder / "report" / "report.html"
    report.parent.mkdir(parents=True)
    report.write_text(f"<!doctype html><title>{QUESTION}</title><h1>{QUESTION}</h1><p>It does.")
    with Syncer(uri, parent=folder) as syncer:
        for method in METHODS:
            for number, rate in enumerate((0.01, 0.003, 0.1, 0.0001)):
                syncer.watch(folder / "runs" / f"{method}-search-{number}")
                run(folder / "runs" / f"{method}-search-{number}", method, "search", number, rate)
            for number in range(2):
                syncer.watch(folder / "runs" / f"{method}-replicate-{number}")
                run(folder / "runs" / f"{method}-replicate-{number}", method, "replicate", number, 0.01)
        with finishing(parent):
            parent.log_metrics({"study/trials_complete": 6, "best/remix": 0.8}, 0)
            parent.log_file(report, "report/report.html")
            parent.set_tags({NOTE: f"{QUESTION} remix beats joint by 6.8 points (5/5 seeds)."})
        Spool(folder / "tracking").append({"view": True})
        assert syncer.close(120) == 0
    with MLflowServer(uri) as server:
        links = share_view(uri, "demo", server.url)
        experiment = links.plain.partition("/experiments/")[2].partition("/")[0]
        trial = run_id_of(folder / "runs" / "remix-search-0")
        yield Study(links, server.url, experiment, str(run_id_of(folder)), str(trial))


@pytest.fixture
def browser(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[webdriver.Chrome]:
    options = Options()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    try:
        driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": CLOSE_ASSISTANT})
        yield driver
        if folder := os.environ.get("REMIX_STUDY_SCREENSHOTS"):  # for manual inspection
            driver.save_screenshot(str(Path(folder) / f"{request.node.name}.png"))
    finally:
        driver.quit()
        shutil.rmtree(tmp_path / "profile", ignore_errors=True)


def text_of(driver: webdriver.Chrome) -> str:
    return driver.find_element(By.TAG_NAME, "body").text


def wait_until(driver: webdriver.Chrome, condition: Callable[[webdriver.Chrome], bool]) -> None:
    # The page re-renders while it loads, so elements may become stale.
    wait = WebDriverWait(driver, PATIENCE_S, ignored_exceptions=[StaleElementReferenceException])
    wait.until(condition, f"timed out at {driver.current_url}")


def shows(*words: str) -> Callable[[webdriver.Chrome], bool]:
    """Return a condition for `wait_until`: the page contains these words."""
    return lambda driver: all(word in text_of(driver) for word in words)


# Counts the rows that are indented below the row with the given name.
NESTED = """
const links = [...document.querySelectorAll('[role="row"] a[href*="/runs/"]')];
const names = links.map(link => [link.textContent.trim(), link.getBoundingClientRect()]);
const parent = names.find(([name]) => name === arguments[0]);
return parent ? names.filter(([, at]) => at.left > parent[1].left + 5 && at.top > parent[1].top).length : 0;
"""


def test_the_table_ranks_all_runs_with_the_chosen_columns(browser: webdriver.Chrome, study: Study) -> None:
    browser.get(study.links.table)
    wait_until(
        browser,
        shows("demo", *(f"{m}-{stage}-{n}" for m in METHODS for stage in ("search", "replicate") for n in (0, 1))),
    )
    wait_until(browser, shows("method.name", "point.optimizer.learning_rate", *columns(("audio", "video"))))
    wait_until(browser, shows("remix_study.stage", "remix_study.state", "replicate", "complete", "pruned", "failed"))
    wait_until(browser, shows(QUESTION, "remix beats joint by 6.8 points"))
    wait_until(browser, shows("out of memory"))


def test_runs_are_nested_below_their_study_when_sorted_by_time(browser: webdriver.Chrome, study: Study) -> None:
    browser.get(study.links.table)
    wait_until(browser, shows("remix-search-0"))
    browser.find_element(By.XPATH, "//*[@role='columnheader']//*[normalize-space()='Created']").click()
    wait_until(browser, lambda driver: "remix-search-0" not in text_of(driver))
    expander = "//*[@role='row'][.//a[normalize-space()='demo']]//button[.//*[name()='svg']]"
    wait_until(browser, lambda driver: bool(driver.find_elements(By.XPATH, expander)))
    browser.find_elements(By.XPATH, expander)[0].click()
    wait_until(browser, lambda driver: driver.execute_script(NESTED, "demo") == 6 * len(METHODS))


def test_the_charts_compare_the_runs(browser: webdriver.Chrome, study: Study) -> None:
    browser.get(study.links.charts)
    wait_until(browser, shows("Over epochs", "val/accuracy_uni/video", "balance/accuracy_gap", "remix/share/audio"))
    lines = ".js-plotly-plot .scatterlayer .trace"
    wait_until(browser, lambda driver: len(driver.find_elements(By.CSS_SELECTOR, lines)) >= 2 * len(METHODS))
    wait_until(browser, shows("Final accuracy and sufficiency"))


def test_the_plain_link_opens_the_training_runs(browser: webdriver.Chrome, study: Study) -> None:
    assert links_of(study.host, "demo") == study.links
    browser.get(study.links.plain)
    wait_until(browser, shows("demo"))


def test_the_page_of_a_trial_shows_metrics_data_set_and_state(browser: webdriver.Chrome, study: Study) -> None:
    browser.get(study.page(study.trial, ""))
    wait_until(browser, shows("remix-search-0", "Finished", "best/val_accuracy", "point.optimizer.learning_rate"))
    wait_until(browser, shows("synthetic", "remix_study.state"))


def test_a_figure_is_rendered_among_the_artifacts(browser: webdriver.Chrome, study: Study) -> None:
    browser.get(study.page(study.trial, "artifacts/figures/learning.png"))
    wait_until(browser, shows("learning.png"))
    rendered = "return [...document.images].some(i => i.complete && i.naturalWidth > 400 && i.offsetParent !== null)"
    wait_until(browser, lambda driver: bool(driver.execute_script(rendered)))


def test_the_report_is_an_artifact_of_the_study(browser: webdriver.Chrome, study: Study) -> None:
    browser.get(study.page(study.parent, "artifacts/report/report.html"))
    wait_until(browser, shows("report.html"))
    wait_until(browser, lambda driver: len(driver.find_elements(By.TAG_NAME, "iframe")) > 0)


def test_the_experiments_are_listed(browser: webdriver.Chrome, study: Study) -> None:
    browser.get(f"{study.host}/#/experiments?workflowType=machine_learning")
    wait_until(browser, shows("Experiments", "demo"))
