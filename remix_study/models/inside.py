"""Fusion inside the encoders, between their stages: MMTM and CentralNet

X_m^i are the feature maps of stage i of encoder m, and s_m^i their average over time, height and width (`squeeze`).

    MMTM         e = ReLU(S [s_1^i .. s_M^i] + c),  X_m^i <- k sigmoid(E_m e + d_m) * X_m^i   after every stage but one
                 z = mean over the active m of h_m, as in decision fusion
    CentralNet   c^i = a^i f_i(c^{i-1}) + sum_m a_m^i X_m^i   with a learned scalar for each term, and c^0 = 0
                 z = W average(c^last) + b

MMTM: Joze, Shaban, Iuzzolino, Koishida; CVPR 2020, arXiv 1911.08670. k is 2 in the paper, 1 in its code. The first
stage has no exchange, as in the code of Wu et al. (ICML 2022, arXiv 2202.05306) for ResNet-18. The squeeze of an
inactive modality is replaced by its running mean over the training samples.

CentralNet: Vielzeuf, Lechervy, Pateux, Jurie; ECCV workshops 2018, arXiv 1808.07275. The sum is over the active
modalities. Maps are averaged over time, and over height and width to the smallest size of all modalities.
"""

# B samples, F = B * T frames, M modalities, C channels, H height, W width, K classes

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache

import torch
from torch import nn
from torch.nn import functional

from remix_study.models.encoder import ImageEncoder, average, conv3x3
from remix_study.models.fusion import DecisionFusion, Fusion, linear

CENTRAL = ".central"
"""Where `InnerFusion.encode` returns the features of a network between the encoders; no modality has such a name."""
_MOMENTUM = 0.1  # as that of BatchNorm

Rows = torch.Tensor | None
"""The samples of a batch that an input has, in order; None: all of them."""


class InnerFusion(Fusion):
    """A fusion that needs the encoders' stages, so that features of several modalities are computed together."""

    def encode(
        self,
        encoders: Mapping[str, ImageEncoder],
        inputs: Mapping[str, torch.Tensor],
        rows: Mapping[str, Rows],
        active_BM: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Features (rows, d_m) of the modalities in `inputs`, and those of a network between the encoders, (B, d).

        Args:
            encoders: modality -> encoder.
            inputs: modality -> input of its encoder; modalities without samples are absent.
            rows: modality -> the samples that its input has.
            active_BM: which modalities of which samples are active; columns follow `modalities`.
        """
        raise NotImplementedError

    def encode_alone(self, encoder: ImageEncoder, modality: str, x: torch.Tensor) -> torch.Tensor:
        """Features (B, d_m) of a modality while all others are inactive."""
        active_M = torch.tensor([m == modality for m in self.modalities], device=x.device)
        found = self.encode({modality: encoder}, {modality: x}, {modality: None}, active_M.expand(len(x), -1))
        return found[modality]

    def layers(self) -> list[tuple[nn.Module, tuple[int, ...]]]:
        """Convolutions between the encoders that run for every sample, each with the shape of its input, (1, ...)."""
        return []


class RunningMean(nn.Module):
    """The running mean over training samples of a vector (C,), as BatchNorm's: exact at first, then exponential."""

    mean_C: torch.Tensor
    updates: torch.Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean_C", torch.zeros(size))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def update(self, values_BC: torch.Tensor, counted_B: torch.Tensor) -> None:
        """Add the samples `counted_B` of a batch; a batch without any changes nothing."""
        count = counted_B.sum()
        of_batch_C = (values_BC * counted_B[:, None]).sum(dim=0) / count.clamp(min=1)
        factor = (1 / (self.updates + 1)).clamp(min=_MOMENTUM) * (count > 0)
        self.mean_C += factor * (of_batch_C - self.mean_C)
        self.updates += count > 0


class Exchange(nn.Module):
    """MMTM after one stage: channels of each modality are scaled by a function of the squeezes of all.

    Args:
        channels: modality -> channels of its feature maps.
        ratio, gain, holds: see `MMTMFusion`.
    """

    def __init__(self, channels: Mapping[str, int], ratio: float, gain: float, holds: bool = False) -> None:
        super().__init__()
        self._modalities, self._gain = tuple(channels), gain
        total = sum(channels.values())
        hidden = max(1, int(2 * total / ratio))
        self.squeeze = _kaiming(total, hidden)
        self.excite = nn.ModuleDict({m: _kaiming(hidden, size) for m, size in channels.items()})
        self.means = nn.ModuleDict({m: RunningMean(size) for m, size in channels.items()})
        if holds:
            self.gates = nn.ModuleDict({m: RunningMean(size) for m, size in channels.items()})

    def forward(
        self,
        maps: Mapping[str, torch.Tensor],
        rows: Mapping[str, Rows],
        active_BM: torch.Tensor,
        held_M: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Scaled maps of each modality, m -> (F, C, H, W).

        Args:
            held_M: the modalities whose gates are held; None: there are no running means of gates.
        """
        B = len(active_BM)
        squeezes = []
        for i, m in enumerate(self._modalities):
            running = self.means[m]
            assert isinstance(running, RunningMean)  # for the type checker
            squeeze_BC = running.mean_C.expand(B, -1)
            if m in maps:
                chosen = rows[m]
                active_B = active_BM[:, i]
                own_BC = average(maps[m], B if chosen is None else len(chosen)).float()
                if chosen is None:
                    squeeze_BC = torch.where(active_B[:, None], own_BC, squeeze_BC)
                else:
                    squeeze_BC, active_B = squeeze_BC.index_copy(0, chosen, own_BC), active_B[chosen]
                if self.training:
                    running.update(own_BC.detach(), active_B)
            squeezes.append(squeeze_BC)
        hidden_BE = functional.relu(self.squeeze(torch.cat(squeezes, dim=1)))
        scaled = {}
        for m, maps_FCHW in maps.items():
            chosen = rows[m]
            gate_BC = self._gain * torch.sigmoid(self.excite[m](hidden_BE if chosen is None else hidden_BE[chosen]))
            if held_M is not None and self.training:
                several_B = active_BM.sum(dim=1) > 1
                gate_BC = self._held(m, gate_BC, several_B if chosen is None else several_B[chosen], held_M)
            gate_FC = gate_BC.repeat_interleave(len(maps_FCHW) // len(gate_BC), dim=0)
            scaled[m] = maps_FCHW * gate_FC[:, :, None, None].to(maps_FCHW.dtype)
        return scaled

    def _held(
        self, modality: str, gate_BC: torch.Tensor, several_B: torch.Tensor, held_M: torch.Tensor
    ) -> torch.Tensor:
        """The gates, or their running mean where they are held: in samples that train several modalities."""
        running = self.gates[modality]
        assert isinstance(running, RunningMean)  # for the type checker
        held_B = held_M[self._modalities.index(modality)] & several_B
        found_BC = torch.where(held_B[:, None], running.mean_C, gate_BC)
        running.update(gate_BC.detach(), several_B)
        return found_BC


def _kaiming(in_features: int, out_features: int) -> nn.Linear:
    layer = nn.Linear(in_features, out_features)
    nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
    nn.init.zeros_(layer.bias)
    return layer


class MMTMFusion(InnerFusion, DecisionFusion):
    """Squeeze and excitation across modalities after every stage but the first, then decision fusion.

    Args:
        encoders: modality -> encoder.
        num_classes: K.
        ratio: the hidden layer has 2 / `ratio` times the channels of all modalities.
        gain: k, what the gates are multiplied by.
        holds: whether gates have running means, by which `held_M` replaces them in training.

    Attributes:
        held_M: bool (M,), the modalities whose gates are held; None without `holds`.

    Raises:
        ValueError: the encoders have different numbers of stages.
    """

    splits = False

    def __init__(
        self,
        encoders: Mapping[str, ImageEncoder],
        num_classes: int,
        ratio: float = 4.0,
        gain: float = 2.0,
        holds: bool = False,
    ) -> None:
        super().__init__({m: e.out_features for m, e in encoders.items()}, num_classes)
        self._stages = _stages(encoders)
        channels = [{m: encoders[m].channels[stage] for m in self.modalities} for stage in range(1, self._stages)]
        self.exchanges = nn.ModuleList(Exchange(each, ratio, gain, holds) for each in channels)
        self.held_M: torch.Tensor | None
        self.register_buffer("held_M", torch.zeros(len(self.modalities), dtype=torch.bool) if holds else None)

    def encode(
        self,
        encoders: Mapping[str, ImageEncoder],
        inputs: Mapping[str, torch.Tensor],
        rows: Mapping[str, Rows],
        active_BM: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        maps = {m: encoders[m].images(x) for m, x in inputs.items()}
        for stage in range(self._stages):
            maps = {m: encoders[m].stage(stage, each) for m, each in maps.items()}
            if stage > 0:
                with torch.autocast(active_BM.device.type, enabled=False):
                    maps = self.exchanges[stage - 1](maps, rows, active_BM, self.held_M)
        return {m: average(each, len(inputs[m])) for m, each in maps.items()}

    def gate_parameters(self, modality: str) -> Iterator[nn.Parameter]:
        """The parameters of a modality's gates, with those that the gates of all modalities share."""
        for exchange in self.exchanges:
            assert isinstance(exchange, Exchange)  # for the type checker
            yield from exchange.squeeze.parameters()
            yield from exchange.excite[modality].parameters()


class CentralNetFusion(InnerFusion):
    """A network between the encoders, whose every stage adds the feature maps of all modalities to its own.

    f_i is a 3x3 convolution with BatchNorm and ReLU.

    Args:
        encoders: modality -> encoder.
        num_classes: K.
        sizes: modality -> height and width of its input.

    Raises:
        ValueError: the encoders have different stages.
    """

    def __init__(
        self, encoders: Mapping[str, ImageEncoder], num_classes: int, sizes: Mapping[str, tuple[int, int]]
    ) -> None:
        super().__init__({m: e.out_features for m, e in encoders.items()}, num_classes)
        self._stages = _stages(encoders)
        first, *others = (encoders[m] for m in self.modalities)
        if any((each.channels, each.strides) != (first.channels, first.strides) for each in others):
            raise ValueError(
                "CentralNet needs encoders with the same channels and strides in all stages. Use one encoder for all "
                "modalities."
            )
        self.convolutions = nn.ModuleList(
            nn.Sequential(conv3x3(*pair, stride=stride), nn.BatchNorm2d(pair[1]), nn.ReLU(inplace=True))
            for pair, stride in zip(
                zip(first.channels, first.channels[1:], strict=False), first.strides[1:], strict=True
            )
        )
        M = len(self.modalities)
        # The terms of a stage sum to their mean at first.
        self.scalar_IM = nn.Parameter(torch.full((self._stages, M), 1 / (M + 1)))
        with torch.no_grad():
            self.scalar_IM[0] = 1 / M
        self.scalar_I = nn.Parameter(torch.full((self._stages - 1,), 1 / (M + 1)))
        self.sizes = [
            (min(each[0] for each in of_stage), min(each[1] for each in of_stage))
            for of_stage in zip(*(_map_sizes(sizes[m], first.strides) for m in self.modalities), strict=True)
        ]
        self._channels = first.channels
        self.out = linear(first.out_features, num_classes)

    def encode(
        self,
        encoders: Mapping[str, ImageEncoder],
        inputs: Mapping[str, torch.Tensor],
        rows: Mapping[str, Rows],
        active_BM: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        maps = {m: encoders[m].images(x) for m, x in inputs.items()}
        central: torch.Tensor | None = None
        for stage in range(self._stages):
            maps = {m: encoders[m].stage(stage, each) for m, each in maps.items()}
            if central is not None:
                central = self.scalar_I[stage - 1] * self.convolutions[stage - 1](central)
            for i, m in enumerate(self.modalities):
                if m in maps:
                    own_BCHW = self._brought_together(maps[m], stage, len(inputs[m]), rows[m], active_BM[:, i])
                    term = self.scalar_IM[stage, i] * own_BCHW
                    central = term if central is None else central + term
        found = {m: average(each, len(inputs[m])) for m, each in maps.items()}
        if central is not None:
            found[CENTRAL] = average(central, len(active_BM))
        return found

    def encode_alone(self, encoder: ImageEncoder, modality: str, x: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        features_Bd: torch.Tensor = encoder(x)  # the encoders do not depend on the central network
        return features_Bd

    def forward(
        self,
        features: Mapping[str, torch.Tensor],
        active_BM: torch.Tensor,
        head_logits: Mapping[str, torch.Tensor],  # noqa: ARG002 - required by Fusion
    ) -> torch.Tensor:
        central = features.get(CENTRAL)
        if central is None:  # no modality is active
            central = self.out.weight.new_zeros(len(active_BM), self.out.in_features)
        logits_BK: torch.Tensor = self.out(central)
        return logits_BK

    def layers(self) -> list[tuple[nn.Module, tuple[int, ...]]]:
        return [
            (layer, (1, channels, *size))
            for layer, channels, size in zip(self.convolutions, self._channels, self.sizes, strict=False)
        ]

    def _brought_together(
        self, maps_FCHW: torch.Tensor, stage: int, samples: int, rows: Rows, active_B: torch.Tensor
    ) -> torch.Tensor:
        """Maps (F, C, H, W) of a modality -> (B, C, h, w), averaged over time and area, zero for inactive samples."""
        frames = len(maps_FCHW) // samples
        maps_bCHW = maps_FCHW if frames == 1 else maps_FCHW.reshape(samples, frames, *maps_FCHW.shape[1:]).mean(1)
        maps_bChw = _pooled(maps_bCHW, self.sizes[stage])
        if rows is None:
            return maps_bChw.masked_fill(~active_B[:, None, None, None], 0.0)
        return maps_bChw.new_zeros(len(active_B), *maps_bChw.shape[1:]).index_copy(0, rows, maps_bChw)


def _stages(encoders: Mapping[str, ImageEncoder]) -> int:
    counts = {m: len(e.channels) for m, e in encoders.items()}
    if len(set(counts.values())) != 1:
        raise ValueError(f"encoders must have the same number of stages, but have {counts}. Use encoders of one kind.")
    return next(iter(counts.values()))


def _map_sizes(size: tuple[int, int], strides: Sequence[int]) -> list[tuple[int, int]]:
    """Height and width of the maps of each stage."""
    found = []
    for stride in strides:
        size = (math.ceil(size[0] / stride), math.ceil(size[1] / stride))
        found.append(size)
    return found


def _pooled(maps_BCHW: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Adaptive average pooling to `size`, as matrix products, since torch's has no deterministic gradient on a GPU."""
    for axis, target in ((2, size[0]), (3, size[1])):
        if maps_BCHW.shape[axis] != target:
            weights_oi = _area(maps_BCHW.shape[axis], target, maps_BCHW.dtype, maps_BCHW.device)
            maps_BCHW = torch.movedim(torch.movedim(maps_BCHW, axis, -1) @ weights_oi.T, -1, axis)
    return maps_BCHW


@cache
def _area(values: int, target: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """(target, values): row o averages the values from floor(o v / t) to ceil((o + 1) v / t), as torch does."""
    with torch.inference_mode(False):  # a cached tensor is used in training, too
        weights_oi = torch.zeros(target, values)
        for o in range(target):
            first, last = o * values // target, -(-(o + 1) * values // target)
            weights_oi[o, first:last] = 1 / (last - first)
        return weights_oi.to(device, dtype)
