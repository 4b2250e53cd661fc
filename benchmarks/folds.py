"""Accuracy of spikec and of SpikingJelly at small T: four nets, five folds of real digits."""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import itertools
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

import spikec
from spikec.shell.demo import tutorial_cnn

sys.path.insert(0, str(Path(__file__).parent))  # also where Python is told not to look there
from digits import FOLDS, Fold, digits_mlp, maxpool_cnn, mnist, resnet8, small_digits, trained

try:
    from spikingjelly.activation_based import ann2snn, functional
except ModuleNotFoundError as error:
    sys.exit(
        f"SpikingJelly or a package that it imports is not installed ({error.name}):\n"
        "  pip install loguru requests tqdm && pip install --no-deps spikingjelly==2.0.0 SciencePlots tensorboard"
    )

STEPS = (4, 8, 16, 32)
BATCH = 250


@attrs.frozen
class Net:
    """What is converted, and the floors: (row, T, what, least mean over the folds in %)."""

    make: Callable[[], nn.Module]
    data: Callable[[], list[Fold]]
    epochs: int
    floors: tuple[tuple[str, int, str, float], ...]


TUNED, DOUBLED = "spikec", "spikec, two neurons for each"
#: what rounding alone leaves of those two
WAITING = {each: f"{each}, layer after layer" for each in (TUNED, DOUBLED)}
STREAMED, COMPARING = "spikec, streamed bias", "spikec, max-pools that compare"
NETS = {
    "cnn": Net(
        tutorial_cnn,
        mnist,
        12,
        (
            (TUNED, 4, "difference", -0.6),
            (TUNED, 8, "difference", -0.2),
            (TUNED, 16, "difference", -0.1),
            (TUNED, 16, "agreement", 99.0),
        ),
    ),
    "resnet8": Net(
        resnet8,
        mnist,
        12,
        (
            (TUNED, 16, "difference", -0.3),
            (TUNED, 16, "agreement", 99.0),
            (STREAMED, 8, "difference", -0.3),
        ),
    ),
    "maxpool": Net(maxpool_cnn, mnist, 12, ((COMPARING, 16, "agreement", 98.5), (TUNED, 16, "agreement", 99.0))),
    "mlp": Net(digits_mlp, small_digits, 40, ((DOUBLED, 8, "difference", -0.1),)),
}
#: rows of nets whose agreement must rise with T
RISING = {"maxpool": (TUNED, COMPARING)}


@attrs.frozen
class Score:
    """In %: accuracy minus the ANN's, and the share of test samples with the ANN's class."""

    difference: float
    agreement: float


def classes(net: nn.Module, x: Tensor) -> Tensor:
    """[B] by the ANN."""
    with torch.no_grad():
        return torch.cat([net(batch).argmax(1) for batch in torch.split(x, BATCH)])


def classes_of_module(snn: nn.Module, x: Tensor, steps: Sequence[int]) -> dict[int, Tensor]:
    """[B] by the summed output after each of these numbers of steps; one loop for spikec and SpikingJelly."""
    found: dict[int, list[Tensor]] = {t: [] for t in steps}
    with torch.no_grad():
        for batch in torch.split(x, BATCH):
            functional.reset_net(snn)
            total = torch.zeros(())
            for t in range(1, max(steps) + 1):
                total = total + snn(batch)
                if t in found:
                    found[t].append(total.argmax(1))
    functional.reset_net(snn)
    return {t: torch.cat(parts) for t, parts in found.items()}


def classes_of_file(graph: Any, x: Tensor, steps: int) -> dict[int, Tensor]:
    """[B] by a NIR graph that is read back."""
    back = spikec.load(graph)
    scale = torch.tensor(back.type(back.outputs[0]).scale)
    parts = [(spikec.run(back, batch, steps).sum(0) * scale).argmax(1) for batch in torch.split(x, BATCH)]
    return {steps: torch.cat(parts)}


def classes_of_waiting_layers(snn: Any, x: Tensor, steps: int) -> dict[int, Tensor]:
    """[B] where each layer waits for all steps of the one before it."""
    parts = [spikec.simulate(snn, batch, steps, schedule="layers").answer.argmax(1) for batch in torch.split(x, BATCH)]
    return {steps: torch.cat(parts)}


Found = Iterator[tuple[str, dict[int, Tensor], float]]


def ours(net: nn.Module, fold: Fold, name: str) -> Found:
    """(row, classes by T, seconds to compile): T is given before calibration but in the row that says so."""

    def compiled(target: str, timesteps: int | None, **options: Any) -> tuple[Any, float]:
        started = time.perf_counter()
        result = spikec.compile(net, target, calibration=fold.calibration, timesteps=timesteps, **options)
        return result, time.perf_counter() - started

    for t in STEPS:
        snn, seconds = compiled("spikingjelly", t)
        yield TUNED, classes_of_module(snn, fold.test, [t]), seconds
        yield WAITING[TUNED], classes_of_waiting_layers(snn, fold.test, t), seconds
        snn, seconds = compiled("spikingjelly", t, neurons=2)
        yield DOUBLED, classes_of_module(snn, fold.test, [t]), seconds
        yield WAITING[DOUBLED], classes_of_waiting_layers(snn, fold.test, t), seconds
        graph, seconds = compiled("nir", t)
        yield "spikec, NIR read back", classes_of_file(graph, fold.test, t), seconds
        if name == "resnet8" and t <= 8:
            snn, seconds = compiled("spikingjelly", t, streams=True)
            yield STREAMED, classes_of_module(snn, fold.test, [t]), seconds
        if name == "maxpool":
            snn, seconds = compiled("spikingjelly", t, counters=False)
            yield COMPARING, classes_of_module(snn, fold.test, [t]), seconds
    snn, seconds = compiled("spikingjelly", None)
    yield "spikec, T not given", classes_of_module(snn, fold.test, STEPS), seconds


def theirs(net: nn.Module, fold: Fold, name: str) -> Found:
    """SpikingJelly's recipes on the same weights and calibration data; none of them knows T."""
    data = [(x, torch.zeros(len(x))) for x in fold.calibration]
    channel = {"channel_wise": True, "half_threshold": True, "pre_spike_maxpool": name == "maxpool"}
    recipes = {
        "SpikingJelly, max": ann2snn.RateCodingRecipe(data, mode="max"),
        "SpikingJelly, 99.9 %": ann2snn.RateCodingRecipe(data, mode="99.9%"),
        "SpikingJelly, 1/2": ann2snn.RateCodingRecipe(data, mode=0.5),
        "SpikingJelly, 99.9 %, channel-wise, half threshold": ann2snn.RateCodingRecipe(data, mode="99.9%", **channel),
        "SpikingJelly, LTB": ann2snn.LocalThresholdBalancingRecipe(data),
    }
    for row, recipe in recipes.items():
        started = time.perf_counter()
        with contextlib.redirect_stderr(io.StringIO()):
            snn = ann2snn.FXConverter(recipe=recipe).convert(copy.deepcopy(net))
        seconds = time.perf_counter() - started
        yield row, classes_of_module(snn, fold.test, STEPS), seconds


@attrs.define
class Row:
    """What one conversion reached, fold by fold."""

    scores: dict[int, list[Score]] = attrs.field(factory=dict)
    seconds: list[float] = attrs.field(factory=list)

    def mean(self, steps: int, what: str) -> tuple[float, float]:
        """(mean, standard error) over the folds."""
        values = np.array([getattr(score, what) for score in self.scores[steps]])
        return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def measure(name: str, numbers: Sequence[int], console: Console) -> tuple[list[float], dict[str, Row]]:
    """(accuracy of the ANN by fold, rows)."""
    net, rows, anns = NETS[name], {}, []
    data = net.data()
    for number in track(numbers, name, console=console):
        fold = data[number]
        ann = trained(net.make, fold, number, net.epochs)
        said = classes(ann, fold.test)
        right = 100 * float((said == fold.test_labels).double().mean())
        anns.append(right)
        for label, by_steps, seconds in itertools.chain(ours(ann, fold, name), theirs(ann, fold, name)):
            row = rows.setdefault(label, Row())
            row.seconds.append(seconds)
            for t, got in by_steps.items():
                hits, agreed = (100 * float((got == wanted).double().mean()) for wanted in (fold.test_labels, said))
                row.scores.setdefault(t, []).append(Score(hits - right, agreed))
    return anns, rows


def table(name: str, anns: Sequence[float], rows: dict[str, Row]) -> Table:
    """Means over the folds with their standard errors."""
    made = Table(
        title=f"{name}: accuracy minus the ANN's ({np.mean(anns):.2f} %), agreement with it; {len(anns)} folds"
    )
    for heading in ("", *(f"T={t}" for t in STEPS), "compile"):
        made.add_column(heading, justify="right" if heading else "left")
    for label, row in rows.items():
        cells = []
        for t in STEPS:
            if t in row.scores:
                (gain, wide), (agreed, _) = row.mean(t, "difference"), row.mean(t, "agreement")
                cells.append(f"{gain:+.2f} ± {wide:.2f}, {agreed:.2f}")
            else:
                cells.append("")
        made.add_row(label, *cells, f"{np.mean(row.seconds):.1f} s")
    return made


def missed(name: str, rows: dict[str, Row]) -> list[str]:
    """Every floor that is not reached, and every agreement that falls with T."""
    found = []
    for label, steps, what, floor in NETS[name].floors:
        value, _ = rows[label].mean(steps, what)
        if value < floor:
            found.append(f"{name}, {label}, T={steps}: {what} {value:.2f}, the floor is {floor}")
    for label in RISING.get(name, ()):
        values = [rows[label].mean(t, "agreement")[0] for t in STEPS]
        if values != sorted(values):
            found.append(f"{name}, {label}: agreement {', '.join(f'{v:.2f}' for v in values)} does not rise with T")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("nets", nargs="*", help=f"of {', '.join(NETS)}; all by default")
    parser.add_argument("--folds", type=int, nargs="+", default=list(range(FOLDS)), help="numbers of folds")
    options = parser.parse_args()
    warnings.simplefilter("ignore", spikec.SpikecWarning)
    console = Console(highlight=False, width=140)
    versions = ", ".join(f"{each} {version(each)}" for each in ("spikec", "spikingjelly", "torch"))
    console.print(f"{versions}; Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}")
    below = []
    for name in options.nets or NETS:
        anns, rows = measure(name, options.folds, console)
        console.print(table(name, anns, rows))
        below += missed(name, rows)
    for line in below:
        console.print(f"missed: {line}")
    return 1 if below else 0


if __name__ == "__main__":
    sys.exit(main())
