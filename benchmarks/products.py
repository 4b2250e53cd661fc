"""Gates, norms and attention as neurons: agreement of small trained networks with their ANNs over T."""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import math
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import attrs
import nir
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

import spikec

sys.path.insert(0, str(Path(__file__).parent))  # also where Python is told not to look there
from digits import Fold, fit, mnist, small_digits
from functions import classes, spiking_classes
from nir_readers import TOOLS, NotDoneError, script

try:
    from spikingjelly.activation_based import ann2snn, functional
except ModuleNotFoundError:
    ann2snn = None

#: images that go through a network at once: 100,000 neurons of so many fit a cache better than those of all
BATCH = 50
#: the same for files, whose layers go through all steps one after the other
FEW = 5
#: profiles of NIR that are no tool's
ALONE = ("portable", "full")
#: bytes that a file may take in memory: the matrices of `attention` are mostly zeros, and compressed
UNPACKED = 1 << 31


class SqueezeExcite(nn.Module):
    """A gate of each channel, by the means of all channels (Hu et al. 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.less, self.more = nn.Conv2d(channels, channels // 4, 1), nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.more(F.relu(self.less(F.adaptive_avg_pool2d(x, 1)))))


def gated() -> nn.Module:
    """A CNN with two squeeze-and-excite gates."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, 2), nn.BatchNorm2d(16), nn.ReLU(), SqueezeExcite(16)),
        *(nn.Conv2d(16, 32, 3, 2), nn.BatchNorm2d(32), nn.ReLU(), SqueezeExcite(32)),
        *(nn.Flatten(), nn.Linear(32 * 36, 10)),
    )


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of a map."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Block(nn.Module):
    """As in ConvNeXt (Liu et al. 2022), with a kernel of 5."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.spread = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.norm, self.more, self.less = (
            nn.LayerNorm(channels),
            nn.Linear(channels, 4 * channels),
            nn.Linear(4 * channels, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.spread(x).permute(0, 2, 3, 1))
        return x + self.less(F.gelu(self.more(y))).permute(0, 3, 1, 2)


def normed() -> nn.Module:
    """A small ConvNeXt, whose readout sees all 49 cells: the mean of so few channels tells few digits apart."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 4, 4), ChannelNorm(16), Block(16), Block(16), ChannelNorm(16)),
        *(nn.Flatten(), nn.Linear(16 * 49, 10)),
    )


class Layer(nn.Module):
    """One layer of a transformer, norms first."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.second(x))


class Transformer(nn.Module):
    """Two layers over the 16 patches of an 8x8 digit, which is a vector of 64."""

    def __init__(self, width: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, 2)
        self.places = nn.Parameter(0.02 * torch.randn(1, 16, width))
        self.layers = nn.Sequential(Layer(width, heads), Layer(width, heads), nn.LayerNorm(width))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x.unflatten(1, (1, 8, 8))).flatten(2).transpose(1, 2) + self.places
        return self.head(self.layers(x).mean(1))


@attrs.frozen
class Net:
    """What is trained, and what is asked of it.

    Attributes:
        steps: numbers of time-steps; each is given to compile.
        least: agreement with the ANN at the last of them, in %.
    """

    make: Callable[[], nn.Module]
    data: Callable[[], list[Fold]]
    epochs: int
    steps: tuple[int, ...]
    least: float


NETS = {
    "gated": Net(gated, mnist, 6, (4, 8, 16), 98.5),
    "normed": Net(normed, mnist, 10, (8, 32), 98.0),
    "attention": Net(Transformer, small_digits, 60, (16, 64), 97.0),
}


def chosen(fold: Fold, count: int) -> Fold:
    """The fold with so many test images, drawn once, as MNIST-5k is sorted by class."""
    rows = torch.randperm(len(fold.test), generator=torch.Generator().manual_seed(0))[:count]
    return attrs.evolve(fold, test=fold.test[rows], test_labels=fold.test_labels[rows])


def ours(ann: nn.Module, fold: Fold, steps: int) -> tuple[Tensor, int]:
    """[B] classes by the spiking network that is compiled for these steps, and how many neurons it has."""
    compilation = spikec.Compiler("spikingjelly", calibration=fold.calibration, timesteps=steps).run(ann)
    snn, graph = compilation.artifact, compilation.graph
    parts = [spiking_classes(snn, x, [steps], lambda snn: snn.reset())[0] for x in torch.split(fold.test, BATCH)]
    return torch.cat(parts), sum(math.prod(graph.type(node.name).shape) for node in graph.with_role(spikec.Role.NEURON))


def theirs(ann: nn.Module, fold: Fold, steps: tuple[int, ...], said: Tensor) -> str:
    """Agreement by SpikingJelly's best recipe for plain neurons, or how it refuses."""
    if ann2snn is None:
        return "not installed"
    data = [(x, torch.zeros(len(x))) for x in fold.calibration]
    recipe = ann2snn.RateCodingRecipe(data, mode="99.9%", channel_wise=True, half_threshold=True)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            snn = ann2snn.FXConverter(recipe=recipe).convert(copy.deepcopy(ann))
        found = spiking_classes(snn, fold.test, steps, functional.reset_net)
    except Exception as error:  # whatever it raises is its refusal
        return f"refused: {str(error).splitlines()[0]}"
    return ", ".join(f"{100 * float((each == said).double().mean()):.1f}" for each in found)


def in_nir(ann: nn.Module, fold: Fold, steps: int, reader: str, reset: str) -> str:
    """Agreement of what the file says by itself, read by us and by the tool; or why there is none."""
    alone = reader in ALONE
    said = classes(ann, fold.test)

    def share(outputs: Tensor) -> str:
        return f"{100 * float((outputs.flatten(2).double().sum(0).argmax(1) == said).double().mean()):.1f}"

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.nir"
        try:
            graph = spikec.compile(
                ann, "nir", calibration=fold.calibration, timesteps=steps, profile=reader, reset=reset
            )
        except spikec.CompileError as error:
            return f"refused: {str(error).splitlines()[0]}"
        spikec.save(graph, path)
        (shape,) = (tuple(node.input_type["input"]) for node in graph.nodes.values() if isinstance(node, nir.Input))
        del graph
        given = {"max_bytes": UNPACKED} if alone else {"reader": reader, "max_bytes": UNPACKED}
        read = spikec.load(path, **given)
        ours = torch.cat([spikec.run(read, x, steps) for x in torch.split(fold.test, FEW)], 1)
        size = f"{path.stat().st_size / 1e6:.0f} MB, read back {share(ours)} %"
        if alone:
            return size
        if not (python := os.environ.get(TOOLS[reader].python)):
            return f"{size}; set {TOOLS[reader].python}"
        source, target = path.with_name("in.npz"), path.with_name("out.npz")
        x = fold.test.reshape(-1, *shape)  # of a model that begins with a reshape the file takes what comes behind it
        np.savez(source, x=x.expand(steps, *x.shape).numpy(), dt=TOOLS[reader].dt)
        try:
            script(python, "nir_real.py", reader, path, source, target)
        except NotDoneError as error:
            return f"{size}; {error}"
        with np.load(target) as archive:
            return f"{size}; by the tool {share(torch.from_numpy(archive['output']))} %"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("nets", nargs="*", default=list(NETS), help=f"of {', '.join(NETS)}")
    parser.add_argument("--folds", type=int, nargs="+", default=list(range(5)), help="numbers of folds")
    parser.add_argument("--steps", type=int, nargs="+", help="numbers of time-steps")
    parser.add_argument("--images", type=int, default=200, help="how many test images of each fold")
    parser.add_argument("--nir", nargs="*", choices=[*ALONE, *TOOLS], help="ask these about NIR files instead")
    parser.add_argument("--reset", default="auto", help="that NIR files are tuned for: soft or hard")
    options = parser.parse_args()
    warnings.simplefilter("ignore", spikec.SpikecWarning)
    torch.set_num_threads(1)
    console, below = Console(highlight=False, width=140), []
    for name in options.nets:
        net, folds = NETS[name], NETS[name].data()
        steps = tuple(options.steps or net.steps)
        table = Table("fold", "ANN", *(f"T={t}" for t in steps), "neurons", "SpikingJelly 2.0.0", title=name)
        rows = []
        for number in options.folds:
            fold = chosen(folds[number], options.images)
            ann = fit(net.make, fold, number, net.epochs)
            if options.nir:
                for reader in options.nir:
                    print(name, number, reader, in_nir(ann, fold, steps[-1], reader, options.reset), flush=True)
                continue
            said = classes(ann, fold.test)
            found = [ours(ann, fold, t) for t in steps]
            right = float((said == fold.test_labels).double().mean())
            rows.append(100 * np.array([right, *(float((each == said).double().mean()) for each, _ in found)]))
            cells = [*(f"{x:.1f}" for x in rows[-1]), f"{found[-1][1]:,}", theirs(ann, fold, steps, said)]
            print(name, number, *cells, file=sys.stderr, flush=True)
            table.add_row(str(number), *cells)
        if rows:
            means = np.mean(rows, 0)
            table.add_row("mean", *(f"{x:.2f}" for x in means))
            console.print(table)
            below += [f"{name}: {means[-1]:.2f} at T={steps[-1]}, {net.least} asked"] * bool(means[-1] < net.least)
    for line in below:
        console.print(f"below what is asked: {line}")
    return 1 if below else 0


if __name__ == "__main__":
    sys.exit(main())
