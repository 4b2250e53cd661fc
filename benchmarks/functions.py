"""Smooth activations: agreement with the ANN at small T, of nets that differ in their activation alone."""

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import io
import math
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import spikec

sys.path.insert(0, str(Path(__file__).parent))  # also where Python is told not to look there
from digits import Fold, fit, mnist, small_digits

try:
    from spikingjelly.activation_based import ann2snn, functional, neuron
except ModuleNotFoundError:
    ann2snn = None

STEPS = (4, 8, 16)
BATCH = 250
ACTIVATIONS = {each.__name__: each for each in (nn.ReLU, nn.SiLU, nn.GELU, nn.Hardswish, nn.ELU)}
#: data, and how many epochs nets are trained
DATA: dict[str, tuple[Callable[[], list[Fold]], int]] = {"mnist": (mnist, 6), "digits": (small_digits, 30)}


def net(activation: Callable[[], nn.Module], data: str) -> nn.Module:
    """Two convolutions and a hidden layer, for images of 28x28, or of 8x8 as vectors of 64."""
    stride, after, first = (2, 6, nn.Identity()) if data == "mnist" else (1, 4, nn.Unflatten(1, (1, 8, 8)))
    layers = (nn.Conv2d(1, 16, 3, stride), nn.BatchNorm2d(16), activation(), nn.Conv2d(16, 32, 3, stride))
    head = (nn.BatchNorm2d(32), activation(), nn.Flatten(), nn.Linear(32 * after**2, 64), activation())
    return nn.Sequential(first, *layers, *head, nn.Linear(64, 10))


def classes(net: nn.Module, x: Tensor) -> Tensor:
    """[B] by the ANN."""
    with torch.no_grad():
        return torch.cat([net(batch).argmax(1) for batch in torch.split(x, BATCH)])


def spiking_classes(
    snn: nn.Module, x: Tensor, steps: Sequence[int], reset: Callable[[nn.Module], None]
) -> list[Tensor]:
    """[B] by the summed output after each of these numbers of steps."""
    found: list[list[Tensor]] = [[] for _ in steps]
    with torch.no_grad():
        for batch in torch.split(x, BATCH):
            reset(snn)
            total = torch.zeros(())
            for t in range(1, max(steps) + 1):
                total = total + snn(batch)
                for i, wanted in enumerate(steps):
                    if wanted == t:
                        found[i].append(total.argmax(1))
    reset(snn)
    return [torch.cat(parts) for parts in found]


def ours(ann: nn.Module, fold: Fold) -> tuple[list[Tensor], int]:
    """Classes at each of STEPS, each of which is given to compile; and how many neurons there are."""
    found = []
    for t in STEPS:
        compilation = spikec.Compiler("spikingjelly", calibration=fold.calibration, timesteps=t).run(ann)
        found += spiking_classes(compilation.artifact, fold.test, [t], lambda snn: snn.reset())
    graph = compilation.graph
    return found, sum(math.prod(graph.type(node.name).shape) for node in graph.with_role(spikec.Role.NEURON))


def theirs(ann: nn.Module, fold: Fold) -> tuple[list[Tensor], int] | str:
    """SpikingJelly's best recipe for plain neurons; what it leaves as it was is no spiking net, which is said.

    The first layer stays outside, as it takes no Unflatten.
    """
    assert isinstance(ann, nn.Sequential)
    first, body = ann[0], ann[1:]
    data = [(first(x), torch.zeros(len(x))) for x in fold.calibration]
    recipe = ann2snn.RateCodingRecipe(data, mode="99.9%", channel_wise=True, half_threshold=True)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            snn = ann2snn.FXConverter(recipe=recipe).convert(copy.deepcopy(body))
    except Exception as error:  # whatever it raises is its refusal
        return f"refused: {str(error).splitlines()[0]:.60}"
    left = {type(m).__name__ for m in snn.modules() if type(m) in ACTIVATIONS.values()}
    count = sum(isinstance(m, neuron.BaseNode) for m in snn.modules())
    if left:
        return f"leaves {', '.join(sorted(left))} as it is: {count} layers of neurons"
    return spiking_classes(snn, first(fold.test), STEPS, functional.reset_net), count


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("activations", nargs="*", default=list(ACTIVATIONS), help=f"of {', '.join(ACTIVATIONS)}")
    parser.add_argument("--data", nargs="+", default=list(DATA), choices=list(DATA))
    parser.add_argument("--folds", type=int, nargs="+", default=list(range(5)), help="numbers of folds")
    options = parser.parse_args()
    warnings.simplefilter("ignore", spikec.SpikecWarning)
    torch.set_num_threads(1)
    console = Console(highlight=False, width=140)
    below = []
    for data in options.data:
        load, epochs = DATA[data]
        table = Table(title=f"{data}: agreement with the ANN in %, {len(options.folds)} folds")
        for heading in ("", "ANN", *(f"T={t}" for t in STEPS), "neurons", "SpikingJelly 2.0.0, T=4, 8, 16"):
            table.add_column(heading, justify="right" if heading else "left")
        folds, means = load(), {}
        for name in options.activations:
            right, agreed, other = [], [], []
            for number in options.folds:
                fold = folds[number]
                ann = fit(functools.partial(net, ACTIVATIONS[name], data), fold, number, epochs)
                said = classes(ann, fold.test)
                right.append(float((said == fold.test_labels).double().mean()))
                found, neurons = ours(ann, fold)
                agreed.append([float((each == said).double().mean()) for each in found])
                result = "not installed" if ann2snn is None else theirs(ann, fold)
                if not isinstance(result, str):
                    result = [float((each == said).double().mean()) for each in result[0]]
                other.append(result)
            means[name] = 100 * np.mean(agreed, 0)
            last = other[0] if isinstance(other[0], str) else ", ".join(f"{x:.2f}" for x in 100 * np.mean(other, 0))
            cells = [f"{x:.2f}" for x in means[name]]
            table.add_row(name, f"{100 * np.mean(right):.2f}", *cells, f"{neurons:,}", last)
            print(data, name, *cells, f"{neurons:,}", last, file=sys.stderr, flush=True)
        console.print(table)
        below += [
            f"{data}, {name}, T={t}: {value:.2f}, with ReLU {floor:.2f}"
            for name in means
            for t, value, floor in zip(STEPS, means[name], means.get("ReLU", means[name]), strict=True)
            if value < floor
        ]
    for line in below:
        console.print(f"below ReLU: {line}")
    return 1 if below else 0


if __name__ == "__main__":
    sys.exit(main())
