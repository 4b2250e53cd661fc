"""What converting costs: CPU time beside one pass of the network over the calibration data, beside SpikingJelly.

All ways of a row take turns, so that a busy machine slows all of them; ratios count. Checks are on, as by default.
"""

from __future__ import annotations

import argparse
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
from pathlib import Path
from typing import Any

import attrs
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import spikec
from spikec.shell.demo import tutorial_cnn

sys.path.insert(0, str(Path(__file__).parent))  # also where Python is told not to look there
from resnets import resnet18, resnet50

try:
    from spikingjelly.activation_based import ann2snn
except ModuleNotFoundError:
    ann2snn = None

PERCENTILE = spikec.Normalization(method="percentile", percentile=99.9)


@attrs.frozen
class Case:
    """A network that is converted.

    Attributes:
        work: as the table shows it.
        build: makes the network.
        shape: of a sample.
        samples, batch: how many there are, and in one batch.
        options: of the compiler.
        theirs: SpikingJelly's mode that chooses the same statistic for each channel; None where it has none.
        limit: what a prototype took, in passes.
        due: what it may take, in passes, and in seconds beside them.
    """

    work: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    samples: int
    batch: int
    options: dict[str, Any]
    theirs: str | None
    limit: float
    due: tuple[float, float]


CASES = (
    Case(
        "MNIST CNN, 99.9 %",
        tutorial_cnn,
        (1, 28, 28),
        1000,
        100,
        {"normalization": PERCENTILE},
        "99.9%",
        1.4,
        (1.5, 0.3),
    ),
    Case("MNIST CNN, max", tutorial_cnn, (1, 28, 28), 1000, 100, {"normalization": "max"}, "Max", 1, (1.5, 0.3)),
    Case("MNIST CNN, tuned for T=8", tutorial_cnn, (1, 28, 28), 1000, 100, {"timesteps": 8}, None, 5, (8, 0)),
    Case(
        "ResNet-18@32, 99.9 %", resnet18, (3, 32, 32), 200, 100, {"normalization": PERCENTILE}, "99.9%", 1.4, (1.5, 0.3)
    ),
    Case("ResNet-50@224, 99.9 %", resnet50, (3, 224, 224), 4, 4, {"normalization": PERCENTILE}, None, 1, (0, 4)),
)
#: the case whose memory is measured, and the megabytes that converting may add to what a pass takes
MEMORY, MEGABYTES = CASES[-1], 500


def made(case: Case) -> tuple[nn.Module, list[Tensor]]:
    """The network and its calibration data."""
    torch.manual_seed(0)
    return case.build().eval(), list(torch.rand(case.samples, *case.shape).split(case.batch))


def plain(net: nn.Module, batches: list[Tensor]) -> None:
    with torch.no_grad():
        for batch in batches:
            net(batch)


def convert(net: nn.Module, batches: list[Tensor], **options: Any) -> None:
    spikec.compile(net, "spikingjelly", calibration=batches, **options)


def convert_theirs(net: nn.Module, batches: list[Tensor], mode: str) -> None:
    data = [(x, torch.zeros(len(x))) for x in batches]
    recipe = ann2snn.RateCodingRecipe(dataloader=data, mode=mode, channel_wise=mode != "Max")
    with contextlib.redirect_stderr(io.StringIO()):
        ann2snn.FXConverter(recipe=recipe).convert(copy.deepcopy(net))


def spent(run: Callable[[], None]) -> tuple[float, float]:
    """The CPU and the wall seconds of one run."""
    cpu, wall = time.process_time(), time.perf_counter()
    run()
    return time.process_time() - cpu, time.perf_counter() - wall


def measured(case: Case, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """CPU and wall seconds of each way, in rounds in which all of them take turns, behind one that warms up."""
    net, batches = made(case)
    ways: dict[str, Callable[[], None]] = {
        "plain": lambda: plain(net, batches),
        "spikec": lambda: convert(net, batches, **case.options),
        "spikec, verify=off": lambda: convert(net, batches, verify="off", **case.options),
    }
    mode = case.theirs
    if ann2snn is not None and mode is not None:
        ways["peer"] = lambda: convert_theirs(net, batches, mode)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for i in range(rounds + 1):
        for name in [*ways][:: -1 if i % 2 else 1]:
            seconds = spent(ways[name])
            if i > 0:
                found[name].append(seconds)
    return found


def in_passes(found: dict[str, list[tuple[float, float]]], name: str) -> list[float]:
    """The CPU time of one way in each round, in passes of the plain network."""
    return [cpu / one for (cpu, _), (one, _) in zip(found.get(name, []), found["plain"], strict=False)]


def added_megabytes() -> float:
    """What converting adds to the memory that a pass takes at most, in processes of their own."""
    peaks = {}
    for task in ("plain", "convert"):
        command = [sys.executable, __file__, "--peak", task]
        peaks[task] = float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    return peaks["convert"] - peaks["plain"]


def peak(task: str) -> None:
    """Print the most memory that one pass, or converting, takes in this process, in MB (Linux)."""
    net, batches = made(MEMORY)
    if task == "plain":
        plain(net, batches)
    else:
        convert(net, batches, **MEMORY.options)
    status = Path("/proc/self/status").read_text()  # ru_maxrss has the peak of the process that started this one in it
    print(int(status.split("VmHWM:")[1].split()[0]) / 1e3)


def rows(rounds: int, quick: bool) -> list[dict[str, Any]]:
    """What was measured, a row a case: ``work``, ``spikec``, ``peer``, ``limit``, ``due`` in a ``unit``.

    Numbers are medians, in passes of the plain network, or None; beside them ``spread`` (least and most), ``off``
    (without checks) and ``seconds`` (CPU and wall). Quick leaves out ResNet-50.
    """
    found = []
    for case in CASES[: -1 if quick else None]:
        runs = measured(case, rounds)
        ours, theirs = in_passes(runs, "spikec"), in_passes(runs, "peer")
        one = statistics.median(cpu for cpu, _ in runs["plain"])
        row = {
            "work": case.work,
            "spikec": statistics.median(ours),
            "peer": statistics.median(theirs) if theirs else None,
            "limit": case.limit,
            "due": case.due[0] + case.due[1] / one,
            "unit": "x",
            "spread": (min(ours), max(ours)),
            "off": statistics.median(in_passes(runs, "spikec, verify=off")),
            "seconds": tuple(statistics.median(column) for column in zip(*runs["spikec"], strict=True)),
        }
        found.append(row)
    if not quick:
        row = {
            "work": f"{MEMORY.work}, memory above a pass",
            "spikec": added_megabytes(),
            "due": MEGABYTES,
            "unit": "MB",
        }
        found.append({"peer": None, "limit": None, **row})
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--quick", action="store_true", help="few rounds, and no ResNet-50")
    options.add_argument("--rounds", type=int, help="how often each way is measured")
    options.add_argument("--threads", type=int, default=1, help="of torch")
    options.add_argument("--peak", choices=("plain", "convert"), help=argparse.SUPPRESS)
    chosen = options.parse_args()
    rounds = chosen.rounds or (2 if chosen.quick else 5)
    torch.set_num_threads(chosen.threads)
    warnings.simplefilter("ignore")
    if chosen.peak:
        peak(chosen.peak)
        return
    console = Console(highlight=False, width=120)
    names = ["spikec", "torch"] + ["spikingjelly"] * (ann2snn is not None)
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    console.print(f"{versions}; Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}")
    console.print(f"{chosen.threads} thread(s), {rounds} rounds, load {os.getloadavg()[0]:.1f}")
    table = Table(title="Converting; 1 x = one pass of the plain network over the calibration data (CPU time)")
    for heading in ("", "spikec", "spread", "verify=off", "SpikingJelly", "limit", "due", "", "CPU s", "wall s"):
        table.add_column(heading, justify="right" if heading else "left")
    for row in rows(rounds, chosen.quick):
        spread = "{:.2f} to {:.2f}".format(*row["spread"]) if "spread" in row else ""
        cells = [row["spikec"], spread, row.get("off"), row["peer"], row["limit"], row["due"], row["unit"]]
        cells += row.get("seconds", ("", ""))
        texts = ["" if cell is None else cell if isinstance(cell, str) else f"{cell:.3g}" for cell in cells]
        table.add_row(row["work"], *texts)
    console.print(table)


if __name__ == "__main__":
    main()
