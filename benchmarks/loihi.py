"""Networks for Loihi 2: how often the integers say what the ANN says.

    python benchmarks/loihi.py [--quick] [NAME ...]

``loihi_lava.py`` runs them in real lava.
"""

import argparse
import time
import warnings
from collections.abc import Callable, Iterator

import attrs
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

import spikec
from spikec.shell.demo import digits

CLASSES, CHANNELS, FRAMES = 8, 20, 48


@attrs.frozen
class Data:
    """Samples [N, ...] and their classes, to train and calibrate with, and held out."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor


@attrs.frozen
class Plan:
    """How much is done: epochs of training, samples that are calibrated with and run; steps."""

    epochs: int = 4
    calibration: int = 128
    count: int = 200
    steps: tuple[int, ...] = (32, 64)


QUICK = Plan(epochs=2, calibration=64, count=40, steps=(32,))


def tones(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return spectrograms [N, 20, 48] of chirps in noise, and what their pitch does: one of eight ways to move."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    time_axis = torch.linspace(0, 1, FRAMES)
    start, length = (torch.rand(count, 1, generator=generator) for _ in range(2))
    moves = torch.stack(
        [sign * shape for sign in (1, -1) for shape in
         (time_axis, time_axis**2, torch.sin(2 * torch.pi * time_axis) / 2, (time_axis > 0.5).float())]
    )  # fmt: skip
    pitch = 5 + 4 * start + (6 * moves[labels] + 3 * (labels[:, None] >= CLASSES // 2)) * (1 + length) / 2
    bands = torch.arange(CHANNELS)[None, :, None]
    power = torch.exp(-((bands - pitch[:, None]) ** 2) / 2)
    return (0.8 * power + torch.rand(power.shape, generator=generator)).clamp(0, 1.6), labels


def images() -> Data:
    """Return 4,000 and 1,000 digits of MNIST."""
    found = digits()
    return Data(found.train, found.train_labels, found.test, found.test_labels)


def sounds() -> Data:
    """Return 2,000 and 1,000 synthetic tones."""
    return Data(*tones(2000, 0), *tones(1000, 1))


def conv(inputs: int, outputs: int, **options: int) -> nn.Sequential:
    """Make a 3x3 convolution that keeps the map, and a batch norm."""
    layer = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False, **options)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs))


def cnn() -> nn.Module:
    """Make the CNN of SpikingJelly's tutorial, narrower: three convolutions, average pools."""
    parts = [
        each
        for inputs, outputs in ((1, 12), (12, 12), (12, 12))
        for each in (nn.Conv2d(inputs, outputs, 3), nn.BatchNorm2d(outputs), nn.ReLU(), nn.AvgPool2d(2))
    ]
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(12, 10))


def lenet() -> nn.Module:
    """Make LeNet-5 with ReLUs and max-pools."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip


def vgg() -> nn.Module:
    """Make a small VGG: two pairs of convolutions, each with a max-pool behind, and two dense layers."""
    return nn.Sequential(
        conv(1, 8), nn.ReLU(), conv(8, 8), nn.ReLU(), nn.MaxPool2d(2),
        conv(8, 16), nn.ReLU(), conv(16, 16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


class Residual(nn.Module):
    """Two convolutions and a shortcut, which is a 1x1 convolution where the stride is 2."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = conv(inputs, outputs, stride=stride), conv(outputs, outputs)
        narrow = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
        self.short = nn.Identity() if stride == 1 else nn.Sequential(narrow, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, outputs, H / stride, W / stride]."""
        return F.relu(self.second(F.relu(self.first(x))) + self.short(x))


def resnet() -> nn.Module:
    """Make ResNet-8, eight channels wide at first."""
    blocks = Residual(8, 8, 1), Residual(8, 16, 2), Residual(16, 32, 2)
    return nn.Sequential(conv(1, 8), nn.ReLU(), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


def keywords() -> nn.Module:
    """Make a network for keywords: convolutions over time, a leaky ReLU and a max-pool."""
    return nn.Sequential(
        nn.Conv1d(CHANNELS, 24, 9, padding=4), nn.BatchNorm1d(24), nn.ReLU(), nn.MaxPool1d(2),
        nn.Conv1d(24, 24, 5, padding=2), nn.BatchNorm1d(24), nn.LeakyReLU(0.1),
        nn.Conv1d(24, 24, 5, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(240, CLASSES),
    )  # fmt: skip


NETS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Data]]] = {
    "cnn": (cnn, images),
    "lenet": (lenet, images),
    "vgg": (vgg, images),
    "resnet8": (resnet, images),
    "keywords": (keywords, sounds),
}


def trained(make: Callable[[], nn.Module], data: Data, epochs: int) -> nn.Module:
    """Train by Adam with a one-cycle rate; the same weights every time."""
    torch.manual_seed(0)
    net = make()
    optimizer = torch.optim.Adam(net.parameters())
    steps = epochs * -(-len(data.train) // 100)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(data.train)), 100):
            optimizer.zero_grad()
            F.cross_entropy(net(data.train[rows]), data.train_labels[rows]).backward()
            optimizer.step()
            schedule.step()
    return net.eval()


@attrs.frozen
class Row:
    """What came of one network, one reset and one T: shares of the samples that ran."""

    net: str
    reset: str
    steps: int
    size: str
    ann: float
    accuracy: float
    agreement: float
    seconds: float


def rows(name: str, plan: Plan) -> Iterator[Row]:
    """Train a network, and compile and run it in every way."""
    make, load = NETS[name]
    data = load()
    model = trained(make, data, plan.epochs)
    x, labels = data.test[: plan.count], data.test_labels[: plan.count]
    with torch.no_grad():
        wanted = model(x).argmax(1)
    right = float((wanted == labels).double().mean())
    for reset in ("soft", "hard"):
        for steps in plan.steps:
            begin = time.process_time()
            net = spikec.compile(
                model, "netx", calibration=data.train[: plan.calibration], timesteps=steps, reset=reset
            )
            found = net.run(x).argmax(1)
            spent = time.process_time() - begin
            size = f"{len(net.layers)} layers, up to {max(int(np.prod(each.shape)) for each in net.layers):,} neurons"
            hits = (float((found == each).double().mean()) for each in (labels, wanted))
            yield Row(name, reset, steps, size, right, *hits, spent)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NETS)}; all of them if none is given")
    parser.add_argument("--quick", action="store_true", help="little training, few samples, T=32")
    given = parser.parse_args()
    if unknown := set(given.names) - NETS.keys():
        parser.error(f"no network is called {', '.join(sorted(unknown))}")
    warnings.simplefilter("ignore", spikec.SpikecWarning)
    table = Table("network", "reset", "T", "file", "ANN %", "accuracy %", "agreement %", "CPU s")
    for name in given.names or NETS:
        for row in rows(name, QUICK if given.quick else Plan()):
            shares = (f"{100 * share:.1f}" for share in (row.ann, row.accuracy, row.agreement))
            table.add_row(row.net, row.reset, str(row.steps), row.size, *shares, f"{row.seconds:.0f}")
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
