"""The review links in a real browser: their format is MLflow's own and documented nowhere"""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from remix_study.tracking import RunInfo, default_uri
from remix_study.tracking.mlflow import MLflowTracker, create_parent
from remix_study.tracking.review import Links, columns, share_view
from remix_study.tracking.server import MLflowServer

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
PATIENCE_S = 40
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
    "--window-size=3000,1500",  # the grid draws only the columns that are in sight
)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.server,
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM.exists() and DRIVER.exists()),
        reason="needs Debian's Chromium: apt-get install chromium chromium-driver",
    ),
]


@pytest.fixture(scope="module")
def links(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Links]:
    workspace = tmp_path_factory.mktemp("workspace")
    uri = default_uri(workspace)
    parent = create_parent(uri, "demo", "demo study", {"study": "demo"}, {"method": "study"})
    for number, method in enumerate(("joint", "remix", "joint_unimodal")):
        tracker = MLflowTracker(uri, "demo", folder=workspace / method)
        tracker.start(
            RunInfo(
                name=f"{method} seed 1",
                tags={"study": "demo"},
                params={"method": method},
                config_yaml=f"method: {method}\n",
                dataset_name="synthetic",
                dataset_digest="digest",
                dataset_source="store",
                dataset_profile={},
                parent_run_id=parent,
            )
        )
        for epoch in range(6):
            tracker.log_metrics(
                {
                    "val/accuracy": 0.2 + 0.1 * epoch + 0.02 * number,
                    "val/cross_entropy": 2.0 - 0.2 * epoch,
                    "val/accuracy_uni/audio": 0.2 + 0.08 * epoch,
                    "val/accuracy_uni/video": 0.2 + 0.03 * epoch + 0.03 * number,
                    "balance/accuracy_gap": 5.0 * epoch - 3 * number,
                    "balance/imbalance": 0.4 - 0.1 * number,
                    "remix/share/audio": 0.4,
                    "remix/share/video": 0.6,
                },
                epoch,
            )
        final = {"test/accuracy": 0.7, "sufficiency/ratio/audio": 0.95, "sufficiency/ratio/video": 0.6}
        tracker.log_metrics(final, 5)
        tracker.finish("FINISHED")
    with MLflowServer(uri) as server:
        yield share_view(uri, "demo", server.url, parents=[parent], note="# Does Remix help on the demo corpus?")


@pytest.fixture
def browser(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[webdriver.Chrome]:
    options = Options()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    try:
        yield driver
        if folder := os.environ.get("REMIX_STUDY_SCREENSHOTS"):  # for a person's eyes
            driver.save_screenshot(str(Path(folder) / f"{request.node.name}.png"))
    finally:
        driver.quit()
        shutil.rmtree(tmp_path / "profile", ignore_errors=True)


def text_of(driver: webdriver.Chrome) -> str:
    return driver.find_element(By.TAG_NAME, "body").text


def until(driver: webdriver.Chrome, holds: Callable[[webdriver.Chrome], bool]) -> None:
    # The page redraws itself while it loads: an element found a moment ago may be gone.
    wait = WebDriverWait(driver, PATIENCE_S, ignored_exceptions=[StaleElementReferenceException])
    wait.until(holds, f"not seen at {driver.current_url}")


def test_the_table_shows_children_and_the_chosen_columns(browser: webdriver.Chrome, links: Links) -> None:
    browser.get(links.table)
    names = ("demo study", "joint seed 1", "remix seed 1", "joint_unimodal seed 1")
    until(browser, lambda driver: all(name in text_of(driver) for name in names))
    wanted = ("method", *columns(("audio", "video")))
    until(browser, lambda driver: all(name in text_of(driver) for name in wanted))
    until(browser, lambda driver: "Does Remix help on the demo corpus?" in text_of(driver))


def test_the_charts_are_drawn(browser: webdriver.Chrome, links: Links) -> None:
    browser.get(links.charts)
    until(browser, lambda driver: "Does it work, is it balanced?" in text_of(driver))
    drawn = ".js-plotly-plot .scatterlayer .trace"
    until(browser, lambda driver: len(driver.find_elements(By.CSS_SELECTOR, drawn)) >= 3)


def test_the_plain_link_opens_the_training_runs(browser: webdriver.Chrome, links: Links) -> None:
    browser.get(links.plain)
    until(browser, lambda driver: "demo study" in text_of(driver))
