"""Uniform random numbers of samples, which depend on seed, purpose, epoch and sample only"""

# B samples of a micro-batch, K numbers of a sample

import torch

from remix_study.seeds import stream


class SampleDraws:
    """Uniform random numbers in [0, 1) for every sample and epoch.

    Args:
        seed: of the run.
        purpose: of the numbers.
        rows: number of rows of the clip store that may occur.
        columns: K.
    """

    def __init__(self, seed: int, purpose: str, rows: int, columns: int) -> None:
        self._seed, self._purpose, self._shape = seed, purpose, (rows, columns)
        self._epoch = -1
        self._table = torch.empty(0)  # of this epoch

    def of(self, epoch: int, samples_B: torch.Tensor) -> torch.Tensor:
        """The numbers (B, K) of the rows `samples_B` of the clip store, float32, on their device."""
        if epoch != self._epoch or self._table.device != samples_B.device:
            numbers = stream(self._seed, self._purpose, epoch).random(self._shape, dtype="float32")
            self._epoch, self._table = epoch, torch.from_numpy(numbers).to(samples_B.device)
        return self._table[samples_B]
