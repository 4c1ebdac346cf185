"""Balanced rotation: samples take turns, so that each sees every modality in proportion to its share

Let n_m be the number of samples that modality m gets in this assignment, c_im how often sample i has trained m before,
and N_m = sum_i c_im the number that m has had before. The deficit of sample i in m is

    d_im = (N_m + n_m) / N - c_im

The assignment maximises the sum of the deficits under the exact numbers n_m. Ties are broken at random. If the n_m are
equal, every sample trains each modality once in any M consecutive assignments that start at a multiple of M. Otherwise,
c_im stays close to N_m / N, while with random assignments the difference grows as the square root of their number. No
score is needed.
"""

# N training samples, M modalities in training order

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from remix_study.remix.assignment import Assignment
from remix_study.remix.filtering import Scores, Shares, cheapest, target_counts


@dataclass(frozen=True)
class Rotation:
    """Control: balanced rotation, see the module docstring.

    Args:
        seen_NM: int (N, M), how often each sample has trained each modality before; None: never.
    """

    seen_NM: NDArray[np.int64] | None = None
    needs_scores = False

    def __call__(self, scores_NM: Scores, shares_M: Shares, draw: np.random.Generator) -> Assignment:
        samples, modalities = scores_NM.shape
        seen_NM = np.zeros(scores_NM.shape, np.int64) if self.seen_NM is None else self.seen_NM
        shares_M = np.full(modalities, 1 / modalities) if shares_M is None else shares_M
        due_M = (seen_NM.sum(axis=0) + target_counts(samples, shares_M)) / max(samples, 1)
        # Two sums of deficits differ by a multiple of 1 / N. The noise of all samples together is smaller.
        noise_NM = draw.random(seen_NM.shape) / max(samples, 1) ** 2
        chosen_N = cheapest(seen_NM - due_M + noise_NM, shares_M, draw)
        return Assignment(np.eye(modalities, dtype=np.bool_)[chosen_N], np.zeros(samples, np.bool_))
