"""Modality names and their one canonical order (the M axis of every array)"""

from collections.abc import Iterable

AUDIO = "audio"
VIDEO = "video"
FLOW = "flow"
_KNOWN = (AUDIO, VIDEO, FLOW)


def canonical_order(names: Iterable[str]) -> tuple[str, ...]:
    """The M axis: audio, video, flow, then all others by name.

    Raises:
        ValueError: a name occurs twice.
    """
    given = list(names)
    if len(set(given)) != len(given):
        raise ValueError(f"each modality must be named once, but got {given}")
    known = tuple(name for name in _KNOWN if name in given)
    return known + tuple(sorted(set(given) - set(_KNOWN)))
