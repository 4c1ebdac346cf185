"""Which clips of a rendered corpus are informative in which modality"""

# N rows, M modalities

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from remix_study.media.store import ClipStore
from remix_study.modality import AUDIO

INFORMATIVE = "informative"


def informative_NM(store: ClipStore, rows_N: NDArray[np.int64], modalities: Sequence[str]) -> NDArray[np.bool_] | None:
    """Whether each row shows its class in each modality, (N, M); None if the corpus does not say it of all rows.

    With `--interaction xor`, a modality shows a pair of classes in some rows, and counts as informative.
    """
    found = [informative(store.truth[row]) for row in rows_N]
    if any(by_modality is None or not set(modalities) <= by_modality.keys() for by_modality in found):
        return None
    return np.array(
        [[by_modality[m] for m in modalities] for by_modality in found if by_modality is not None], np.bool_
    )


def informative(truth: Mapping[str, Any]) -> Mapping[str, bool] | None:
    """Whether a clip shows its class in each modality, from its `truth`; None if that does not say it.

    Corpora of tones and gratings without newer options say only whether the audio is muted (datasets/synthetic.py).
    """
    found = truth.get(INFORMATIVE)
    if isinstance(found, Mapping) and all(isinstance(each, bool) for each in found.values()):
        return found
    if isinstance(muted := truth.get("muted"), bool) and "audio_snr_db" in truth:
        return {AUDIO: not muted, "video": True}
    return None
