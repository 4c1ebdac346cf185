"""Saving a trained model as an MLflow model: one tensor per modality in, logits out

The model is pickled, not exported as a graph (MLflow's default, `pt2`). An export restricts what the model may do in
Python and takes seconds instead of milliseconds, and a process that loads our models has remix_study installed anyway.
Load pickles only from sources that you trust. The model is written to a local folder first and sent like other data, so
that an error leaves no incomplete entry on the server.
"""

import copy
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from remix_study.metrics.late_product import LOWEST
from remix_study.mlflow_private import PICKLE_WARNING
from remix_study.models import MultimodalModel
from remix_study.sample import Batch

# B samples, C classes


class FusedLogits(nn.Module):
    """Module that takes one tensor (B, ...) per modality, in the order of `modalities`, and returns logits (B, C).

    A modality given as None, or without rows, is missing: the fusion reads its replacement (`masking` of the run).

    `view` chooses the predictions: `fused` (default) are the logits of the fused head, `late_calibrated` the
    log-probabilities of the calibrated late product of the modalities given (docs/metrics.md). The product runs each
    encoder once, and no fusion.

    Args:
        model: `model(batch).logits_BC` must be the fused logits, as of `models.late_fusion.MultimodalModel`.
        modalities: their names.
        exponents: modality -> exponent in the calibrated late product; None: the model does not have it.
    """

    exponents: Mapping[str, float] | None = None  # of models that an earlier version pickled

    def __init__(
        self, model: nn.Module, modalities: tuple[str, ...], exponents: Mapping[str, float] | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.modalities = modalities
        self.exponents = exponents

    def forward(self, *inputs: Tensor | None, view: Literal["fused", "late_calibrated"] = "fused") -> Tensor:
        if len(inputs) != len(self.modalities):
            raise ValueError(f"`inputs` must be one tensor for each of {self.modalities}, but are {len(inputs)}")
        given = {m: x for m, x in zip(self.modalities, inputs, strict=True) if x is not None and len(x) > 0}
        if not given:
            raise ValueError(f"`inputs` must hold at least one of {self.modalities}, but all are None or have no rows")
        if len({len(x) for x in given.values()}) > 1:
            found = ", ".join(f"{m} {len(x)}" for m, x in given.items())
            raise ValueError(f"`inputs` must have the same number of rows for each modality, but have {found}")
        if view == "late_calibrated":
            return self._late_product(given)
        if view != "fused":
            raise ValueError(f"`view` must be fused or late_calibrated, but is {view}")
        rows, device = next((len(x), x.device) for x in given.values())
        active_M = torch.tensor([m in given for m in self.modalities], device=device)
        batch = Batch(
            modalities=self.modalities,
            inputs=given,
            active_BM=active_M.expand(rows, -1),
            labels_B=torch.zeros(rows, dtype=torch.int64, device=device),
            samples_B=torch.arange(rows, device=device),
        )
        logits_BC: Tensor = self.model(batch).logits_BC
        return logits_BC

    def _late_product(self, inputs: Mapping[str, Tensor]) -> Tensor:
        if self.exponents is None:
            raise ValueError(
                "`view` must be fused, because this model has no exponents for the calibrated late product: its "
                "unimodal heads are not trained, or an earlier version saved it"
            )
        assert isinstance(self.model, MultimodalModel)  # others have no exponents
        sums_BC = torch.zeros(())
        for m, x in inputs.items():
            logs_BC = self.model.classify(m, self.model.encode(m, x)).log_softmax(dim=1).clamp(min=LOWEST)
            sums_BC = sums_BC.to(logs_BC.device) + self.exponents[m] * logs_BC
        return sums_BC.log_softmax(dim=1)


def save_model(model: nn.Module, example: Batch, folder: Path, exponents: Mapping[str, float] | None = None) -> None:
    """Write an MLflow model without a run id into `folder`, and delete its former content.

    Args:
        model: see `FusedLogits`.
        example: a batch with all rows of every modality, from which the signature is inferred.
        folder: is created.
        exponents: see `FusedLogits`.

    Raises:
        ValueError: `example` lacks a modality, or rows of one.
    """
    import mlflow.pytorch
    import numpy as np
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    rows = len(example.active_BM)
    for name in example.modalities:
        if name not in example.inputs or len(example.inputs[name]) != rows:
            raise ValueError(f"`example` must have all {rows} rows of {name}")
    # A copy on the CPU, because training continues with the model's device and mode.
    scored = FusedLogits(copy.deepcopy(model).cpu(), example.modalities, exponents).eval()
    inputs = [example.inputs[name].detach().cpu() for name in example.modalities]
    with torch.no_grad():
        logits_BC = scored(*inputs)
    signature = ModelSignature(
        inputs=Schema(
            [
                TensorSpec(x.numpy().dtype, (-1, *x.shape[1:]), name)
                for name, x in zip(example.modalities, inputs, strict=True)
            ]
        ),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, logits_BC.shape[1]), "logits")]),
    )
    shutil.rmtree(folder, ignore_errors=True)
    logging.getLogger("mlflow.pytorch").addFilter(_not_the_pickle_warning)
    mlflow.pytorch.save_model(
        scored,
        folder,
        mlflow_model=Model(),
        signature=signature,
        serialization_format="pickle",
        # Given, because MLflow otherwise loads the model in a second process to infer them.
        pip_requirements=["remix-study", f"torch=={torch.__version__.partition('+')[0]}"],
    )


def _not_the_pickle_warning(record: logging.LogRecord) -> bool:
    # The module docstring says it once; MLflow logs it for each model.
    return PICKLE_WARNING not in record.getMessage()
