"""What calibrating costs, beside one pass of the ANN over the same data, and beside SpikingJelly's RateCodingRecipe.

Every figure is CPU time on one thread. The processes alternate, each does its thing three times, and the fastest
counts; the table shows medians over the processes.
"""

from __future__ import annotations

import contextlib
import copy
import io
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import spikec
from spikec.shell.demo import tutorial_cnn

BATCH = 100
RUNS = 5
TASKS = ("pass", "statistics", "compile", "compile, verify=off", "SpikingJelly", "pass, again")
#: network and number of samples
CASES = (("cnn", 1000), ("cnn", 4000), ("resnet18", 1000))


class Block(nn.Module):
    """The basic block of He et al. 2016."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.skip: nn.Module = nn.Identity()
        if stride > 1:
            self.skip = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y)) + self.skip(x)
        result: Tensor = self.relu2(y)
        return result


def resnet18() -> nn.Module:
    """ResNet-18 for 32x32 images: a 3x3 stem without max-pool."""
    widths = [(64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2)]
    blocks = [Block(*each) for each in [*widths, (512, 512, 1)]]
    stem = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


def spikingjelly(net: nn.Module, batches: list[Tensor]) -> None:
    from spikingjelly.activation_based import ann2snn

    recipe = ann2snn.RateCodingRecipe(dataloader=[(x, torch.zeros(len(x))) for x in batches], mode="99.9%")
    with contextlib.redirect_stderr(io.StringIO()):
        ann2snn.FXConverter(recipe=recipe).convert(copy.deepcopy(net))


def one_pass(net: nn.Module, batches: list[Tensor]) -> None:
    with torch.no_grad():
        for batch in batches:
            net(batch)


def part(case: str, samples: int, task: str) -> None:
    """Print the CPU seconds of one thing."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    net, shape = (tutorial_cnn(), (1, 28, 28)) if case == "cnn" else (resnet18(), (3, 32, 32))
    net, batches = net.eval(), list(torch.rand(samples, *shape).split(BATCH))
    chosen = spikec.Normalization(method="percentile", percentile=99.9, per_channel=True)

    def compiled(verify: str) -> None:
        spikec.Compiler("spikingjelly", calibration=batches, normalization=chosen, verify=verify).run(net)  # type: ignore[arg-type]

    tasks: dict[str, Callable[[], None]] = {
        "pass": lambda: one_pass(net, batches),
        "pass, again": lambda: one_pass(net, batches),
        "statistics": lambda: graph_statistics(net, batches),
        "compile": lambda: compiled("end"),
        "compile, verify=off": lambda: compiled("off"),
        "SpikingJelly": lambda: spikingjelly(net, batches),
    }
    if task == "pass":
        one_pass(net, batches[:1])
    else:  # everything is imported, and "pass, again" has the memory that calibrating keeps
        spikec.compile(net, "spikingjelly", calibration=batches[:1], verify="off")
    if task == "statistics":
        print(graph_statistics(net, batches))
        return
    spent = []
    for _ in range(3 if case == "cnn" else 1):
        started = time.process_time()
        tasks[task]()
        spent.append(time.process_time() - started)
    print(min(spent))


def graph_statistics(net: nn.Module, batches: list[Tensor]) -> float:
    """CPU seconds of ``Calibration.gather`` alone: one pass and the statistics."""
    run = spikec.Compiler("spikingjelly", calibration=batches[:1], verify="off").run(net)
    before = next(i for i, stage in enumerate(run.stages) if stage.name == "normalize") - 1
    assert run.calibration is not None
    axes = dict.fromkeys(run.calibration.nodes, 0)
    spent = []
    for _ in range(3):
        started = time.process_time()
        spikec.Calibration.gather(run.stages[before].graph, axes, [(x,) for x in batches])
        spent.append(time.process_time() - started)
    return min(spent)


def measured(case: str, samples: int) -> dict[str, float]:
    """The median over the processes, by task; what fails to import is left out."""
    found: dict[str, list[float]] = {task: [] for task in TASKS}
    for _ in range(RUNS if case == "cnn" else 1):
        for task in TASKS:
            command = [sys.executable, __file__, case, str(samples), task]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode == 0:
                found[task].append(float(done.stdout.split()[-1]))
            elif "No module named" not in done.stderr:
                raise SystemExit(done.stderr)
    return {task: statistics.median(seconds) for task, seconds in found.items() if seconds}


def main() -> None:
    console = Console(highlight=False, width=120)
    versions = ", ".join(f"{name} {version(name)}" for name in ("spikec", "torch"))
    console.print(f"{versions}; Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}")
    for case, samples in CASES:
        table = Table(title=f"{case}, {samples} samples in batches of {BATCH}")
        for heading in ("", "CPU seconds", "x one pass"):
            table.add_column(heading, justify="right" if heading else "left")
        found = measured(case, samples)
        for task, seconds in found.items():
            table.add_row(task, f"{seconds:.2f}", f"{seconds / found['pass']:.2f}")
        console.print(table)


if __name__ == "__main__":
    part(sys.argv[1], int(sys.argv[2]), sys.argv[3]) if sys.argv[1:] else main()
