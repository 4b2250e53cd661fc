"""Does the error fall as 1/T down to what is clipped? A net that has learnt, each default, T=16 to 1024.

python benchmarks/guard.py
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import spikec

STEPS = (16, 64, 256, 1024)
#: numbers of steps that a network is compiled for, each by itself
TUNED = (16, 64, 256)
#: (what is printed, options of compile)
PLAIN = (("max", {"normalization": "max"}), ("99.9 %", {"normalization": "99.9%"}), ("default", {}))
#: (target, its options)
TARGETS = (("spikingjelly", {}), ("nir", {}), ("netx", {"reset": "soft"}))


def digits() -> tuple[nn.Sequential, Tensor]:
    """A CNN of 8x8 digits and digits that are new to it."""
    data = load_digits()
    x, classes = torch.tensor(data.images[:, None] / 16, dtype=torch.float32), torch.tensor(data.target)
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(16, 32, 2), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(net.parameters(), 0.003)
    for _ in range(5):
        for rows in torch.randperm(1500).split(50):
            optimizer.zero_grad()
            F.cross_entropy(net(x[rows]), classes[rows]).backward()
            optimizer.step()
    return net.eval().requires_grad_(False), x[1500:1532]


def clipped(net: nn.Sequential, graph: spikec.Graph, x: Tensor) -> Tensor:
    """What torch says of the ANN whose ReLUs give at most what the neurons of the graph can say."""
    for i, part in enumerate(net):
        x = part(x)
        if isinstance(part, nn.ReLU):
            x = torch.minimum(x, torch.tensor(graph.type(f"relu_{i}").scale, dtype=x.dtype))
    return x


def rows(net: nn.Sequential, x: Tensor) -> Iterator[list[str]]:
    """The errors over the spread of the ANN's outputs, on the samples that set the thresholds."""
    right = net(x)

    def off(said: Tensor) -> str:
        return f"{float((said - right).square().mean().sqrt() / (right - right.mean(0)).square().mean().sqrt()):.4f}"

    def compiled(target: str, **options: Any) -> spikec.Compilation:
        return spikec.Compiler(target, calibration=x, verify="off", **options).run(net)

    for target, given in TARGETS:
        for name, options in PLAIN:
            run = compiled(target, **options, **given)
            cells = [off(spikec.simulate(run, x, steps).answer) for steps in STEPS]
            yield [f"{target}, {name}", *cells, off(clipped(net, run.graph, x))]
        cells = [off(spikec.simulate(compiled(target, timesteps=t, **given), x, t).answer) for t in TUNED]
        yield [f"{target}, timesteps=T", *cells, "", ""]


def main() -> None:
    """Print the table."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    table = Table("", *(f"T={t}" for t in STEPS), "clipped ANN")
    for row in rows(*digits()):
        print(*row, file=sys.stderr, flush=True)
        table.add_row(*row)
    Console(width=120, highlight=False).print(table)


if __name__ == "__main__":
    main()
