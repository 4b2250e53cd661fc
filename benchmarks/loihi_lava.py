"""The networks of ``loihi.py`` in real lava: every spike and every output beside the integer simulation.

    SPIKEC_LAVA_PYTHON=lava/bin/python python benchmarks/loihi_lava.py [--images N] [NAME ...]

SPIKEC_LAVA_PYTHON names a Python with lava (see ``tests/interop/README.md``). Each network is trained, compiled for
T = 32 with soft and with hard reset, and run on N held-out samples (100), some at a time in one process of lava; a line
is printed when a file is done. Exits with 1 if anything differs.
"""

import argparse
import os
import resource
import sys
import warnings
from collections.abc import Iterator

import attrs
import numpy as np
import torch
from torch import Tensor

import spikec
from loihi import NETS, Plan, trained
from spikec.backends.netx import NetxNetwork, run_in_lava

T = 32
#: samples that one process of lava runs
CHUNK = 25


@attrs.frozen
class Compared:
    """What lava and the simulation gave on some samples: numbers of cells and of those that differ.

    Attributes:
        images: samples.
        outputs, outputs_differ: integers that the output layer holds at the end.
        cells, cells_differ: of spikes or none, of each neuron that fires at each step.
        spikes: in the simulation.
        seconds: CPU time of lava, its start included.
    """

    images: int = 0
    outputs: int = 0
    outputs_differ: int = 0
    cells: int = 0
    cells_differ: int = 0
    spikes: int = 0
    seconds: float = 0.0

    def __add__(self, other: "Compared") -> "Compared":
        one, two = attrs.astuple(self), attrs.astuple(other)
        return Compared(*(a + b for a, b in zip(one, two, strict=True)))


def compared(net: NetxNetwork, x: Tensor, python: str) -> Iterator[Compared]:
    """Run samples [B, ...] in lava, a chunk at a time, and compare."""
    for chunk in torch.split(x, CHUNK):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        lava = run_in_lava(net, chunk, python=python)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        trace = net.simulate(chunk)
        pairs = [(lava.spikes[name], spikes) for name, spikes in trace.spikes.items()]
        yield Compared(
            images=len(chunk),
            outputs=trace.total.size,
            outputs_differ=int((lava.total != trace.total).sum() + np.sum(lava.output != trace.output)),
            cells=sum(spikes.size for _, spikes in pairs),
            cells_differ=sum(int((seen != spikes).sum()) for seen, spikes in pairs),
            spikes=sum(int(spikes.sum()) for _, spikes in pairs),
            seconds=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        )


def main() -> int:
    """Print a line a file; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NETS)}; all of them if none is given")
    parser.add_argument("--images", type=int, default=100, help="samples for each file (100)")
    given = parser.parse_args()
    python = os.environ.get("SPIKEC_LAVA_PYTHON")
    if python is None:
        parser.error("SPIKEC_LAVA_PYTHON names no Python with lava")
    if unknown := set(given.names) - NETS.keys():
        parser.error(f"no network is called {', '.join(sorted(unknown))}")
    warnings.simplefilter("ignore", spikec.SpikecWarning)
    plan, differ = Plan(), 0
    print("| network, reset | images | outputs | differ | spikes or none | spikes | differ | CPU s of lava |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for name in given.names or NETS:
        make, load = NETS[name]
        data = load()
        model = trained(make, data, plan.epochs)
        calibration = data.train[: plan.calibration]
        for reset in ("soft", "hard"):
            net = spikec.compile(model, "netx", calibration=calibration, timesteps=T, reset=reset)
            total = Compared()
            for part in compared(net, data.test[: given.images], python):
                total += part
                print(f"{name}, {reset}: {total.images} images in lava", file=sys.stderr, flush=True)
            found = (total.images, total.outputs, total.outputs_differ, total.cells, total.spikes, total.cells_differ)
            cells = " | ".join(f"{each:,}" for each in found)
            print(f"| {name}, {reset} | {cells} | {total.seconds:.0f} |", flush=True)
            differ += total.outputs_differ + total.cells_differ
    return int(differ > 0)


if __name__ == "__main__":
    sys.exit(main())
