"""NIR files of converted networks in the tools that read them: what loads, whether it runs as we say, how accurate."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs
import numpy as np
import torch
from torch import Tensor, nn

import spikec
from spikec.shell.demo import tutorial_cnn

sys.path.insert(0, str(Path(__file__).parent))  # also where Python is told not to look there
from digits import Fold, depthwise, digits_mlp, mnist, resnet8, small_digits, trained

STEPS = (16, 32, 64)
SCRIPTS = Path(__file__).parents[1] / "tests" / "interop"


@attrs.frozen
class Net:
    """What is converted."""

    make: Callable[[], nn.Module]
    data: Callable[[], list[Fold]]
    epochs: int


NETS = {
    "mlp": Net(digits_mlp, small_digits, 40),
    "cnn": Net(tutorial_cnn, mnist, 6),
    "resnet8": Net(resnet8, mnist, 5),
    "depthwise": Net(depthwise, mnist, 10),
}


@attrs.frozen
class Tool:
    """Who reads: where its Python stands, which resets its file can be tuned for, and the dt of its import."""

    python: str
    resets: tuple[str, ...] = ("soft", "hard")
    dt: float = 1e-4
    runs: bool = True


TOOLS = {
    "spikingjelly": Tool("SPIKEC_SJ_PYTHON"),
    "snntorch": Tool("SPIKEC_SNNTORCH_PYTHON"),
    "sinabs": Tool("SPIKEC_SINABS_PYTHON", resets=("soft",)),
    "norse": Tool("SPIKEC_NORSE_PYTHON"),
    "rockpool": Tool("SPIKEC_ROCKPOOL_PYTHON", resets=("soft",)),
    "snn-mlir": Tool("SPIKEC_SNN_MLIR_PYTHON", runs=False),  # without a build of its compiler it only parses
}


class NotDoneError(Exception):
    """Why there is nothing to count: what spikec or the tool says."""


def compiled(ann: nn.Module, fold: Fold, reader: str, reset: str, neurons: int, path: Path) -> None:
    """Write the file of the profile, tuned for the largest number of steps."""
    options = {"reset": reset, "neurons": neurons} if reset == "hard" else {}
    try:
        graph = spikec.compile(
            ann, "nir", profile=reader, calibration=fold.calibration, timesteps=max(STEPS), **options
        )
        spikec.save(graph, path)
    except spikec.CompileError as error:
        raise NotDoneError(f"refused: {str(error).splitlines()[0]}") from error


def ours(reader: str, path: Path, x: Tensor) -> Tensor:
    """[T, B, classes] by our model of the tool, of the file alone."""
    return spikec.run(spikec.load(path, reader=reader), x, max(STEPS)).flatten(2)


def theirs(reader: str, path: Path, x: Tensor) -> Tensor | None:
    """[T, B, classes] by the tool, of the file alone; None if it loads the file, and cannot run anything here."""
    tool = TOOLS[reader]
    python = os.environ.get(tool.python)
    if not python:
        raise NotDoneError(f"set {tool.python}")
    if not tool.runs:
        script(python, "nir_read.py", reader, path)
        return None
    source, target = path.with_name("in.npz"), path.with_name("out.npz")
    np.savez(source, x=x.expand(max(STEPS), *x.shape).numpy(), dt=tool.dt)
    script(python, "nir_real.py", reader, path, source, target)
    with np.load(target) as archive:
        return torch.from_numpy(archive["output"]).flatten(2)


def script(python: str, name: str, *arguments: str | Path) -> None:
    """Run one of the interop tests' scripts in a tool's Python."""
    command = [python, "-W", "ignore", str(SCRIPTS / name), *map(str, arguments)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        raise NotDoneError(f"fails: {found.stderr.strip().splitlines()[-1]}")


def accuracies(y: Tensor, labels: Tensor) -> list[str]:
    """In %, by the summed outputs after each of STEPS."""
    totals = y.double().cumsum(0)
    return [f"{100 * float((totals[t - 1].argmax(1) == labels).double().mean()):.1f}" for t in STEPS]


def equal(a: Tensor, b: Tensor) -> float:
    """The share of output values that are equal, up to what float32 rounds of a readout's sums."""
    return float(((a - b).abs() <= 1e-5 * b.abs().max()).double().mean())


def row(ann: nn.Module, fold: Fold, reader: str, reset: str, neurons: int, x: Tensor, labels: Tensor) -> list[str]:
    """(loads, equal to our model, accuracy after each of STEPS)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.nir"
        try:
            compiled(ann, fold, reader, reset, neurons, path)
            found = theirs(reader, path, x)
            model = ours(reader, path, x)
        except NotDoneError as reason:
            return [str(reason), "", *("" for _ in STEPS)]
    if found is None:
        return ["parses", "not run", *accuracies(model, labels)]
    return ["yes", f"{equal(found, model):.4f}", *accuracies(found, labels)]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("nets", nargs="*", help=f"of {', '.join(NETS)}; all by default")
    parser.add_argument("--readers", nargs="+", choices=TOOLS, default=list(TOOLS))
    parser.add_argument("--resets", nargs="+", choices=("soft", "hard"), default=["soft", "hard"])
    parser.add_argument("--neurons", type=int, default=1, help="of hard reset, for each value of a ReLU")
    parser.add_argument("--images", type=int, default=200, help="how many test images")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore", spikec.SpikecWarning)
    for name in options.nets or NETS:
        net = NETS[name]
        fold = net.data()[0]
        ann = trained(net.make, fold, 0, net.epochs)
        # MNIST-5k is sorted by class
        rows = torch.randperm(len(fold.test), generator=torch.Generator().manual_seed(0))[: options.images]
        x, labels = fold.test[rows], fold.test_labels[rows]
        with torch.no_grad():
            right = float((ann(x).argmax(1) == labels).double().mean())
        print(f"{name}, ANN {100 * right:.1f} % of {len(x)} images\n")
        print("| reader | reset | loads | equal to our model |", *(f"T={t} |" for t in STEPS))
        print("|---|---|---|---|" + "---|" * len(STEPS))
        for reader in options.readers:
            for reset in [each for each in TOOLS[reader].resets if each in options.resets]:
                cells = row(ann, fold, reader, reset, options.neurons, x, labels)
                print("|", " | ".join((reader, reset, *cells)), "|", flush=True)
        print()


if __name__ == "__main__":
    main()
