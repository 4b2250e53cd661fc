"""Six calibration images: is the default as near to the ANN as the best plain mode?

    python benchmarks/few.py [mlp] [cnn] [--targets spikingjelly nir] [--images 6] [--draws 5]

Plain modes tune nothing: the maximum or 99.9 % of a layer, 99.9 % of a channel. The error is over the spread of the
ANN's outputs, on 360 digits of fold 0 of folds.py.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import spikec
from spikec.shell.demo import tutorial_cnn

sys.path.insert(0, str(Path(__file__).parent))  # also where Python is told not to look there
from digits import digits_mlp, mnist, small_digits, trained

#: by name: what makes the net, its data, epochs, and the T that are tried
NETS = {"mlp": (digits_mlp, small_digits, 40, (8, 32, 128)), "cnn": (tutorial_cnn, mnist, 12, (8, 32))}
PLAIN = ("max", "99.9%", spikec.Normalization())
TEST = 360


def reached(
    net: nn.Module, target: str, few: Tensor, test: Tensor, right: Tensor, steps: int, plain: object = None
) -> tuple[float, float]:
    """(error over spread, agreement in %) by default, or of a plain mode."""
    pipeline = None if plain is None else spikec.Pipeline.default(target, normalization=plain)
    options = {"calibration": few, "timesteps": steps, "pipeline": pipeline, "verify": "off"}
    said = spikec.simulate(spikec.Compiler(target, **options).run(net), test, steps).answer
    error = (said - right).square().mean().sqrt() / right.std()
    return float(error), 100 * float((said.argmax(1) == right.argmax(1)).float().mean())


def main() -> None:
    """Print a line for each draw and T, and one for each net and target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="*", default=list(NETS))
    parser.add_argument("--targets", nargs="+", default=["spikingjelly", "nir"])
    parser.add_argument("--images", type=int, default=6)
    parser.add_argument("--draws", type=int, default=5)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    for name in options.nets:
        make, data, epochs, all_steps = NETS[name]
        fold = data()[0]
        net, test = trained(make, fold, 0, epochs), fold.test[:TEST]
        with torch.no_grad():
            right = net(test)
        for target in options.targets:
            ratios = []
            for draw in range(options.draws):
                order = torch.randperm(len(fold.train), generator=torch.Generator().manual_seed(draw))
                few = fold.train[order[: options.images]]
                for steps in all_steps:
                    found = [reached(net, target, few, test, right, steps, plain) for plain in PLAIN]
                    default = reached(net, target, few, test, right, steps)
                    ratios.append(default[0] / min(error for error, _ in found))
                    shown = "  ".join(f"{error:.3f} / {same:.1f} %" for error, same in (*found, default))
                    print(f"{name}, {target}, draw {draw}, T={steps}: {shown}", flush=True)
            above = sum(ratio > 1.005 for ratio in ratios)
            print(
                f"{name}, {target}: default's error over best plain mode's: {np.mean(ratios):.2f} on average, "
                f"{max(ratios):.2f} at most; above it in {above} of {len(ratios)}"
            )


if __name__ == "__main__":
    main()
