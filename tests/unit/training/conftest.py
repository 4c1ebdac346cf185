from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from remix_study.balancing.relearning import Relearning
from remix_study.training.run import Run

Assembled = Callable[..., Run]


@pytest.fixture
def without_batchnorm(assembled: Assembled) -> Assembled:
    """Return `assembled` with encoders without BatchNorm, initialised so that signals keep their size."""

    def make(*args: Any, **kwargs: Any) -> Run:
        run = assembled(*args, **kwargs)
        for encoder in run.model.encoders.values():
            layers = encoder.layers
            assert isinstance(layers, nn.Sequential)
            for number, layer in enumerate(layers):
                if isinstance(layer, _BatchNorm):
                    layers[number] = nn.Identity()
            for parameter in encoder.parameters():
                nn.init.kaiming_normal_(parameter, generator=torch.Generator().manual_seed(1))
        run.optimizer.param_groups[0]["params"] = list(run.model.parameters())
        initial = deepcopy(run.model)
        for rule in run.method.rules:
            if isinstance(rule, Relearning):
                rule._initial = lambda: initial
        return run

    return make
