"""Batches out of a clip store, reading only the modalities that are trained"""

# B samples of one batch, M modalities, n rows that are read

from typing import Any, assert_never

import numpy as np
import torch
from numpy.typing import NDArray

from remix_study.augment import Draws, choose_frames, mask_spectrograms, move_pictures
from remix_study.media.presets import AudioPreset, FeaturePreset, FlowPreset, VideoPreset
from remix_study.media.store import ClipStore
from remix_study.sample import Batch


class ClipReader:
    """Gathers rows, moves them to `device` as stored, and transforms and normalises them there.

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
        self._statistics = {
            m: tuple(torch.from_numpy(np.asarray(each, np.float64)).to(device, torch.float32) for each in of)
            for m, of in store.statistics.items()
        }

    def read(
        self,
        samples_B: NDArray[np.int64],
        active_BM: NDArray[np.bool_],
        *,
        read_inactive: bool = False,
        draws: Draws | None = None,
    ) -> Batch:
        """Rows `samples_B` of the store; of each modality only those active, or all with `read_inactive`.

        Float32: audio (n, 1, F, T), or (n, 1, T, F) for filter banks; video (n, 3, T, H, W); flow (n, 2, T, H, W);
        features (n, D), (n, T, D) or (n, 1, F, T). With `draws` they are augmented.
        """
        wanted = (len(samples_B), len(self.modalities))
        if active_BM.shape != wanted:
            raise ValueError(f"active_BM must have shape {wanted}, but has {active_BM.shape}")
        inputs: dict[str, torch.Tensor] = {}
        for column, modality in enumerate(self.modalities):
            chosen_B = np.ones(len(samples_B), np.bool_) if read_inactive else active_BM[:, column]
            if chosen_B.any():
                self.rows_read[modality] += int(chosen_B.sum())
                inputs[modality] = self._input(
                    modality, samples_B[chosen_B], None if draws is None else draws.of(chosen_B)
                )
        return Batch(
            modalities=self.modalities,
            inputs=inputs,
            active_BM=torch.from_numpy(active_BM.copy()).to(self.device),
            labels_B=torch.from_numpy(self.store.labels_N[samples_B]).to(self.device),
            samples_B=torch.from_numpy(samples_B.copy()).to(self.device),
        )

    def _input(self, modality: str, rows: NDArray[np.int64], draws: Draws | None) -> torch.Tensor:
        mean, deviation = self._statistics[modality]
        match self.store.preset.parts[modality]:
            case VideoPreset() | FlowPreset() as part:
                return self._pictures(modality, part, rows, draws)
            case AudioPreset() as part:
                values = self._moved(self.store.gather(modality, rows)).sub_(mean).div_(deviation)
                if draws is not None:
                    values = mask_spectrograms(values, part.time_axis, draws, modality)
                return values.unsqueeze(1)
            case FeaturePreset() as part:
                values = self._moved(self.store.gather(modality, rows)).sub_(mean).div_(deviation)
                values = torch.nan_to_num_(values, nan=0.0)  # a gap is the mean
                return values.unsqueeze(1) if part.layout == "image" else values
            case unreachable:
                assert_never(unreachable)

    def _pictures(
        self, modality: str, part: VideoPreset | FlowPreset, rows: NDArray[np.int64], draws: Draws | None
    ) -> torch.Tensor:
        mean, deviation = self._statistics[modality]
        frames_nT = None
        if part.candidates > 1:  # else the store has what is seen
            frames_nT = choose_frames(part.frames, part.candidates, len(rows), draws, modality)
        values = self._moved(self.store.gather(modality, rows, frames_nT))
        if draws is not None:
            values = move_pictures(values, draws, modality, flow=isinstance(part, FlowPreset))
        # Statistics are of pixels / 255.
        values = values.mul_(1 / (255 * deviation)).sub_(mean / deviation).permute(0, 4, 1, 2, 3)
        # Stored channels last: the permuted view already is, and folds into 4-D without a copy; crops are not.
        layout = torch.channels_last_3d if self._channels_last else torch.contiguous_format
        return values.contiguous(memory_format=layout)

    def _moved(self, rows: NDArray[Any]) -> torch.Tensor:
        """On the device, as a float32 tensor of its own."""
        stored = torch.from_numpy(rows)
        if self.device.type == "cuda":
            stored = stored.pin_memory()
        return stored.to(self.device, non_blocking=True).float()
