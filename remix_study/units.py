"""Durations, sizes and lists as text, and texts as cells of CSV files"""

import re
from collections.abc import Sequence

_NUMBER = r"[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_NUMBERS = re.compile(rf"{_NUMBER}(?:(?: ± | to ){_NUMBER})?\*?")


def duration(seconds: float) -> str:
    """A duration with its unit: `0.25 s`, `12 s`, `3.1 min`, `4.2 h`."""
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    if seconds >= 60:
        return f"{seconds / 60:.1f} min"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"


def cell_as_text(text: str) -> str:
    """`text`, or with `'` in front if a spreadsheet would run it as a formula (`=`, `+`, `-`, `@`).

    Numbers stay numbers, also with an interval: `-0.5`, `+1.2 ± 0.3`, `-1.0 to +2.0`.
    """
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) and not _NUMBERS.fullmatch(text) else text


def file_size(count: int) -> str:
    """A number of bytes with its unit: `12 kB`, `3.40 MB`, `1.25 GB`."""
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if count >= unit:
            return f"{count / unit:.2f} {name}"
    return f"{count / 1e3:.0f} kB"


def listed(names: Sequence[str]) -> str:
    """`a, b and c`"""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""
