"""Encoders: shapes, published sizes, frames, memory format, determinism"""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from remix_study.models.encoder import Encoder, ImageEncoder, fold_frames
from remix_study.models.resnet import BasicBlock, ResNet18
from remix_study.models.sequence import SequenceEncoder
from remix_study.models.tiny import TinyEncoder
from remix_study.models.vector import VectorEncoder

IMAGE_ENCODERS: list[Callable[[int], ImageEncoder]] = [TinyEncoder, lambda channels: ResNet18(channels, width=8)]
image_encoders = pytest.mark.parametrize("build", IMAGE_ENCODERS, ids=["tiny", "resnet18"])


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def to_channels_last(module: nn.Module) -> None:
    module.to(memory_format=torch.channels_last)


def test_resnet18_has_the_published_size() -> None:
    # torchvision's ResNet-18 has 11,689,512 parameters, of which 513,000 are in its classifier for 1000 classes.
    assert parameters(ResNet18(3)) == 11_689_512 - 513_000
    assert parameters(ResNet18(1)) == 11_689_512 - 513_000 - 2 * 64 * 49
    assert ResNet18(3).out_features == 512


def test_resnet18_halves_the_image_five_times() -> None:
    assert ResNet18(3, width=4).maps(torch.randn(1, 3, 224, 224)).shape == (1, 32, 7, 7)


def test_resnet18_is_initialized_with_kaiming_fan_out() -> None:
    stem = ResNet18(3).stem
    assert stem.weight.std().item() == pytest.approx((2 / (64 * 49)) ** 0.5, rel=0.05)


def test_tiny_has_the_size_used_for_the_evidence() -> None:
    convolutions = 9 * (3 * 8 + 8 * 16 + 16 * 48 + 48 * 128)
    assert parameters(TinyEncoder(3)) == convolutions + 2 * (8 + 16 + 48 + 128)
    assert TinyEncoder(3).maps(torch.randn(2, 3, 32, 32)).shape == (2, 128, 2, 2)


@image_encoders
def test_images_and_videos_become_one_vector_per_sample(build: Callable[[int], ImageEncoder]) -> None:
    audio, video = build(1), build(3)
    assert audio(torch.randn(5, 1, 32, 40)).shape == (5, audio.out_features)
    assert video(torch.randn(5, 3, 2, 32, 40)).shape == (5, video.out_features)


@image_encoders
def test_a_video_is_the_mean_of_its_frames(build: Callable[[int], ImageEncoder]) -> None:
    encoder = build(3).eval()
    video = torch.randn(4, 3, 3, 32, 32)
    frames = torch.stack([encoder(video[:, :, t]) for t in range(3)])
    torch.testing.assert_close(encoder(video), frames.mean(0), rtol=1e-4, atol=1e-5)


@image_encoders
def test_the_average_covers_time_height_and_width(build: Callable[[int], ImageEncoder]) -> None:
    encoder = build(3).eval()
    video = torch.randn(2, 3, 2, 64, 64)
    maps = encoder.maps(fold_frames(video, channels_last=False))
    pooled = maps.reshape(2, 2, *maps.shape[1:]).mean(dim=(1, 3, 4))
    torch.testing.assert_close(encoder(video), pooled, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("stored", ["BCTHW", "BTHWC"])
def test_folding_keeps_the_frames_of_a_sample_together(channels_last: bool, stored: str) -> None:
    video = torch.arange(2 * 3 * 4 * 5 * 6, dtype=torch.float32).reshape(2, 3, 4, 5, 6)
    if stored == "BTHWC":
        video = video.permute(0, 2, 3, 4, 1).contiguous().permute(0, 4, 1, 2, 3)
    folded = fold_frames(video, channels_last)
    assert folded.shape == (8, 3, 5, 6)
    for sample in range(2):
        for frame in range(4):
            assert torch.equal(folded[sample * 4 + frame], video[sample, :, frame])
    if channels_last:
        assert folded.is_contiguous(memory_format=torch.channels_last)
        assert (folded.data_ptr() == video.data_ptr()) == (stored == "BTHWC")


@image_encoders
@pytest.mark.parametrize("training", [False, True])
def test_channels_last_gives_the_same_features_and_gradients(
    build: Callable[[int], ImageEncoder], training: bool
) -> None:
    plain, last = build(3).train(training), build(3).train(training)
    last.load_state_dict(plain.state_dict())
    to_channels_last(last)
    video = torch.randn(3, 3, 2, 64, 64)
    torch.testing.assert_close(last(video), plain(video), rtol=1e-4, atol=1e-4)
    plain(video).square().sum().backward()
    last(video).square().sum().backward()
    for (name, one), other in zip(plain.named_parameters(), last.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        scale = one.grad.abs().max()
        torch.testing.assert_close(other.grad / scale, one.grad / scale, rtol=1e-2, atol=2e-3, msg=name)


@image_encoders
def test_all_layers_keep_the_memory_format(build: Callable[[int], ImageEncoder]) -> None:
    encoder = build(3)
    to_channels_last(encoder)
    formats: list[bool] = []

    def record_format(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        formats.append(output.is_contiguous(memory_format=torch.channels_last))

    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(record_format)
    encoder(torch.randn(2, 3, 2, 64, 64))
    assert len(formats) >= 4
    assert all(formats)


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda: TinyEncoder(1), (2, 1, 32, 32)),
        (lambda: ResNet18(3, width=4), (2, 3, 2, 32, 32)),
        (lambda: VectorEncoder(10), (2, 10)),
        (lambda: SequenceEncoder(10, width=8), (2, 3, 10)),
    ],
    ids=["tiny", "resnet18", "vector", "sequence"],
)
def test_the_seed_determines_the_initial_weights(build: Callable[[], Encoder], shape: tuple[int, ...]) -> None:
    torch.manual_seed(7)
    first = build()
    torch.manual_seed(7)
    second = build()
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    x = torch.randn(shape)
    assert torch.equal(first(x), second(x))


def test_vectors_are_encoded_independently() -> None:
    encoder = VectorEncoder(7, width=5, hidden=6)
    x = torch.randn(4, 7)
    assert encoder(x).shape == (4, 5)
    torch.testing.assert_close(encoder(x)[2:3], encoder(x[2:3]))


@pytest.mark.parametrize(
    ("encoder", "shape"),
    [(TinyEncoder(1), (2, 3, 32, 32)), (TinyEncoder(3), (2, 3, 32)), (VectorEncoder(4), (2, 5))],
    ids=["channels", "dimensions", "features"],
)
def test_a_wrong_shape_raises(encoder: Encoder, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"the input must be .* but is"):
        encoder(torch.randn(shape))


def test_a_narrow_resnet_block_can_be_trained_on_large_images() -> None:
    """The backward pass of a channels-last 1x1 convolution with stride 2 from 8 to 16 channels crashed the process."""
    block = BasicBlock(8, 16, stride=2).to(memory_format=torch.channels_last)
    block(torch.randn(192, 8, 56, 56).to(memory_format=torch.channels_last)).sum().backward()
    assert all(parameter.grad is not None for parameter in block.parameters())


def test_the_shortcut_of_a_stage_is_a_1x1_convolution_of_stride_2() -> None:
    block = BasicBlock(6, 12, stride=2).eval()
    x = torch.randn(2, 6, 9, 7)
    conv = block.shortcut[0]  # type: ignore[index]  # a Sequential here
    strided = torch.nn.functional.conv2d(x, conv.weight, stride=2)
    torch.testing.assert_close(conv(x[:, :, ::2, ::2]), strided)
    assert block(x).shape == strided.shape
