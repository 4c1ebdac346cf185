"""The demo: renders a synthetic corpus and runs a small study on it"""

import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

from remix_study.config.load import load_study
from remix_study.config.study import StudyConfig
from remix_study.datasets.corpus import prepare_synthetic
from remix_study.datasets.synthetic import SyntheticSpec
from remix_study.errors import ConfigError
from remix_study.report.page import write_report
from remix_study.study.comparison import StudyResult
from remix_study.study.listener import StudyListener
from remix_study.study.study import StudyRun

Progress = Callable[[int, int], None]


def run_demo(
    study: StudyConfig,
    spec: SyntheticSpec,
    workspace: Path,
    watch: StudyListener,
    on_render: Progress,
    on_decode: Progress,
) -> tuple[StudyResult | None, Path]:
    """Prepare the corpus and run the study in `workspace`; return the result and the study's folder."""
    corpus = workspace.resolve() / "demo-corpus"
    prepare_synthetic(corpus, spec, preset="tiny", on_render=on_render, on_decode=on_decode)
    run = StudyRun(study, {"corpus": str(corpus)}, workspace, watch)
    return run.run(write_report), run.folder


def demo_study(path: Path | None, trials: int | None, replicates: int | None) -> StudyConfig:
    """The study of the shipped demo.yaml or of another file, with `trials` and `replicates` replaced if given."""
    config = load_study(shipped("demo.yaml") if path is None else path)
    changes = {"trials": trials, "replicates": replicates}
    return config.model_copy(update={key: value for key, value in changes.items() if value is not None})


def shipped(name: str) -> Path:
    """The path of a file in search_spaces/, in the checkout or where the wheel was installed.

    Raises:
        ConfigError: it is in neither place.
    """
    checkout = Path(str(files("remix_study"))).parent / "search_spaces" / name
    installed = Path(sys.prefix) / "share" / "remix_study" / "search_spaces" / name
    for path in (checkout, installed):
        if path.exists():
            return path
    raise ConfigError(f"Cannot find search space {name} at {checkout} or {installed}. Reinstall remix-study.")
