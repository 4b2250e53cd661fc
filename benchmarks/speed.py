"""CPU time of simulating, converting and loading, beside passes of the plain network and beside SpikingJelly.

It ends with one table of all that has a figure which is due, its own and those of the other programs ``speed_*.py``;
with ``--profile`` it prints what the time of two networks is spent on, and nothing else.

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
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

import spikec
from spikec.backends.spikingjelly.events import EventLinear
from spikec.backends.spikingjelly.neurons import IFNode
from spikec.shell.demo import tutorial_cnn

sys.path.insert(0, str(Path(__file__).parent))  # also where Python is told not to look there
import speed_convert
import speed_load
import speed_processes
from resnets import resnet18

try:
    from spikingjelly.activation_based import ann2snn, functional
except ModuleNotFoundError:
    ann2snn = functional = None

#: what is due of ours in both step modes, beside SpikingJelly's faster one, for the MNIST CNN
BESIDE = 0.45


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
        due: what ours is to take at most in both step modes, in T plain passes.
    """

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    batch: int
    timesteps: int
    due: float


CASES = (
    Case("MNIST CNN", tutorial_cnn, (1, 28, 28), 100, 16, 0.75),
    Case("ResNet-18@32", resnet18, (3, 32, 32), 8, 4, 1.05),
    Case("VGG-11@32", vgg11, (3, 32, 32), 8, 4, 0.95),
    Case("MLP 784-512-512-10", mlp, (784,), 100, 16, 0.55),
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


def converted(net: nn.Module, x: Tensor, **options: Any) -> spikec.Compilation:
    chosen = spikec.Normalization(method="percentile", percentile=99.9, per_channel=True)
    compiler = spikec.Compiler("spikingjelly", calibration=[x], normalization=chosen, verify="off", **options)
    return compiler.run(net)


def ways_to_simulate(case: Case) -> dict[str, Callable[[], object]]:
    """What is measured of a case; all of them do T steps of the same batch, the plain network T passes."""
    torch.manual_seed(0)
    net, x = case.build().eval(), torch.rand(case.batch, *case.shape)
    compilation = converted(net, x)
    steps, labels = range(case.timesteps), torch.zeros(case.batch, dtype=torch.int64)
    ours = compilation.artifact
    ways: dict[str, Callable[[], object]] = {
        "plain ANN": lambda: [net(x) for _ in steps],
        "the least loop": least_loop(ours, x, case.timesteps),
        "spikec, s": lambda: stepwise(ours, x, case.timesteps),
        "spikec, m": lambda: at_once(ours, x, case.timesteps),
        "spikec.evaluate": lambda: spikec.evaluate(in_steps(ours), [(x, labels)], case.timesteps),
        "spikec.run": lambda: spikec.run(compilation.graph, x, case.timesteps),
    }
    if len(case.shape) == 3:
        last = torch.channels_last
        folded, theirs_last, x_last = fuse(net).to(memory_format=last), copy.deepcopy(ours), x.to(memory_format=last)
        theirs_last.to(memory_format=last)  # type: ignore[call-overload]
        ways["ANN, folded, channels_last"] = lambda: [folded(x_last) for _ in steps]
        ways["spikec, s, channels_last"] = lambda: stepwise(theirs_last, x_last, case.timesteps)
    if any(isinstance(part, nn.Linear) and part.out_features > 64 for part in net.modules()):
        by_events = converted(net, x, events=True).artifact
        ways["spikec, m, events=True"] = lambda: at_once(by_events, x, case.timesteps)
    if ann2snn is not None:
        other = theirs(net, x)
        ways["SpikingJelly, s"] = lambda: stepwise(other, x, case.timesteps)
        ways["SpikingJelly, m"] = lambda: at_once(other, x, case.timesteps)
    return ways


def in_steps(snn: Any, mode: str = "s") -> Any:
    """A spiking module of either library, reset, in a step mode."""
    if isinstance(snn, torch.fx.GraphModule):
        functional.reset_net(snn)
        functional.set_step_mode(snn, mode)
    else:
        snn.reset()
        snn.step_mode = mode
    return snn


def stepwise(snn: nn.Module, x: Tensor, timesteps: int) -> list[Tensor]:
    net = in_steps(snn)
    return [net(x) for _ in range(timesteps)]


def at_once(snn: nn.Module, x: Tensor, timesteps: int) -> Tensor:
    found: Tensor = in_steps(snn, "m")(x.expand(timesteps, *x.shape))
    return found


def least_loop(snn: Any, x: Tensor, timesteps: int) -> Callable[[], list[Tensor]]:
    """The same arithmetic in the same torch functions, step by step, with nothing around it.

    Its plan is made before. What does not change over time is computed once, potentials are written over and spikes
    into memory that is kept, and values are never checked; but it compares the input with the one before, as every loop
    must that leaves its first layer out and cannot know who writes to the input.
    """
    stateful = [call.node for call in snn.plan if isinstance(getattr(snn, call.part), IFNode)]
    first = next(i for i, call in enumerate(snn.plan) if call.node in stateful)
    steps = [(call.node, getattr(snn, call.part), call.operands) for call in snn.plan]
    (given,) = snn.inputs

    def loop() -> list[Tensor]:
        values = {given: x}
        for node, part, operands in steps[1:first]:
            values[node] = part.forward(*(values[each] for each in operands))
        before, results = x.clone(), []
        potentials = {}
        for _ in range(timesteps):
            assert np.array_equal(x.numpy(), before.numpy())  # of torch.equal it is a fifth
            for node, part, operands in steps[first:]:
                current = [values[each] for each in operands]
                if node not in stateful:
                    values[node] = part.forward(*current)
                    continue
                if node not in potentials:
                    potentials[node] = current[0] + part.v_init
                    values[node] = torch.empty_like(current[0])
                else:
                    potentials[node].add_(current[0])
                torch.ge(potentials[node], part.v_threshold, out=values[node])
                potentials[node].addcmul_(values[node], part.v_threshold, value=-1)
            results.append(values[snn.outputs[0]])
        return results

    assert all(map(torch.equal, loop(), stepwise(snn, x, timesteps))), "the loop gives something else"
    return loop


def theirs(net: nn.Module, x: Tensor) -> nn.Module:
    """SpikingJelly's conversion of the same network with the same statistic."""
    recipe = ann2snn.RateCodingRecipe(dataloader=[(x, torch.zeros(len(x)))], mode="99.9%")
    with contextlib.redirect_stderr(io.StringIO()):
        snn: nn.Module = ann2snn.FXConverter(recipe=recipe).convert(copy.deepcopy(net)).eval()
    return snn


def simulation(console: Console, rounds: int, threads: int) -> list[dict[str, Any]]:
    """Print a table for each network; return rows of what is due, as those of the other programs."""
    torch.set_num_threads(threads)
    rows: list[dict[str, Any]] = []
    for case in CASES:
        found = in_turns(ways_to_simulate(case), rounds)
        rows += due(case, found, threads)
        title = f"{case.name}: T={case.timesteps}, batch {case.batch}, {threads} thread(s)"
        table = Table(title=f"{title}; 1 x = T passes of the plain network")
        for heading in ("", "x (CPU)", "spread", "CPU s", "wall s"):
            table.add_column(heading, justify="right" if heading else "left")
        for name, runs in found.items():
            ratios = in_passes(found, name)
            seconds = [f"{statistics.median(values):.3f}" for values in ([r.cpu for r in runs], [r.wall for r in runs])]
            spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
            table.add_row(name, f"{statistics.median(ratios):.2f}", spread, *seconds)
        console.print(table)
    return rows


def in_passes(found: Mapping[str, list[Spent]], name: str) -> list[float]:
    """The CPU time of one way in each round, in T passes of the plain network."""
    return [run.cpu / plain.cpu for run, plain in zip(found[name], found["plain ANN"], strict=True)]


def due(case: Case, found: Mapping[str, list[Spent]], threads: int) -> list[dict[str, Any]]:
    """Rows of a network in both step modes, and of the better one beside SpikingJelly's better one."""
    rows = []
    for mode in ("s", "m"):
        ours, theirs = in_passes(found, f"spikec, {mode}"), f"SpikingJelly, {mode}"
        # in mode "m" steps share what the loop does anew for each
        limit = statistics.median(in_passes(found, "the least loop")) if mode == "s" else None
        row = {"work": f"simulate {case.name}, mode {mode}, {threads} thread(s)", "spikec": statistics.median(ours)}
        row |= {"spread": (min(ours), max(ours)), "limit": limit, "due": case.due, "unit": "x"}
        rows.append(row | {"peer": statistics.median(in_passes(found, theirs)) if theirs in found else None})
    if case is CASES[0] and all(row["peer"] is not None for row in rows):
        slower, best = max(row["spikec"] for row in rows), min(row["peer"] for row in rows)
        work = f"simulate {case.name}, slower mode over SpikingJelly's better one, {threads} thread(s)"
        rows.append(
            {"work": work, "spikec": slower / best, "peer": None, "limit": None, "due": BESIDE, "unit": "times"}
        )
    return rows


def profile(console: Console) -> None:
    """Print for two networks which of torch's ops the CPU time of T steps, and of T plain passes, is spent in."""
    for case in CASES[:2]:
        ways = ways_to_simulate(case)
        for name in ("plain ANN", "spikec, s", "spikec, m"):
            ways[name]()
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
                ways[name]()
            ops = sorted(seen.key_averages(), key=lambda op: -op.self_cpu_time_total)
            whole = sum(op.self_cpu_time_total for op in ops)
            shares = (f"{op.key.removeprefix('aten::')} {op.self_cpu_time_total / whole:.0%}" for op in ops[:8])
            console.print(f"{case.name}, {name}, {whole / 1e3:.0f} ms: {', '.join(shares)}")


def summary(console: Console, rows: list[dict[str, Any]]) -> None:
    """Print the table of all that is due; what is missed has a star."""
    table = Table(title="1 x = T passes of the plain network, or one over the calibration data (CPU time)")
    for heading in ("", "spikec", "spread", "SpikingJelly, torch", "limit", "due", "unit"):
        table.add_column(heading, justify="left" if heading in ("", "unit") else "right")
    for row in rows:
        least = row.get("least", False)
        missed = row["due"] is not None and (row["spikec"] < row["due"] if least else row["spikec"] > row["due"])
        spread = "{:.2f} to {:.2f}".format(*row["spread"]) if "spread" in row else ""
        figures = ["" if row[key] is None else f"{row[key]:.3g}" for key in ("peer", "limit", "due")]
        table.add_row(row["work"], f"{row['spikec']:.3g}{'*' * missed}", spread, *figures, row["unit"])
    console.print(table)


def events(console: Console, rounds: int) -> None:
    """Print from which rate on adding up the weights of what fired costs more than the product with all of them."""
    rates = (0.02, 0.05, 0.1, 0.2, 0.3)
    table = Table(title="CPU time of a linear layer over the one that is driven by events, by the rate of its operand")
    for heading in ("layer, batch", *(f"{rate:.0%}" for rate in rates)):
        table.add_column(heading, justify="left" if heading.startswith("layer") else "right")
    for size, batch in ((512, 1), (512, 100), (4096, 8), (4096, 100)):
        plain = nn.Linear(size, size)
        layer = EventLinear.of(plain)
        cells = []
        for rate in rates:
            x = (torch.rand(batch, size) < rate).float()
            found = in_turns({"dense": partial(plain, x), "sparse": partial(layer, x)}, rounds)
            dense_s, sparse_s = (min(run.cpu for run in found[name]) for name in ("dense", "sparse"))
            cells.append(f"{dense_s / sparse_s:.2f}")
        table.add_row(f"{size}x{size}, {batch}", *cells)
    console.print(table)


def memory(console: Console) -> None:
    """Print how far the peak of memory rises when the MNIST CNN is run, by T, each in a process of its own."""
    table = Table(title="MNIST CNN, batch 10: how far memory rises above that of one step, MB (Linux)")
    for heading in ("T", "spikec, m", *["SpikingJelly, m"] * (ann2snn is not None)):
        table.add_column(heading, justify="right")
    for timesteps in (50, 200, 1000):
        names = ["spikec", *["spikingjelly"] * (ann2snn is not None)]
        commands = ([sys.executable, __file__, "--peak", name, str(timesteps)] for name in names)
        peaks = (subprocess.run(command, capture_output=True, text=True, check=True) for command in commands)
        table.add_row(str(timesteps), *(peak.stdout.split()[-1] for peak in peaks))
    console.print(table)


def print_peak(library: str, timesteps: int) -> None:
    """Print by how many MB the peak of this process rises when it runs so many steps, after it has run one."""
    net, x = tutorial_cnn().eval(), torch.rand(10, 1, 28, 28)
    snn = converted(net, x).artifact if library == "spikec" else theirs(net, x)
    at_once(snn, x, 1)
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far, which is that of converting
    before = peak()
    at_once(snn, x, timesteps)
    print(round((peak() - before) / 1024))


def peak() -> int:
    """The peak of this process's memory, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--quick", action="store_true", help="two rounds")
    options.add_argument("--rounds", type=int, help="how often each way is measured")
    options.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of torch, in simulations")
    options.add_argument("--profile", action="store_true", help="print shares of torch's ops, and nothing else")
    options.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)  # what a process of its own measures
    chosen = options.parse_args()
    rounds = chosen.rounds or (2 if chosen.quick else 5)
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    warnings.simplefilter("ignore")
    if chosen.peak:
        print_peak(chosen.peak[0], int(chosen.peak[1]))
        return
    console = Console(highlight=False, width=120)
    names = ["spikec", "torch"] + ["spikingjelly"] * (ann2snn is not None)
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    console.print(f"{versions}; Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}")
    console.print(f"{rounds} rounds, load {os.getloadavg()[0]:.1f}")
    if chosen.profile:
        profile(console)
        return
    rows = [row for threads in chosen.threads for row in simulation(console, rounds, threads)]
    torch.set_num_threads(1)
    events(console, rounds)
    memory(console)
    with torch.enable_grad():  # as in programs of users
        rows += speed_convert.rows(min(rounds, 3), chosen.quick)
    rows += speed_load.rows(1, chosen.quick)
    rows += speed_processes.rows(min(rounds, 3), chosen.quick)
    summary(console, rows)


if __name__ == "__main__":
    main()
