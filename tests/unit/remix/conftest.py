"""Fixtures with a reference implementation of the released Remix and its golden numbers"""

import runpy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

GOLDEN = Path(__file__).parents[2] / "golden"


@dataclass(frozen=True)
class Oracle:
    """The reference implementation, in plain Python; see the docstrings in tests/golden/make_remix_golden.py."""

    separability: Callable[[list[float]], float]
    released_choice: Callable[[float, float], int]
    released_epoch: Callable[
        [list[list[list[float]]], int, Callable[[list[int]], list[int]]],
        tuple[list[list[float]], list[int], list[tuple[int, list[int]]]],
    ]
    golden: Callable[[], dict[str, Any]]


@pytest.fixture(scope="session")
def oracle() -> Oracle:
    script = runpy.run_path(str(GOLDEN / "make_remix_golden.py"))
    return Oracle(*(script[name] for name in ("separability", "released_choice", "released_epoch", "golden")))


@pytest.fixture(scope="session")
def golden_file() -> Path:
    return GOLDEN / "remix_golden.json"
