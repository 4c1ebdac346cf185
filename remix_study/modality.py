"""Names of modalities and their canonical order (the M axis of every array)"""

from collections.abc import Iterable

AUDIO = "audio"
VIDEO = "video"
FLOW = "flow"
_KNOWN = (AUDIO, VIDEO, FLOW)


def canonical_order(names: Iterable[str]) -> tuple[str, ...]:
    """Return the order of the M axis: audio, video, flow, then all others by name.

    Raises:
        ValueError: a name occurs twice.
    """
    given = list(names)
    if len(set(given)) != len(given):
        raise ValueError(f"each modality must be named once, but got {given}")
    known = tuple(name for name in _KNOWN if name in given)
    return known + tuple(sorted(set(given) - set(_KNOWN)))
