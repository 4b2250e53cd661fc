"""Residual networks (He et al. 2016), untrained, whose batch norms have seen random images: no value runs away."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """Convolutions, each with a batch norm and all but the last with a ReLU, beside a skip.

    Args:
        inputs: channels.
        convolutions: (channels, kernel, stride) of each.
    """

    def __init__(self, inputs: int, *convolutions: tuple[int, int, int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width, reduced = inputs, 1
        for outputs, kernel, stride in convolutions:
            layers += convolution(width, outputs, kernel, stride)
            width, reduced = outputs, reduced * stride
        self.body = nn.Sequential(*layers[:-1])
        projected = reduced > 1 or inputs != width
        self.skip = nn.Sequential(*convolution(inputs, width, 1, reduced)[:2]) if projected else nn.Identity()
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.relu(self.body(x) + self.skip(x))
        return result


def convolution(inputs: int, outputs: int, kernel: int, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    ]


def resnet18() -> nn.Module:
    """ResNet-18 for 32x32 images: a 3x3 stem without max-pool."""
    blocks, inputs = [], 64
    for width in (64, 128, 256, 512):
        for stride in (1 if width == 64 else 2, 1):
            blocks.append(Block(inputs, (width, 3, stride), (width, 3, 1)))
            inputs = width
    return seen(nn.Sequential(*convolution(3, 64, 3, 1), *blocks, *head(512, 10)), 32)


def resnet50() -> nn.Module:
    """ResNet-50 for 224x224 images."""
    blocks, inputs = [], 64
    for width, count in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for i in range(count):
            stride = 2 if i == 0 and width > 64 else 1
            blocks.append(Block(inputs, (width, 1, 1), (width, 3, stride), (4 * width, 1, 1)))
            inputs = 4 * width
    stem = [*convolution(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)]
    return seen(nn.Sequential(*stem, *blocks, *head(2048, 1000)), 224)


def head(inputs: int, classes: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes)]


def seen(net: nn.Module, side: int) -> nn.Module:
    """The network, to be evaluated, once its batch norms have the statistics of four random images."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        net.train()(torch.rand(4, 3, side, side))
    return net.eval()
