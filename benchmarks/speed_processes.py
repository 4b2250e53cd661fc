"""How much faster two processes of torchrun evaluate than one, each on one thread, and that they find the same.

Time is wall time between two barriers, so the machine has to be idle: at least two of its cores.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
import warnings
from typing import Any

import torch
from rich.console import Console
from torch import distributed

import spikec
from spikec.shell.demo import tutorial_cnn

TIMESTEPS, BATCH = 16, 100


def part(samples: int) -> None:
    """Evaluate this process's share of the samples; the first process prints the seconds, and what it found."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    distributed.init_process_group("gloo")
    rank, processes = distributed.get_rank(), distributed.get_world_size()
    net, x, labels = tutorial_cnn().eval(), torch.rand(samples, 1, 28, 28), torch.randint(10, (samples,))
    snn = spikec.compile(net, "spikingjelly", calibration=x[:BATCH], normalization="max", verify="off")
    batches = list(zip(x.split(BATCH), labels.split(BATCH), strict=True))
    spikec.evaluate(snn, batches[:1], TIMESTEPS)
    distributed.barrier()
    started = time.perf_counter()
    curve = spikec.evaluate(snn, batches[rank::processes], TIMESTEPS, all_reduce=True)
    seconds = time.perf_counter() - started
    if rank == 0:
        print(seconds, ",".join(map(str, curve.tolist())))
    distributed.destroy_process_group()


def measured(processes: int, samples: int) -> tuple[float, str]:
    """The seconds that so many processes take, and what they found."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command += [__file__, "--part", str(samples)]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    seconds, curve = run.stdout.split()
    return float(seconds), curve


def rows(rounds: int, quick: bool) -> list[dict[str, Any]]:
    """One row, as those of the other programs: how many times faster two processes are, which is to be 1.6 or more.

    Raises:
        AssertionError: two processes do not find what one does.
    """
    samples = 1000 if quick else 6000
    found = [[measured(processes, samples) for processes in (1, 2)] for _ in range(rounds)]
    assert len({curve for runs in found for _, curve in runs}) == 1, "two processes find something else than one"
    ratios = [one / two for (one, _), (two, _) in found]
    work = f"evaluate MNIST CNN, {samples:,} images, T={TIMESTEPS}, two processes over one"
    figures = {"spikec": statistics.median(ratios), "spread": (min(ratios), max(ratios))}
    return [{"work": work, "peer": None, "limit": 2, "due": 1.6, "unit": "times faster", "least": True, **figures}]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--quick", action="store_true", help="one round, fewer samples")
    options.add_argument("--rounds", type=int, help="how often it is measured")
    options.add_argument("--part", type=int, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.part:
        part(chosen.part)
        return
    console = Console(highlight=False, width=120)
    for row in rows(chosen.rounds or (1 if chosen.quick else 3), chosen.quick):
        console.print(f"{row['work']}: {row['spikec']:.2f} {row['unit']} ({row['due']} is due)")


if __name__ == "__main__":
    main()
