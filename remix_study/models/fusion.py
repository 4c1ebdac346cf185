"""Fusion: features of the active modalities -> fused logits

    concat    z = W [f_1 .. f_M] + b
    sum       z = sum_m (W_m f_m + b_m)
    decision  z = mean over the active m of h_m, the logits of m's own head; no parameters of its own
    cosine    z = s sum_m cos(f_m, W_m[c]) for class c
    film      z = W ((1 + g) * f_2 + t) + b  with (g, t) = F f_1 + c; two modalities
    gated     z = W sum_m 2 sigmoid(sum_{j != m} G_j f_j) * (V_m f_m) + b

    film_published    z = W (g * f_2 + t) + b  with (g, t) = F f_1 + c; two modalities
    gated_published   z = W (sigmoid(G f_1 + c) * (V f_2 + d)) + b; two modalities

The feature of an inactive modality is its replacement, by default zero (masking.py); `decision` leaves it out. FiLM
and gating as published for audio and video (OGM-GE: Peng et al., CVPR 2022, arXiv 2203.15332) multiply one modality by
the other. In a unimodal batch with zeros, the fused loss then reaches the encoder of one of them through a bias only:
f_2 through c in FiLM, f_1 through d in gating. These biases are 0 at first. `film` and `gated` are therefore residual:
FiLM uses 1 + g instead of g, and every modality is gated by the others with a gate that is 1 if their features are
zero.
"""

# B samples, M modalities, C classes, d features of one modality

from collections.abc import Iterator, Mapping
from itertools import accumulate

import torch
from torch import nn

from remix_study.modality import canonical_order


def linear(in_features: int, out_features: int, bias: bool = True) -> nn.Linear:
    """A linear layer with Xavier-uniform weights and bias 0.

    With bias 0, an inactive modality adds nothing to the logits of an untrained model.
    """
    layer = nn.Linear(in_features, out_features, bias=bias)
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class Fusion(nn.Module):
    """Features (B, d_m) of every modality, its replacement if inactive -> logits (B, C).

    Args:
        widths: modality -> d_m.
        num_classes: C.
    """

    uses_heads = False  # whether `forward` reads `head_logits`; if not, the model skips computing missing ones
    splits = False  # whether `split` is defined
    shares_head = False  # whether all modalities have the same unimodal head

    def __init__(self, widths: Mapping[str, int], num_classes: int) -> None:
        super().__init__()
        self.modalities = canonical_order(widths)
        self.num_classes = num_classes

    def forward(
        self,
        features: Mapping[str, torch.Tensor],
        active_BM: torch.Tensor,
        head_logits: Mapping[str, torch.Tensor],
    ) -> torch.Tensor:
        """Fuse features. Columns of `active_BM` follow `modalities`; `head_logits` may be empty unless `uses_heads`."""
        raise NotImplementedError

    def split(
        self, features: Mapping[str, torch.Tensor], head_logits: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """The part of the fused logits, m -> (B, C), that each modality or its replacement contributes."""
        raise NotImplementedError

    def own_weights(self, modality: str) -> Iterator[tuple[torch.Tensor, slice]]:
        """Parameters that only this modality's part depends on, each with the slice of its last axis that is meant."""
        raise NotImplementedError


class ConcatFusion(Fusion):
    """One linear layer on the concatenated features. It splits into W_m f_m + b / M, whose sum is z."""

    splits = True

    def __init__(self, widths: Mapping[str, int], num_classes: int) -> None:
        super().__init__(widths, num_classes)
        self.out = linear(sum(widths.values()), num_classes)
        ends = list(accumulate(widths[m] for m in self.modalities))
        self._columns = {m: slice(end - widths[m], end) for m, end in zip(self.modalities, ends, strict=True)}

    def forward(
        self,
        features: Mapping[str, torch.Tensor],
        active_BM: torch.Tensor,  # noqa: ARG002 - inactive features are replaced
        head_logits: Mapping[str, torch.Tensor],  # noqa: ARG002 - required by Fusion
    ) -> torch.Tensor:
        logits_BC: torch.Tensor = self.out(torch.cat([features[m] for m in self.modalities], dim=1))
        return logits_BC

    def split(
        self,
        features: Mapping[str, torch.Tensor],
        head_logits: Mapping[str, torch.Tensor],  # noqa: ARG002 - required by Fusion
    ) -> dict[str, torch.Tensor]:
        bias_C = self.out.bias / len(self.modalities)
        return {
            m: nn.functional.linear(features[m], self.out.weight[:, self._columns[m]], bias_C) for m in self.modalities
        }

    def own_weights(self, modality: str) -> Iterator[tuple[torch.Tensor, slice]]:
        yield self.out.weight, self._columns[modality]


class SumFusion(Fusion):
    """One linear layer per modality, summed. It splits into W_m f_m + b_m, whose sum is z."""

    splits = True

    def __init__(self, widths: Mapping[str, int], num_classes: int) -> None:
        super().__init__(widths, num_classes)
        self.out = nn.ModuleDict({m: linear(widths[m], num_classes) for m in self.modalities})

    def forward(
        self,
        features: Mapping[str, torch.Tensor],
        active_BM: torch.Tensor,  # noqa: ARG002 - inactive features are replaced
        head_logits: Mapping[str, torch.Tensor],  # noqa: ARG002 - required by Fusion
    ) -> torch.Tensor:
        return _total([self.out[m](features[m]) for m in self.modalities])

    def split(
        self,
        features: Mapping[str, torch.Tensor],
        head_logits: Mapping[str, torch.Tensor],  # noqa: ARG002 - required by Fusion
    ) -> dict[str, torch.Tensor]:
        return {m: self.out[m](features[m]) for m in self.modalities}

    def own_weights(self, modality: str) -> Iterator[tuple[torch.Tensor, slice]]:
        for parameter in self.out[modality].parameters():
            yield parameter, slice(None)


class DecisionFusion(Fusion):
    """The mean of the unimodal heads' logits over the active modalities.

    If no modality is active, the mean over all of them, which is then the mean of the heads' biases. It splits into the
    heads' logits, whose mean is z; all its weights are those of the heads.
    """

    uses_heads = splits = True

    def forward(
        self,
        features: Mapping[str, torch.Tensor],  # noqa: ARG002 - required by Fusion
        active_BM: torch.Tensor,
        head_logits: Mapping[str, torch.Tensor],
    ) -> torch.Tensor:
        counted_BM = active_BM | ~active_BM.any(dim=1, keepdim=True)
        logits_BMC = torch.stack([head_logits[m] for m in self.modalities], dim=1)
        weights_BM = counted_BM.to(logits_BMC.dtype) / counted_BM.sum(dim=1, keepdim=True)
        return (logits_BMC * weights_BM[:, :, None]).sum(dim=1)

    def split(
        self,
        features: Mapping[str, torch.Tensor],  # noqa: ARG002 - required by Fusion
        head_logits: Mapping[str, torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        return {m: head_logits[m] for m in self.modalities}

    def own_weights(self, modality: str) -> Iterator[tuple[torch.Tensor, slice]]:  # noqa: ARG002 - required by Fusion
        yield from ()


class EntropyFusion(DecisionFusion):
    """The mean of the logits of a head that all modalities share, weighted by certainty (MLA, arXiv 2311.10707).

    z = sum over the active m of w_m h_m, where w is the softmax over the active m of -H_m, and H_m the entropy of
    softmax(h_m) in nats, for each sample. No gradient passes through w. If no modality is active, all count.
    """

    splits = False
    shares_head = True

    def forward(
        self,
        features: Mapping[str, torch.Tensor],  # noqa: ARG002 - required by Fusion
        active_BM: torch.Tensor,
        head_logits: Mapping[str, torch.Tensor],
    ) -> torch.Tensor:
        counted_BM = active_BM | ~active_BM.any(dim=1, keepdim=True)
        logits_BMC = torch.stack([head_logits[m] for m in self.modalities], dim=1)
        logs_BMC = logits_BMC.detach().log_softmax(dim=2)
        entropy_BM = -(logs_BMC.exp() * logs_BMC).sum(dim=2)
        weights_BM = (-entropy_BM).masked_fill(~counted_BM, -torch.inf).softmax(dim=1)
        return (logits_BMC * weights_BM[:, :, None]).sum(dim=1)


class CosineFusion(Fusion):
    """z = s sum_m cos(f_m, W_m[c]) for class c, without biases (MMCosine). It splits into the cosines times s.

    A feature of zero, such as that of an inactive modality, adds nothing.

    Args:
        scale: s, above 0.
    """

    splits = True

    def __init__(self, widths: Mapping[str, int], num_classes: int, scale: float) -> None:
        super().__init__(widths, num_classes)
        self.scale = scale
        self.out = linear(sum(widths.values()), num_classes, bias=False)
        ends = list(accumulate(widths[m] for m in self.modalities))
        self._columns = {m: slice(end - widths[m], end) for m, end in zip(self.modalities, ends, strict=True)}

    def forward(
        self,
        features: Mapping[str, torch.Tensor],
        active_BM: torch.Tensor,  # noqa: ARG002 - inactive features are zero
        head_logits: Mapping[str, torch.Tensor],
    ) -> torch.Tensor:
        return _total(list(self.split(features, head_logits).values()))

    def split(
        self,
        features: Mapping[str, torch.Tensor],
        head_logits: Mapping[str, torch.Tensor],  # noqa: ARG002 - required by Fusion
    ) -> dict[str, torch.Tensor]:
        weights = {m: _unit(self.out.weight[:, self._columns[m]]) for m in self.modalities}
        return {m: self.scale * nn.functional.linear(_unit(features[m]), weights[m]) for m in self.modalities}

    def own_weights(self, modality: str) -> Iterator[tuple[torch.Tensor, slice]]:
        yield self.out.weight, self._columns[modality]


class FiLMFusion(Fusion):
    """Feature-wise linear modulation: the first modality (audio) conditions the second (video), residually.

    Perez et al., AAAI 2018, arXiv 1709.07871. Deviation from OGM-GE's z = W (g * f_2 + t) + b: 1 + g, so that f_2
    reaches the logits if f_1, and therefore g, is zero. If f_2 is zero, f_1 reaches the logits through t.

    Raises:
        ValueError: there are not exactly two modalities.
    """

    _identity = 1.0  # what is added to g

    def __init__(self, widths: Mapping[str, int], num_classes: int) -> None:
        super().__init__(widths, num_classes)
        self.conditioning, self.conditioned = _pair("FiLM", self.modalities)
        width = widths[self.conditioned]
        self.modulation = linear(widths[self.conditioning], 2 * width)
        self.out = linear(width, num_classes)

    def forward(
        self,
        features: Mapping[str, torch.Tensor],
        active_BM: torch.Tensor,  # noqa: ARG002 - inactive features are replaced
        head_logits: Mapping[str, torch.Tensor],  # noqa: ARG002 - required by Fusion
    ) -> torch.Tensor:
        scale, shift = self.modulation(features[self.conditioning]).chunk(2, dim=1)
        logits_BC: torch.Tensor = self.out((self._identity + scale) * features[self.conditioned] + shift)
        return logits_BC


class PublishedFiLMFusion(FiLMFusion):
    """FiLM as in the code of OGM-GE: z = W (g * f_2 + t) + b.

    If f_1 is zero, so is g but for its bias, and f_2 reaches the logits through this bias only. If f_2 is zero, f_1
    reaches them through t.
    """

    _identity = 0.0


class GatedFusion(Fusion):
    """Each modality is gated by all others, and the gated features are summed.

    Deviation from OGM-GE's z = W (sigmoid(G f_1) * (V f_2)) + b, which is constant if f_2 is zero: every modality is
    gated, for any number of modalities. A gate is 2 sigmoid(.) without bias, in (0, 2), and exactly 1 if the other
    modalities' features are zero. A single active modality is then a linear classifier.
    """

    def __init__(self, widths: Mapping[str, int], num_classes: int) -> None:
        super().__init__(widths, num_classes)
        hidden = max(widths.values())
        self.content = nn.ModuleDict({m: linear(widths[m], hidden, bias=False) for m in self.modalities})
        gating = self.modalities if len(self.modalities) > 1 else ()
        self.gate = nn.ModuleDict({m: linear(widths[m], hidden, bias=False) for m in gating})
        self.out = linear(hidden, num_classes)

    def forward(
        self,
        features: Mapping[str, torch.Tensor],
        active_BM: torch.Tensor,  # noqa: ARG002 - inactive features are replaced
        head_logits: Mapping[str, torch.Tensor],  # noqa: ARG002 - required by Fusion
    ) -> torch.Tensor:
        gates = {m: gate(features[m]) for m, gate in self.gate.items()}
        gated = []
        for m in self.modalities:
            content: torch.Tensor = self.content[m](features[m])
            others = [gate for other, gate in gates.items() if other != m]
            gated.append(content * (2 * torch.sigmoid(_total(others))) if others else content)
        logits_BC: torch.Tensor = self.out(_total(gated))
        return logits_BC


class PublishedGatedFusion(Fusion):
    """Gated fusion as in the code of OGM-GE: the first modality (audio) gates the second, z = W (sigmoid(a) * v) + b.

    a = G f_1 + c and v = V f_2 + d. If f_2 is zero, so is v but for its bias, and f_1 reaches the logits through this
    bias only. If f_1 is zero, the gate is constant, and f_2 reaches them.

    Raises:
        ValueError: there are not exactly two modalities.
    """

    def __init__(self, widths: Mapping[str, int], num_classes: int) -> None:
        super().__init__(widths, num_classes)
        self.gating, self.gated = _pair("Published gated", self.modalities)
        hidden = max(widths.values())
        self.gate = linear(widths[self.gating], hidden)
        self.content = linear(widths[self.gated], hidden)
        self.out = linear(hidden, num_classes)

    def forward(
        self,
        features: Mapping[str, torch.Tensor],
        active_BM: torch.Tensor,  # noqa: ARG002 - inactive features are replaced
        head_logits: Mapping[str, torch.Tensor],  # noqa: ARG002 - required by Fusion
    ) -> torch.Tensor:
        content: torch.Tensor = self.content(features[self.gated])
        logits_BC: torch.Tensor = self.out(torch.sigmoid(self.gate(features[self.gating])) * content)
        return logits_BC


def _unit(rows: torch.Tensor) -> torch.Tensor:
    """The rows divided by their norms; a row of zeros stays as it is, where the derivative has no bound."""
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / torch.where(norms > 0, norms, 1.0)


def _pair(fusion: str, modalities: tuple[str, ...]) -> tuple[str, str]:
    if len(modalities) != 2:
        raise ValueError(
            f"{fusion} fusion needs exactly 2 modalities, but there are "
            f"{len(modalities)}: {', '.join(modalities)}. Use concat, sum, decision or gated."
        )
    first, second = modalities
    return first, second


def _total(tensors: list[torch.Tensor]) -> torch.Tensor:
    # Not sum(), which would add a kernel for 0 + tensor.
    total = tensors[0]
    for tensor in tensors[1:]:
        total = total + tensor
    return total
