"""A CSNN of blocks that train with the chip's weights, on MNIST as Poisson spikes, as a netx file and in real lava.

    SPIKEC_LAVA_PYTHON=lava/bin/python python benchmarks/lava_csnn.py [--epochs N]

Trains ``BlockContainer``s for seconds on 4,000 digits, each pixel a Poisson train of 16 steps, writes them by
``save_blocks``, and runs the blocks and the file on the same spikes of 1,000 held-out digits; lava runs 100 of them
where SPIKEC_LAVA_PYTHON names a Python that has it. Exits with 1 if a spike differs.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spikec.backends.lava import BlockContainer, CubaLIFNode, save_blocks
from spikec.backends.netx import NetxNetwork, run_in_lava
from spikec.shell.demo import digits

T, BATCH, IN_LAVA = 16, 100, 100


def blocks() -> nn.Sequential:
    """Make two strided convolutions and a Linear with IF neurons that reset to zero."""

    def neuron() -> CubaLIFNode:
        return CubaLIFNode(1.0, 0.0, v_threshold=1.0)

    return nn.Sequential(
        BlockContainer(nn.Conv2d(1, 8, 3, stride=2, bias=False), neuron(), step_mode="m"),
        BlockContainer(nn.Conv2d(8, 16, 3, stride=2, bias=False), neuron(), step_mode="m"),
        BlockContainer(nn.Flatten(), step_mode="m"),
        BlockContainer(nn.Linear(576, 10, bias=False), neuron(), step_mode="m"),
    )


def poisson(x: Tensor, generator: torch.Generator) -> Tensor:
    """Make spikes [T, N, ...] of pixels [N, ...] within 0 and 1."""
    return (torch.rand((T, *x.shape), generator=generator) < x).to(x)


def run(net: nn.Sequential, spikes: Tensor) -> list[Tensor]:
    """Return the spikes of every layer of neurons, [T, N, ...]."""
    seen = []
    for block in net:
        block.reset()
        spikes = block(spikes)
        if block.neuron is not None:
            seen.append(spikes)
    return seen


def main() -> int:
    """Train, compare and print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=2, help="of training (2)")
    epochs = parser.parse_args().epochs
    torch.manual_seed(0)
    data, net, generator = digits(), blocks(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(data.train)), BATCH):
            optimizer.zero_grad()
            rates = run(net, poisson(data.train[rows], generator))[-1].mean(0)
            F.cross_entropy(4 * rates, data.train_labels[rows]).backward()
            optimizer.step()
    python = os.environ.get("SPIKEC_LAVA_PYTHON")
    spikes, cells, differ, in_lava = 0, 0, 0, 0
    right = np.zeros(2, dtype=int)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder) / "csnn.net"
        save_blocks(net, path, (1, 28, 28))
        file = NetxNetwork.load(path)
        for x, labels in zip(torch.split(data.test, BATCH), torch.split(data.test_labels, BATCH), strict=True):
            fed = poisson(x, generator)
            ours = [each.numpy().astype(bool) for each in run(net, fed)]
            trace = file.simulate(fed)
            pairs = list(zip(ours, trace.spikes.values(), strict=True))
            if python and in_lava < IN_LAVA:
                pairs += zip(ours, run_in_lava(path, fed, python=python).spikes.values(), strict=True)
                in_lava += len(x)
            cells += sum(one.size for one, _ in pairs)
            spikes += sum(int(one.sum()) for one, _ in pairs)
            differ += sum(int((one != other.reshape(one.shape)).sum()) for one, other in pairs)
            answers = ours[-1].sum(0).argmax(1), trace.total.argmax(1)
            right += [int((answer == labels.numpy()).sum()) for answer in answers]
    shares = right / len(data.test)
    print(f"accuracy on {len(data.test)} digits: blocks {shares[0]:.1%}, netx file {shares[1]:.1%}")
    print(f"{differ} of {cells:,} cells of spikes or none differ ({spikes:,} spikes); in lava: {in_lava} digits")
    return int(differ > 0)


if __name__ == "__main__":
    sys.exit(main())
