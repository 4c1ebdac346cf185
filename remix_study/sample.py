"""A sample as a manifest row (`Clip`) and as the input of a model (`Batch`)"""

# B samples of one batch, M modalities

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NewType

import torch

SampleId = NewType("SampleId", str)
Fact = bool | int | float | str
Truth = Fact | Mapping[str, Fact]
"""A further fact about a clip, or one fact by modality"""


@dataclass(frozen=True, slots=True)
class Clip:
    """One row of a manifest.

    `paths`: the file of each modality; audio and video may have the same file. `start`, `end`: seconds within the
    file (None: from the beginning, to the end). `group`: clips of one group, such as an actor, must be in one split.
    `truth`: further facts about a clip, such as whether its audio was muted, or `{"informative": {"audio": false}}`.
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
    """A batch for a model.

    `inputs[m]`: all B rows, or only those with `active_BM[:, m]`, in batch order; it may lack modalities without active
    rows. `active_BM`: bool, columns follow `modalities`. `samples_B`: row numbers of the clip store.
    """

    modalities: tuple[str, ...]
    inputs: Mapping[str, torch.Tensor]
    active_BM: torch.Tensor
    labels_B: torch.Tensor
    samples_B: torch.Tensor
