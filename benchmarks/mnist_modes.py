"""Accuracy of spikec and of SpikingJelly's RateCodingRecipe, mode by mode, on the same weights and digits.

Arguments: seeds, each for another training; 0, 1 and 2 where there is none. Exits with 1 if spikec is less accurate
than SpikingJelly in any mode of any training.
"""

from __future__ import annotations

import contextlib
import copy
import io
import os
import platform
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import version

import attrs
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

import spikec
from spikec.shell.demo import MODES, Digits, Training, accuracy, digits, trained

try:
    from spikingjelly.activation_based import ann2snn, functional
except ModuleNotFoundError as error:
    sys.exit(
        f"SpikingJelly or a package that it imports is not installed ({error.name}):\n"
        "  pip install loguru requests tqdm && pip install --no-deps spikingjelly==2.0.0 SciencePlots tensorboard"
    )

STEPS = 50
BATCH = 100


@attrs.frozen
class Score:
    """Shares of the held-out digits after STEPS steps: right ones, and those on which the ANN says the same."""

    accuracy: float
    agreement: float


@attrs.frozen
class Row:
    """One mode."""

    mode: str
    ours: Score
    theirs: Score


def ours(net: nn.Module, batches: Sequence[tuple[Tensor, Tensor]], mode: str | float) -> nn.Module:
    snn: nn.Module = spikec.compile(net, "spikingjelly", calibration=batches, normalization=mode)
    return snn


def theirs(net: nn.Module, batches: Sequence[tuple[Tensor, Tensor]], mode: str | float) -> nn.Module:
    recipe = ann2snn.RateCodingRecipe(dataloader=batches, mode=mode)
    with contextlib.redirect_stderr(io.StringIO()):
        snn: nn.Module = ann2snn.FXConverter(recipe=recipe).convert(copy.deepcopy(net))
    return snn


def after_steps(snn: nn.Module, x: Tensor) -> Tensor:
    """[B] classes: the largest summed output after STEPS steps; the same loop for both."""
    functional.reset_net(snn)
    with torch.no_grad():
        total = sum(snn(x) for _ in range(STEPS))
    functional.reset_net(snn)
    assert isinstance(total, Tensor)
    return total.argmax(1)


def score(snn: nn.Module, net: nn.Module, data: Digits) -> Score:
    right = agreed = 0
    for x, labels in data.held_out():
        said = after_steps(snn, x)
        right += int((said == labels).sum())
        agreed += int((said == net(x).argmax(1)).sum())
    return Score(right / len(data.test), agreed / len(data.test))


def measure(net: nn.Module, data: Digits, modes: Iterable[tuple[str, str | float]]) -> list[Row]:
    batches = list(zip(torch.split(data.train, BATCH), torch.split(data.train_labels, BATCH), strict=True))
    rows = []
    for label, mode in modes:
        mine, other = (score(convert(net, batches, mode), net, data) for convert in (ours, theirs))
        rows.append(Row(label, mine, other))
    return rows


def table(title: str, ann: float, rows: Sequence[Row]) -> Table:
    made = Table(title=f"{title}: accuracy on 1,000 held-out digits at T={STEPS}, %; ANN {100 * ann:.1f}")
    headings = ("mode", "spikec", "SpikingJelly", "difference", "- ANN", "- ANN", "as the ANN", "as the ANN")
    for heading in headings:
        made.add_column(heading, justify="left" if heading == "mode" else "right")
    for row in rows:
        mine, other = row.ours.accuracy, row.theirs.accuracy
        cells = [f"{100 * mine:.1f}", f"{100 * other:.1f}"]
        cells += [f"{100 * difference:+.1f}" for difference in (mine - other, mine - ann, other - ann)]
        cells += [f"{100 * row.ours.agreement:.1f}", f"{100 * row.theirs.agreement:.1f}"]
        made.add_row(row.mode, *cells)
    return made


def main(seeds: Sequence[int]) -> int:
    console = Console(highlight=False, width=120)
    versions = ", ".join(f"{name} {version(name)}" for name in ("spikec", "spikingjelly", "torch"))
    console.print(f"{versions}; Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}")
    data = digits()
    runs: list[list[Row]] = []
    anns: list[float] = []
    for seed in seeds:
        net = trained(data, Training(seed=seed), console=console)
        rows = measure(net, data, track(MODES.items(), f"seed {seed}", console=console))
        anns.append(accuracy(net, data))
        console.print(table(f"seed {seed}", anns[-1], rows))
        runs.append(rows)
    means = [
        Row(column[0].mode, mean([r.ours for r in column]), mean([r.theirs for r in column]))
        for column in zip(*runs, strict=True)
    ]
    console.print(table(f"mean of seeds {', '.join(map(str, seeds))}", sum(anns) / len(anns), means))
    pairs = [row for rows in runs for row in rows]
    ahead = sum(row.ours.accuracy >= row.theirs.accuracy for row in pairs)
    nearer = sum(row.ours.agreement >= row.theirs.agreement for row in pairs)
    console.print(
        f"not below SpikingJelly: {ahead} of {len(pairs)} pairs in accuracy, {nearer} in agreement with the ANN"
    )
    below = [
        f"{row.mode} (seed {seed})"
        for seed, rows in zip(seeds, runs, strict=True)
        for row in rows
        if row.ours.accuracy < row.theirs.accuracy
    ]
    if below:
        console.print(f"spikec is below SpikingJelly in: {', '.join(below)}")
    return 1 if below else 0


def mean(scores: Sequence[Score]) -> Score:
    return Score(*(sum(values) / len(scores) for values in zip(*(attrs.astuple(s) for s in scores), strict=True)))


if __name__ == "__main__":
    sys.exit(main([int(seed) for seed in sys.argv[1:]] or [0, 1, 2]))
