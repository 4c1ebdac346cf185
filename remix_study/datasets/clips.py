"""Reading batches from a clip store, only of the modalities that are trained"""

# B samples of one batch, M modalities, n rows that are read

from typing import Any, assert_never

import numpy as np
import torch
from numpy.typing import NDArray

from remix_study.augment import Draws, choose_frames, mask_spectrograms, move_pictures
from remix_study.media.presets import AudioPreset, FeaturePreset, FlowPreset, Part, VideoPreset
from remix_study.media.store import ClipStore
from remix_study.sample import Batch


class ClipReader:
    """Reads rows of a store, moves them to a device as stored, and normalises them there.

    Args:
        store: the clip store.
        device: where the batches are needed.
        channels_last: return video in the memory format `channels_last_3d`.
        modalities: the M modalities to read, in order; by default all of the store.

    Attributes:
        rows_read: number of rows read so far, by modality.
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
        """Read a batch.

        Args:
            samples_B: row numbers of the store.
            active_BM: for each sample, the modalities to read.
            read_inactive: read all modalities of all samples, whatever `active_BM` is.
            draws: random numbers for the augmentation; None means no augmentation.

        Returns:
            A batch with float32 inputs, of the n samples that are read: audio (n, 1, F, T), or (n, 1, T, F) for filter
            banks; video (n, 3, T, H, W); flow (n, 2, T, H, W); features (n, D), (n, T, D) or (n, 1, F, T).

        Raises:
            ValueError: `active_BM` has another shape than (B, M).
            StoreError: a file of the store is damaged.
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

    def sample_shapes(self) -> dict[str, torch.Size]:
        """Modality -> the shape of the input of one sample, with B = 1. Reads a row without counting it."""
        return {m: self._input(m, np.zeros(1, np.int64), None).shape for m in self.modalities}

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
                values = torch.nan_to_num_(values, nan=0.0)  # missing values become the mean
                return values.unsqueeze(1) if part.layout == "image" else values
            case unreachable:
                assert_never(unreachable)

    def _pictures(
        self, modality: str, part: VideoPreset | FlowPreset, rows: NDArray[np.int64], draws: Draws | None
    ) -> torch.Tensor:
        mean, deviation = self._statistics[modality]
        frames_nT = None
        if part.candidates > 1:  # otherwise the store holds exactly the frames to read
            frames_nT = choose_frames(part.frames, part.candidates, len(rows), draws, modality)
        values = self._moved(self.store.gather(modality, rows, frames_nT))
        if draws is not None:
            values = move_pictures(values, draws, modality, flow=isinstance(part, FlowPreset))
        # Statistics are of pixels / 255.
        values = values.mul_(1 / (255 * deviation)).sub_(mean / deviation).permute(0, 4, 1, 2, 3)
        # Rows are stored channels last, so the permuted view is contiguous in that format, unless it was cropped.
        layout = torch.channels_last_3d if self._channels_last else torch.contiguous_format
        return values.contiguous(memory_format=layout)

    def _moved(self, rows: NDArray[Any]) -> torch.Tensor:
        """The rows on the device, as a new float32 tensor."""
        stored = torch.from_numpy(rows)
        if self.device.type == "cuda":
            stored = stored.pin_memory()
        return stored.to(self.device, non_blocking=True).float()


def input_shape(part: Part) -> tuple[int, ...]:
    """The shape of the input of one sample of a modality, without the dimension of the batch."""
    match part:
        case VideoPreset() | FlowPreset():
            frames, height, width, channels = part.shape
            return channels, frames // part.candidates, height, width
        case AudioPreset():
            return 1, *part.shape
        case FeaturePreset():
            return (1, *part.shape) if part.layout == "image" else part.shape
        case unreachable:
            assert_never(unreachable)
