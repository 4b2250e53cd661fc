"""The picture in README.md: accuracy after each time-step, beside SpikingJelly, on the same weights and digits.

Argument: the PNG to write, benchmarks/accuracy.png where there is none.
"""

from __future__ import annotations

import contextlib
import copy
import io
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from spikingjelly.activation_based import ann2snn, functional
from torch import nn

import spikec
from spikec.ir.files import replacing
from spikec.ir.types import Array
from spikec.shell.demo import Digits, accuracy, digits, trained

STEPS = 32
BATCH = 100


def over_time(snn: nn.Module, data: Digits) -> Array:
    """[T] accuracies of the summed output; the same loop for both."""
    right = np.zeros(STEPS)
    with torch.no_grad():
        for x, labels in data.held_out():
            functional.reset_net(snn)
            total = torch.zeros(())
            for t in range(STEPS):
                total = snn(x) + total
                right[t] += int((total.argmax(1) == labels).sum())
    return right / len(data.test)


def theirs(net: nn.Module, batches: Any, options: dict[str, Any]) -> nn.Module:
    with contextlib.redirect_stderr(io.StringIO()):
        recipe = ann2snn.RateCodingRecipe(dataloader=batches, **options)
        snn: nn.Module = ann2snn.FXConverter(recipe=recipe).convert(copy.deepcopy(net))
    return snn


def main(path: Path) -> None:
    data = digits()
    net = trained(data)
    batches = list(zip(torch.split(data.train, BATCH), torch.split(data.train_labels, BATCH), strict=True))
    best = {"mode": "99.9%", "channel_wise": True, "half_threshold": True}
    made: dict[str, Callable[[], nn.Module]] = {
        "spikec, default": lambda: spikec.compile(net, "spikingjelly", calibration=data.train),
        "SpikingJelly, 99.9 % a channel, half threshold": lambda: theirs(net, batches, best),
        "SpikingJelly, 99.9 %": lambda: theirs(net, batches, {"mode": "99.9%"}),
        "SpikingJelly, max": lambda: theirs(net, batches, {"mode": "max"}),
    }
    figure = Figure(figsize=(7.5, 4), layout="constrained")
    axes = figure.subplots()
    for label, make in made.items():
        found = over_time(make(), data)
        print(f"{label}: " + ", ".join(f"T={t} {100 * found[t - 1]:.1f}" for t in (4, 8, 16, 32)))
        style = {"linewidth": 2.6, "color": "black"} if label.startswith("spikec") else {"linewidth": 1.4}
        axes.plot(np.arange(1, STEPS + 1), 100 * found, label=label, **style)
    ann = accuracy(net, data)
    axes.axhline(100 * ann, color="black", linestyle="--", linewidth=1, label=f"the ANN, {100 * ann:.1f} %")
    versions = ", ".join(f"{name} {version(name)}" for name in ("spikec", "spikingjelly", "torch"))
    axes.set(xlabel="time-steps", ylabel="accuracy, %", ylim=(50, 100), xlim=(1, STEPS))
    axes.set_title(f"a CNN on 1,000 MNIST digits that neither has seen ({versions})", fontsize=9)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize="small")
    with replacing(path) as part:
        figure.savefig(part, dpi=120, format="png")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("accuracy.png"))
