"""Batches out of a clip store, reading only the modalities that are trained"""

# B samples of one batch, M modalities, n rows that are read

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from remix_study.media.store import ClipStore
from remix_study.modality import AUDIO, VIDEO
from remix_study.sample import Batch


class ClipReader:
    """Gathers rows, moves them to `device` as stored, and normalises there by the training split's mean and deviation.

    `modalities`: the M axis of what is read, by default all that the store has. `rows_read[m]` counts the rows of
    modality m read so far.
    """

    def __init__(
        self,
        store: ClipStore,
        device: torch.device,
        channels_last: bool = False,
        modalities: tuple[str, ...] | None = None,
    ) -> None:
        self.store = store
        self.device = device
        self.modalities = store.modalities if modalities is None else modalities
        self._channels_last = channels_last
        self.rows_read: dict[str, int] = dict.fromkeys(self.modalities, 0)

    def read(self, samples_B: NDArray[np.int64], active_BM: NDArray[np.bool_], *, read_inactive: bool = False) -> Batch:
        """Rows `samples_B` of the store; of each modality only those active, or all with `read_inactive`.

        Audio becomes float32 (n, 1, F, T), video float32 (n, 3, T, H, W).
        """
        wanted = (len(samples_B), len(self.modalities))
        if active_BM.shape != wanted:
            raise ValueError(f"active_BM must have shape {wanted}, but has {active_BM.shape}")
        inputs: dict[str, torch.Tensor] = {}
        for column, modality in enumerate(self.modalities):
            rows = samples_B if read_inactive else samples_B[active_BM[:, column]]
            if len(rows):
                self.rows_read[modality] += len(rows)
                inputs[modality] = self._normalised(modality, self.store.gather(modality, rows))
        return Batch(
            modalities=self.modalities,
            inputs=inputs,
            active_BM=torch.from_numpy(active_BM.copy()).to(self.device),
            labels_B=torch.from_numpy(self.store.labels_N[samples_B]).to(self.device),
            samples_B=torch.from_numpy(samples_B.copy()).to(self.device),
        )

    def _normalised(self, modality: str, rows: NDArray[Any]) -> torch.Tensor:
        mean, deviation = self.store.statistics[modality]
        stored = torch.from_numpy(rows)
        if self.device.type == "cuda":
            stored = stored.pin_memory()
        values = stored.to(self.device, non_blocking=True).float()
        if modality == VIDEO:  # pixels, statistics are of pixels / 255
            values = values.mul_(1 / (255 * deviation)).sub_(mean / deviation).permute(0, 4, 1, 2, 3)
            # Stored channels last: the permuted view already is, and folds into 4-D without a copy.
            return values if self._channels_last else values.contiguous()
        values = values.sub_(mean).div_(deviation)
        return values.unsqueeze(1) if modality == AUDIO else values
