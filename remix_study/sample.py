"""What a sample is: a manifest row (`Clip`) and what a model receives (`Batch`)"""

# B samples of one batch, M modalities

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NewType

import torch

SampleId = NewType("SampleId", str)
Truth = bool | int | float | str


@dataclass(frozen=True, slots=True)
class Clip:
    """One row of a manifest.

    `paths` gives the file of each modality; audio and video may name the same file. `start` and `end` are seconds
    within the file (None: from the beginning, to the end). `group` is what must not cross splits, such as an actor.
    `truth` is ground truth that only a generator knows, such as whether the audio was muted.
    """

    id: SampleId
    paths: Mapping[str, str]
    label: str
    split: str
    group: str | None = None
    start: float | None = None
    end: float | None = None
    truth: Mapping[str, Truth] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Batch:
    """What a model receives.

    `inputs[m]` has either all B rows, or only those with `active_BM[:, m]`, in batch order; a modality that is active
    nowhere may be absent. `active_BM` columns follow `modalities`. `samples_B` are row numbers of the clip store.
    """

    modalities: tuple[str, ...]
    inputs: Mapping[str, torch.Tensor]
    active_BM: torch.Tensor
    labels_B: torch.Tensor
    samples_B: torch.Tensor
