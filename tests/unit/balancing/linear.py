"""Linear models and batches for tests of rules"""

# B samples of the global batch, M modalities, C classes

import numpy as np
import torch
from torch import nn

from remix_study.balancing import Method, Step, StepBatch
from remix_study.models import Encoder, Fusion, MultimodalModel
from remix_study.remix import ConstantPlan, Reassembly, everything_joint
from remix_study.sample import Batch
from remix_study.training.step import step_batch, train_step
from remix_study.world import Collectives, Solo

ROWS, CLASSES = 6, 4
AT = Step(2, 5, multimodal=ROWS)


class Projection(Encoder):
    """A linear layer with bias: one weight that OGM scales, and one parameter that it leaves alone."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out_features = width
        self.layer = nn.Linear(3, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layer(x)
        return found


def model_of(fusion: type[Fusion], modalities: tuple[str, ...] = ("audio", "video")) -> MultimodalModel:
    torch.manual_seed(0)
    widths = {m: 2 + n for n, m in enumerate(modalities)}
    model = MultimodalModel({m: Projection(width) for m, width in widths.items()}, fusion(widths, CLASSES))
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


def batch_of(model: MultimodalModel, active: np.ndarray | None = None) -> Batch:
    draw = torch.Generator().manual_seed(1)
    active_BM = (
        torch.ones(ROWS, len(model.modalities), dtype=torch.bool) if active is None else torch.from_numpy(active)
    )
    inputs = {m: torch.randn(ROWS, 3, generator=draw) for m in model.modalities}
    labels_B = torch.randint(CLASSES, (ROWS,), generator=draw)
    return Batch(model.modalities, inputs, active_BM, labels_B, torch.arange(ROWS))


def seen(model: MultimodalModel, batch: Batch, at: Step = AT) -> StepBatch:
    """What a rule sees of a batch after the forward pass."""
    return step_batch(model, batch, model(batch), at)


def part_of(batch: Batch, rows: slice) -> Batch:
    """Some samples of a batch."""
    inputs = {m: x[rows] for m, x in batch.inputs.items()}
    return Batch(batch.modalities, inputs, batch.active_BM[rows], batch.labels_B[rows], batch.samples_B[rows])


def alone_of(batch: Batch, modality: str) -> Batch:
    """A unimodal batch of the same samples, whose other encoders do not run."""
    active_BM = torch.zeros_like(batch.active_BM)
    active_BM[:, batch.modalities.index(modality)] = True
    inputs = {modality: batch.inputs[modality]}
    return Batch(batch.modalities, inputs, active_BM, batch.labels_B, batch.samples_B)


def gradients_of(
    model: MultimodalModel, batch: Batch, *rules: object, at: Step = AT, collectives: Collectives | None = None
) -> dict[str, torch.Tensor]:
    """The gradients of one step of this rank's part of ROWS samples, by the parameter's name; without those of None."""
    plan = ConstantPlan(everything_joint(ROWS, 2), Reassembly("blocks", (1, 0), ROWS), 0)
    still = torch.optim.SGD(model.parameters(), lr=0.0)
    train_step(
        model, Method("m", plan, rules), batch, ROWS, still, collectives or Solo(), at=at, autocast=False,
        clip_norm=None,
    )  # fmt: skip
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
