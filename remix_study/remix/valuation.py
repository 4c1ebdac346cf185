"""SMV: train more on the modalities that contribute less to a sample (Wei et al., CVPR 2024, arXiv 2309.06255)

    v(S)    |S| if the fused head is right about the sample with only the modalities S active, else 0; v of none is 0
    phi_m   the Shapley value of modality m under v; the mean over the modalities is 1 where all together are right

From epoch `begin` on, copies of samples that train one modality alone are added to the epoch:
    sample    clip(round(2 strength (1 - phi_m)), 0, 3) copies of each sample for each of its modalities m
    modality  with gap_m = 1 - mean of phi_m: (2/3) strength (gap_m - smallest gap) N random samples for each m
The samples themselves train all modalities, and batches mix both.

The valuation uses all training samples as they are stored, in the pass that the rules of an epoch share. Copies of more
than two modalities train the one that contributes less alone, which is ours.
"""

# N training samples, M modalities, n copies, T steps, B samples of one global batch

from collections.abc import Callable, Mapping, Sequence
from itertools import chain, combinations
from math import factorial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from remix_study.epoch import Passes, PlannedEpoch, ScoreFunction, ScoringPass, Statistic
from remix_study.remix.assignment import everything_joint
from remix_study.remix.plan import ConstantPlan, require_steps
from remix_study.remix.schedule import Reassembly, mix
from remix_study.seeds import stream

Level = Literal["sample", "modality"]

_MOST_COPIES = 3  # of a sample for one modality, as in the released code


class ValuationPlan:
    """See the module docstring.

    Args:
        level: whether copies depend on the values of each sample, or on their means.
        strength: 0 adds no copies. Published: 1.
        begin: the first epoch with copies.
        end: the epoch before which they end; None: never.
        modalities: names of the M columns.
        samples: N.
        how: how batches are formed.
        seed: seed of the run.
    """

    needs: frozenset[Statistic] = frozenset({"subsets"})
    needs_of_control: frozenset[Statistic] = frozenset()

    def __init__(
        self,
        level: Level,
        strength: float,
        begin: int,
        end: int | None,
        modalities: Sequence[str],
        samples: int,
        how: Reassembly,
        seed: int,
    ) -> None:
        self._level, self._strength, self._begin, self._end = level, strength, begin, end
        self._modalities, self._samples, self._how, self._seed = tuple(modalities), samples, how, seed
        self._joint = ConstantPlan(everything_joint(samples, len(self._modalities)), how, seed)
        self._passes: Passes | None = None  # of the epoch that is planned next

    def due(self, epoch: int) -> bool:
        return self._begin <= epoch and (self._end is None or epoch < self._end)

    def inform(self, passes: Passes) -> None:
        self._passes = passes

    def plan(self, epoch: int, run_scoring_pass: Callable[[ScoreFunction], ScoringPass]) -> PlannedEpoch:
        passes, self._passes = self._passes, None
        if passes is None:
            return self._joint.plan(epoch, run_scoring_pass)
        found = passes.train()
        assert found.right is not None
        value_NM = values(found.right, self._modalities)
        draw = stream(self._seed, "smv", epoch)
        copy_NM = self._copies(value_NM, draw) * found.available_NM
        metrics = {f"method/smv/value/{m}": float(value_NM[:, c].mean()) for c, m in enumerate(self._modalities)}
        metrics |= {f"method/smv/copies/{m}": float(copy_NM[:, c].mean()) for c, m in enumerate(self._modalities)}
        if not copy_NM.any():
            planned = self._joint.plan(epoch, run_scoring_pass)
            return PlannedEpoch(planned.schedule, metrics)
        sample_n, column_n = (np.repeat(index, copy_NM.ravel()) for index in np.indices(copy_NM.shape).reshape(2, -1))
        samples = np.concatenate([np.arange(self._samples), sample_n])
        one_MM = np.eye(len(self._modalities), dtype=np.bool_)
        active = np.concatenate([np.ones((self._samples, len(one_MM)), np.bool_), one_MM[column_n]])
        # The samples themselves have the keys that they have in joint training.
        key_N = stream(self._seed, "reassemble", epoch).random(self._samples)
        key = np.concatenate([key_N, draw.random(len(sample_n))])
        return PlannedEpoch(require_steps(mix(samples, active, key, self._how), epoch), metrics)

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """There is no state to restore: the copies are those of one epoch."""

    def _copies(self, value_NM: NDArray[np.float64], draw: np.random.Generator) -> NDArray[np.int64]:
        """The number of copies of each sample that train each modality alone."""
        if self._level == "sample":
            # Halves are rounded up, not to even numbers.
            wanted_NM = np.floor(2 * self._strength * (1 - value_NM) + 0.5)
            return np.clip(wanted_NM, 0, _MOST_COPIES).astype(np.int64)
        gap_M = 1 - value_NM.mean(axis=0)
        count_M = np.floor(2 / 3 * self._strength * (gap_M - gap_M.min()) * self._samples + 0.5).astype(np.int64)
        copy_NM = np.zeros(value_NM.shape, np.int64)
        for column, count in enumerate(count_M):
            drawn_n = np.resize(draw.permutation(self._samples), count)
            copy_NM[:, column] = np.bincount(drawn_n, minlength=self._samples)
        return copy_NM


def values(right: Mapping[frozenset[str], NDArray[np.bool_]], modalities: Sequence[str]) -> NDArray[np.float64]:
    """phi, (N, M), in [-(M - 1) / 2, (M + 1) / 2].

    Args:
        right: set of modalities -> whether the fused head is right about each sample with only these active.
        modalities: names of the M columns.
    """
    M = len(modalities)
    columns = []
    for m in modalities:
        others = [other for other in modalities if other != m]
        smaller = chain.from_iterable(combinations(others, size) for size in range(M))
        gains = [
            factorial(len(S)) * factorial(M - len(S) - 1) / factorial(M)
            * ((len(S) + 1) * right[frozenset({*S, m})].astype(np.float64) - len(S) * right[frozenset(S)])
            for S in smaller
        ]  # fmt: skip
        columns.append(np.sum(gains, axis=0))
    return np.stack(columns, axis=1)
