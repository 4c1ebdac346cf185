"""ResNet-18 (He, Zhang, Ren, Sun; CVPR 2016), arXiv 1512.03385, as an encoder of spectrograms and frames

It has no classifier and trains from scratch, as is common for these benchmarks. Audio has 1 input channel, video 3. The
frames of a video are folded into the batch; features are averaged over time, height and width after the last stage.
"""

from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

from remix_study.models.encoder import ImageEncoder, conv3x3


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut, which is a 1x1 convolution if the shape changes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels, 1)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.stride = stride
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = functional.relu(self.norm1(self.conv1(x)), inplace=True)
        out = self.norm2(self.conv2(out))
        # Equal to a 1x1 convolution of stride 2, whose backward pass crashes in torch 2.11 (oneDNN, segmentation fault;
        # 8 to 16 channels, channels last, large batches).
        out += self.shortcut(x[:, :, :: self.stride, :: self.stride])
        return functional.relu(out, inplace=True)


class ResNet18(ImageEncoder):
    """(B, in_channels, H, W) or (B, in_channels, T, H, W) -> (B, 8 * width).

    `width=64` is the network of the paper: 512 features, 11.2 million parameters. Convolutions are initialised from
    Kaiming's normal distribution (fan_out), BatchNorm with weight 1 and bias 0.
    """

    strides: ClassVar[tuple[int, ...]] = (4, 2, 2, 2)

    def __init__(self, in_channels: int, width: int = 64) -> None:
        super().__init__(nn.Conv2d(in_channels, width, kernel_size=7, stride=2, padding=3, bias=False))
        self.norm = nn.BatchNorm2d(width)
        blocks: list[nn.Module] = []
        channels = width
        for stage in range(4):
            for first in (True, False):
                blocks.append(BasicBlock(channels, width * 2**stage, stride=2 if first and stage > 0 else 1))
                channels = width * 2**stage
        self.blocks = nn.Sequential(*blocks)
        self.out_features = channels
        self.channels = tuple(width * 2**stage for stage in range(4))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def stage(self, number: int, maps_BCHW: torch.Tensor) -> torch.Tensor:
        if number == 0:
            maps_BCHW = functional.relu(self.norm(self.stem(maps_BCHW)), inplace=True)
            maps_BCHW = functional.max_pool2d(maps_BCHW, kernel_size=3, stride=2, padding=1)
        result: torch.Tensor = self.blocks[2 * number : 2 * number + 2](maps_BCHW)
        return result
