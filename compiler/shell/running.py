"""The commands that run a network: run, evaluate, diagnose."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click
import numpy as np

from spikec.ir.errors import CalibrationError
from spikec.ir.files import replacing
from spikec.shell import inputs, tables
from spikec.shell import options as own
from spikec.shell.options import for_compiler, for_shell, reading
from spikec.shell.readers import foretell

if TYPE_CHECKING:
    from torch import Tensor

    from spikec.compilation import Compilation


def run_command(
    model: Any,
    data: Path,
    timesteps: int | None,
    time_major: bool,
    out: Path,
    own: tuple[tuple[str, Any], ...],
    reader: str | None,
) -> None:
    """Run MODEL, a spiking network, on the inputs in DATA.

    The inputs are constant over time, or say all steps. Each output is written as its average over time, in ANN units.
    """
    from spikec.ir.progress import shown

    if (timesteps is None) != time_major:
        raise click.UsageError("give --timesteps, or --time-major with inputs that say all steps")
    network, xs, _ = inputs.network(model, data, reading(own, reader), time_major=time_major)
    with shown(True):
        results = inputs.simulate(network, xs, timesteps)
    arrays: dict[str, Any] = {name: value.numpy() for name, value in results.items()}
    with replacing(out) as part, part.open("wb") as target:  # numpy would append .npz to a path
        np.savez(target, **arrays)
    shapes = {name: list(value.shape) for name, value in results.items()}
    lines = [f"{name}: {'x'.join(map(str, shape))}" for name, shape in shapes.items()]
    tables.show({"file": str(out), "outputs": shapes}, *lines, f"wrote {out}")


def _compiled(opened: Any, xs: Sequence[Tensor], target: str | None, options: dict[str, Any]) -> Compilation:
    """Compile a model for a target, spikingjelly where none is given; the inputs say its shapes where nothing does."""
    from spikec.driver import Compiler

    if options["calibration"] is None and not options["example_input"]:
        options["example_input"] = tuple(tuple(x.shape[1:]) for x in xs)
    return Compiler(target or "spikingjelly", **for_compiler(opened, **options)).run(opened)


def evaluate_command(model: Any, data: Path, target: str | None, **options: Any) -> None:
    """Say how often MODEL is right after each time-step.

    DATA is an .npz of inputs x and class numbers labels. A spiking network runs as it is. Another model, or any
    with --target, is compiled before: for spikingjelly, if no target is given.
    """
    from spikec.reading import is_netx
    from spikec.running import evaluate

    labels = inputs.read_labels(data)
    if labels is None:
        raise CalibrationError(f"{data} has no array 'labels'", hint="add the class number of each sample: labels")
    network, xs, opened = inputs.network(model, data, reading(options["own"], options["reader"]))
    loader = inputs.labelled(xs, labels)
    spikes = is_netx(network) or network.is_spiking
    found: dict[str, Any] = {"samples": len(labels), "timesteps": options["timesteps"]}
    if not spikes:
        found["ann"] = float(evaluate(network, loader, 1)[0])
    runs = network if spikes and target is None else _compiled(opened, xs, target, options)
    accuracy = evaluate(runs, loader, options["timesteps"], progress=True)
    table = tables.accuracy_table(accuracy, f"{len(labels)} samples", found.get("ann"))
    tables.show({**found, "accuracy": accuracy.tolist()}, table)


def diagnose_command(
    model: Any,
    data: Path | None,
    data_before: Path | None,
    target: str | None,
    tolerance: float,
    plot: Path | None,
    snn: Path | None,
    tool: str | None,
    **options: Any,
) -> None:
    """Say why MODEL is less accurate as a spiking network.

    It says so layer by layer, and what to change. DATA is an .npz of inputs, with class numbers under labels if
    they are known. MODEL is compiled for a target, spikingjelly where none is given, and run for --timesteps steps.

    With --snn it is not compiled: a file that was made of it is run beside it, with --as as a tool runs it.
    """
    from spikec.diagnosis.diagnose import diagnose
    from spikec.reading import find_frontend

    if (data is None) == (data_before is None):
        raise click.UsageError("give DATA once, behind MODEL; --json takes no file: it prints, so send it to one by >")
    given = data or data_before
    assert given is not None
    if snn is not None:
        foretell(model, snn, given, tool, options["timesteps"], options["own"])
        return
    if options["timesteps"] is None or tool is not None:
        missing = "--timesteps" if tool is None else "--snn"
        raise click.UsageError(f"Missing option '{missing}'.")
    read = reading(options["own"], options["reader"])
    frontend, opened = find_frontend(model, inputs.reading(read), read)
    xs = inputs.read_arrays(given, frontend.input_names(opened))
    compilation, labels = _compiled(opened, xs, target, options), inputs.read_labels(given)
    batches = inputs.batches(xs)
    found = diagnose(compilation, batches, options["timesteps"], labels, tolerance=tolerance, progress=True)
    found = attrs.evolve(found, advice=attrs.evolve(found.advice, change=for_shell(found.advice.change)))
    if plot is not None:
        found.plot(plot)
    tables.show(found.to_dict(), str(found))


def add_to(group: click.Group) -> None:
    """Add the commands to a group, in the order of the first help."""
    time_major = click.Option(["--time-major"], is_flag=True, help="The inputs change over time: they are [T, B, ...].")
    tolerance = click.Option(
        ["--tolerance"], type=float, default=0.01, show_default=True, help="Share of samples that may differ."
    )
    before = click.Option(["--data", "data_before"], type=own.EXISTING_FILE, hidden=True)
    plot = click.Option(["--plot"], type=inputs.new_file, metavar="FILE", help="Draw to this PNG, SVG or PDF.")
    data = click.Argument(["data"], type=own.EXISTING_FILE, metavar="DATA", required=False)
    own.command(
        group,
        "run",
        [
            own.model(),
            own.data(),
            own.timesteps(),
            time_major,
            own.output("The .npz to write."),
            own.own("An option of how MODEL is read, such as dt=1e-4."),
            own.reader(),
            own.as_json(),
        ],
        "run net.nir test.npz --timesteps 32 -o out.npz",
        "run net.net events.npz --time-major -o out.npz",
    )(run_command)
    own.command(
        group,
        "evaluate",
        [*own.compiling(target=None, timesteps_required=True, takes=[own.data()]), own.as_json()],
        "evaluate net.nir test.npz --timesteps 32",
        "evaluate net.py:model test.npz --timesteps 8 --target netx",
    )(evaluate_command)
    own.command(
        group,
        "diagnose",
        [
            *own.compiling(target=None, takes=[data]),
            before,
            click.Option(["--snn"], type=own.EXISTING_FILE, metavar="FILE", help="A .nir, .net or .pt made of MODEL."),
            own.tool("--as", "tool", about="Run --snn as a tool does"),
            tolerance,
            plot,
            own.as_json(),
        ],
        "diagnose net.py:model test.npz --timesteps 8 --calibration train.npz",
        "diagnose net.py:model test.npz --timesteps 8 --plot diagnosis.png",
        "diagnose net.py:model test.npz --timesteps 8 --snn net.net",
        "diagnose net.py:model test.npz --snn net.nir --as sinabs",
    )(diagnose_command)
