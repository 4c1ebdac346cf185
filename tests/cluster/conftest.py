"""Fixtures for cluster tests: fake machines with a corpus on their shared disk"""

from collections.abc import Iterator

import pytest

from remix_study.datasets.corpus import prepare_synthetic
from remix_study.datasets.synthetic import SyntheticSpec
from tests.cluster.laptop import Laptop
from tests.cluster.machines import Machines, unmet_requirement


@pytest.fixture(scope="session")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    """Start the machines once per session. Their shared disk contains a synthetic corpus."""
    if (reason := unmet_requirement()) is not None:
        pytest.skip(reason)
    with Machines(tmp_path_factory.mktemp("machines")) as made:
        spec = SyntheticSpec(train=96, val=48, test=48, classes=4, video_snr_db=(0.0, 6.0))
        prepare_synthetic(made.shared / "corpus", spec, preset="tiny")
        yield made


@pytest.fixture(scope="module")
def laptop(machines: Machines) -> Laptop:
    """Return a laptop on which the package is installed."""
    made = Laptop(machines)
    made.set_up()
    return made
