"""The main job: render a corpus, run a small honest study on it, and show what came out"""

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
from remix_study.study.results import StudyResult
from remix_study.study.study import StudyRun, Watch

Progress = Callable[[int, int], None]


# Harder to see than the corpus's own default: with every learning rate tuned, that one ends at 99 % for all methods.
DEMO_VIDEO_SNR_DB = (-11.0, -1.0)


def run_demo(
    study: StudyConfig, spec: SyntheticSpec, workspace: Path, watch: Watch, on_render: Progress, on_decode: Progress
) -> tuple[StudyResult | None, Path]:
    """The result of the study and its folder."""
    corpus = workspace.resolve() / "demo-corpus"
    prepare_synthetic(corpus, spec, preset="tiny", on_render=on_render, on_decode=on_decode)
    run = StudyRun(study, {"corpus": str(corpus)}, workspace, watch)
    return run.run(write_report), run.folder


def demo_study(path: Path | None, trials: int | None, replicates: int | None) -> StudyConfig:
    """The shipped demo, or another study file; with other numbers where they are given."""
    config = load_study(shipped("demo.yaml") if path is None else path)
    changes = {"trials": trials, "replicates": replicates}
    return config.model_copy(update={key: value for key, value in changes.items() if value is not None})


def shipped(name: str) -> Path:
    """A search space of this project: from the checkout, or from where an installed wheel put it.

    Raises:
        ConfigError: neither has it.
    """
    checkout = Path(str(files("remix_study"))).parent / "search_spaces" / name
    installed = Path(sys.prefix) / "share" / "remix_study" / "search_spaces" / name
    for path in (checkout, installed):
        if path.exists():
            return path
    raise ConfigError(f"the search space {name} must be at {checkout} or {installed}, but is at neither; reinstall.")
