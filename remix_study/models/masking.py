"""Masking: the vector that the fusion reads in place of an inactive modality's feature, its replacement

    None           zeros (`skip_encoder`, `zero_feature`)
    ZeroInput      the feature of an input of zeros
    MeanFeature    the mean of the modality's features over the training samples of an earlier epoch
    LearnedToken   a learned vector

Only the fusion reads replacements. Unimodal losses and Remix's scores use the features of active modalities. The
gradient of a replacement is that of the fused loss of the samples in which its modality is inactive: `ZeroInput` passes
it to the encoder, `LearnedToken` to the vector, and the others to nothing.
"""

# n samples, d_m features of modality m

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

Encode = Callable[[Sequence[int]], torch.Tensor]
"""Shape of the input of one sample -> its feature (d_m,), if the input is zero everywhere."""


class Masking(nn.Module):
    """Base class of replacements."""

    def replacement(self, modality: str, encode: Encode) -> torch.Tensor:
        """The replacement of a modality's feature, (d_m,).

        Args:
            encode: computes the feature of zeros with BatchNorm's running statistics, which it does not change.
        """
        raise NotImplementedError

    def observe(self, modality: str, features_nd: torch.Tensor, active_n: torch.Tensor | None) -> None:
        """Take note of a modality's features in a training step.

        Args:
            active_n: the samples in which the modality is active; None: all.
        """

    def end_epoch(self) -> None:
        """Use what was observed in an epoch, after buffers were averaged over ranks."""


class ZeroInput(Masking):
    """The feature of an input of zeros, which is the mean of the training clips if the inputs are normalised.

    BatchNorm uses its running statistics for it and does not update them. All rows of a batch of zeros are equal, so
    batch statistics would have no variance, and the running variances would decay to 0.

    Args:
        shapes: modality -> shape of the input of one sample.
    """

    def __init__(self, shapes: Mapping[str, Sequence[int]]) -> None:
        super().__init__()
        self._shapes = {m: tuple(shape) for m, shape in shapes.items()}

    def replacement(self, modality: str, encode: Encode) -> torch.Tensor:
        return encode(self._shapes[modality])


class MeanFeature(Masking):
    """The mean of a modality's features over the samples that trained it in the last epoch that had such samples.

    It is constant within an epoch, so that it depends neither on the number of ranks nor on micro-batches. Before the
    end of the first epoch it is zero.

    Args:
        widths: modality -> d_m.
    """

    def __init__(self, widths: Mapping[str, int]) -> None:
        super().__init__()
        self._modalities = tuple(widths)
        for m, width in widths.items():
            self.register_buffer(f"mean_{m}", torch.zeros(width))
            # The ratio of sum and count stays correct if ranks average both.
            self.register_buffer(f"sum_{m}", torch.zeros(width, dtype=torch.float64))
            self.register_buffer(f"count_{m}", torch.zeros((), dtype=torch.float64))

    def replacement(self, modality: str, encode: Encode) -> torch.Tensor:  # noqa: ARG002 - required by Masking
        return self.get_buffer(f"mean_{modality}")

    @torch.no_grad()
    def observe(self, modality: str, features_nd: torch.Tensor, active_n: torch.Tensor | None) -> None:
        counted_n = features_nd.new_ones(len(features_nd)) if active_n is None else active_n
        counted_n = counted_n.double()
        self.get_buffer(f"sum_{modality}").add_(counted_n @ features_nd.double())
        self.get_buffer(f"count_{modality}").add_(counted_n.sum())

    @torch.no_grad()
    def end_epoch(self) -> None:
        for m in self._modalities:
            total_d, count = self.get_buffer(f"sum_{m}"), self.get_buffer(f"count_{m}")
            mean_d = self.get_buffer(f"mean_{m}")
            mean_d.copy_(torch.where(count > 0, total_d / count.clamp(min=torch.finfo(count.dtype).tiny), mean_d))
            total_d.zero_()
            count.zero_()


class LearnedToken(Masking):
    """A parameter, at first zeros, so that an untrained model is the one that masks with zeros.

    Without inactive modalities in training, it stays at zero.

    Args:
        widths: modality -> d_m.
    """

    def __init__(self, widths: Mapping[str, int]) -> None:
        super().__init__()
        self.tokens = nn.ParameterDict({m: nn.Parameter(torch.zeros(width)) for m, width in widths.items()})

    def replacement(self, modality: str, encode: Encode) -> torch.Tensor:  # noqa: ARG002 - required by Masking
        token: torch.Tensor = self.tokens[modality]
        return token
