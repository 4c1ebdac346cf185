"""Studies with made-up runs in a temporary workspace"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from remix_study.config.study import StudyConfig
from remix_study.study import study as study_module
from remix_study.study.comparison import StudyResult
from remix_study.study.listener import StudyListener
from remix_study.study.study import StudyRun
from tests.studies import Conduct, Runner, config, write_no_report


@pytest.fixture
def conduct(small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Conduct:
    def run(
        runner: Runner, study: StudyConfig | None = None, listener: StudyListener | None = None, *,
        retry_failed: bool = False, **settings: Any,
    ) -> StudyResult | None:  # fmt: skip
        monkeypatch.setattr(study_module, "execute", runner)
        run = StudyRun(
            study or config(), {"corpus": str(small_corpus), **settings}, tmp_path, listener, retry_failed=retry_failed
        )
        return run.run(write_no_report)

    return run


@pytest.fixture
def retrain(small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    def run(
        runner: Runner, method: str, seeds: int, listener: StudyListener | None = None
    ) -> dict[int, dict[str, float]]:
        monkeypatch.setattr(study_module, "execute", runner)
        study = StudyRun(config(), {"corpus": str(small_corpus)}, tmp_path, listener)
        return study.retrain(method, seeds, write_no_report)

    return run
