"""What an encoder is, and how video passes through a network for images"""

# B samples, C channels, T frames, H height, W width, d features

import torch
from torch import nn


class Encoder(nn.Module):
    """One modality's input (B, ...) -> features (B, out_features).

    Rows do not depend on each other, except through BatchNorm's batch statistics in training mode.
    """

    out_features: int


class ImageEncoder(Encoder):
    """An encoder whose core, `maps`, is a network for images.

    Takes images or spectrograms (B, C, H, W), or video (B, C, T, H, W), whose frames go through `maps` like separate
    images. Features are the average over height, width and, for video, time.
    """

    def __init__(self, stem: nn.Conv2d) -> None:
        super().__init__()
        self.stem = stem

    def maps(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Images (B, C, H, W) -> feature maps (B, out_features, h, w)."""
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) or (B, C, T, H, W) -> (B, out_features).

        Raises:
            ValueError: the input has another number of dimensions, or of channels.
        """
        if x.dim() not in (4, 5) or x.shape[1] != self.stem.in_channels:
            raise ValueError(
                f"the input must be (B, {self.stem.in_channels}, H, W) or (B, {self.stem.in_channels}, T, H, W), "
                f"but is {tuple(x.shape)}. Put the channels second, or give the encoder the true `in_channels`."
            )
        if x.dim() == 4:
            return self.maps(x).mean((2, 3))
        frames = fold_frames(x, self.stem.weight.is_contiguous(memory_format=torch.channels_last))
        features = self.maps(frames).mean((2, 3))
        # All frames have the same h x w, so the mean of their means is the average over T, h and w.
        return features.view(x.shape[0], x.shape[2], -1).mean(1)


def fold_frames(video_BCTHW: torch.Tensor, channels_last: bool) -> torch.Tensor:
    """(B, C, T, H, W) -> (B * T, C, H, W), the frames of a sample next to each other.

    With `channels_last`, the result has that memory format; it is a view where the video is stored (B, T, H, W, C).
    """
    B, C, T, H, W = video_BCTHW.shape
    if channels_last:
        return video_BCTHW.permute(0, 2, 3, 4, 1).reshape(B * T, H, W, C).permute(0, 3, 1, 2)
    return video_BCTHW.transpose(1, 2).reshape(B * T, C, H, W)


def conv3x3(in_channels: int, out_channels: int, stride: int) -> nn.Conv2d:
    """Without a bias: a BatchNorm follows, which would take it away."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)
