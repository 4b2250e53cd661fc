"""Time and peak memory of compiling, against one pass of the ANN over the same calibration data."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
import warnings
from importlib.metadata import version
from typing import Literal

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import spikec
from families import megabytes
from spikec.shell.demo import tutorial_cnn

SAMPLES = 1000
BATCH = 100
TARGETS = ("spikingjelly", "nir", "netx")


def one_pass(net: nn.Module, x: torch.Tensor) -> None:
    with torch.no_grad():
        for batch in torch.split(x, BATCH):
            net(batch)


def compiled(net: nn.Module, x: torch.Tensor, target: str, verify: Literal["end", "off"]) -> None:
    spikec.compile(net, target, calibration=torch.split(x, BATCH), verify=verify)


def part(what: str) -> None:
    """Print the CPU seconds on one thread and the added megabytes of one thing; imports are not counted."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.simplefilter("ignore", spikec.SpikecWarning)
    net, x = tutorial_cnn().eval(), torch.rand(SAMPLES, 1, 28, 28)
    target, _, verify = what.partition("/")
    one_pass(net, x[:1])
    if target != "ann":
        compiled(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)), torch.rand(9, 2), target, "off")
    before, started = megabytes(), time.process_time()
    if target == "ann":
        one_pass(net, x)
    else:
        compiled(net, x, target, "off" if verify == "off" else "end")
    print(time.process_time() - started, megabytes() - before)


def measured(what: str) -> tuple[float, float]:
    """The median time of three processes, and the most memory that one of them added."""
    runs = []
    for _ in range(3):
        command = [sys.executable, __file__, what]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        seconds, memory = map(float, done.stdout.split())
        runs.append((seconds, memory))
    return sorted(seconds for seconds, _ in runs)[1], max(memory for _, memory in runs)


def main() -> None:
    console = Console(highlight=False, width=120)
    versions = ", ".join(f"{name} {version(name)}" for name in ("spikec", "torch"))
    console.print(f"{versions}; Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}")
    seconds, memory = measured("ann")
    table = Table(title=f"tutorial CNN, {SAMPLES} calibration samples in batches of {BATCH}")
    for heading in ("", "CPU seconds", "x ANN", "MB added", "x ANN"):
        table.add_column(heading, justify="right" if heading else "left")
    table.add_row("one ANN pass", f"{seconds:.2f}", "1.0", f"{memory:.0f}", "1.0")
    for target in TARGETS:
        for verify in ("off", "end"):
            spent, added = measured(f"{target}/{verify}")
            cells = (f"{spent:.2f}", f"{spent / seconds:.1f}", f"{added:.0f}", f"{added / memory:.1f}")
            table.add_row(f"compile for {target}, verify={verify}", *cells)
    console.print(table)


if __name__ == "__main__":
    part(sys.argv[1]) if sys.argv[1:] else main()
