"""Fixtures that build small models and batches"""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from remix_study.models import (
    CentralNetFusion,
    Encoder,
    Fusion,
    ImageEncoder,
    MMTMFusion,
    MultimodalModel,
    TinyEncoder,
    VectorEncoder,
)
from remix_study.sample import Batch

BuildModel = Callable[..., MultimodalModel]
BuildBatch = Callable[..., Batch]
SHAPES: dict[str, Any] = {"audio": (1, 32, 32), "video": (3, 2, 32, 32), "flow": (2, 1, 24, 40), "text": (10,)}


@pytest.fixture
def build_model() -> BuildModel:
    def build(fusion: type[Fusion], modalities: Sequence[str] = ("audio", "video"), seed: int = 0) -> MultimodalModel:
        torch.manual_seed(seed)
        encoders: dict[str, Encoder] = {
            "audio": TinyEncoder(1),
            "video": TinyEncoder(3),
            "flow": TinyEncoder(2),
            "text": VectorEncoder(10, width=12),
        }
        chosen = {m: encoders[m] for m in modalities}
        staged = {m: e for m, e in chosen.items() if isinstance(e, ImageEncoder)}
        between: Fusion
        if issubclass(fusion, MMTMFusion):
            between = fusion(staged, num_classes=4)
        elif issubclass(fusion, CentralNetFusion):
            between = fusion(staged, num_classes=4, sizes={m: SHAPES[m][-2:] for m in staged})
        else:
            between = fusion({m: e.out_features for m, e in chosen.items()}, num_classes=4)
        model = MultimodalModel(chosen, between)
        for head in model.heads.values():  # not 0, where a missing bias would go unnoticed
            assert isinstance(head, torch.nn.Linear)
            torch.nn.init.normal_(head.bias)
        return model

    return build


@pytest.fixture
def build_batch() -> BuildBatch:
    def build(
        active: Sequence[Sequence[int]], modalities: tuple[str, ...] = ("audio", "video"), all_rows: bool = False
    ) -> Batch:
        """Return a batch of random inputs.

        Args:
            active: which modalities (columns) of which samples (rows) are active.
            all_rows: whether inputs have the rows of all samples, as for zero_feature. Otherwise they only have active
                rows, and a modality without active rows is absent.
        """
        generator = torch.Generator().manual_seed(1)
        active_BM = torch.tensor(active, dtype=torch.bool)
        B = len(active_BM)
        inputs = {}
        for column, m in enumerate(modalities):
            x = torch.randn(B, *SHAPES[m], generator=generator)
            if all_rows:
                inputs[m] = x
            elif active_BM[:, column].any():
                inputs[m] = x[active_BM[:, column]]
        return Batch(modalities, inputs, active_BM, torch.arange(B) % 4, torch.arange(B))

    return build
