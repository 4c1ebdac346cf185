"""The error for a torchaudio that does not load beside the installed torch"""

import importlib
import sys
from importlib.abc import MetaPathFinder
from typing import Any

import pytest

from remix_study.errors import RemixStudyError


class OtherBuild(MetaPathFinder):
    """Raises what torchaudio raises beside a CPU-only build of torch."""

    def find_spec(self, name: str, *_: Any) -> None:
        if name == "torchaudio":
            raise OSError("libcudart.so.13: cannot open shared object file")


def test_a_torchaudio_of_another_build_is_reported_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", [OtherBuild(), *sys.meta_path])
    monkeypatch.delitem(sys.modules, "torchaudio", raising=False)
    monkeypatch.delitem(sys.modules, "remix_study.media.torchaudio_import", raising=False)
    with pytest.raises(
        RemixStudyError, match=r"another build of torch \(libcudart.*Reinstall it from the package index"
    ):
        importlib.import_module("remix_study.media.torchaudio_import")
