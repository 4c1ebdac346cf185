"""The client of a cluster's dashboard; tests/unit/cli/test_submit.py uses it with a running server"""

import pytest

from remix_study.cluster.dashboard import Dashboard
from remix_study.errors import RemixStudyError


def test_an_unreachable_dashboard_is_reported() -> None:
    with pytest.raises(RemixStudyError, match=r"Cannot reach the cluster's dashboard at http://127.0.0.1:9: "):
        Dashboard("http://127.0.0.1:9")
    for odd in ("127.0.0.1:8265", "ray://host:10001", "http://host:port"):
        with pytest.raises(RemixStudyError, match="must be the URL of a dashboard"):
            Dashboard(odd)
