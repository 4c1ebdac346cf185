from pathlib import Path

import pytest

from remix_study.datasets.synthetic import SyntheticSpec, render


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a corpus of sixteen real clips of four classes. Tests copy what they change."""
    folder = tmp_path_factory.mktemp("corpus")
    render(folder, SyntheticSpec(train=8, val=4, test=4, classes=4, muted=0.5), workers=2)
    return folder
