"""What tuning against the integers wins back of hard reset on netx, on digits that nobody calibrated with.

python benchmarks/netx_tuning.py [SEEDS]
"""

import sys
import time
import warnings

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

import spikec
from spikec.backends.netx.backend import Netx
from spikec.shell.demo import digits

CALIBRATION = 256


def shallow() -> nn.Sequential:
    """Two convolutions with average pools."""
    return nn.Sequential(
        nn.AvgPool2d(2), nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(144, 10),
    )  # fmt: skip


def deep() -> nn.Sequential:
    """Five hidden layers, each of which adds what hard reset loses."""
    return nn.Sequential(
        nn.AvgPool2d(2), nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.AvgPool2d(2), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(144, 32), nn.ReLU(), nn.Linear(32, 10),
    )  # fmt: skip


def trained(model: nn.Sequential, x: Tensor, labels: Tensor) -> nn.Sequential:
    """Train for six epochs."""
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(6):
        for batch in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(x[batch]), labels[batch]).backward()
            optimizer.step()
    return model.eval()


def measured(model: nn.Sequential, x: Tensor, test: Tensor, labels: Tensor, steps: int, tuned: bool) -> list[float]:
    """Return accuracy, agreement with the ANN, mean error over the output's deviation, and seconds of compiling."""
    target = Netx(reset="hard")
    pipeline = spikec.Pipeline.default(target, timesteps=steps)
    started = time.process_time()
    net = spikec.compile(
        model, target, calibration=x, timesteps=steps, pipeline=pipeline if tuned else pipeline.without("tune-netx")
    )
    seconds = time.process_time() - started
    with torch.no_grad():
        wanted = model(test)
    found = net.run(test)
    answers = found.argmax(1)
    same = [(answers == each).double().mean().item() for each in (labels, wanted.argmax(1))]
    return [*same, float((found - wanted).abs().mean() / wanted.std()), seconds]


def main(seeds: int) -> None:
    """Print a row for each network, T, and way."""
    table = Table("network", "T", "tune-netx", "ANN", "accuracy", "agreement", "error", "seconds")
    for make in (shallow, deep):
        models = []
        for seed in range(seeds):
            torch.manual_seed(seed)
            data = digits(seed)
            model = trained(make(), data.train, data.train_labels)
            test, labels = data.test[::4], data.test_labels[::4]
            ann = (model(test).argmax(1) == labels).double().mean().item()
            models.append((model, data.train[:CALIBRATION], test, labels, ann))
        for steps in (32, 64):
            for tuned in (False, True):
                rows = torch.tensor([[each[4], *measured(*each[:4], steps, tuned)] for each in models]).mean(0).tolist()
                cells = [f"{100 * value:.1f} %" for value in rows[:3]] + [f"{rows[3]:.3f}", f"{rows[4]:.1f}"]
                table.add_row(make.__name__, str(steps), "yes" if tuned else "no", *cells)
    Console(width=100).print(table)


if __name__ == "__main__":
    warnings.simplefilter("ignore", spikec.SpikecWarning)
    main(int((sys.argv[1:] or ["3"])[0]))
