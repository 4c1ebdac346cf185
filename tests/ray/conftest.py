"""Fixtures for studies in real processes"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.study_bench import StudyBench


@pytest.fixture(scope="session")
def make_bench(small_corpus: Path) -> Iterator[Callable[[Path], StudyBench]]:
    """Return a function that creates a StudyBench in a folder."""
    made: list[StudyBench] = []

    def make(folder: Path) -> StudyBench:
        made.append(StudyBench(small_corpus, folder))
        return made[-1]

    yield make
    for bench in made:
        bench.end_all()


@pytest.fixture
def bench(small_corpus: Path, tmp_path: Path) -> Iterator[StudyBench]:
    made = StudyBench(small_corpus, tmp_path)
    yield made
    made.end_all()
