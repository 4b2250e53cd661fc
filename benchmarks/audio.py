"""Six blocks of convolution, ReLU, batch norm and max-pool over synthetic tones: the ANN's answers for every target.

python benchmarks/audio.py [--steps 32] [--neurons 1 2]
"""

from __future__ import annotations

import argparse
import math
import sys
import time
import warnings
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

import spikec

LENGTH, CLASSES = 256, 10
#: (what is printed, target, its options)
ROWS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("spikingjelly", "spikingjelly", {}),
    ("spikingjelly, max-pools that compare", "spikingjelly", {"counters": False}),
    ("nir", "nir", {}),
    ("netx", "netx", {}),
    ("netx, reset=soft", "netx", {"reset": "soft"}),
)


def tones(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """[N, 1, LENGTH] tones of ten pitches with two overtones, of random phase, loudness and noise; their classes."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(CLASSES, (count,), generator=generator)
    pitch = 4 * 2 ** (classes / 3) * (1 + 0.02 * torch.randn(count, generator=generator))
    at = torch.arange(LENGTH) / LENGTH
    waves = torch.zeros(count, LENGTH)
    for harmonic in (1, 2, 3):
        phase, loud = (torch.rand(count, 1, generator=generator) for _ in range(2))
        waves += loud / harmonic * torch.sin(2 * math.pi * (harmonic * pitch[:, None] * at + phase))
    return (waves + 0.1 * torch.randn(count, LENGTH, generator=generator))[:, None], classes


def network(channels: int = 16) -> nn.Module:
    """Six blocks, which leave two of 256 positions, and a readout; unpadded, as netx takes no padding behind biases."""
    layers: list[nn.Module] = []
    for i in range(6):
        layers += [nn.Conv1d(channels if i else 1, channels, 3), nn.ReLU()]
        layers += [nn.BatchNorm1d(channels), nn.MaxPool1d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * 2, CLASSES))


def trained(seed: int = 0, steps: int = 400) -> nn.Module:
    """The network after some seconds of training, with the gammas of its batch norms of both signs from the start."""
    torch.manual_seed(seed)
    net = network()
    for module in net:
        if isinstance(module, nn.BatchNorm1d):
            nn.init.normal_(module.weight)
    optimizer = torch.optim.Adam(net.parameters(), 0.003)
    for step in range(steps):
        x, classes = tones(64, step)
        optimizer.zero_grad()
        F.cross_entropy(net(x), classes).backward()
        optimizer.step()
    return net.eval().requires_grad_(False)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[32])
    parser.add_argument("--neurons", type=float, nargs="+", default=[1, 2])
    parser.add_argument("--samples", type=int, default=200, help="held-out tones")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    net = trained()
    x, classes = tones(options.samples, 10**6)
    right = net(x)
    negative = sum(int((m.weight < 0).sum()) for m in net if isinstance(m, nn.BatchNorm1d))
    title = (
        f"ANN {100 * (right.argmax(1) == classes).float().mean():.1f} %, {negative} gammas below 0; agreement / error"
    )
    table = Table("", *(f"T={t}" for t in options.steps), "compile, CPU s", title=title)
    for name, target, given in ROWS:
        for neurons in options.neurons:
            cells, seconds = [], 0.0
            for steps in options.steps:
                start = time.process_time()
                compiler = spikec.Compiler(
                    target, calibration=tones(200, 10**7)[0], timesteps=steps, neurons=neurons, verify="off", **given
                )
                try:
                    snn = compiler.run(net)
                except spikec.CompileError as error:
                    cells.append(f"refused: {error.problems[0].message}")
                    continue
                seconds = time.process_time() - start
                said = spikec.simulate(snn, x, steps).answer
                off = float((said - right).square().mean().sqrt() / right.std())
                cells.append(f"{100 * (said.argmax(1) == right.argmax(1)).float().mean():.1f} % / {off:.2f}")
                print(f"{name}, neurons={neurons:g}, T={steps}: {cells[-1]}", file=sys.stderr, flush=True)
            table.add_row(f"{name}, neurons={neurons:g}", *cells, f"{seconds:.0f}")
    Console(width=120, highlight=False).print(table)


if __name__ == "__main__":
    main()
