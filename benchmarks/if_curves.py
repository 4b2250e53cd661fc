"""The rate of an integrate-and-fire neuron over its constant current, beside the ReLU that it stands for.

Argument: the PNG to write, if_curves.png where there is none.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

import spikec
from spikec.ir.files import replacing
from spikec.ir.ops import IF, Input, Output
from spikec.ir.types import Array

STEPS = (4, 16, 64)
#: currents in thresholds, none of them on a tie
CURRENTS = np.linspace(-1, 2, 3002)[1:] - 1 / 7000
NEURONS = {
    "soft reset": IF(np.ones(1)),
    "soft reset, v_init = 1/2": IF(np.ones(1), v_init=np.full(1, 0.5)),
    "hard reset": IF(np.ones(1), v_reset=np.zeros(1)),
}
COLORS = dict(zip(NEURONS, ("#4c72b0", "#c44e52", "#b0b0b0"), strict=True))


def rates(neuron: IF, timesteps: int) -> Array:
    """Spikes a step for each of the currents."""
    graph = spikec.Graph("neuron")
    graph.add(Output(), graph.add(neuron, graph.add(Input((1,), "float64", rate=True))))
    spikes = spikec.run(graph, torch.tensor(CURRENTS)[:, None], timesteps)
    return np.asarray(spikes.mean(0)[:, 0].numpy())


def main(path: Path) -> None:
    clipped = np.clip(CURRENTS, 0, 1)
    inside = (CURRENTS > 0) & (CURRENTS < 1)
    table = Table(
        title="rate of one neuron against clip(z / v_threshold, 0, 1), for z in (0, v_threshold), in units of 1/T"
    )
    for heading in ("neuron", "T", "mean error", "rms error", "largest error"):
        table.add_column(heading, justify="left" if heading == "neuron" else "right")
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    for axes, steps in zip(figure.subplots(1, len(STEPS), sharey=True), STEPS, strict=True):
        axes.plot(CURRENTS, np.maximum(CURRENTS, 0), color="black", linestyle=":", linewidth=1, label="ReLU")
        axes.plot(CURRENTS, clipped, color="black", linewidth=1, label="clipped ReLU")
        for name, neuron in NEURONS.items():
            rate = rates(neuron, steps)
            axes.plot(CURRENTS, rate, color=COLORS[name], linewidth=1.3, label=name)
            error = (rate - clipped)[inside] * steps
            cells = (error.mean(), np.sqrt((error**2).mean()), np.abs(error).max())
            table.add_row(name, str(steps), *(f"{cell:.3f}" for cell in cells))
        axes.set(xlabel="current / v_threshold", title=f"T = {steps}", ylim=(-0.05, 1.3), xlim=(-1, 2))
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("spikes a step")
    figure.axes[0].legend(loc="upper left", fontsize="small")
    with replacing(path) as part:
        figure.savefig(part, dpi=150, format="png")
    console = Console(width=120)
    console.print(table)
    console.print(f"wrote {path}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "if_curves.png"))
