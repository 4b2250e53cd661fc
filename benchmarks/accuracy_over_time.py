"""Accuracy of the demo's CNN and its agreement with the ANN after each time-step: the six modes and the default.

Argument: the PNG to write, accuracy_over_time.png where there is none.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

import spikec
from spikec.ir.files import replacing
from spikec.ir.types import Array
from spikec.shell.demo import MODES, Digits, accuracy, digits, trained

STEPS = 50
SHOWN = (4, 8, 16, 32, 50)
DEFAULT = "default"
#: how far below the ANN the last column allows
NEAR = 0.005


@attrs.frozen(eq=False)
class Curve:
    """Shares of the held-out digits after each step: right ones, and those on which the ANN says the same."""

    accuracy: Array
    agreement: Array


def running_classes(snn: Any, x: Tensor) -> Iterator[Tensor]:
    """[B] classes of the output's running sum, step by step."""
    snn.reset()
    total: Tensor | float = 0.0
    for _ in range(STEPS):
        total = snn(x) + total
        yield total.argmax(1)
    snn.reset()


def measure(snn: Any, net: nn.Module, data: Digits) -> Curve:
    right, agreed = np.zeros(STEPS), np.zeros(STEPS)
    with torch.no_grad():
        for x, labels in data.held_out():
            wanted = net(x).argmax(1)
            for t, said in enumerate(running_classes(snn, x)):
                right[t] += int((said == labels).sum())
                agreed[t] += int((said == wanted).sum())
    return Curve(right / len(data.test), agreed / len(data.test))


def table(ann: float, curves: dict[str, Curve]) -> Table:
    title = f"accuracy (agreement with the ANN) on 1,000 held-out digits, %; ANN {100 * ann:.1f}"
    made = Table(title=title)
    made.add_column("mode")
    for heading in (*(f"T={steps}" for steps in SHOWN), f"T for ANN - {100 * NEAR:g} %"):
        made.add_column(heading, justify="right")
    for label, curve in curves.items():
        cells = [f"{100 * curve.accuracy[t - 1]:.1f} ({100 * curve.agreement[t - 1]:.1f})" for t in SHOWN]
        low = np.flatnonzero(curve.accuracy < ann - NEAR)
        first = int(low[-1]) + 2 if len(low) else 1
        made.add_row(label, *cells, str(first) if first <= STEPS else f"> {STEPS}")
    return made


def draw(ann: float, curves: dict[str, Curve], path: Path) -> None:
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps = np.arange(1, STEPS + 1)
    for label, curve in curves.items():
        style = {"linewidth": 2.4, "color": "black"} if label == DEFAULT else {"linewidth": 1.2}
        left.plot(steps, 100 * curve.accuracy, label=label, **style)
        right.plot(steps, 100 * (1 - curve.agreement), label=label, **style)
    left.axhline(100 * ann, color="black", linestyle="--", linewidth=1, label="ANN")
    left.set(xlabel="time-steps", ylabel="accuracy, %", title="accuracy", ylim=(50, 100), xlim=(1, STEPS))
    right.set(xlabel="time-steps", ylabel="digits, %", title="another answer than the ANN's", xlim=(1, STEPS))
    right.set_yscale("symlog", linthresh=0.5)
    ticks = (0, 0.5, 1, 2, 5, 10, 20, 50, 100)
    right.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    right.set_ylim(0, 100)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    left.legend(loc="lower right")
    with replacing(path) as part:
        figure.savefig(part, dpi=150, format="png")


def main(path: Path) -> None:
    console = Console(highlight=False, width=120)
    data = digits()
    net = trained(data, console=console)
    calibration: Any = data.train
    curves = {}
    for label, mode in track({**MODES, DEFAULT: None}.items(), "modes", console=console):
        compilation = spikec.Compiler("spikingjelly", calibration=calibration, normalization=mode).run(net)
        calibration = compilation.calibration
        curves[label] = measure(compilation.artifact, net, data)
    ann = accuracy(net, data)
    console.print(table(ann, curves))
    draw(ann, curves, path)
    console.print(f"wrote {path}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "accuracy_over_time.png"))
