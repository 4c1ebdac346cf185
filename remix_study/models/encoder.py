"""Base classes of encoders, and how an image network processes video"""

# B samples, C channels, T frames, H height, W width, d features

from typing import ClassVar, Literal

import torch
from torch import nn

Layout = Literal["image", "sequence", "vector"]
"""`image`: (C, H, W) or (C, T, H, W), also spectrograms and optical flow; `sequence`: (T, D); `vector`: (D,)"""


class Encoder(nn.Module):
    """One modality's input (B, ...) -> features (B, out_features).

    Rows do not depend on each other, except through BatchNorm's batch statistics in training mode. A subclass that a
    configuration can select names the layouts it takes. Its constructor gets the input's size (C of an image, D of a
    sequence or vector), then the fields of its config class as keyword arguments.
    """

    takes: ClassVar[tuple[Layout, ...]]
    out_features: int


class ImageEncoder(Encoder):
    """An encoder built on a network for images, which has stages.

    Takes images or spectrograms (B, C, H, W), or video (B, C, T, H, W). Frames of a video pass through the stages as
    separate images. Features are averaged over height, width and, for video, time.

    Attributes:
        strides: by what each stage divides height and width, rounded up.
        channels: of the feature maps of each stage; the last are `out_features`.
    """

    takes: ClassVar[tuple[Layout, ...]] = ("image",)
    strides: ClassVar[tuple[int, ...]]
    channels: tuple[int, ...]

    def __init__(self, stem: nn.Conv2d) -> None:
        super().__init__()
        self.stem = stem

    def stage(self, number: int, maps_BCHW: torch.Tensor) -> torch.Tensor:
        """Feature maps of the stage before (images for the first, 0) -> feature maps of this stage."""
        raise NotImplementedError

    def maps(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Images (B, C, H, W) -> feature maps (B, out_features, h, w)."""
        for number in range(len(self.strides)):
            images_BCHW = self.stage(number, images_BCHW)
        return images_BCHW

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) or (B, C, T, H, W) -> (B, out_features).

        Raises:
            ValueError: the input has another number of dimensions or channels.
        """
        return average(self.maps(self.images(x)), len(x))

    def images(self, x: torch.Tensor) -> torch.Tensor:
        """The input as images (B * T, C, H, W), with the frames of a sample next to each other.

        Raises:
            ValueError: the input has another number of dimensions or channels.
        """
        if x.dim() not in (4, 5) or x.shape[1] != self.stem.in_channels:
            raise ValueError(
                f"the input must be (B, {self.stem.in_channels}, H, W) or (B, {self.stem.in_channels}, T, H, W), "
                f"but is {tuple(x.shape)}. Move channels to dimension 1, or build the encoder "
                "with the right `in_channels`."
            )
        if x.dim() == 4:
            return x
        return fold_frames(x, self.stem.weight.is_contiguous(memory_format=torch.channels_last))


def average(maps_FCHW: torch.Tensor, samples: int) -> torch.Tensor:
    """Feature maps of all frames (B * T, C, H, W) -> their average over T, H and W, (B, C).

    Args:
        samples: B.
    """
    means_FC = maps_FCHW.mean((2, 3))
    if len(maps_FCHW) == samples:
        return means_FC
    # All frames have the same H x W, so the mean of their means is the average over T, H and W.
    return means_FC.view(samples, -1, means_FC.shape[1]).mean(1)


def fold_frames(video_BCTHW: torch.Tensor, channels_last: bool) -> torch.Tensor:
    """(B, C, T, H, W) -> (B * T, C, H, W), with the frames of a sample next to each other.

    With `channels_last`, the result has that memory format; it is a view if the video is stored as (B, T, H, W, C).
    """
    B, C, T, H, W = video_BCTHW.shape
    if channels_last:
        return video_BCTHW.permute(0, 2, 3, 4, 1).reshape(B * T, H, W, C).permute(0, 3, 1, 2)
    return video_BCTHW.transpose(1, 2).reshape(B * T, C, H, W)


def conv3x3(in_channels: int, out_channels: int, stride: int) -> nn.Conv2d:
    """A 3x3 convolution without bias, since the BatchNorm that follows would cancel it."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)
