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
#: choices of the digits by which an error's noise is told
RESAMPLED = 200


def reached(
    net: nn.Module, target: str, few: Tensor, test: Tensor, right: Tensor, steps: int, plain: object = None
) -> tuple[Tensor, float]:
    """(mean square of the error of each digit over the variance, agreement in %) by default, or of a plain mode."""
    pipeline = None if plain is None else spikec.Pipeline.default(target, normalization=plain)
    options = {"calibration": few, "timesteps": steps, "pipeline": pipeline, "verify": "off"}
    said = spikec.simulate(spikec.Compiler(target, **options).run(net), test, steps).answer
    power = (said - right).square().mean(1) / right.var()
    return power, 100 * float((said.argmax(1) == right.argmax(1)).float().mean())


def ratios(powers: Tensor) -> Tensor:
    """[draws]: the default's error over the least of the plain modes', of [draws, ways, digits], the default last."""
    errors = powers.mean(2).sqrt()
    return errors[:, -1] / errors[:, :-1].amin(1)


def noise(powers: Tensor) -> float:
    """The standard error of the mean ratio, by other choices of the digits, with replacement (Efron 1979)."""
    generator = torch.Generator().manual_seed(0)
    digits = powers.shape[2]
    chosen = (torch.randint(digits, (digits,), generator=generator) for _ in range(RESAMPLED))
    return float(torch.stack([ratios(powers[:, :, rows]).mean() for rows in chosen]).std())


def main() -> None:
    """Print a line for each draw and T, and one for each net, target and T."""
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
            powers: dict[int, list[Tensor]] = {steps: [] for steps in all_steps}
            for draw in range(options.draws):
                order = torch.randperm(len(fold.train), generator=torch.Generator().manual_seed(draw))
                few = fold.train[order[: options.images]]
                for steps in all_steps:
                    found = [reached(net, target, few, test, right, steps, plain) for plain in (*PLAIN, None)]
                    powers[steps].append(torch.stack([each for each, _ in found]))
                    shown = "  ".join(f"{each.mean().sqrt():.3f} / {same:.1f} %" for each, same in found)
                    print(f"{name}, {target}, draw {draw}, T={steps}: {shown}", flush=True)
            for steps, parts in powers.items():
                of_all = torch.stack(parts)
                each = ratios(of_all)
                print(
                    f"{name}, {target}, T={steps}: default's error over best plain mode's: {each.mean():.2f} "
                    f"(standard error over digits {noise(of_all):.2f}), {each.min():.2f} to {each.max():.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
