"""How near torchvision's deep nets with settled random weights stay to their ANNs, beside SpikingJelly's best recipe.

    pip install -c constraints.txt ".[demo]" loguru requests tqdm && pip install --no-deps torchvision==0.28.0
    pip install --no-deps spikingjelly==2.0.0 SciencePlots tensorboard
    python benchmarks/settled.py [NAME ...] [--neurons 2 16]

Batch norms have random affines and the statistics of photographs, as in families.py; images are crops of scikit-learn's
two photographs, calibration from their left halves, test from their right ones, as in depth.py.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import itertools
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import spikec
from depth import crops
from families import build, errors

try:
    from spikingjelly.activation_based import ann2snn, functional
except ModuleNotFoundError as error:
    sys.exit(f"{error.name} is not installed; see the first lines of this file")

NAMES = ("resnet18", "resnet50", "vgg16_bn", "mobilenet_v2", "densenet121")
CHANNELS = spikec.Normalization()
#: (what is printed, thresholds)
PLAIN: tuple[tuple[str, Any], ...] = (("max", "max"), ("99.9 %", "99.9%"), ("99.9 %, channels", CHANNELS))
#: test crops that run at a time, as several neurons for each take as many times the memory
AT_ONCE = 4

Row = tuple[str, list[float]]


def off(said: Tensor, right: Tensor) -> float:
    """The RMS error over the RMS deviation of the ANN between images."""
    return float((said - right).norm() / (right - right.mean(0, keepdim=True)).norm())


def spikec_rows(
    net: nn.Module, seen: Tensor, unseen: Tensor, right: Tensor, steps: Sequence[int], neurons: Sequence[int]
) -> Iterator[Row]:
    """Plain thresholds, at all layers at once and layer after layer; then the default with several neurons."""

    def compiled(**options: Any) -> spikec.Compilation:
        return spikec.Compiler("spikingjelly", calibration=seen, verify="off", **options).run(net)

    def tuned(t: int, copies: int) -> float:
        run = compiled(timesteps=t, neurons=copies)
        return off(torch.cat([spikec.simulate(run, x, t).answer for x in unseen.split(AT_ONCE)]), right)

    for name, normalization in PLAIN:
        run = compiled(normalization=normalization)
        yield name, errors(run.artifact, unseen, right, steps)
        waited = [spikec.simulate(run, unseen, t, schedule="layers").answer for t in steps]
        yield f"{name}; layer after layer", [off(said, right) for said in waited]
    for copies in neurons:
        yield f"default, neurons={copies}", [tuned(t, copies) for t in steps]


def theirs(net: nn.Module, seen: Tensor, unseen: Tensor, right: Tensor, steps: Sequence[int]) -> Iterator[Row]:
    """SpikingJelly's recipes; a net that it refuses has none."""
    data = [(seen, torch.zeros(len(seen)))]
    pools = any(isinstance(module, nn.MaxPool2d) for module in net.modules())
    channel = {"channel_wise": True, "half_threshold": True, "pre_spike_maxpool": pools}
    recipes = {
        "99.9 %": lambda: ann2snn.RateCodingRecipe(data, mode="99.9%"),
        "99.9 %, channel-wise, half threshold": lambda: ann2snn.RateCodingRecipe(data, mode="99.9%", **channel),
        "LTB": lambda: ann2snn.LocalThresholdBalancingRecipe(data),
    }
    for name, recipe in recipes.items():
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                snn = ann2snn.FXConverter(recipe=recipe()).convert(copy.deepcopy(net))
        except ValueError as error:
            print(f"SpikingJelly, {name}: {error}", file=sys.stderr)
            continue
        functional.reset_net(snn)
        yield f"SpikingJelly, {name}", errors(snn, unseen, right, steps)


def main() -> None:
    """Print a table for each net."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="*", default=NAMES)
    parser.add_argument("--side", type=int, default=32, help="pixels")
    parser.add_argument("--calibration", type=int, default=32, help="crops")
    parser.add_argument("--test", type=int, default=32, help="crops")
    parser.add_argument("--steps", type=int, nargs="+", default=[64])
    parser.add_argument("--neurons", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="neurons for each value")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    seen = crops(options.calibration, False, options.side, 0)
    unseen = crops(options.test, True, options.side, 1)
    for name in options.name:
        net = build(name, options.side, quick=True, batches=crops(64, False, options.side, 2).split(16))
        with torch.no_grad():
            right = net(unseen)
        table = Table(name, *(f"T={t}" for t in options.steps), "CPU s")
        start = time.process_time()
        given = net, seen, unseen, right, options.steps
        for label, row in itertools.chain(spikec_rows(*given, options.neurons), theirs(*given)):
            table.add_row(label, *(f"{each:.2f}" for each in row), f"{time.process_time() - start:.0f}")
            print(name, label, *(f"{each:.2f}" for each in row), file=sys.stderr, flush=True)
            start = time.process_time()
        Console(width=120, highlight=False).print(table)


if __name__ == "__main__":
    main()
