"""CPU time of simulating, converting and loading, beside passes of the plain network and beside SpikingJelly.

Everything is measured in rounds in which all ways take turns, so that a busy machine slows all of them; ratios count.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import itertools
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

import attrs
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

import spikec
from spikec.shell.demo import tutorial_cnn

sys.path.insert(0, str(Path(__file__).parent))  # also where Python is told not to look there
from resnets import resnet18

try:
    from spikingjelly.activation_based import ann2snn, functional
except ModuleNotFoundError:
    ann2snn = functional = None

#: programs of their own with the same options, each with its tables
OTHERS = ("speed_convert.py", "speed_load.py")


def vgg11() -> nn.Module:
    """VGG-11 for 32x32 images, with average pools and one layer behind the convolutions."""
    layers: list[nn.Module] = []
    inputs = 3
    for width in (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0):
        if width:
            layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            inputs = width
        else:
            layers.append(nn.AvgPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))


def mlp() -> nn.Module:
    """784-512-512-10."""
    widths = (784, 512, 512)
    layers = [each for a, b in itertools.pairwise(widths) for each in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(512, 10))


@attrs.frozen
class Case:
    """A network that is simulated.

    Attributes:
        name: as the table shows it.
        build: makes it.
        shape: of a sample.
        batch, timesteps: B and T.
    """

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    batch: int
    timesteps: int


CASES = (
    Case("MNIST CNN", tutorial_cnn, (1, 28, 28), 100, 16),
    Case("ResNet-18@32", resnet18, (3, 32, 32), 8, 4),
    Case("VGG-11@32", vgg11, (3, 32, 32), 8, 4),
    Case("MLP 784-512-512-10", mlp, (784,), 100, 16),
)


@attrs.frozen
class Spent:
    """Seconds of one run."""

    cpu: float
    wall: float


def spent(run: Callable[[], object]) -> Spent:
    cpu, wall = time.process_time(), time.perf_counter()
    run()
    return Spent(time.process_time() - cpu, time.perf_counter() - wall)


def in_turns(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[Spent]]:
    """Run every way once to warm up, and then all of them in turns, every other round backwards."""
    found: dict[str, list[Spent]] = {name: [] for name in ways}
    for run in ways.values():
        run()
    for i in range(rounds):
        for name in [*ways][:: -1 if i % 2 else 1]:
            found[name].append(spent(ways[name]))
    return found


def ways_to_simulate(case: Case) -> dict[str, Callable[[], object]]:
    """What is measured of a case; all of them do T steps of the same batch, the plain network T passes."""
    torch.manual_seed(0)
    net, x = case.build().eval(), torch.rand(case.batch, *case.shape)
    xs, steps = x.expand(case.timesteps, *x.shape), range(case.timesteps)
    chosen = spikec.Normalization(method="percentile", percentile=99.9, per_channel=True)
    compiler = spikec.Compiler("spikingjelly", calibration=[x], normalization=chosen, verify="off")
    compilation = compiler.run(net)
    snn, fresh = compilation.artifact, copy.deepcopy(compilation.artifact)
    ways: dict[str, Callable[[], object]] = {"plain ANN": lambda: [net(x) for _ in steps]}
    if len(case.shape) == 3:
        folded = fuse(net).to(memory_format=torch.channels_last)
        last = x.to(memory_format=torch.channels_last)
        ways["ANN, folded, channels_last"] = lambda: [folded(last) for _ in steps]

    def stepwise(module: nn.Module, sample: Tensor) -> list[Tensor]:
        module.reset()  # type: ignore[operator]
        module.step_mode = "s"  # type: ignore[assignment]
        return [module(sample) for _ in steps]

    def at_once(module: nn.Module, samples: Tensor) -> Tensor:
        module.reset()  # type: ignore[operator]
        module.step_mode = "m"  # type: ignore[assignment]
        found: Tensor = module(samples)
        return found

    ways["spikec, s"] = lambda: stepwise(snn, x)
    ways["spikec, m"] = lambda: at_once(snn, xs)
    labels = torch.zeros(case.batch, dtype=torch.int64)
    ways["spikec.evaluate"] = lambda: spikec.evaluate(fresh, [(x, labels)], case.timesteps)
    ways["spikec.run"] = lambda: spikec.run(compilation.graph, x, case.timesteps)
    if len(case.shape) == 3:
        other = copy.deepcopy(snn).to(memory_format=torch.channels_last)
        ways["spikec, s, channels_last"] = lambda: stepwise(other, last)
    if ann2snn is not None:
        ways |= theirs(net, x, case.timesteps)
    return ways


def theirs(net: nn.Module, x: Tensor, timesteps: int) -> dict[str, Callable[[], object]]:
    """SpikingJelly's conversion of the same network with the same statistic, in both step modes."""
    recipe = ann2snn.RateCodingRecipe(dataloader=[(x, torch.zeros(len(x)))], mode="99.9%")
    with contextlib.redirect_stderr(io.StringIO()):
        snn = ann2snn.FXConverter(recipe=recipe).convert(copy.deepcopy(net)).eval()

    def stepwise() -> None:
        functional.reset_net(snn)
        functional.set_step_mode(snn, "s")
        for _ in range(timesteps):
            snn(x)

    def at_once() -> None:
        functional.reset_net(snn)
        functional.set_step_mode(snn, "m")
        snn(x.expand(timesteps, *x.shape))

    return {"SpikingJelly, s": stepwise, "SpikingJelly, m": at_once}


def simulation(console: Console, rounds: int) -> None:
    """Print a table for each network."""
    for case in CASES:
        with torch.no_grad():
            found = in_turns(ways_to_simulate(case), rounds)
        table = Table(title=f"{case.name}: T={case.timesteps}, batch {case.batch}; 1 x = T passes of the plain network")
        for heading in ("", "x (CPU)", "spread", "CPU s", "wall s"):
            table.add_column(heading, justify="right" if heading else "left")
        for name, runs in found.items():
            ratios = [run.cpu / plain.cpu for run, plain in zip(runs, found["plain ANN"], strict=True)]
            seconds = [f"{statistics.median(values):.3f}" for values in ([r.cpu for r in runs], [r.wall for r in runs])]
            spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
            table.add_row(name, f"{statistics.median(ratios):.2f}", spread, *seconds)
        console.print(table)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--quick", action="store_true", help="few rounds, small cases")
    options.add_argument("--rounds", type=int, help="how often each way is measured")
    options.add_argument("--threads", type=int, default=1, help="of torch")
    chosen = options.parse_args()
    rounds = chosen.rounds or (2 if chosen.quick else 9)
    torch.set_num_threads(chosen.threads)
    warnings.simplefilter("ignore")
    console = Console(highlight=False, width=120)
    names = ["spikec", "torch"] + ["spikingjelly"] * (ann2snn is not None)
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    console.print(f"{versions}; Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}")
    console.print(f"{chosen.threads} thread(s), {rounds} rounds, load {os.getloadavg()[0]:.1f}")
    simulation(console, rounds)


if __name__ == "__main__":
    main()
