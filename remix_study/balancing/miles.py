"""MILES: lower learning rates for encoders whose modality is used more (Guerra-Manzanares, Shamout, IJCNN 2025)

Before every epoch but the first, on the control split, with v(S) the accuracy of the fused head with the modalities S:

    u_m        (v(all) - v(all without m)) / v(all), the conditional utilisation of modality m
    factor_m   `factor` if u_m - mean of the others' u > threshold, else 1

The learning rate of encoder m is multiplied by factor_m for the epoch. For two modalities, the difference is u_1 - u_2,
as published (arXiv 2510.17394); the mean over the others is ours. A factor lasts for one epoch and does not compound.
"""

# N control samples, M modalities

from collections.abc import Mapping, Sequence
from typing import Any

from remix_study.balancing.acting import Window
from remix_study.balancing.slots import EpochStart
from remix_study.epoch import SplitStatistics, Statistic


class MILES:
    """See the module docstring.

    Args:
        modalities: the modalities of the model, in its order.
        threshold: difference of utilisations above which an encoder is slowed down, at least 0.
        factor: of its learning rate, in (0, 1]; 1 changes nothing.
        window: epochs in which the rule acts.
    """

    name = "miles"
    needs: frozenset[Statistic] = frozenset(("subsets",))
    changes_model = False

    def __init__(self, modalities: Sequence[str], threshold: float, factor: float, *, window: Window) -> None:
        self._modalities = tuple(modalities)
        self._threshold, self._factor, self._window = threshold, factor, window
        self._factors: dict[str, float] = {}
        self._found: dict[str, float] = {}

    def due(self, epoch: int) -> bool:
        """Whether the factors are set before this epoch. After the window, they are reset once."""
        return epoch > 0 and (epoch in self._window or epoch == self._window.end)

    def begin(self, start: EpochStart) -> None:
        if start.epoch not in self._window:
            self._factors = {}
            return
        used = utilisation(start.passes.control(), self._modalities)
        self._factors = {}
        for m in self._modalities:
            others = [used[other] for other in self._modalities if other != m]
            ahead = used[m] - sum(others) / len(others)
            self._factors[m] = self._factor if ahead > self._threshold else 1.0
        self._found = {f"method/miles/utilisation/{m}": value for m, value in used.items()}
        self._found |= {f"method/miles/factor/{m}": value for m, value in self._factors.items()}

    def factors(self) -> Mapping[str, float]:
        """Modality -> the factor of its encoder's learning rate."""
        return self._factors

    def metrics(self) -> dict[str, float]:
        found, self._found = self._found, {}
        return found

    def state(self) -> dict[str, Any]:
        return {"factors": dict(self._factors), "found": dict(self._found)}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._factors, self._found = dict(state["factors"]), dict(state["found"])


def utilisation(found: SplitStatistics, modalities: Sequence[str]) -> dict[str, float]:
    """Modality -> u_m, at most 1; 0 for all if the fused head is never right."""
    assert found.right is not None
    everything = frozenset(modalities)
    value = float(found.right[everything].mean())
    if value == 0:
        return dict.fromkeys(modalities, 0.0)
    return {m: (value - float(found.right[everything - {m}].mean())) / value for m in modalities}
