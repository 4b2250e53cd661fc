"""What reading a network costs, by its size: CPU time of loading and compiling, of the first load, and of imports.

Each figure is measured in processes of their own, which take turns. Time is CPU time; torch runs on one thread.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import os
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

SIZES = (100, 1000, 3000, 10000)
#: programs in whole, by what they show
PROGRAMS = {
    "import torch": "import torch",
    "import spikec": "import spikec",
    "import spikec, to compile": "import spikec; spikec.compile",
    "spikec --help": "from spikec.shell.cli import main; main(['--help'], prog_name='spikec')",
}


def network(kind: str, size: int) -> tuple[Any, Any]:
    """A network of about so many nodes whose signals neither grow nor vanish, and four samples."""
    import torch
    from torch import nn

    torch.manual_seed(0)

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(size // 3))
            self.last = nn.Linear(8, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                x = torch.relu(x + layer(x))
            return self.last(x)

    with torch.no_grad():
        if kind == "residual":
            net: nn.Module = Residual()
            for layer in net.layers:  # type: ignore[union-attr]
                layer.weight *= 0.02
            return net.eval(), torch.rand(4, 8)
        if kind == "linear":
            rows: list[Any] = [nn.Linear(8, 8) for _ in range(size // 2)]
            head, x = [nn.Linear(8, 4)], torch.rand(4, 8)
        else:
            rows = [nn.Conv2d(4, 4, 3, padding=1) for _ in range(size // 2)]
            head, x = [nn.Flatten(), nn.Linear(64, 4)], torch.rand(4, 4, 4, 4)
        for layer in rows:
            layer.weight *= 0.02
            layer.bias.zero_()
            kept = torch.zeros_like(layer.weight)
            for i in range(len(kept)):
                kept[(i, i) if kind == "linear" else (i, i, 1, 1)] = 1
            layer.weight += kept
    return nn.Sequential(*itertools.chain.from_iterable((layer, nn.ReLU()) for layer in rows), *head).eval(), x


def spent(what: Callable[[], Any]) -> float:
    """CPU seconds."""
    started = time.process_time()
    what()
    return time.process_time() - started


def part(what: str, kind: str, size: int) -> float:
    """Measure one thing in this process.

    Args:
        what: ``load``, ``compile`` or ``unchecked`` (without checks), milliseconds a node; ``first``, seconds that the
            first load takes more than the second; ``memory``, megabytes that loading adds for each 1,000 nodes.
        kind, size: of the network.
    """
    import torch

    import spikec

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    small, net = network("linear", 4), network(kind, size)
    if what == "first":
        spikec.load  # noqa: B018 - imports what "import spikec, to compile" shows
        gc.collect()  # of what importing torch left
        return spent(lambda: spikec.load(*small)) - spent(lambda: spikec.load(*small))
    spikec.compile(small[0], "spikingjelly", calibration=small[1], normalization="max", verify="off")
    if what == "memory":
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far, which is that of compiling
        before = peak()
        graph = spikec.load(*net)
        return (peak() - before) / len(graph)
    if what in ("compile", "unchecked"):
        options: Any = {"calibration": net[1], "normalization": "max", "verify": "end" if what == "compile" else "off"}
        return 1e3 * spent(lambda: spikec.compile(net[0], "spikingjelly", **options)) / size
    gc.collect()  # else a collection of torch's 165,000 objects is due in some of the runs, by chance
    return 1e3 * spent(lambda: spikec.load(*net)) / size


#: modules are imported from their bytecode, as where a package was installed
BYTECODE = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}


def peak() -> int:
    """The peak of this process's memory, in KiB (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def measured(*what: str) -> float:
    """Measure in a process of its own."""
    command = [sys.executable, __file__, "--part", *what]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=BYTECODE)
    return float(run.stdout)


def program(code: str) -> float:
    """CPU seconds of a whole Python process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=True, env=BYTECODE)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def rows(rounds: int, quick: bool) -> list[dict[str, Any]]:
    """All figures: medians over the rounds, in each of which everything is measured once.

    Args:
        rounds: how often.
        quick: networks of up to 1,000 nodes only.

    Returns:
        For each row ``work``, ``spikec``, ``peer`` (None: nothing else does the same), ``limit``, ``due`` and ``unit``.
    """
    sizes = [size for size in SIZES if size <= 1000 or not quick]
    work: dict[str, tuple[Callable[[], float], str, float | None, float | None]] = {}
    for kind in ("linear", "convolution", "residual"):
        for size in sizes:
            name = f"{kind}, {size:,} nodes"
            work[f"load {name}"] = (lambda k=kind, s=size: measured("load", k, str(s)), "ms a node", 0.1, 0.5)
            if kind == "linear":
                due = 1.2 if size == SIZES[-1] else None
                for what, how in (("compile", "with checks"), ("unchecked", "without checks")):
                    work[f"compile {name}, {how}"] = (
                        lambda w=what, k=kind, s=size: measured(w, k, str(s)),
                        "ms a node",
                        None,
                        due,
                    )
    work["the first load, beside the second"] = (lambda: measured("first", "linear", "4"), "s", 0.05, 0.1)
    work[f"peak memory of loading {sizes[-1]:,} nodes"] = (
        (lambda: measured("memory", "linear", str(sizes[-1]))),
        "KB a node",
        None,
        None,
    )
    for name, code in PROGRAMS.items():
        due = {"spikec --help": 0.3}.get(name)
        work[name] = (lambda c=code: program(c), "s", None, due)
    measured("first", "linear", "4")  # writes bytecode, and so does the next one
    program(PROGRAMS["spikec --help"])
    found = [{name: run() for name, (run, *_) in work.items()} for _ in range(rounds)]
    medians = {name: statistics.median(each[name] for each in found) for name in work}
    table = [
        {"work": name, "spikec": medians[name], "peer": None, "limit": limit, "due": due, "unit": unit}
        for name, (_, unit, limit, due) in work.items()
    ]
    for row in table:
        if str(row["work"]).startswith("import spikec"):
            row |= {"peer": medians["import torch"], "due": 1.1 * medians["import torch"]}
    return table


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--quick", action="store_true", help="few rounds, networks of up to 1,000 nodes")
    options.add_argument("--rounds", type=int, help="how often everything is measured")
    options.add_argument("--threads", type=int, help="taken as other programs take it, and not used")
    options.add_argument("--part", nargs=3, metavar=("WHAT", "KIND", "SIZE"), help="measure one thing, print a number")
    chosen = options.parse_args()
    if chosen.part:
        print(part(chosen.part[0], chosen.part[1], int(chosen.part[2])))
        return
    table = Table(title="reading a network")
    for heading in ("", "spikec", "torch", "limit", "due", "unit"):
        table.add_column(heading, justify="right" if heading in ("spikec", "torch", "limit", "due") else "left")
    for row in rows(chosen.rounds or (1 if chosen.quick else 5), chosen.quick):
        figures = ("" if row[key] is None else f"{row[key]:.3g}" for key in ("spikec", "peer", "limit", "due"))
        table.add_row(row["work"], *figures, row["unit"])
    Console(highlight=False, width=120).print(table)


if __name__ == "__main__":
    main()
